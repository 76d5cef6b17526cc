//! Clients whose connections break anywhere, and lose nothing.
//!
//! `CUT_SEEDS=1000 cargo test -p meshagent-server --test it cuts` runs that many seeds;
//! `CUT_FROM=17 CUT_SEEDS=1` repeats one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use meshagent_client::{DocumentEvent, LiveDocument, RoomClient};
use meshagent_document::{Position, Target};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::cable::Cable;
use crate::harness::{PATIENCE, TestServer};

/// How many seeds run concurrently.
const AT_ONCE: usize = 16;

const EDITS: u64 = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_edit_is_lost_wherever_a_connection_breaks() {
    let setting = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let (from, seeds) = (setting("CUT_FROM", 0), setting("CUT_SEEDS", 100));
    let server = Arc::new(TestServer::start().await);
    let mut running = JoinSet::new();
    for seed in from..from + seeds {
        if running.len() == AT_ONCE {
            running.join_next().await.unwrap().unwrap();
        }
        let server = Arc::clone(&server);
        running.spawn(async move {
            let repeat = format!("repeat with CUT_FROM={seed} CUT_SEEDS=1");
            let run = timeout(3 * PATIENCE, run(&server, seed)).await;
            let run = run.unwrap_or_else(|_elapsed| Err("not done in time".to_owned()));
            if let Err(what) = run {
                panic!("seed {seed}: {what}; {repeat}");
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
}

async fn run(server: &TestServer, seed: u64) -> Result<(), String> {
    let mut random = Random(seed);
    let path = format!("{seed}.document");
    // The first bytes are the handshake's. The first connection must survive it: otherwise
    // `connect` fails.
    let mut breaks = |count: u64| -> Vec<usize> {
        let count = random.below(count);
        let mut breaks: Vec<usize> = (0..count)
            .map(|_| usize::try_from(random.below(9_000)).unwrap())
            .collect();
        breaks.insert(0, 4_000 + usize::try_from(random.below(9_000)).unwrap());
        breaks
    };
    let cables = [
        Cable::new(&server.address, breaks(5)).await,
        Cable::new(&server.address, breaks(3)).await,
    ];
    let mut clients = Vec::new();
    for (number, cable) in cables.iter().enumerate() {
        let room = RoomClient::builder()
            .room_url(cable.room_url())
            .token(server.jwt(&format!("{seed}-{number}")))
            .connect()
            .await
            .map_err(|error| format!("connecting: {error}"))?;
        let document = room
            .sync()
            .open(&path)
            .await
            .map_err(|error| format!("opening: {error}"))?;
        clients.push((room, document));
    }
    let mut kept = BTreeSet::new();
    let mut events = clients[0].1.changes();
    for step in 0..EDITS {
        let at = usize::try_from(random.below(2)).unwrap();
        let document = &clients[at].1;
        edit(document, &format!("{at}-{step}"), &mut random, &mut kept)?;
        match random.below(4) {
            0 => tokio::task::yield_now().await,
            1 => tokio::time::sleep(Duration::from_millis(random.below(20))).await,
            _ => {}
        }
    }
    for (_, document) in &clients {
        let saved = document.saved().await;
        saved.map_err(|error| format!("saving: {error}"))?;
    }
    // What others see, and what is stored, read over a connection that does not break.
    let direct = server.join("direct").await;
    let stored = direct
        .sync()
        .describe(&path)
        .await
        .map_err(|error| error.to_string())?;
    let texts: BTreeSet<String> = texts(&stored).into_iter().collect();
    if texts != kept {
        let (missing, extra) = (kept.difference(&texts), texts.difference(&kept));
        return Err(format!("missing {missing:?}, too many {extra:?}"));
    }
    for (_, document) in &clients {
        let converged = async {
            while document.to_json() != stored {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, converged)
            .await
            .map_err(|_elapsed| format!("{} is shown", document.to_json()))?;
    }
    while let Some(event) = events.try_recv() {
        if matches!(
            event,
            DocumentEvent::Refused { .. } | DocumentEvent::Ended(_) | DocumentEvent::Missed
        ) {
            return Err(format!("{event:?}"));
        }
    }
    for (room, document) in clients {
        document.close().await.map_err(|error| error.to_string())?;
        room.close().await;
    }
    direct.close().await;
    // A run in which hardly anything broke shows nothing.
    if cables.iter().all(|cable| cable.breaks_left() > 2) {
        return Err("hardly anything broke".to_owned());
    }
    Ok(())
}

/// Inserts, changes or deletes an own element; `kept` are the texts that must remain in the end.
fn edit(
    document: &LiveDocument,
    name: &str,
    random: &mut Random,
    kept: &mut BTreeSet<String>,
) -> Result<(), String> {
    let own = document.read(|d| {
        let own = d.root().children().filter_map(|child| {
            let text = child.attribute("text")?.as_str()?.to_owned();
            let is_own = text.starts_with(&name[..2]);
            is_own.then_some((child.id()?.to_owned(), text))
        });
        own.collect::<Vec<_>>()
    });
    let pick = usize::try_from(random.below(u64::try_from(own.len()).unwrap().max(1))).unwrap();
    let done = document.edit(|d| match (random.below(4), own.get(pick)) {
        (0, Some((id, text))) => {
            kept.remove(text);
            d.delete(id).map(|_| ())
        }
        (1, Some((id, text))) => {
            kept.remove(text);
            kept.insert(name.to_owned());
            d.set_attribute(Target::Id(id.clone()), "text", name)
                .map(|_| ())
        }
        (way, _) => {
            kept.insert(name.to_owned());
            let position = if way == 2 {
                Position::First
            } else {
                Position::Last
            };
            let element = json!({ "body": { "text": name } });
            d.insert_child(Target::Root, position, element).map(|_| ())
        }
    });
    let done = done.map_err(|end| end.to_string())?;
    done.map_err(|error| error.to_string())
}

fn texts(document: &Value) -> Vec<String> {
    let children = document["document"]["content"].as_array();
    let texts = children.into_iter().flatten();
    texts
        .filter_map(|child| Some(child["body"]["text"].as_str()?.to_owned()))
        .collect()
}

/// A small generator (`SplitMix64`, Steele et al. 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
