//! Start: from the command to the first answer, with an empty store and with a full one.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use meshagent_store::{RoomId, Store as _, Timestamp, Write, Written};
use meshagent_store_sqlite::{Options, SqliteStore};

use crate::servers::peers::{self, Peer, Tools};
use crate::servers::stage;
use crate::servers::workload;

/// Stores `documents` documents in our server's data folder.
///
/// # Errors
/// When the store refuses a document.
pub fn fill(data: &Path, documents: usize) -> Result<()> {
    const BATCH: usize = 1000;
    let state = workload::base(1)?;
    let store = SqliteStore::open(data, Options::default())?;
    let project = peers::project()?;
    for first in (0..documents).step_by(BATCH) {
        let creations: Vec<Write> = (first..documents.min(first + BATCH))
            .map(|number| Write::CreateDocument {
                room: RoomId::new(project.as_str(), format!("room-{}", number / 100)),
                path: format!("{number}.document"),
                schema: "{}".to_owned(),
                state: state.clone(),
                contributions: Vec::new(),
                at: Timestamp(0),
            })
            .collect();
        for result in store.commit(&creations)? {
            if !matches!(result?, Written::Created { .. }) {
                bail!("the store did not create a document");
            }
        }
    }
    Ok(())
}

/// Starts a server, and returns the time until its first answer.
///
/// # Errors
/// When the server does not start.
pub fn measure(tools: &Tools, peer: Peer, data: &Path) -> Result<Duration> {
    let began = Instant::now();
    let started = stage::start(tools, peer, data)?;
    let took = began.elapsed();
    drop(started);
    Ok(took)
}
