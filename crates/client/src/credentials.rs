//! With what a room is entered: a token, a key to sign tokens with, or a program's own way to a token.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meshagent_protocol::{ApiKey, ApiScope, Grant, ParticipantToken, decode_base64};
use serde_json::Value;

use crate::panics::catch_panic;

/// How long a program may take to give a token.
const PATIENCE: Duration = Duration::from_secs(30);

/// A token that is valid for less than this is not worth a try.
const LEEWAY: Duration = Duration::from_secs(5);

/// What a program's own function failed with.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

type Fetched = Pin<Box<dyn Future<Output = Result<String, BoxError>> + Send>>;

#[derive(Clone, Debug)]
pub(crate) enum Credentials {
    Fetch(FetchToken),
    Key { key: ApiKey, identity: String },
    Token(String),
}

/// A program's function that gives a token.
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

    /// A panic of the program's function is an error of it like any other.
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
    /// The id of the project that they are for, if they say it.
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
    /// The one that was fetched last, unless the server refused it.
    fetched: Option<String>,
    /// How many of those that were fetched the server refused, one after the other.
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

    /// A token to enter with now.
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

    /// The server took the last one.
    pub(crate) fn taken(&mut self) {
        self.refused = 0;
    }

    /// The server refused the last one with this status. Returns whether another one may be taken: a clock may be wrong, or
    /// a key was changed.
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

/// How many tokens are tried one after the other.
const TRIES: u32 = 3;

/// The claims of a token, which only the server can check.
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

/// Whether a token says that it is not valid any more, or soon will not be.
fn has_expired(token: &str) -> bool {
    let expires = claims_of(token).and_then(|claims| claims["exp"].as_f64());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or_default() + LEEWAY;
    expires.is_some_and(|expires| expires <= now.as_secs_f64())
}
