//! The server's side of RFC 6455: the headers of the handshake, a strict reader of frames, and a
//! writer.
//!
//! It knows neither rooms nor messages. The reader does no I/O except in [`FrameReader::receive`],
//! the one place that reads from a socket.

#[cfg(test)]
mod echo;
mod reader;
mod writer;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{
    AsHeaderName, CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Version};
use sha1::{Digest as _, Sha1};
use thiserror::Error;

pub(crate) use self::reader::{Event, FrameReader};
pub(crate) use self::writer::{Opcode, begin_frame, write_frame};

/// The constant that is hashed with the key to prove that a server understood the handshake (RFC
/// 6455, section 1.3).
const ACCEPT_SALT: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Why a request for a WebSocket is refused.
#[derive(Debug, Error)]
pub(crate) enum HandshakeError {
    #[error("the header Sec-WebSocket-Key must be 16 bytes in base64")]
    Key,
    #[error("the header Sec-WebSocket-Version must be 13")]
    Version,
}

/// Whether a request asks for a WebSocket.
pub(crate) fn is_upgrade<B>(request: &Request<B>) -> bool {
    // RFC 6455, section 4.1: HTTP/1.1 or higher.
    request.method() == Method::GET
        && request.version() >= Version::HTTP_11
        && has_token(request.headers(), CONNECTION, "upgrade")
        && has_token(request.headers(), UPGRADE, "websocket")
}

/// The response that completes the handshake (RFC 6455, section 4.2.2).
///
/// # Errors
/// If the RFC does not allow the key or the version.
pub(crate) fn accept<B: Default>(headers: &HeaderMap) -> Result<Response<B>, HandshakeError> {
    let version = headers.get(SEC_WEBSOCKET_VERSION);
    if version.is_none_or(|version| version.as_bytes() != b"13") {
        return Err(HandshakeError::Version);
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or(HandshakeError::Key)?;
    if STANDARD.decode(key).map_or(0, |nonce| nonce.len()) != 16 {
        return Err(HandshakeError::Key);
    }
    let hash = Sha1::new()
        .chain_update(key)
        .chain_update(ACCEPT_SALT)
        .finalize();
    let mut response = Response::new(B::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = STANDARD.encode(hash);
    for (name, value) in [
        (CONNECTION, "upgrade"),
        (UPGRADE, "websocket"),
        (SEC_WEBSOCKET_ACCEPT, &answer),
    ] {
        let value = value.parse().expect("base64 and words are header values");
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}

/// Whether a header's comma-separated values contain a token, ignoring case.
fn has_token(headers: &HeaderMap, name: impl AsHeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn the_key_of_the_rfc_gets_the_answer_of_the_rfc() {
        let headers = headers(&[
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
        ]);
        let response: Response<()> = accept(&headers).unwrap();
        assert_eq!(response.status(), 101);
        let answer = &response.headers()[SEC_WEBSOCKET_ACCEPT];
        assert_eq!(answer, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn keys_and_versions_that_the_rfc_does_not_allow_are_refused() {
        for (key, version) in [
            ("dGhlIHNhbXBsZSBub25jZQ==", "8"),
            ("dGhlIHNhbXBsZQ==", "13"),
            ("not base64", "13"),
            ("", "13"),
        ] {
            let headers = headers(&[
                ("sec-websocket-key", key),
                ("sec-websocket-version", version),
            ]);
            assert!(accept::<()>(&headers).is_err(), "{key:?} {version:?}");
        }
    }
}
