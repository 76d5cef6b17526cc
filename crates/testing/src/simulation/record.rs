//! What must not be lost: everything that was acknowledged or seen, held against what the store has.

use std::collections::{BTreeMap, BTreeSet};

use meshagent_document::{DecodeError, Limits, MeshDocument, UpdateKind, fit_update};
use meshagent_server::simulation::SimServer;
use meshagent_store::{DocumentId, Store, StoredDocument};

use super::board;
use super::roaming::Roamers;

/// How many refused updates are kept to be looked for in the end.
const KEPT_REFUSED: usize = 128;

/// A document by its room and its path.
pub(super) type Place = (String, String);

/// What the server has promised in a run.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// Of each document all that anybody saw, or was told that it arrived.
    promised: BTreeMap<Place, MeshDocument>,
    /// Replicas that may not write: nothing of theirs may get in.
    intruders: BTreeSet<u64>,
    refused: Vec<(Place, Vec<u8>)>,
    /// The client ids that our own clients write with, for those who take them.
    pub(super) ours: BTreeMap<Place, u64>,
    /// Of each document, by client, what its patches have set.
    seals: BTreeMap<Place, BTreeMap<u64, Seal>>,
    /// Of documents that do not stay where they are.
    pub(super) roamers: Roamers,
}

/// What one client's patches of a document have come to.
#[derive(Debug, Default)]
struct Seal {
    acknowledged: u64,
    /// Those that nobody knows the fate of.
    open: BTreeSet<u64>,
}

impl Record {
    /// Somebody saw this, or was told that it is safe.
    pub(super) fn promise(&mut self, place: &Place, update: &[u8]) -> Result<(), String> {
        if update.is_empty() {
            return Ok(());
        }
        let promised = self
            .promised
            .entry(place.clone())
            .or_insert_with(|| board::lax(1));
        take(promised, update)
            .map_err(|error| format!("{place:?}: what is promised is not an update: {error}"))
    }

    /// How many operations of each client were promised so far.
    pub(super) fn clocks(&self, place: &Place) -> BTreeMap<u64, u64> {
        let promised = self.promised.get(place);
        promised
            .into_iter()
            .flat_map(MeshDocument::clocks)
            .collect()
    }

    /// Nothing of this replica may be kept.
    pub(super) fn forbid(&mut self, client_id: u64) {
        self.intruders.insert(client_id);
    }

    /// This was refused, and may not be kept for later either.
    pub(super) fn refuse(&mut self, place: &Place, update: &[u8]) {
        // One that only deletes begins with no operations; others may delete the same.
        if self.refused.len() < KEPT_REFUSED && update.first() != Some(&0) {
            self.refused.push((place.clone(), update.to_vec()));
        }
    }

    /// A patch was sent that may be applied.
    pub(super) fn seal_sent(&mut self, place: &Place, client: u64, number: u64) {
        self.seal(place, client).open.insert(number);
    }

    /// It was answered: it is safe, or it was not done.
    pub(super) fn seal_answered(&mut self, place: &Place, client: u64, number: u64, applied: bool) {
        let seal = self.seal(place, client);
        seal.open.remove(&number);
        if applied {
            seal.acknowledged = number;
        }
    }

    fn seal(&mut self, place: &Place, client: u64) -> &mut Seal {
        let seals = self.seals.entry(place.clone()).or_default();
        seals.entry(client).or_default()
    }

    /// Each client's last patch is there, and none that was refused.
    fn check_seals(&self, store: &dyn Store) -> Result<(), String> {
        for (place, seals) in &self.seals {
            let stored = load(store, place)?;
            for (client, seal) in seals {
                let number = stored
                    .as_ref()
                    .map_or(0, |document| board::seal(document, *client));
                if number != seal.acknowledged && !seal.open.contains(&number) {
                    return Err(format!(
                        "{place:?} shows patch {number} of client {client}, and should show {seal:?}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Compares with what a server would load now.
    pub(super) fn check(&self, store: &dyn Store) -> Result<(), String> {
        self.check_seals(store)?;
        self.roamers.check(store)?;
        for (place, promised) in &self.promised {
            let mut stored = load(store, place)?
                .ok_or_else(|| format!("{place:?} is gone, and somebody has seen it"))?;
            self.check_refused(store, place, &stored)?;
            holds(&mut stored, promised).map_err(|error| format!("{place:?} {error}"))?;
            let intruder = clients(&stored.state_vector())
                .into_iter()
                .find(|client| self.intruders.contains(client));
            if let Some(client) = intruder {
                return Err(format!(
                    "{place:?} holds edits of {client}, who may not write"
                ));
            }
        }
        Ok(())
    }

    /// What was refused is neither visible nor kept for later.
    fn check_refused(
        &self,
        store: &dyn Store,
        place: &Place,
        stored: &MeshDocument,
    ) -> Result<(), String> {
        for (_, update) in self.refused.iter().filter(|(of, _)| of == place) {
            let failed = |error| format!("{place:?}: {error}");
            let is_kept = match stored.classify(update).map_err(failed)? {
                UpdateKind::New | UpdateKind::Conflict => false,
                UpdateKind::Empty | UpdateKind::Contained => true,
                UpdateKind::Gap => {
                    let Some(mut stored) = load(store, place)? else {
                        continue;
                    };
                    let before = (stored.state_vector(), stored.encode_pending());
                    stored.apply_update(update).map_err(failed)?;
                    before == (stored.state_vector(), stored.encode_pending())
                }
            };
            if is_kept {
                return Err(format!("{place:?} has kept an update that was refused"));
            }
        }
        Ok(())
    }
}

/// Applies an update as the server takes it: without the kinds of content that not every reader takes.
pub(super) fn take(replica: &mut MeshDocument, update: &[u8]) -> Result<(), DecodeError> {
    let Err(error) = replica.apply_update(update) else {
        return Ok(());
    };
    let fitted = fit_update(update, &Limits::NONE).map_err(|_| error)?;
    replica.apply_update(&fitted.update).map(drop)
}

/// Whether something of an update is not kept for that reason, which its sender has to be told.
pub(super) fn is_fitted(update: &[u8]) -> bool {
    fit_update(update, &Limits::NONE).is_ok_and(|fitted| fitted.removed.total() > 0)
}

/// Whether a stored document has all that was promised of it, and keeps its schema.
pub(super) fn holds(stored: &mut MeshDocument, promised: &MeshDocument) -> Result<(), String> {
    let unreadable = |error| format!("cannot be compared: {error}");
    let kind = stored
        .classify(&promised.encode_state())
        .map_err(unreadable)?;
    if !matches!(kind, UpdateKind::Contained | UpdateKind::Empty) {
        return Err(format!(
            "has lost something that was seen or acknowledged ({kind:?})\npromised {}\nstored   {}",
            promised.to_json(true),
            stored.to_json(true),
        ));
    }
    if let Some(pending) = promised.encode_pending() {
        let before = (stored.state_vector(), stored.encode_pending());
        stored.apply_update(&pending).map_err(unreadable)?;
        if before != (stored.state_vector(), stored.encode_pending()) {
            return Err("has lost an acknowledged update that waits for an earlier one".to_owned());
        }
    }
    let violations = stored.violations();
    if !violations.is_empty() {
        return Err(format!("is stored with {violations:?}"));
    }
    Ok(())
}

/// A document as a server would load it.
pub(super) fn load(store: &dyn Store, place: &Place) -> Result<Option<MeshDocument>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{place:?} cannot be loaded: {error}");
    let room = SimServer::room_id(&place.0);
    let stored = store
        .load(&room, &place.1)
        .map_err(|error| failed(&error))?;
    stored
        .map(|stored| replay(&stored).map_err(|error| failed(&error)))
        .transpose()
}

/// What the store refused alone, it must not get in another way: right afterwards it is not there.
pub(super) fn is_absent(
    store: &dyn Store,
    document: DocumentId,
    update: &[u8],
) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("{document} cannot be loaded: {error}");
    let stored = store.load_by_id(document).map_err(|error| failed(&error))?;
    // One that only deletes begins with no operations; others may delete the same.
    let Some(stored) = stored.filter(|_| update.first() != Some(&0)) else {
        return Ok(());
    };
    let replica = replay(&stored).map_err(|error| failed(&error))?;
    match replica.classify(update) {
        Ok(UpdateKind::Contained) => Err(format!("document {document} has what was refused")),
        Ok(_) => Ok(()),
        Err(error) => Err(failed(&error)),
    }
}

fn replay(stored: &StoredDocument) -> Result<MeshDocument, String> {
    let schema = board::parse_schema(&stored.schema)?;
    let mut document = MeshDocument::with_limits(schema, 1, Limits::NONE);
    let updates = stored.updates.iter().map(|stored| &stored.update);
    for update in stored.snapshot.iter().chain(updates) {
        if !update.is_empty() {
            document
                .apply_update(update)
                .map_err(|error| error.to_string())?;
        }
    }
    Ok(document)
}

/// The clients of a state vector.
fn clients(vector: &[u8]) -> Vec<u64> {
    let mut bytes = vector.iter().copied();
    let mut number = || {
        let (mut value, mut shift) = (0, 0);
        for byte in bytes.by_ref() {
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
        }
        value
    };
    let count = number();
    (0..count)
        .map(|_| {
            let client = number();
            number();
            client
        })
        .collect()
}
