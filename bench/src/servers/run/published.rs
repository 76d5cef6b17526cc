//! The published SDK: its table.

use anyhow::Result;
use tempfile::TempDir;

use super::{Outcome, Plan};
use crate::servers::peers::{Peer, Tools};
use crate::servers::report::{Figure, Unit};
use crate::servers::scenario::published;
use crate::servers::stage;

pub(super) fn published(plan: &Plan, tools: &Tools, outcome: &mut Outcome) -> Result<()> {
    let (clients, seconds) = plan.sized((10, 5), (2, 1));
    if !plan.peers.contains(&Peer::Ours) {
        return Ok(());
    }
    // The clients run on the same Node as the other servers.
    Peer::Hocuspocus.install(tools)?;
    let title = format!("Published: {clients} clients of the npm SDK on one document");
    let table = outcome.table("published", title);
    for _ in 0..plan.runs() {
        let data = TempDir::new()?;
        let (running, _) = stage::start(tools, Peer::Ours, data.path())?;
        let found = published::measure(tools, &running, clients, seconds)?;
        for (name, unit, value) in [
            (
                "updates seen per second",
                Unit::PerSecond,
                found.updates_per_second,
            ),
            (
                "p50 until a neighbour shows it",
                Unit::Milliseconds,
                found.p50,
            ),
            ("p99", Unit::Milliseconds, found.p99),
        ] {
            table.add(Peer::Ours, Figure::new(name, unit), value);
        }
    }
    Ok(())
}
