//! Deletions on a full disk: they are committed even if the rest of their batch finds no space.

use std::sync::Arc;

use meshagent_store::{AsyncStore, StoreError, Write, WriteError};

use super::{BatchResult, Owner, commit_alone};
use crate::metrics::Metrics;

/// If the disk is full, commits the deletions of a batch without the rest: otherwise a busy room
/// could never free space. A deletion after a move is not committed, as it refers to the result of
/// the move.
pub(super) fn or_deletions(
    store: &dyn AsyncStore,
    owner: &Arc<Owner>,
    writes: &[Write],
    result: BatchResult,
    metrics: &Metrics,
) -> BatchResult {
    if !matches!(&result, Err(error) if matches!(**error, StoreError::Full(_))) {
        return result;
    }
    let is_deletion = |write: &&Write| matches!(write, Write::Delete { .. });
    let is_move = |write: &Write| matches!(write, Write::Move { .. });
    let before_moves = writes.iter().position(is_move).unwrap_or(writes.len());
    let deletions: Vec<Write> = writes[..before_moves]
        .iter()
        .filter(is_deletion)
        .cloned()
        .collect();
    if deletions.is_empty() || deletions.len() == writes.len() {
        return result;
    }
    let mut deleted = commit_alone(store, owner, &deletions, metrics)?.into_iter();
    let results = writes.iter().enumerate().map(|(index, write)| {
        let deleted = (index < before_moves && is_deletion(&write)).then(|| deleted.next());
        deleted.flatten().unwrap_or(Err(WriteError::Full))
    });
    Ok(results.collect())
}

#[cfg(test)]
mod tests {
    use meshagent_store::{
        FailingStore, Fault, MemoryStore, Reach, RoomId, Store as _, Timestamp, Written,
    };

    use crate::committer::tests::commit_rooms;

    use super::*;

    fn room() -> RoomId {
        RoomId::new("project", "room")
    }

    fn put(path: &str) -> Write {
        Write::PutFile {
            room: room(),
            path: path.to_owned(),
            data: "größer".into(),
            mime_type: String::new(),
            overwrite: true,
            at: Timestamp(0),
        }
    }

    fn delete(path: &str) -> Write {
        Write::Delete {
            room: room(),
            path: path.to_owned(),
            recursive: false,
            reach: Reach::EVERYTHING,
        }
    }

    fn rename(source: &str, destination: &str) -> Write {
        Write::Move {
            room: room(),
            source: source.to_owned(),
            destination: destination.to_owned(),
            overwrite: true,
            reach: Reach::EVERYTHING,
            replaces: Reach::EVERYTHING,
            at: Timestamp(0),
        }
    }

    #[test]
    fn deletions_pass_where_the_rest_of_their_batch_finds_no_space() {
        let store = FailingStore::new(MemoryStore::new());
        store.commit(&[put("ä"), put("b"), put("c")]).unwrap();
        store.fail_commits(1..2, Fault::Full);
        let batch = vec![put("d"), delete("ä"), rename("b", "c"), delete("b")];
        let results = commit_rooms(&store, &[batch]);
        let results = results[0].as_ref().unwrap();
        assert!(matches!(&results[1], Ok(Written::Deleted { entries }) if entries.len() == 1));
        for index in [0, 2, 3] {
            assert_eq!(results[index], Err(WriteError::Full), "{index}");
        }
        for (path, is_there) in [("ä", false), ("b", true), ("c", true), ("d", false)] {
            let found = store.stat(&room(), path).unwrap();
            assert_eq!(found.is_some(), is_there, "{path}");
        }
    }

    #[test]
    fn only_some_batches_are_tried_whole_on_a_full_disk_and_all_deletions_pass() {
        const ROOMS: usize = 8;
        let store = FailingStore::new(MemoryStore::new());
        let name = |number: usize| format!("ä{number}");
        for number in 0..ROOMS {
            store.commit(&[put(&name(number))]).unwrap();
        }
        let begun = ROOMS as u64;
        // The commit of all batches together, and the whole batches; a commit of deletions follows
        // each of the latter.
        for call in [0, 1, 3, 5] {
            store.fail_commits(begun + call..begun + call + 1, Fault::Full);
        }
        let batches = (0..ROOMS).map(|number| vec![put("new"), delete(&name(number))]);
        let results = commit_rooms(&store, &batches.collect::<Vec<_>>());
        for (number, result) in results.iter().enumerate() {
            let result = result.as_ref().unwrap();
            assert_eq!(result[0], Err(WriteError::Full), "{number}");
            assert!(
                matches!(&result[1], Ok(Written::Deleted { .. })),
                "{number}"
            );
        }
    }

    #[test]
    fn batch_that_deletes_nothing_fails_as_a_whole() {
        let store = FailingStore::new(MemoryStore::new());
        store.fail_commits(0..1, Fault::Full);
        let results = commit_rooms(&store, &[vec![put("d"), put("e")]]);
        let error: &Arc<StoreError> = results[0].as_ref().unwrap_err();
        assert!(matches!(**error, StoreError::Full(_)));
    }
}
