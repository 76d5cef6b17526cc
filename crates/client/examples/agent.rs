//! An agent that writes the answer of a language model into a document while people edit it.
//!
//! ```console
//! $ meshagent room connect --room my-room --identity agent -- \
//!     cargo run -p meshagent-client --example agent -- schema plan.document  # for the prompt
//! $ meshagent room connect --room my-room --identity agent -- \
//!     cargo run -p meshagent-client --example agent -- fill plan.document < answer.json
//! ```
//!
//! The answer is the whole document as JSON. Only the differences are applied, so cursors and
//! concurrent edits elsewhere in the document stay. Violations of the schema are reported, so that
//! the model can try again.

#![allow(clippy::print_stdout, reason = "it talks to people")]

use std::error::Error;

use meshagent_client::RoomClient;
use serde_json::Value;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let room = RoomClient::from_env().await?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["schema", path] => {
            let document = room.sync().open(path).await?;
            println!("{:#}", document.read(|d| d.schema().to_json_schema())?);
        }
        ["fill", path] => {
            let answer = serde_json::from_reader(std::io::stdin())?;
            let is_changed = fill(&room, path, &answer).await?;
            println!(
                "{}",
                if is_changed {
                    "written"
                } else {
                    "nothing to change"
                }
            );
        }
        _ => return Err("usage: agent schema PATH | agent fill PATH < answer.json".into()),
    }
    room.close().await;
    Ok(())
}

/// Makes a document equal to the answer. Returns whether anything changed.
pub(crate) async fn fill(
    room: &RoomClient,
    path: &str,
    answer: &Value,
) -> Result<bool, Box<dyn Error>> {
    let document = room.sync().open(path).await?;
    let is_changed = document.edit(|d| d.replace_json(answer))??;
    document.saved().await?;
    Ok(is_changed)
}
