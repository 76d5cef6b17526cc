//! Concurrent edits by two Python clients and one Node client end in one document, and in the one that
//! the server keeps.

use anyhow::{Context as _, Result, ensure};
use meshagent_testing::{Script, SdkClient, SdkError, wait_until};
use serde_json::{Value, json};

use crate::scenario::{canonical, golden_schema, scenario};

const ROOM: &str = "together";
const PATH: &str = "board";
const ROUNDS: usize = 5;
const EDITS_PER_ROUND: usize = 12;

#[test]
fn two_python_clients_and_one_node_client_converge() {
    scenario(|s| {
        let mut clients = vec![
            s.client(Script::PythonClient, ROOM, "ann")?,
            s.client(Script::PythonClient, ROOM, "ben")?,
            s.client(Script::NodeClient, ROOM, "cyd")?,
        ];
        let schema = golden_schema()?;
        for client in &mut clients {
            client.call("open", &json!({ "path": PATH, "schema": schema }))?;
        }
        let seed = std::env::var("MESHAGENT_SEED")
            .ok()
            .and_then(|text| text.parse().ok());
        let mut random = Random(seed.unwrap_or(20_250_301));
        let round = |clients: &mut [SdkClient], random: &mut Random| -> Result<()> {
            let mut pending = Vec::new();
            for client in clients.iter_mut() {
                let known = item_ids(&replica(client)?);
                for _ in 0..EDITS_PER_ROUND {
                    let (op, arguments) = random_edit(random, client.name(), &known);
                    client.begin(op, &arguments)?;
                }
                pending.push(EDITS_PER_ROUND);
            }
            for (client, edits) in clients.iter_mut().zip(pending) {
                for _ in 0..edits {
                    match client.finish() {
                        // The element may have been removed by another client in the meantime.
                        Err(error) if error.downcast_ref::<SdkError>().is_none() => {
                            return Err(error);
                        }
                        _ => {}
                    }
                }
            }
            Ok(())
        };
        for number in 0..ROUNDS {
            let seed = random.0;
            round(&mut clients, &mut random)
                .and_then(|()| all_equal(&mut clients))
                .with_context(|| format!("round {number}; MESHAGENT_SEED={seed} repeats it"))?;
        }

        let kept = replica_without_ids(&mut clients[0])?;
        assert!(
            kept["doc"]["children"]
                .as_array()
                .is_some_and(|items| !items.is_empty())
        );
        assert_eq!(s.describe(ROOM, PATH)?, kept);
        s.server.restart()?;
        assert_eq!(s.describe(ROOM, PATH)?, kept, "after a restart");
        Ok(())
    });
}

/// Waits until all replicas, and so what they were sent, are the same.
fn all_equal(clients: &mut [SdkClient]) -> Result<()> {
    let equal = wait_until("all replicas are equal", || {
        let views = clients
            .iter_mut()
            .map(replica)
            .collect::<Result<Vec<_>>>()?;
        Ok(views.iter().all(|view| *view == views[0]).then_some(()))
    });
    if equal.is_err() {
        for client in clients {
            let error = client.call("stream_error", &json!({ "path": PATH }))?;
            ensure!(
                error.is_null(),
                "{} no longer syncs: {error}",
                client.name()
            );
        }
    }
    equal
}

fn replica(client: &mut SdkClient) -> Result<Value> {
    Ok(canonical(
        &client.call("replica", &json!({ "path": PATH, "ids": true }))?,
    ))
}

fn replica_without_ids(client: &mut SdkClient) -> Result<Value> {
    Ok(canonical(
        &client.call("replica", &json!({ "path": PATH }))?,
    ))
}

fn random_edit(random: &mut Random, author: &str, known: &[String]) -> (&'static str, Value) {
    let attributes =
        json!({ "s": format!("{author} {}", random.below(1000)), "n": random.below(9) });
    let node = match random.below(known.len() + 1).checked_sub(1) {
        Some(index) => json!(known[index]),
        None => Value::Null,
    };
    let on_node = |more: Value| {
        let mut arguments = json!({ "path": PATH, "node": node });
        if let (Some(arguments), Value::Object(more)) = (arguments.as_object_mut(), more) {
            arguments.extend(more);
        }
        arguments
    };
    match random.below(10) {
        0..4 => (
            "append",
            on_node(json!({ "tag": "item", "attributes": attributes })),
        ),
        4 => (
            "insert",
            on_node(json!({ "index": 0, "tag": "item", "attributes": attributes })),
        ),
        5 if !known.is_empty() => {
            let node = &known[random.below(known.len())];
            ("delete", json!({ "path": PATH, "node": node }))
        }
        _ if known.is_empty() => ("append", json!({ "path": PATH, "tag": "item" })),
        _ => {
            let node = &known[random.below(known.len())];
            let value = attributes["s"].clone();
            (
                "set",
                json!({ "path": PATH, "node": node, "name": "s", "value": value }),
            )
        }
    }
}

fn item_ids(view: &Value) -> Vec<String> {
    let mut ids = Vec::new();
    let mut rest = vec![view];
    while let Some(element) = rest.pop() {
        for properties in element
            .as_object()
            .into_iter()
            .flat_map(|fields| fields.values())
        {
            ids.extend(properties["$id"].as_str().map(ToOwned::to_owned));
            rest.extend(properties["children"].as_array().into_iter().flatten());
        }
    }
    ids
}

/// A small generator (`SplitMix64`), so that a seed means the same edits everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        usize::try_from(mixed % bound as u64).unwrap_or_default()
    }
}
