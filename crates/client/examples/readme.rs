//! Writes a line into a document and prints the document; the README shows this program.
//!
//! ```console
//! $ meshagent room connect --room my-room --identity me -- \
//!     cargo run -p meshagent-client --example readme
//! ```

#![allow(clippy::print_stdout, reason = "it talks to people")]

use std::error::Error;

use meshagent_client::RoomClient;
use meshagent_document::Target;
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let room = RoomClient::from_env().await?;
    let document = room.sync().open("hello.document").await?;
    let body = json!({ "body": { "text": "hello from Rust" } });
    document.edit(|d| d.append_child(Target::Root, body))??;
    // Now the edit is on the server's disk, and other participants receive it.
    document.saved().await?;
    println!("{}", document.to_json());
    room.close().await;
    Ok(())
}
