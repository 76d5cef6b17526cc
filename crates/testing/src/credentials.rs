//! A project's API key, and participant tokens signed with it. Written apart from `meshagent-protocol`
//! on purpose: the tests need tokens that no careful library would make.

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
    /// What signs the project's tokens.
    pub secret: String,
}

impl Credentials {
    /// A new project. Its secret contains `-`, the separator of the key's parts.
    pub fn generate() -> Self {
        Self {
            project_id: Uuid::new_v4().to_string(),
            key_id: Uuid::new_v4().to_string(),
            secret: format!("s-{}", Uuid::new_v4()),
        }
    }

    /// The key as the SDKs' settings hold it, `ma-<key id>-<project id>-<secret>`.
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

    /// The claims of a participant who may do everything in `room` that the api scope allows.
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

    /// A token with these claims, signed as it should be.
    pub fn sign(&self, claims: &Value) -> String {
        sign(
            &json!({ "alg": "HS256", "typ": "JWT" }),
            claims,
            &self.secret,
        )
    }

    /// A token with any header, signed by HMAC-SHA256 with any secret.
    pub fn sign_with(header: &Value, claims: &Value, secret: &str) -> String {
        sign(header, claims, secret)
    }

    /// A token with every right of a document and storage user in the room.
    pub fn token(&self, name: &str, room: &str) -> String {
        let api = json!({ "sync": {}, "storage": {}, "messaging": {}, "agents": {} });
        self.sign(&self.claims(name, room, &api))
    }
}

fn sign(header: &Value, claims: &Value, secret: &str) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(header), encode(claims));
    // HMAC takes keys of any length, so this can't fail.
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
    fn tokens_and_keys_are_those_of_the_published_sdk() {
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
