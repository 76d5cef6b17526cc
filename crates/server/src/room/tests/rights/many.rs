//! The cost of grants with many entries: a check of one of many paths costs no more than with few
//! entries.

use std::time::Duration;

use meshagent_protocol::{ApiScope, Content, MessageId};
use meshagent_store::{Entry, EntryKind};
use serde_json::{Value, json};

use super::{Client, World, scope_of, upload};
use crate::room::Request;
use crate::room::tests::cpu_time;

/// A token with `count` entries or rules, of which the last covers `in`.
fn scope(form: &str, count: usize) -> ApiScope {
    let paths: Vec<String> = (1..count)
        .map(|number| format!("folder/{number}"))
        .chain(["in".to_owned()])
        .collect();
    let entries = |entry: fn(&String) -> Value| paths.iter().map(entry).collect::<Vec<_>>();
    let plain = |path: &String| json!({ "path": path });
    scope_of(match form {
        "paths" => json!({ "storage": { "paths": entries(plain) } }),
        "files" => {
            let rule =
                |path: &String| json!({ "path": path, "recursive": true, "actions": ["list"] });
            json!({ "storage": { "files": { "paths": entries(rule) } } })
        }
        "excluded" => {
            let rule = json!({
                "path": "", "recursive": true, "actions": ["list"],
                "excluded_paths": paths[..count - 1]
            });
            json!({ "storage": { "files": { "paths": [rule] } } })
        }
        _ => {
            let prefix = |path: &String| json!({ "path": format!("{path}*") });
            json!({ "storage": { "paths": [] }, "sync": { "paths": entries(prefix) } })
        }
    })
}

/// The least CPU time of some attempts, because other load on the machine changes it little.
fn least(mut work: impl FnMut()) -> Duration {
    let mut once = || {
        let start = cpu_time();
        work();
        cpu_time().saturating_sub(start)
    };
    (0..3).map(|_| once()).min().unwrap_or_default()
}

#[test]
fn a_list_takes_the_same_time_for_few_rules_and_for_many() {
    const ENTRIES: usize = 4_000;
    let mut world = World::new();
    for form in ["paths", "files", "excluded"] {
        let mut took = |count: usize| {
            let guest = world.join_with(&format!("{form}{count}"), scope(form, count));
            let entry = |number: usize| Entry {
                name: format!("{number:05}"),
                kind: if number.is_multiple_of(2) {
                    EntryKind::File
                } else {
                    EntryKind::Folder
                },
                size: Some(1),
                created_at: None,
                updated_at: None,
            };
            least(|| {
                let request = Request {
                    conn: guest.conn,
                    id: MessageId::from(7),
                };
                let entries = (0..ENTRIES).map(entry).collect();
                world.room.list_fetched(request, "in", Some(entries));
                let answer = guest.answer(7);
                let Content::Json(answer) = &answer else {
                    panic!("{answer:?}");
                };
                assert_eq!(answer["files"].as_array().map(Vec::len), Some(ENTRIES));
            })
        };
        let (few, many) = (took(10), took(900));
        assert!(many < few * 5, "{form}: {few:?} for 10, {many:?} for 900");
    }
}

#[test]
fn news_take_the_same_time_for_few_rules_and_for_many() {
    const LISTENERS: usize = 40;
    for form in ["paths", "files", "excluded", "sync"] {
        let took = |count: usize| {
            let mut world = World::new();
            let owner = world.join("owner");
            upload(&mut world, &owner, "in/a", b"data", false);
            let listeners: Vec<Client> = (0..LISTENERS)
                .map(|number| world.join_with(&format!("g{number}"), scope(form, count)))
                .collect();
            let (mut from, mut to) = ("in/a", "in/b");
            let time = least(|| {
                for _ in 0..10 {
                    let input = json!({ "source_path": from, "destination_path": to });
                    world.call(&owner, "storage", "move", input);
                    (from, to) = (to, from);
                }
            });
            for listener in &listeners {
                let told = listener.take().len();
                assert_eq!(told, if form == "sync" { 0 } else { 30 });
            }
            time
        };
        let (few, many) = (took(10), took(900));
        assert!(many < few * 5, "{form}: {few:?} for 10, {many:?} for 900");
    }
}
