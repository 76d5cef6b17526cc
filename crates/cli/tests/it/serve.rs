//! The files of `meshagent serve` that name the server and its key for other commands.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{KEY, meshagent, run};

/// No step takes this long; a test that hangs fails.
const PATIENCE: Duration = Duration::from_mins(1);

/// A server; killed when the test fails.
pub(crate) struct Server {
    child: Child,
    /// Its output up to the line that says that it is ready.
    lines: Vec<String>,
}

impl Server {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::start_with_log(command, Stdio::null())
    }

    pub(crate) fn start_with_log(command: &mut Command, log: impl Into<Stdio>) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut lines = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            lines.push(line.unwrap());
            if lines
                .last()
                .is_some_and(|line| !line.starts_with("export "))
            {
                break;
            }
        }
        Self { child, lines }
    }

    /// A server whose output is not read.
    pub(crate) fn without_output(child: Child) -> Self {
        Self {
            child,
            lines: Vec::new(),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn url(&self) -> &str {
        let ready = self.lines.last().unwrap();
        &ready[ready.find("http://").unwrap()..]
    }

    pub(crate) fn terminate(mut self) {
        self.ask_to_stop();
        assert!(self.child.wait().unwrap().success());
    }

    pub(crate) fn ask_to_stop(&self) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", "TERM", &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// The exit status of the process, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(home: &Path) -> Command {
    meshagent(home, &["serve", "--listen", "127.0.0.1:0"])
}

/// The command of a server with a limit set by the shell's `ulimit`.
pub(crate) fn under_limit(serve: &Command, home: &Path, limit: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!(r#"ulimit {limit}; exec "$0" "$@""#)])
        .arg(serve.get_program())
        .args(serve.get_args())
        .current_dir(home)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("MESHAGENT_API_KEY", KEY);
    command
}

/// The command of a server with the tests' key and its data in `home`.
pub(crate) fn serve_with(home: &Path, options: &[&str]) -> Command {
    serve_at(home, "127.0.0.1:0", options)
}

/// The same with an address.
pub(crate) fn serve_at(home: &Path, listen: &str, options: &[&str]) -> Command {
    let mut command = meshagent(home, &["serve", "--listen", listen, "--data-dir", "data"]);
    command
        .args(options)
        .current_dir(home)
        .env("MESHAGENT_API_KEY", KEY);
    command
}

const CONNECT: [&str; 9] = [
    "room",
    "connect",
    "--room",
    "r",
    "--",
    "sh",
    "-c",
    "echo $MESHAGENT_API_URL; echo $MESHAGENT_PROJECT_ID",
    "x",
];

#[test]
fn commands_find_the_default_server_and_its_key() {
    let home = TempDir::new().unwrap();
    let server = Server::start(&mut serve(home.path()));
    let exported = |name: &str| {
        let prefix = format!("export {name}=");
        server
            .lines
            .iter()
            .find_map(|line| line.strip_prefix(&prefix))
            .unwrap()
            .to_owned()
    };
    let (url, project) = (server.url().to_owned(), exported("MESHAGENT_PROJECT_ID"));
    assert_eq!(exported("MESHAGENT_API_URL"), url);
    let key = meshagent_protocol::ApiKey::parse(&exported("MESHAGENT_API_KEY")).unwrap();
    assert_eq!(key.project_id, project);

    let data_dir = home.path().join(".local/share/meshagent");
    for file in ["credentials.json", "server.json", "meshagent.db"] {
        assert_eq!(
            fs::metadata(data_dir.join(file))
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o600,
            "{file}"
        );
    }
    let ran = run(&mut meshagent(home.path(), &CONNECT));
    assert_eq!(ran.stdout, format!("{url}\n{project}\n"), "{}", ran.stderr);

    // A key for another project.
    let ran = run(meshagent(home.path(), &CONNECT).env("MESHAGENT_API_KEY", KEY));
    assert!(
        ran.code == Some(2) && ran.stderr.contains(&project),
        "{}",
        ran.stderr
    );

    // The directory is in use.
    let ran = run(&mut serve(home.path()));
    assert!(
        ran.code == Some(1) && ran.stderr.contains("in use"),
        "{}",
        ran.stderr
    );

    server.terminate();
    assert!(!data_dir.join("server.json").exists());
    let ran = run(&mut meshagent(home.path(), &CONNECT));
    assert!(
        ran.code == Some(5) && ran.stderr.contains("hint: start one"),
        "{}",
        ran.stderr
    );

    // The key is kept, and is not printed again; a killed server leaves no lock.
    let server = Server::start(&mut serve(home.path()));
    assert_eq!(server.lines.len(), 1);
    server.kill();
    let ran = run(&mut meshagent(home.path(), &CONNECT));
    assert!(
        ran.code == Some(5) && ran.stderr.contains("does not answer"),
        "{}",
        ran.stderr
    );
    let server = Server::start(&mut serve(home.path()));
    let ran = run(&mut meshagent(home.path(), &CONNECT));
    assert_eq!(
        ran.stdout,
        format!("{}\n{project}\n", server.url()),
        "{}",
        ran.stderr
    );
}

/// As after a full disk: the file can't be written at the start, and later it can.
#[test]
fn server_file_is_written_as_soon_as_possible() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("data/server.json");
    // A directory in place of the file.
    fs::create_dir_all(&file).unwrap();
    let server = Server::start(&mut serve_with(home.path(), &[]));
    fs::remove_dir(&file).unwrap();
    let start = Instant::now();
    while !fs::read_to_string(&file).is_ok_and(|text| text.contains(server.url())) {
        assert!(start.elapsed() < PATIENCE, "server.json was not written");
        thread::sleep(Duration::from_millis(50));
    }
    server.terminate();
    assert!(!file.exists());
}

#[test]
fn damaged_credentials_are_not_replaced() {
    let home = TempDir::new().unwrap();
    let data_dir = home.path().join("data");
    Server::start(
        meshagent(
            home.path(),
            &["serve", "--listen", "127.0.0.1:0", "--data-dir", "data"],
        )
        .current_dir(home.path()),
    )
    .terminate();
    let credentials = data_dir.join("credentials.json");
    fs::write(&credentials, "{}").unwrap();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data-dir", "data"];
    let ran = run(meshagent(home.path(), &serve).current_dir(home.path()));
    assert!(
        ran.code == Some(2) && ran.stderr.contains("\nhint: restore it"),
        "{}",
        ran.stderr
    );
    assert_eq!(fs::read_to_string(&credentials).unwrap(), "{}");
}

#[test]
fn first_start_on_a_used_port_creates_no_key() {
    let home = TempDir::new().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ran = run(&mut meshagent(
        home.path(),
        &["serve", "--listen", &address],
    ));
    assert!(
        ran.code == Some(2) && ran.stderr.contains(&address),
        "{:?} {}",
        ran.code,
        ran.stderr
    );
    let data = home.path().join(".local");
    assert!(!data.exists(), "the data directory was created");
    // The next start creates and prints the key.
    let server = Server::start(&mut serve(home.path()));
    let exports = server
        .lines
        .iter()
        .filter(|line| line.starts_with("export "));
    assert_eq!(exports.count(), 3, "{:?}", server.lines);
}

#[test]
fn failed_start_prints_its_reason_once() {
    let home = TempDir::new().unwrap();
    let file = |directory: &str, name: &str, content: &str| {
        let directory = home.path().join(directory);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(name), content).unwrap();
    };
    let start = |directory: &str, key: Option<&str>| {
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--data-dir", directory];
        let mut command = meshagent(home.path(), &arguments);
        command.current_dir(home.path());
        if let Some(key) = key {
            command.env("MESHAGENT_API_KEY", key);
        }
        let ran = run(&mut command);
        let lines = ran.stderr.lines().filter(|line| !line.contains(" WARN "));
        lines.collect::<Vec<_>>().join("\n")
    };
    let _server = Server::start(
        meshagent(
            home.path(),
            &["serve", "--listen", "127.0.0.1:0", "--data-dir", "tätig"],
        )
        .current_dir(home.path()),
    );
    assert_eq!(
        start("tätig", None),
        "error: the data directory tätig is in use by another running server\n\
         hint: stop that server, or pass another directory with --data-dir"
    );
    file(
        "fremd",
        "meshagent.db",
        "no database, whatever its name says",
    );
    let foreign = start("fremd", None);
    assert!(
        foreign.starts_with("error: can't open the database fremd/meshagent.db: ")
            && foreign.contains("the file is not an SQLite database")
            && foreign.lines().count() == 2,
        "{foreign}"
    );
    assert!(
        foreign.ends_with(
            "hint: put a backup in its place, or pass another directory with --data-dir"
        ),
        "{foreign}"
    );
    file("leer", "meshagent.open", "");
    assert_eq!(
        start("leer", None),
        "error: leer/meshagent.db is missing, although leer/meshagent.open shows that it existed\n\
         hint: put the database back, from a backup if necessary. To begin with an empty \
         database, move everything in the data directory away first, or pass another directory \
         with --data-dir"
    );
    assert_eq!(
        start("schlüssel", Some("geheim")),
        "error: MESHAGENT_API_KEY is not a valid API key: an API key begins with `ma-`\n\
         hint: the first start of `meshagent serve` prints the API key of its server"
    );
}

#[test]
fn weak_secrets_are_refused_before_anything_is_created() {
    let home = TempDir::new().unwrap();
    let key = |secret: &str| {
        let key = meshagent_protocol::ApiKey {
            id: crate::KEY_ID.into(),
            project_id: crate::PROJECT_ID.into(),
            secret: secret.into(),
        };
        key.encode().unwrap()
    };
    let (short, long) = ("s".repeat(31), "s".repeat(32));
    let parts = |secret: &str| {
        [
            ("MESHAGENT_PROJECT_ID", crate::PROJECT_ID.to_owned()),
            ("MESHAGENT_KEY_ID", crate::KEY_ID.to_owned()),
            ("MESHAGENT_SECRET", secret.to_owned()),
        ]
    };
    let refused = |variables: &[(&str, String)], place: &str| {
        let mut command = serve(home.path());
        let ran = run(command.envs(variables.iter().map(|(name, value)| (name, value))));
        let error = format!(
            "error: the secret in {place} has fewer than 32 bytes, so it can be guessed to forge \
             tokens: replace it by the output of `openssl rand -base64 32`\n"
        );
        assert_eq!((ran.code, ran.stderr), (Some(2), error));
    };
    refused(&[("MESHAGENT_API_KEY", key(&short))], "MESHAGENT_API_KEY");
    refused(&parts(&short), "MESHAGENT_SECRET");
    assert!(!home.path().join(".local").exists());
    let mut command = serve(home.path());
    Server::start(command.envs(parts(&long))).terminate();
    let file = home.path().join(".local/share/meshagent/credentials.json");
    let credentials = |secret: &str| format!("{{\"api_key\": \"{}\"}}", key(secret));
    fs::write(&file, credentials(&short)).unwrap();
    refused(&[], file.to_str().unwrap());
    fs::write(&file, credentials(&long)).unwrap();
    Server::start(&mut serve(home.path())).terminate();
}

/// Waits until the log says of so many participants that they have left. The server notices it
/// after its clients have ended, and does not log it when it stops.
fn wait_until_left(log: &Path, participants: usize) {
    let has_left = |line: &&str| line.contains(r#":"left""#) || line.contains(": left ");
    let started = Instant::now();
    loop {
        let text = fs::read_to_string(log).unwrap();
        if text.lines().filter(has_left).count() >= participants {
            return;
        }
        assert!(started.elapsed() < Duration::from_mins(1), "{text}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn names_are_quoted_once_in_the_json_log() {
    let home = TempDir::new().unwrap();
    let log = home.path().join("log");
    let mut command = serve(home.path());
    let options = [
        "--log-format",
        "json",
        "--log",
        "meshagent_server=DEBUG,warning",
    ];
    let file = fs::File::create(&log).unwrap();
    let server = Server::start_with_log(command.args(options), file);
    let names = ["zoë", "a\"b\\c\n\u{202e}d"];
    for name in names {
        let ls = [
            "room",
            "sync",
            "get",
            "plan",
            "--room",
            "my-room",
            "--identity",
            name,
        ];
        assert_eq!(run(&mut meshagent(home.path(), &ls)).code, Some(3));
    }
    wait_until_left(&log, names.len());
    server.terminate();
    let log = fs::read_to_string(&log).unwrap();
    assert!(!log.contains('\u{202e}'), "{log}");
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for name in names {
        for what in ["joined", "left"] {
            let is_found = lines.iter().any(|line| {
                let fields = &line["fields"];
                fields["message"] == what
                    && fields["participant"] == name
                    && fields["room"] == "my-room"
                    && line["level"] == "INFO"
                    && line["target"] == "meshagent_server::room"
            });
            assert!(is_found, "{what} {name:?}: {log}");
        }
    }
    let in_spans = lines.iter().filter(|line| line.get("span").is_some());
    for line in in_spans {
        let name = line["span"]["participant"].as_str().unwrap();
        assert!(names.contains(&name), "{line}");
        assert_eq!(line["spans"][0], line["span"]);
    }
}

#[test]
fn log_formats_rooms_uniformly() {
    let home = TempDir::new().unwrap();
    let log = home.path().join("log");
    let mut command = serve(home.path());
    let server = Server::start_with_log(&mut command, fs::File::create(&log).unwrap());
    let list = [
        "room",
        "storage",
        "ls",
        "--room",
        "my-room",
        "--identity",
        "zoë",
    ];
    assert_eq!(run(&mut meshagent(home.path(), &list)).code, Some(0));
    wait_until_left(&log, 1);
    server.terminate();
    let log = fs::read_to_string(&log).unwrap();
    for what in ["joined", "left"] {
        let line = log
            .lines()
            .find(|line| line.contains(&format!(": {what} ")));
        let line = line.unwrap_or_else(|| panic!("{what}: {log}"));
        let named = r#" room="my-room" participant="zoë" "#;
        assert!(line.contains(named), "{line}");
    }
}
