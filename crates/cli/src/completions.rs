//! `meshagent completions`: prints or installs shell completions.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;

use crate::failure::{Failure, USAGE};
use crate::local_file;
use crate::output::{Output, OutputArgs};
use crate::room::input::unwritable;
use crate::settings;

/// Print completions for a shell
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  source <(meshagent completions bash)          # in ~/.bashrc
  meshagent completions zsh > ~/.zfunc/_meshagent
  meshagent completions fish > ~/.config/fish/completions/meshagent.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,

    #[command(flatten)]
    output: OutputArgs,
}

/// # Errors
/// If writing to stdout fails.
pub(crate) fn run(args: &CompletionsArgs, command: Command) -> anyhow::Result<()> {
    Output::new(&args.output)?.file(&script(args.shell, command))
}

fn script(shell: Shell, mut command: Command) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "meshagent", &mut script);
    script
}

/// Flags that the published command accepts after most of its commands, instead of all others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Shortcut {
    Install,
    Show,
}

impl Shortcut {
    /// Finds the flag in the program's arguments, if only names of commands precede it.
    pub(crate) fn find(arguments: &[OsString], command: &Command) -> Option<Self> {
        let (last, names) = arguments.split_last()?;
        let shortcut = match last.to_str()? {
            "--install-completion" => Self::Install,
            "--show-completion" => Self::Show,
            _ => return None,
        };
        let mut at = command;
        for name in names {
            at = at.find_subcommand(name)?;
        }
        // Arguments of `connect` may belong to the program that it runs.
        (at.get_name() != "connect").then_some(shortcut)
    }

    /// # Errors
    /// If the shell is unknown, or its files can't be written to.
    pub(crate) fn run(self, command: Command) -> anyhow::Result<()> {
        let shell = Shell::from_env().ok_or_else(|| {
            Failure::new(match settings::variable("SHELL") {
                Ok(Some(shell)) => format!("the shell {shell:?} (from SHELL) is not supported"),
                _ => "can't tell the shell: SHELL is not set to one".to_owned(),
            })
            .with_exit_code(USAGE)
            .with_hint("`meshagent completions SHELL` prints the completions for a shell")
        })?;
        let script = script(shell, command);
        let output = Output::new(&OutputArgs::default())?;
        if self == Self::Show {
            return output.file(&script);
        }
        let path = install(shell, &script)?;
        output.done(&format!(
            "{shell} completion installed in {}",
            path.display()
        ))?;
        output.line("Completion will take effect once you restart the terminal")
    }
}

/// Installs the script in place of the published command's, and makes the shell load it.
fn install(shell: Shell, script: &[u8]) -> anyhow::Result<PathBuf> {
    let home = settings::variable("HOME")?.ok_or_else(|| {
        Failure::new("can't install completions: HOME is not set")
            .with_exit_code(USAGE)
            .with_hint("`meshagent completions SHELL` prints them")
    })?;
    let home = PathBuf::from(home);
    let (path, start) = match shell {
        Shell::Bash => {
            let path = home.join(".bash_completions/meshagent.sh");
            let line = format!("source '{}'", path.display());
            (path, Some((home.join(".bashrc"), line)))
        }
        Shell::Fish => (home.join(".config/fish/completions/meshagent.fish"), None),
        Shell::Zsh => {
            let line = "fpath+=~/.zfunc; autoload -Uz compinit; compinit".to_owned();
            (
                home.join(".zfunc/_meshagent"),
                Some((home.join(".zshrc"), line)),
            )
        }
        _ => {
            let failure = Failure::new(format!("completions for {shell} can't be installed"))
                .with_exit_code(USAGE)
                .with_hint(format!("`meshagent completions {shell}` prints them"));
            return Err(failure.into());
        }
    };
    let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
    let written = folder.and_then(|()| local_file::write(&path, script));
    written.map_err(|error| unwritable(&path, error))?;
    if let Some((file, line)) = start {
        add_line(&file, &line).map_err(|error| unwritable(&file, error))?;
    }
    Ok(path)
}

/// Adds a line to a file, unless the file contains it.
fn add_line(path: &Path, line: &str) -> io::Result<()> {
    let text = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    if text
        .split(|&byte| byte == b'\n')
        .any(|there| there == line.as_bytes())
    {
        return Ok(());
    }
    let begin = if text.ends_with(b"\n") || text.is_empty() {
        ""
    } else {
        "\n"
    };
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    file.write_all(format!("{begin}{line}\n").as_bytes())
}
