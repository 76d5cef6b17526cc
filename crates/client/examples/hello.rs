//! Adds a greeting to a document that all participants share.
//!
//! ```console
//! $ meshagent room connect --room my-room --identity ann -- \
//!     cargo run -p meshagent-client --example hello
//! ```

#![allow(clippy::print_stdout, reason = "it talks to people")]

use std::error::Error;

use meshagent_client::RoomClient;
use meshagent_document::Target;
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let room = RoomClient::from_env().await?;
    println!("connected to room: {}", room.room_name());
    println!("{}", say_hello(&room).await?);
    room.close().await;
    Ok(())
}

/// Adds a greeting, and returns the document after it.
pub(crate) async fn say_hello(room: &RoomClient) -> Result<serde_json::Value, Box<dyn Error>> {
    let document = room.sync().open("hello-world.document").await?;
    let greeting = json!({ "body": { "text": "hello world!" } });
    document.edit(|d| d.append_child(Target::Root, greeting))??;
    // Now the edit is on the server's disk, and other participants receive it.
    document.saved().await?;
    Ok(document.to_json())
}
