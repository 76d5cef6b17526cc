//! The participants that only read. The server must not show them a document that breaks its
//! schema.

use meshagent_document::Violations;

use super::document::Replica;
use crate::simulation::trace::Totals;

/// Checks that a document that a reader was shown matches its schema.
pub(super) fn check_shown(
    name: &str,
    replica: &mut Replica,
    totals: &mut Totals,
) -> Result<(), String> {
    totals.add("chunks witnessed", 1);
    let violations = match replica {
        Replica::Plain(replica) => replica.violations(),
        Replica::Ours(_) => Violations::default(),
    };
    if violations.is_empty() {
        return Ok(());
    }
    Err(format!("{name}: was shown a document with {violations:?}"))
}
