//! `meshagent room sync ls`.

use anyhow::Context as _;
use clap::Args;
use meshagent_client::Connection;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::failure;
use crate::output::{Layout, Output};
use crate::room::entries::{self, Found};
use crate::room::session::RoomArgs;

/// List documents
///
/// Prints all paths of documents that begin with the prefix, in nested folders, too. Files are
/// not listed.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  meshagent room sync ls --room my-room
  meshagent room sync ls --room my-room notes --long
  meshagent room sync ls --room my-room .threads --json | jq -r .path")]
pub(super) struct LsArgs {
    /// Folder, document, or prefix of their paths [default: the whole room]
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,

    /// Show the stored size in bytes and the time of the last change
    #[arg(long, short)]
    long: bool,

    /// Print one line of JSON per document
    #[arg(long, conflicts_with = "long")]
    json: bool,

    #[command(flatten)]
    room: RoomArgs,
}

pub(super) async fn run(args: &LsArgs, output: &Output) -> anyhow::Result<()> {
    let prefix = entries::normalized(&args.prefix)?;
    let room = args.room.connect().await?;
    let is_of_folder = entries::is_of_folder(&args.prefix);
    let documents = documents(&room, &prefix, is_of_folder).await?;
    if documents.is_empty() && !prefix.is_empty() {
        return Err(entries::missing(&prefix).into());
    }
    for found in documents {
        if args.json {
            let mut json = found.to_json();
            if let Value::Object(fields) = &mut json {
                fields.shift_remove("is_folder");
            }
            output.json(&json, Layout::Compact)?;
        } else if args.long {
            output.line(&format!("{}  {}", found.columns(), found.path))?;
        } else {
            output.line(&found.path)?;
        }
    }
    Ok(())
}

async fn documents(
    room: &Connection,
    prefix: &str,
    is_of_folder: bool,
) -> anyhow::Result<Vec<Found>> {
    let mut found = match room.storage().stat(prefix).await {
        Ok(Some(entry)) if !entry.is_folder => {
            let mut found = Vec::new();
            if !is_of_folder {
                found.push(Found {
                    path: prefix.to_owned(),
                    entry,
                });
            }
            // A folder may have the same path.
            if entries::content(room, prefix).await?.is_some() {
                found.extend(entries::walk(room, prefix).await?);
            }
            found
        }
        Ok(Some(_folder)) => entries::walk(room, prefix).await?,
        Ok(None) if is_of_folder => Vec::new(),
        Ok(None) => {
            let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
            let mut found = Vec::new();
            for entry in entries::list(room, folder).await? {
                if entry.path.starts_with(prefix) {
                    let below = if entry.entry.is_folder {
                        entries::walk(room, &entry.path).await?
                    } else {
                        Vec::new()
                    };
                    found.push(entry);
                    found.extend(below);
                }
            }
            found
        }
        Err(error) => {
            return Err(failure::of_call(
                format!("can't look up {}", entries::named(prefix)),
                error,
            )
            .into());
        }
    };
    found.retain(|found| !found.entry.is_folder);
    only_documents(room, found).await
}

/// Removes files from the list. The requests are concurrent, because each takes a round trip.
async fn only_documents(room: &Connection, found: Vec<Found>) -> anyhow::Result<Vec<Found>> {
    let mut requests = JoinSet::new();
    let mut documents = Vec::new();
    let mut rest = found.into_iter();
    loop {
        while requests.len() < CONCURRENT_REQUESTS {
            let Some(found) = rest.next() else { break };
            let room = room.clone();
            requests.spawn(async move {
                let is_document = entries::is_document(&room, &found.path).await?;
                anyhow::Ok(is_document.then_some(found))
            });
        }
        match requests.join_next().await {
            Some(response) => documents.extend(response.context("can't look up entries")??),
            None => break,
        }
    }
    documents.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(documents)
}

/// Maximum number of concurrent requests.
const CONCURRENT_REQUESTS: usize = 32;
