//! Credentials for a room: a fixed token, a key that signs tokens, or a function that returns
//! tokens.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meshagent_protocol::{ApiKey, ApiScope, Grant, ParticipantToken, decode_base64};
use serde_json::Value;

use crate::panics::catch_panic;

/// How long the token function may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A token with less remaining time than this is treated as expired.
const LEEWAY: Duration = Duration::from_secs(5);

/// The error of the token function.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

type Fetched = Pin<Box<dyn Future<Output = Result<String, BoxError>> + Send>>;

#[derive(Clone, Debug)]
pub(crate) enum Credentials {
    Fetch(FetchToken),
    Key { key: ApiKey, identity: String },
    Token(String),
}

/// The program's function that returns a token.
#[derive(Clone)]
pub(crate) struct FetchToken(Arc<dyn Fn() -> Fetched + Send + Sync>);

impl fmt::Debug for FetchToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("FetchToken")
    }
}

impl FetchToken {
    pub(crate) fn new<F, T>(fetch: F) -> Self
    where
        F: Fn() -> T + Send + Sync + 'static,
        T: Future<Output = Result<String, BoxError>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(fetch())))
    }

    /// Calls the function. A panic is an error like any other.
    async fn call(&self) -> Result<String, BoxError> {
        let fetching = async { (self.0)().await };
        match tokio::time::timeout(PATIENCE, catch_panic(fetching)).await {
            Ok(Ok(fetched)) => fetched,
            Ok(Err(panic)) => {
                Err(format!("the function that gives a token panicked: {panic}").into())
            }
            Err(_elapsed) => Err("no token came within 30 seconds".into()),
        }
    }
}

impl Credentials {
    /// The project's id; `None` for a token function, whose tokens are not known yet.
    pub(crate) fn project(&self) -> Option<String> {
        match self {
            Self::Fetch(_) => None,
            Self::Key { key, .. } => Some(key.project_id.clone()),
            Self::Token(token) => Some(project_of(token).unwrap_or_default()),
        }
    }
}

/// The tokens for one room.
#[derive(Debug)]
pub(crate) struct Tokens {
    credentials: Credentials,
    room: String,
    /// The last fetched token, unless it was refused.
    fetched: Option<String>,
    /// How many fetched tokens in a row the server has refused.
    refused: u32,
}

impl Tokens {
    pub(crate) fn new(credentials: Credentials, room: &str) -> Self {
        Self {
            credentials,
            room: room.to_owned(),
            fetched: None,
            refused: 0,
        }
    }

    /// A token for a connection now.
    pub(crate) async fn next(&mut self) -> Result<String, BoxError> {
        match &self.credentials {
            Credentials::Token(token) => Ok(token.clone()),
            Credentials::Key { key, identity } => {
                let mut token = ParticipantToken::new(identity);
                token.grants.push(Grant::Room(self.room.clone()));
                token.grants.push(Grant::Api(Box::new(ApiScope::full())));
                Ok(token.sign(key))
            }
            Credentials::Fetch(fetch) => {
                if let Some(token) = self.fetched.as_ref().filter(|token| !has_expired(token)) {
                    return Ok(token.clone());
                }
                let token = fetch.call().await?;
                self.fetched = Some(token.clone());
                Ok(token)
            }
        }
    }

    /// The server accepted the last token.
    pub(crate) fn taken(&mut self) {
        self.refused = 0;
    }

    /// The server refused the last token with this status. Returns whether another one may be
    /// fetched: a clock may have been wrong, or the key was changed.
    pub(crate) fn refused(&mut self, status: u16) -> bool {
        let is_fetched = matches!(self.credentials, Credentials::Fetch(_));
        if !is_fetched || !matches!(status, 401 | 403) {
            return false;
        }
        self.fetched = None;
        self.refused += 1;
        self.refused < TRIES
    }
}

/// How many tokens in a row may be refused before the room ends.
const TRIES: u32 = 3;

/// The claims of a token. They are not verified; only the server can do that.
fn claims_of(token: &str) -> Option<Value> {
    let claims = token.split('.').nth(1)?;
    let mut base64 = claims.replace('-', "+").replace('_', "/");
    base64.extend(std::iter::repeat_n('=', (4 - base64.len() % 4) % 4));
    let claims = decode_base64(base64.as_bytes()).ok()?;
    serde_json::from_slice(&claims).ok()
}

fn project_of(token: &str) -> Option<String> {
    claims_of(token)?["sub"].as_str().map(str::to_owned)
}

/// Whether a token has expired or expires soon, according to its claims.
fn has_expired(token: &str) -> bool {
    let expires = claims_of(token).and_then(|claims| claims["exp"].as_f64());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or_default() + LEEWAY;
    expires.is_some_and(|expires| expires <= now.as_secs_f64())
}
