//! Output on stdout: messages, lines and JSON, coloured on a terminal. A closed pipe is ignored.

mod json;
pub(crate) mod terminal;

use std::io::{self, IsTerminal as _, Write as _};

use clap::{Args, ValueEnum};
use serde_json::Value;
use thiserror::Error;

use crate::settings;

pub(crate) use json::Layout;

/// A heading of its own, because clap would mix global flags with those of the command.
const GLOBAL: &str = "Global options";

/// Flags of the commands that print.
#[derive(Args, Debug, Default)]
pub(crate) struct OutputArgs {
    /// Print only results, no messages of success
    #[arg(long, global = true, help_heading = GLOBAL)]
    quiet: bool,

    /// When to colour output; `auto`: on a terminal, unless NO_COLOR is set
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
    /// Print JSON on several lines (the default)
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

/// The reader has closed stdout, as `| head -1` does. The command ends with code 0.
#[derive(Debug, Error)]
#[error("stdout is closed")]
pub(crate) struct StdoutClosed;

/// Stdout with the flags that apply to it.
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

    /// Whether only results are printed.
    pub(crate) fn is_quiet(&self) -> bool {
        self.is_quiet
    }

    /// Prints a message of success.
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

    /// Prints a line of the result; without a terminal, it is not escaped.
    pub(crate) fn line(&self, text: &str) -> anyhow::Result<()> {
        let text = if self.is_terminal {
            terminal::one_line(text)
        } else {
            text.into()
        };
        write(format!("{text}\n").as_bytes())
    }

    /// Prints a result that is JSON text already.
    pub(crate) fn json_text(&self, text: &str) -> anyhow::Result<()> {
        let text = if self.is_terminal {
            terminal::json(text)
        } else {
            text.into()
        };
        write(format!("{text}\n").as_bytes())
    }

    /// Prints a result as JSON, in the format of the published command. On a terminal, characters
    /// beyond ASCII are not escaped.
    pub(crate) fn json(&self, value: &Value, layout: Layout) -> anyhow::Result<()> {
        let text = json::text(value, layout, !self.is_terminal, self.is_colored);
        write(format!("{text}\n").as_bytes())
    }

    /// Prints the content of a file; on a terminal, control characters and invalid bytes
    /// are escaped.
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
        _ => anyhow::Error::new(error).context("can't write to stdout"),
    })
}
