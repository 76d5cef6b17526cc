//! Opens a WebSocket to a room, given its URL and a token.

use std::pin::pin;

use bytes::Bytes;
use fastwebsockets::{Role, WebSocket};
use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use meshagent_protocol::parse_json_object;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::trust::Trust;

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The connection was lost before the room was ready.
    #[error("the connection was lost before the room was ready, try again")]
    Closed,
    /// The server does not answer as a room server.
    #[error("the server does not speak HTTP as a room server does")]
    Http(#[source] hyper::Error),
    /// The token contains characters that an HTTP header can't have.
    #[error("the token contains characters that no token has")]
    InvalidToken,
    /// The URL is not that of a room.
    #[error("the address is not of the form ws://host/rooms/name")]
    InvalidUrl,
    /// The server can't be reached.
    #[error("the server can't be reached")]
    Io(#[source] std::io::Error),
    /// The server refused the connection.
    #[error("the server refuses the connection with status {status}: {text}")]
    Refused {
        /// The HTTP status code. With 403 or 404, a retry does not help.
        status: u16,
        /// The server's explanation.
        text: String,
    },
    /// A setting that the connection needs is missing or invalid.
    #[error("{0}")]
    Setting(String),
    /// The token function failed.
    #[error("no token could be had for the room")]
    Token(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server's certificate is not trusted, or the server does not speak TLS.
    #[error("no secure connection to the server can be made")]
    Tls(#[source] std::io::Error),
}

impl ConnectError {
    /// Whether a retry may succeed.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            // A certificate may have expired and be renewed late.
            Self::Closed | Self::Http(_) | Self::Io(_) | Self::Tls(_) | Self::Token(_) => true,
            // An overloaded server, or a proxy whose server is down.
            Self::Refused { status, .. } => *status == 429 || *status >= 500,
            Self::InvalidToken | Self::InvalidUrl | Self::Setting(_) => false,
        }
    }
}

pub(crate) type Socket = WebSocket<TokioIo<Upgraded>>;

/// Opens a WebSocket to a room, with TLS if the URL's scheme requires it.
pub(crate) async fn open(url: &str, token: &str, trust: &Trust) -> Result<Socket, ConnectError> {
    let uri = parse_url(url)?;
    let is_secure = matches!(uri.scheme_str(), Some("wss" | "https"));
    let host = uri.host().ok_or(ConnectError::InvalidUrl)?;
    // `Uri` keeps the brackets of an IPv6 address.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(ConnectError::Io)?;
    // Packets are small, and callers may wait for each of them.
    stream.set_nodelay(true).map_err(ConnectError::Io)?;
    if is_secure {
        upgrade(trust.secure(stream, host).await?, url, token).await
    } else {
        upgrade(stream, url, token).await
    }
}

/// Requests a WebSocket to a room over an open stream to the server.
pub(crate) async fn upgrade<S>(stream: S, url: &str, token: &str) -> Result<Socket, ConnectError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let request = upgrade_request(&parse_url(url)?, token)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(ConnectError::Http)?;
    let mut connection = pin!(connection.with_upgrades());

    // The connection progresses only while it is polled, and ends with the upgrade.
    let exchange = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(ConnectError::Http)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refusal(response).await);
        }
        hyper::upgrade::on(response)
            .await
            .map_err(ConnectError::Http)
    };
    let mut exchange = pin!(exchange);
    let upgraded = tokio::select! {
        upgraded = &mut exchange => upgraded,
        ended = &mut connection => {
            ended.map_err(ConnectError::Http)?;
            exchange.await
        }
    }?;
    Ok(WebSocket::after_handshake(
        TokioIo::new(upgraded),
        Role::Client,
    ))
}

fn parse_url(url: &str) -> Result<Uri, ConnectError> {
    let uri: Uri = url.parse().map_err(|_cause| ConnectError::InvalidUrl)?;
    let is_room = matches!(uri.scheme_str(), Some("ws" | "wss" | "http" | "https"))
        && uri.host().is_some_and(|host| !host.is_empty())
        && uri.path().contains("/rooms/");
    if is_room {
        Ok(uri)
    } else {
        Err(ConnectError::InvalidUrl)
    }
}

fn upgrade_request(uri: &Uri, token: &str) -> Result<Request<Empty<Bytes>>, ConnectError> {
    let mut authorization = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_cause| ConnectError::InvalidToken)?;
    authorization.set_sensitive(true);
    let path = uri
        .path_and_query()
        .map_or("/", |path_and_query| path_and_query.as_str());
    let host = uri.authority().map_or("", |authority| authority.as_str());
    Request::builder()
        .uri(path)
        .header(HOST, host)
        .header(AUTHORIZATION, authorization)
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, "websocket")
        .header("sec-websocket-version", "13")
        .header(
            "sec-websocket-key",
            fastwebsockets::handshake::generate_key(),
        )
        .body(Empty::new())
        .map_err(|_cause| ConnectError::InvalidUrl)
}

async fn refusal(response: Response<Incoming>) -> ConnectError {
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_REFUSAL_BYTES);
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(_too_long_or_lost) => Bytes::new(),
    };
    let text = match parse_json_object(&body).map(|mut object| object.remove("error")) {
        Ok(Some(Value::String(text))) => text,
        // This is not a room server's answer, but for instance a proxy's.
        _ => String::from_utf8_lossy(&body).trim().to_owned(),
    };
    let text = if text.is_empty() {
        status.canonical_reason().unwrap_or("no reason").to_owned()
    } else {
        text
    };
    ConnectError::Refused {
        status: status.as_u16(),
        text,
    }
}

/// Longer explanations are not read: they are not meant for people.
const MAX_REFUSAL_BYTES: usize = 16 * 1024;
