//! Joins a room: flags for the room, the server and the token.

use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use meshagent_client::{ConnectError, Connection, RoomClient};
use meshagent_protocol::{ApiScope, Role, RoomName};

use super::given_token::GivenToken;
use crate::failure::{self, Failure};
use crate::settings::{self, ProjectArgs};
use crate::token::token;

/// Maximum time to join a room. The server may have to load a room with many documents first.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Flags of the commands that join a room.
#[derive(Args, Debug)]
pub(crate) struct RoomArgs {
    /// Name of the room: 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends
    #[arg(long, value_name = "NAME", env = "MESHAGENT_ROOM", value_parser = RoomName::parse)]
    room: RoomName,

    /// Sign a token for a participant with this name [default: use the token in MESHAGENT_TOKEN,
    /// else sign one for the user's name on this machine]
    #[arg(long, value_name = "NAME", value_parser = settings::not_empty)]
    identity: Option<String>,

    #[command(flatten)]
    project: ProjectArgs,
}

/// The URL of a room and the token for it.
struct Endpoint {
    url: String,
    jwt: String,
    /// The token from the environment, if it was not signed here.
    given: Option<GivenToken>,
}

impl RoomArgs {
    /// Joins the room once.
    pub(super) async fn connect(&self) -> anyhow::Result<Connection> {
        let Endpoint { url, jwt, given } = self.endpoint()?;
        let connecting = Connection::connect(&url, &jwt);
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(room)) => Ok(room),
            Ok(Err(error)) => Err(self.refused(&url, given, error).into()),
            Err(_elapsed) => {
                let seconds = CONNECT_TIMEOUT.as_secs();
                let message = format!("{url} did not answer within {seconds} s");
                Err(failure::unreachable(Failure::new(message)).into())
            }
        }
    }

    /// Joins the room with automatic reconnects.
    pub(super) async fn enter(&self) -> anyhow::Result<RoomClient> {
        let Endpoint { url, jwt, given } = self.endpoint()?;
        let builder = RoomClient::builder().room_url(&url).token(jwt);
        let entered = builder.connect().await;
        entered.map_err(|error| self.refused(&url, given, error).into())
    }

    /// The error for a connection that failed.
    fn refused(&self, url: &str, given: Option<GivenToken>, error: ConnectError) -> Failure {
        let is_given = given.is_some();
        let fault = given.and_then(|token| token.fault(&self.room));
        match (fault, &error) {
            (
                Some(fault),
                ConnectError::Refused {
                    status: 401 | 403, ..
                },
            ) => failure::of_given_token(url, &fault),
            _ => failure::of_connect(url, is_given, error),
        }
    }

    fn endpoint(&self) -> anyhow::Result<Endpoint> {
        let given = match &self.identity {
            Some(_) => None,
            None => GivenToken::from_env()?,
        };
        let (jwt, key) = if let Some(token) = &given {
            (token.jwt.clone(), None)
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
            given,
        })
    }
}

/// Runs an asynchronous command.
pub(super) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("can't start the runtime")?;
    runtime.block_on(work)
}
