//! The handshake, from a GET request to a joined participant: finds and verifies the token, then
//! upgrades the connection.
//!
//! Every bad token is refused with 403 before the upgrade: published clients give up on 403 and
//! 404, and retry forever on everything else.

use std::net::Ipv6Addr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use hyper::header::{AUTHORIZATION, HOST, SEC_WEBSOCKET_PROTOCOL};
use hyper::upgrade::Upgraded;
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use meshagent_protocol::{ParticipantToken, RoomName};
use percent_encoding::percent_decode_str;

use super::stream::HttpStream;
use super::{App, HttpRefusal};
use crate::committer::with_causes;
use crate::connection;
use crate::outbox::Outbox;
use crate::room::Joining;
use crate::rooms::unix_seconds;
use crate::websocket;

/// What browsers put before the token, since they can set no header but the subprotocol.
const SUBPROTOCOL: &str = "meshagent-room.";

/// The longest name in the DNS, and a port.
const MAX_HOST_BYTES: usize = 255 + 6;

/// The part of an untrusted name that is logged.
pub(super) fn beginning(name: &str) -> &str {
    &name[..name.floor_char_boundary(128)]
}

pub(super) async fn room_socket(
    State(app): State<Arc<App>>,
    room: Result<Path<String>, PathRejection>,
    mut request: Request<Body>,
) -> Response {
    let Ok(Path(room)) = room else {
        return no_name().into_response();
    };
    match upgrade(&app, &room, &mut request) {
        Ok(response) => response,
        Err(refusal) => {
            app.shared.metrics.refused_handshakes.inc();
            tracing::info!(
                room = beginning(&room),
                status = refusal.status.as_u16(),
                reason = refusal.reason(),
                "handshake refused"
            );
            refusal.into_response()
        }
    }
}

/// The refusal of a path that is not UTF-8.
pub(super) fn no_name() -> HttpRefusal {
    let text = "a name in the path is not UTF-8; percent-encode its UTF-8 bytes";
    HttpRefusal::new(StatusCode::BAD_REQUEST, text)
}

fn upgrade(
    app: &Arc<App>,
    room: &str,
    request: &mut Request<Body>,
) -> Result<Response, HttpRefusal> {
    let room = RoomName::parse(room)
        .map_err(|error| HttpRefusal::new(StatusCode::NOT_FOUND, error.to_string()))?;
    if !websocket::is_upgrade(request) {
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
                "no token: send Authorization: Bearer <jwt>, ?token=<jwt> or the subprotocol \
                 meshagent-room.<jwt>",
            )
        })?;
    let participant = verify(app, &token, room.as_ref())?;
    let seat = app.shared.rooms.take_seat(room.as_ref());
    let Some(seat) = seat.filter(|_| !app.shared.stopping.is_cancelled()) else {
        return Err(HttpRefusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no place in this room now; try again later",
        ));
    };
    let permit = Arc::clone(&app.sockets).try_acquire_owned().map_err(|_| {
        HttpRefusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the server is full; try again later",
        )
    })?;

    let echoed = offered.map(str::to_owned);
    // The same token name in the same room is the same participant, across connections.
    let ledger = app.shared.rooms.usage().ledger();
    let account = ledger.account_in(room.as_ref(), &participant.name);
    let joining = Joining {
        participant_id: app.shared.rooms.participant_id(),
        name: participant.name.clone(),
        role: participant.role().to_string(),
        scope: participant.api().cloned().unwrap_or_default(),
        origin: origin(headers)?,
        expires: participant.exp,
        outbox: Arc::new(Outbox::new(
            app.shared.config.limits.max_outbox_bytes,
            &account,
        )),
        account,
    };
    let mut response = websocket::accept::<Body>(headers).map_err(|error| {
        HttpRefusal::new(
            StatusCode::BAD_REQUEST,
            format!("not a WebSocket handshake: {error}"),
        )
    })?;
    let upgrade = hyper::upgrade::on(request);
    let expires = participant.exp;

    let shared = app.shared.clone();
    let room = room.to_string();
    app.spawn(async move {
        let _places = (permit, seat);
        match upgrade.await.map(Upgraded::downcast::<TokioIo<HttpStream>>) {
            Ok(Ok(parts)) => {
                let stream = parts.io.into_inner().into_inner();
                connection::run(stream, parts.read_buf, &room, joining, expires, &shared).await;
            }
            Ok(Err(_)) => tracing::error!("the upgraded connection is not a socket of this server"),
            Err(error) => tracing::debug!(%error, "the upgrade did not finish"),
        }
    });

    if let Some(echoed) = echoed
        && let Ok(value) = echoed.parse()
    {
        // Browsers close a connection whose subprotocol is not echoed.
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
    Ok(response)
}

/// Verifies that the token is signed with our key and admits its holder to the room.
pub(super) fn verify(app: &App, jwt: &str, room: &str) -> Result<ParticipantToken, HttpRefusal> {
    let token = app
        .verifier
        .verify(jwt, unix_seconds())
        .map_err(|error| HttpRefusal::invalid_token(with_causes(&error)))?;
    match token.room() {
        Some(granted) if granted == room => Ok(token),
        Some(granted) => Err(HttpRefusal::invalid_token(format!(
            "the token is for room {granted:?}, not {room:?}"
        ))),
        None => Err(HttpRefusal::invalid_token("the token has no room grant")),
    }
}

pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Scheme and authority as the client sees them. They are kept as long as the connection, so their
/// length is bounded.
pub(super) fn origin(headers: &HeaderMap) -> Result<String, HttpRefusal> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    // With several proxies, the client speaks to the first.
    let forwarded = text("x-forwarded-proto").and_then(|protos| protos.split(',').next());
    let is_secure = forwarded.is_some_and(|proto| {
        let proto = proto.trim();
        proto.eq_ignore_ascii_case("https") || proto.eq_ignore_ascii_case("wss")
    });
    let scheme = if is_secure { "https" } else { "http" };
    let host = match host(headers)? {
        "" => "localhost",
        host => host,
    };
    Ok(format!("{scheme}://{host}"))
}

/// The server's name in the client's request; empty if it is absent. It becomes part of links, so
/// it must be exactly one name with an optional port.
pub(super) fn host(headers: &HeaderMap) -> Result<&str, HttpRefusal> {
    let refuse = |text: String| Err(HttpRefusal::new(StatusCode::BAD_REQUEST, text));
    let mut values = headers.get_all(HOST).iter();
    let (Some(value), rest) = (values.next(), values.next()) else {
        return Ok("");
    };
    if rest.is_some() {
        return refuse("the header Host may come once only".to_owned());
    }
    if value.len() > MAX_HOST_BYTES {
        return refuse(format!(
            "the header Host may have {MAX_HOST_BYTES} bytes at most"
        ));
    }
    match value.to_str() {
        Ok(host) if host.is_empty() || is_host(host) => Ok(host),
        _ => refuse("the header Host has to be a name or an address, and maybe a port".to_owned()),
    }
}

/// Whether the text is a DNS name or an address, with an optional port (RFC 3986, without forms
/// that no server uses).
fn is_host(text: &str) -> bool {
    let (name, rest) = match text.strip_prefix('[') {
        Some(address) => {
            let Some((address, rest)) = address.split_once(']') else {
                return false;
            };
            if address.parse::<Ipv6Addr>().is_err() {
                return false;
            }
            ("address", rest)
        }
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let is_of_name =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    !name.is_empty()
        && name.bytes().all(is_of_name)
        && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port))
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
