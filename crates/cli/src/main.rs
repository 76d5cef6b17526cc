//! The `meshagent` command: reads arguments and the environment, calls the libraries, and prints.

#![allow(
    clippy::doc_markdown,
    reason = "the doc comments of arguments are help texts, where backticks would be printed"
)]

mod allocator;
mod completions;
mod descriptors;
mod failure;
mod keyfile;
mod local_file;
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

/// The output of `--version`. The published Python package has a command of the same name.
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (room server and tools, not the Python package)"
);

/// Room server for live documents, with command-line tools
///
/// The Python package meshagent-cli has a command of the same name; this one is another program.
/// `meshagent --version` shows which one is installed.
#[derive(Debug, Parser)]
#[command(name = "meshagent", version = VERSION, arg_required_else_help = true)]
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
    let cli = Cli::try_parse().unwrap_or_else(|error| exit_with(&with_tips(error)));
    match &cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Token(args) => token::run(args),
        Command::Room(command) => room::run(command),
        Command::Completions(args) => completions::run(args, Cli::command()),
        Command::Man(args) => man::run(args, Cli::command()),
    }
}

/// Prints help, the version or an error, and ends the process; with code 2 if the arguments
/// are invalid.
///
/// Errors quote arguments, which a script may have read from a room, and help quotes the
/// environment, so control characters are escaped.
fn exit_with(error: &clap::Error) -> ! {
    // The rendered text can't be checked: clap removes whole control sequences from it.
    let has_control = |text: &OsStr| text.to_string_lossy().contains(terminal::is_control);
    let environment = std::env::vars_os()
        .filter(|(name, _)| name.to_string_lossy().starts_with("MESHAGENT_"))
        .map(|(_, value)| value);
    let mut quoted = std::env::args_os().chain(environment);
    let is_plain = !quoted.any(|text| has_control(&text));
    let text = error.render().to_string();
    if !error.use_stderr() {
        std::process::exit(print_help(error, &text, is_plain))
    }
    if is_plain {
        error.exit()
    }
    terminal::print_stderr(text.trim_end());
    std::process::exit(error.exit_code())
}

/// Prints help or the version, and returns the exit code. Clap itself ignores a full disk.
fn print_help(help: &clap::Error, text: &str, is_plain: bool) -> i32 {
    let printed = if is_plain {
        help.print()
    } else {
        writeln!(io::stdout(), "{}", terminal::lines(text.trim_end()))
    };
    match printed.and_then(|()| io::stdout().flush()) {
        Ok(()) => 0,
        // The reader has closed the pipe, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(error) => {
            terminal::print_stderr(&format!("error: can't write to stdout: {error}"));
            1
        }
    }
}

/// Adds the tips that clap does not know.
fn with_tips(mut error: clap::Error) -> clap::Error {
    name_variable(&mut error);
    let tips = match error.kind() {
        ErrorKind::InvalidSubcommand => nested_commands(&error),
        ErrorKind::MissingRequiredArgument => missing_room(&error),
        ErrorKind::ValueValidation => port_alone(&error),
        _ => Vec::new(),
    };
    if !tips.is_empty() {
        // The similar name that clap suggests is a guess, and these tips are not.
        error.remove(ContextKind::SuggestedSubcommand);
        let tips = tips.into_iter().map(StyledStr::from).collect();
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
    }
    error
}

/// The full names of commands of which only the last word was typed.
fn nested_commands(error: &clap::Error) -> Vec<String> {
    let Some(ContextValue::String(typed)) = error.get(ContextKind::InvalidSubcommand) else {
        return Vec::new();
    };
    let mut tips = Vec::new();
    let mut commands = vec![("meshagent".to_owned(), Cli::command())];
    while let Some((path, command)) = commands.pop() {
        for nested in command.get_subcommands() {
            let path = format!("{path} {}", nested.get_name());
            if nested.get_name() == typed {
                tips.push(format!("did you mean '{path}'?"));
            }
            commands.push((path, nested.clone()));
        }
    }
    tips.sort();
    tips
}

/// Names the variable, not the flag, if the invalid value comes from the environment.
fn name_variable(error: &mut clap::Error) {
    let is_given = std::env::args_os()
        .take_while(|argument| argument != "--")
        .any(|argument| argument == "--room" || argument.to_string_lossy().starts_with("--room="));
    let is_room = matches!(
        error.get(ContextKind::InvalidArg),
        Some(ContextValue::String(flag)) if flag.starts_with("--room ")
    );
    if is_room && !is_given {
        let variable = ContextValue::String("MESHAGENT_ROOM".to_owned());
        error.insert(ContextKind::InvalidArg, variable);
    }
}

/// The environment may name the room, too.
fn missing_room(error: &clap::Error) -> Vec<String> {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(flags))
            if flags.iter().any(|flag| flag.starts_with("--room ")) =>
        {
            vec!["pass '--room <NAME>', or set MESHAGENT_ROOM".to_owned()]
        }
        _ => Vec::new(),
    }
}

/// The address to listen on, if only its port was given.
fn port_alone(error: &clap::Error) -> Vec<String> {
    match (
        error.get(ContextKind::InvalidArg),
        error.get(ContextKind::InvalidValue),
    ) {
        (Some(ContextValue::String(flag)), Some(ContextValue::String(value)))
            if flag.starts_with("--listen ") =>
        {
            let port = value.strip_prefix(':').unwrap_or(value).parse::<u16>();
            let tip = port.map(|port| format!("use '--listen 127.0.0.1:{port}'"));
            tip.into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// Prints an error with its causes and hints on stderr, and returns the exit code.
fn report(error: &anyhow::Error) -> ExitCode {
    let is_silent = error
        .downcast_ref::<Failure>()
        .is_some_and(Failure::is_silent);
    if !is_silent {
        terminal::print_stderr(&format!("error: {error:#}"));
    }
    let failures = || {
        error
            .chain()
            .filter_map(|cause| cause.downcast_ref::<Failure>())
    };
    for hint in failures().filter_map(Failure::hint) {
        terminal::print_stderr(&format!("hint: {hint}"));
    }
    failures()
        .find_map(Failure::exit_code)
        .map_or(ExitCode::FAILURE, ExitCode::from)
}
