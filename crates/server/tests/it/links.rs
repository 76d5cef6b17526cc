//! Links from `download_url`: a plain GET, with names of all kinds, for a time.

use std::time::Duration;

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
