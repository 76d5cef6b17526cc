//! The published npm SDK as the client, unmodified: it waits for each answer, and sends back what it receives.

use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::servers::peers::{Running, Tools};

/// What its clients reached together.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    /// Updates that were seen by a neighbour, per second.
    pub updates_per_second: f64,
    /// From the change to the neighbour's view, milliseconds.
    pub p50: f64,
    /// Likewise.
    pub p99: f64,
}

/// Has so many clients write one document for some seconds.
///
/// # Errors
/// When one of them fails.
pub fn measure(
    tools: &Tools,
    running: &Running,
    clients: usize,
    seconds: u64,
) -> Result<Published> {
    let mut command: Command = tools.published(running);
    command.args([clients.to_string(), seconds.to_string()]);
    let output = command.output().context("running the clients")?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "the clients failed: {said}");
    // The SDK has its own to say before.
    let printed = String::from_utf8_lossy(&output.stdout);
    let line = printed.lines().last().unwrap_or_default();
    let found: Value = serde_json::from_str(line)
        .with_context(|| format!("what they print: {printed}, {said}"))?;
    let number = |name: &str| found[name].as_f64().context("a number is missing");
    Ok(Published {
        updates_per_second: number("per_second")?,
        p50: number("p50")?,
        p99: number("p99")?,
    })
}
