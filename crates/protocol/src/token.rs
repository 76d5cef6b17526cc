//! Participant tokens: JWTs with a participant's name, room and rights.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use meshagent_rights::{ApiScope, Grant, InvalidGrant, Role};
use serde_json::{Map, Value};
use sha2::Sha256;

use crate::json::parse_json_object;
use crate::key::ApiKey;

/// The claims of a participant token.
///
/// # Wire form
///
/// A JWT, signed by HS256 with the secret of an API key:
///
/// ```text
/// {…extra, "exp", "nbf", "name", "grants": [{"name", "scope"}], "sub": <project id>,
///  "kid": <API key id>, "version"}
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct ParticipantToken {
    /// The participant's name.
    pub name: String,
    /// The participant's rights.
    pub grants: Vec<Grant>,
    /// The project, claim `sub`.
    pub project_id: Option<String>,
    /// The API key whose secret signs the token, claim `kid`.
    pub key_id: Option<String>,
    /// The version of the SDK that created the token.
    pub version: Option<String>,
    /// The end of the token's validity, in seconds since 1970.
    pub exp: Option<u64>,
    /// The start of the token's validity, in seconds since 1970.
    pub nbf: Option<u64>,
    /// All other claims, unchanged.
    pub extra: Map<String, Value>,
}

impl ParticipantToken {
    /// Creates a token without grants.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            grants: Vec::new(),
            project_id: None,
            key_id: None,
            version: Some(FORMAT_VERSION.to_owned()),
            exp: None,
            nbf: None,
            extra: Map::new(),
        }
    }

    /// Signs the token with a key; its claims name the key and the key's project.
    pub fn sign(&self, key: &ApiKey) -> String {
        let mut token = self.clone();
        token.project_id = Some(key.project_id.clone());
        token.key_id = Some(key.id.clone());
        token.encode(key.secret.as_bytes())
    }

    /// Returns the token as a JWT, with the claims unchanged and in the order of the
    /// published SDKs.
    pub fn encode(&self, secret: &[u8]) -> String {
        let claims = Value::from(self.to_json()).to_string();
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let signature = mac(secret, &signed).finalize().into_bytes();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The claims as JSON.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut claims = self.extra.clone();
        if let Some(exp) = self.exp {
            claims.insert("exp".to_owned(), exp.into());
        }
        if let Some(nbf) = self.nbf {
            claims.insert("nbf".to_owned(), nbf.into());
        }
        claims.insert("name".to_owned(), self.name.clone().into());
        let grants: Vec<Value> = self.grants.iter().map(Grant::to_json).collect();
        claims.insert("grants".to_owned(), grants.into());
        let optional = [
            ("sub", &self.project_id),
            ("kid", &self.key_id),
            ("version", &self.version),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                claims.insert(name.to_owned(), value.clone().into());
            }
        }
        claims
    }

    /// Parses claims without checking them; see [`TokenVerifier`].
    ///
    /// # Errors
    ///
    /// If a claim is missing or malformed.
    pub fn from_json(mut claims: Map<String, Value>) -> Result<Self, TokenError> {
        // Keeps the order of the other claims.
        let mut take = |name| claims.shift_remove(name).filter(|value| !value.is_null());
        let name = match take("name") {
            Some(Value::String(name)) if !name.trim().is_empty() => name,
            _ => return Err(TokenError::Claim { name: "name" }),
        };
        let Some(Value::Array(grants)) = take("grants") else {
            return Err(TokenError::Claim { name: "grants" });
        };
        let grants = grants
            .iter()
            .map(Grant::from_json)
            .collect::<Result<_, _>>()
            .map_err(TokenError::Grant)?;
        let mut text = |name| match take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(TokenError::Claim { name }),
        };
        let project_id = text("sub")?;
        let key_id = text("kid")?;
        let version = text("version")?;
        let mut time = |name| match take(name) {
            None => Ok(None),
            Some(value) => numeric_date(&value)
                .map(Some)
                .ok_or(TokenError::Claim { name }),
        };
        let exp = time("exp")?;
        let nbf = time("nbf")?;
        Ok(Self {
            name,
            grants,
            project_id,
            key_id,
            version,
            exp,
            nbf,
            extra: claims,
        })
    }

    /// The room that the bearer may join.
    pub fn room(&self) -> Option<&str> {
        self.grants.iter().find_map(|grant| match grant {
            Grant::Room(room) => Some(room.as_str()),
            _ => None,
        })
    }

    /// The bearer's role: the first role grant other than `user`, otherwise `user`.
    pub fn role(&self) -> Role {
        self.grants
            .iter()
            .find_map(|grant| match grant {
                Grant::Role(role) if *role != Role::User => Some(role.clone()),
                _ => None,
            })
            .unwrap_or_default()
    }

    /// The rights to call tools; `None` permits nothing.
    pub fn api(&self) -> Option<&ApiScope> {
        self.grants.iter().find_map(|grant| match grant {
            Grant::Api(scope) => Some(&**scope),
            _ => None,
        })
    }
}

/// Checks the tokens of one project.
#[derive(Clone, Debug)]
pub struct TokenVerifier {
    project_id: String,
    keys: Vec<ApiKey>,
}

impl TokenVerifier {
    /// Creates a verifier for tokens of the project that are signed by one of `keys`. Keys of other
    /// projects are ignored.
    pub fn new(project_id: impl Into<String>, keys: impl IntoIterator<Item = ApiKey>) -> Self {
        let project_id = project_id.into();
        let keys = keys
            .into_iter()
            .filter(|key| key.project_id == project_id)
            .collect();
        Self { project_id, keys }
    }

    /// Verifies a token at a time, in seconds since 1970, and returns its claims.
    ///
    /// The signature is checked before the claims. A token that names no key may be signed by any
    /// key of the project. There is no leeway: a token is valid from `nbf` on, and no longer at
    /// `exp`. The caller must compare the room with [`ParticipantToken::room`].
    ///
    /// # Errors
    ///
    /// If anything about the token is wrong. The error is meant for the log: a peer should only
    /// learn that the token was rejected.
    pub fn verify(&self, jwt: &str, now_unix: u64) -> Result<ParticipantToken, TokenError> {
        if jwt.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        let (signed, signature) = jwt.rsplit_once('.').ok_or(TokenError::Form)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Form)?;
        let header = decode_object(header)?;
        if header.get("alg").and_then(Value::as_str) != Some("HS256") {
            return Err(TokenError::Algorithm);
        }
        // Mandatory extensions; none is supported here.
        if header.contains_key("crit") {
            return Err(TokenError::Algorithm);
        }
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_cause| TokenError::Form)?;
        let signed_by: Vec<&ApiKey> = self
            .keys
            .iter()
            .filter(|key| {
                // Compares in constant time.
                mac(key.secret.as_bytes(), signed)
                    .verify_slice(&signature)
                    .is_ok()
            })
            .collect();
        if signed_by.is_empty() {
            return Err(TokenError::Signature);
        }

        let token = ParticipantToken::from_json(decode_object(claims)?)?;
        if token.project_id.as_deref() != Some(self.project_id.as_str()) {
            return Err(TokenError::Project);
        }
        let is_named = |id: &String| signed_by.iter().any(|key| key.id == *id);
        if !token.key_id.as_ref().is_none_or(is_named) {
            return Err(TokenError::Key);
        }
        if token.exp.is_some_and(|exp| exp <= now_unix) {
            return Err(TokenError::Expired);
        }
        if token.nbf.is_some_and(|nbf| nbf > now_unix) {
            return Err(TokenError::NotYetValid);
        }
        Ok(token)
    }
}

/// Why a token was rejected.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The token is not signed with HS256.
    #[error("the token must be signed with HS256")]
    Algorithm,
    /// A claim is missing or malformed.
    #[error("the claim `{name}` is missing or malformed")]
    Claim {
        /// The name of the claim.
        name: &'static str,
    },
    /// The token has expired.
    #[error("the token has expired")]
    Expired,
    /// The token does not consist of three parts of base64, with JSON in the first two.
    #[error("the token is not a JWT")]
    Form,
    /// A grant is malformed.
    #[error("a grant of the token is malformed")]
    Grant(#[source] InvalidGrant),
    /// The token was not signed by the key that it names.
    #[error("the token was not signed by the key that it names")]
    Key,
    /// The token is not valid yet.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// The token is for another project, or for none.
    #[error("the token is for another project")]
    Project,
    /// The signature is by no key of the project.
    #[error("the token's signature is invalid")]
    Signature,
    /// The token exceeds [`MAX_TOKEN_BYTES`].
    #[error("the token is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
}

/// The maximal length of a token in bytes: more than any HTTP server accepts in its headers.
pub const MAX_TOKEN_BYTES: usize = 256 * 1024;

/// The SDK version with this token format; SDKs before 0.3.5 had no `api` grant.
const FORMAT_VERSION: &str = "0.55.0";

fn decode_object(part: &str) -> Result<Map<String, Value>, TokenError> {
    let text = URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_cause| TokenError::Form)?;
    parse_json_object(&text).map_err(|_cause| TokenError::Form)
}

fn mac(secret: &[u8], signed: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(signed.as_bytes());
    mac
}

/// A `NumericDate` of RFC 7519: seconds since 1970, possibly with a fraction.
fn numeric_date(value: &Value) -> Option<u64> {
    if let Some(seconds) = value.as_u64() {
        return Some(seconds);
    }
    let seconds = value.as_f64()?;
    // Saturates: times before 1970 become 0, larger ones the maximum.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a fraction of a second does not matter, and the cast saturates"
    )]
    Some(seconds as u64)
}
