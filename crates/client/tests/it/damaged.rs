//! Damaged journals are reported until somebody has received the report.

use std::fs;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use meshagent_client::{JournalError, OpenError, RoomBuilder, RoomClient, Unsent};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use crate::peer::listen;
use crate::resending::leave_edits;

/// A room whose server does not answer, with a directory.
struct Room {
    directory: TempDir,
    builder: RoomBuilder,
    _listener: TcpListener,
}

impl Room {
    /// The directory has one journal, with an edit of `0.document`. It is damaged.
    async fn damaged() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (listener, builder) = listen().await;
        let builder = builder.project("project").offline(directory.path());
        leave_edits(&listener, builder.clone(), 1).await;
        let room = Self {
            directory,
            builder,
            _listener: listener,
        };
        let journal = room.file(".journal").unwrap();
        let mut bytes = fs::read(&journal).unwrap();
        bytes[20] ^= 1;
        fs::write(&journal, bytes).unwrap();
        room
    }

    async fn enter(&self) -> RoomClient {
        self.builder.clone().connect().await.unwrap()
    }

    /// A file whose name contains this.
    fn file(&self, part: &str) -> Option<PathBuf> {
        let mut entries = fs::read_dir(self.directory.path()).unwrap();
        let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
        let is_meant = |path: &PathBuf| {
            let name = name(path);
            name.ends_with(part) || (part.ends_with('-') && name.contains(part))
        };
        entries.find_map(|entry| Some(entry.unwrap().path()).filter(is_meant))
    }

    /// Begins to wait for this, and drops it once the damage was found.
    async fn drop_when_found(&self, waits: impl Future) {
        let mut waits = pin!(waits);
        let mut context = Context::from_waker(Waker::noop());
        assert!(waits.as_mut().poll(&mut context).is_pending());
        while self.file(".damaged-").is_none() {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn unsent(room: &RoomClient) -> Result<Vec<Unsent>, JournalError> {
    timeout(PATIENCE, room.unsent()).await.unwrap()
}

/// The kept file, as reported to somebody who opens the document.
async fn opened(room: &RoomClient) -> PathBuf {
    let opened = timeout(PATIENCE, room.sync().open("0.document")).await;
    match opened.expect("the damage is reported") {
        Err(OpenError::Journal(JournalError::Damaged { kept, .. })) => kept,
        opened => panic!("{opened:?}"),
    }
}

#[tokio::test]
async fn damage_is_reported_after_a_caller_of_unsent_has_gone() {
    let files = Room::damaged().await;
    let room = files.enter().await;
    files.drop_when_found(room.unsent()).await;
    let reported = unsent(&room).await;
    assert!(
        matches!(reported, Err(JournalError::Damaged { .. })),
        "{reported:?}"
    );
    // It was received, so the next call ignores it.
    assert_eq!(unsent(&room).await, Ok(Vec::new()));
    room.close().await;
    assert_eq!(files.file(".journal"), None);
}

#[tokio::test]
async fn damage_is_reported_after_a_caller_of_open_has_gone() {
    let files = Room::damaged().await;
    let room = files.enter().await;
    files.drop_when_found(room.sync().open("0.document")).await;
    let kept = opened(&room).await;
    assert!(kept.exists());
    room.close().await;
    assert_eq!(files.file(".journal"), None);
}

#[tokio::test]
async fn damage_that_nobody_received_is_reported_by_the_next_program() {
    let files = Room::damaged().await;
    let damaged = fs::read(files.file(".journal").unwrap()).unwrap();
    let room = files.enter().await;
    files.drop_when_found(room.sync().open("0.document")).await;
    room.close().await;
    let room = files.enter().await;
    files.drop_when_found(room.unsent()).await;
    room.close().await;
    let room = files.enter().await;
    let kept = opened(&room).await;
    assert_eq!(fs::read(&kept).unwrap(), damaged);
    // It is kept once.
    assert!(kept.to_string_lossy().ends_with(".damaged-1"), "{kept:?}");
    room.close().await;
}

#[tokio::test]
async fn damaged_journal_that_can_not_be_locked_is_an_error() {
    let files = Room::damaged().await;
    let lock = files.file(".lock").unwrap();
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    let room = files.enter().await;
    let reported = unsent(&room).await;
    assert!(
        matches!(&reported, Err(JournalError::Io { reason }) if reason.contains(".journal")),
        "{reported:?}"
    );
    fs::remove_dir(&lock).unwrap();
    let reported = unsent(&room).await;
    assert!(
        matches!(reported, Err(JournalError::Damaged { .. })),
        "{reported:?}"
    );
    room.close().await;
}

/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_secs(30);
