//! Calls in parallel, and their order with events.

use meshagent_client::{CallError, RoomEvent};
use meshagent_protocol::{Content, ErrorCode, ServerToClient};
use serde_json::json;

use crate::peer::connect;

#[tokio::test]
async fn many_calls_are_under_way_at_once() {
    let (room, mut peer) = connect().await;
    let first = room.invoke("t", "first", Content::Json(json!({"x": 1})));
    let second = room.invoke("t", "second", Content::Empty);
    let answer = async {
        let (first, _) = peer.invoke().await;
        let (second, invoke) = peer.invoke().await;
        assert_eq!(invoke.tool, "second");
        let refusal = Content::error(ErrorCode::NotFound, "no");
        peer.answer(second, refusal).await;
        peer.answer(first, Content::Text("yes".to_owned())).await;
        peer
    };
    let (first, second, mut peer) = tokio::join!(first, second, answer);
    assert_eq!(first, Ok(Content::Text("yes".to_owned())));
    let refusal = CallError::Refused {
        code: Some(1003),
        text: "no".to_owned(),
    };
    assert_eq!(second, Err(refusal));

    // A call whose caller has gone does not disturb the next one.
    let given_up = tokio::select! {
        answer = room.invoke("t", "slow", Content::Empty) => Some(answer),
        (request, _) = peer.invoke() => {
            peer.answer(request, Content::Empty).await;
            None
        }
    };
    assert_eq!(given_up, None);
    let large = "x".repeat(3 << 20);
    let call = room.invoke("t", "large", Content::Text(large.clone()));
    let answer = async {
        let (request, invoke) = peer.invoke().await;
        peer.answer(request, invoke.arguments).await;
    };
    let (echo, ()) = tokio::join!(call, answer);
    assert_eq!(echo, Ok(Content::Text(large)));
}

#[tokio::test]
async fn slow_subscribers_learn_what_they_missed() {
    let (room, mut peer) = connect().await;
    let mut events = room.subscribe();
    for n in 0..300 {
        peer.send(ServerToClient::FileUpdated {
            path: n.to_string(),
            participant_id: "p".to_owned(),
        })
        .await;
    }
    // The answer to a call arrives after all events that were sent before it.
    let answer = async {
        let (request, _) = peer.invoke().await;
        peer.answer(request, Content::Empty).await;
    };
    let (seen, ()) = tokio::join!(room.invoke("t", "u", Content::Empty), answer);
    assert_eq!(seen, Ok(Content::Empty));
    assert_eq!(events.recv().await, Some(Err(44)));
    let next = RoomEvent::FileUpdated {
        path: "44".to_owned(),
        participant_id: "p".to_owned(),
    };
    assert_eq!(events.recv().await, Some(Ok(next)));
}
