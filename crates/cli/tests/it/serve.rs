//! The files of `meshagent serve`, by which the other commands find the server and its key.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::{KEY, meshagent, run};

/// A server; killed when the test fails.
pub(crate) struct Server {
    child: Child,
    /// What it printed up to the line that says it is ready.
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

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn url(&self) -> &str {
        let ready = self.lines.last().unwrap();
        &ready[ready.find("http://").unwrap()..]
    }

    pub(crate) fn terminate(mut self) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", "TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        assert!(self.child.wait().unwrap().success());
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
fn default_server_and_its_key_are_found_without_any_variable() {
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

    // Another key than the server's.
    let ran = run(meshagent(home.path(), &CONNECT).env("MESHAGENT_API_KEY", KEY));
    assert!(
        ran.code == Some(2) && ran.stderr.contains(&project),
        "{}",
        ran.stderr
    );

    // The directory is taken.
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

    // The key stays, and is not shown again; a kill leaves no lock.
    let server = Server::start(&mut serve(home.path()));
    assert_eq!(server.lines.len(), 1);
    server.kill();
    let ran = run(&mut meshagent(home.path(), &CONNECT));
    assert!(
        ran.code == Some(5) && ran.stderr.contains("no server answers"),
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
    let ran =
        run(meshagent(home.path(), &["serve", "--data-dir", "data"]).current_dir(home.path()));
    assert!(
        ran.code == Some(2) && ran.stderr.contains("\nhint: restore it"),
        "{}",
        ran.stderr
    );
    assert_eq!(fs::read_to_string(&credentials).unwrap(), "{}");
}
