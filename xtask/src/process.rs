//! Starts other programs, each within a time limit.

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::workspace_root;

/// Returns `cargo` with these arguments, in the workspace.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(workspace_root());
    command
}

/// Runs the command with our terminal; an exit code other than 0 or a timeout is an error.
pub(crate) fn run(mut command: Command, limit: Duration) -> Result<()> {
    let line = describe(&command);
    println!("xtask: {line}");
    let mut child = command
        .spawn()
        .with_context(|| format!("starting {line}"))?;
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "{line} ended with {status}");
            return Ok(());
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("{line} took more than {} s", limit.as_secs());
        }
        sleep(Duration::from_millis(50));
    }
}

/// Returns the output of a program; an exit code other than 0 is an error.
pub(crate) fn capture(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .current_dir(workspace_root())
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {} ended with {}",
        args.join(" "),
        output.status
    );
    String::from_utf8(output.stdout).with_context(|| format!("reading the output of {program}"))
}

fn describe(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    let mut line = name.to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}
