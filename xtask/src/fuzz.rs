//! Feeds the fuzz targets of `crates/document/fuzz`, each for a while. They begin with what the published
//! SDKs wrote (`testdata/vectors`) and with what earlier runs found (`target/fuzz/corpus`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::process::{capture, run};
use crate::{BUILD_LIMIT, target_dir, workspace_root};

/// How long each target runs if nobody says otherwise.
const SECONDS: u64 = 60;

/// How long each target runs among all other checks.
const SHORT_SECONDS: u64 = 15;

/// How much longer than it is told a target may take, to start and to end.
const GRACE: Duration = Duration::from_mins(2);

const USAGE: &str = "usage: cargo xtask fuzz [--seconds N] [TARGET...]";

pub(crate) fn fuzz(arguments: &[&str]) -> Result<()> {
    let (seconds, wanted) = match arguments {
        ["--seconds", seconds, wanted @ ..] => {
            let seconds = seconds.parse();
            let seconds = seconds.with_context(|| format!("--seconds takes a number\n{USAGE}"))?;
            (seconds, wanted)
        }
        wanted => (SECONDS, wanted),
    };
    let targets = targets()?;
    for name in wanted {
        ensure!(
            targets.iter().any(|target| target == name),
            "there is no fuzz target {name:?}; there are {}\n{USAGE}",
            targets.join(", ")
        );
    }
    if let Some(missing) = missing_tool() {
        bail!("{missing}");
    }
    let is_wanted = |target: &&String| wanted.is_empty() || wanted.contains(&target.as_str());
    let targets: Vec<&String> = targets.iter().filter(is_wanted).collect();
    run_targets(&targets, seconds)
}

/// A look in passing, where the tools are there.
pub(crate) fn fuzz_shortly() -> Result<()> {
    if let Some(missing) = missing_tool() {
        println!("xtask: FUZZING IS SKIPPED: {missing}");
        return Ok(());
    }
    run_targets(&targets()?.iter().collect::<Vec<_>>(), SHORT_SECONDS)
}

/// What has to be installed first, if something has to.
fn missing_tool() -> Option<&'static str> {
    if capture("rustup", &["run", "nightly", "rustc", "--version"]).is_err() {
        return Some(
            "there is no nightly compiler; `rustup toolchain install nightly --profile minimal`",
        );
    }
    if capture("rustup", &["run", "nightly", "cargo", "fuzz", "--version"]).is_err() {
        return Some("there is no cargo-fuzz; `cargo install --locked cargo-fuzz`");
    }
    None
}

fn run_targets(targets: &[&String], seconds: u64) -> Result<()> {
    let directory = target_dir().join("fuzz");
    // All are built before the first runs, so that building takes nobody's time.
    let mut build = cargo_fuzz("build", &directory);
    if let [only] = targets {
        build.arg(only);
    }
    run(build, BUILD_LIMIT)?;
    for target in targets {
        let corpus = directory.join("corpus").join(target);
        let seeds = directory.join("seeds").join(target);
        fs::create_dir_all(&corpus)?;
        write_seeds(target, &seeds)?;
        let mut fuzz = cargo_fuzz("run", &directory);
        fuzz.arg(target)
            .arg(corpus)
            .arg(seeds)
            .arg("--")
            .arg(format!("-max_total_time={seconds}"))
            .args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"])
            .args(["-verbosity=0", "-print_funcs=0"]);
        run(fuzz, Duration::from_secs(seconds) + GRACE)?;
    }
    Ok(())
}

/// `cargo fuzz` by the nightly compiler, whichever compiler runs this.
fn cargo_fuzz(subcommand: &str, directory: &Path) -> Command {
    let mut command = Command::new("rustup");
    command
        .args(["run", "nightly", "cargo", "fuzz", subcommand])
        .arg("--fuzz-dir")
        .arg(fuzz_dir())
        .arg("--target-dir")
        .arg(directory.join("build"))
        .current_dir(workspace_root());
    command
}

fn fuzz_dir() -> PathBuf {
    workspace_root().join("crates/document/fuzz")
}

/// The names of all targets.
fn targets() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(fuzz_dir().join("fuzz_targets"))? {
        let path = entry?.path();
        if let Some(name) = path.file_stem().and_then(|name| name.to_str()) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Something for a target to begin with.
fn write_seeds(target: &str, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    let seeds = match target {
        "apply_update" => updates()?,
        "json_patch" => patches(),
        "schema_json" => schemas()?,
        // It takes numbers and texts in no form that could be prepared.
        _ => Vec::new(),
    };
    for (index, seed) in seeds.iter().enumerate() {
        fs::write(directory.join(format!("{index:03}")), seed)?;
    }
    Ok(())
}

/// What the SDKs sent: one by one, and all that led to a document, each behind its length.
fn updates() -> Result<Vec<Vec<u8>>> {
    let vectors = vectors("documents.json")?;
    let with_length = |update: &Value| -> Result<Vec<u8>> {
        let update = update.as_str().context("updates are base64")?;
        let update = STANDARD.decode(update)?;
        let length = u16::try_from(update.len())?.to_le_bytes();
        Ok([&length[..], &update].concat())
    };
    let mut seeds = Vec::new();
    for (sdk, name) in [
        ("python", "elements"),
        ("python", "text"),
        ("npm", "elements"),
        ("npm", "text"),
    ] {
        let case = &vectors[sdk][name];
        let mut all = Vec::new();
        for step in case["steps"].as_array().context("steps")? {
            for update in step["updates"].as_array().context("updates")? {
                let update = with_length(update)?;
                all.extend_from_slice(&update);
                seeds.push(update);
            }
        }
        seeds.push(all);
        seeds.push(with_length(&case["state"])?);
    }
    Ok(seeds)
}

/// One patch for each operation.
fn patches() -> Vec<Vec<u8>> {
    let body = "/document/content/1/body";
    let patches = json!([
        [{"op": "add", "path": "/document/content/-", "value": {"heading": {"text": "x"}}}],
        [{"op": "add", "path": "/document/content/0", "value": {"body": {"text": null}}}],
        [{"op": "replace", "path": format!("{body}/text"), "value": "y"}],
        [{"op": "replace", "path": "/document/content", "value": []}],
        [{"op": "remove", "path": "/document/content/2"}, {"op": "remove", "path": format!("{body}/text")}],
        [{"op": "move", "from": "/document/content/0", "path": "/document/content/2"}],
        [{"op": "copy", "from": "/document/content/1", "path": "/document/content/0"}],
        [{"op": "test", "path": format!("{body}/text"), "value": "b"}, {"op": "replace", "path": "", "value": {"document": {}}}],
    ]);
    let patches = patches.as_array().into_iter().flatten();
    patches.map(|patch| patch.to_string().into()).collect()
}

/// Schemas as the SDKs print them.
fn schemas() -> Result<Vec<Vec<u8>>> {
    let vectors = vectors("schemas.json")?;
    let mut seeds = Vec::new();
    for sdk in ["python", "npm_round_trip"] {
        let schemas = vectors[sdk].as_object().context("schemas by name")?;
        seeds.extend(schemas.values().map(|schema| schema.to_string().into()));
    }
    Ok(seeds)
}

fn vectors(name: &str) -> Result<Value> {
    let path = workspace_root().join("testdata/vectors").join(name);
    let json = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(serde_json::from_slice(&json)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_something_to_begin_with() {
        assert!(updates().unwrap().len() > 20);
        assert!(schemas().unwrap().len() > 5);
        assert_eq!(patches().len(), 8);
        assert!(targets().unwrap().contains(&"apply_update".to_owned()));
    }
}
