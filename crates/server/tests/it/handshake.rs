//! The handshake: who is admitted, how the token is sent, and the server's first messages.

use meshagent_protocol::{ApiKey, Grant, ParticipantToken};
use serde_json::json;

use crate::harness::{RawFrame, RawSocket, TestServer, call};

#[tokio::test]
async fn a_token_comes_by_header_query_or_subprotocol() {
    let server = TestServer::start().await;
    let jwt = server.jwt("ann");
    let bearer = format!("Bearer {jwt}");
    let query = format!("/rooms/room?v=0.55.0&token={jwt}");
    let offered = format!("other, meshagent-room.{jwt}");
    for (target, header) in [
        ("/rooms/room", Some(("authorization", bearer.as_str()))),
        (query.as_str(), None),
        (
            "/rooms/room",
            Some(("sec-websocket-protocol", offered.as_str())),
        ),
    ] {
        let mut socket = RawSocket::connect(&server, target, header.as_slice())
            .await
            .unwrap();
        let echoed = socket
            .head
            .contains(&format!("sec-websocket-protocol: meshagent-room.{jwt}\r\n"));
        assert_eq!(
            echoed,
            header.is_some_and(|(name, _)| name.starts_with("sec")),
            "{}",
            socket.head
        );
        let (kind, _, ready) = socket.message().await;
        assert_eq!(
            (kind.as_str(), &ready["room_name"]),
            ("room_ready", &json!("room"))
        );
        assert_eq!(
            ready["room_url"],
            format!("ws://{}/rooms/room", server.address)
        );
        let (kind, _, connected) = socket.message().await;
        assert_eq!(
            (kind.as_str(), &connected["type"]),
            ("connected", &json!("init"))
        );
        assert_eq!(connected["attributes"], json!({ "name": "ann" }));
    }
}

#[tokio::test]
async fn participants_of_a_room_share_its_session_and_nothing_else() {
    let server = TestServer::start().await;
    let (one, two) = (server.join("same").await, server.join("same").await);
    assert_eq!(one.session_id(), two.session_id());
    assert_ne!(one.local_participant_id(), two.local_participant_id());
}

#[tokio::test]
async fn every_bad_token_is_refused_with_403() {
    let server = TestServer::start().await;
    let good = server.token("ann");
    let sign = |change: &dyn Fn(&mut ParticipantToken)| {
        let mut token = good.clone();
        change(&mut token);
        token.sign(&server.key)
    };
    let other_key = ApiKey {
        secret: "another-secret".to_owned(),
        ..server.key.clone()
    };
    let other_project = ApiKey {
        project_id: "00000000-0000-0000-0000-000000000000".to_owned(),
        ..server.key.clone()
    };
    let other_id = ApiKey {
        id: "00000000-0000-0000-0000-000000000000".to_owned(),
        ..server.key.clone()
    };
    let good_jwt = good.sign(&server.key);
    let none = {
        // The same claims under `alg: none`, without and with the signature of the good token.
        let claims = good_jwt.split('.').nth(1).unwrap();
        format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.")
    };
    let signature = good_jwt.rsplit('.').next().unwrap();
    let tokens = [
        ("expired", sign(&|token| token.exp = Some(1))),
        (
            "not yet valid",
            sign(&|token| token.nbf = Some(4_000_000_000)),
        ),
        (
            "another room",
            sign(&|token| token.grants[0] = Grant::Room("other".to_owned())),
        ),
        ("no room", sign(&|token| drop(token.grants.remove(0)))),
        ("no name", sign(&|token| token.name.clear())),
        ("another secret", good.sign(&other_key)),
        ("another project", good.sign(&other_project)),
        ("another key id", good.sign(&other_id)),
        ("alg none with a signature", format!("{none}{signature}")),
        ("alg none", none),
        ("an API key", server.key.encode().unwrap()),
        ("nothing", String::new()),
        ("garbage", "a.b.c".to_owned()),
    ];
    for (what, token) in tokens {
        let refused = RawSocket::connect(&server, &format!("/rooms/room?token={token}"), &[])
            .await
            .err();
        assert_eq!(refused, Some(403), "{what}");
    }
    assert_eq!(
        RawSocket::connect(&server, "/rooms/room", &[]).await.err(),
        Some(403),
        "no token"
    );
    assert!(
        RawSocket::connect(&server, &format!("/rooms/room?token={good_jwt}"), &[])
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_refusal_tells_a_stranger_nothing_about_the_token() {
    let server = TestServer::start().await;
    let mut expired = server.token("jörg");
    expired.exp = Some(1);
    let mut elsewhere = server.token("jörg");
    elsewhere.grants[0] = Grant::Room("secret-room".to_owned());
    let mut none = server.token("jörg");
    none.grants.clear();
    let upgrade = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    for token in [expired, elsewhere, none] {
        let jwt = token.sign(&server.key);
        for jwt in [jwt.clone(), format!("{jwt}A"), "a.b.c".to_owned()] {
            let target = format!("GET /rooms/room?token={jwt}");
            let (status, _, body) = server.http(&target, &upgrade, "").await;
            assert_eq!(
                (status, body.as_str()),
                (403, r#"{"error":"invalid token"}"#)
            );
            let connect = format!(
                "POST /accounts/projects/{}/rooms/room/connect",
                server.key.project_id
            );
            let bearer = format!("Bearer {jwt}");
            let (status, _, body) = server
                .http(&connect, &[("authorization", &bearer)], "{}")
                .await;
            assert_eq!(
                (status, body.as_str()),
                (403, r#"{"error":"invalid token"}"#)
            );
        }
    }
}

#[tokio::test]
async fn a_connection_ends_with_its_token_and_without_a_close_frame() {
    let server = TestServer::start().await;
    let mut token = server.token("jörg");
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    token.exp = Some(now.as_secs() + 3);
    let target = format!("/rooms/room?token={}", token.sign(&server.key));
    let mut socket = RawSocket::connect(&server, &target, &[]).await.unwrap();
    let mut lasting = RawSocket::join(&server).await;
    let exists = call("storage", "exists", &json!({ "path": "x" }));
    socket.send(1, "room.invoke_tool", &exists).await;
    socket.answer(1).await;
    loop {
        match socket.next().await {
            RawFrame::Binary(_) => {}
            other => break assert_eq!(other, RawFrame::End),
        }
    }
    let ended = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    assert!(ended.as_secs() >= now.as_secs() + 3, "{ended:?}");
    assert!(ended.as_secs() < now.as_secs() + 30, "{ended:?}");
    // Other connections stay, and the same token is not admitted again.
    lasting.send(1, "room.invoke_tool", &exists).await;
    lasting.answer(1).await;
    assert_eq!(
        RawSocket::connect(&server, &target, &[]).await.err(),
        Some(403)
    );
}

#[tokio::test]
async fn room_names_are_checked_and_refusals_say_what_to_do() {
    let server = TestServer::start().await;
    for name in ["Room", "-room", "room-", "ro.om", "r%20m", &"a".repeat(64)] {
        let (status, _, body) = server
            .http(
                &format!("GET /rooms/{name}?token={}", server.jwt("ann")),
                &[],
                "",
            )
            .await;
        assert_eq!(status, 404, "{name}");
        assert!(body.contains("error"), "{body}");
    }
    let (status, _, body) = server.http("GET /rooms/room", &[], "").await;
    assert_eq!(status, 426, "{body}");
    let (status, _, _) = server.http("GET /nothing", &[], "").await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn the_connect_endpoint_hands_out_tokens_for_the_key() {
    let server = TestServer::start().await;
    let target = format!(
        "POST /accounts/projects/{}/rooms/room/connect",
        server.key.project_id
    );
    let key = format!("Bearer {}", server.key.encode().unwrap());
    let json = ("content-type", "application/json");
    let (status, _, body) = server
        .http(
            &target,
            &[("authorization", &key), json],
            "{\"email\":\"a@b.c\"}",
        )
        .await;
    assert_eq!(status, 200, "{body}");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (&body["room_name"], &body["project_id"]),
        (&json!("room"), &json!(server.key.project_id))
    );
    assert_eq!(
        body["room_url"],
        format!("http://{}/rooms/room", server.address)
    );
    let jwt = body["jwt"].as_str().unwrap();
    assert!(
        RawSocket::connect(&server, &format!("/rooms/room?token={jwt}"), &[])
            .await
            .is_ok()
    );

    // A name that the server itself would refuse.
    let (status, _, body) = server
        .http(
            &target,
            &[("authorization", &key), json],
            "{\"email\":\"\"}",
        )
        .await;
    assert_eq!(status, 400, "{body}");

    // A participant gets no more rights than it has.
    let participant = format!("Bearer {jwt}");
    let (status, _, _) = server
        .http(&target, &[("authorization", &participant), json], "{}")
        .await;
    assert_eq!(status, 200);
    let elsewhere = target.replace("/room/connect", "/other/connect");
    let (status, _, _) = server
        .http(&elsewhere, &[("authorization", &participant), json], "{}")
        .await;
    assert_eq!(status, 403);
    let wrong = key.replace("0123456789", "9876543210");
    for (header, expected) in [(wrong.as_str(), 403), ("Bearer ma-x-y-z", 403), ("", 401)] {
        let (status, _, body) = server
            .http(&target, &[("authorization", header), json], "{}")
            .await;
        assert_eq!(status, expected, "{header}: {body}");
    }
}

#[tokio::test]
async fn health_and_metrics_answer() {
    let server = TestServer::start().await;
    let _client = server.join("ann").await;
    for target in ["GET /", "GET /healthz", "GET /readyz"] {
        assert_eq!(server.http(target, &[], "").await.0, 200, "{target}");
    }
    let (status, head, body) = server.http("GET /metrics", &[], "").await;
    assert_eq!(status, 200);
    assert!(head.contains("openmetrics-text"), "{head}");
    assert!(body.contains("meshagent_participants 1\n"), "{body}");
}
