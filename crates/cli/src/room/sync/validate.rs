//! `meshagent room sync validate`, which needs no server.

use std::path::PathBuf;

use clap::Args;

use crate::failure;
use crate::output::Output;
use crate::room::input;

/// Check JSON against a schema, without a server
///
/// Each place that does not fit is listed by its JSON pointer.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  meshagent room sync validate plan.json --schema plan.schema.json")]
pub(super) struct ValidateArgs {
    /// The JSON; `-` reads stdin
    file: PathBuf,

    /// File with the schema; `-` reads stdin
    #[arg(long, value_name = "FILE")]
    schema: PathBuf,
}

pub(super) fn run(args: &ValidateArgs, output: &Output) -> anyhow::Result<()> {
    input::at_most_one_stdin(&args.file, Some(&args.schema))?;
    let (schema, _) = input::read_schema(&args.schema)?;
    let json = input::read_json(&args.file)?;
    let violations = schema.validate(&json);
    let name = input::name(&args.file);
    if violations.is_empty() {
        output.done(&format!("{name} fits the schema"))
    } else {
        Err(failure::of_violations(&name, &violations).into())
    }
}
