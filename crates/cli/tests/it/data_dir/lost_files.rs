//! Files of the database that are deleted, moved or replaced while the server runs.

use super::*;

/// Maximum time for a server to detect the change.
const SECONDS: Duration = Duration::from_secs(5);

/// A change to the files of a running server, and the result of the next start.
struct Spoiled {
    what: &'static str,
    spoil: fn(&Path),
    restart: Restart,
}

enum Restart {
    Refused(&'static str),
    /// Starts with the old data, and logs this text.
    Served(&'static str),
}

#[test]
fn server_with_deleted_files_acknowledges_nothing() {
    for Spoiled {
        what,
        spoil,
        restart,
    } in [
        Spoiled {
            what: "the database is deleted",
            spoil: |dir| fs::remove_file(dir.join("meshagent.db")).unwrap(),
            restart: Restart::Refused("put the database back"),
        },
        Spoiled {
            what: "the database and its log are deleted",
            spoil: |dir| {
                for file in ["meshagent.db", "meshagent.db-wal", "meshagent.db-shm"] {
                    fs::remove_file(dir.join(file)).unwrap();
                }
            },
            restart: Restart::Refused("put the database back"),
        },
        Spoiled {
            what: "the log is deleted",
            spoil: |dir| fs::remove_file(dir.join("meshagent.db-wal")).unwrap(),
            restart: Restart::Served("write-ahead log (meshagent.db-wal) is missing"),
        },
        Spoiled {
            what: "the log's index is deleted",
            spoil: |dir| fs::remove_file(dir.join("meshagent.db-shm")).unwrap(),
            restart: Restart::Served(""),
        },
        Spoiled {
            what: "the database is replaced by a copy of it",
            spoil: |dir| {
                let copy = dir.join("copy");
                fs::copy(dir.join("meshagent.db"), &copy).unwrap();
                fs::rename(copy, dir.join("meshagent.db")).unwrap();
            },
            restart: Restart::Served(""),
        },
    ] {
        let home = TempDir::new().unwrap();
        let data = home.path().join("data");
        let log = home.path().join("log");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let server = start(home.path(), &log);
        runtime.block_on(async {
            let client = Connection::connect(&room_url(server.url()), &token("ann"))
                .await
                .unwrap();
            let storage = client.storage();
            storage.upload("vorher.txt", BEFORE, true).await.unwrap();
            assert_eq!(http_get(server.url(), "/readyz").await.0, 200, "{what}");

            spoil(&data);
            let spoilt = Instant::now();
            // The server detects it without a write.
            loop {
                let (status, body) = http_get(server.url(), "/readyz").await;
                if status == 503 && body.contains("storage-replaced") {
                    break;
                }
                assert!(spoilt.elapsed() < SECONDS, "{what}: {status} {body}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            for attempt in 0..3 {
                let path = format!("nachher {attempt}.txt");
                let refused = storage.upload(&path, BEFORE, true).await;
                let Err(CallError::Refused { code, text }) = refused else {
                    panic!("{what}: {refused:?}");
                };
                assert!(
                    code == Some(1008) && text.contains("deleted or replaced"),
                    "{what}: {text}"
                );
            }
            // Existing data is still readable, so that it can be saved.
            let file = storage.download("vorher.txt").await;
            assert_eq!(file.unwrap().data, BEFORE, "{what}");
            let messages = fs::read_to_string(&log).unwrap();
            assert!(
                messages.contains("ERROR") && messages.contains("meshagent.db"),
                "{what}: {messages}"
            );
        });
        server.kill();

        match restart {
            Restart::Refused(words) => {
                let (code, messages) = refused_start(&mut serve(home.path()));
                assert!(
                    code == 1 && messages.contains(words),
                    "{what}: {code} {messages}"
                );
                assert!(!data.join("meshagent.db").exists(), "{what}");
            }
            Restart::Served(words) => {
                let server = start(home.path(), &log);
                runtime.block_on(async {
                    let url = room_url(server.url());
                    let client = Connection::connect(&url, &token("ann")).await.unwrap();
                    let storage = client.storage();
                    let file = storage.download("vorher.txt").await;
                    assert_eq!(file.unwrap().data, BEFORE, "{what}");
                    for attempt in 0..3 {
                        let path = format!("nachher {attempt}.txt");
                        assert!(!storage.exists(&path).await.unwrap(), "{what}: {path}");
                    }
                });
                server.terminate();
                let messages = fs::read_to_string(&log).unwrap();
                assert!(messages.contains(words), "{what}: {messages}");
            }
        }
    }
}

/// The files are deleted during edits, so that a write detects it first; the client then sends the
/// refused update again.
#[test]
fn update_refused_for_deleted_files_is_never_acknowledged() {
    type Spoil = fn(&Path);
    let spoils: [(&str, Spoil); 2] = [
        ("deleted", |dir| {
            for file in ["meshagent.db", "meshagent.db-wal", "meshagent.db-shm"] {
                fs::remove_file(dir.join(file)).unwrap();
            }
        }),
        ("replaced by a copy", |dir| {
            let copy = dir.join("copy");
            fs::copy(dir.join("meshagent.db"), &copy).unwrap();
            fs::rename(copy, dir.join("meshagent.db")).unwrap();
        }),
    ];
    for (what, spoil) in spoils {
        let home = TempDir::new().unwrap();
        let server = start(home.path(), &home.path().join("log"));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let url = room_url(server.url());
            let client = Connection::connect(&url, &token("ann")).await.unwrap();
            let open = async || {
                let path = DocPath::parse("ä.document").unwrap();
                client.sync().open(&SyncOpenStart::new(path)).await
            };
            let stream = open().await.unwrap();
            // Opens a connection for reads, which stays open.
            client.sync().describe("ä.document").await.unwrap();
            let mut typed = MeshDocument::new(MeshSchema::builtin("document").unwrap(), 7);
            typed.apply_update(stream.state()).unwrap();
            let mut edit = |text: &str| {
                let before = typed.state_vector();
                let element = json!({ "body": { "text": text } });
                typed
                    .append_child(Target::Root, element, &mut || text.to_owned())
                    .unwrap();
                typed.encode_diff(&before).unwrap()
            };
            stream.send(&edit("vorher")).await.unwrap();
            let update = edit("verloren – 失");
            spoil(&home.path().join("data"));

            let mut refused = Vec::new();
            let started = Instant::now();
            // The room retries to load the document about every second.
            while started.elapsed() < Duration::from_millis(2_500) {
                refused.push(stream.send(&update).await);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            if let Ok(again) = open().await {
                refused.push(again.send(&update).await);
            }
            for (attempt, answer) in refused.iter().enumerate() {
                let is_refused = matches!(
                    answer,
                    Err(CallError::Refused {
                        code: Some(1008),
                        ..
                    })
                );
                assert!(is_refused, "{what}, attempt {attempt}: {answer:?}");
            }
        });
        server.kill();
    }
}

/// The server's working directory moves away, so the relative path would still lead to the files.
#[test]
fn relative_data_directory_whose_parent_was_moved_is_noticed() {
    let home = TempDir::new().unwrap();
    let (app, moved) = (home.path().join("äpp"), home.path().join("moved"));
    fs::create_dir(&app).unwrap();
    let mut command = serve(home.path());
    command.current_dir(&app).env("MESHAGENT_DATA_DIR", "data");
    let server = Server::start_with_log(&mut command, Stdio::null());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let url = room_url(server.url());
        let client = Connection::connect(&url, &token("ann")).await.unwrap();
        let storage = client.storage();
        storage.upload("vorher.txt", BEFORE, true).await.unwrap();
        fs::rename(&app, &moved).unwrap();
        fs::create_dir(&app).unwrap();
        let refused = storage.upload("nachher.txt", BEFORE, true).await;
        let is_refused = matches!(
            refused,
            Err(CallError::Refused {
                code: Some(1008),
                ..
            })
        );
        assert!(is_refused, "{refused:?}");
        assert_eq!(http_get(server.url(), "/readyz").await.0, 503);
    });
    server.kill();
}
