//! The toolkit `storage`: the inputs and outputs of its eight tools.
//!
//! The shapes are those that the published SDKs validate; the Python SDK rejects unknown keys.
//! `upload` and `download` are streamed with back-pressure: the receiver requests each chunk.

use bytes::Bytes;
use meshagent_rights::DocPath;
use serde_json::{Map, Value, json};

use crate::code::ErrorCode;
use crate::content::Content;
use crate::field::{Fields, InvalidField};
use crate::request::{
    InvalidRequest, binary, binary_input, file_path_field, json_input, path_field,
};

/// The input of `exists`, `stat` and `list`: `json {"path"}`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathInput {
    /// A file, a document, a folder or the root.
    pub path: DocPath,
}

impl PathInput {
    /// Parses the input.
    ///
    /// # Errors
    ///
    /// If the path is missing or invalid.
    pub fn parse(content: &Content) -> Result<Self, InvalidRequest> {
        let fields = json_input(content)?;
        let path = path_field(fields, "path", BAD_PATH)?;
        Ok(Self { path })
    }

    /// Returns the input as the SDKs send it.
    pub fn to_content(&self) -> Content {
        Content::Json(json!({"path": self.path.as_str()}))
    }
}

/// The input of `delete`, answered by `empty`: `json {"path", "recursive": bool or null}`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delete {
    /// The path to delete; never the root.
    pub path: DocPath,
    /// Whether a folder may be deleted with its content.
    pub recursive: bool,
}

impl Delete {
    /// Parses the input.
    ///
    /// # Errors
    ///
    /// If a field is missing or malformed.
    pub fn parse(content: &Content) -> Result<Self, InvalidRequest> {
        let fields = json_input(content)?;
        Ok(Self {
            path: file_path_field(fields, "path", BAD_PATH)?,
            recursive: fields.opt_bool("recursive")?.unwrap_or(false),
        })
    }

    /// Returns the input as the SDKs send it.
    pub fn to_content(&self) -> Content {
        Content::Json(json!({"path": self.path.as_str(), "recursive": self.recursive}))
    }
}

/// The input of `move`, answered by `empty`.
///
/// ```text
/// json {"source_path", "destination_path", "overwrite": bool}
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Move {
    /// The current path; never the root.
    pub source_path: DocPath,
    /// The new path; never the root.
    pub destination_path: DocPath,
    /// Whether an existing destination is replaced.
    pub overwrite: bool,
}

impl Move {
    /// Parses the input.
    ///
    /// # Errors
    ///
    /// If a field is missing or malformed.
    pub fn parse(content: &Content) -> Result<Self, InvalidRequest> {
        let fields = json_input(content)?;
        Ok(Self {
            source_path: file_path_field(fields, "source_path", BAD_PATH)?,
            destination_path: file_path_field(fields, "destination_path", BAD_PATH)?,
            overwrite: fields.opt_bool("overwrite")?.unwrap_or(false),
        })
    }

    /// Returns the input as the SDKs send it.
    pub fn to_content(&self) -> Content {
        Content::Json(json!({
            "source_path": self.source_path.as_str(),
            "destination_path": self.destination_path.as_str(),
            "overwrite": self.overwrite,
        }))
    }
}

/// The input of `download_url`: `json {"path", "download": bool or null}`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DownloadUrl {
    /// The file; never the root.
    pub path: DocPath,
    /// Whether a browser should save the file rather than show it.
    pub download: bool,
}

impl DownloadUrl {
    /// Parses the input.
    ///
    /// # Errors
    ///
    /// If a field is missing or malformed.
    pub fn parse(content: &Content) -> Result<Self, InvalidRequest> {
        let fields = json_input(content)?;
        Ok(Self {
            path: file_path_field(fields, "path", BAD_PATH)?,
            download: fields.opt_bool("download")?.unwrap_or(false),
        })
    }

    /// Returns the input as the SDKs send it.
    pub fn to_content(&self) -> Content {
        Content::Json(json!({"path": self.path.as_str(), "download": self.download}))
    }
}

/// A file, a document or a folder, as described by `stat` and `list`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The last segment of its path.
    pub name: String,
    /// Whether it is a folder.
    pub is_folder: bool,
    /// The size in bytes; folders have none.
    pub size: Option<u64>,
    /// The time of its creation, in the form of [`rfc3339`].
    pub created_at: Option<String>,
    /// The time of its last change, in the form of [`rfc3339`].
    pub updated_at: Option<String>,
}

impl Entry {
    pub(crate) fn to_json(&self) -> Map<String, Value> {
        let mut json = Map::new();
        json.insert("name".to_owned(), self.name.clone().into());
        json.insert("is_folder".to_owned(), self.is_folder.into());
        json.insert("size".to_owned(), self.size.into());
        json.insert("created_at".to_owned(), self.created_at.clone().into());
        json.insert("updated_at".to_owned(), self.updated_at.clone().into());
        json
    }

    fn from_fields(fields: Fields<'_>) -> Result<Self, InvalidField> {
        let is_folder = fields.opt_bool("is_folder")?.ok_or(InvalidField::Missing {
            field: "is_folder",
            expected: "true or false",
        })?;
        Ok(Self {
            name: fields.string("name")?.to_owned(),
            is_folder,
            size: fields.opt_u64("size")?,
            created_at: fields.opt_string("created_at")?.map(str::to_owned),
            updated_at: fields.opt_string("updated_at")?.map(str::to_owned),
        })
    }
}

/// Returns the answer to `exists`.
pub fn exists(exists: bool) -> Content {
    Content::Json(json!({"exists": exists}))
}

/// Parses the answer to `exists`.
///
/// # Errors
///
/// If a field is missing or malformed.
pub fn parse_exists(content: &Content) -> Result<bool, InvalidRequest> {
    let exists = json_input(content)?.opt_bool("exists")?;
    exists.ok_or_else(|| InvalidRequest::new("the field `exists` is missing"))
}

/// Returns the answer to `stat`: `{"exists": false}`, or true with the fields of an entry.
pub fn stat(entry: Option<&Entry>) -> Content {
    let Some(entry) = entry else {
        return exists(false);
    };
    let mut json = Map::new();
    json.insert("exists".to_owned(), true.into());
    json.append(&mut entry.to_json());
    Content::Json(json.into())
}

/// Parses the answer to `stat`.
///
/// # Errors
///
/// If a field is missing or malformed.
pub fn parse_stat(content: &Content) -> Result<Option<Entry>, InvalidRequest> {
    if !parse_exists(content)? {
        return Ok(None);
    }
    Ok(Some(Entry::from_fields(json_input(content)?)?))
}

/// Returns the answer to `list`: `{"files": [entry]}`.
pub fn list(entries: &[Entry]) -> Content {
    let files: Vec<Value> = entries.iter().map(|entry| entry.to_json().into()).collect();
    Content::Json(json!({"files": files}))
}

/// Parses the answer to `list`.
///
/// # Errors
///
/// If a field is missing or malformed.
pub fn parse_list(content: &Content) -> Result<Vec<Entry>, InvalidRequest> {
    let files = json_input(content)?.list("files")?;
    files
        .iter()
        .map(|file| match file {
            Value::Object(file) => Ok(Entry::from_fields(Fields(file))?),
            _ => Err(InvalidRequest::new("an entry of `files` is not an object")),
        })
        .collect()
}

/// Returns the answer to `download_url`: `{"url"}`.
pub fn download_url(url: &str) -> Content {
    Content::Json(json!({"url": url}))
}

/// Parses the answer to `download_url`.
///
/// # Errors
///
/// If a field is missing or malformed.
pub fn parse_download_url(content: &Content) -> Result<String, InvalidRequest> {
    Ok(json_input(content)?.string("url")?.to_owned())
}

/// A client's chunk in `upload`. A `control/close` ends the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UploadChunk {
    /// The first chunk.
    Start(UploadStart),
    /// The bytes that a pull asked for.
    ///
    /// ```text
    /// binary {"kind": "data"} | bytes
    /// ```
    Data(Bytes),
}

/// The first chunk of an upload.
///
/// ```text
/// binary {"kind": "start", "path", "overwrite": bool, "name", "mime_type", "size"}
/// ```
///
/// The last three may be null.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UploadStart {
    /// The file; never the root.
    pub path: DocPath,
    /// Whether an existing file is replaced.
    pub overwrite: bool,
    /// The file's name, for people.
    pub name: Option<String>,
    /// The file's media type.
    pub mime_type: Option<String>,
    /// The announced size in bytes, which the server must check.
    pub size: Option<u64>,
}

impl UploadChunk {
    /// Parses a client's chunk.
    ///
    /// # Errors
    ///
    /// If it is of another kind, or a field is missing or malformed.
    pub fn parse(content: &Content) -> Result<Self, InvalidRequest> {
        let (fields, data) = binary_input(content)?;
        match fields.string("kind")? {
            "start" => Ok(Self::Start(UploadStart {
                path: file_path_field(fields, "path", BAD_PATH)?,
                overwrite: fields.opt_bool("overwrite")?.unwrap_or(false),
                name: fields.opt_string("name")?.map(str::to_owned),
                mime_type: fields.opt_string("mime_type")?.map(str::to_owned),
                size: fields.opt_u64("size")?,
            })),
            "data" => Ok(Self::Data(data.clone())),
            _ => Err(InvalidRequest::new(
                "the header `kind` must be `start` or `data`",
            )),
        }
    }

    /// Returns the chunk as the SDKs send it.
    pub fn to_content(&self) -> Content {
        match self {
            Self::Start(start) => {
                let headers = json!({
                    "kind": "start",
                    "path": start.path.as_str(),
                    "overwrite": start.overwrite,
                    "name": start.name,
                    "mime_type": start.mime_type,
                    "size": start.size,
                });
                binary(headers, Bytes::new())
            }
            Self::Data(data) => binary(json!({"kind": "data"}), data.clone()),
        }
    }
}

/// Returns the server's chunk in `upload`, which requests up to `chunk_bytes` bytes.
///
/// ```text
/// binary {"kind": "pull", "chunk_size"}
/// ```
pub fn upload_pull(chunk_bytes: u64) -> Content {
    let headers = json!({"kind": "pull", "chunk_size": chunk_bytes});
    binary(headers, Bytes::new())
}

/// Parses the server's chunk in `upload`: the number of requested bytes, if present.
///
/// # Errors
///
/// If it is not a pull.
pub fn parse_upload_pull(content: &Content) -> Result<Option<u64>, InvalidRequest> {
    let (fields, _) = binary_input(content)?;
    if fields.string("kind")? != "pull" {
        return Err(InvalidRequest::new("the header `kind` must be `pull`"));
    }
    Ok(fields.opt_u64("chunk_size")?.filter(|bytes| *bytes > 0))
}

/// A client's chunk in `download`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DownloadRequest {
    /// The first chunk.
    ///
    /// ```text
    /// binary {"kind": "start", "path", "chunk_size"}
    /// ```
    Start {
        /// The file; never the root.
        path: DocPath,
        /// The maximal bytes of one chunk; at least 1.
        chunk_bytes: u64,
    },
    /// The client is ready for the next bytes.
    ///
    /// ```text
    /// binary {"kind": "pull"}
    /// ```
    Pull,
}

impl DownloadRequest {
    /// The chunk size if a client does not set one; the SDKs send this number.
    pub const DEFAULT_CHUNK_BYTES: u64 = 64 * 1024;

    /// Parses a client's chunk.
    ///
    /// # Errors
    ///
    /// If it is of another kind, or a field is missing or malformed.
    pub fn parse(content: &Content) -> Result<Self, InvalidRequest> {
        let (fields, _) = binary_input(content)?;
        match fields.string("kind")? {
            "start" => {
                let chunk_bytes = fields
                    .opt_u64("chunk_size")?
                    .unwrap_or(Self::DEFAULT_CHUNK_BYTES);
                if chunk_bytes == 0 {
                    return Err(InvalidRequest::new(
                        "the field `chunk_size` must be at least 1",
                    ));
                }
                Ok(Self::Start {
                    path: file_path_field(fields, "path", BAD_PATH)?,
                    chunk_bytes,
                })
            }
            "pull" => Ok(Self::Pull),
            _ => Err(InvalidRequest::new(
                "the header `kind` must be `start` or `pull`",
            )),
        }
    }

    /// Returns the chunk as the SDKs send it.
    pub fn to_content(&self) -> Content {
        let headers = match self {
            Self::Start { path, chunk_bytes } => json!({
                "kind": "start",
                "path": path.as_str(),
                "chunk_size": chunk_bytes,
            }),
            Self::Pull => json!({"kind": "pull"}),
        };
        binary(headers, Bytes::new())
    }
}

/// The server's first chunk in `download`.
///
/// ```text
/// binary {"kind": "start", "name", "mime_type", "size"}
/// ```
pub fn download_start(name: &str, mime_type: &str, size: u64) -> Content {
    let headers = json!({"kind": "start", "name": name, "mime_type": mime_type, "size": size});
    binary(headers, Bytes::new())
}

/// The server's answer to a pull in `download`. When `size` bytes are sent it closes the stream.
///
/// ```text
/// binary {"kind": "data"} | bytes
/// ```
pub fn download_data(data: Bytes) -> Content {
    binary(json!({"kind": "data"}), data)
}

/// The server's chunk in `download`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DownloadOutput {
    /// The first chunk.
    Start {
        /// The file's name.
        name: String,
        /// The file's media type.
        mime_type: String,
        /// The size in bytes.
        size: u64,
    },
    /// A part of the file.
    Data(Bytes),
}

impl DownloadOutput {
    /// Parses a chunk of the server.
    ///
    /// # Errors
    ///
    /// If it is of another kind.
    pub fn parse(content: &Content) -> Result<Self, InvalidRequest> {
        let (fields, data) = binary_input(content)?;
        match fields.string("kind")? {
            "start" => Ok(Self::Start {
                name: fields.string("name")?.to_owned(),
                mime_type: fields.string("mime_type")?.to_owned(),
                size: fields.u64("size")?,
            }),
            "data" => Ok(Self::Data(data.clone())),
            _ => Err(InvalidRequest::new(
                "the header `kind` must be `start` or `data`",
            )),
        }
    }
}

/// Formats a time, in milliseconds since 1970, as the SDKs parse it: `2026-01-31T12:00:00.000Z`.
pub fn rfc3339(unix_ms: u64) -> String {
    // Limited to years with four digits.
    let unix_ms = unix_ms.min(253_402_300_799_999);
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    // Converts days to a civil date, with years that begin in March:
    // <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let ms = ms % 1000;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Storage has its own error code for invalid paths.
const BAD_PATH: ErrorCode = ErrorCode::StorageInvalidPath;
