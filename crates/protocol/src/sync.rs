//! The toolkit `sync`: the inputs and outputs of `create`, `describe`, `patch` and `open`.
//!
//! Says nothing about what an update or a schema means.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::code::ErrorCode;
use crate::content::Content;
use crate::field::Fields;
use crate::path::DocPath;
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
        Self::from_content(content.clone())
    }

    /// Reads the input without a copy of what it brings.
    ///
    /// # Errors
    ///
    /// When a field is missing or wrong.
    pub fn from_content(content: Content) -> Result<Self, InvalidRequest> {
        let mut input = into_json_input(content)?;
        Ok(Self {
            path: file_path_field(Fields(&input), "path", ErrorCode::InvalidRequest)?,
            json: take_opt_object(&mut input, "json")?,
            schema: take_opt_object(&mut input, "schema")?,
            schema_path: opt_path_field(Fields(&input), "schema_path")?,
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

/// The input of `describe`, answered by a `json` content, [`SyncDescribed`].
///
/// ```text
/// json {"path", "schema_path": string or null, "include_ids": bool, "with_version": bool, "with_schema": bool}
/// ```
///
/// The published SDKs send the first two fields only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyncDescribe {
    /// The document; never the root.
    pub path: DocPath,
    /// A file in room storage that holds the schema.
    pub schema_path: Option<DocPath>,
    /// Whether elements are shown with their `$id`s; absent means no.
    pub include_ids: bool,
    /// Whether the version is told too; absent means no.
    pub with_version: bool,
    /// Whether the schema is told too; absent means no.
    pub with_schema: bool,
}

impl SyncDescribe {
    /// What the published SDKs ask for.
    pub fn new(path: DocPath) -> Self {
        Self {
            path,
            schema_path: None,
            include_ids: false,
            with_version: false,
            with_schema: false,
        }
    }

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
            include_ids: fields.opt_bool("include_ids")?.unwrap_or(false),
            with_version: fields.opt_bool("with_version")?.unwrap_or(false),
            with_schema: fields.opt_bool("with_schema")?.unwrap_or(false),
        })
    }

    /// The input as the SDKs send it; with the other fields only if they are asked for.
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
/// The second form is the answer to `with_version` or `with_schema`, with the field that was asked for.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct SyncDescribed {
    /// The root element.
    pub json: Value,
    /// Names the state that is shown; see [`SyncPatch::if_version`].
    pub version: Option<String>,
    /// The document's schema.
    pub schema: Option<Value>,
}

impl SyncDescribed {
    /// An answer with what was asked for.
    pub fn new(json: Value, version: Option<String>, schema: Option<Value>) -> Self {
        Self {
            json,
            version,
            schema,
        }
    }

    /// Reads either form, as a server that doesn't know the second one answers by the first.
    ///
    /// # Errors
    ///
    /// When it is none of the two.
    pub fn parse(content: &Content) -> Result<Self, InvalidRequest> {
        let fields = json_input(content)?;
        let (version, schema) = (fields.value("version"), fields.value("schema"));
        match fields.value("json") {
            // A document is one element, so of one member.
            Some(json) if version.is_some() || schema.is_some() => Ok(Self {
                json: json.clone(),
                version: fields.opt_string("version")?.map(str::to_owned),
                schema: opt_object_field(fields, "schema")?,
            }),
            _ => Ok(Self::new(fields.0.clone().into(), None, None)),
        }
    }

    /// The answer.
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
    /// The operations of a JSON Patch (RFC 6902), not looked into.
    pub patch: Vec<Value>,
    /// The version that the document must have; anything else is refused with 1005.
    pub if_version: Option<String>,
    /// Whether the patch is only checked; absent means no.
    pub dry_run: bool,
}

impl SyncPatch {
    /// A patch that is applied to whatever version there is.
    pub fn new(path: DocPath, patch: Vec<Value>) -> Self {
        Self {
            path,
            patch,
            if_version: None,
            dry_run: false,
        }
    }

    /// Reads the input.
    ///
    /// # Errors
    ///
    /// When a field is missing or wrong.
    pub fn parse(content: &Content) -> Result<Self, InvalidRequest> {
        Self::from_content(content.clone())
    }

    /// Reads the input without a copy of the operations.
    ///
    /// # Errors
    ///
    /// When a field is missing or wrong.
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

    /// The input; with what is optional only if it is asked for.
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

/// The answer to `patch`: it was applied, or would be.
///
/// ```text
/// json {"version", "operations": [{"op", "path", "result": "applied" or "no change"}, …], "dry_run": true}
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SyncPatched {
    /// The document's version with the patch in it; after a dry run the one that it has.
    pub version: String,
    /// What became of each operation, in the patch's order.
    pub operations: Vec<SyncPatchedOperation>,
    /// Whether nothing was changed because that was asked for; the field is absent if not.
    pub dry_run: bool,
}

/// What became of an operation of a patch that was applied.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SyncPatchedOperation {
    /// Its `op`.
    pub op: String,
    /// Its `path`.
    pub path: String,
    /// Whether it changed something: a `test` never does.
    pub changed: bool,
}

impl SyncPatched {
    /// The answer to a patch of these operations, of which those have `changed` something.
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

    /// Reads the answer.
    ///
    /// # Errors
    ///
    /// When a field is missing or wrong.
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

    /// The answer.
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
    /// The identity of the document that the client has something of, as the server told it; empty to ask for it alone;
    /// absent for none of both, as in the published SDKs. If the path has another document now, the client gets all of
    /// that: what its vector says is about the other one.
    pub identity: Option<String>,
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
            identity: None,
        }
    }

    /// Reads the chunk.
    ///
    /// # Errors
    ///
    /// When it is not a start chunk, or a field is missing or wrong.
    pub fn parse(content: &Content) -> Result<Self, InvalidRequest> {
        Self::from_content(content.clone())
    }

    /// Reads the chunk without a copy of what it brings.
    ///
    /// # Errors
    ///
    /// When it is not a start chunk, or a field is missing or wrong.
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

    /// The chunk as the SDKs send it; with `merge` and `identity` only if they are asked for.
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

/// The result of an operation that changed something.
const APPLIED: &str = "applied";
