//! The record of everything that was acknowledged or shown, for comparison with the store.

use std::collections::{BTreeMap, BTreeSet};

use meshagent_document::{DecodeError, Limits, MeshDocument, UpdateKind, fit_update};
use meshagent_server::simulation::SimServer;
use meshagent_store::{DocumentId, Store, StoredDocument};

use super::board;
use super::roaming::Roamers;

/// How many refused updates are kept for the check that the store does not have them.
const KEPT_REFUSED: usize = 128;

/// The place of a document: its room and its path.
pub(super) type Place = (String, String);

/// The promises of the server in a run.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// For each document, everything that was shown to a client or acknowledged.
    promised: BTreeMap<Place, MeshDocument>,
    /// The client ids of read-only replicas, from which nothing may be stored.
    intruders: BTreeSet<u64>,
    /// Refused updates, which must not be stored.
    refused: Vec<(Place, Vec<u8>)>,
    /// The client ids of our own clients, for the programs that write under them.
    pub(super) ours: BTreeMap<Place, u64>,
    /// The state of each client's patches, by document.
    seals: BTreeMap<Place, BTreeMap<u64, Seal>>,
    /// The record of roaming documents.
    pub(super) roamers: Roamers,
}

/// The state of one client's patches of a document.
#[derive(Debug, Default)]
struct Seal {
    /// The last acknowledged patch.
    acknowledged: u64,
    /// The patches without an answer.
    open: BTreeSet<u64>,
}

impl Record {
    /// Records that an update was shown to a client or acknowledged.
    pub(super) fn promise(&mut self, place: &Place, update: &[u8]) -> Result<(), String> {
        if update.is_empty() {
            return Ok(());
        }
        let promised = self
            .promised
            .entry(place.clone())
            .or_insert_with(|| board::lax(1));
        apply(promised, update)
            .map_err(|error| format!("{place:?}: a promised update is invalid: {error}"))
    }

    /// The documents of a room of which something is promised.
    pub(super) fn places(&self, room: &str) -> Vec<Place> {
        let places = self.promised.keys();
        places.filter(|place| place.0 == room).cloned().collect()
    }

    /// The number of promised operations so far, by client.
    pub(super) fn clocks(&self, place: &Place) -> BTreeMap<u64, u64> {
        let promised = self.promised.get(place);
        promised
            .into_iter()
            .flat_map(MeshDocument::clocks)
            .collect()
    }

    /// Records that nothing from this client id may be stored.
    pub(super) fn forbid(&mut self, client_id: u64) {
        self.intruders.insert(client_id);
    }

    /// Records that an update was refused. It must not be stored, not even as a pending update.
    pub(super) fn refuse(&mut self, place: &Place, update: &[u8]) {
        // An update that only deletes begins with 0 operations. Others may delete the same content.
        if self.refused.len() < KEPT_REFUSED && update.first() != Some(&0) {
            self.refused.push((place.clone(), update.to_vec()));
        }
    }

    /// Records that a patch was sent that the server may apply.
    pub(super) fn seal_sent(&mut self, place: &Place, client: u64, number: u64) {
        self.seal(place, client).open.insert(number);
    }

    /// Records the answer to a patch: it was applied or refused.
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

    /// Checks that each client's last applied patch is stored, and no refused one.
    fn check_seals(&self, store: &dyn Store) -> Result<(), String> {
        for (place, seals) in &self.seals {
            let stored = load(store, place)?;
            for (client, seal) in seals {
                let number = stored
                    .as_ref()
                    .map_or(0, |document| board::seal(document, *client));
                if number != seal.acknowledged && !seal.open.contains(&number) {
                    return Err(format!(
                        "{place:?} has patch {number} of client {client}, expected one of {seal:?}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Compares the record with what a server would load from the store.
    pub(super) fn check(&self, store: &dyn Store) -> Result<(), String> {
        self.check_seals(store)?;
        self.roamers.check(store)?;
        for (place, promised) in &self.promised {
            let mut stored = load(store, place)?
                .ok_or_else(|| format!("{place:?} is gone, but was shown or acknowledged"))?;
            self.check_refused(store, place, &stored)?;
            check_content(&mut stored, promised).map_err(|error| format!("{place:?} {error}"))?;
            let intruder = clients(&stored.state_vector())
                .into_iter()
                .find(|client| self.intruders.contains(client));
            if let Some(client) = intruder {
                return Err(format!(
                    "{place:?} holds edits of the read-only client {client}"
                ));
            }
        }
        Ok(())
    }

    /// Checks that refused updates are neither applied nor pending.
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
                return Err(format!("{place:?} holds a refused update"));
            }
        }
        Ok(())
    }
}

/// Applies an update as the server does: without content that not every reader supports.
pub(super) fn apply(replica: &mut MeshDocument, update: &[u8]) -> Result<(), DecodeError> {
    let Err(error) = replica.apply_update(update) else {
        return Ok(());
    };
    let fitted = fit_update(update, &Limits::NONE).map_err(|_| error)?;
    replica.apply_update(&fitted.update).map(drop)
}

/// Whether the server drops a part of the update for that reason. It has to report that to the
/// author of the update.
pub(super) fn is_fitted(update: &[u8]) -> bool {
    fit_update(update, &Limits::NONE).is_ok_and(|fitted| fitted.removed.total() > 0)
}

/// Checks that a stored document has everything that was promised, and matches its schema.
pub(super) fn check_content(
    stored: &mut MeshDocument,
    promised: &MeshDocument,
) -> Result<(), String> {
    let unreadable = |error| format!("can't be compared: {error}");
    let kind = stored
        .classify(&promised.encode_state())
        .map_err(unreadable)?;
    if !matches!(kind, UpdateKind::Contained | UpdateKind::Empty) {
        return Err(format!(
            "has lost shown or acknowledged content ({kind:?})\npromised {}\nstored   {}",
            promised.to_json(true),
            stored.to_json(true),
        ));
    }
    if let Some(pending) = promised.encode_pending() {
        let before = (stored.state_vector(), stored.encode_pending());
        stored.apply_update(&pending).map_err(unreadable)?;
        if before != (stored.state_vector(), stored.encode_pending()) {
            return Err(
                "has lost an acknowledged update that is pending on an earlier one".to_owned(),
            );
        }
    }
    let violations = stored.violations();
    if !violations.is_empty() {
        return Err(format!("breaks its schema: {violations:?}"));
    }
    Ok(())
}

/// Loads a document as a server would.
pub(super) fn load(store: &dyn Store, place: &Place) -> Result<Option<MeshDocument>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{place:?} can't be loaded: {error}");
    let room = SimServer::room_id(&place.0);
    let stored = store
        .load(&room, &place.1)
        .map_err(|error| failed(&error))?;
    stored
        .map(|stored| replay(&stored).map_err(|error| failed(&error)))
        .transpose()
}

/// Checks, immediately after the store refused a single update, that the store does not have it.
pub(super) fn check_absent(
    store: &dyn Store,
    document: DocumentId,
    update: &[u8],
) -> Result<(), String> {
    let failed =
        |error: &dyn std::fmt::Display| format!("document {document} can't be loaded: {error}");
    let stored = store.load_by_id(document).map_err(|error| failed(&error))?;
    // An update that only deletes begins with 0 operations. Others may delete the same content.
    let Some(stored) = stored.filter(|_| update.first() != Some(&0)) else {
        return Ok(());
    };
    let replica = replay(&stored).map_err(|error| failed(&error))?;
    match replica.classify(update) {
        Ok(UpdateKind::Contained) => Err(format!("document {document} holds a refused update")),
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

/// The client ids in a state vector.
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
