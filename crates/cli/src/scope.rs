//! An api scope as a person writes it. A misspelt bound would be no bound, so keys that no SDK has are refused; in
//! a token that somebody signed they may be those of a newer SDK, and are passed over.

use meshagent_protocol::{ApiScope, InvalidGrant};
use serde_json::Value;
use thiserror::Error;

/// Reads a scope that is called `name`.
///
/// # Errors
/// If it is malformed, or a key is unknown.
pub(crate) fn parse(json: &Value, name: &str) -> Result<ApiScope, ScopeError> {
    check(json, API, name)?;
    Ok(ApiScope::from_json(json)?)
}

/// Why a scope was not taken.
#[derive(Debug, Error)]
pub(crate) enum ScopeError {
    #[error(transparent)]
    Invalid(#[from] InvalidGrant),
    #[error("there is no key `{key}` in `{place}`{advice}")]
    UnknownKey {
        key: String,
        place: String,
        advice: String,
    },
}

/// A key, and those of the objects behind it, which may be in a list.
struct Key(&'static str, Option<&'static [Self]>);

/// The value has no keys of its own.
const fn plain(name: &'static str) -> Key {
    Key(name, None)
}

const fn of(name: &'static str, keys: &'static [Key]) -> Key {
    Key(name, Some(keys))
}

/// Recurses no deeper than the table does.
fn check(value: &Value, keys: &'static [Key], place: &str) -> Result<(), ScopeError> {
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                // What is a list in a list is malformed, which is found later.
                if item.is_object() {
                    check(item, keys, &format!("{place}[{index}]"))?;
                }
            }
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                let place_of = || match place {
                    "" => name.clone(),
                    place => format!("{place}.{name}"),
                };
                match keys.iter().find(|key| key.0 == name) {
                    Some(Key(_, Some(inside))) => check(value, inside, &place_of())?,
                    Some(Key(_, None)) => {}
                    None => {
                        return Err(ScopeError::UnknownKey {
                            key: name.clone(),
                            place: if place.is_empty() { "the scope" } else { place }.to_owned(),
                            advice: advice(name, keys),
                        });
                    }
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// What may have been meant.
fn advice(name: &str, keys: &[Key]) -> String {
    let alike = |key: &Key| strsim::jaro_winkler(&name.to_lowercase(), key.0);
    let nearest = keys.iter().map(|key| (alike(key), key.0));
    let nearest = nearest.max_by(|one, other| one.0.total_cmp(&other.0));
    match nearest {
        Some((likeness, nearest)) if likeness >= ALIKE => format!("; did you mean `{nearest}`?"),
        Some(_) => {
            let names: Vec<&str> = keys.iter().map(|key| key.0).collect();
            format!(", which takes {}", names.join(", "))
        }
        None => ", which takes none".to_owned(),
    }
}

/// From how much likeness on a word is taken for another that is misspelt.
const ALIKE: f64 = 0.75;

/// The keys of the published SDK for Python, 0.55.
const API: &[Key] = &[
    of("livekit", &[plain("breakout_rooms")]),
    of("queues", &[plain("send"), plain("receive"), plain("list")]),
    of(
        "messaging",
        &[plain("broadcast"), plain("list"), plain("send")],
    ),
    of("dataset", DATASET),
    // Other names that the SDK takes for it.
    of("datasets", DATASET),
    of("database", DATASET),
    of(
        "sqlite",
        &[
            of("databases", SQLITE_DATABASE),
            plain("create_database"),
            plain("list_databases"),
        ],
    ),
    of("memory", &[plain("list"), of("memories", MEMORY)]),
    of("sync", &[of("paths", PATH)]),
    of(
        "storage",
        &[of("paths", PATH), of("files", &[of("paths", FILE_RULE)])],
    ),
    of(
        "containers",
        &[
            plain("logs"),
            plain("pull"),
            plain("run"),
            of(
                "registry",
                &[plain("list"), plain("pull"), plain("run"), plain("write")],
            ),
            plain("use_containers"),
        ],
    ),
    of("developer", &[plain("logs")]),
    of(
        "agents",
        &[
            plain("register_agent"),
            plain("register_public_toolkit"),
            plain("register_private_toolkit"),
            plain("call"),
            plain("use_agents"),
            plain("use_tools"),
            plain("allowed_toolkits"),
        ],
    ),
    of("llm", &[plain("models")]),
    of("admin", &[plain("config")]),
    of("secrets", &[]),
    of("tunnels", &[plain("ports")]),
    of("services", &[plain("list")]),
];

const PATH: &[Key] = &[plain("path"), plain("read_only")];

const FILE_RULE: &[Key] = &[
    plain("path"),
    plain("recursive"),
    plain("actions"),
    plain("excluded_paths"),
];

const DATASET: &[Key] = &[
    of(
        "tables",
        &[
            plain("name"),
            plain("namespace"),
            plain("write"),
            plain("read"),
            plain("alter"),
        ],
    ),
    plain("list_tables"),
];

const SQLITE_DATABASE: &[Key] = &[
    plain("name"),
    plain("namespace"),
    plain("create_table"),
    plain("drop"),
    plain("inspect"),
    plain("list_tables"),
    plain("execute"),
    of(
        "tables",
        &[
            plain("database"),
            plain("table"),
            plain("namespace"),
            plain("write"),
            plain("read"),
            plain("alter"),
        ],
    ),
];

const MEMORY: &[Key] = &[
    plain("name"),
    plain("namespace"),
    of(
        "permissions",
        &[
            plain("create"),
            plain("drop"),
            plain("inspect"),
            plain("query"),
            plain("upsert"),
            plain("ingest"),
            plain("recall"),
            plain("optimize"),
        ],
    ),
];
