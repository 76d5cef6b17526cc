//! The token in MESHAGENT_TOKEN. Only the server can verify it, but its claims explain a refusal.

use std::path::Path;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meshagent_protocol::storage::rfc3339;
use meshagent_protocol::{ParticipantToken, RoomName, parse_json_object};

use crate::failure::{Failure, USAGE};
use crate::settings;

const NAME: &str = "MESHAGENT_TOKEN";

/// A text with the form of a token.
pub(crate) struct GivenToken {
    pub(crate) jwt: String,
    claims: ParticipantToken,
}

impl GivenToken {
    /// The token from the environment, if it contains one. An empty variable is an error, as a
    /// failed command substitution leaves one: signing a token with the API key instead could
    /// grant more.
    pub(crate) fn from_env() -> anyhow::Result<Option<Self>> {
        if std::env::var_os(NAME).is_some_and(|token| token.is_empty()) {
            return Err(Failure::new(format!("{NAME} is empty"))
                .with_exit_code(USAGE)
                .with_hint("unset it, or set it to a token")
                .into());
        }
        let Some(text) = settings::variable(NAME)? else {
            return Ok(None);
        };
        // A file may end in a line feed.
        let jwt = text.trim();
        if let Some(claims) = claims(jwt) {
            let jwt = jwt.to_owned();
            return Ok(Some(Self { jwt, claims }));
        }
        // Any other text may be a secret.
        let failure = if Path::new(&text).is_file() {
            Failure::new(format!(
                "{NAME} is the name of the file {text:?}, not a token"
            ))
            .with_hint(format!(
                "set it to the content: export {NAME}=\"$(cat '{text}')\""
            ))
        } else {
            Failure::new(format!("{NAME} is not a token"))
                .with_hint("unset it, or set it to the output of `meshagent token`")
        };
        Err(failure.with_exit_code(USAGE).into())
    }

    /// Why a server refuses the token for a room, if the token itself says so.
    pub(crate) fn fault(&self, room: &RoomName) -> Option<String> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs();
        let at = |seconds: u64| rfc3339(seconds.saturating_mul(1000));
        let Self { claims, .. } = self;
        if let Some(exp) = claims.exp.filter(|exp| *exp <= now) {
            return Some(format!("the token in {NAME} expired at {}", at(exp)));
        }
        if let Some(nbf) = claims.nbf.filter(|nbf| *nbf > now) {
            return Some(format!(
                "the token in {NAME} is not valid before {}",
                at(nbf)
            ));
        }
        match claims.room() {
            Some(found) if found == room.as_str() => None,
            Some(found) => Some(format!("the token in {NAME} is for the room {found:?}")),
            None => Some(format!("the token in {NAME} is for no room")),
        }
    }
}

/// Whether a text has the form of a signed token.
pub(crate) fn is_token(text: &str) -> bool {
    claims(text).is_some()
}

fn claims(jwt: &str) -> Option<ParticipantToken> {
    let mut parts = jwt.split('.');
    let (_header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
    ParticipantToken::from_json(parse_json_object(&claims).ok()?).ok()
}
