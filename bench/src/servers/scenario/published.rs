//! The published npm SDK as the client, unmodified: it waits for each answer and echoes updates.

use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::servers::peers::{Running, Tools};

/// The figures of all clients together.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    /// The updates per second that a neighbour has shown.
    pub updates_per_second: f64,
    /// The median time from the change to the neighbour's view, in milliseconds.
    pub p50: f64,
    /// The 99th percentile of the same time, in milliseconds.
    pub p99: f64,
}

/// Lets the clients write one document for some seconds.
///
/// # Errors
/// When a client fails.
pub fn measure(
    tools: &Tools,
    running: &Running,
    clients: usize,
    seconds: u64,
) -> Result<Published> {
    let mut command: Command = tools.published(running);
    command.args([clients.to_string(), seconds.to_string()]);
    let output = command.output().context("cannot run the clients")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "the clients failed: {errors}");
    // The SDK prints lines of its own first.
    let printed = String::from_utf8_lossy(&output.stdout);
    let line = printed.lines().last().unwrap_or_default();
    let found: Value = serde_json::from_str(line)
        .with_context(|| format!("the clients' output is not valid: {printed}, {errors}"))?;
    let number = |name: &str| {
        found[name]
            .as_f64()
            .with_context(|| format!("the clients' output lacks {name:?}: {line}"))
    };
    Ok(Published {
        updates_per_second: number("per_second")?,
        p50: number("p50")?,
        p99: number("p99")?,
    })
}
