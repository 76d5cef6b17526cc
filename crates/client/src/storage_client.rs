//! The `storage` toolkit: files and folders of a room.

use bytes::Bytes;
use meshagent_protocol::storage::{
    Delete, DownloadOutput, DownloadRequest, DownloadUrl, Entry, Move, PathInput, UploadChunk,
    UploadStart, parse_download_url, parse_exists, parse_list, parse_stat, parse_upload_pull,
};
use meshagent_protocol::{Content, DocPath};

use crate::connection::{CallError, Connection};
use crate::room_client::RoomClient;
use crate::stream::StreamEnd;

/// Lists, reads and writes the files of a room, including documents.
#[derive(Clone, Debug)]
pub struct StorageClient {
    caller: Caller,
}

/// The connection for calls: a fixed one, or the current one of a room.
#[derive(Clone, Debug)]
enum Caller {
    One(Connection),
    Room(RoomClient),
}

/// A downloaded file.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DownloadedFile {
    /// The file's name.
    pub name: String,
    /// The file's media type.
    pub mime_type: String,
    /// The file's bytes.
    pub data: Bytes,
}

impl StorageClient {
    pub(crate) fn new(connection: Connection) -> Self {
        Self {
            caller: Caller::One(connection),
        }
    }

    pub(crate) fn over(room: RoomClient) -> Self {
        Self {
            caller: Caller::Room(room),
        }
    }

    async fn connection(&self) -> Result<Connection, CallError> {
        match &self.caller {
            Caller::One(connection) => Ok(connection.clone()),
            Caller::Room(room) => room.connection().await,
        }
    }

    /// Whether a file or folder exists.
    ///
    /// # Errors
    ///
    /// If the path is invalid, or the server refuses.
    ///
    /// ```
    /// # meshagent_testing::in_room(async |room| {
    /// room.storage().upload("notes/a.txt", "tea", false).await?;
    /// assert!(room.storage().exists("notes/a.txt").await?);
    /// assert!(!room.storage().exists("notes/b.txt").await?);
    /// # Ok(())
    /// # });
    /// ```
    pub async fn exists(&self, path: &str) -> Result<bool, CallError> {
        let path = DocPath::parse(path)?;
        let answer = self.invoke("exists", PathInput { path }.to_content());
        Ok(parse_exists(&answer.await?)?)
    }

    /// The metadata of a file or folder; `None` if it does not exist.
    ///
    /// # Errors
    ///
    /// If the path is invalid, or the server refuses.
    ///
    /// ```
    /// # meshagent_testing::in_room(async |room| {
    /// room.storage().upload("notes/a.txt", "tea", false).await?;
    /// let entry = room.storage().stat("notes/a.txt").await?.ok_or("it was just written")?;
    /// assert_eq!((entry.name.as_str(), entry.size), ("a.txt", Some(3)));
    /// # Ok(())
    /// # });
    /// ```
    pub async fn stat(&self, path: &str) -> Result<Option<Entry>, CallError> {
        let path = DocPath::parse(path)?;
        let answer = self.invoke("stat", PathInput { path }.to_content());
        Ok(parse_stat(&answer.await?)?)
    }

    /// The entries of a folder.
    ///
    /// # Errors
    ///
    /// If the path is invalid, or the server refuses.
    ///
    /// ```
    /// # meshagent_testing::in_room(async |room| {
    /// room.storage().upload("notes/a.txt", "tea", false).await?;
    /// let entries = room.storage().list("notes").await?;
    /// assert_eq!(entries[0].name, "a.txt");
    /// # Ok(())
    /// # });
    /// ```
    pub async fn list(&self, path: &str) -> Result<Vec<Entry>, CallError> {
        let path = DocPath::parse(path)?;
        let answer = self.invoke("list", PathInput { path }.to_content());
        Ok(parse_list(&answer.await?)?)
    }

    /// Deletes a file, or a folder; with `recursive` also one that is not empty.
    ///
    /// # Errors
    ///
    /// If the path is invalid, or the server refuses, for instance because the folder is not empty
    /// (code 3002).
    ///
    /// ```
    /// # meshagent_testing::in_room(async |room| {
    /// room.storage().upload("notes/a.txt", "tea", false).await?;
    /// // A folder that is not empty.
    /// assert!(room.storage().delete("notes", false).await.is_err());
    /// room.storage().delete("notes", true).await?;
    /// assert!(!room.storage().exists("notes").await?);
    /// # Ok(())
    /// # });
    /// ```
    pub async fn delete(&self, path: &str, recursive: bool) -> Result<(), CallError> {
        let path = DocPath::parse(path)?;
        let input = Delete { path, recursive };
        self.invoke("delete", input.to_content()).await?;
        Ok(())
    }

    /// Moves a file or folder to another path.
    ///
    /// # Errors
    ///
    /// If a path is invalid, or the server refuses, for instance because the destination exists
    /// (code 3005).
    ///
    /// ```
    /// # meshagent_testing::in_room(async |room| {
    /// room.storage().upload("notes/a.txt", "tea", false).await?;
    /// room.storage().rename("notes/a.txt", "notes/b.txt", false).await?;
    /// assert!(room.storage().exists("notes/b.txt").await?);
    /// # Ok(())
    /// # });
    /// ```
    pub async fn rename(
        &self,
        source_path: &str,
        destination_path: &str,
        overwrite: bool,
    ) -> Result<(), CallError> {
        let input = Move {
            source_path: DocPath::parse(source_path)?,
            destination_path: DocPath::parse(destination_path)?,
            overwrite,
        };
        self.invoke("move", input.to_content()).await?;
        Ok(())
    }

    /// A URL that serves the file to a plain GET for a limited time.
    ///
    /// # Errors
    ///
    /// If the path is invalid, or the server refuses.
    ///
    /// ```
    /// # meshagent_testing::in_room(async |room| {
    /// room.storage().upload("notes/a.txt", "tea", false).await?;
    /// let url = room.storage().download_url("notes/a.txt").await?;
    /// assert!(url.starts_with("http"));
    /// # Ok(())
    /// # });
    /// ```
    pub async fn download_url(&self, path: &str) -> Result<String, CallError> {
        let input = DownloadUrl {
            path: DocPath::parse(path)?,
            download: false,
        };
        let answer = self.invoke("download_url", input.to_content());
        Ok(parse_download_url(&answer.await?)?)
    }

    /// Writes a file.
    ///
    /// # Errors
    ///
    /// If the path is invalid, or the server refuses, for instance because the file exists and
    /// `overwrite` is false.
    ///
    /// ```
    /// # meshagent_testing::in_room(async |room| {
    /// room.storage().upload("notes/a.txt", "tea", false).await?;
    /// assert!(room.storage().upload("notes/a.txt", "milk", false).await.is_err());
    /// room.storage().upload("notes/a.txt", "milk", true).await?;
    /// # Ok(())
    /// # });
    /// ```
    pub async fn upload(
        &self,
        path: &str,
        data: impl Into<Bytes>,
        overwrite: bool,
    ) -> Result<(), CallError> {
        let mut rest: Bytes = data.into();
        let start = UploadStart {
            path: DocPath::parse(path)?,
            overwrite,
            name: None,
            mime_type: None,
            size: Some(rest.len() as u64),
        };
        let first = UploadChunk::Start(start).to_content();
        let mut stream = self
            .connection()
            .await?
            .open_stream("storage", "upload", first)
            .await?;
        while let Some(chunk) = stream.recv().await.map_err(call_error)? {
            let wanted = parse_upload_pull(&chunk)?.unwrap_or(DEFAULT_CHUNK_BYTES);
            let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
            if rest.is_empty() {
                stream.sender().close().await;
                continue;
            }
            let data = rest.split_to(rest.len().min(wanted));
            stream.send(UploadChunk::Data(data).to_content()).await?;
        }
        if rest.is_empty() {
            return Ok(());
        }
        Err(CallError::unexpected(
            "the server closed the upload before it had all bytes",
        ))
    }

    /// Reads a file into memory.
    ///
    /// # Errors
    ///
    /// If the path is invalid, or the server refuses, for instance because the file does not exist
    /// (code 3001).
    ///
    /// ```
    /// # meshagent_testing::in_room(async |room| {
    /// room.storage().upload("notes/a.txt", "tea", false).await?;
    /// let file = room.storage().download("notes/a.txt").await?;
    /// assert_eq!((file.name.as_str(), &file.data[..]), ("a.txt", &b"tea"[..]));
    /// # Ok(())
    /// # });
    /// ```
    pub async fn download(&self, path: &str) -> Result<DownloadedFile, CallError> {
        let start = DownloadRequest::Start {
            path: DocPath::parse(path)?,
            chunk_bytes: DEFAULT_CHUNK_BYTES,
        };
        let mut stream = self
            .connection()
            .await?
            .open_stream("storage", "download", start.to_content())
            .await?;
        let mut head = None;
        let mut data = Vec::new();
        while let Some(chunk) = stream.recv().await.map_err(call_error)? {
            let size = match (DownloadOutput::parse(&chunk)?, &head) {
                (
                    DownloadOutput::Start {
                        name,
                        mime_type,
                        size,
                    },
                    None,
                ) => {
                    head = Some((name, mime_type, size));
                    size
                }
                (DownloadOutput::Data(bytes), Some((_, _, size))) => {
                    data.extend_from_slice(&bytes);
                    *size
                }
                _ => {
                    return Err(CallError::unexpected(
                        "a chunk of the download is misplaced",
                    ));
                }
            };
            let received = data.len() as u64;
            if received > size {
                return Err(CallError::unexpected(
                    "the download is longer than announced",
                ));
            }
            if received < size {
                stream.send(DownloadRequest::Pull.to_content()).await?;
            }
        }
        match head {
            Some((name, mime_type, size)) if size == data.len() as u64 => Ok(DownloadedFile {
                name,
                mime_type,
                data: data.into(),
            }),
            _ => Err(CallError::unexpected("the download ended early")),
        }
    }

    async fn invoke(&self, tool: &str, input: Content) -> Result<Content, CallError> {
        self.connection()
            .await?
            .invoke("storage", tool, input)
            .await
    }
}

fn call_error(end: StreamEnd) -> CallError {
    match end {
        StreamEnd::Refused(error) => CallError::Refused {
            code: error.code,
            text: error.text,
        },
        StreamEnd::Unreadable(error) => CallError::Unexpected(error),
        StreamEnd::Disconnected | StreamEnd::Lagged => CallError::Disconnected,
    }
}

/// Bytes in one chunk: large enough to need few, small enough to share the connection.
const DEFAULT_CHUNK_BYTES: u64 = 256 * 1024;
