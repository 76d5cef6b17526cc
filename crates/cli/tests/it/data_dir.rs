//! Servers with a changed, damaged or foreign data directory.

mod lost_files;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use meshagent_client::{CallError, Connection};
use meshagent_document::{MeshDocument, MeshSchema, Target};
use meshagent_protocol::DocPath;
use meshagent_protocol::sync::SyncOpenStart;
use serde_json::json;
use tempfile::TempDir;

use crate::serve::Server;
use crate::stress::{http_get, room_url, token};
use crate::{KEY, KEY_ID, PROJECT_ID, SECRET, meshagent};

/// No step takes this long.
const PATIENCE: Duration = Duration::from_mins(1);

const BEFORE: &[u8] = "vorher gesichert – 以前".as_bytes();

/// The log of a killed server contains all acknowledged data, and then is damaged.
#[test]
fn start_reports_a_damaged_log() {
    type Spoil = fn(&mut [u8]);
    const FILES: usize = 50;
    let home = TempDir::new().unwrap();
    let log = home.path().join("log");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let upload = async |url: &str| {
        let url = room_url(url);
        let client = Connection::connect(&url, &token("ann")).await.unwrap();
        for number in 0..FILES {
            let path = format!("ä{number}.txt");
            let stored = client.storage().upload(&path, BEFORE, true).await;
            stored.unwrap();
        }
    };
    let listed = async |url: &str| {
        let url = room_url(url);
        let client = Connection::connect(&url, &token("ann")).await.unwrap();
        let mut there = 0;
        for number in 0..FILES {
            let path = format!("ä{number}.txt");
            there += usize::from(client.storage().exists(&path).await.unwrap());
        }
        there
    };
    let wal = home.path().join("data/meshagent.db-wal");
    let server = start(home.path(), &log);
    runtime.block_on(upload(server.url()));
    server.kill();
    let whole = fs::read(&wal).unwrap();

    let random: Spoil = |bytes| {
        let mut state = 1_u32;
        bytes.fill_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        });
    };
    let spoils: [(&str, Spoil, &str); 3] = [
        (
            "garbage",
            random,
            "has no valid header of a write-ahead log",
        ),
        (
            "zeros",
            |bytes| bytes.fill(0),
            "has no valid header of a write-ahead log",
        ),
        (
            "garbage in the middle",
            |bytes| {
                let middle = bytes.len() / 2;
                bytes[middle..middle + 4096].fill(0xa5);
            },
            "is damaged at byte ",
        ),
    ];
    for (what, spoil, words) in spoils {
        let mut spoilt = whole.clone();
        spoil(&mut spoilt);
        fs::write(&wal, &spoilt).unwrap();
        // The durability of the last server counts.
        for arguments in [&[][..], &["--durability", "os"]] {
            let (code, messages) = refused_start(serve(home.path()).args(arguments));
            assert!(
                code == 1 && messages.contains(words),
                "{what}: {code} {messages}"
            );
            let path = wal.to_str().unwrap();
            assert!(messages.contains(path), "{what}: {messages}");
            assert!(
                messages.contains("acknowledged data")
                    && messages.contains("\nhint: put a backup in place"),
                "{what}: {messages}"
            );
            assert!(fs::read(&wal).unwrap() == spoilt, "{what}: was changed");
        }
    }

    // Follows the last hint.
    let (_, messages) = refused_start(&mut serve(home.path()));
    let hinted = messages.split_once("truncate -s ").unwrap().1;
    let (length, path) = hinted.split_once(' ').unwrap();
    assert!(
        path.starts_with(&format!("'{}'", wal.display())),
        "{messages}"
    );
    let length: usize = length.parse().unwrap();
    assert!(length < whole.len(), "{messages}");
    fs::write(&wal, &whole[..length]).unwrap();
    let server = start(home.path(), &log);
    let kept = runtime.block_on(listed(server.url()));
    assert!((10..40).contains(&kept), "{kept} of {FILES} are kept");
    server.terminate();
    let messages = fs::read_to_string(&log).unwrap();
    assert!(!messages.contains("write-ahead log"), "{messages}");

    // With --durability os, a power failure can have the same effect.
    let relaxed = || {
        let mut command = serve(home.path());
        command.args(["--durability", "os"]);
        Server::start_with_log(&mut command, File::create(&log).unwrap())
    };
    let server = relaxed();
    runtime.block_on(upload(server.url()));
    server.kill();
    let mut spoilt = fs::read(&wal).unwrap();
    let middle = spoilt.len() / 2;
    spoilt[middle..middle + 4096].fill(0xa5);
    fs::write(&wal, spoilt).unwrap();
    let server = relaxed();
    runtime.block_on(listed(server.url()));
    server.terminate();
    let messages = fs::read_to_string(&log).unwrap();
    assert!(
        messages.contains("WARN") && messages.contains("is readable only up to byte"),
        "{messages}"
    );

    // Root may read and write any file, so a directory takes the place of the file.
    fs::create_dir_all(home.path().join("data/meshagent.db-shm/x")).unwrap();
    let (code, messages) = refused_start(&mut serve(home.path()));
    assert!(
        code == 1 && messages.contains("meshagent.db-shm") && !messages.contains("backup"),
        "{code} {messages}"
    );
}

#[test]
fn key_for_another_project_is_refused() {
    let home = TempDir::new().unwrap();
    let log = home.path().join("log");
    let server = start(home.path(), &log);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let url = room_url(server.url());
        let client = Connection::connect(&url, &token("ann")).await.unwrap();
        let storage = client.storage();
        storage.upload("datei.txt", BEFORE, true).await.unwrap();
        client.close().await;
    });
    server.terminate();

    // Otherwise the start would create a new, empty project.
    let keyless = || {
        let mut command = serve(home.path());
        command.env_remove("MESHAGENT_API_KEY");
        command
    };
    let (code, messages) = refused_start(&mut keyless());
    assert!(
        code == 2 && messages.contains(PROJECT_ID) && messages.contains("credentials.json"),
        "{messages}"
    );
    assert!(messages.contains("\nhint: "), "{messages}");
    assert!(!home.path().join("data/credentials.json").exists());

    let other = "11111111-2222-4333-8444-555555555555";
    let parts = |project: &str| {
        let mut command = keyless();
        command
            .env("MESHAGENT_PROJECT_ID", project)
            .env("MESHAGENT_KEY_ID", KEY_ID)
            .env("MESHAGENT_SECRET", SECRET);
        command
    };
    let (code, messages) = refused_start(&mut parts(other));
    assert!(
        code == 2 && messages.contains(PROJECT_ID) && messages.contains(other),
        "{messages}"
    );

    // Follows the hint: another key for the project.
    Server::start(parts(PROJECT_ID).env("MESHAGENT_KEY_ID", other)).terminate();
}

#[test]
fn directory_with_a_key_and_no_database_is_refused() {
    let home = TempDir::new().unwrap();
    let data = home.path().join("data");
    let keyless = || {
        let mut command = serve(home.path());
        command.env_remove("MESHAGENT_API_KEY");
        command
    };
    Server::start(&mut keyless()).terminate();
    for file in ["meshagent.db", "meshagent.reserve"] {
        fs::remove_file(data.join(file)).unwrap();
    }
    for state in ["missing", "empty"] {
        if state == "empty" {
            fs::write(data.join("meshagent.db"), "").unwrap();
        }
        let (code, messages) = refused_start(&mut keyless());
        let expected = format!("meshagent.db is {state}, although ");
        assert!(
            code == 1 && messages.contains(&expected) && messages.contains("credentials.json"),
            "{messages}"
        );
        assert!(
            messages.contains("\nhint: put the database back"),
            "{messages}"
        );
    }
}

#[test]
#[cfg(target_os = "linux")]
#[expect(clippy::print_stdout, reason = "what is left out is said")]
fn data_that_can_only_be_read_is_refused() {
    let home = TempDir::new().unwrap();
    Server::start(&mut serve(home.path())).terminate();
    for (path, expected) in [
        ("data", "can't write to the data directory"),
        ("data/meshagent.db", "can't read and write"),
    ] {
        let serve = serve(home.path());
        let script = "mount --bind \"$READ_ONLY\" \"$READ_ONLY\" \
             && mount -o remount,bind,ro \"$READ_ONLY\" || exit 97; exec \"$0\" \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
            .arg(serve.get_program())
            .args(serve.get_args())
            .env("READ_ONLY", home.path().join(path));
        for (name, value) in serve.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.current_dir(serve.get_current_dir().unwrap_or_else(|| home.path()));
        let (code, messages) = refused_start(&mut command);
        if code == 97 || messages.starts_with("unshare:") {
            println!("left out: this user may not mount a file system");
            return;
        }
        for expected in [expected, path, "\nhint: "] {
            assert!(messages.contains(expected), "{path}: {messages}");
        }
    }
}

#[test]
fn only_the_owner_can_access_the_data_directory() {
    let home = TempDir::new().unwrap();
    let mut command = serve(home.path());
    command.args(["--data-dir", "auf dem/Weg"]);
    Server::start(&mut command).terminate();
    for directory in ["auf dem", "auf dem/Weg"] {
        let mode = fs::metadata(home.path().join(directory))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700, "{directory}");
    }
}

#[test]
fn deleted_content_is_erased_from_all_files() {
    let home = TempDir::new().unwrap();
    let data = home.path().join("data");
    let log = home.path().join("log");
    let server = start(home.path(), &log);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let text = "streng geheim – 極秘";
    let bytes: Vec<u8> = (0..40_000_u32)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes())
        .collect();
    runtime.block_on(async {
        let url = room_url(server.url());
        let client = Connection::connect(&url, &token("ann")).await.unwrap();
        let content = json!({ "document": { "content": [{ "body": { "text": text } }] } });
        for path in ["ä.document", "bleibt.document"] {
            let sync = client.sync();
            sync.create(path, Some(content.clone()), None)
                .await
                .unwrap();
        }
        let storage = client.storage();
        for path in ["f.bin", "unter/g.bin"] {
            storage.upload(path, bytes.clone(), true).await.unwrap();
        }
        let keys = keys(&data);
        assert_eq!(keys.len(), 4);
        let in_files = |key: &[u8]| {
            fs::read_dir(&data).unwrap().any(|file| {
                let content = fs::read(file.unwrap().path()).unwrap();
                let mut places = content.windows(key.len());
                places.any(|place| place == key)
            })
        };
        assert!(keys.values().all(|key| in_files(key)), "where are they?");
        for (path, recursive) in [("ä.document", false), ("f.bin", false), ("unter", true)] {
            storage.delete(path, recursive).await.unwrap();
            let (name, key) = keys
                .iter()
                .find(|(name, _)| name.starts_with(path))
                .unwrap();
            assert!(!in_files(key), "the key of {name}");
            assert!(!in_files(&bytes[1_000..1_100]), "the content of {name}");
        }
        assert!(!in_files(text.as_bytes()), "text");
        assert!(in_files(&keys["bleibt.document"]));
        let left = client.sync().describe("bleibt.document").await.unwrap();
        assert!(left.to_string().contains(text), "{left}");
        client.close().await;
    });
    server.terminate();
}

/// The key of each document and file, by path.
fn keys(data: &Path) -> BTreeMap<String, Vec<u8>> {
    let database = rusqlite::Connection::open(data.join("meshagent.db")).unwrap();
    let mut select = database
        .prepare("SELECT path, key FROM entries JOIN keys ON entry = id")
        .unwrap();
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    rows.unwrap().map(Result::unwrap).collect()
}

fn serve(home: &Path) -> Command {
    let mut command = meshagent(home, &["serve", "--listen", "127.0.0.1:0"]);
    command
        .current_dir(home)
        .env("MESHAGENT_API_KEY", KEY)
        .env("MESHAGENT_DATA_DIR", home.join("data"));
    command
}

fn start(home: &Path, log: &Path) -> Server {
    Server::start_with_log(&mut serve(home), File::create(log).unwrap())
}

/// The exit code and stderr of a server that does not start.
fn refused_start(command: &mut Command) -> (i32, String) {
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("the server started");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().unwrap();
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), messages)
}
