//! The inputs and outputs of the toolkits.

use bytes::Bytes;
use meshagent_protocol::messaging::{self, BroadcastInput, Participant, SendInput};
use meshagent_protocol::storage::{
    self, Delete, DownloadOutput, DownloadRequest, DownloadUrl, Entry, Move, PathInput, UploadChunk,
};
use meshagent_protocol::{
    Content, DocPath, ErrorCode, InvalidRequest, MessageId, ServerToClient, SharedChunk,
    SharedMessage, SyncChunk, SyncCreate, SyncDescribe, SyncDescribed, SyncOpenStart, SyncOutput,
    SyncPatch, SyncPatched, sync,
};
use serde_json::{Value, json};

use crate::test;

fn binary(headers: Value, data: &'static [u8]) -> Content {
    Content::Binary {
        headers: headers.as_object().unwrap().clone(),
        data: Bytes::from_static(data),
    }
}

fn path(text: &str) -> DocPath {
    DocPath::parse(text).unwrap()
}

#[test]
fn sync_inputs() {
    let create = SyncCreate::parse(&Content::Json(json!({
        "path": "./a.document", "json": {"x": 1}, "schema": null, "schema_path": "/.schemas/a.json",
    })))
    .unwrap();
    assert_eq!(
        create,
        SyncCreate {
            path: path("a.document"),
            json: Some(json!({"x": 1})),
            schema: None,
            schema_path: Some(path(".schemas/a.json")),
        }
    );
    assert_eq!(SyncCreate::parse(&create.to_content()), Ok(create));

    let describe = SyncDescribe::parse(&Content::Json(json!({"path": "a"}))).unwrap();
    assert_eq!(SyncDescribe::parse(&describe.to_content()), Ok(describe));

    let least = SyncOpenStart::parse(&binary(json!({"kind": "start", "path": "a"}), b"")).unwrap();
    assert_eq!(least, SyncOpenStart::new(path("a")));
    let full = SyncOpenStart::parse(&binary(
        json!({
            "kind": "start", "path": "a", "create": false, "vector": "AAE=",
            "schema": {"s": 1}, "schema_path": null, "initial_json": {"j": 1},
        }),
        b"",
    ))
    .unwrap();
    assert!(!full.create);
    assert_eq!(full.vector.as_deref(), Some(&[0, 1][..]));
    let Content::Binary { headers, .. } = full.to_content() else {
        panic!("a start chunk is binary");
    };
    for ours in ["merge", "identity"] {
        assert!(
            !headers.contains_key(ours),
            "published SDKs do not know {ours}"
        );
    }
    assert_eq!(full.identity, None);
    assert_eq!(SyncOpenStart::parse(&full.to_content()), Ok(full));
    for identity in ["", "17 ä"] {
        let mut start = SyncOpenStart::new(path("a"));
        start.identity = Some(identity.to_owned());
        assert_eq!(SyncOpenStart::parse(&start.to_content()), Ok(start));
    }

    let chunk = SyncChunk::parse(&binary(json!({"kind": "sync"}), b"AAE=")).unwrap();
    assert_eq!(chunk.decode().unwrap(), [0, 1]);
    assert!(chunk.max_decoded_bytes() >= 2);
    assert_eq!(SyncChunk::parse(&SyncChunk::of_update(&[0, 1])), Ok(chunk));
    let empty = SyncChunk::parse(&binary(json!({"kind": "sync"}), b"")).unwrap();
    assert!(empty.decode().unwrap().is_empty());
    for bad in [&b"some bytes"[..], b"AAE=\n", b"A", b"\xff\xff\xff\xff"] {
        let chunk = SyncChunk {
            payload: Bytes::from_static(bad),
        };
        assert!(chunk.decode().is_err(), "{bad:?}");
    }
}

#[test]
fn describe_sends_optional_fields_only_if_set() {
    let mut describe = SyncDescribe::new(path("a"));
    assert_eq!(
        describe.to_content(),
        Content::Json(json!({"path": "a", "schema_path": null})),
        "same as the published SDKs"
    );
    describe.include_ids = true;
    describe.with_version = true;
    describe.with_schema = true;
    assert_eq!(
        describe.to_content(),
        Content::Json(json!({
            "path": "a", "schema_path": null,
            "include_ids": true, "with_version": true, "with_schema": true,
        }))
    );
    assert_eq!(SyncDescribe::parse(&describe.to_content()), Ok(describe));

    let root = json!({"json": {"version": "1"}});
    let bare = SyncDescribed::new(root.clone(), None, None);
    assert_eq!(bare.clone().into_content(), Content::Json(root.clone()));
    assert_eq!(SyncDescribed::parse(&Content::Json(root.clone())), Ok(bare));
    let full = SyncDescribed::new(root.clone(), Some("v".to_owned()), Some(json!({"s": 1})));
    let content = full.clone().into_content();
    assert_eq!(
        content,
        Content::Json(json!({"json": root, "version": "v", "schema": {"s": 1}}))
    );
    assert_eq!(SyncDescribed::parse(&content), Ok(full));
    assert!(SyncDescribed::parse(&Content::Empty).is_err());
}

#[test]
fn patches() {
    let operations = json!([
        {"op": "test", "path": "/a", "value": 1},
        {"op": "remove", "path": "/a"},
    ]);
    let operations = operations.as_array().unwrap();
    let mut patch = SyncPatch::new(path("a"), operations.clone());
    assert_eq!(
        patch.to_content(),
        Content::Json(json!({"path": "a", "patch": operations}))
    );
    patch.if_version = Some("v".to_owned());
    patch.dry_run = true;
    assert_eq!(
        patch.to_content(),
        Content::Json(
            json!({"path": "a", "patch": operations, "if_version": "v", "dry_run": true})
        )
    );
    assert_eq!(SyncPatch::parse(&patch.to_content()), Ok(patch));
    for bad in [
        json!({"path": "a"}),
        json!({"path": "a", "patch": {}}),
        json!({"path": "", "patch": []}),
        json!({"path": "a", "patch": [], "if_version": 1}),
        json!({"path": "a", "patch": [], "dry_run": "yes"}),
    ] {
        assert!(
            SyncPatch::parse(&Content::Json(bad.clone())).is_err(),
            "{bad}"
        );
    }

    let patched = SyncPatched::new("v".to_owned(), operations, &[false, true], false);
    assert_eq!(
        patched.to_content(),
        Content::Json(json!({"version": "v", "operations": [
            {"op": "test", "path": "/a", "result": "no change"},
            {"op": "remove", "path": "/a", "result": "applied"},
        ]}))
    );
    assert_eq!(SyncPatched::parse(&patched.to_content()), Ok(patched));
    let checked = SyncPatched::new("v".to_owned(), operations, &[false, true], true);
    assert_eq!(SyncPatched::parse(&checked.to_content()), Ok(checked));
    let broken = json!({"version": "v", "operations": [1]});
    assert!(SyncPatched::parse(&Content::Json(broken)).is_err());
}

#[test]
fn sync_outputs_have_only_headers_that_sdks_accept() {
    let state = sync::state("a", &json!({"s": 1}), Bytes::from_static(b"AAE="));
    assert_eq!(
        Value::from(state.header()).to_string(),
        r#"{"type":"binary","headers":{"kind":"state","path":"a","schema":{"s":1}}}"#
    );
    assert_eq!(
        SyncOutput::parse(&state),
        Ok(SyncOutput::State {
            path: "a".to_owned(),
            schema: json!({"s": 1}),
            update: vec![0, 1],
        })
    );
    let update = sync::sync("a", Bytes::from_static(b"AAE="));
    assert_eq!(
        Value::from(update.header()).to_string(),
        r#"{"type":"binary","headers":{"kind":"sync","path":"a"}}"#
    );
    assert_eq!(
        SyncOutput::parse(&update),
        Ok(SyncOutput::Sync {
            path: "a".to_owned(),
            update: vec![0, 1],
        })
    );
}

#[test]
fn errors_name_the_field() {
    fn check<T: std::fmt::Debug>(seen: Result<T, InvalidRequest>, code: ErrorCode, text: &str) {
        let error = seen.unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.text.contains(text), "{error}");
    }
    let invalid = ErrorCode::InvalidRequest;
    let create = |json| SyncCreate::parse(&Content::Json(json));
    check(create(json!([])), invalid, "`json` content");
    check(
        SyncCreate::parse(&Content::Empty),
        invalid,
        "`json` content",
    );
    check(create(json!({})), invalid, "`path` is missing");
    check(
        create(json!({"path": 1})),
        invalid,
        "`path` must be a string",
    );
    check(create(json!({"path": "./"})), invalid, "storage root");
    check(
        create(json!({"path": "a/../b"})),
        invalid,
        "`path`: the path contains",
    );
    check(
        create(json!({"path": "a", "json": []})),
        invalid,
        "`json` must be an object",
    );
    check(
        create(json!({"path": "a", "schema": "x"})),
        invalid,
        "`schema` must be an object",
    );
    check(
        create(json!({"path": "a", "schema_path": ".."})),
        invalid,
        "`schema_path`",
    );

    let start = |json| SyncOpenStart::parse(&binary(json, b""));
    check(start(json!({"path": "a"})), invalid, "`kind` is missing");
    check(
        start(json!({"kind": "sync", "path": "a"})),
        invalid,
        "`kind` must be `start`",
    );
    check(
        start(json!({"kind": "start", "path": ""})),
        invalid,
        "storage root",
    );
    check(
        start(json!({"kind": "start", "path": "a", "create": 1})),
        invalid,
        "`create` must be",
    );
    check(
        start(json!({"kind": "start", "path": "a", "vector": "*"})),
        invalid,
        "`vector`",
    );
    check(
        SyncChunk::parse(&Content::Empty),
        invalid,
        "`binary` content",
    );

    let bad_path = ErrorCode::StorageInvalidPath;
    check(
        PathInput::parse(&Content::Json(json!({"path": ".."}))),
        bad_path,
        "`path`",
    );
    check(
        PathInput::parse(&Content::Json(json!({}))),
        invalid,
        "`path` is missing",
    );
    check(
        Delete::parse(&Content::Json(json!({"path": "/"}))),
        bad_path,
        "root",
    );
    check(
        Move::parse(&Content::Json(
            json!({"source_path": "a", "destination_path": "a//b"}),
        )),
        bad_path,
        "`destination_path`",
    );
    let upload = |json| UploadChunk::parse(&binary(json, b""));
    check(
        upload(json!({"kind": "start", "path": "a", "size": -1})),
        invalid,
        "`size`",
    );
    check(upload(json!({"kind": "pull"})), invalid, "`kind`");
    let download = |json| DownloadRequest::parse(&binary(json, b""));
    check(
        download(json!({"kind": "start", "path": "a", "chunk_size": 0})),
        invalid,
        "at least 1",
    );

    let send = |json| SendInput::parse(&Content::Json(json));
    check(
        send(json!({"type": "x", "message_json": "{}"})),
        invalid,
        "`to_participant_id`",
    );
    let send =
        |json: &str| send(json!({"to_participant_id": "p", "type": "x", "message_json": json}));
    check(send("{"), invalid, "`message_json`: invalid JSON");
    check(send(&"[".repeat(129)), invalid, "nested deeper");
    let broadcast = json!({"type": "x", "message_json": "{}", "attachment_base64": "*"});
    check(
        BroadcastInput::parse(&Content::Json(broadcast)),
        invalid,
        "`attachment_base64`",
    );
}

#[test]
fn storage_inputs_and_outputs() {
    let input = PathInput { path: path("") };
    assert_eq!(PathInput::parse(&input.to_content()), Ok(input));
    let delete = Delete::parse(&Content::Json(json!({"path": "a/", "recursive": null})));
    assert_eq!(
        delete,
        Ok(Delete {
            path: path("a"),
            recursive: false,
        })
    );
    let delete = delete.unwrap();
    assert_eq!(Delete::parse(&delete.to_content()), Ok(delete));
    let moved = Move {
        source_path: path("a"),
        destination_path: path("b"),
        overwrite: true,
    };
    assert_eq!(Move::parse(&moved.to_content()), Ok(moved));
    let url = DownloadUrl {
        path: path("a"),
        download: true,
    };
    assert_eq!(DownloadUrl::parse(&url.to_content()), Ok(url));

    let file = Entry {
        name: "a".to_owned(),
        is_folder: false,
        size: Some(3),
        created_at: Some(storage::rfc3339(0)),
        updated_at: None,
    };
    assert_eq!(
        storage::stat(Some(&file)),
        Content::Json(json!({
            "exists": true, "name": "a", "is_folder": false, "size": 3,
            "created_at": "1970-01-01T00:00:00.000Z", "updated_at": null,
        }))
    );
    assert_eq!(storage::stat(None), Content::Json(json!({"exists": false})));
    assert_eq!(storage::parse_stat(&storage::stat(None)), Ok(None));
    assert_eq!(
        storage::parse_stat(&storage::stat(Some(&file))),
        Ok(Some(file.clone()))
    );
    let list = storage::list(std::slice::from_ref(&file));
    assert_eq!(storage::parse_list(&list), Ok(vec![file]));
    assert_eq!(storage::parse_exists(&storage::exists(true)), Ok(true));
    let url = storage::download_url("http://h/x");
    assert_eq!(
        storage::parse_download_url(&url).as_deref(),
        Ok("http://h/x")
    );

    let start = UploadChunk::parse(&binary(
        json!({"kind": "start", "path": "a", "overwrite": true, "name": "n", "mime_type": null, "size": 3}),
        b"",
    ))
    .unwrap();
    assert_eq!(UploadChunk::parse(&start.to_content()), Ok(start));
    let data = UploadChunk::Data(Bytes::from_static(b"abc"));
    assert_eq!(UploadChunk::parse(&data.to_content()), Ok(data));
    assert_eq!(
        storage::parse_upload_pull(&storage::upload_pull(9)),
        Ok(Some(9))
    );
    let pull = binary(json!({"kind": "pull", "chunk_size": null}), b"");
    assert_eq!(storage::parse_upload_pull(&pull), Ok(None));

    for request in [
        DownloadRequest::Pull,
        DownloadRequest::Start {
            path: path("a"),
            chunk_bytes: 7,
        },
    ] {
        assert_eq!(DownloadRequest::parse(&request.to_content()), Ok(request));
    }
    assert_eq!(
        DownloadOutput::parse(&storage::download_start("n", "t", 5)),
        Ok(DownloadOutput::Start {
            name: "n".to_owned(),
            mime_type: "t".to_owned(),
            size: 5,
        })
    );
    assert_eq!(
        DownloadOutput::parse(&storage::download_data(Bytes::from_static(b"x"))),
        Ok(DownloadOutput::Data(Bytes::from_static(b"x")))
    );
}

#[test]
fn times_are_formatted_as_rfc_3339() {
    for (unix_ms, expected) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (951_827_696_789, "2000-02-29T12:34:56.789Z"),
        (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
        (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        (u64::MAX, "9999-12-31T23:59:59.999Z"),
    ] {
        assert_eq!(storage::rfc3339(unix_ms), expected);
    }
}

#[test]
fn messaging_inputs_and_messages() {
    let input = Content::Json(json!({
        "to_participant_id": "b", "type": "chat", "message_json": "{\"text\": \"hi\"}",
        "attachment_base64": "AAE=",
    }));
    let send = SendInput::parse(&input).unwrap();
    assert_eq!(SendInput::parse(&send.to_content()), Ok(send.clone()));
    assert_eq!(
        send.message.deliver("a"),
        ServerToClient::Messaging {
            from_participant_id: "a".to_owned(),
            kind: "chat".to_owned(),
            message: json!({"text": "hi"}),
            attachment: Bytes::from_static(&[0, 1]),
        }
    );
    let input = json!({"type": "x", "message_json": "{}", "attachment_base64": null});
    let broadcast = BroadcastInput::parse(&Content::Json(input)).unwrap();
    assert!(broadcast.message.attachment.is_empty());
    assert_eq!(
        BroadcastInput::parse(&broadcast.to_content()),
        Ok(broadcast)
    );

    let participant = Participant {
        id: "p".to_owned(),
        role: "user".to_owned(),
        attributes: json!({"name": "n"}).as_object().unwrap().clone(),
    };
    let as_json = json!({"id": "p", "role": "user", "attributes": {"name": "n"}});
    assert_eq!(Participant::from_json(&as_json), Ok(participant.clone()));
    let check = |message: ServerToClient, from: &str, kind: &str, json: Value| {
        let expected = ServerToClient::Messaging {
            from_participant_id: from.to_owned(),
            kind: kind.to_owned(),
            message: json,
            attachment: Bytes::new(),
        };
        assert_eq!(message, expected);
    };
    let others = [participant.clone()];
    check(
        messaging::enabled("me", &others),
        "me",
        "messaging.enabled",
        json!({"participants": [as_json]}),
    );
    check(
        messaging::participant_enabled(&participant),
        "p",
        "participant.enabled",
        as_json.clone(),
    );
    check(
        messaging::participant_attributes("p", participant.attributes.clone()),
        "p",
        "participant.attributes",
        json!({"attributes": {"name": "n"}}),
    );
    check(
        messaging::participant_disabled("p"),
        "p",
        "participant.disabled",
        json!({"id": "p"}),
    );
}

#[test]
fn shared_encodings_equal_plain_ones() {
    let schema = json!({ "ä": [1, "\"\n"] });
    let payload = Bytes::from_static(b"AAE=");
    let path = "a \"ä\"/\u{1f600}.x";
    let shared = SharedChunk::state(path, schema.to_string().into(), payload.clone());
    let plain = sync::state(path, &schema, payload);
    assert_eq!(shared.content(), plain);
    let bytes =
        |chunk: &SharedChunk| -> Vec<Bytes> { chunk.packets("c", MessageId::from(1)).collect() };
    assert_eq!(bytes(&shared), bytes(&SharedChunk::new(&plain)));

    let entry = Entry {
        name: "ä\"".to_owned(),
        is_folder: false,
        size: Some(7),
        created_at: None,
        updated_at: Some("2026".to_owned()),
    };
    for count in 0..3 {
        let entries = vec![entry.clone(); count];
        let plain = SharedMessage::answer_head(&storage::list(&entries));
        assert_eq!(SharedMessage::answer_list(entries.into_iter()), plain);
    }

    let attributes = json!({ "name": "ä\"", "n": [1.5, null] })
        .as_object()
        .unwrap()
        .clone();
    for count in 0..3 {
        let others: Vec<Participant> = (0..count)
            .map(|number| Participant {
                id: format!("\u{1f600}{number}"),
                role: "user".to_owned(),
                attributes: attributes.clone(),
            })
            .collect();
        let parts = others
            .iter()
            .map(|other| (&*other.id, &*other.role, &other.attributes));
        let head = messaging::enabled_head("me\\", parts);
        let plain = SharedMessage::of(&messaging::enabled("me\\", &others));
        assert_eq!(head, plain.body().0.to_vec());
    }
}
