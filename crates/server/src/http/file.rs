//! A file as the body of a response: each part is read when the peer has received the previous one.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use meshagent_ledger::{Account, Charge, Kind};
use meshagent_store::{FileHead, FileVersion, RoomId, StoreError};
use thiserror::Error;

use super::App;
use crate::committer::with_causes;

/// Bytes of a file that are in memory at a time, besides the kernel's buffers.
const PART_BYTES: usize = 512 << 10;

/// Why a response ends before its file does.
#[derive(Debug, Error)]
pub(super) enum Interrupted {
    #[error("the file was changed, moved or deleted while it was sent")]
    Changed,
    #[error("the file could not be read on")]
    Store(#[source] StoreError),
}

type Reading = Pin<Box<dyn Future<Output = Result<Option<Bytes>, StoreError>> + Send>>;

/// The content of a file, with the read of its next part.
pub(super) struct FileBody {
    app: Arc<App>,
    room: RoomId,
    path: String,
    version: FileVersion,
    /// The range that remains to be sent.
    next: u64,
    end: u64,
    reading: Option<Reading>,
    account: Arc<Account>,
}

impl FileBody {
    pub(super) fn new(app: Arc<App>, room: RoomId, path: String, head: &FileHead) -> Self {
        let account = app.shared.rooms.usage().ledger().common();
        Self {
            app,
            room,
            path,
            version: head.version,
            next: 0,
            end: head.size,
            reading: None,
            account,
        }
    }

    fn read_next(&self) -> Reading {
        let app = Arc::clone(&self.app);
        let (room, path, version) = (self.room.clone(), self.path.clone(), self.version);
        let account = Arc::clone(&self.account);
        let start = self.next;
        let left = usize::try_from(self.end - start).unwrap_or(PART_BYTES);
        let length = left.min(PART_BYTES);
        Box::pin(async move {
            let wanted = app.shared.rooms.usage().ledger().want_part();
            let place = Arc::clone(&app.parts).acquire_owned().await;
            drop(wanted);
            let charge = account.charge(Kind::Download, length).await;
            let part = app
                .shared
                .rooms
                .read(move |store| store.read_file_range(&room, &path, version, start, length))
                .await?;
            Ok(part.map(|data| {
                Bytes::from_owner(Part {
                    data,
                    _place: place.ok(),
                    _charge: charge,
                })
            }))
        })
    }
}

/// Bytes that keep their place among the parts until they are sent.
struct Part {
    data: Bytes,
    _place: Option<tokio::sync::OwnedSemaphorePermit>,
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
        let mut reading = match self.reading.take() {
            Some(reading) => reading,
            None => self.read_next(),
        };
        let Poll::Ready(read) = reading.as_mut().poll(context) else {
            self.reading = Some(reading);
            return Poll::Pending;
        };
        let interrupted = match read {
            Ok(Some(part)) if !part.is_empty() => {
                self.next += part.len() as u64;
                return Poll::Ready(Some(Ok(Frame::data(part))));
            }
            Ok(_) => Interrupted::Changed,
            Err(error) => {
                tracing::error!(error = %with_causes(&error), "file not read on");
                Interrupted::Store(error)
            }
        };
        self.end = self.next;
        Poll::Ready(Some(Err(interrupted)))
    }

    fn is_end_stream(&self) -> bool {
        self.next >= self.end
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.end - self.next)
    }
}
