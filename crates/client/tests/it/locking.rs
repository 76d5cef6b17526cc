//! Lookups of documents while other documents are edited.

use std::pin::pin;
use std::sync::mpsc;
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use meshagent_document::MeshDocument;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::peer::{Peer, begin, listen};

#[tokio::test]
async fn edit_of_one_document_looks_for_another_while_the_first_is_opened() {
    let (listener, room) = listen().await;
    let serve = async {
        let mut peer = Peer::accept(listener.accept().await.unwrap().0).await;
        begin(&mut peer).await;
        begin(&mut peer).await;
        peer
    };
    let user = async {
        let room = room.connect().await.unwrap();
        let one = room.sync().open("a.document").await.unwrap();
        let other = room.sync().open("ß.document").await.unwrap();
        (room, one, other)
    };
    let (_peer, (room, one, other)) = timeout(PATIENCE, async { tokio::join!(serve, user) })
        .await
        .unwrap();

    let update = other.read(MeshDocument::encode_state);
    let (edits, is_edited) = mpsc::channel();
    let (done, is_done) = oneshot::channel();
    let opener = {
        let room = room.clone();
        thread::spawn(move || {
            is_edited.recv().unwrap();
            let sync = room.sync();
            let mut open = pin!(sync.open("a.document"));
            // The lookup waits for the edit at most, and the edit is in progress here.
            let _opened = open.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        })
    };
    thread::spawn(move || {
        let edited = one.edit(|_| {
            edits.send(()).unwrap();
            // Meanwhile the other thread reaches the document's lock.
            for _ in 0..300 {
                thread::sleep(Duration::from_millis(1));
                room.sync().sync("ß.document", &update).unwrap();
            }
        });
        opener.join().unwrap();
        done.send(edited).unwrap();
    });
    timeout(PATIENCE, is_done).await.unwrap().unwrap().unwrap();
}

/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_secs(30);
