//! The HTTP routes: the room socket and its handshake, `connect`, signed downloads, health and
//! metrics.

mod file;
mod handshake;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use hyper::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, EXPECT,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{HeaderMap, Method, Request, StatusCode};
use meshagent_protocol::{ApiKey, ApiScope, Grant, ParticipantToken, RoomName, TokenVerifier};
use meshagent_store::StoreError;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::json;
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use self::file::{FileBody, Interrupted, LinkedFile};
pub(crate) use self::stream::HttpStream;
use crate::committer::{Committer, with_causes};
use crate::connection::Shared;
use crate::fair::FairTurns;
use crate::health::Obstacle;
use crate::rooms::{now, unix_seconds};
use crate::signer::{SignedQuery, UrlSigner};

/// Parts of files, of 512 KiB each, that may be in memory for peers with a link; others wait.
pub(crate) const FILE_PARTS: usize = 128;
/// The same for the first parts, of 64 KiB each.
pub(crate) const FIRST_PARTS: usize = 256;
/// The longest body of a request.
const MAX_BODY_BYTES: usize = 4 << 10;
/// Bytes of a request's head that are not charged.
const FREE_HEAD_BYTES: usize = 4 << 10;
/// Time for the body of a refused request.
const PASS_OVER: Duration = Duration::from_secs(1);

/// State that the handlers share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) shared: Shared,
    pub(crate) committer: Committer,
    pub(crate) key: ApiKey,
    pub(crate) verifier: TokenVerifier,
    pub(crate) signer: UrlSigner,
    /// Owns the task of each connection.
    pub(crate) connections: TaskTracker,
    /// One permit for each WebSocket.
    pub(crate) sockets: Arc<Semaphore>,
    /// One turn for each part of a file that is in memory for a peer with a link.
    pub(crate) parts: Arc<FairTurns>,
    /// The same for the first parts of files.
    pub(crate) first_parts: Arc<FairTurns>,
}

impl App {
    /// Spawns a connection's task. It ends when the grace period of a stop is over, whatever its
    /// peer does.
    pub(crate) fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let killed = self.shared.killed.clone();
        // Boxed, since moving a future into another would double its size.
        let connection = Box::pin(connection);
        self.connections.spawn(async move {
            tokio::select! {
                () = connection => {}
                () = killed.cancelled() => {}
            }
        });
    }
}

pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(async || "meshagent room server\n"))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/rooms/{room}", get(handshake::room_socket))
        .route("/rooms/{room}/file", get(download))
        .route(
            "/accounts/projects/{project}/rooms/{room}/connect",
            post(connect),
        )
        .fallback(async || {
            HttpRefusal::new(
                StatusCode::NOT_FOUND,
                "there is nothing here; rooms are at /rooms/{room}",
            )
        })
        .method_not_allowed_fallback(async || {
            HttpRefusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "what is here takes another method: connect is a POST, all else a GET",
            )
        })
        .layer(axum::middleware::from_fn(of_one_host))
        .with_state(app)
}

/// A refusal as an HTTP status and a JSON body whose text says what to do.
#[derive(Debug)]
pub(crate) struct HttpRefusal {
    status: StatusCode,
    text: String,
    /// The reason for the log, if it differs.
    reason: Option<String>,
}

impl HttpRefusal {
    pub(crate) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
            reason: None,
        }
    }

    pub(crate) fn forbidden(text: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, text)
    }

    /// The reason is logged only: a stranger learns no more than that the token is invalid.
    pub(crate) fn invalid_token(reason: impl Into<String>) -> Self {
        Self {
            reason: Some(reason.into()),
            ..Self::forbidden("invalid token")
        }
    }

    /// The reason for the log.
    pub(crate) fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or(&self.text)
    }
}

impl IntoResponse for HttpRefusal {
    fn into_response(self) -> Response {
        (self.status, axum::Json(json!({ "error": self.text }))).into_response()
    }
}

/// Answers 400 to a request with several `Host` headers or an invalid one (RFC 9112, section 3.2).
async fn of_one_host(request: Request<Body>, next: Next) -> Response {
    match handshake::host(request.headers()) {
        Ok(_) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Answers ready if the store can be read and written.
async fn ready(State(app): State<Arc<App>>) -> Response {
    let refuse = |cause: &str, text: &str| {
        let body = json!({ "error": text, "cause": cause });
        (StatusCode::SERVICE_UNAVAILABLE, axum::Json(body)).into_response()
    };
    if app.shared.stopping.is_cancelled() {
        return refuse("stopping", "the server is stopping");
    }
    match app.committer.ready().await {
        Ok(()) => "ready\n".into_response(),
        Err(Obstacle { word, text }) => refuse(word, text),
    }
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    app.shared.measure();
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, content_type)], app.shared.metrics.render()).into_response()
}

/// Issues a participant token for a room to the holder of the API key or of a token for that room.
async fn connect(
    State(app): State<Arc<App>>,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request<Body>,
) -> Result<Response, HttpRefusal> {
    let Ok(Path((project, room))) = path else {
        return Err(handshake::no_name());
    };
    let (head, body) = request.into_parts();
    // The body is read only after the head was accepted.
    let asking = match asking(&app, &project, &room, &head.headers) {
        Ok(asking) => asking,
        Err(refusal) => {
            let status = refusal.status.as_u16();
            tracing::info!(
                room = handshake::beginning(&room),
                status,
                reason = refusal.reason(),
                "no token handed out"
            );
            if !head.headers.contains_key(EXPECT) {
                pass_over(body).await;
            }
            return Err(refusal);
        }
    };
    let body = connect_body(body, app.shared.config.http_timeout).await?;
    let jwt = match asking {
        Asking::Owner => {
            let ttl = app.shared.config.connect_token_ttl.as_secs();
            let name = body.email.as_deref().unwrap_or("user");
            if name.is_empty() {
                let text =
                    "email names the participant and must not be empty; leave it out for \"user\"";
                return Err(HttpRefusal::new(StatusCode::BAD_REQUEST, text));
            }
            let mut token = ParticipantToken::new(name);
            token.grants.push(Grant::Room(room.clone()));
            token.grants.push(Grant::Api(Box::new(ApiScope::full())));
            token.exp = Some(unix_seconds().saturating_add(ttl));
            token.sign(&app.key)
        }
        // A participant may connect again with its present rights, and no more.
        Asking::Participant(jwt) => jwt,
    };
    let room_url = format!("{}/rooms/{room}", handshake::origin(&head.headers)?);
    let answer =
        json!({ "jwt": jwt, "room_name": room, "project_id": project, "room_url": room_url });
    Ok(axum::Json(answer).into_response())
}

/// The holder of a right to ask for a token.
enum Asking {
    /// The holder of the API key.
    Owner,
    /// The holder of this token for the room.
    Participant(String),
}

/// Identifies the requester from the head of the request.
fn asking(
    app: &App,
    project: &str,
    room: &str,
    headers: &HeaderMap,
) -> Result<Asking, HttpRefusal> {
    let room = RoomName::parse(room)
        .map_err(|error| HttpRefusal::new(StatusCode::NOT_FOUND, error.to_string()))?;
    if project != app.key.project_id {
        return Err(HttpRefusal::forbidden(
            "this server serves another project; check MESHAGENT_PROJECT_ID",
        ));
    }
    let bearer = handshake::bearer(headers).ok_or_else(|| {
        HttpRefusal::new(
            StatusCode::UNAUTHORIZED,
            "send the API key as Authorization: Bearer <key>",
        )
    })?;
    let Ok(given) = ApiKey::parse(bearer) else {
        handshake::verify(app, bearer, room.as_ref())?;
        return Ok(Asking::Participant(bearer.to_owned()));
    };
    let ours = app.key.id == given.id && app.key.project_id == given.project_id;
    if !ours || !bool::from(given.secret.as_bytes().ct_eq(app.key.secret.as_bytes())) {
        return Err(HttpRefusal::forbidden(
            "the API key is not this server's; check MESHAGENT_API_KEY",
        ));
    }
    Ok(Asking::Owner)
}

#[derive(Debug, Default, Deserialize)]
struct ConnectBody {
    email: Option<String>,
}

/// Reads the small body of a `connect` request, which may be empty.
async fn connect_body(body: Body, patience: Duration) -> Result<ConnectBody, HttpRefusal> {
    let refusal = HttpRefusal::new;
    let too_large = || {
        let text = format!("the body must come whole and have {MAX_BODY_BYTES} bytes at most");
        refusal(StatusCode::PAYLOAD_TOO_LARGE, text)
    };
    if body.size_hint().lower() > MAX_BODY_BYTES as u64 {
        return Err(too_large());
    }
    let read = tokio::time::timeout(patience, axum::body::to_bytes(body, MAX_BODY_BYTES)).await;
    let bytes = match read {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => return Err(too_large()),
        Err(_) => {
            let text = "the body did not arrive in time".to_owned();
            return Err(refusal(StatusCode::REQUEST_TIMEOUT, text));
        }
    };
    if bytes.is_empty() {
        return Ok(ConnectBody::default());
    }
    serde_json::from_slice(&bytes).map_err(|error| {
        let text = format!("the body is not as expected: {error}");
        refusal(StatusCode::BAD_REQUEST, text)
    })
}

/// Reads and drops the small body of a refused request: a client that is still sending it would see
/// a reset connection instead of the refusal. Not for a client that expects `100 Continue`, because
/// reading the body would send that.
async fn pass_over(mut body: Body) {
    let mut passed = 0;
    let passing = async {
        while passed <= MAX_BODY_BYTES as u64 && body.size_hint().lower() <= MAX_BODY_BYTES as u64 {
            match body.frame().await {
                Some(Ok(frame)) => passed += frame.data_ref().map_or(0, |data| data.len() as u64),
                Some(Err(_)) | None => break,
            }
        }
    };
    // Whether the body arrived in time makes no difference.
    let _ = tokio::time::timeout(PASS_OVER, passing).await;
}

/// Serves a file to the holder of a link from `download_url`.
async fn download(
    State(app): State<Arc<App>>,
    method: Method,
    room: Result<Path<String>, PathRejection>,
    query: Result<Query<SignedQuery>, QueryRejection>,
) -> Result<Response, HttpRefusal> {
    // The error names no detail, because the holder of the link could not fix it.
    let (Ok(Path(room)), Ok(Query(query))) = (room, query) else {
        return Err(HttpRefusal::new(
            StatusCode::BAD_REQUEST,
            "the link is damaged: take all of it as it was made, or ask for a new one",
        ));
    };
    let room = app.shared.rooms.room_id(&room);
    if !app.signer.verify(&room, &query, now()) {
        return Err(HttpRefusal::forbidden(
            "the link is not valid, or no longer; ask for a new one",
        ));
    }
    let linked = LinkedFile::new(room, query.path.clone());
    let missing = || HttpRefusal::new(StatusCode::NOT_FOUND, "the file was deleted or moved");
    let unreadable = |error: StoreError| {
        tracing::error!(error = %with_causes(&error), "file not read");
        HttpRefusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "storage failed; try again later",
        )
    };
    let (file, body) = loop {
        let opened = linked.open(&app).await.map_err(unreadable)?;
        let file = opened.ok_or_else(missing)?;
        let mut body = FileBody::new(Arc::clone(&app), linked.clone(), &file);
        if method == Method::HEAD {
            break (file, body);
        }
        match body.begin().await {
            Ok(()) => break (file, body),
            // It was replaced, moved or deleted since it was opened.
            Err(Interrupted::Changed) => {}
            Err(Interrupted::Store(error)) => return Err(unreadable(error)),
        }
    };
    let name = query.path.rsplit('/').next().unwrap_or("file");
    let disposition = if query.download {
        "attachment"
    } else {
        "inline"
    };
    let disposition = format!(
        "{disposition}; filename*=UTF-8''{}",
        utf8_percent_encode(name, NON_ALPHANUMERIC)
    );
    Ok((
        [
            (CONTENT_TYPE, file.mime_type),
            (CONTENT_DISPOSITION, disposition),
            // An uploaded file must not act as a page of this server.
            (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
            (CONTENT_SECURITY_POLICY, "sandbox".to_owned()),
            (CACHE_CONTROL, "private".to_owned()),
        ],
        Body::new(body),
    )
        .into_response())
}
