//! Start: from the command to the first answer, with nothing stored and with very much.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use meshagent_store::{RoomId, Store as _, Timestamp, Write, Written};
use meshagent_store_sqlite::{Options, SqliteStore};

use crate::servers::peers::{self, Peer, Tools};
use crate::servers::stage;
use crate::servers::workload;

/// Puts so many documents where our server will find them.
///
/// # Errors
/// When the store does not take them.
pub fn fill(data: &Path, documents: usize) -> Result<()> {
    const AT_ONCE: usize = 1000;
    let state = workload::base(1)?;
    let store = SqliteStore::open(data, Options::default())?;
    let project = peers::project()?;
    for first in (0..documents).step_by(AT_ONCE) {
        let creations: Vec<Write> = (first..documents.min(first + AT_ONCE))
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
                bail!("a document was not created");
            }
        }
    }
    Ok(())
}

/// Starts a server, and tells when it answered.
///
/// # Errors
/// When it doesn't start.
pub fn measure(tools: &Tools, peer: Peer, data: &Path) -> Result<Duration> {
    let began = Instant::now();
    let started = stage::start(tools, peer, data)?;
    let took = began.elapsed();
    drop(started);
    Ok(took)
}
