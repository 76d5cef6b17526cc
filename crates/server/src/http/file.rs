//! A file as the body of a response: each part is read when the peer has received the previous one.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use meshagent_ledger::{Account, Charge, Kind};
use meshagent_store::{AsyncStore, FileHead, FileReading, RoomId, StoreError};
use thiserror::Error;

use super::App;
use crate::committer::with_causes;
use crate::fair::{FairTurn, FairTurns};

/// Bytes of a file that are in memory at a time, besides the kernel's buffers.
const PART_BYTES: usize = 512 << 10;
/// Bytes of the first part.
const FIRST_BYTES: usize = 64 << 10;

/// Why a response ends before its file does.
#[derive(Debug, Error)]
pub(super) enum Interrupted {
    #[error("the file was changed, moved or deleted while it was sent")]
    Changed,
    #[error("the file could not be read on")]
    Store(#[source] StoreError),
}

type Reading =
    Pin<Box<dyn Future<Output = Result<Option<(Bytes, FileReading)>, StoreError>> + Send>>;

/// The content of a file, with the read of its next part.
pub(super) struct FileBody {
    app: Arc<App>,
    file: LinkedFile,
    /// Cloned for each read, and replaced by its result.
    position: FileReading,
    /// The part that was read before the response.
    first: Option<Bytes>,
    reading: Option<Reading>,
    has_failed: bool,
    account: Arc<Account>,
}

/// A file that a link is for.
#[derive(Clone)]
pub(super) struct LinkedFile {
    room: RoomId,
    path: String,
    /// The group of the link's reads, which take turns with those of other links.
    link: Arc<str>,
}

impl LinkedFile {
    pub(super) fn new(room: RoomId, path: String) -> Self {
        // A room's name has no slash.
        let link = format!("{}/{path}", room.room).into();
        Self { room, path, link }
    }

    /// Opens the file, without reading any content.
    pub(super) async fn open(&self, app: &App) -> Result<Option<FileHead>, StoreError> {
        let file = self.clone();
        let open = move |store: Arc<dyn AsyncStore>| async move {
            store.open_file(&file.room, &file.path).await
        };
        app.shared.rooms.read_for_link(&self.link, open).await
    }
}

impl FileBody {
    pub(super) fn new(app: Arc<App>, file: LinkedFile, head: &FileHead) -> Self {
        let account = app.shared.rooms.usage().ledger().common();
        Self {
            app,
            file,
            position: FileReading::new(head),
            first: None,
            reading: None,
            has_failed: false,
            account,
        }
    }

    /// Reads the first part. It is short, so that a request costs little if its peer leaves; and it
    /// takes no place among the other parts, so that a short file waits for no peer of a large one.
    pub(super) async fn begin(&mut self) -> Result<(), Interrupted> {
        if self.position.remaining() == 0 {
            return Ok(());
        }
        match self.read_next(FIRST_BYTES, &self.app.first_parts).await {
            Ok(Some((part, position))) => {
                self.position = position;
                self.first = Some(part);
                Ok(())
            }
            Ok(None) => Err(Interrupted::Changed),
            Err(error) => Err(Interrupted::Store(error)),
        }
    }

    /// The bytes that are not in the response yet.
    fn remaining(&self) -> u64 {
        let first = self.first.as_ref().map_or(0, Bytes::len);
        self.position.remaining() + first as u64
    }

    fn read_next(&self, bytes: usize, places: &Arc<FairTurns>) -> Reading {
        let (app, places) = (Arc::clone(&self.app), Arc::clone(places));
        let file = self.file.clone();
        let mut position = self.position.clone();
        let account = Arc::clone(&self.account);
        let length = usize::try_from(position.remaining()).map_or(bytes, |left| left.min(bytes));
        Box::pin(async move {
            let wanted = app.shared.rooms.usage().ledger().want_part();
            let place = places.turn(&file.link).await;
            drop(wanted);
            let charge = account.charge(Kind::Download, length).await;
            let link = Arc::clone(&file.link);
            let read = move |store: Arc<dyn AsyncStore>| async move {
                let part = position.next(store.as_ref(), &file.room, &file.path, length);
                Ok(part.await?.map(|part| (part, position)))
            };
            let read = app.shared.rooms.read_for_link(&link, read).await?;
            Ok(read.map(|(data, position)| {
                let part = Part {
                    data,
                    _place: place,
                    _charge: charge,
                };
                (Bytes::from_owner(part), position)
            }))
        })
    }
}

/// Bytes that keep their place among the parts until they are sent.
struct Part {
    data: Bytes,
    _place: FairTurn,
    _charge: Charge,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = Interrupted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Interrupted>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let mut reading = match self.reading.take() {
            Some(reading) => reading,
            None => self.read_next(PART_BYTES, &self.app.parts),
        };
        let Poll::Ready(read) = reading.as_mut().poll(context) else {
            self.reading = Some(reading);
            return Poll::Pending;
        };
        let interrupted = match read {
            Ok(Some((part, position))) => {
                self.position = position;
                return Poll::Ready(Some(Ok(Frame::data(part))));
            }
            Ok(None) => Interrupted::Changed,
            Err(error) => {
                tracing::error!(error = %with_causes(&error), "file not read on");
                Interrupted::Store(error)
            }
        };
        self.has_failed = true;
        Poll::Ready(Some(Err(interrupted)))
    }

    fn is_end_stream(&self) -> bool {
        self.has_failed || self.remaining() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining())
    }
}
