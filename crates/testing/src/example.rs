//! A server in the process of a documentation example, which runs as long as the example.

use std::error::Error;
use std::sync::Arc;

use meshagent_client::RoomClient;
use meshagent_protocol::{ApiKey, ApiScope, Grant, ParticipantToken};
use meshagent_server::{Config, Server};
use meshagent_store::MemoryStore;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// The addresses and credentials of an example's server.
#[derive(Clone, Debug)]
pub struct ExampleServer {
    /// The base URL of the HTTP API, `http://127.0.0.1:PORT`.
    pub api_url: String,
    /// The WebSocket URL of `my-room`, the room that the token is for.
    pub room_url: String,
    /// The project's API key.
    pub key: String,
    /// A token with full rights in the room for the participant `ann`.
    pub token: String,
}

/// Runs an example with a server of its own, then stops the server.
///
/// # Panics
/// When the example or the server fails.
pub fn with_server(example: impl AsyncFnOnce(ExampleServer) -> Result<(), Box<dyn Error>>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime
        .expect("a runtime starts")
        .block_on(async { run(example).await.expect("the example works") });
}

/// Runs an example in the room `my-room` of a server of its own, as `ann`.
///
/// # Panics
/// When the example or the server fails.
pub fn in_room(example: impl AsyncFnOnce(RoomClient) -> Result<(), Box<dyn Error>>) {
    with_server(async |server| {
        let room = RoomClient::builder()
            .room_url(&server.room_url)
            .token(&server.token);
        let room = room.connect().await?;
        example(room.clone()).await?;
        room.close().await;
        Ok(())
    });
}

async fn run(
    example: impl AsyncFnOnce(ExampleServer) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let key = ApiKey {
        id: uuid::Uuid::new_v4().to_string(),
        project_id: uuid::Uuid::new_v4().to_string(),
        secret: "as-long-as-it-is-secret-and-of-an-example-only".to_owned(),
    };
    let mut token = ParticipantToken::new("ann");
    token.grants.push(Grant::Room("my-room".to_owned()));
    token.grants.push(Grant::Api(Box::new(ApiScope::full())));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let access = ExampleServer {
        api_url: format!("http://{address}"),
        room_url: format!("ws://{address}/rooms/my-room"),
        token: token.sign(&key),
        key: key.encode()?,
    };
    let server = Server::new(Config::default(), Arc::new(MemoryStore::new()), key)?;
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(server.run(listener, async {
        let _stopped = stopped.await;
    }));
    let result = example(access).await;
    drop(stop);
    running.await??;
    result
}
