//! A project's API key, and participant tokens signed with it.
//!
//! The code does not use `meshagent-protocol`: tests also need malformed tokens, which that library
//! does not produce.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use uuid::Uuid;

/// One project with one API key.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The project's UUID.
    pub project_id: String,
    /// The API key's UUID.
    pub key_id: String,
    /// The secret that signs the project's tokens.
    pub secret: String,
}

impl Credentials {
    /// Creates a project with random ids. Its secret contains `-`, which also separates
    /// the parts of the key.
    pub fn generate() -> Self {
        Self {
            project_id: Uuid::new_v4().to_string(),
            key_id: Uuid::new_v4().to_string(),
            secret: format!("s-{}", Uuid::new_v4()),
        }
    }

    /// The key in the form that the SDKs' settings expect: `ma-<key id>-<project id>-<secret>`.
    pub fn api_key(&self) -> String {
        let short = |id: &str| {
            let bytes = Uuid::parse_str(id).unwrap_or_default().into_bytes();
            URL_SAFE_NO_PAD.encode(bytes).replace('-', ".")
        };
        format!(
            "ma-{}-{}-{}",
            short(&self.key_id),
            short(&self.project_id),
            self.secret
        )
    }

    /// The claims of an agent in `room` with the given API scope.
    pub fn claims(&self, name: &str, room: &str, api: &Value) -> Value {
        json!({
            "name": name,
            "grants": [
                { "name": "room", "scope": room },
                { "name": "role", "scope": "agent" },
                { "name": "api", "scope": api },
            ],
            "sub": self.project_id,
            "kid": self.key_id,
            "version": "0.55.0",
        })
    }

    /// A correctly signed token with these claims.
    pub fn sign(&self, claims: &Value) -> String {
        sign(
            &json!({ "alg": "HS256", "typ": "JWT" }),
            claims,
            &self.secret,
        )
    }

    /// A token with any header, signed with HMAC-SHA256 and any secret.
    pub fn sign_with(header: &Value, claims: &Value, secret: &str) -> String {
        sign(header, claims, secret)
    }

    /// A token that grants documents, storage, messaging and agents in the room.
    pub fn token(&self, name: &str, room: &str) -> String {
        let api = json!({ "sync": {}, "storage": {}, "messaging": {}, "agents": {} });
        self.sign(&self.claims(name, room, &api))
    }
}

fn sign(header: &Value, claims: &Value, secret: &str) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(header), encode(claims));
    // HMAC accepts keys of any length, so this can't fail.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else {
        return signed;
    };
    mac.update(signed.as_bytes());
    format!(
        "{signed}.{}",
        URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_keys_match_the_published_sdk() {
        let path = crate::repository_root().join("testdata/vectors/tokens.json");
        let vectors: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let key = &vectors["key"];
        let credentials = Credentials {
            project_id: text(&key["project_id"]),
            key_id: text(&key["id"]),
            secret: text(&key["secret"]),
        };
        assert_eq!(credentials.api_key(), text(&key["api_key"]));
        let agent = &vectors["python"]["agent"];
        assert_eq!(credentials.sign(&agent["json"]), text(&agent["jwt"]));
    }
}
