//! The `meshagent` command: reads arguments and environment, picks the store, prints. What it does lives in the
//! libraries.

#![allow(
    clippy::doc_markdown,
    reason = "the doc comments of arguments are printed as their help, where backticks would stand out"
)]

mod allocator;
mod completions;
mod descriptors;
mod failure;
mod keyfile;
mod log;
mod man;
mod output;
mod private_file;
mod room;
mod scope;
mod serve;
mod server_file;
mod settings;
mod token;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, Parser, Subcommand};

use crate::completions::Shortcut;
use crate::failure::Failure;
use crate::output::{StdoutClosed, terminal};

/// A room server for live documents, and the tools around it
#[derive(Debug, Parser)]
#[command(name = "meshagent", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::ServeArgs>),
    Token(token::TokenArgs),
    #[command(subcommand)]
    Room(Box<room::RoomCommand>),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let result = match Shortcut::find(&arguments, &Cli::command()) {
        Some(shortcut) => shortcut.run(Cli::command()),
        None => run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<StdoutClosed>() => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

fn run() -> anyhow::Result<()> {
    // Ends the process with code 2 if the arguments make no sense.
    let cli = Cli::try_parse().unwrap_or_else(|error| refuse_arguments(&with_tip(error)));
    match &cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Token(args) => token::run(args),
        Command::Room(command) => room::run(command),
        Command::Completions(args) => completions::run(args, Cli::command()),
        Command::Man(args) => man::run(args, Cli::command()),
    }
}

/// Ends the process. Arguments may come from a room, by a script, and are repeated to the person; help repeats the
/// environment.
fn refuse_arguments(error: &clap::Error) -> ! {
    // The text itself does not tell: as a string, clap takes whole control sequences out of it.
    let has_control = |text: &OsStr| text.to_string_lossy().contains(terminal::is_control);
    let environment = std::env::vars_os()
        .filter(|(name, _)| name.to_string_lossy().starts_with("MESHAGENT_"))
        .map(|(_, value)| value);
    let mut repeated = std::env::args_os().chain(environment);
    let is_plain = !repeated.any(|text| has_control(&text));
    let text = error.render().to_string();
    if !error.use_stderr() {
        std::process::exit(print_help(error, &text, is_plain))
    }
    if is_plain {
        error.exit()
    }
    terminal::say(text.trim_end());
    std::process::exit(error.exit_code())
}

/// Prints help, or the version; the exit code. Clap itself takes no notice of a disk that is full.
fn print_help(help: &clap::Error, text: &str, is_plain: bool) -> i32 {
    let printed = if is_plain {
        help.print()
    } else {
        writeln!(io::stdout(), "{}", terminal::lines(text.trim_end()))
    };
    match printed.and_then(|()| io::stdout().flush()) {
        Ok(()) => 0,
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(error) => {
            terminal::say(&format!("error: writing to stdout: {error}"));
            1
        }
    }
}

/// What clap does not say: that the environment may name the room.
fn with_tip(mut error: clap::Error) -> clap::Error {
    let is_room = |missing: &ContextValue| match missing {
        ContextValue::Strings(flags) => flags.iter().any(|flag| flag.starts_with("--room ")),
        _ => false,
    };
    if error.kind() == ErrorKind::MissingRequiredArgument
        && error.get(ContextKind::InvalidArg).is_some_and(is_room)
    {
        let tip = StyledStr::from("name the room by '--room', or in MESHAGENT_ROOM");
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
    error
}

/// Says on stderr what went wrong, with its causes, and what to do about it.
fn report(error: &anyhow::Error) -> ExitCode {
    let is_silent = error
        .downcast_ref::<Failure>()
        .is_some_and(Failure::is_silent);
    if !is_silent {
        // With stderr closed, the exit code is all that is left to say.
        terminal::say(&format!("error: {error:#}"));
    }
    let failures = || {
        error
            .chain()
            .filter_map(|cause| cause.downcast_ref::<Failure>())
    };
    for hint in failures().filter_map(Failure::hint) {
        terminal::say(&format!("hint: {hint}"));
    }
    failures()
        .find_map(Failure::exit_code)
        .map_or(ExitCode::FAILURE, ExitCode::from)
}
