//! Arbitrary text as a token: nothing is accepted that the key did not sign unchanged.
#![no_main]

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use libfuzzer_sys::fuzz_target;
use meshagent_protocol::{
    ApiKey, ApiScope, Grant, ParticipantToken, TokenVerifier, parse_json_object,
};
use sha2::Sha256;

/// Within the validity of some tokens and outside that of others.
const NOW: u64 = 1_900_000_000;

struct World {
    verifier: TokenVerifier,
    key: ApiKey,
    /// Signed by the key.
    ours: Vec<String>,
    /// Signed by another key with the project's name, or not signed.
    others: Vec<String>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    // The vectors' key, so that their claims match it, with a secret that has signed no
    // known token.
    let key = ApiKey {
        id: "123e4567-e89b-12d3-a456-426614174000".to_owned(),
        project_id: "fbf7ef3e-3b7b-4fbe-bfff-fffefdfcfbfa".to_owned(),
        secret: "a-secret-that-only-this-target-signs-with".to_owned(),
    };
    let mut token = ParticipantToken::new("ann");
    token.grants = vec![
        Grant::Room("room".to_owned()),
        Grant::Api(Box::new(ApiScope::full())),
    ];
    let mut ending = token.clone();
    ending.exp = Some(NOW + 1);
    let ended = ParticipantToken {
        exp: Some(NOW),
        ..token.clone()
    };
    let other = ApiKey {
        secret: "another-secret".to_owned(),
        ..key.clone()
    };
    let unsigned = sign(r#"{"alg":"none"}"#, &claims_of(&token, &key), "");
    World {
        verifier: TokenVerifier::new(key.project_id.clone(), [key.clone()]),
        ours: [&token, &ending, &ended]
            .map(|token| token.sign(&key))
            .into(),
        others: vec![token.sign(&other), unsigned],
        key,
    }
});

fuzz_target!(|bytes: &[u8]| {
    let Some((&form, rest)) = bytes.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(rest) else {
        if form % 4 == 1 {
            mutated(rest);
        }
        return;
    };
    match form % 4 {
        // Unchanged.
        0 => only_ours(text),
        1 => mutated(rest),
        // Arbitrary claims, and an arbitrary header, with a valid signature.
        2 => signed(r#"{"alg":"HS256","typ":"JWT"}"#, text),
        _ => {
            let (header, claims) = text.split_once('\n').unwrap_or((text, "{}"));
            signed(header, claims);
        }
    }
});

/// A token of unknown origin.
fn only_ours(jwt: &str) {
    if WORLD.verifier.verify(jwt, NOW).is_ok() {
        assert!(WORLD.ours.iter().any(|ours| ours == jwt), "{jwt}");
    }
}

/// Known tokens, truncated, joined and changed in small steps.
fn mutated(mut steps: &[u8]) {
    let known: Vec<&String> = WORLD.ours.iter().chain(&WORLD.others).collect();
    let mut jwt = WORLD.ours[0].clone().into_bytes();
    // More steps would only be slower.
    steps = &steps[..steps.len().min(60)];
    while let [what, at, with, rest @ ..] = steps {
        steps = rest;
        // Both ends of each part are near a multiple of a small number.
        let at = usize::from(*at) * 3 % (jwt.len() + 1);
        match what % 6 {
            0 if at < jwt.len() => jwt[at] = *with,
            1 => jwt.insert(at, *with),
            2 => jwt.truncate(at),
            3 if at < jwt.len() => drop(jwt.remove(at)),
            // One part of another token.
            4 => {
                let other = known[usize::from(*with) % known.len()];
                let part = usize::from(*what / 6) % 3;
                let mut parts: Vec<&[u8]> = jwt.split(|&byte| byte == b'.').collect();
                if let (Some(place), Some(part)) = (parts.get_mut(part), other.split('.').nth(part))
                {
                    *place = part.as_bytes();
                }
                jwt = parts.join(&b'.');
            }
            _ => jwt.clone_from(&known[usize::from(*with) % known.len()].clone().into_bytes()),
        }
        if let Ok(jwt) = std::str::from_utf8(&jwt) {
            only_ours(jwt);
        }
    }
}

/// A token signed by the key: the other rules apply, and it round-trips.
fn signed(header: &str, claims: &str) {
    let jwt = sign(header, claims, &WORLD.key.secret);
    let Ok(token) = WORLD.verifier.verify(&jwt, NOW) else {
        return;
    };
    let header = parse_json_object(header.as_bytes()).expect("the header was accepted");
    assert!(header["alg"] == "HS256" && !header.contains_key("crit"));
    assert_eq!(token.project_id.as_ref(), Some(&WORLD.key.project_id));
    assert!(token.key_id.as_ref().is_none_or(|id| *id == WORLD.key.id));
    assert!(token.exp.is_none_or(|exp| exp > NOW) && token.nbf.is_none_or(|nbf| nbf <= NOW));

    let again = token.encode(WORLD.key.secret.as_bytes());
    assert_eq!(WORLD.verifier.verify(&again, NOW).as_ref(), Ok(&token));
    for grant in &token.grants {
        assert_eq!(Grant::from_json(&grant.to_json()).as_ref(), Ok(grant));
    }
    if let Some(api) = token.api() {
        assert_eq!(ApiScope::from_json(&api.to_json()).as_ref(), Ok(api));
    }
    // The same claims with another secret.
    let forged = token.encode(b"another-secret");
    assert!(WORLD.verifier.verify(&forged, NOW).is_err());
}

fn claims_of(token: &ParticipantToken, key: &ApiKey) -> String {
    let mut token = token.clone();
    token.project_id = Some(key.project_id.clone());
    token.key_id = Some(key.id.clone());
    serde_json::Value::from(token.to_json()).to_string()
}

/// Signs independently of the protocol crate.
fn sign(header: &str, claims: &str, secret: &str) -> String {
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims)
    );
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(signed.as_bytes());
    format!(
        "{signed}.{}",
        URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
    )
}
