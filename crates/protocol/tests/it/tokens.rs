//! API keys and participant tokens, compared with the published SDKs' and checked against forgery.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meshagent_protocol::key::{compress_uuid, decompress_uuid};
use meshagent_protocol::{
    ApiKey, ApiScope, Grant, InvalidApiKey, ParticipantToken, Role, TokenError, TokenVerifier,
};
use serde_json::{Value, json};

use crate::test;
use crate::vectors::load;

const EXP: u64 = 2_000_000_000;
const NOW: u64 = EXP - 1;

fn key() -> ApiKey {
    let vectors = load("tokens.json");
    ApiKey::parse(vectors["key"]["api_key"].as_str().unwrap()).unwrap()
}

fn verifier() -> TokenVerifier {
    TokenVerifier::new(key().project_id, [key()])
}

#[test]
fn keys_round_trip_like_in_sdks() {
    let vectors = load("tokens.json");
    let expected = &vectors["key"];
    let key = key();
    assert_eq!(key.id, expected["id"].as_str().unwrap());
    assert_eq!(key.project_id, expected["project_id"].as_str().unwrap());
    assert_eq!(key.secret, expected["secret"].as_str().unwrap());
    assert_eq!(key.encode().unwrap(), expected["api_key"].as_str().unwrap());
    for (uuid, compressed) in expected["compressed_uuids"].as_object().unwrap() {
        let compressed = compressed.as_str().unwrap();
        assert_eq!(compress_uuid(uuid).as_deref(), Some(compressed));
        assert_eq!(decompress_uuid(compressed).as_deref(), Some(uuid.as_str()));
    }
    assert!(!format!("{key:?}").contains(&key.secret));
}

#[test]
fn invalid_keys_are_rejected() {
    let id = "AAAAAAAAAAAAAAAAAAAAAA";
    for (text, expected) in [
        (String::new(), InvalidApiKey::Prefix),
        (format!("mb-{id}-{id}-s"), InvalidApiKey::Prefix),
        (format!("ma-{id}"), InvalidApiKey::Id),
        (format!("ma-{id}-A-s"), InvalidApiKey::Id),
        (format!("ma-{id}--s"), InvalidApiKey::Id),
        (format!("ma-{id}-{id}"), InvalidApiKey::NoSecret),
        (format!("ma-{id}-{id}-"), InvalidApiKey::NoSecret),
    ] {
        assert_eq!(ApiKey::parse(&text), Err(expected), "{text}");
    }
}

#[test]
fn tokens_of_both_sdks_round_trip() {
    let vectors = load("tokens.json");
    let tokens = [&vectors["python"], &vectors["npm"]["tokens"]];
    let mut seen = 0;
    for (name, token) in tokens.iter().flat_map(|tokens| tokens.as_object().unwrap()) {
        for (form, jwt) in token.as_object().unwrap() {
            if form == "json" {
                continue;
            }
            let jwt = jwt.as_str().unwrap();
            let read = verifier()
                .verify(jwt, NOW)
                .unwrap_or_else(|error| panic!("{name} {form}: {error}"));
            assert_eq!(read.name, "alice");
            assert_eq!(read.room(), Some("my-room"));
            assert_eq!(read.exp, (form == "jwt_exp").then_some(EXP));
            assert_eq!(read.key_id.is_none(), form == "jwt_without_key_id");
            let agent = name == "agent";
            assert_eq!(read.role() == Role::Agent, agent);
            assert_eq!(read.api().is_none(), name == "no_api");
            if form == "jwt" {
                let claims = Value::from(read.to_json());
                assert_eq!(claims.to_string(), token["json"].to_string(), "{name}");
                assert_eq!(read.encode(key().secret.as_bytes()), jwt);
                assert_eq!(read.sign(&key()), jwt);
            }
            if form == "jwt_exp" {
                assert_eq!(verifier().verify(jwt, EXP), Err(TokenError::Expired));
            }
            seen += 1;
        }
    }
    assert_eq!(seen, 5 * 3 + 3 * 2);
}

#[test]
fn presets_match_sdks() {
    let vectors = load("tokens.json");
    for (name, scope) in [
        ("agent", ApiScope::agent_default()),
        ("user", ApiScope::user_default()),
        ("full", ApiScope::full()),
    ] {
        let grants = vectors["python"][name]["json"]["grants"]
            .as_array()
            .unwrap();
        let api = grants.iter().find(|grant| grant["name"] == "api").unwrap();
        assert_eq!(
            scope.to_json().to_string(),
            api["scope"].to_string(),
            "{name}"
        );
    }
}

/// A JWT with this header and these claims, signed by the test key regardless of the header.
fn forge(header: &Value, claims: &Value) -> String {
    use hmac::{Hmac, KeyInit as _, Mac as _};
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key().secret.as_bytes()).unwrap();
    mac.update(signed.as_bytes());
    format!(
        "{signed}.{}",
        URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
    )
}

fn claims() -> Value {
    json!({
        "name": "alice",
        "grants": [{"name": "room", "scope": "r"}],
        "sub": key().project_id,
        "kid": key().id,
    })
}

#[test]
fn claims_are_checked() {
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        claims
    };
    let without = |name: &str| {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(name);
        claims
    };
    let header = json!({"alg": "HS256"});
    let check = |claims: Value, expected: Option<TokenError>| {
        let seen = verifier().verify(&forge(&header, &claims), NOW).err();
        assert_eq!(seen, expected, "{claims}");
    };
    let claim = |name| Some(TokenError::Claim { name });
    check(claims(), None);
    check(without("kid"), None);
    check(without("name"), claim("name"));
    check(with("name", json!(" ")), claim("name"));
    check(with("name", json!(1)), claim("name"));
    check(without("grants"), claim("grants"));
    check(with("grants", json!({})), claim("grants"));
    check(without("sub"), Some(TokenError::Project));
    check(with("sub", json!("other")), Some(TokenError::Project));
    check(with("sub", json!(1)), claim("sub"));
    check(with("kid", json!("other")), Some(TokenError::Key));
    check(with("exp", json!(NOW)), Some(TokenError::Expired));
    check(with("exp", json!(-1)), Some(TokenError::Expired));
    check(with("exp", json!(NOW + 1)), None);
    check(with("exp", json!(2e9)), None);
    check(with("exp", json!("2000000000")), claim("exp"));
    check(with("exp", json!(true)), claim("exp"));
    check(with("nbf", json!(NOW)), None);
    check(with("nbf", json!(NOW + 1)), Some(TokenError::NotYetValid));
    check(with("nbf", json!([])), claim("nbf"));
    for grants in [
        json!([{"name": "room"}]),
        json!([{"scope": "r"}]),
        json!(["room"]),
        json!([{"name": "room", "scope": 7}]),
        json!([{"name": "room", "scope": null}]),
        json!([{"name": "role", "scope": {}}]),
        json!([{"name": "api", "scope": "all"}]),
        json!([{"name": "api", "scope": {"sync": 1}}]),
    ] {
        let token = forge(&header, &with("grants", grants.clone()));
        let seen = verifier().verify(&token, NOW);
        assert!(
            matches!(seen, Err(TokenError::Grant(_))),
            "{grants}: {seen:?}"
        );
    }
}

#[test]
fn forged_tokens_are_rejected() {
    let check = |jwt: &str, expected: TokenError| {
        assert_eq!(verifier().verify(jwt, NOW), Err(expected), "{jwt}");
    };
    for header in [
        json!({"alg": "none"}),
        json!({"alg": "None"}),
        json!({"alg": "HS384"}),
        json!({"alg": "RS256"}),
        json!({"alg": "hs256"}),
        json!({"alg": ["HS256"]}),
        json!({"alg": "HS256", "crit": ["x"]}),
        json!({}),
    ] {
        check(&forge(&header, &claims()), TokenError::Algorithm);
    }
    let good = forge(&json!({"alg": "HS256"}), &claims());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (header, _) = signed.split_once('.').unwrap();
    let other = URL_SAFE_NO_PAD.encode(claims().to_string().replace("alice", "bob"));
    check(
        &format!("{header}.{other}.{signature}"),
        TokenError::Signature,
    );
    check(&format!("{signed}."), TokenError::Signature);
    check(
        &format!("{signed}.{}", &signature[..20]),
        TokenError::Signature,
    );
    check(&format!("{signed}.{signature}="), TokenError::Form);
    check(signed, TokenError::Form);
    check("", TokenError::Form);
    check("..", TokenError::Form);
    check(&key().encode().unwrap(), TokenError::Form);
    check(&"x".repeat(300 * 1024), TokenError::TooLong);
    let deep = URL_SAFE_NO_PAD.encode("[".repeat(10_000));
    check(&format!("{deep}.{deep}.AA"), TokenError::Form);

    // A secret of another project or another key is not accepted.
    let mut stranger = key();
    stranger.secret = "another secret".to_owned();
    let token = ParticipantToken::new("alice");
    assert_eq!(
        verifier().verify(&token.sign(&stranger), NOW),
        Err(TokenError::Signature)
    );
    assert!(verifier().verify(&token.sign(&key()), NOW).is_ok());
    let elsewhere = TokenVerifier::new("another project", [key()]);
    assert_eq!(
        elsewhere.verify(&token.sign(&key()), NOW),
        Err(TokenError::Signature)
    );

    // If the token names one of several keys, that key must have signed it.
    let mut second = key();
    second.id = "second".to_owned();
    second.secret = "second secret".to_owned();
    let both = TokenVerifier::new(key().project_id, [key(), second.clone()]);
    assert!(both.verify(&token.sign(&second), NOW).is_ok());
    let mut mixed = second.clone();
    mixed.id = key().id;
    assert_eq!(both.verify(&token.sign(&mixed), NOW), Err(TokenError::Key));
}

#[test]
fn first_of_several_grants_is_decisive() {
    let mut token = ParticipantToken::new("x");
    assert_eq!(
        (token.room(), token.role(), token.api()),
        (None, Role::User, None)
    );
    token.grants = vec![
        Grant::Role(Role::User),
        Grant::Role(Role::Tool),
        Grant::Room("a".to_owned()),
        Grant::Room("b".to_owned()),
        Grant::Other {
            name: "site".to_owned(),
            scope: json!("s"),
        },
    ];
    assert_eq!((token.room(), token.role()), (Some("a"), Role::Tool));
    assert_eq!(ParticipantToken::from_json(token.to_json()), Ok(token));
}
