//! Grants: what the bearer of a token may do.
//!
//! Says who may, and does nothing about it.

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
    /// What kind of participant the bearer is.
    Role(Role),
    /// What the bearer may call in the room.
    Api(Box<ApiScope>),
    /// A grant that this project does not use.
    Other {
        /// The name of the grant.
        name: String,
        /// Its scope.
        scope: Value,
    },
}

impl Grant {
    /// Reads a grant.
    ///
    /// # Errors
    ///
    /// When it is not of the form above.
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

    /// Writes a grant.
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

/// What kind of participant somebody is.
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

/// The scope of an `api` grant: an absent field denies that toolkit.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ApiScope {
    /// The toolkit `messaging`.
    pub messaging: Option<MessagingGrant>,
    /// The toolkit `sync`.
    pub sync: Option<SyncGrant>,
    /// The toolkit `storage`.
    pub storage: Option<StorageGrant>,
    /// The fields of toolkits that this project does not serve, as they came.
    pub other: Map<String, Value>,
}

impl ApiScope {
    /// What the SDKs give an agent by default.
    pub fn agent_default() -> Self {
        Self::without(&["admin", "secrets", "tunnels"])
    }

    /// What the SDKs give a user by default.
    pub fn user_default() -> Self {
        Self::without(&["llm", "admin", "secrets", "tunnels"])
    }

    /// What the SDKs call full: everything but secrets.
    pub fn full() -> Self {
        Self::without(&["secrets"])
    }

    /// Reads a scope; a field that is null is absent.
    ///
    /// # Errors
    ///
    /// When a field that this project uses is malformed.
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

    /// Writes the scope as the SDKs do: known fields in their order, without defaults.
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

    /// Every API but these, each without further bounds.
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

/// What may be done with messages; what is not said is allowed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct MessagingGrant {
    /// Whether messages to all may be sent.
    #[serde(skip_serializing_if = "is_true")]
    pub broadcast: bool,
    /// Whether the other participants may be seen.
    #[serde(skip_serializing_if = "is_true")]
    pub list: bool,
    /// Whether messages to one may be sent.
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

/// A grant that can't be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidGrant {
    /// It is not an object with a name and a scope.
    #[error("a grant must be an object with `name` and `scope`")]
    Form,
    /// A path in it is none, or a pattern that is not understood.
    #[error("the grant `{name}` names the path {path:?}: {why}")]
    Path {
        /// The field of the `api` grant.
        name: String,
        /// The path as it came.
        path: String,
        /// What is wrong with it.
        why: InvalidGrantPath,
    },
    /// Its scope is not what the name asks for.
    #[error("the scope of the grant `{name}` is malformed")]
    Scope {
        /// The grant, or the field of the `api` grant.
        name: String,
    },
}

/// Whether objects stand where objects belong: a derived reader would take a list for a struct, and
/// an empty one for a grant of everything.
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

/// A path of a grant in the one form that is compared.
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
    reason = "the signature that serde asks for"
)]
pub(crate) fn is_false(value: &bool) -> bool {
    !value
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde asks for"
)]
fn is_true(value: &bool) -> bool {
    *value
}

/// The fields of an api scope in the SDKs' order.
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
