//! The routes: the room socket and its handshake, `connect`, signed downloads, health and metrics.

mod handshake;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{HeaderMap, StatusCode};
use meshagent_protocol::{ApiKey, ApiScope, Grant, ParticipantToken, RoomName, TokenVerifier};
use meshagent_store::Store;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::json;
use subtle::ConstantTimeEq as _;
use tokio_util::task::TaskTracker;

use crate::committer::with_causes;
use crate::connection::Shared;
use crate::rooms::now;
use crate::signer::{SignedQuery, UrlSigner};

/// What the handlers share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) shared: Shared,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) key: ApiKey,
    pub(crate) verifier: TokenVerifier,
    pub(crate) signer: UrlSigner,
    /// Owns the task of each connection.
    pub(crate) connections: TaskTracker,
    /// One permit for each WebSocket.
    pub(crate) sockets: Arc<tokio::sync::Semaphore>,
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
        .with_state(app)
}

/// A refusal as an HTTP status and a JSON body with a text that says what to do.
#[derive(Debug)]
pub(crate) struct HttpRefusal {
    status: StatusCode,
    text: String,
}

impl HttpRefusal {
    pub(crate) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
        }
    }

    pub(crate) fn forbidden(text: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, text)
    }
}

impl IntoResponse for HttpRefusal {
    fn into_response(self) -> Response {
        (self.status, axum::Json(json!({ "error": self.text }))).into_response()
    }
}

/// Ready means that the store can be read and written.
async fn ready(State(app): State<Arc<App>>) -> Response {
    let store = Arc::clone(&app.store);
    let checked = tokio::task::spawn_blocking(move || store.check()).await;
    match checked {
        Ok(Ok(())) if app.shared.stopping.is_cancelled() => {
            HttpRefusal::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping")
                .into_response()
        }
        Ok(Ok(())) => "ready\n".into_response(),
        Ok(Err(error)) => {
            tracing::warn!(error = %with_causes(&error), "not ready");
            HttpRefusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the store cannot be used now",
            )
            .into_response()
        }
        Err(_) => HttpRefusal::new(StatusCode::SERVICE_UNAVAILABLE, "the store did not answer")
            .into_response(),
    }
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    app.shared.measure();
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, content_type)], app.shared.metrics.render()).into_response()
}

#[derive(Debug, Default, Deserialize)]
struct ConnectBody {
    email: Option<String>,
}

/// Hands out a participant token for a room to whoever holds the API key, or a token for that room already.
async fn connect(
    State(app): State<Arc<App>>,
    Path((project, room)): Path<(String, String)>,
    headers: HeaderMap,
    body: axum::body::Bytes,
) -> Result<Response, HttpRefusal> {
    let room = RoomName::parse(&room)
        .map_err(|error| HttpRefusal::new(StatusCode::NOT_FOUND, error.to_string()))?;
    if project != app.key.project_id {
        return Err(HttpRefusal::forbidden(
            "this server serves another project; check MESHAGENT_PROJECT_ID",
        ));
    }
    let body: ConnectBody = if body.is_empty() {
        ConnectBody::default()
    } else {
        serde_json::from_slice(&body).map_err(|error| {
            HttpRefusal::new(
                StatusCode::BAD_REQUEST,
                format!("the body is not as expected: {error}"),
            )
        })?
    };
    let bearer = handshake::bearer(&headers).ok_or_else(|| {
        HttpRefusal::new(
            StatusCode::UNAUTHORIZED,
            "send the API key as Authorization: Bearer <key>",
        )
    })?;
    let now_unix = u64::try_from(now().0 / 1000).unwrap_or_default();
    let jwt = if let Ok(given) = ApiKey::parse(bearer) {
        let ours = app.key.id == given.id && app.key.project_id == given.project_id;
        if !ours || !bool::from(given.secret.as_bytes().ct_eq(app.key.secret.as_bytes())) {
            return Err(HttpRefusal::forbidden(
                "the API key is not this server's; check MESHAGENT_API_KEY",
            ));
        }
        let ttl = app.shared.config.connect_token_ttl.as_secs();
        let mut token = ParticipantToken::new(body.email.as_deref().unwrap_or("user"));
        token.grants.push(Grant::Room(room.as_str().to_owned()));
        token.grants.push(Grant::Api(Box::new(ApiScope::full())));
        token.exp = Some(now_unix.saturating_add(ttl));
        token.sign(&app.key)
    } else {
        // A participant may connect again with the right that it has, and no more.
        handshake::verify(&app, bearer, room.as_ref())?;
        bearer.to_owned()
    };
    let room_url = format!("{}/rooms/{}", handshake::origin(&headers), room.as_ref());
    let answer = json!({ "jwt": jwt, "room_name": room.as_ref(), "project_id": project, "room_url": room_url });
    Ok(axum::Json(answer).into_response())
}

/// Serves a file to whoever has a link from `download_url`.
async fn download(
    State(app): State<Arc<App>>,
    Path(room): Path<String>,
    Query(query): Query<SignedQuery>,
) -> Result<Response, HttpRefusal> {
    let room = app.shared.rooms.room_id(&room);
    if !app.signer.verify(&room, &query, now()) {
        return Err(HttpRefusal::forbidden(
            "the link is not valid, or no longer; ask for a new one",
        ));
    }
    let store = Arc::clone(&app.store);
    let path = query.path.clone();
    let read = tokio::task::spawn_blocking(move || store.read_file(&room, &path)).await;
    let file = match read {
        Ok(Ok(Some(file))) => file,
        Ok(Ok(None)) => {
            return Err(HttpRefusal::new(
                StatusCode::NOT_FOUND,
                "the file was deleted or moved",
            ));
        }
        Ok(Err(error)) => {
            tracing::error!(error = %with_causes(&error), "file not read");
            return Err(HttpRefusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "storage failed; try again later",
            ));
        }
        Err(_) => {
            return Err(HttpRefusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "storage failed; try again later",
            ));
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
            // What participants upload must not act as this server's page.
            (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
            (CONTENT_SECURITY_POLICY, "sandbox".to_owned()),
            (CACHE_CONTROL, "private".to_owned()),
        ],
        file.data,
    )
        .into_response())
}
