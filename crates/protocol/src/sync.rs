//! The toolkit `sync`: the inputs and outputs of `create`, `describe`, `patch` and `open`.
//!
//! Updates and schemas are not interpreted here.

use bytes::Bytes;
use meshagent_rights::DocPath;
use serde_json::{Map, Value, json};

use crate::code::ErrorCode;
use crate::content::Content;
use crate::field::Fields;
use crate::request::{
    InvalidBase64, InvalidRequest, binary, binary_input, decode_base64, encode_base64,
    file_path_field, into_json_input, json_input, opt_object_field, opt_path_field,
    take_opt_object,
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
    /// The path of the schema in room storage.
    pub schema_path: Option<DocPath>,
}

impl SyncCreate {
    /// Parses the input.
    ///
    /// # Errors
    ///
    /// If a field is missing or malformed.
    pub fn parse(content: &Content) -> Result<Self, InvalidRequest> {
        Self::from_content(content.clone())
    }

    /// Parses the input without a copy of its values.
    ///
    /// # Errors
    ///
    /// If a field is missing or malformed.
    pub fn from_content(content: Content) -> Result<Self, InvalidRequest> {
        let mut input = into_json_input(content)?;
        Ok(Self {
            path: file_path_field(Fields(&input), "path", ErrorCode::InvalidRequest)?,
            json: take_opt_object(&mut input, "json")?,
            schema: take_opt_object(&mut input, "schema")?,
            schema_path: opt_path_field(Fields(&input), "schema_path")?,
        })
    }

    /// Returns the input as the SDKs send it.
    pub fn to_content(&self) -> Content {
        Content::Json(json!({
            "path": self.path.as_str(),
            "json": self.json,
            "schema": self.schema,
            "schema_path": self.schema_path.as_ref().map(DocPath::as_str),
        }))
    }
}

/// The input of `describe`, answered by a `json` content, [`SyncDescribed`].
///
/// ```text
/// json {"path", "schema_path": string or null, "include_ids": bool, "with_version": bool,
///       "with_schema": bool}
/// ```
///
/// The published SDKs send the first two fields only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyncDescribe {
    /// The document; never the root.
    pub path: DocPath,
    /// The path of the schema in room storage.
    pub schema_path: Option<DocPath>,
    /// Whether elements include their `$id`s. Default: false.
    pub include_ids: bool,
    /// Whether the answer includes the version. Default: false.
    pub with_version: bool,
    /// Whether the answer includes the schema. Default: false.
    pub with_schema: bool,
}

impl SyncDescribe {
    /// Creates the input of the published SDKs.
    pub fn new(path: DocPath) -> Self {
        Self {
            path,
            schema_path: None,
            include_ids: false,
            with_version: false,
            with_schema: false,
        }
    }

    /// Parses the input.
    ///
    /// # Errors
    ///
    /// If a field is missing or malformed.
    pub fn parse(content: &Content) -> Result<Self, InvalidRequest> {
        let fields = json_input(content)?;
        Ok(Self {
            path: file_path_field(fields, "path", ErrorCode::InvalidRequest)?,
            schema_path: opt_path_field(fields, "schema_path")?,
            include_ids: fields.opt_bool("include_ids")?.unwrap_or(false),
            with_version: fields.opt_bool("with_version")?.unwrap_or(false),
            with_schema: fields.opt_bool("with_schema")?.unwrap_or(false),
        })
    }

    /// Returns the input as the SDKs send it; other fields are included only if set.
    pub fn to_content(&self) -> Content {
        let mut input = json!({
            "path": self.path.as_str(),
            "schema_path": self.schema_path.as_ref().map(DocPath::as_str),
        });
        for (name, is_asked) in [
            ("include_ids", self.include_ids),
            ("with_version", self.with_version),
            ("with_schema", self.with_schema),
        ] {
            if is_asked {
                input[name] = true.into();
            }
        }
        Content::Json(input)
    }
}

/// The answer to `describe`.
///
/// ```text
/// json the root element, {tag: {attributes…, children: […]}}
/// json {"json": the root element, "version": string, "schema": object}
/// ```
///
/// The second form is the answer to `with_version` or `with_schema`, with the requested fields.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct SyncDescribed {
    /// The root element.
    pub json: Value,
    /// Identifies the described state; see [`SyncPatch::if_version`].
    pub version: Option<String>,
    /// The document's schema.
    pub schema: Option<Value>,
}

impl SyncDescribed {
    /// Creates an answer with the requested fields.
    pub fn new(json: Value, version: Option<String>, schema: Option<Value>) -> Self {
        Self {
            json,
            version,
            schema,
        }
    }

    /// Parses either form, since a server without the second one answers in the first.
    ///
    /// # Errors
    ///
    /// If it has neither form.
    pub fn parse(content: &Content) -> Result<Self, InvalidRequest> {
        let fields = json_input(content)?;
        let (version, schema) = (fields.value("version"), fields.value("schema"));
        match fields.value("json") {
            // A document is one element and so has one member.
            Some(json) if version.is_some() || schema.is_some() => Ok(Self {
                json: json.clone(),
                version: fields.opt_string("version")?.map(str::to_owned),
                schema: opt_object_field(fields, "schema")?,
            }),
            _ => Ok(Self::new(fields.0.clone().into(), None, None)),
        }
    }

    /// Returns the answer as content.
    pub fn into_content(self) -> Content {
        if self.version.is_none() && self.schema.is_none() {
            return Content::Json(self.json);
        }
        let mut answer = Map::from_iter([("json".to_owned(), self.json)]);
        let version = self.version.map(|version| ("version", version.into()));
        let schema = self.schema.map(|schema| ("schema", schema));
        let others = version.into_iter().chain(schema);
        answer.extend(others.map(|(name, value)| (name.to_owned(), value)));
        Content::Json(answer.into())
    }
}

/// The input of `patch`, answered by [`SyncPatched`]. The published SDKs don't have this tool.
///
/// ```text
/// json {"path", "patch": list, "if_version": string or null, "dry_run": bool}
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct SyncPatch {
    /// The document; never the root.
    pub path: DocPath,
    /// The operations of a JSON Patch (RFC 6902), not parsed.
    pub patch: Vec<Value>,
    /// The version that the document must have; with another version the patch is rejected
    /// with 1005.
    pub if_version: Option<String>,
    /// Whether the patch is only checked. Default: false.
    pub dry_run: bool,
}

impl SyncPatch {
    /// Creates a patch for any version.
    pub fn new(path: DocPath, patch: Vec<Value>) -> Self {
        Self {
            path,
            patch,
            if_version: None,
            dry_run: false,
        }
    }

    /// Parses the input.
    ///
    /// # Errors
    ///
    /// If a field is missing or malformed.
    pub fn parse(content: &Content) -> Result<Self, InvalidRequest> {
        Self::from_content(content.clone())
    }

    /// Parses the input without a copy of the operations.
    ///
    /// # Errors
    ///
    /// If a field is missing or malformed.
    pub fn from_content(content: Content) -> Result<Self, InvalidRequest> {
        let mut input = into_json_input(content)?;
        let path = file_path_field(Fields(&input), "path", ErrorCode::InvalidRequest)?;
        Fields(&input).list("patch")?;
        let patch = match input.swap_remove("patch") {
            Some(Value::Array(patch)) => patch,
            _ => Vec::new(),
        };
        let fields = Fields(&input);
        Ok(Self {
            path,
            patch,
            if_version: fields.opt_string("if_version")?.map(str::to_owned),
            dry_run: fields.opt_bool("dry_run")?.unwrap_or(false),
        })
    }

    /// Returns the input; optional fields are included only if set.
    pub fn to_content(&self) -> Content {
        let mut input = json!({ "path": self.path.as_str(), "patch": self.patch });
        if let Some(version) = &self.if_version {
            input["if_version"] = version.as_str().into();
        }
        if self.dry_run {
            input["dry_run"] = true.into();
        }
        Content::Json(input)
    }
}

/// The answer to `patch`: it was applied, or could be.
///
/// ```text
/// json {"version", "operations": [{"op", "path", "result": "applied" or "no change"}, …],
///       "dry_run": true}
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SyncPatched {
    /// The document's version after the patch; after a dry run the current version.
    pub version: String,
    /// The result of each operation, in the patch's order.
    pub operations: Vec<SyncPatchedOperation>,
    /// Whether the patch was only checked; absent on the wire if not.
    pub dry_run: bool,
}

/// The result of one operation of an applied patch.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SyncPatchedOperation {
    /// The `op` of the operation.
    pub op: String,
    /// The `path` of the operation.
    pub path: String,
    /// Whether it changed something; a `test` never does.
    pub changed: bool,
}

impl SyncPatched {
    /// Creates the answer to a patch; `changed` has one entry per operation.
    pub fn new(version: String, patch: &[Value], changed: &[bool], dry_run: bool) -> Self {
        let member = |operation: &Value, name| operation[name].as_str().unwrap_or_default().into();
        let operations = patch.iter().zip(changed);
        let operations = operations.map(|(operation, &changed)| SyncPatchedOperation {
            op: member(operation, "op"),
            path: member(operation, "path"),
            changed,
        });
        Self {
            version,
            operations: operations.collect(),
            dry_run,
        }
    }

    /// Parses the answer.
    ///
    /// # Errors
    ///
    /// If a field is missing or malformed.
    pub fn parse(content: &Content) -> Result<Self, InvalidRequest> {
        let fields = json_input(content)?;
        let read = |operation: &Value| {
            let operation = operation.as_object().map(Fields).ok_or_else(|| {
                InvalidRequest::new("the field `operations` must be a list of objects")
            })?;
            Ok(SyncPatchedOperation {
                op: operation.string("op")?.to_owned(),
                path: operation.string("path")?.to_owned(),
                changed: operation.string("result")? == APPLIED,
            })
        };
        let operations = fields.list("operations")?.iter().map(read);
        Ok(Self {
            version: fields.string("version")?.to_owned(),
            operations: operations.collect::<Result<_, InvalidRequest>>()?,
            dry_run: fields.opt_bool("dry_run")?.unwrap_or(false),
        })
    }

    /// Returns the answer as content.
    pub fn to_content(&self) -> Content {
        let operations = self.operations.iter().map(|one| {
            let result = if one.changed { APPLIED } else { "no change" };
            json!({ "op": one.op, "path": one.path, "result": result })
        });
        let operations: Vec<Value> = operations.collect();
        let mut answer = json!({ "version": self.version, "operations": operations });
        if self.dry_run {
            answer["dry_run"] = true.into();
        }
        Content::Json(answer)
    }
}

/// The first chunk that a client sends in `open`.
///
/// ```text
/// binary {"kind": "start", "path", "create": bool, "vector": base64 or null,
///         "schema": object or null, "schema_path": string or null, "initial_json": object or null,
///         "merge": bool, "identity": string or null}
/// ```
///
/// Only `kind` and `path` are mandatory.
#[derive(Clone, PartialEq, Debug)]
pub struct SyncOpenStart {
    /// The document; never the root.
    pub path: DocPath,
    /// Whether to create a missing document. Default: true.
    pub create: bool,
    /// The client's state vector, decoded from base64 and not parsed.
    pub vector: Option<Vec<u8>>,
    /// The schema of a new document; an object.
    pub schema: Option<Value>,
    /// The path of a new document's schema in room storage.
    pub schema_path: Option<DocPath>,
    /// The content of a new document; an object.
    pub initial_json: Option<Value>,
    /// Whether the client accepts one merged update for all changes that became durable together.
    /// Default: false, and only insertions are merged. The published SDKs never set it: they lose
    /// count if one update deletes at two places.
    pub merge: bool,
    /// The identity of the document that the client has a copy of, as the server reported it. An
    /// empty string only requests the identity. Absent, as in the published SDKs, means neither. If
    /// another document is at the path now, the client gets its full state, since the vector refers
    /// to the old document.
    pub identity: Option<String>,
}

impl SyncOpenStart {
    /// Creates the first chunk for a document, without optional fields.
    pub fn new(path: DocPath) -> Self {
        Self {
            path,
            create: true,
            vector: None,
            schema: None,
            schema_path: None,
            initial_json: None,
            merge: false,
            identity: None,
        }
    }

    /// Parses the chunk.
    ///
    /// # Errors
    ///
    /// If it is not a start chunk, or a field is missing or malformed.
    pub fn parse(content: &Content) -> Result<Self, InvalidRequest> {
        Self::from_content(content.clone())
    }

    /// Parses the chunk without a copy of its values.
    ///
    /// # Errors
    ///
    /// If it is not a start chunk, or a field is missing or malformed.
    pub fn from_content(content: Content) -> Result<Self, InvalidRequest> {
        expect_kind(binary_input(&content)?.0, "start")?;
        let mut headers = match content {
            Content::Binary { headers, .. } => headers,
            _ => Map::new(),
        };
        let schema = take_opt_object(&mut headers, "schema")?;
        let initial_json = take_opt_object(&mut headers, "initial_json")?;
        let fields = Fields(&headers);
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
            schema,
            schema_path: opt_path_field(fields, "schema_path")?,
            initial_json,
            merge: fields.opt_bool("merge")?.unwrap_or(false),
            identity: fields.opt_string("identity")?.map(str::to_owned),
        })
    }

    /// Returns the chunk as the SDKs send it; `merge` and `identity` are included only if set.
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
        if let Some(identity) = &self.identity {
            headers["identity"] = identity.as_str().into();
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
    /// The update as base64 text, so that its size can be checked before it is decoded.
    pub payload: Bytes,
}

impl SyncChunk {
    /// Parses the chunk.
    ///
    /// # Errors
    ///
    /// If it is not a sync chunk. Whether the payload is base64 is checked
    /// by [`decode`](Self::decode).
    pub fn parse(content: &Content) -> Result<Self, InvalidRequest> {
        let (fields, data) = binary_input(content)?;
        expect_kind(fields, "sync")?;
        Ok(Self {
            payload: data.clone(),
        })
    }

    /// Decodes the update; empty if the payload is.
    ///
    /// # Errors
    ///
    /// If the payload is not base64.
    pub fn decode(&self) -> Result<Vec<u8>, InvalidBase64> {
        decode_base64(&self.payload)
    }

    /// An upper bound for the bytes that [`decode`](Self::decode) returns.
    pub fn max_decoded_bytes(&self) -> usize {
        self.payload.len().div_ceil(4) * 3
    }

    /// Returns the chunk with an update.
    pub fn of_update(update: &[u8]) -> Content {
        binary(json!({"kind": "sync"}), encode_base64(update))
    }
}

/// Returns the first chunk of the server in `open`, which brings the client up to date.
///
/// ```text
/// binary {"kind": "state", "path", "schema"} | base64 text of an update, or nothing
/// ```
///
/// The Python SDK rejects other headers.
pub fn state(path: &str, schema: &Value, payload_base64: Bytes) -> Content {
    let headers = json!({"kind": "state", "path": path, "schema": schema});
    binary(headers, payload_base64)
}

/// Returns a later chunk of the server in `open`: an update.
///
/// ```text
/// binary {"kind": "sync", "path"} | base64 text of an update
/// ```
///
/// The Python SDK rejects other headers.
pub fn sync(path: &str, payload_base64: Bytes) -> Content {
    binary(json!({"kind": "sync", "path": path}), payload_base64)
}

/// The server's chunk in `open`.
#[derive(Clone, PartialEq, Debug)]
pub enum SyncOutput {
    /// The first chunk.
    State {
        /// The document's path, normalised.
        path: String,
        /// The document's schema; an object.
        schema: Value,
        /// The update that brings the client up to date, decoded; possibly empty.
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
    /// Parses a chunk of the server.
    ///
    /// # Errors
    ///
    /// If it is of another kind.
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

/// The result of an operation that changed something.
const APPLIED: &str = "applied";
