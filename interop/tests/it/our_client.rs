//! Our own client on the same documents as the published SDKs, in both directions, over restarts of the server.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use meshagent_client::{LiveDocument, OpenOptions, RoomClient};
use meshagent_document::{MeshSchema, Target};
use meshagent_testing::{Script, SdkClient, wait_until};
use serde_json::{Value, json};

use crate::scenario::{SDKS, Scenario, canonical, golden_schema, scenario};

const ROOM: &str = "mixed";
const PATH: &str = "board";

/// Our client with the runtime that it needs among synchronous tests.
struct Ours {
    runtime: tokio::runtime::Runtime,
    room: RoomClient,
}

impl Ours {
    fn enter(s: &Scenario, name: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let builder = RoomClient::builder()
            .api_url(s.server.url())
            .room(ROOM)
            .token(s.server.credentials().token(name, ROOM));
        let room = runtime.block_on(builder.connect())?;
        Ok(Self { runtime, room })
    }

    fn open(&self, schema: Option<&Value>) -> Result<LiveDocument> {
        let options = OpenOptions {
            schema: schema.map(MeshSchema::from_json).transpose()?,
            ..OpenOptions::default()
        };
        let sync = self.room.sync();
        Ok(self.runtime.block_on(sync.open_with(PATH, &options))?)
    }

    fn save(&self, document: &LiveDocument) -> Result<()> {
        let saved = async { tokio::time::timeout(Duration::from_mins(1), document.saved()).await };
        self.runtime.block_on(saved).context("saving in time")??;
        Ok(())
    }
}

#[test]
fn a_document_of_ours_is_edited_by_both_sdks_and_back() {
    scenario(|s| {
        let ours = Ours::enter(s, "ours")?;
        let document = ours.open(Some(&golden_schema()?))?;
        append(&document, "by us")?;
        ours.save(&document)?;
        let mut others = open_others(s)?;
        all_equal(&document, &mut others)?;
        for other in &mut others {
            let attributes = json!({ "s": format!("by {}", other.name()), "n": 1 });
            let append =
                json!({ "path": PATH, "node": null, "tag": "item", "attributes": attributes });
            other.call("append", &append)?;
        }
        all_equal(&document, &mut others)?;
        change_everything(&document)?;
        ours.save(&document)?;
        all_equal(&document, &mut others)
    });
}

#[test]
fn a_document_of_the_sdks_is_edited_by_us_over_restarts() {
    scenario(|s| {
        let mut others = open_others(s)?;
        let nested = json!({ "path": PATH, "node": null, "tag": "item", "attributes": { "s": "theirs", "n": 2 } });
        for other in &mut others {
            other.call("append", &nested)?;
        }
        let ours = Ours::enter(s, "ours")?;
        let document = ours.open(None)?;
        all_equal(&document, &mut others)?;
        for round in 0..3 {
            append(&document, &format!("round {round}"))?;
            if round == 1 {
                s.server.restart()?;
            }
            change_everything(&document)?;
            append(&document, &format!("after {round}"))?;
        }
        ours.save(&document)?;
        // The published clients open the document anew after a restart, as programs have to.
        let mut others = open_others(s)?;
        all_equal(&document, &mut others)?;
        ensure!(canonical(&s.describe(ROOM, PATH)?) == canonical(&document.to_json()));
        Ok(())
    });
}

fn open_others(s: &Scenario) -> Result<Vec<SdkClient>> {
    let schema = golden_schema()?;
    let mut others = Vec::new();
    for script in SDKS {
        let name = match script {
            Script::PythonClient => "pia",
            _ => "nil",
        };
        let mut other = s.client(script, ROOM, name)?;
        other.call("open", &json!({ "path": PATH, "schema": schema }))?;
        others.push(other);
    }
    Ok(others)
}

fn append(document: &LiveDocument, text: &str) -> Result<()> {
    let element = json!({ "item": { "s": text, "n": 0 } });
    document.edit(|d| d.append_child(Target::Root, element))??;
    Ok(())
}

/// Gives each element below the root another text, and deletes the first.
fn change_everything(document: &LiveDocument) -> Result<()> {
    let ids: Vec<String> = document.read(|d| {
        let ids = d
            .root()
            .children()
            .filter_map(|child| child.id().map(str::to_owned));
        ids.collect()
    });
    for (number, id) in ids.iter().enumerate() {
        document.edit(|d| {
            d.set_attribute(Target::Id(id.clone()), "s", format!("changed {number}"))
        })??;
    }
    if let Some(first) = ids.first() {
        document.edit(|d| d.delete(first))??;
    }
    Ok(())
}

/// Waits until everybody has the same, with the same `$id`s.
fn all_equal(document: &LiveDocument, others: &mut [SdkClient]) -> Result<()> {
    wait_until("all replicas are equal", || {
        let ours = canonical(&document.read(|d| d.to_json(true)));
        let views = others.iter_mut().map(|other| {
            let view = other.call("replica", &json!({ "path": PATH, "ids": true }))?;
            Ok(canonical(&view))
        });
        let views = views.collect::<Result<Vec<_>>>()?;
        Ok(views.iter().all(|view| *view == ours).then_some(()))
    })
}
