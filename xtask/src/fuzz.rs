//! Runs the fuzz targets of `crates/*/fuzz`, each for some time.
//!
//! The seeds come from the published SDKs (`testdata/vectors`) and from earlier runs
//! (`target/fuzz/corpus`).

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

/// The default time of each target.
const SECONDS: u64 = 60;

/// The time of each target in CI.
const SHORT_SECONDS: u64 = 10;

/// The time that a target may take in addition, to start and to end.
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
    let mut targets = targets()?;
    for name in wanted {
        let names: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
        ensure!(
            names.contains(name),
            "there is no fuzz target {name:?}; there are {}\n{USAGE}",
            names.join(", ")
        );
    }
    if let Some(missing) = missing_tool() {
        bail!("{missing}");
    }
    targets.retain(|target| wanted.is_empty() || wanted.contains(&target.name.as_str()));
    run_targets(&targets, seconds)
}

/// Runs all targets for a short time, if the tools are installed.
pub(crate) fn fuzz_shortly() -> Result<()> {
    if let Some(missing) = missing_tool() {
        println!("xtask: FUZZING IS SKIPPED: {missing}");
        return Ok(());
    }
    run_targets(&targets()?, SHORT_SECONDS)
}

/// Returns which tool is missing, and how to install it.
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

fn run_targets(targets: &[Target], seconds: u64) -> Result<()> {
    let directory = target_dir().join("fuzz");
    // All targets are built before the first one runs, so that no build counts as running time.
    for of_one_crate in targets.chunk_by(|one, next| one.fuzz_dir == next.fuzz_dir) {
        let mut build = cargo_fuzz("build", &of_one_crate[0], &directory);
        if let [only] = of_one_crate {
            build.arg(&only.name);
        }
        run(build, BUILD_LIMIT)?;
    }
    for target in targets {
        let corpus = directory.join("corpus").join(&target.name);
        let seeds = directory.join("seeds").join(&target.name);
        fs::create_dir_all(&corpus)?;
        write_seeds(&target.name, &seeds)?;
        let mut fuzz = cargo_fuzz("run", target, &directory);
        fuzz.arg(&target.name)
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

/// Returns `cargo fuzz` with the nightly compiler, whichever compiler runs this program.
fn cargo_fuzz(subcommand: &str, target: &Target, directory: &Path) -> Command {
    let mut command = Command::new("rustup");
    command
        .args(["run", "nightly", "cargo", "fuzz", subcommand])
        .arg("--fuzz-dir")
        .arg(&target.fuzz_dir)
        .arg("--target-dir")
        .arg(directory.join("build"))
        .current_dir(workspace_root());
    command
}

/// A fuzz target, with the directory of its package.
struct Target {
    fuzz_dir: PathBuf,
    name: String,
}

/// Returns all targets, by crate and name.
fn targets() -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for entry in fs::read_dir(workspace_root().join("crates"))? {
        let fuzz_dir = entry?.path().join("fuzz");
        let sources = fuzz_dir.join("fuzz_targets");
        if !sources.is_dir() {
            continue;
        }
        for entry in fs::read_dir(sources)? {
            let path = entry?.path();
            if let Some(name) = path.file_stem().and_then(|name| name.to_str()) {
                targets.push(Target {
                    fuzz_dir: fuzz_dir.clone(),
                    name: name.to_owned(),
                });
            }
        }
    }
    targets.sort_by(|a, b| (&a.fuzz_dir, &a.name).cmp(&(&b.fuzz_dir, &b.name)));
    Ok(targets)
}

/// A seed of a target.
fn write_seeds(target: &str, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    let seeds = match target {
        "apply_update" => updates()?,
        "gate" => updates_by_sender()?,
        "json_patch" => patches(),
        "message" => messages()?,
        "packet" => packets()?,
        "schema_json" => schemas()?,
        "token" => tokens()?,
        // This target's input has no format that a seed could have.
        _ => Vec::new(),
    };
    for (index, seed) in seeds.iter().enumerate() {
        fs::write(directory.join(format!("{index:03}")), seed)?;
    }
    Ok(())
}

/// Returns the updates of the SDKs, each alone, and all of a document with their lengths.
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

/// Returns the same updates from a writer, or all except the first from a participant that may not
/// write.
fn updates_by_sender() -> Result<Vec<Vec<u8>>> {
    let mut seeds = Vec::new();
    for updates in updates()? {
        for later_sender in [0, 1] {
            let (mut seed, mut sender, mut rest) = (Vec::new(), 0, &updates[..]);
            while let Some(length) = rest.first_chunk() {
                let length = 2 + usize::from(u16::from_le_bytes(*length));
                let (update, later) = rest.split_at_checked(length).context("a whole update")?;
                seed.push(sender);
                seed.extend_from_slice(update);
                (sender, rest) = (later_sender, later);
            }
            seeds.push(seed);
        }
    }
    Ok(seeds)
}

/// Returns a patch for each operation.
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

/// Returns schemas as the SDKs print them.
fn schemas() -> Result<Vec<Vec<u8>>> {
    let vectors = vectors("schemas.json")?;
    let mut seeds = Vec::new();
    for sdk in ["python", "npm_round_trip"] {
        let schemas = vectors[sdk].as_object().context("schemas by name")?;
        seeds.extend(schemas.values().map(|schema| schema.to_string().into()));
    }
    Ok(seeds)
}

/// Returns each content of the SDKs: in a call, in a chunk of both directions, and in an answer.
fn messages() -> Result<Vec<Vec<u8>>> {
    let vectors = vectors("contents.json")?;
    let mut seeds = Vec::new();
    for sdk in ["python", "npm"] {
        for packed in vectors[sdk]
            .as_object()
            .context("contents by name")?
            .values()
        {
            let packed = hex(packed)?;
            let (length, rest) = packed.split_first_chunk().context("a length")?;
            let (header, payload) = rest.split_at(u64::from_be_bytes(*length).try_into()?);
            let header: Value = serde_json::from_slice(header)?;
            let call = json!({"toolkit": "sync", "tool": "open", "tool_call_id": "c", "arguments": header});
            let chunk = json!({"tool_call_id": "c", "chunk": header});
            for (kind, header) in [(0, &call), (1, &chunk), (7, &header), (8, &chunk)] {
                let header = header.to_string();
                seeds.push([&[kind, 1][..], header.as_bytes(), &[0], payload].concat());
            }
        }
    }
    // The other types, by their number in the target.
    for (kind, header) in [
        (2, json!({"name": "ann"})),
        (3, json!({})),
        (
            4,
            json!({"room_name": "r", "room_url": "ws://h/rooms/r", "session_id": "s"}),
        ),
        (
            5,
            json!({"type": "init", "participantId": "p", "attributes": {"name": "ann"}}),
        ),
        (
            6,
            json!({"status": "ready", "message": "the room is ready"}),
        ),
        (
            9,
            json!({"from_participant_id": "p", "type": "t", "message": {"a": 1}}),
        ),
        (10, json!({"path": "a.document", "participant_id": "p"})),
        (
            12,
            json!({"source_path": "a", "destination_path": "b", "participant_id": "p"}),
        ),
    ] {
        seeds.push([&[kind, 1][..], header.to_string().as_bytes()].concat());
    }
    // The inputs of the tools of `sync` and `storage`.
    for arguments in [
        json!({"type": "json", "json": {"path": "a.document", "json": {"document": {}}, "schema": null}}),
        json!({"type": "binary", "headers": {"kind": "start", "path": "a", "create": true, "vector": "AA==", "chunk_size": 9}}),
        json!({"type": "json", "json": {"path": "a", "recursive": true, "source_path": "a", "destination_path": "b"}}),
        json!({"type": "json", "json": {"to_participant_id": "p", "type": "t", "message": {}}}),
    ] {
        let call = json!({"toolkit": "sync", "tool": "create", "arguments": arguments});
        seeds.push([&[0, 1][..], call.to_string().as_bytes()].concat());
    }
    Ok(seeds)
}

/// Returns messages in the SDKs' packets, each packet after a zero and its length.
fn packets() -> Result<Vec<Vec<u8>>> {
    let vectors = vectors("packets.json")?;
    let mut seeds = Vec::new();
    for sdk in ["python", "npm"] {
        for packets in vectors[sdk]
            .as_object()
            .context("packets by size")?
            .values()
        {
            let mut seed = Vec::new();
            for packet in packets.as_array().context("packets")? {
                let packet = hex(packet)?;
                seed.push(0);
                seed.extend(u16::try_from(packet.len())?.to_le_bytes());
                seed.extend(packet);
            }
            seeds.push(seed);
        }
    }
    Ok(seeds)
}

/// Returns the SDKs' claims, which the target signs, and their tokens unchanged.
fn tokens() -> Result<Vec<Vec<u8>>> {
    let vectors = vectors("tokens.json")?;
    let npm = vectors["npm"]["tokens"].as_object();
    let python = vectors["python"].as_object();
    let mut seeds = vec![b"\x01\x00\x05A\x04\x00\x01\x04\x00\x03\x0a\x00\x04".to_vec()];
    for case in [npm, python] {
        for case in case.context("tokens by name")?.values() {
            for text in case.as_object().into_iter().flatten() {
                let (form, text) = match text {
                    (_, Value::String(jwt)) => (0, jwt.clone()),
                    (_, claims) => (2, claims.to_string()),
                };
                seeds.push([&[form], text.as_bytes()].concat());
                if form == 2 {
                    let with_header = format!("{{\"alg\":\"HS256\",\"crit\":[]}}\n{text}");
                    seeds.push([&[3], with_header.as_bytes()].concat());
                }
            }
        }
    }
    Ok(seeds)
}

fn hex(text: &Value) -> Result<Vec<u8>> {
    let text = text.as_str().context("hex is text")?.as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).context("a hex digit");
    text.chunks(2)
        .map(|pair| match pair {
            [high, low] => Ok(u8::try_from(digit(*high)? * 16 + digit(*low)?)?),
            _ => bail!("hex digits come in pairs"),
        })
        .collect()
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
        assert_eq!(
            updates_by_sender().unwrap().len(),
            2 * updates().unwrap().len()
        );
        assert!(schemas().unwrap().len() > 5);
        assert_eq!(patches().len(), 8);
        assert!(messages().unwrap().len() > 50);
        assert_eq!(packets().unwrap().len(), 10);
        assert!(tokens().unwrap().len() > 10);
        let targets = targets().unwrap();
        for name in ["apply_update", "gate", "packet"] {
            assert!(targets.iter().any(|target| target.name == name), "{name}");
        }
    }
}
