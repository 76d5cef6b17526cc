//! What is printed on stdout: messages, lines, JSON; with colour on a terminal, quiet about a closed pipe.

mod json;
pub(crate) mod terminal;

use std::io::{self, IsTerminal as _, Write as _};

use clap::{Args, ValueEnum};
use serde_json::Value;
use thiserror::Error;

use crate::settings;

pub(crate) use json::Layout;

/// Clap would put flags of all commands in the middle of a command's own.
const GLOBAL: &str = "Global options";

/// Flags of the commands that print.
#[derive(Args, Debug, Default)]
pub(crate) struct OutputArgs {
    /// Print only what was asked for, no messages of success
    #[arg(long, global = true, help_heading = GLOBAL)]
    quiet: bool,

    /// When to colour; `auto` is on a terminal, unless NO_COLOR is set
    #[arg(
        long,
        global = true,
        help_heading = GLOBAL,
        value_enum,
        value_name = "WHEN",
        default_value_t = Color::Auto
    )]
    color: Color,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Color {
    Always,
    #[default]
    Auto,
    Never,
}

/// Flags of the commands that print JSON.
#[derive(Args, Debug)]
pub(crate) struct LayoutArgs {
    /// Print JSON over several lines; the default
    #[arg(long, overrides_with = "compact")]
    pretty: bool,

    /// Print JSON on one line
    #[arg(long, overrides_with = "pretty")]
    compact: bool,
}

impl LayoutArgs {
    pub(crate) fn layout(&self) -> Layout {
        if self.compact {
            Layout::Compact
        } else {
            Layout::Pretty
        }
    }
}

/// Nobody reads our stdout any more, as after `| head -1`. The command ends, and that is no failure.
#[derive(Debug, Error)]
#[error("stdout is closed")]
pub(crate) struct StdoutClosed;

/// Stdout, as a command is to use it.
#[derive(Debug)]
pub(crate) struct Output {
    is_quiet: bool,
    is_colored: bool,
    is_terminal: bool,
}

impl Output {
    pub(crate) fn new(args: &OutputArgs) -> anyhow::Result<Self> {
        let is_terminal = io::stdout().is_terminal();
        let is_colored = match args.color {
            Color::Always => true,
            Color::Auto => is_terminal && settings::variable("NO_COLOR")?.is_none(),
            Color::Never => false,
        };
        Ok(Self {
            is_quiet: args.quiet,
            is_colored,
            is_terminal,
        })
    }

    /// Whether nothing but what was asked for is to be printed.
    pub(crate) fn is_quiet(&self) -> bool {
        self.is_quiet
    }

    /// Says that something was done.
    pub(crate) fn done(&self, text: &str) -> anyhow::Result<()> {
        if self.is_quiet {
            Ok(())
        } else if self.is_colored {
            let text = terminal::one_line(text);
            write(format!("\x1b[32m{text}\x1b[0m\n").as_bytes())
        } else {
            self.line(text)
        }
    }

    /// A line of what was asked for. Scripts get it as it is.
    pub(crate) fn line(&self, text: &str) -> anyhow::Result<()> {
        let text = if self.is_terminal {
            terminal::one_line(text)
        } else {
            text.into()
        };
        write(format!("{text}\n").as_bytes())
    }

    /// What was asked for, as JSON that is written already.
    pub(crate) fn json_text(&self, text: &str) -> anyhow::Result<()> {
        let text = if self.is_terminal {
            terminal::json(text)
        } else {
            text.into()
        };
        write(format!("{text}\n").as_bytes())
    }

    /// What was asked for as JSON, as the published command prints it. People read letters rather than their
    /// numbers, so on a terminal these stay.
    pub(crate) fn json(&self, value: &Value, layout: Layout) -> anyhow::Result<()> {
        let text = json::text(value, layout, !self.is_terminal, self.is_colored);
        write(format!("{text}\n").as_bytes())
    }

    /// The file that was asked for. On a terminal, so that it can be looked at.
    pub(crate) fn file(&self, bytes: &[u8]) -> anyhow::Result<()> {
        if self.is_terminal {
            write(terminal::file(bytes).as_bytes())
        } else {
            write(bytes)
        }
    }
}

fn write(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => StdoutClosed.into(),
        _ => anyhow::Error::new(error).context("writing to stdout"),
    })
}
