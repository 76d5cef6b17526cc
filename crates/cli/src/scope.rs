//! API scopes in token files and flags. Unknown keys are refused here, because a misspelt
//! restriction would have no effect. In a signed token they are ignored, because a newer SDK may
//! have added them.

use meshagent_protocol::{ApiScope, InvalidGrant};
use serde_json::Value;
use thiserror::Error;

/// Parses a scope; error messages call it `name`.
///
/// # Errors
/// If the scope is malformed, or a key is unknown.
pub(crate) fn parse(json: &Value, name: &str) -> Result<ApiScope, ScopeError> {
    check(json, API, name)?;
    Ok(ApiScope::from_json(json)?)
}

/// The error of [`parse`].
#[derive(Debug, Error)]
pub(crate) enum ScopeError {
    #[error(transparent)]
    Invalid(#[from] InvalidGrant),
    #[error("unknown key `{key}` in `{place}`{advice}")]
    UnknownKey {
        key: String,
        place: String,
        advice: String,
    },
}

/// A key with the keys of its value, which is an object or a list of objects.
struct Key(&'static str, Option<&'static [Self]>);

/// A key whose value has no keys.
const fn plain(name: &'static str) -> Key {
    Key(name, None)
}

const fn of(name: &'static str, keys: &'static [Key]) -> Key {
    Key(name, Some(keys))
}

/// Checks the keys. The recursion is as deep as the table.
fn check(value: &Value, keys: &'static [Key], place: &str) -> Result<(), ScopeError> {
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                // A list in a list is malformed; `ApiScope::from_json` refuses it.
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

/// The end of the error message: a similar key, or all known keys.
fn advice(name: &str, keys: &[Key]) -> String {
    let similarity = |key: &Key| strsim::jaro_winkler(&name.to_lowercase(), key.0);
    let nearest = keys.iter().map(|key| (similarity(key), key.0));
    let nearest = nearest.max_by(|one, other| one.0.total_cmp(&other.0));
    match nearest {
        Some((likeness, nearest)) if likeness >= MIN_SIMILARITY => {
            format!("; did you mean `{nearest}`?")
        }
        Some(_) => {
            let names: Vec<&str> = keys.iter().map(|key| key.0).collect();
            format!("; known keys: {}", names.join(", "))
        }
        None => "; it has no keys".to_owned(),
    }
}

/// The least similarity of a key that is suggested.
const MIN_SIMILARITY: f64 = 0.75;

/// The keys of the published SDK for Python, 0.55.
const API: &[Key] = &[
    of("livekit", &[plain("breakout_rooms")]),
    of("queues", &[plain("send"), plain("receive"), plain("list")]),
    of(
        "messaging",
        &[plain("broadcast"), plain("list"), plain("send")],
    ),
    of("dataset", DATASET),
    // Aliases of it in the SDK.
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
