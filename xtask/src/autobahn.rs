//! The Autobahn suite against the server's WebSocket reader.
//!
//! The suite needs `CPython` 2.7, and is installed once into `target/autobahn`.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::process::{capture, cargo, run};
use crate::{BUILD_LIMIT, target_dir};

const SUITE: &str = "autobahntestsuite==0.8.2";
const LIMIT: Duration = Duration::from_mins(30);

/// The excluded cases: UTF-8 in texts (6), because the server accepts no texts, and compression
/// (12, 13), which it does not offer.
const EXCLUDED: [&str; 3] = ["6.*", "12.*", "13.*"];

/// Runs the suite, and fails if the server is less strict than the RFC in a case.
pub(crate) fn autobahn() -> Result<()> {
    let python = python()?;
    let home = target_dir().join("autobahn");
    let packages = home.join("packages");
    if !packages.join("autobahntestsuite").is_dir() {
        let mut install = Command::new(&python);
        install
            .args(["-m", "pip", "install", "--quiet", "--target"])
            .arg(&packages)
            .arg(SUITE);
        run(install, BUILD_LIMIT)?;
    }
    let build = ["test", "-p", "meshagent-server", "--lib", "--no-run"];
    run(cargo(&build), BUILD_LIMIT)?;

    // A port that is free now needs no agreement.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let mut server = cargo(&["test", "--quiet", "-p", "meshagent-server", "--lib", "--"]);
    server
        .args([
            "--ignored",
            "--exact",
            "websocket::echo::serves_the_autobahn_suite",
        ])
        .env("AUTOBAHN_ADDRESS", &address)
        .stdout(Stdio::null());
    let mut server = server.spawn().context("starting the echo server")?;
    let ran = wait_for(&address).and_then(|()| cases(&python, &packages, &home, &address));
    // The test program is a child of cargo, so no signal from here reaches it.
    let _stopped = capture("pkill", &["-P", &server.id().to_string()]);
    server.kill()?;
    server.wait()?;
    ran?;
    report(&home.join("reports").join("index.json"))
}

fn python() -> Result<PathBuf> {
    let root = std::env::var_os("PYENV_ROOT").map(PathBuf::from);
    let root = root.or_else(|| Some(std::env::home_dir()?.join(".pyenv")));
    let own = root.map(|root| root.join("versions/2.7.18/bin/python"));
    let found = own
        .into_iter()
        .chain([PathBuf::from("python2.7")])
        .find(|python| capture(&python.to_string_lossy(), &["-c", "import pip"]).is_ok());
    found.context("the Autobahn suite runs on CPython 2.7 with pip: install it by pyenv")
}

fn wait_for(address: &str) -> Result<()> {
    for _ in 0..600 {
        if std::net::TcpStream::connect(address).is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    anyhow::bail!("the echo server did not start")
}

fn cases(python: &Path, packages: &Path, home: &Path, address: &str) -> Result<()> {
    let spec = json!({
        "outdir": home.join("reports"),
        "servers": [{ "agent": "meshagent", "url": format!("ws://{address}") }],
        "cases": ["*"],
        "exclude-cases": EXCLUDED,
        "exclude-agent-cases": {},
    });
    let spec_file = home.join("spec.json");
    std::fs::write(&spec_file, spec.to_string())?;
    // Python finds a namespace package only in a site-packages directory.
    let start = "import os, site; site.addsitedir(os.environ['PYTHONPATH']); \
                 from autobahntestsuite.wstest import run; run()";
    let mut suite = Command::new(python);
    suite
        .args(["-c", start])
        .args(["--mode", "fuzzingclient", "--spec"])
        .arg(&spec_file)
        .env("PYTHONPATH", packages)
        .current_dir(home)
        .stdout(Stdio::null());
    run(suite, LIMIT)
}

/// Counts the verdicts, and prints the failed cases.
fn report(index: &Path) -> Result<()> {
    let text = std::fs::read(index).with_context(|| format!("reading {}", index.display()))?;
    let index: Value = serde_json::from_slice(&text)?;
    let cases = index["meshagent"].as_object().context("no cases ran")?;
    let mut verdicts: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (case, result) in cases {
        let verdict = result["behavior"].as_str().unwrap_or_default();
        verdicts.entry(verdict).or_default().push(case);
    }
    for (verdict, cases) in &verdicts {
        println!("xtask: {verdict}: {} cases", cases.len());
        if !matches!(*verdict, "OK" | "INFORMATIONAL") {
            println!("  {}", cases.join(" "));
        }
    }
    let failed = verdicts.get("FAILED").map_or(0, Vec::len);
    ensure!(failed == 0, "{failed} cases failed");
    ensure!(cases.len() > 150, "only {} cases ran", cases.len());
    Ok(())
}
