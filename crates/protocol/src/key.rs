//! API keys: the text that names a project and contains the secret that signs its tokens.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A parsed API key.
///
/// # Wire form
///
/// ```text
/// ma-<key id>-<project id>-<secret>
/// ```
///
/// Both ids are the 16 bytes of a UUID in URL-safe base64 without padding, with `.` in place of
/// `-`. The secret may contain `-`.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// The id of the key, the claim `kid` of tokens: a UUID in lower case with hyphens.
    pub id: String,
    /// The project, the claim `sub` of tokens: a UUID in lower case with hyphens.
    pub project_id: String,
    /// The secret that signs the project's tokens.
    pub secret: String,
}

impl ApiKey {
    /// Parses a key.
    ///
    /// # Errors
    ///
    /// If the text does not have the form above. The error does not repeat the text.
    pub fn parse(text: &str) -> Result<Self, InvalidApiKey> {
        let mut parts = text
            .strip_prefix("ma-")
            .ok_or(InvalidApiKey::Prefix)?
            .splitn(3, '-');
        let mut uuid = || {
            parts
                .next()
                .and_then(decompress_uuid)
                .ok_or(InvalidApiKey::Id)
        };
        let id = uuid()?;
        let project_id = uuid()?;
        let secret = parts
            .next()
            .filter(|secret| !secret.is_empty())
            .ok_or(InvalidApiKey::NoSecret)?
            .to_owned();
        Ok(Self {
            id,
            project_id,
            secret,
        })
    }

    /// Returns the key as text.
    ///
    /// # Errors
    ///
    /// If an id is not a UUID, or the secret is empty.
    pub fn encode(&self) -> Result<String, InvalidApiKey> {
        if self.secret.is_empty() {
            return Err(InvalidApiKey::NoSecret);
        }
        let id = compress_uuid(&self.id).ok_or(InvalidApiKey::Id)?;
        let project_id = compress_uuid(&self.project_id).ok_or(InvalidApiKey::Id)?;
        Ok(format!("ma-{id}-{project_id}-{}", self.secret))
    }
}

// Written by hand so that logs never contain the secret.
impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiKey")
            .field("id", &self.id)
            .field("project_id", &self.project_id)
            .finish_non_exhaustive()
    }
}

/// Why a text is not an API key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidApiKey {
    /// An id is not a UUID.
    #[error("an id in the API key is not a UUID")]
    Id,
    /// The secret is missing.
    #[error("the API key has no secret: expected the form ma-<key id>-<project id>-<secret>")]
    NoSecret,
    /// The prefix of API keys is missing.
    #[error("an API key begins with `ma-`")]
    Prefix,
}

/// Returns the short form of a UUID within an API key; `None` if the text is not a UUID.
pub fn compress_uuid(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|character| *character != '-').collect();
    let is_uuid = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_uuid {
        return None;
    }
    let number = u128::from_str_radix(&digits, 16).ok()?;
    Some(
        URL_SAFE_NO_PAD
            .encode(number.to_be_bytes())
            .replace('-', "."),
    )
}

/// Returns the UUID of a short form, in lower case with hyphens; `None` if it is not 16 bytes
/// of base64.
pub fn decompress_uuid(text: &str) -> Option<String> {
    // A `-` is invalid here: `splitn` can't return it, and other callers must not pass it.
    if text.contains('-') {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(text.replace('.', "-")).ok()?;
    let number = u128::from_be_bytes(bytes.try_into().ok()?);
    let digits = format!("{number:032x}");
    let groups = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| &digits[range]);
    Some(groups.join("-"))
}
