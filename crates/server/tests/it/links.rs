//! Links from `download_url`: a plain GET, with all kinds of names, for a limited time.

use std::time::Duration;

use meshagent_client::Connection;
use meshagent_server::Config;

use crate::harness::TestServer;

#[tokio::test]
async fn a_link_serves_the_file_without_a_token() {
    let server = TestServer::start().await;
    let client = server.join("ann").await;
    for path in [
        "plain.txt",
        "a folder/with spaces & more?.txt",
        "ünï/😀+%.txt",
    ] {
        client
            .storage()
            .upload(path, path.as_bytes().to_vec(), false)
            .await
            .unwrap();
        let url = client.storage().download_url(path).await.unwrap();
        let target = url
            .strip_prefix(&format!("http://{}", server.address))
            .unwrap_or_else(|| panic!("{url}"));
        let (status, head, body) = server.http(&format!("GET {target}"), &[], "").await;
        assert_eq!((status, body.as_str()), (200, path), "{url}");
        assert!(
            head.contains("content-type: application/octet-stream") && head.contains("nosniff"),
            "{head}"
        );
        let forged = target.replace("expires=", "expires=9");
        assert_eq!(server.http(&format!("GET {forged}"), &[], "").await.0, 403);
        let elsewhere = target.replacen("/rooms/room/", "/rooms/other/", 1);
        assert_eq!(
            server.http(&format!("GET {elsewhere}"), &[], "").await.0,
            403
        );
    }
}

#[tokio::test]
async fn a_link_ends() {
    let mut config = Config::default();
    config.download_url_ttl = Duration::ZERO;
    let server = TestServer::start_with(config).await;
    let client = server.join("ann").await;
    client
        .storage()
        .upload("a.txt", b"a".to_vec(), false)
        .await
        .unwrap();
    let url = client.storage().download_url("a.txt").await.unwrap();
    let target = url.split_once(&server.address).unwrap().1;
    assert_eq!(server.http(&format!("GET {target}"), &[], "").await.0, 403);
}

#[tokio::test]
async fn a_link_is_good_no_longer_than_the_token_that_asked_for_it() {
    let server = TestServer::start().await;
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let mut token = server.token("gast – 客");
    token.exp = Some(now.as_secs() + 30);
    let jwt = token.sign(&server.key);
    let url = format!("ws://{}/rooms/room", server.address);
    let client = Connection::connect(&url, &jwt).await.unwrap();
    let storage = client.storage();
    storage.upload("a.txt", b"a".to_vec(), false).await.unwrap();
    let url = client.storage().download_url("a.txt").await.unwrap();
    let (_, rest) = url.split_once("expires=").unwrap();
    let expires = rest.split('&').next().unwrap();
    assert_eq!(expires, format!("{}000", token.exp.unwrap()), "{url}");
}

#[tokio::test]
async fn a_link_that_is_not_whole_is_answered_in_our_words() {
    let server = TestServer::start().await;
    let client = server.join("ann").await;
    let storage = client.storage();
    storage.upload("ä.txt", b"a".to_vec(), false).await.unwrap();
    let url = client.storage().download_url("ä.txt").await.unwrap();
    let target = url.split_once(&server.address).unwrap().1;
    let signature = target.split("signature=").nth(1).unwrap();
    for broken in [
        target.replace("expires=", "expires=x"),
        target.replace("expires=", "expire="),
        target.replace("&signature=", "&"),
        target.replace("/file?", "/file?path=b&"),
        target.replace("path=", "path=%FF"),
        target.split('?').next().unwrap().to_owned(),
        format!("{target}&download=perhaps"),
        target.replacen("/rooms/room/", "/rooms/%FF/", 1),
    ] {
        let (status, head, body) = server.http(&format!("GET {broken}"), &[], "").await;
        assert!(status == 400 || status == 403, "{broken}: {status}");
        assert!(
            head.contains("content-type: application/json"),
            "{broken}: {head}"
        );
        let body: serde_json::Value =
            serde_json::from_str(&body).unwrap_or_else(|_| panic!("{broken}: {body}"));
        let text = body["error"].as_str().unwrap();
        assert!(text.contains("link"), "{broken}: {text}");
        assert!(
            !text.contains(signature) && !text.contains("deserialize"),
            "{broken}: {text}"
        );
    }
    // A wrong method, and a name that is not UTF-8, are also answered in JSON.
    for request in [
        "POST /healthz",
        "GET /rooms/%FF",
        "POST /accounts/projects/%FF/rooms/a/connect",
    ] {
        let (status, _, body) = server.http(request, &[], "").await;
        assert!((400..500).contains(&status), "{request}: {status}");
        let body: serde_json::Value =
            serde_json::from_str(&body).unwrap_or_else(|_| panic!("{request}: {body}"));
        assert!(body["error"].is_string(), "{request}");
    }
}
