//! Signed, expiring links to files: the URL carries the right to a plain GET.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use meshagent_store::{RoomId, Timestamp};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::Sha256;

/// Characters that a query value needs not escape (RFC 3986, unreserved), and the slash.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// Signs and checks links with a key derived from the project's secret.
#[derive(Clone)]
pub(crate) struct UrlSigner {
    key: [u8; 32],
}

/// The query of a signed link.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct SignedQuery {
    pub(crate) path: String,
    pub(crate) expires: i64,
    pub(crate) signature: String,
    /// If true, the browser saves the file instead of showing it.
    #[serde(default)]
    pub(crate) download: bool,
}

impl UrlSigner {
    pub(crate) fn new(secret: &str) -> Self {
        // The key is derived, so that a link's signature can never pass as a token's.
        let mut key = [0; 32];
        key.copy_from_slice(
            &mac(secret.as_bytes(), &[b"meshagent download url"])
                .finalize()
                .into_bytes(),
        );
        Self { key }
    }

    /// An absolute URL for `path` that is valid until `expires`.
    pub(crate) fn url(
        &self,
        origin: &str,
        room: &RoomId,
        path: &str,
        expires: Timestamp,
        download: bool,
    ) -> String {
        let signature =
            URL_SAFE_NO_PAD.encode(self.mac(room, path, expires.0).finalize().into_bytes());
        let path = utf8_percent_encode(path, ESCAPED);
        let download = if download { "&download=true" } else { "" };
        format!(
            "{origin}/rooms/{}/file?path={path}&expires={}&signature={signature}{download}",
            room.room, expires.0
        )
    }

    /// Whether the link is one of ours and still valid.
    pub(crate) fn verify(&self, room: &RoomId, query: &SignedQuery, now: Timestamp) -> bool {
        let Ok(signature) = URL_SAFE_NO_PAD.decode(&query.signature) else {
            return false;
        };
        now.0 < query.expires
            && self
                .mac(room, &query.path, query.expires)
                .verify_slice(&signature)
                .is_ok()
    }

    fn mac(&self, room: &RoomId, path: &str, expires: i64) -> Hmac<Sha256> {
        mac(
            &self.key,
            &[
                room.project.as_bytes(),
                room.room.as_bytes(),
                path.as_bytes(),
                &expires.to_be_bytes(),
            ],
        )
    }
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        // The lengths keep different lists of parts from giving the same input.
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac
}

impl std::fmt::Debug for UrlSigner {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("UrlSigner")
    }
}
