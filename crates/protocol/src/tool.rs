//! The tools of a room: one table for dispatch, the list of toolkits, and the documentation.

use serde_json::{Map, Value, json};

/// A group of tools, with rights of its own in a grant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Toolkit {
    /// Live documents.
    Sync,
    /// Messages between participants.
    Messaging,
    /// Files and documents by path.
    Storage,
}

/// A tool that a participant can call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Tool {
    /// `sync.create`
    SyncCreate,
    /// `sync.describe`
    SyncDescribe,
    /// `sync.patch`
    SyncPatch,
    /// `sync.open`, streamed
    SyncOpen,
    /// `messaging.enable`
    MessagingEnable,
    /// `messaging.disable`
    MessagingDisable,
    /// `messaging.send`
    MessagingSend,
    /// `messaging.broadcast`
    MessagingBroadcast,
    /// `storage.exists`
    StorageExists,
    /// `storage.stat`
    StorageStat,
    /// `storage.list`
    StorageList,
    /// `storage.upload`, streamed
    StorageUpload,
    /// `storage.download`, streamed
    StorageDownload,
    /// `storage.delete`
    StorageDelete,
    /// `storage.move`
    StorageMove,
    /// `storage.download_url`
    StorageDownloadUrl,
}

/// The table entry of a tool: its name, description and input.
struct Row {
    tool: Tool,
    toolkit: Toolkit,
    name: &'static str,
    description: &'static str,
    input: Input,
}

enum Input {
    /// A `json` content with these fields.
    Json(&'static [Field]),
    /// `control/open`, followed by `binary` chunks.
    Streamed,
}

/// A field of a tool's input.
struct Field {
    name: &'static str,
    /// The permitted JSON types.
    types: &'static [&'static str],
    is_required: bool,
    description: &'static str,
}

const fn required(
    name: &'static str,
    types: &'static [&'static str],
    description: &'static str,
) -> Field {
    Field {
        name,
        types,
        is_required: true,
        description,
    }
}

const fn optional(
    name: &'static str,
    types: &'static [&'static str],
    description: &'static str,
) -> Field {
    Field {
        name,
        types,
        is_required: false,
        description,
    }
}

const TEXT: &[&str] = &["string"];
const OPTIONAL_TEXT: &[&str] = &["string", "null"];
const OPTIONAL_OBJECT: &[&str] = &["object", "null"];
const OPTIONAL_BOOLEAN: &[&str] = &["boolean", "null"];

const PATH: Field = required("path", TEXT, "The path in the room");
const MESSAGE_TYPE: Field = required("type", TEXT, "The type of the message, for its readers");
const MESSAGE_JSON: Field = required("message_json", TEXT, "The message: JSON as text");
const MESSAGE_ATTACHMENT: Field = optional(
    "attachment_base64",
    OPTIONAL_TEXT,
    "Bytes that go along with it, in base64",
);

/// Indexed by [`Tool`], in its order.
const TABLE: [Row; 16] = [
    Row {
        tool: Tool::SyncCreate,
        toolkit: Toolkit::Sync,
        name: "create",
        description: "Create a document from a schema and initial JSON",
        input: Input::Json(&[
            PATH,
            optional("json", OPTIONAL_OBJECT, "The content: {root tag: {…}}"),
            optional("schema", OPTIONAL_OBJECT, "The schema, as JSON"),
            optional(
                "schema_path",
                OPTIONAL_TEXT,
                "A file of the room with the schema",
            ),
        ]),
    },
    Row {
        tool: Tool::SyncDescribe,
        toolkit: Toolkit::Sync,
        name: "describe",
        description: "Read a document as JSON",
        input: Input::Json(&[
            PATH,
            optional(
                "schema_path",
                OPTIONAL_TEXT,
                "Not used: a document has its schema",
            ),
            optional(
                "include_ids",
                OPTIONAL_BOOLEAN,
                "Show elements with their $id",
            ),
            optional(
                "with_version",
                OPTIONAL_BOOLEAN,
                "Add the version of the document",
            ),
            optional(
                "with_schema",
                OPTIONAL_BOOLEAN,
                "Add the schema of the document",
            ),
        ]),
    },
    Row {
        tool: Tool::SyncPatch,
        toolkit: Toolkit::Sync,
        name: "patch",
        description: "Apply a JSON Patch to a document, all of it or nothing",
        input: Input::Json(&[
            PATH,
            required(
                "patch",
                &["array"],
                "The operations of RFC 6902, on what describe shows",
            ),
            optional(
                "if_version",
                OPTIONAL_TEXT,
                "Refuse if the document has another version",
            ),
            optional(
                "dry_run",
                OPTIONAL_BOOLEAN,
                "Check the patch, and change nothing",
            ),
        ]),
    },
    Row {
        tool: Tool::SyncOpen,
        toolkit: Toolkit::Sync,
        name: "open",
        description: "Open a document and exchange updates while the call is open",
        input: Input::Streamed,
    },
    Row {
        tool: Tool::MessagingEnable,
        toolkit: Toolkit::Messaging,
        name: "enable",
        description: "Receive messages and be seen by others",
        input: Input::Json(&[]),
    },
    Row {
        tool: Tool::MessagingDisable,
        toolkit: Toolkit::Messaging,
        name: "disable",
        description: "Receive no more messages",
        input: Input::Json(&[]),
    },
    Row {
        tool: Tool::MessagingSend,
        toolkit: Toolkit::Messaging,
        name: "send",
        description: "Send a message to one participant",
        input: Input::Json(&[
            required("to_participant_id", TEXT, "The id of the participant"),
            MESSAGE_TYPE,
            MESSAGE_JSON,
            MESSAGE_ATTACHMENT,
        ]),
    },
    Row {
        tool: Tool::MessagingBroadcast,
        toolkit: Toolkit::Messaging,
        name: "broadcast",
        description: "Send a message to all others",
        input: Input::Json(&[MESSAGE_TYPE, MESSAGE_JSON, MESSAGE_ATTACHMENT]),
    },
    Row {
        tool: Tool::StorageExists,
        toolkit: Toolkit::Storage,
        name: "exists",
        description: "Whether there is something at a path",
        input: Input::Json(&[PATH]),
    },
    Row {
        tool: Tool::StorageStat,
        toolkit: Toolkit::Storage,
        name: "stat",
        description: "What is at a path",
        input: Input::Json(&[PATH]),
    },
    Row {
        tool: Tool::StorageList,
        toolkit: Toolkit::Storage,
        name: "list",
        description: "What is in a folder",
        input: Input::Json(&[PATH]),
    },
    Row {
        tool: Tool::StorageUpload,
        toolkit: Toolkit::Storage,
        name: "upload",
        description: "Write a file",
        input: Input::Streamed,
    },
    Row {
        tool: Tool::StorageDownload,
        toolkit: Toolkit::Storage,
        name: "download",
        description: "Read a file",
        input: Input::Streamed,
    },
    Row {
        tool: Tool::StorageDelete,
        toolkit: Toolkit::Storage,
        name: "delete",
        description: "Delete a file, a document or a folder",
        input: Input::Json(&[
            PATH,
            optional(
                "recursive",
                OPTIONAL_BOOLEAN,
                "Delete a folder with what is in it",
            ),
        ]),
    },
    Row {
        tool: Tool::StorageMove,
        toolkit: Toolkit::Storage,
        name: "move",
        description: "Move a file, a document or a folder",
        input: Input::Json(&[
            required("source_path", TEXT, "The path to move from"),
            required("destination_path", TEXT, "The path to move to"),
            optional(
                "overwrite",
                OPTIONAL_BOOLEAN,
                "Replace what is at the destination",
            ),
        ]),
    },
    Row {
        tool: Tool::StorageDownloadUrl,
        toolkit: Toolkit::Storage,
        name: "download_url",
        description: "A link to a file that needs no token",
        input: Input::Json(&[
            PATH,
            optional("download", OPTIONAL_BOOLEAN, "Have a browser save the file"),
        ]),
    },
];

impl Toolkit {
    /// All toolkits.
    pub const ALL: [Self; 3] = [Self::Sync, Self::Messaging, Self::Storage];

    /// Returns the toolkit's name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Messaging => "messaging",
            Self::Storage => "storage",
        }
    }

    /// Returns the toolkit with this name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|toolkit| toolkit.name() == name)
    }

    fn title(self) -> &'static str {
        match self {
            Self::Sync => "Sync",
            Self::Messaging => "Messaging",
            Self::Storage => "Storage",
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::Sync => "Live documents, checked by their schema",
            Self::Messaging => "Messages between the participants of the room",
            Self::Storage => "The room's files and documents by path",
        }
    }
}

impl Tool {
    /// All tools, grouped by toolkit.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.tool)
    }

    /// Returns the tool with this name in a toolkit.
    ///
    /// ```
    /// # use meshagent_protocol::Tool;
    /// assert_eq!(Tool::find("sync", "open"), Some(Tool::SyncOpen));
    /// assert_eq!(Tool::find("sync", "öffnen"), None);
    /// ```
    pub fn find(toolkit: &str, name: &str) -> Option<Self> {
        let is_named = |row: &&Row| row.toolkit.name() == toolkit && row.name == name;
        TABLE.iter().find(is_named).map(|row| row.tool)
    }

    /// Returns the toolkit of the tool.
    pub fn toolkit(self) -> Toolkit {
        self.row().toolkit
    }

    /// Returns the tool's name on the wire.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Whether the tool is called with `control/open` and receives chunks.
    pub fn is_streamed(self) -> bool {
        matches!(self.row().input, Input::Streamed)
    }

    /// Returns the JSON Schema of the tool's input; `None` for a streamed tool.
    ///
    /// ```
    /// # use meshagent_protocol::Tool;
    /// let schema = Tool::StorageMove.input_schema().ok_or("it takes JSON")?;
    /// assert_eq!(schema["required"][0], "source_path");
    /// # Ok::<(), &str>(())
    /// ```
    pub fn input_schema(self) -> Option<Value> {
        let Input::Json(fields) = self.row().input else {
            return None;
        };
        let property = |field: &Field| {
            let kind = match field.types {
                [only] => json!(only),
                several => json!(several),
            };
            let property = json!({ "type": kind, "description": field.description });
            (field.name.to_owned(), property)
        };
        let required = fields.iter().filter(|field| field.is_required);
        Some(json!({
            "type": "object",
            "properties": fields.iter().map(property).collect::<Map<_, _>>(),
            "required": required.map(|field| field.name).collect::<Vec<_>>(),
        }))
    }

    fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    fn describe(self) -> Value {
        let row = self.row();
        let spec = match self.input_schema() {
            Some(schema) => json!({ "types": ["json"], "stream": false, "schema": schema }),
            // The chunks are `binary`, but the published JavaScript SDK does not know that type and
            // would refuse the whole list; `file` is the only other type with bytes.
            None => json!({ "types": ["file"], "stream": true }),
        };
        json!({ "title": row.name, "description": row.description, "input_spec": spec })
    }
}

/// Returns the answer to `room.list_toolkits`.
///
/// ```text
/// {"tools": {toolkit: {title, description, tools: {tool: …}}}}
/// ```
///
/// ```
/// let answer = meshagent_protocol::describe_tools();
/// let patch = &answer["tools"]["sync"]["tools"]["patch"]["input_spec"];
/// assert_eq!(patch["schema"]["properties"]["patch"]["type"], "array");
/// ```
pub fn describe_tools() -> Value {
    let toolkit = |toolkit: Toolkit| {
        let tools = Tool::all().filter(|tool| tool.toolkit() == toolkit);
        let tools = tools.map(|tool| (tool.name().to_owned(), tool.describe()));
        let described = json!({
            "title": toolkit.title(),
            "description": toolkit.description(),
            "tools": tools.collect::<Map<_, _>>(),
        });
        (toolkit.name().to_owned(), described)
    };
    json!({ "tools": Toolkit::ALL.into_iter().map(toolkit).collect::<Map<_, _>>() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messaging::{BroadcastInput, SendInput};
    use crate::{Content, DocPath, storage, sync};

    #[test]
    fn the_table_has_the_order_of_the_tools() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.tool as usize, index, "{:?}", row.tool);
            assert_eq!(Tool::find(row.toolkit.name(), row.name), Some(row.tool));
        }
    }

    #[test]
    fn schemas_name_the_fields_that_the_inputs_have() {
        let path = || DocPath::parse("ä/日本").unwrap();
        let mut patch = sync::SyncPatch::new(path(), Vec::new());
        patch.if_version = Some("v".to_owned());
        patch.dry_run = true;
        let mut describe = sync::SyncDescribe::new(path());
        describe.include_ids = true;
        describe.with_version = true;
        describe.with_schema = true;
        let create = sync::SyncCreate {
            path: path(),
            json: None,
            schema: None,
            schema_path: None,
        };
        for (tool, content) in [
            (Tool::SyncCreate, create.to_content()),
            (Tool::SyncDescribe, describe.to_content()),
            (Tool::SyncPatch, patch.to_content()),
        ] {
            let Content::Json(input) = content else {
                panic!("{tool:?}: its input is JSON");
            };
            let schema = tool.input_schema().unwrap();
            let names = |value: &Value| {
                let mut names: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
                names.sort();
                names
            };
            assert_eq!(names(&schema["properties"]), names(&input), "{tool:?}");
        }
    }

    /// Every required field is reported if it is missing.
    #[test]
    fn inputs_without_required_field_are_rejected() {
        let parse = |tool: Tool, input: &Content| match tool {
            Tool::SyncCreate => sync::SyncCreate::parse(input).map(drop),
            Tool::SyncDescribe => sync::SyncDescribe::parse(input).map(drop),
            Tool::SyncPatch => sync::SyncPatch::parse(input).map(drop),
            Tool::MessagingSend => SendInput::parse(input).map(drop),
            Tool::MessagingBroadcast => BroadcastInput::parse(input).map(drop),
            Tool::StorageExists | Tool::StorageStat | Tool::StorageList => {
                storage::PathInput::parse(input).map(drop)
            }
            Tool::StorageDelete => storage::Delete::parse(input).map(drop),
            Tool::StorageMove => storage::Move::parse(input).map(drop),
            Tool::StorageDownloadUrl => storage::DownloadUrl::parse(input).map(drop),
            Tool::MessagingEnable | Tool::MessagingDisable => Ok(()),
            Tool::SyncOpen | Tool::StorageUpload | Tool::StorageDownload => {
                panic!("{tool:?} is streamed")
            }
        };
        for tool in Tool::all().filter(|tool| !tool.is_streamed()) {
            let schema = tool.input_schema().unwrap();
            let mut input = Map::new();
            for (name, property) in schema["properties"].as_object().unwrap() {
                let value = match &property["type"] {
                    Value::String(kind) if kind == "array" => json!([]),
                    Value::String(_) if name == "message_json" => json!("{}"),
                    Value::String(_) => json!("ä"),
                    _ => Value::Null,
                };
                input.insert(name.clone(), value);
            }
            let whole = Content::Json(input.clone().into());
            assert!(parse(tool, &whole).is_ok(), "{tool:?} takes {whole:?}");
            for name in schema["required"].as_array().unwrap() {
                let mut part = input.clone();
                part.remove(name.as_str().unwrap());
                let refused = parse(tool, &Content::Json(part.into()));
                assert!(refused.is_err(), "{tool:?} without {name}");
            }
        }
    }
}
