//! What every test starts with: a server, the installed SDKs, and a report of all logs if it fails.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use meshagent_testing::{
    Finished, Logs, Script, Sdk, SdkClient, Server, TempDir, repository_root, run_to_end,
    wait_until,
};
use serde_json::{Map, Value, json};

/// The two SDKs, for tests that hold for both.
pub(crate) const SDKS: [Script; 2] = [Script::PythonClient, Script::NodeClient];

/// How many lines of each log a failed test shows.
const SHOWN_LINES: usize = 40;

/// A server and what it takes to talk to it.
pub(crate) struct Scenario {
    pub(crate) server: Server,
    pub(crate) sdk: Sdk,
    pub(crate) logs: Logs,
    // The last field, so that the files outlive the processes that use them.
    folder: TempDir,
}

/// Runs a test's body; if it fails, everything that its processes wrote is shown.
#[expect(clippy::print_stderr, reason = "the report of a failed test")]
pub(crate) fn scenario(body: impl FnOnce(&mut Scenario) -> Result<()>) {
    let mut scenario = match Scenario::start() {
        Ok(scenario) => scenario,
        Err(error) => panic!("the test can't start: {error:#}"),
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| body(&mut scenario)));
    if !matches!(outcome, Ok(Ok(()))) {
        eprintln!("{}", scenario.logs.tails(SHOWN_LINES));
        if std::env::var_os("MESHAGENT_KEEP_LOGS").is_some() {
            scenario.folder.disable_cleanup(true);
            eprintln!("all logs and data: {}", scenario.folder.path().display());
        }
    }
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{error:#}"),
        Err(panic) => resume_unwind(panic),
    }
}

impl Scenario {
    fn start() -> Result<Self> {
        let sdk = Sdk::installed()?;
        let folder = TempDir::new()?;
        let logs = Logs::new(folder.path().join("logs"))?;
        let server = Server::start(folder.path(), &logs, &[])?;
        Ok(Self {
            server,
            sdk,
            logs,
            folder,
        })
    }

    /// A folder for the test's own files.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A connected participant with every right.
    pub(crate) fn client(&self, script: Script, room: &str, name: &str) -> Result<SdkClient> {
        let token = self.server.credentials().token(name, room);
        self.client_with_token(script, room, name, &token)
    }

    /// A connected participant with this api scope.
    pub(crate) fn client_with_scope(
        &self,
        script: Script,
        room: &str,
        name: &str,
        api: &Value,
    ) -> Result<SdkClient> {
        let credentials = self.server.credentials();
        let token = credentials.sign(&credentials.claims(name, room, api));
        self.client_with_token(script, room, name, &token)
    }

    fn client_with_token(
        &self,
        script: Script,
        room: &str,
        name: &str,
        token: &str,
    ) -> Result<SdkClient> {
        let mut client = self.unconnected_client(script, room, name, token)?;
        client.call("connect", &json!({}))?;
        Ok(client)
    }

    /// A participant that has not called `connect` yet.
    pub(crate) fn unconnected_client(
        &self,
        script: Script,
        room: &str,
        name: &str,
        token: &str,
    ) -> Result<SdkClient> {
        let mut command = self.sdk.script(script);
        command.envs(self.server.participant_environment(room, token));
        SdkClient::start(command, &self.logs, name)
    }

    /// A bare socket, not connected yet.
    pub(crate) fn wire(&self, name: &str) -> Result<SdkClient> {
        SdkClient::start(self.sdk.script(Script::Wire), &self.logs, name)
    }

    /// Our own `meshagent room connect --room ROOM --identity NAME -- COMMAND`, run in the folder.
    pub(crate) fn room_connect(
        &self,
        room: &str,
        name: &str,
        command: &[&str],
    ) -> Result<Finished> {
        let mut ours = self.sdk.command(Server::binary()?);
        ours.args([
            "room",
            "connect",
            &format!("--room={room}"),
            &format!("--identity={name}"),
        ])
        .arg("--")
        .args(command)
        .current_dir(self.folder())
        .envs(self.server.owner_environment());
        run_to_end(ours, &self.logs, command[0])
    }

    /// The published CLI, run in the folder.
    pub(crate) fn cli<S: AsRef<str>>(&self, args: &[S]) -> Result<Finished> {
        let mut cli = self.sdk.command(self.sdk.cli());
        cli.args(args.iter().map(AsRef::as_ref))
            .current_dir(self.folder())
            .envs(self.server.owner_environment())
            // Its settings would be those of whoever runs the tests; its output is folded to the width.
            .env("HOME", self.folder())
            .env("COLUMNS", "10000")
            .env("NO_COLOR", "1");
        let name = args
            .iter()
            .map(AsRef::as_ref)
            .take(4)
            .collect::<Vec<_>>()
            .join(" ");
        run_to_end(cli, &self.logs, &format!("cli {name}"))
    }

    /// What a new participant of this SDK finds at the path.
    pub(crate) fn look(&self, script: Script, room: &str, path: &str) -> Result<Value> {
        let mut client = self.client(script, room, "looker")?;
        let view = client.call("open", &json!({ "path": path, "create": false }))?;
        client.call("disconnect", &json!({}))?;
        Ok(canonical(&view))
    }

    /// What the server itself says is at the path.
    pub(crate) fn describe(&self, room: &str, path: &str) -> Result<Value> {
        let mut client = self.client(Script::NodeClient, room, "describer")?;
        let view = client.call("describe", &json!({ "path": path }))?;
        client.call("disconnect", &json!({}))?;
        Ok(canonical(&view))
    }
}

/// Succeeded, or an error with what it wrote.
pub(crate) fn succeeded(what: &str, finished: &Finished) -> Result<()> {
    ensure!(
        finished.code == Some(0),
        "{what} ended with code {:?}\nstdout: {}\nstderr: {}",
        finished.code,
        finished.stdout,
        finished.stderr
    );
    Ok(())
}

/// Waits until the client shows this JSON at the path.
pub(crate) fn eventually_shows(client: &mut SdkClient, path: &str, expected: &Value) -> Result<()> {
    let expected = canonical(expected);
    let mut last = Value::Null;
    let name = client.name().to_owned();
    let shown = wait_until(&format!("{name} shows {expected}"), || {
        last = canonical(&client.call("json", &json!({ "path": path }))?);
        Ok((last == expected).then_some(()))
    });
    shown.with_context(|| format!("the last that {name} showed was {last}"))
}

/// One form for what differs between the SDKs without meaning: `3` and `3.0`, how a text without
/// formatting is cut into runs, and the order of keys.
pub(crate) fn canonical(value: &Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64() {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "checked to be an exact integer"
            )]
            Some(float) if float.fract() == 0.0 && float.abs() < 9_007_199_254_740_992.0 => {
                json!(float as i64)
            }
            _ => value.clone(),
        },
        Value::Array(items) => items.iter().map(canonical).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| match (key.as_str(), value) {
                ("delta", Value::Array(runs)) => (key.clone(), canonical_delta(runs)),
                _ => (key.clone(), canonical(value)),
            })
            .collect::<std::collections::BTreeMap<_, _>>()
            .into_iter()
            .collect::<Map<_, _>>()
            .into(),
        _ => value.clone(),
    }
}

fn canonical_delta(runs: &[Value]) -> Value {
    let mut merged: Vec<(String, Value)> = Vec::new();
    for run in runs {
        let text = run["insert"].as_str().unwrap_or_default();
        let attributes = match &run["attributes"] {
            Value::Object(attributes) if !attributes.is_empty() => run["attributes"].clone(),
            _ => Value::Null,
        };
        match merged.last_mut() {
            Some((last, same)) if *same == attributes => last.push_str(text),
            _ if text.is_empty() => {}
            _ => merged.push((text.to_owned(), attributes)),
        }
    }
    let with_attributes = |(text, attributes): (String, Value)| {
        if attributes.is_null() {
            json!({ "insert": text })
        } else {
            json!({ "insert": text, "attributes": attributes })
        }
    };
    merged.into_iter().map(with_attributes).collect()
}

/// The schema of the golden documents: root `doc` (`title`), elements `item` (`s`, `n`, `b`) and `text`.
pub(crate) fn golden_schema() -> Result<Value> {
    Ok(golden_documents()?["about"]["schema"].take())
}

/// An update of the golden documents, base64, that needs nothing before it: one `item` with `s` = "a".
pub(crate) fn golden_update() -> Result<String> {
    let documents = golden_documents()?;
    let update = documents["npm"]["elements"]["steps"][0]["updates"][0].as_str();
    update
        .map(ToOwned::to_owned)
        .context("the first update of the golden documents")
}

fn golden_documents() -> Result<Value> {
    let path = repository_root().join("testdata/vectors/documents.json");
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}
