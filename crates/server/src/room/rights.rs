//! What a participant's grants allow: the one place where a room decides that.
//!
//! The storage grant decides over files. The sync grant decides over documents; where they are
//! handled as files, both have to allow it. The entries below a folder are known only when a write
//! happens. So patterns decide over a folder: the grants have to allow everything that may be below
//! it, or the write has a [`Reach`] that the store enforces.

use meshagent_protocol::{
    ApiScope, FileAction, SCHEMAS, Sight, StorageGrant, SyncGrant, is_reserved_name, is_schema_path,
};
use meshagent_store::{EntryKind, Kinds, Reach};

use super::{Conn, Refusal, Request, Room};

/// The entries that a move may touch.
#[derive(Clone, Copy, Debug)]
pub(super) struct MoveReach {
    pub(super) moved: Reach,
    pub(super) replaced: Reach,
}

impl Room {
    fn scope(&self, conn: Conn) -> Option<&ApiScope> {
        Some(&self.participants.get(&conn)?.scope)
    }

    fn storage_grant(&self, request: Request) -> Result<&StorageGrant, Refusal> {
        self.scope(request.conn)
            .and_then(|scope| scope.storage.as_ref())
            .ok_or_else(|| Refusal::denied("the token has no storage grant"))
    }

    /// Checks that the storage grant allows something. A refusal names it by `verb`.
    pub(super) fn may_store(
        &self,
        request: Request,
        path: &str,
        verb: &str,
        may: impl Fn(&StorageGrant) -> bool,
    ) -> Result<(), Refusal> {
        let is_allowed = may(self.storage_grant(request)?);
        is_allowed
            .then_some(())
            .ok_or_else(|| not_stored(path, verb))
    }

    /// Checks that the storage grant lets an entry be seen or read, in a time that does not depend
    /// on the number of the grant's entries.
    pub(super) fn may_look(
        &self,
        request: Request,
        path: &str,
        verb: &str,
        may: impl Fn(&Sight) -> bool,
    ) -> Result<(), Refusal> {
        self.storage_grant(request)?;
        let participant = self.participants.get(&request.conn);
        let is_allowed = participant.is_some_and(|participant| may(&participant.sight));
        is_allowed
            .then_some(())
            .ok_or_else(|| not_stored(path, verb))
    }

    /// Checks that a file may be written, removed or replaced at a path. Where schemas are, this
    /// takes a separate right.
    pub(super) fn may_change(
        &self,
        request: Request,
        path: &str,
        verb: &str,
        action: FileAction,
    ) -> Result<(), Refusal> {
        self.may_store(request, path, verb, |grant| match action {
            FileAction::Delete => grant.can_delete(path, false),
            _ => grant.can_write(path),
        })?;
        let grant = self.storage_grant(request)?;
        if is_schema_path(path) && !grant.can_change_schemas(action, path) {
            return Err(Refusal::denied(format!(
                "{path:?} decides what new documents look like: to {verb} it, the token's storage grant has to be \
                 without bounds or to name {SCHEMAS:?}"
            )));
        }
        Ok(())
    }

    /// Checks that a document may be read, or written.
    pub(super) fn may_sync(
        &self,
        request: Request,
        path: &str,
        write: bool,
    ) -> Result<(), Refusal> {
        if path.is_empty() {
            return Err(Refusal::invalid(
                "the empty path is the storage root, never a document",
            ));
        }
        let participant = self.participants.get(&request.conn);
        let sight = participant
            .filter(|participant| participant.scope.sync.is_some())
            .map(|participant| &participant.sight)
            .ok_or_else(|| Refusal::denied("the token has no sync grant"))?;
        match (
            sight.can_read_document(path),
            sight.can_write_document(path),
        ) {
            (false, _) => Err(Refusal::denied(format!(
                "the token's sync grant does not cover {path:?}"
            ))),
            (true, false) if write => Err(Refusal::denied(format!(
                "the token's sync grant for {path:?} is read-only"
            ))),
            _ => Ok(()),
        }
    }

    /// Checks that a document may be created. Where schemas are, this takes a separate right.
    pub(super) fn may_create(&self, request: Request, path: &str) -> Result<(), Refusal> {
        self.may_sync(request, path, true)?;
        if let Some(name) = path.split('/').find(|name| is_reserved_name(name)) {
            // No participant could list, move or delete it.
            return Err(Refusal::invalid(format!(
                "{name:?} is a name that storage keeps for itself; take another"
            )));
        }
        let grant = self
            .scope(request.conn)
            .and_then(|scope| scope.sync.as_ref());
        if is_schema_path(path) && !grant.is_some_and(|grant| grant.can_write_schemas(path)) {
            return Err(Refusal::denied(format!(
                "{path:?} would stand where schemas do: to create it, the token's sync grant has to be without \
                 bounds or to name {SCHEMAS:?}"
            )));
        }
        Ok(())
    }

    /// Checks that a file may be the schema of a new document, which reveals its content.
    pub(super) fn may_use_schema(&self, request: Request, file: &str) -> Result<(), Refusal> {
        let grant = self
            .scope(request.conn)
            .and_then(|scope| scope.storage.as_ref());
        match grant {
            Some(grant) if grant.can_read(file) => Ok(()),
            Some(_) => Err(Refusal::denied(format!(
                "schema_path: the token's storage grant does not allow to read {file:?}"
            ))),
            None => Err(Refusal::denied(format!(
                "schema_path: the token has no storage grant, which it takes to read {file:?}"
            ))),
        }
    }

    /// Returns how far a deletion may reach.
    pub(super) fn may_delete(&self, request: Request, path: &str) -> Result<Reach, Refusal> {
        self.may_change(request, path, "delete", FileAction::Delete)?;
        let scope = self.scope(request.conn);
        Ok(scope.map_or(NOWHERE, |scope| removal(scope, path)))
    }

    /// Returns how far a move may reach at both ends.
    pub(super) fn may_move(
        &self,
        request: Request,
        source: &str,
        destination: &str,
    ) -> Result<MoveReach, Refusal> {
        self.may_store(request, source, "read", |grant| grant.can_read(source))?;
        self.may_change(request, source, "move", FileAction::Delete)?;
        self.may_change(request, destination, "write", FileAction::Write)?;
        let Some(scope) = self.scope(request.conn) else {
            return Err(Refusal::denied("the participant has left"));
        };
        let storage = scope.storage.as_ref();
        let takes_folders = storage.is_some_and(|grant| {
            grant.can_read_subtree(source)
                && grant.can_delete(source, true)
                && grant.can_write_subtree(destination)
        });
        let takes = documents(scope, |sync| {
            sync.can_write(source) && may_put(sync, destination)
        });
        let takes_below = documents(scope, |sync| {
            sync.can_write_below(source) && may_put_below(sync, destination)
        });
        Ok(MoveReach {
            moved: Reach {
                at: takes,
                below: bounded(takes_folders, takes_below),
            },
            replaced: removal(scope, destination),
        })
    }

    /// The refusal of a deletion or move because of an entry that the store found at or below one
    /// of its paths.
    pub(super) fn out_of_reach(
        &self,
        conn: Conn,
        path: &str,
        destination: Option<&str>,
        found: &str,
    ) -> Refusal {
        let asked = destination.unwrap_or(path);
        let text = self.scope(conn).and_then(|scope| {
            let is_listed = scope
                .storage
                .as_ref()
                .is_some_and(|grant| grant.can_list(found));
            match (destination, rest_below(path, found)) {
                (Some(to), Some(rest)) => {
                    let target = format!("{to}{rest}");
                    let is_below = !rest.is_empty();
                    not_everything(scope, FileAction::Read, path)
                        .or_else(|| not_everything(scope, FileAction::Delete, path))
                        .or_else(|| not_everything(scope, FileAction::Write, to))
                        .filter(|_| is_below)
                        .or_else(|| no_document(scope, found, path, is_listed))
                        .or_else(|| no_document(scope, &target, to, is_listed))
                }
                _ => not_deletable(scope, asked, found)
                    .or_else(|| no_document(scope, found, asked, is_listed)),
            }
        });
        Refusal::denied(text.unwrap_or_else(|| format!("{asked:?} is out of reach")))
    }
}

fn not_stored(path: &str, verb: &str) -> Refusal {
    Refusal::denied(format!(
        "the token's storage grant does not allow to {verb} {path:?}"
    ))
}

/// The part of `found` behind `path`; `None` if `found` is not `path` or below it.
fn rest_below<'a>(path: &str, found: &'a str) -> Option<&'a str> {
    found
        .strip_prefix(path)
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Why something in a folder may not be read, written or deleted; `None` if everything may.
fn not_everything(scope: &ApiScope, action: FileAction, folder: &str) -> Option<String> {
    let grant = scope.storage.as_ref()?;
    let (verb, is_allowed) = match action {
        FileAction::Read => ("read", grant.can_read_subtree(folder)),
        FileAction::Write => ("write", grant.can_write_subtree(folder)),
        _ => ("delete", grant.can_delete(folder, true)),
    };
    if is_allowed {
        return None;
    }
    let text = format!("the token's storage grant does not allow to {verb} all of {folder:?}");
    Some(match grant.in_the_way(action, folder) {
        Some(entry) => format!("{text}: {entry:?} stands in the way"),
        None => text,
    })
}

fn not_deletable(scope: &ApiScope, asked: &str, found: &str) -> Option<String> {
    if found != asked {
        return not_everything(scope, FileAction::Delete, asked);
    }
    let is_allowed = scope.storage.as_ref()?.can_delete(asked, false);
    (!is_allowed).then(|| format!("the token's storage grant does not allow to replace {asked:?}"))
}

/// Why a document may not be put at `path`, or removed from there; `None` if it may. `asked` is
/// that path or a folder above it.
fn no_document(scope: &ApiScope, path: &str, asked: &str, is_listed: bool) -> Option<String> {
    // The name of a document is not revealed to a participant that may not see it.
    let what = if is_listed || path == asked {
        format!("the document {path:?}")
    } else {
        format!("the documents in {asked:?}")
    };
    let Some(sync) = &scope.sync else {
        return Some(format!(
            "the token has no sync grant, which it takes for {what}"
        ));
    };
    if !may_put(sync, path) {
        return Some(format!(
            "the token's sync grant does not allow to write {what}"
        ));
    }
    if path == asked || sync.can_write_below(asked) {
        return None;
    }
    let text =
        format!("the token's sync grant does not allow to write every document in {asked:?}");
    Some(match sync.in_the_way(asked) {
        Some(entry) => format!("{text}: {entry:?} stands in the way"),
        None => text,
    })
}

/// The reach of a write that may touch no entries.
const NOWHERE: Reach = Reach {
    at: Kinds::Nothing,
    below: Kinds::Nothing,
};

/// The entries that may be deleted at a path and below it.
fn removal(scope: &ApiScope, path: &str) -> Reach {
    let Some(storage) = &scope.storage else {
        return NOWHERE;
    };
    let at = documents(scope, |sync| sync.can_write(path));
    let below = documents(scope, |sync| sync.can_write_below(path));
    Reach {
        at: bounded(storage.can_delete(path, false), at),
        below: bounded(storage.can_delete(path, true), below),
    }
}

fn bounded(is_allowed: bool, kinds: Kinds) -> Kinds {
    if is_allowed { kinds } else { Kinds::Nothing }
}

/// Whether a participant may know of an entry. This is decided for each path and each participant.
pub(super) fn sees(sight: &Sight, path: &str, kind: EntryKind) -> bool {
    match kind {
        EntryKind::Folder => sight.can_list_directory(path),
        EntryKind::File => sight.can_list_or_read(path),
        EntryKind::Document => sight.can_list_or_read(path) || sight.can_read_document(path),
    }
}

/// All kinds if the sync grant allows documents, otherwise only files.
fn documents(scope: &ApiScope, may: impl Fn(&SyncGrant) -> bool) -> Kinds {
    match &scope.sync {
        Some(grant) if may(grant) => Kinds::Everything,
        _ => Kinds::Files,
    }
}

/// Whether a document may be put at a path.
fn may_put(sync: &SyncGrant, path: &str) -> bool {
    sync.can_write(path) && (!is_schema_path(path) || sync.can_write_schemas(path))
}

/// Whether documents may be put everywhere below a path.
fn may_put_below(sync: &SyncGrant, path: &str) -> bool {
    let may_be_schemas = || sync.can_write_schemas(&format!("{path}/any"));
    sync.can_write_below(path) && (!is_schema_path(path) || may_be_schemas())
}
