//! The typed toolkits on a connection.

use bytes::Bytes;
use meshagent_protocol::storage::{
    DownloadRequest, Entry, UploadChunk, download_data, download_start, list, upload_pull,
};
use meshagent_protocol::{
    Content, DocPath, SyncChunk, SyncCreate, SyncOpenStart, encode_base64, sync,
};
use serde_json::json;

use crate::peer::connect;

#[tokio::test]
async fn documents() {
    let (room, mut peer) = connect().await;
    let create = room.sync();
    let create = create.create("./a.document", Some(json!({"x": 1})), None);
    let script = async {
        let (request, invoke) = peer.invoke().await;
        let input = SyncCreate::parse(&invoke.arguments).unwrap();
        assert_eq!(input.path.as_str(), "a.document");
        assert_eq!(input.json, Some(json!({"x": 1})));
        peer.answer(request, Content::Empty).await;
    };
    let (seen, ()) = tokio::join!(create, script);
    assert_eq!(seen, Ok(()));

    let mut start = SyncOpenStart::new(DocPath::parse("a").unwrap());
    start.vector = Some(vec![0]);
    let script = async {
        let (_, call, first) = peer.open().await;
        assert_eq!(SyncOpenStart::parse(&first), Ok(start.clone()));
        let state = sync::state("a", &json!({"s": 1}), encode_base64(&[1]));
        peer.send_chunk(&call, state).await;
        peer.send_chunk(&call, sync::sync("a", encode_base64(&[2])))
            .await;
        let update = peer.chunk(Content::Json(json!({"repaired": []}))).await;
        let update = SyncChunk::parse(&update).unwrap();
        assert_eq!(update.decode().unwrap(), [3]);
        assert_eq!(peer.chunk(Content::Empty).await, Content::close());
        peer.send_chunk(&call, Content::close()).await;
    };
    let user = async {
        let mut document = room.sync().open(&start).await.unwrap();
        assert_eq!((document.path(), document.state()), ("a", &[1][..]));
        assert_eq!(document.schema(), &json!({"s": 1}));
        assert_eq!(document.recv().await, Ok(Some(vec![2])));
        let acknowledgement = document.send(&[3]).await.unwrap();
        assert_eq!(acknowledgement.notice, Some(json!({"repaired": []})));
        document.close().await.unwrap();
    };
    tokio::join!(script, user);
}

#[tokio::test]
async fn files() {
    let (room, mut peer) = connect().await;
    let storage = room.storage();
    let entry = Entry {
        name: "f".to_owned(),
        is_folder: false,
        size: Some(5),
        created_at: None,
        updated_at: None,
    };
    let script = async {
        let (request, invoke) = peer.invoke().await;
        assert_eq!(invoke.arguments, Content::Json(json!({"path": ""})));
        peer.answer(request, list(std::slice::from_ref(&entry)))
            .await;
    };
    let (seen, ()) = tokio::join!(storage.list("/"), script);
    assert_eq!(seen, Ok(vec![entry]));

    let script = async {
        let (_, call, first) = peer.open().await;
        assert!(matches!(
            UploadChunk::parse(&first),
            Ok(UploadChunk::Start(_))
        ));
        let mut stored = Vec::new();
        loop {
            peer.send_chunk(&call, upload_pull(2)).await;
            let chunk = peer.chunk(Content::Empty).await;
            if chunk == Content::close() {
                break;
            }
            let Ok(UploadChunk::Data(data)) = UploadChunk::parse(&chunk) else {
                panic!("no data: {chunk:?}");
            };
            stored.push(data);
        }
        peer.send_chunk(&call, Content::close()).await;
        stored
    };
    let (seen, stored) = tokio::join!(storage.upload("f", "hello", false), script);
    assert_eq!(seen, Ok(()));
    assert_eq!(stored, ["he", "ll", "o"]);

    let script = async {
        let (_, call, _) = peer.open().await;
        peer.send_chunk(&call, download_start("f", "text/plain", 5))
            .await;
        for data in ["hel", "lo"] {
            let pull = peer.chunk(Content::Empty).await;
            assert_eq!(DownloadRequest::parse(&pull), Ok(DownloadRequest::Pull));
            let data = download_data(Bytes::from_static(data.as_bytes()));
            peer.send_chunk(&call, data).await;
        }
        peer.send_chunk(&call, Content::close()).await;
    };
    let (file, ()) = tokio::join!(storage.download("f"), script);
    let file = file.unwrap();
    assert_eq!((file.name.as_str(), &file.data[..]), ("f", &b"hello"[..]));

    // A download that is shorter than announced is an error.
    let script = async {
        let (_, call, _) = peer.open().await;
        peer.send_chunk(&call, download_start("f", "text/plain", u64::MAX))
            .await;
        peer.chunk(Content::Empty).await;
        peer.send_chunk(&call, Content::close()).await;
    };
    let (file, ()) = tokio::join!(storage.download("f"), script);
    assert!(file.is_err());
    assert!(storage.exists("a/../b").await.is_err());
}
