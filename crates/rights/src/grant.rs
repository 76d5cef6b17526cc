//! Grants: the rights of a token's bearer.
//!
//! This module only decides on rights; it performs no actions.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::file_policy::{FilesPolicy, MAX_PATHS};
use crate::grant_path::{self, InvalidGrantPath};
use crate::storage_grant::StorageGrant;
use crate::sync_grant::SyncGrant;

/// One grant of a token.
///
/// # Wire form
///
/// ```text
/// {"name": "room", "scope": "<room name>"}
/// {"name": "role", "scope": "user" | "agent" | "tool"}
/// {"name": "api", "scope": {…}}
/// ```
#[derive(Clone, PartialEq, Debug)]
pub enum Grant {
    /// The right to join a room.
    Room(String),
    /// The bearer's kind of participant.
    Role(Role),
    /// The tools that the bearer may call in the room.
    Api(Box<ApiScope>),
    /// A grant that this project does not use.
    Other {
        /// The name of the grant.
        name: String,
        /// The scope of the grant.
        scope: Value,
    },
}

impl Grant {
    /// Parses a grant.
    ///
    /// # Errors
    ///
    /// If it does not have the form above.
    pub fn from_json(value: &Value) -> Result<Self, InvalidGrant> {
        let name = value
            .get("name")
            .and_then(Value::as_str)
            .ok_or(InvalidGrant::Form)?;
        let scope = value.get("scope").ok_or(InvalidGrant::Form)?;
        let text = || {
            scope
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| InvalidGrant::Scope {
                    name: name.to_owned(),
                })
        };
        Ok(match name {
            "room" => Self::Room(text()?),
            "role" => Self::Role(Role::from(text()?)),
            "api" => Self::Api(Box::new(ApiScope::from_json(scope)?)),
            _ => Self::Other {
                name: name.to_owned(),
                scope: scope.clone(),
            },
        })
    }

    /// Returns the grant as JSON.
    pub fn to_json(&self) -> Value {
        let (name, scope) = match self {
            Self::Room(room) => ("room", Value::from(room.clone())),
            Self::Role(role) => ("role", role.as_str().into()),
            Self::Api(scope) => ("api", scope.to_json()),
            Self::Other { name, scope } => (name.as_str(), scope.clone()),
        };
        let mut grant = Map::new();
        grant.insert("name".to_owned(), name.into());
        grant.insert("scope".to_owned(), scope);
        grant.into()
    }
}

/// A kind of participant.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Role {
    /// A program that acts on its own.
    Agent,
    /// A program that others call.
    Tool,
    /// A person, or a program that acts for one.
    #[default]
    User,
    /// A role that this project does not know.
    Other(String),
}

impl Role {
    /// The role's name on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Agent => "agent",
            Self::Tool => "tool",
            Self::User => "user",
            Self::Other(name) => name,
        }
    }
}

impl From<String> for Role {
    fn from(name: String) -> Self {
        match name.as_str() {
            "agent" => Self::Agent,
            "tool" => Self::Tool,
            "user" => Self::User,
            _ => Self::Other(name),
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The scope of an `api` grant. An absent field denies that toolkit.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ApiScope {
    /// Rights in the toolkit `messaging`.
    pub messaging: Option<MessagingGrant>,
    /// Rights in the toolkit `sync`.
    pub sync: Option<SyncGrant>,
    /// Rights in the toolkit `storage`.
    pub storage: Option<StorageGrant>,
    /// The fields of toolkits that this project does not serve, unchanged.
    pub other: Map<String, Value>,
}

impl ApiScope {
    /// The SDKs' default scope of an agent.
    pub fn agent_default() -> Self {
        Self::without(&["admin", "secrets", "tunnels"])
    }

    /// The SDKs' default scope of a user.
    pub fn user_default() -> Self {
        Self::without(&["llm", "admin", "secrets", "tunnels"])
    }

    /// The SDKs' full scope: everything except secrets.
    pub fn full() -> Self {
        Self::without(&["secrets"])
    }

    /// Parses a scope. A null field is absent.
    ///
    /// # Errors
    ///
    /// If a field that this project uses is malformed.
    pub fn from_json(value: &Value) -> Result<Self, InvalidGrant> {
        let invalid = |name: &str| InvalidGrant::Scope {
            name: name.to_owned(),
        };
        let fields = value.as_object().ok_or_else(|| invalid("api"))?;
        let mut scope = Self::default();
        for (name, value) in fields {
            if value.is_null() {
                continue;
            }
            let is_ours = matches!(name.as_str(), "messaging" | "sync" | "storage");
            if is_ours && !is_made_of_objects(value) {
                return Err(invalid(name));
            }
            match name.as_str() {
                "messaging" => {
                    let grant =
                        MessagingGrant::deserialize(value).map_err(|_cause| invalid(name))?;
                    scope.messaging = Some(grant);
                }
                "sync" => {
                    let mut grant =
                        SyncGrant::deserialize(value).map_err(|_cause| invalid(name))?;
                    for entry in grant.paths.iter_mut().flatten() {
                        entry.path = normalized(name, &entry.path, grant_path::sync_entry)?;
                    }
                    scope.sync = Some(grant);
                }
                "storage" => {
                    let mut grant =
                        StorageGrant::deserialize(value).map_err(|_cause| invalid(name))?;
                    let entries = grant.paths.as_ref().map_or(0, Vec::len);
                    let is_bounded = grant.files.as_ref().is_none_or(FilesPolicy::is_bounded);
                    if entries > MAX_PATHS || !is_bounded {
                        return Err(invalid(name));
                    }
                    for entry in grant.paths.iter_mut().flatten() {
                        entry.path = normalized(name, &entry.path, grant_path::storage_entry)?;
                    }
                    for path in grant.files.iter().flat_map(FilesPolicy::all_paths) {
                        normalized(name, path, grant_path::check_policy_path)?;
                    }
                    scope.storage = Some(grant);
                }
                _ => {
                    scope.other.insert(name.clone(), value.clone());
                }
            }
        }
        Ok(scope)
    }

    /// Returns the scope in the form of the SDKs: known fields in their order, without defaults.
    pub fn to_json(&self) -> Value {
        let mut json = Map::new();
        for name in FIELDS {
            let field = match name {
                "messaging" => self.messaging.as_ref().map(to_value),
                "sync" => self.sync.as_ref().map(to_value),
                "storage" => self.storage.as_ref().map(to_value),
                _ => self.other.get(name).cloned(),
            };
            if let Some(field) = field {
                json.insert(name.to_owned(), field);
            }
        }
        for (name, value) in &self.other {
            if !json.contains_key(name) {
                json.insert(name.clone(), value.clone());
            }
        }
        json.into()
    }

    /// All APIs except these, without further restrictions.
    fn without(excluded: &[&str]) -> Self {
        let mut scope = Self::default();
        for name in FIELDS.into_iter().filter(|name| !excluded.contains(name)) {
            match name {
                "messaging" => scope.messaging = Some(MessagingGrant::default()),
                "sync" => scope.sync = Some(SyncGrant::default()),
                "storage" => scope.storage = Some(StorageGrant::default()),
                name => {
                    scope.other.insert(name.to_owned(), Map::new().into());
                }
            }
        }
        scope
    }
}

/// Rights in messaging; absent fields permit.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct MessagingGrant {
    /// Whether the participant may send messages to all.
    #[serde(skip_serializing_if = "is_true")]
    pub broadcast: bool,
    /// Whether the participant may see the others.
    #[serde(skip_serializing_if = "is_true")]
    pub list: bool,
    /// Whether the participant may send messages to one other.
    #[serde(skip_serializing_if = "is_true")]
    pub send: bool,
}

impl Default for MessagingGrant {
    fn default() -> Self {
        Self {
            broadcast: true,
            list: true,
            send: true,
        }
    }
}

/// Why a grant is malformed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidGrant {
    /// The grant is not an object with a name and a scope.
    #[error("a grant must be an object with `name` and `scope`")]
    Form,
    /// The grant contains an invalid path or an unsupported pattern.
    #[error("invalid path {path:?} in the grant `{name}`: {why}")]
    Path {
        /// The field of the `api` grant.
        name: String,
        /// The path as received.
        path: String,
        /// The defect of the path.
        why: InvalidGrantPath,
    },
    /// The scope has a wrong form.
    #[error("the scope of the grant `{name}` is malformed")]
    Scope {
        /// The grant, or the field of the `api` grant.
        name: String,
    },
}

/// Whether the grant has objects where it must: a derived deserializer would accept a list for a
/// struct, and an empty one would grant everything.
fn is_made_of_objects(grant: &Value) -> bool {
    let entries_are = match grant.get("paths") {
        Some(Value::Array(entries)) => entries.iter().all(Value::is_object),
        _ => true,
    };
    let files_are = match grant.get("files") {
        None | Some(Value::Null) => true,
        Some(files) => is_made_of_objects(files),
    };
    grant.is_object() && entries_are && files_are
}

/// Normalizes the paths of a grant, so that they can be compared.
fn normalized<T>(
    name: &str,
    path: &str,
    read: impl Fn(&str) -> Result<T, InvalidGrantPath>,
) -> Result<T, InvalidGrant> {
    read(path).map_err(|why| InvalidGrant::Path {
        name: name.to_owned(),
        path: path.to_owned(),
        why,
    })
}

fn to_value(grant: &impl Serialize) -> Value {
    serde_json::to_value(grant).expect("structs with string keys always serialize")
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde requires"
)]
pub(crate) fn is_false(value: &bool) -> bool {
    !value
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde requires"
)]
fn is_true(value: &bool) -> bool {
    *value
}

/// The fields of an `api` scope in the SDKs' order.
const FIELDS: [&str; 16] = [
    "livekit",
    "queues",
    "messaging",
    "dataset",
    "sqlite",
    "memory",
    "sync",
    "storage",
    "containers",
    "developer",
    "agents",
    "llm",
    "admin",
    "secrets",
    "tunnels",
    "services",
];
