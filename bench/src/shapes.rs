//! Updates of Yjs in many shapes and scripts: the cost of applying them here and in Yjs.
//!
//! `node/shapes.cjs` makes the updates and measures Yjs. Its process stays, so that it runs
//! compiled code.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use meshagent_bench::harness::{Comparison, Effort, compare, timed};
use meshagent_document::{MeshDocument, MeshSchema};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::table::{Row, Section};

/// The environment variable with the folder in which Node finds Yjs.
const NODE_PATH: &str = "NODE_PATH";
const SCRIPTS: [&str; 4] = ["ascii", "latin", "chinese", "emoji"];
/// The sizes of a workload; the second one shows the growth.
const SIZES: [u64; 2] = [400, 4_000];
/// The limit of growth beyond tenfold, because trees become deeper and caches are limited.
const LINEAR: f64 = 1.6;

/// Measures each shape in each script, or a part of them if `is_short`.
///
/// # Errors
/// When Node or Yjs is missing, or our library refuses an update of Yjs.
pub(crate) fn measure(effort: Effort, is_short: bool) -> Result<Section> {
    let mut section = Section {
        title: "Updates of Yjs, by shape and script",
        columns: ["ours", "Yjs"],
        rows: Vec::new(),
    };
    let mut yjs = Yjs::start()?;
    let shapes: Vec<String> = yjs.ask(&json!({ "list": true }))?;
    let effort = Effort {
        rounds: effort.rounds.min(5),
        budget: Duration::from_secs(2),
        ..effort
    };
    for shape in &shapes {
        for script in SCRIPTS
            .iter()
            .take(if is_short { 1 } else { SCRIPTS.len() })
        {
            let mut taken = Vec::new();
            for size in SIZES.iter().take(if is_short { 1 } else { SIZES.len() }) {
                let found = yjs.compare(shape, script, *size, effort)?;
                let what = format!("{shape}, {script}, {size}");
                section.rows.push(Row::durations(what, found, Some(1.0)));
                taken.push(found.measured);
            }
            if let [small, large] = taken[..] {
                section.rows.push(Row::growth(
                    format!("{shape}, {script}: tenfold"),
                    [small * 10, large],
                    LINEAR,
                ));
            }
        }
    }
    Ok(section)
}

/// A process that makes workloads and applies them in Yjs.
struct Yjs {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    file: tempfile::NamedTempFile,
}

impl Yjs {
    fn start() -> Result<Self> {
        ensure!(
            std::env::var_os(NODE_PATH).is_some(),
            "{NODE_PATH} is not set: it must name the folder with Yjs; `cargo xtask bench shapes` \
             sets it"
        );
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("node/shapes.cjs");
        let mut child = Command::new("node")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start node")?;
        let stdin = child.stdin.take().context("node has no stdin")?;
        let stdout = BufReader::new(child.stdout.take().context("node has no stdout")?);
        let file = tempfile::NamedTempFile::new()?;
        Ok(Self {
            child,
            stdin,
            stdout,
            file,
        })
    }

    fn ask<T: DeserializeOwned>(&mut self, command: &Value) -> Result<T> {
        writeln!(self.stdin, "{command}")?;
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        serde_json::from_str(&line)
            .with_context(|| format!("invalid answer of node to {command}: {line:?}"))
    }

    fn compare(
        &mut self,
        shape: &str,
        script: &str,
        size: u64,
        effort: Effort,
    ) -> Result<Comparison> {
        let make = json!({ "make": [shape, script, size, self.file.path()] });
        let count: usize = self.ask(&make)?;
        let bytes = std::fs::read(self.file.path())?;
        let updates = updates(&bytes)?;
        ensure!(
            updates.len() == count,
            "the file has {} updates, expected {count}",
            updates.len()
        );
        let schema = schema()?;
        apply(&schema, &updates).with_context(|| format!("{shape}, {script}, {size}"))?;
        let here = || timed(|| apply(&schema, &updates)).0;
        let mut failed = None;
        let there = || match self.ask::<f64>(&json!({ "apply": true })) {
            Ok(seconds) => Duration::from_secs_f64(seconds),
            Err(error) => {
                failed = Some(error);
                Duration::ZERO
            }
        };
        let found = compare(effort, here, there);
        failed.map_or(Ok(found), Err)
    }
}

impl Drop for Yjs {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the schema of the shapes' documents.
fn schema() -> Result<MeshSchema> {
    let golden: Value =
        serde_json::from_str(include_str!("../../testdata/vectors/documents.json"))?;
    Ok(MeshSchema::from_json(&golden["about"]["schema"])?)
}

fn updates(mut bytes: &[u8]) -> Result<Vec<&[u8]>> {
    let mut updates = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let length = usize::try_from(u32::from_le_bytes(*length))?;
        let (update, rest) = rest
            .split_at_checked(length)
            .context("the file with updates is truncated")?;
        updates.push(update);
        bytes = rest;
    }
    Ok(updates)
}

/// Applies updates as a room does, with a repair of schema violations after each.
fn apply(schema: &MeshSchema, updates: &[&[u8]]) -> Result<MeshDocument> {
    let mut document = MeshDocument::new(schema.clone(), 1 << 40);
    for update in updates {
        document.apply_update(update)?;
        document.repair();
    }
    ensure!(!document.has_gap(), "an update has missing operations");
    Ok(document)
}
