//! The examples of the client do what they promise.

#![allow(dead_code, reason = "their `main` is not called here")]

#[path = "../../../client/examples/agent.rs"]
mod agent;
#[path = "../../../client/examples/hello.rs"]
mod hello;
#[path = "../../../client/examples/todo.rs"]
mod todo;

use meshagent_client::RoomClient;
use serde_json::json;

use crate::harness::TestServer;

async fn enter(server: &TestServer, name: &str) -> RoomClient {
    let room = RoomClient::builder()
        .room_url(format!("ws://{}/rooms/room", server.address))
        .token(server.jwt(name));
    room.connect().await.unwrap()
}

#[tokio::test]
async fn hello_world() {
    let server = TestServer::start().await;
    let room = enter(&server, "ann").await;
    let shown = hello::say_hello(&room).await.unwrap();
    let expected = json!({ "document": { "content": [{ "body": { "text": "hello world!" } }] } });
    assert_eq!(shown, expected);
    let stored = room.sync().describe("hello-world.document").await.unwrap();
    assert_eq!(stored, expected);
}

#[tokio::test]
async fn two_people_have_one_list() {
    let server = TestServer::start().await;
    let (ann, bob) = (enter(&server, "ann").await, enter(&server, "bob").await);
    let (here, there) = (
        todo::open(&ann).await.unwrap(),
        todo::open(&bob).await.unwrap(),
    );
    for line in ["milk", "bread", "", "x 1"] {
        here.edit(|d| todo::obey(d, line)).unwrap().unwrap();
    }
    here.saved().await.unwrap();
    let mut changes = there.changes();
    while there.read(todo::to_text) != " 1. [x] milk\n 2. [ ] bread\n" {
        changes.recv().await.unwrap();
    }
    for line in ["d 1", "x 1", "x 7", "d nothing"] {
        there.edit(|d| todo::obey(d, line)).unwrap().unwrap();
    }
    there.saved().await.unwrap();
    assert_eq!(there.read(todo::to_text), " 1. [x] bread\n");
}

#[tokio::test]
async fn an_agent_writes_what_a_model_said() {
    let server = TestServer::start().await;
    let room = enter(&server, "agent").await;
    let body = json!({ "document": { "content": [{ "body": { "text": "First, tea." } }] } });
    assert!(agent::fill(&room, "plan.document", &body).await.unwrap());
    assert!(!agent::fill(&room, "plan.document", &body).await.unwrap());
    let nonsense = json!({ "document": { "content": [{ "nonsense": {} }] } });
    let error = agent::fill(&room, "plan.document", &nonsense)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("the schema does not allow this"),
        "{error}"
    );
    assert_eq!(room.sync().describe("plan.document").await.unwrap(), body);
}
