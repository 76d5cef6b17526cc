//! `meshagent completions`: what a shell needs to complete commands and flags.

use clap::Args;
use clap_complete::Shell;

use crate::output::{Output, OutputArgs};

/// Print the completions for a shell
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
/// If stdout can't be written to.
pub(crate) fn run(args: &CompletionsArgs, mut command: clap::Command) -> anyhow::Result<()> {
    let output = Output::new(&args.output)?;
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "meshagent", &mut script);
    output.bytes(&script)
}
