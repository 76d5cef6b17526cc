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
/// Prints the paths of all documents that begin with the prefix, in folders of folders, too; files are not listed.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  meshagent room sync ls --room my-room
  meshagent room sync ls --room my-room notes --long
  meshagent room sync ls --room my-room .threads --json | jq -r .path")]
pub(super) struct LsArgs {
    /// A folder, a document, or what their paths begin with [default: the whole room]
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,

    /// Show how many bytes are stored, and when the document was last changed
    #[arg(long, short)]
    long: bool,

    /// Print a JSON object for each document, one on each line
    #[arg(long, conflicts_with = "long")]
    json: bool,

    #[command(flatten)]
    room: RoomArgs,
}

pub(super) async fn run(args: &LsArgs, output: &Output) -> anyhow::Result<()> {
    let prefix = entries::normalized(&args.prefix)?;
    let room = args.room.connect().await?;
    let documents = documents(&room, &prefix).await?;
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

async fn documents(room: &Connection, prefix: &str) -> anyhow::Result<Vec<Found>> {
    let mut found = match room.storage().stat(prefix).await {
        Ok(Some(entry)) if !entry.is_folder => vec![Found {
            path: prefix.to_owned(),
            entry,
        }],
        Ok(Some(_folder)) => entries::walk(room, prefix).await?,
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
                format!("can't look at {}", entries::named(prefix)),
                error,
            )
            .into());
        }
    };
    found.retain(|found| !found.entry.is_folder);
    only_documents(room, found).await
}

/// Takes out the files. Several are asked for at once, since each answer is a way to the server and back.
async fn only_documents(room: &Connection, found: Vec<Found>) -> anyhow::Result<Vec<Found>> {
    let mut questions = JoinSet::new();
    let mut documents = Vec::new();
    let mut rest = found.into_iter();
    loop {
        while questions.len() < QUESTIONS {
            let Some(found) = rest.next() else { break };
            let room = room.clone();
            questions.spawn(async move {
                let is_document = entries::is_document(&room, &found.path).await?;
                anyhow::Ok(is_document.then_some(found))
            });
        }
        match questions.join_next().await {
            Some(answer) => documents.extend(answer.context("asking the server")??),
            None => break,
        }
    }
    documents.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(documents)
}

/// How many questions to the server are under way at once.
const QUESTIONS: usize = 32;
