//! The way into a room: which room and server, who joins, with which token.

use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use meshagent_client::{Connection, RoomClient};
use meshagent_protocol::{ApiScope, Role, RoomName};

use crate::failure::{self, Failure, USAGE};
use crate::settings::{self, ProjectArgs};
use crate::token::token;

/// How long to wait for a room. One with many documents may have to be read first.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Flags of the commands that join a room.
#[derive(Args, Debug)]
pub(crate) struct RoomArgs {
    /// The room: 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends
    #[arg(long, value_name = "NAME", env = "MESHAGENT_ROOM", value_parser = RoomName::parse)]
    room: RoomName,

    /// Sign a token for a participant of this name
    /// [default: the token in MESHAGENT_TOKEN, else the user's name on this machine]
    #[arg(long, value_name = "NAME", value_parser = settings::not_empty)]
    identity: Option<String>,

    #[command(flatten)]
    project: ProjectArgs,
}

/// What it takes to join a room.
struct Endpoint {
    url: String,
    jwt: String,
    /// Whether the token is the environment's, and not signed by us.
    is_given: bool,
}

impl RoomArgs {
    pub(super) async fn connect(&self) -> anyhow::Result<Connection> {
        let Endpoint { url, jwt, is_given } = self.endpoint()?;
        let connecting = Connection::connect(&url, &jwt);
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(room)) => Ok(room),
            Ok(Err(error)) => Err(failure::of_connect(&url, is_given, error).into()),
            Err(_elapsed) => {
                let seconds = CONNECT_TIMEOUT.as_secs();
                let what = format!("{url} did not answer within {seconds} s");
                Err(failure::unreachable(Failure::new(what)).into())
            }
        }
    }

    /// Joins the room for longer: what connects again when it has to.
    pub(super) async fn enter(&self) -> anyhow::Result<RoomClient> {
        let Endpoint { url, jwt, is_given } = self.endpoint()?;
        let builder = RoomClient::builder().room_url(&url).token(jwt);
        let entered = builder.connect().await;
        entered.map_err(|error| failure::of_connect(&url, is_given, error).into())
    }

    fn endpoint(&self) -> anyhow::Result<Endpoint> {
        let given = match &self.identity {
            Some(_) => None,
            None => given_token()?,
        };
        let is_given = given.is_some();
        let (jwt, key) = if let Some(jwt) = given {
            (jwt, None)
        } else {
            let key = self.project.key(None)?;
            let identity = self.identity.clone();
            let identity = identity.map_or_else(settings::user_name, Ok)?;
            let scope = ApiScope::agent_default();
            let token = token(&identity, &self.room, Role::Agent, scope);
            (token.sign(&key), Some(key))
        };
        let server = self.project.server(key.as_ref())?;
        // `http` becomes `ws`, and `https` becomes `wss`.
        let address = match server.url.strip_prefix("http") {
            Some(rest) => format!("ws{rest}"),
            None => server.url,
        };
        Ok(Endpoint {
            url: format!("{address}/rooms/{}", self.room),
            jwt,
            is_given,
        })
    }
}

/// Runs a command that waits for a server.
pub(super) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(work)
}

/// The token in the environment. One that is set and empty is what a failed command left: it must not become the rights
/// of whoever has the key.
fn given_token() -> anyhow::Result<Option<String>> {
    const NAME: &str = "MESHAGENT_TOKEN";
    if std::env::var_os(NAME).is_some_and(|token| token.is_empty()) {
        return Err(Failure::new(format!("{NAME} is empty"))
            .with_exit_code(USAGE)
            .with_hint("unset it, or set it to a token")
            .into());
    }
    settings::variable(NAME)
}
