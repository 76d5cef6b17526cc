//! Tokens from a program's own function: before they expire, after that, and when the function
//! fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use meshagent_client::{ConnectError, DocumentEnd, RoomClient, RoomStatus};
use meshagent_protocol::{ApiKey, ParticipantToken};
use tokio::time::timeout;

use crate::cable::Cable;
use crate::harness::{PATIENCE, TestServer};
use crate::live::{append, texts, until};

const PATH: &str = "ä.document";

/// A token that expires in `seconds` seconds.
fn short(mut token: ParticipantToken, key: &ApiKey, seconds: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    token.exp = Some(now.as_secs() + seconds);
    token.sign(key)
}

#[tokio::test]
async fn token_that_runs_out_is_fetched_again() {
    let server = TestServer::start().await;
    let cable = Cable::new(&server.address, Vec::new()).await;
    let (token, key) = (server.token("ann"), server.key.clone());
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let room = RoomClient::builder()
        .room_url(cable.room_url())
        .token_with(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            let token = short(token.clone(), &key, 2);
            async move { Ok(token) }
        });
    let room = room.connect().await.unwrap();
    let document = room.sync().open(PATH).await.unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    // The server ends the connection, and the token expires while the client is disconnected.
    let mut status = room.status_changes();
    let lost = timeout(PATIENCE, status.changed()).await.unwrap();
    assert_eq!(lost, Some(RoomStatus::Reconnecting));
    cable.cut();
    append(&document, "offline 🌿");
    tokio::time::sleep(Duration::from_secs(2)).await;
    cable.mend();
    timeout(PATIENCE, document.saved()).await.unwrap().unwrap();
    assert_eq!(texts(&document), ["offline 🌿"]);
    let calls = calls.load(Ordering::Relaxed);
    assert!((2..30).contains(&calls), "{calls}");
    room.close().await;
}

#[tokio::test]
async fn function_that_fails_is_told_and_called_again() {
    let server = TestServer::start().await;
    let (token, failing) = (server.jwt("ann"), Arc::new(AtomicBool::new(true)));
    let (calls, given) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&failing));
    let counted = Arc::clone(&calls);
    let builder = RoomClient::builder()
        .api_url(format!("http://{}", server.address))
        .room("room")
        .token_with(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            let result = if given.load(Ordering::Relaxed) {
                Err("the login service is closed".into())
            } else {
                Ok(token.clone())
            };
            async move { result }
        });
    let error = builder.clone().connect().await.unwrap_err();
    assert!(matches!(error, ConnectError::Token(_)), "{error}");
    assert_eq!(calls.load(Ordering::Relaxed), 1);

    let folder = tempfile::tempdir().unwrap();
    let offline = builder.offline(folder.path());
    let error = offline.clone().connect().await.unwrap_err();
    assert!(error.to_string().contains("project"), "{error}");
    let room = offline.project("project").connect().await.unwrap();
    until("the status says so", || {
        room.status()
            == RoomStatus::NoToken {
                reason: "the login service is closed".to_owned(),
            }
    })
    .await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let called = calls.load(Ordering::Relaxed);
    assert!((2..12).contains(&called), "{called} calls");
    failing.store(false, Ordering::Relaxed);
    let document = timeout(PATIENCE, room.sync().open(PATH)).await.unwrap();
    append(&document.unwrap(), "endlich");
    until("it is connected", || room.status() == RoomStatus::Connected).await;
    room.close().await;
}

/// Panics without a message of the panic hook.
fn panic_quietly(text: &str) -> ! {
    std::panic::resume_unwind(Box::new(text.to_owned()))
}

#[tokio::test]
async fn function_that_panics_is_told_and_called_again() {
    let server = TestServer::start().await;
    let (token, calls) = (server.jwt("ann"), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&calls);
    let builder = RoomClient::builder()
        .api_url(format!("http://{}", server.address))
        .room("room")
        .token_with(move || {
            let call = counted.fetch_add(1, Ordering::Relaxed);
            if call == 1 {
                panic_quietly("kein Schlüssel 🌿");
            }
            let token = token.clone();
            async move {
                if call < 4 {
                    tokio::task::yield_now().await;
                    panic_quietly("kein Schlüssel 🌿");
                }
                Ok(token)
            }
        });
    let error = timeout(PATIENCE, builder.clone().connect()).await.unwrap();
    let error = error.unwrap_err();
    assert!(matches!(error, ConnectError::Token(_)), "{error}");

    let folder = tempfile::tempdir().unwrap();
    let offline = builder.offline(folder.path()).project("project");
    let room = offline.connect().await.unwrap();
    until(
        "the status says so",
        || matches!(room.status(), RoomStatus::NoToken { reason } if reason.contains("kein Schlüssel 🌿")),
    )
    .await;
    let document = timeout(PATIENCE, room.sync().open(PATH)).await.unwrap();
    append(&document.unwrap(), "endlich");
    until("it is connected", || room.status() == RoomStatus::Connected).await;
    let called = calls.load(Ordering::Relaxed);
    assert!(called >= 5, "{called}");
    room.close().await;
}

/// An error whose text panics.
#[derive(Debug)]
struct Unspeakable;

impl std::fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic_quietly("unaussprechlich 🌿")
    }
}

impl std::error::Error for Unspeakable {}

#[tokio::test]
async fn room_whose_task_panics_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let room = RoomClient::builder()
        .room_url("ws://127.0.0.1:9/rooms/room")
        .project("project")
        .offline(folder.path())
        .token_with(|| async { Err(Unspeakable.into()) });
    let room = room.connect().await.unwrap();
    let opened = timeout(PATIENCE, room.sync().open(PATH)).await.unwrap();
    assert!(opened.is_err(), "{opened:?}");
    let RoomStatus::Ended { reason } = room.status() else {
        panic!("{:?}", room.status());
    };
    assert!(reason.contains("unaussprechlich 🌿"), "{reason}");
    assert!(room.connection().await.is_err());
    timeout(PATIENCE, room.close()).await.unwrap();
}

#[test]
fn room_whose_runtime_has_ended_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (room, document) = runtime.block_on(async {
        let server = TestServer::start().await;
        let room = RoomClient::builder()
            .room_url(format!("ws://{}/rooms/room", server.address))
            .token(server.jwt("ann"))
            .offline(folder.path());
        let room = room.connect().await.unwrap();
        let document = timeout(PATIENCE, room.sync().open(PATH)).await.unwrap();
        (room, document.unwrap())
    });
    drop(runtime);
    assert!(matches!(room.status(), RoomStatus::Ended { .. }));
    let edited = document.edit(|editor| {
        editor.undo();
    });
    assert!(matches!(edited, Err(DocumentEnd::Failed(_))), "{edited:?}");
}

#[tokio::test]
async fn three_tokens_that_are_refused_are_enough() {
    let server = TestServer::start().await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let room = RoomClient::builder()
        .api_url(format!("http://{}", server.address))
        .room("room")
        .token_with(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            async { Ok("no token".to_owned()) }
        });
    let error = timeout(PATIENCE, room.connect()).await.unwrap();
    let Err(ConnectError::Refused { status: 403, .. }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(calls.load(Ordering::Relaxed), 3);
}
