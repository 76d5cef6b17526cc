//! From a GET to a joined participant: where the token is, whether it is good, and the upgrade.
//!
//! Every bad token is refused with 403 before the upgrade: published clients give up on 403 and 404, and try for
//! ever on everything else.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use hyper::header::{AUTHORIZATION, HOST, SEC_WEBSOCKET_PROTOCOL};
use hyper::{HeaderMap, Request, StatusCode};
use meshagent_protocol::{ParticipantToken, RoomName};
use percent_encoding::percent_decode_str;

use super::{App, HttpRefusal};
use crate::connection;
use crate::outbox::Outbox;
use crate::room::Joining;
use crate::rooms::now;

/// What browsers put before the token, since they can set no header but the subprotocol.
const SUBPROTOCOL: &str = "meshagent-room.";

pub(super) async fn room_socket(
    State(app): State<Arc<App>>,
    Path(room): Path<String>,
    mut request: Request<Body>,
) -> Response {
    match upgrade(&app, &room, &mut request) {
        Ok(response) => response,
        Err(refusal) => {
            app.shared.metrics.refused_handshakes.inc();
            tracing::info!(room, status = refusal.status.as_u16(), reason = %refusal.text, "handshake refused");
            refusal.into_response()
        }
    }
}

fn upgrade(
    app: &Arc<App>,
    room: &str,
    request: &mut Request<Body>,
) -> Result<Response, HttpRefusal> {
    let room = RoomName::parse(room)
        .map_err(|error| HttpRefusal::new(StatusCode::NOT_FOUND, error.to_string()))?;
    if !fastwebsockets::upgrade::is_upgrade_request(request) {
        let text = "this is a WebSocket: connect with a MeshAgent SDK, or upgrade the request";
        return Err(HttpRefusal::new(StatusCode::UPGRADE_REQUIRED, text));
    }
    let headers = request.headers();
    let offered = subprotocol(headers);
    let from_query = request.uri().query().and_then(query_token);
    let token = bearer(headers)
        .map(str::to_owned)
        .or(from_query)
        .or_else(|| offered.map(|offered| offered[SUBPROTOCOL.len()..].to_owned()))
        .ok_or_else(|| {
            HttpRefusal::forbidden(
                "no token: send Authorization: Bearer <jwt>, ?token=<jwt> or the subprotocol meshagent-room.<jwt>",
            )
        })?;
    let participant = verify(app, &token, room.as_ref())?;
    if app.shared.stopping.is_cancelled() || !app.shared.rooms.has_place(room.as_ref()) {
        return Err(HttpRefusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no place in this room now; try again later",
        ));
    }
    let permit = Arc::clone(&app.sockets).try_acquire_owned().map_err(|_| {
        HttpRefusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the server is full; try again later",
        )
    })?;

    let echoed = offered.map(str::to_owned);
    let joining = Joining {
        participant_id: app.shared.rooms.participant_id(),
        name: participant.name.clone(),
        role: participant.role().to_string(),
        scope: participant.api().cloned().unwrap_or_default(),
        origin: origin(headers),
        outbox: Arc::new(Outbox::new(
            app.shared.config.limits.max_outbox_bytes,
            Arc::clone(&app.shared.metrics),
        )),
    };
    let (response, socket) = fastwebsockets::upgrade::upgrade(request).map_err(|error| {
        HttpRefusal::new(
            StatusCode::BAD_REQUEST,
            format!("not a WebSocket handshake: {error}"),
        )
    })?;

    let shared = app.shared.clone();
    let room = room.to_string();
    app.connections.spawn(async move {
        let _place = permit;
        match socket.await {
            Ok(socket) => connection::run(socket, &room, joining, &shared).await,
            Err(error) => tracing::debug!(%error, "the upgrade did not finish"),
        }
    });

    let mut response = response.map(Body::new);
    if let Some(echoed) = echoed
        && let Ok(value) = echoed.parse()
    {
        // Browsers end a connection whose subprotocol is not echoed.
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
    Ok(response)
}

/// Whether the token is ours and lets its bearer into the room.
pub(super) fn verify(app: &App, jwt: &str, room: &str) -> Result<ParticipantToken, HttpRefusal> {
    let now_unix = u64::try_from(now().0 / 1000).unwrap_or_default();
    let token = app
        .verifier
        .verify(jwt, now_unix)
        .map_err(|error| HttpRefusal::forbidden(error.to_string()))?;
    match token.room() {
        Some(granted) if granted == room => Ok(token),
        Some(granted) => Err(HttpRefusal::forbidden(format!(
            "the token is for room {granted:?}, not {room:?}"
        ))),
        None => Err(HttpRefusal::forbidden("the token has no room grant")),
    }
}

pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Scheme and authority as the client sees them.
pub(super) fn origin(headers: &HeaderMap) -> String {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let scheme = match text("x-forwarded-proto") {
        Some("https" | "wss") => "https",
        _ => "http",
    };
    let host = text(HOST.as_str())
        .filter(|host| !host.is_empty())
        .unwrap_or("localhost");
    format!("{scheme}://{host}")
}

fn query_token(query: &str) -> Option<String> {
    let value = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("token="))?;
    percent_decode_str(value).decode_utf8().ok().map(Into::into)
}

fn subprotocol(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .find(|offered| offered.starts_with(SUBPROTOCOL))
}
