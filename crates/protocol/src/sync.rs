//! The toolkit `sync`: the inputs and outputs of `create`, `describe` and `open`.
//!
//! Says nothing about what an update or a schema means.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::code::ErrorCode;
use crate::content::Content;
use crate::field::Fields;
use crate::path::DocPath;
use crate::request::{
    InvalidBase64, InvalidRequest, binary, binary_input, decode_base64, encode_base64,
    file_path_field, json_input, opt_object_field, opt_path_field,
};

/// The input of `create`, answered by `empty`.
///
/// ```text
/// json {"path", "json": object or null, "schema": object or null, "schema_path": string or null}
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct SyncCreate {
    /// The document; never the root.
    pub path: DocPath,
    /// The document's content; an object.
    pub json: Option<Value>,
    /// The document's schema; an object.
    pub schema: Option<Value>,
    /// A file in room storage that holds the schema.
    pub schema_path: Option<DocPath>,
}

impl SyncCreate {
    /// Reads the input.
    ///
    /// # Errors
    ///
    /// When a field is missing or wrong.
    pub fn parse(content: &Content) -> Result<Self, InvalidRequest> {
        let fields = json_input(content)?;
        Ok(Self {
            path: file_path_field(fields, "path", ErrorCode::InvalidRequest)?,
            json: opt_object_field(fields, "json")?,
            schema: opt_object_field(fields, "schema")?,
            schema_path: opt_path_field(fields, "schema_path")?,
        })
    }

    /// The input as the SDKs send it.
    pub fn to_content(&self) -> Content {
        Content::Json(json!({
            "path": self.path.as_str(),
            "json": self.json,
            "schema": self.schema,
            "schema_path": self.schema_path.as_ref().map(DocPath::as_str),
        }))
    }
}

/// The input of `describe`, answered by a `json` content.
///
/// ```text
/// json {"path", "schema_path": string or null}
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyncDescribe {
    /// The document; never the root.
    pub path: DocPath,
    /// A file in room storage that holds the schema.
    pub schema_path: Option<DocPath>,
}

impl SyncDescribe {
    /// Reads the input.
    ///
    /// # Errors
    ///
    /// When a field is missing or wrong.
    pub fn parse(content: &Content) -> Result<Self, InvalidRequest> {
        let fields = json_input(content)?;
        Ok(Self {
            path: file_path_field(fields, "path", ErrorCode::InvalidRequest)?,
            schema_path: opt_path_field(fields, "schema_path")?,
        })
    }

    /// The input as the SDKs send it.
    pub fn to_content(&self) -> Content {
        Content::Json(json!({
            "path": self.path.as_str(),
            "schema_path": self.schema_path.as_ref().map(DocPath::as_str),
        }))
    }
}

/// The first chunk that a client sends in `open`.
///
/// ```text
/// binary {"kind": "start", "path", "create": bool, "vector": base64 or null,
///         "schema": object or null, "schema_path": string or null, "initial_json": object or null,
///         "merge": bool}
/// ```
///
/// Only `kind` and `path` are mandatory.
#[derive(Clone, PartialEq, Debug)]
pub struct SyncOpenStart {
    /// The document; never the root.
    pub path: DocPath,
    /// Whether to create the document if it does not exist; absent means true.
    pub create: bool,
    /// The client's state vector, decoded from base64 and not looked into.
    pub vector: Option<Vec<u8>>,
    /// The schema of a new document; an object.
    pub schema: Option<Value>,
    /// A file in room storage that holds the schema of a new document.
    pub schema_path: Option<DocPath>,
    /// The content of a new document; an object.
    pub initial_json: Option<Value>,
    /// Whether the client takes changes merged that became durable together; absent means no, and only insertions
    /// are merged. The published SDKs never ask for it: they lose count when one update deletes in two places.
    pub merge: bool,
}

impl SyncOpenStart {
    /// The first chunk for a document, with everything else as if absent.
    pub fn new(path: DocPath) -> Self {
        Self {
            path,
            create: true,
            vector: None,
            schema: None,
            schema_path: None,
            initial_json: None,
            merge: false,
        }
    }

    /// Reads the chunk.
    ///
    /// # Errors
    ///
    /// When it is not a start chunk, or a field is missing or wrong.
    pub fn parse(content: &Content) -> Result<Self, InvalidRequest> {
        let (fields, _) = binary_input(content)?;
        expect_kind(fields, "start")?;
        let vector = fields
            .opt_string("vector")?
            .filter(|text| !text.is_empty())
            .map(|text| decode_base64(text.as_bytes()))
            .transpose()
            .map_err(|error| InvalidRequest::new(format!("in the field `vector`: {error}")))?;
        Ok(Self {
            path: file_path_field(fields, "path", ErrorCode::InvalidRequest)?,
            create: fields.opt_bool("create")?.unwrap_or(true),
            vector,
            schema: opt_object_field(fields, "schema")?,
            schema_path: opt_path_field(fields, "schema_path")?,
            initial_json: opt_object_field(fields, "initial_json")?,
            merge: fields.opt_bool("merge")?.unwrap_or(false),
        })
    }

    /// The chunk as the SDKs send it; with `merge` only if it is asked for.
    pub fn to_content(&self) -> Content {
        let vector = self
            .vector
            .as_ref()
            .map(|vector| String::from_utf8_lossy(&encode_base64(vector)).into_owned());
        let mut headers = json!({
            "kind": "start",
            "path": self.path.as_str(),
            "create": self.create,
            "vector": vector,
            "schema": self.schema,
            "schema_path": self.schema_path.as_ref().map(DocPath::as_str),
            "initial_json": self.initial_json,
        });
        if self.merge {
            headers["merge"] = true.into();
        }
        binary(headers, Bytes::new())
    }
}

/// An update that a client sends in `open`, after the start chunk.
///
/// ```text
/// binary {"kind": "sync"} | base64 text of an update
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyncChunk {
    /// The update as base64 text, so that its size can be judged before it is decoded.
    pub payload: Bytes,
}

impl SyncChunk {
    /// Reads the chunk.
    ///
    /// # Errors
    ///
    /// When it is not a sync chunk. Whether its payload is base64 is seen by
    /// [`decode`](Self::decode).
    pub fn parse(content: &Content) -> Result<Self, InvalidRequest> {
        let (fields, data) = binary_input(content)?;
        expect_kind(fields, "sync")?;
        Ok(Self {
            payload: data.clone(),
        })
    }

    /// The update; empty if the payload is.
    ///
    /// # Errors
    ///
    /// When the payload is not base64.
    pub fn decode(&self) -> Result<Vec<u8>, InvalidBase64> {
        decode_base64(&self.payload)
    }

    /// At most how many bytes [`decode`](Self::decode) yields.
    pub fn max_decoded_bytes(&self) -> usize {
        self.payload.len().div_ceil(4) * 3
    }

    /// The chunk that carries an update.
    pub fn of_update(update: &[u8]) -> Content {
        binary(json!({"kind": "sync"}), encode_base64(update))
    }
}

/// The first chunk that the server sends in `open`: what brings the client up to date.
///
/// ```text
/// binary {"kind": "state", "path", "schema"} | base64 text of an update, or nothing
/// ```
///
/// The Python SDK refuses any other header.
pub fn state(path: &str, schema: &Value, payload_base64: Bytes) -> Content {
    let headers = json!({"kind": "state", "path": path, "schema": schema});
    binary(headers, payload_base64)
}

/// Any later chunk of the server in `open`: an update.
///
/// ```text
/// binary {"kind": "sync", "path"} | base64 text of an update
/// ```
///
/// The Python SDK refuses any other header.
pub fn sync(path: &str, payload_base64: Bytes) -> Content {
    binary(json!({"kind": "sync", "path": path}), payload_base64)
}

/// What the server sends in `open`, as a client reads it.
#[derive(Clone, PartialEq, Debug)]
pub enum SyncOutput {
    /// The first chunk.
    State {
        /// The document's path, normalised.
        path: String,
        /// The document's schema; an object.
        schema: Value,
        /// The update that brings the client up to date, decoded; maybe empty.
        update: Vec<u8>,
    },
    /// A later chunk.
    Sync {
        /// The document's path, normalised.
        path: String,
        /// The update, decoded.
        update: Vec<u8>,
    },
}

impl SyncOutput {
    /// Reads a chunk of the server.
    ///
    /// # Errors
    ///
    /// When it is neither of the two.
    pub fn parse(content: &Content) -> Result<Self, InvalidRequest> {
        let (fields, data) = binary_input(content)?;
        let path = fields.string("path")?.to_owned();
        let update = decode_base64(data)?;
        match fields.string("kind")? {
            "state" => Ok(Self::State {
                path,
                schema: fields.object("schema")?.clone().into(),
                update,
            }),
            "sync" => Ok(Self::Sync { path, update }),
            _ => Err(InvalidRequest::new(
                "the header `kind` must be `state` or `sync`",
            )),
        }
    }
}

fn expect_kind(fields: Fields<'_>, kind: &'static str) -> Result<(), InvalidRequest> {
    if fields.string("kind")? == kind {
        return Ok(());
    }
    Err(InvalidRequest::new(format!(
        "the header `kind` must be `{kind}` here: one `start`, then any number of `sync`"
    )))
}
