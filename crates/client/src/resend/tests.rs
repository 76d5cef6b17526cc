//! Tests: documents that are closed in a room without a connection are sent later.

use std::path::PathBuf;
use std::time::Duration;
use std::{fs, io, thread};

use meshagent_protocol::{Content, DocPath};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::time::timeout;

use self::peer::{accept, append, begin, listen};
use super::{PATIENCE as ANSWER, Resends, Resent};
use crate::journal::Listed;
use crate::{DocumentEnd, DocumentEvent, JournalError, OpenError, RoomBuilder, RoomClient, Unsent};

#[path = "../../tests/it/peer.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod peer;

/// Long enough for any machine, and shorter than the pause between two lists of the directory.
const PATIENCE: Duration = Duration::from_secs(45);

/// Edits a document without a connection, and closes it.
async fn close_without_a_connection(listener: &TcpListener, room: RoomBuilder) -> RoomClient {
    let serve = async {
        let mut peer = accept(listener).await;
        begin(&mut peer).await;
    };
    let user = async {
        let room = room.connect().await.unwrap();
        let document = room.sync().open("a.document").await.unwrap();
        (room, document)
    };
    // The connection ends with the peer.
    let ((), (room, document)) = tokio::join!(serve, user);
    append(&document, "mine");
    document.journaled().await.unwrap();
    let mut changes = document.changes();
    drop(document);
    let ended = async {
        loop {
            match changes.recv().await {
                Some(DocumentEvent::Ended(end)) => return end,
                Some(_) => {}
                None => panic!("the end is an event"),
            }
        }
    };
    let ended = timeout(PATIENCE, ended).await.unwrap();
    assert_eq!(ended, DocumentEnd::Closed);
    room
}

#[tokio::test]
async fn edit_of_a_document_that_was_closed_without_a_connection_is_sent_when_there_is_one() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, room) = listen().await;
    let room = room.project("project").offline(directory.path());
    let room = close_without_a_connection(&listener, room).await;
    let serve = async {
        let mut peer = accept(&listener).await;
        begin(&mut peer).await;
        peer.chunk(Content::Empty).await;
        peer
    };
    let peer = timeout(PATIENCE, serve).await.expect("it is sent");
    let saved = async {
        while !room.unsent().await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, saved).await.expect("it is saved");
    drop(peer);
    room.close().await;
}

#[tokio::test]
async fn journal_is_not_open_for_a_connection_that_is_gone_when_it_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, room) = listen().await;
    let room = room.project("project").offline(directory.path());
    let room = close_without_a_connection(&listener, room).await;
    let path = DocPath::parse("a.document").unwrap();
    let shared = room.sync().resend(&path, ANSWER).expect("it is closed");
    let resent = timeout(PATIENCE, shared.resent()).await;
    assert_eq!(resent, Ok(Resent::Later));
    assert!(timeout(PATIENCE, shared.settled()).await.unwrap());
    room.close().await;
}

/// A record of an edit that can't be read, as a journal has it.
fn unreadable_edit() -> Vec<u8> {
    let (kind, payload) = (
        [3],
        [&1_u64.to_le_bytes()[..], &[1, 0, 0, 0], b"!!!"].concat(),
    );
    let mut record = u32::try_from(payload.len()).unwrap().to_le_bytes().to_vec();
    record.extend(crc32fast::hash(&[&kind[..], &payload].concat()).to_le_bytes());
    record.extend(kind);
    record.extend(crc32fast::hash(&record).to_le_bytes());
    record.extend(payload);
    record
}

#[tokio::test]
async fn who_opens_a_document_whose_journal_is_found_unreadable_learns_where_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, room) = listen().await;
    let room = room.project("project").offline(directory.path());
    let serve = async {
        let mut peer = accept(&listener).await;
        let call = begin(&mut peer).await;
        assert_eq!(peer.chunk(Content::Empty).await, Content::close());
        peer.send_chunk(&call, Content::close()).await;
        peer
    };
    let user = async {
        let room = room.connect().await.unwrap();
        let document = room.sync().open("a.document").await.unwrap();
        let shared = room.documents().lock().unwrap()["a.document"].upgrade();
        document.close().await.unwrap();
        let shared = shared.unwrap();
        shared.settled().await;
        (room, shared)
    };
    let both = async { tokio::join!(serve, user) };
    let (_peer, (room, _ended)) = timeout(PATIENCE, both).await.unwrap();
    let files = fs::read_dir(directory.path()).unwrap();
    let mut files = files.map(|entry| entry.unwrap().path());
    let journal = files.find(|path| path.extension().is_some_and(|one| one == "journal"));
    let journal = journal.unwrap();
    let bytes = [fs::read(&journal).unwrap(), unreadable_edit()].concat();
    fs::write(&journal, &bytes).unwrap();

    // Nobody would learn of it.
    let path = DocPath::parse("a.document").unwrap();
    let shared = room.sync().resend(&path, ANSWER).expect("it is closed");
    let resent = timeout(PATIENCE, shared.resent()).await;
    assert_eq!(resent, Ok(Resent::Refused));
    assert_eq!(fs::read(&journal).unwrap(), bytes);

    let _shared = room.sync().resend(&path, ANSWER).expect("it has ended");
    tokio::task::yield_now().await;
    // It was read when something behind it is done, and the document's task has not learned that.
    let journals = room.journals().unwrap();
    let listed = thread::spawn(move || {
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(journals.list()).unwrap()
    });
    assert_eq!(listed.join().unwrap().unsent.len(), 1);
    let opened = timeout(PATIENCE, room.sync().open("a.document")).await;
    let Ok(Err(OpenError::Journal(JournalError::Damaged { kept, .. }))) = opened else {
        panic!("{opened:?}");
    };
    assert_ne!(kept, journal);
    assert_eq!(fs::read(kept).unwrap(), bytes);
    room.close().await;
    assert!(!journal.exists());
}

fn listed(digest: u64) -> Unsent {
    Unsent {
        path: "a.document".to_owned(),
        edits: 1,
        bytes: 10,
        digest,
    }
}

#[tokio::test]
async fn refused_document_is_tried_again_when_its_journal_holds_something_else() {
    let resends = Resends::default();
    resends.found(&listed(1));
    let one = resends.next().await;
    resends.tried(one, Resent::Refused, Duration::ZERO);
    resends.found(&listed(1));
    assert!(resends.lock().waiting.is_empty());
    // One that is as long.
    resends.found(&listed(2));
    assert_eq!(resends.next().await.path, "a.document");
}

#[tokio::test]
async fn refused_document_is_tried_again_when_its_journal_was_empty_in_between() {
    let resends = Resends::default();
    resends.found(&listed(1));
    let one = resends.next().await;
    resends.tried(one, Resent::Refused, Duration::ZERO);
    let unreadable = io::Error::other("a test asked for it");
    let mut empty = Listed::default();
    empty.unreadable.push((PathBuf::new(), unreadable));
    // It may be in what can't be read.
    resends.listed(&empty);
    resends.found(&listed(1));
    assert!(resends.lock().waiting.is_empty());
    resends.listed(&Listed::default());
    resends.found(&listed(1));
    assert_eq!(resends.next().await.path, "a.document");
}

#[tokio::test]
async fn server_has_more_time_for_an_answer_after_a_try_that_was_too_short() {
    let resends = Resends::default();
    resends.found(&listed(1));
    let one = resends.next().await;
    assert_eq!(one.patience, ANSWER);
    resends.tried(one, Resent::Later, ANSWER);
    let one = resends.next().await;
    assert_eq!(one.patience, 2 * ANSWER);
    resends.tried(one, Resent::Later, ANSWER);
    assert_eq!(resends.next().await.patience, 2 * ANSWER);
}
