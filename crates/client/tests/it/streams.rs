//! Streamed calls on a connection.

use meshagent_client::{CallError, StreamEnd};
use meshagent_protocol::{Content, Control, ErrorCode};
use serde_json::json;

use crate::peer::connect;

fn text(text: &str) -> Content {
    Content::Text(text.to_owned())
}

#[tokio::test]
async fn chunks_go_both_ways_until_both_have_closed() {
    let (room, mut peer) = connect().await;
    let script = async {
        let (tool, call, first) = peer.open().await;
        assert_eq!((tool.as_str(), first), ("u", text("start")));
        peer.send_chunk(&call, text("one")).await;
        assert_eq!(
            peer.chunk(Content::Json(json!({"note": 1}))).await,
            text("a")
        );
        let refusal = Content::error(ErrorCode::InvalidRequest, "no");
        assert_eq!(peer.chunk(refusal).await, text("b"));
        assert_eq!(peer.chunk(Content::Empty).await, Content::close());
        peer.send_chunk(&call, text("under way")).await;
        peer.send_chunk(&call, Content::close()).await;
        peer
    };
    let user = async {
        let mut stream = room.open_stream("t", "u", text("start")).await.unwrap();
        assert_eq!(stream.recv().await, Ok(Some(text("one"))));
        let answer = stream.send(text("a")).await;
        assert_eq!(answer, Ok(Content::Json(json!({"note": 1}))));
        let sender = stream.sender();
        let refusal = CallError::Refused {
            code: Some(1002),
            text: "no".to_owned(),
        };
        assert_eq!(sender.send(text("b")).await, Err(refusal));
        assert_eq!(stream.close().await, Ok(()));
        assert!(sender.send(text("c")).await.is_err());
    };
    tokio::join!(script, user);
}

#[tokio::test]
async fn calls_and_first_chunks_may_be_refused() {
    let (room, mut peer) = connect().await;
    let refusal = || Content::error(ErrorCode::NotFound, "no");
    let expected = CallError::Refused {
        code: Some(1003),
        text: "no".to_owned(),
    };

    let script = async {
        let (request, _) = peer.invoke().await;
        peer.answer(request, refusal()).await;
        peer.chunk(refusal()).await;
    };
    let (seen, ()) = tokio::join!(room.open_stream("t", "u", Content::Empty), script);
    assert_eq!(seen.unwrap_err(), expected);

    let script = async {
        let (request, _) = peer.invoke().await;
        peer.answer(request, Content::Control(Control::Open)).await;
        peer.chunk(refusal()).await;
        // The client closes the call.
        assert_eq!(peer.chunk(Content::Empty).await, Content::close());
    };
    let (seen, ()) = tokio::join!(room.open_stream("t", "u", Content::Empty), script);
    assert_eq!(seen.unwrap_err(), expected);

    // Published SDKs learn of a refusal only from an `error` chunk.
    let script = async {
        let (request, invoke) = peer.invoke().await;
        peer.answer(request, Content::Control(Control::Open)).await;
        peer.send_chunk(&invoke.tool_call_id.unwrap(), refusal())
            .await;
    };
    let (seen, ()) = tokio::join!(room.open_stream("t", "u", Content::Empty), script);
    assert_eq!(seen.unwrap_err(), expected);
}

#[tokio::test]
async fn errors_end_a_stream_after_what_came_before() {
    let (room, mut peer) = connect().await;
    let (stream, opened) = tokio::join!(room.open_stream("t", "u", Content::Empty), peer.open());
    let mut stream = stream.unwrap();
    peer.send_chunk(&opened.1, text("last")).await;
    let abnormal = Control::Close {
        status_code: Control::INVALID_DATA,
        message: Some("no".to_owned()),
    };
    peer.send_chunk(&opened.1, Content::Control(abnormal)).await;
    assert_eq!(stream.recv().await, Ok(Some(text("last"))));
    for _ in 0..2 {
        let Err(StreamEnd::Refused(error)) = stream.recv().await else {
            panic!("the stream goes on");
        };
        assert_eq!((error.code, error.text.as_str()), (Some(1007), "no"));
    }
}

#[tokio::test]
async fn dropping_a_stream_closes_its_call() {
    let (room, mut peer) = connect().await;
    let (stream, _) = tokio::join!(room.open_stream("t", "u", Content::Empty), peer.open());
    drop(stream.unwrap());
    assert_eq!(peer.chunk(Content::Empty).await, Content::close());

    // The same for a call whose caller has gone.
    tokio::select! {
        _ = room.open_stream("t", "u", Content::Empty) => panic!("opened by nobody"),
        (request, _) = peer.invoke() => {
            peer.answer(request, Content::Control(Control::Open)).await;
        }
    }
    assert_eq!(peer.chunk(Content::Empty).await, Content::Empty);
    assert_eq!(peer.chunk(Content::Empty).await, Content::close());
}

#[tokio::test]
async fn a_stream_that_nobody_reads_is_closed_and_disturbs_no_other() {
    let (room, mut peer) = connect().await;
    let (stream, opened) = tokio::join!(room.open_stream("t", "u", Content::Empty), peer.open());
    let mut stream = stream.unwrap();
    for _ in 0..1025 {
        peer.send_chunk(&opened.1, Content::Empty).await;
    }
    assert_eq!(peer.chunk(Content::Empty).await, Content::close());
    let answer = async {
        let (request, _) = peer.invoke().await;
        peer.answer(request, Content::Empty).await;
    };
    let (seen, ()) = tokio::join!(room.invoke("t", "u", Content::Empty), answer);
    assert_eq!(seen, Ok(Content::Empty));
    for _ in 0..1024 {
        assert_eq!(stream.recv().await, Ok(Some(Content::Empty)));
    }
    assert_eq!(stream.recv().await, Err(StreamEnd::Lagged));
}

#[tokio::test]
async fn a_lost_connection_ends_streams() {
    let (room, mut peer) = connect().await;
    let (stream, _) = tokio::join!(room.open_stream("t", "u", Content::Empty), peer.open());
    drop(peer);
    assert_eq!(stream.unwrap().recv().await, Err(StreamEnd::Disconnected));
}
