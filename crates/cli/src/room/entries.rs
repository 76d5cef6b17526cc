//! Entries of a room's storage: lists folders, matches patterns, and distinguishes documents
//! from files.

use anyhow::Context as _;
use meshagent_client::{CallError, Connection};
use meshagent_protocol::storage::Entry;
use meshagent_protocol::{DocPath, ErrorCode};
use serde_json::{Value, json};

use crate::failure::{self, Failure, NOT_FOUND, REFUSED, USAGE};

/// An entry with its path.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: String,
    pub(super) entry: Entry,
}

impl Found {
    /// The JSON of `ls --json`.
    pub(super) fn to_json(&self) -> Value {
        let Entry {
            is_folder,
            size,
            created_at,
            updated_at,
            ..
        } = &self.entry;
        json!({
            "path": self.path,
            "is_folder": is_folder,
            "size": size,
            "created_at": created_at,
            "updated_at": updated_at,
        })
    }

    /// The columns before the name in `ls --long`: size and time of the last change.
    pub(super) fn columns(&self) -> String {
        let size = self
            .entry
            .size
            .map_or_else(|| "-".to_owned(), |size| size.to_string());
        let updated_at = self.entry.updated_at.as_deref().unwrap_or("-");
        format!("{size:>12}  {updated_at:<24}")
    }
}

/// Normalizes a path as the server does.
pub(super) fn normalized(path: &str) -> Result<String, Failure> {
    let path = DocPath::parse(path).map_err(|error| {
        Failure::new(format!("invalid path {path:?}"))
            .with_exit_code(USAGE)
            .with_hint(failure::PATH_HINT)
            .with_source(error)
    })?;
    Ok(path.as_str().to_owned())
}

/// Normalizes the path of a document.
pub(super) fn document(path: &str) -> Result<String, Failure> {
    let path = normalized(path)?;
    if path.is_empty() {
        return Err(
            Failure::new("invalid path of a document: the room's root is not a document")
                .with_exit_code(USAGE)
                .with_hint("the path of a document looks like plan or notes/plan"),
        );
    }
    Ok(path)
}

/// The name of a path in messages.
pub(super) fn named(path: &str) -> String {
    match path {
        "" => "the room's root".to_owned(),
        path => format!("{path:?}"),
    }
}

/// The entry at a path; the root is a folder.
pub(super) async fn stat(room: &Connection, path: &str) -> anyhow::Result<Option<Found>> {
    let entry = room.storage().stat(path).await;
    let entry =
        entry.map_err(|error| failure::of_call(format!("can't look up {}", named(path)), error))?;
    Ok(entry.map(|entry| Found {
        path: path.to_owned(),
        entry,
    }))
}

/// The entry at a path, which must exist.
pub(super) async fn stat_existing(room: &Connection, path: &str) -> anyhow::Result<Found> {
    let found = stat(room, path).await?;
    Ok(found.ok_or_else(|| missing(path))?)
}

pub(super) fn missing(path: &str) -> Failure {
    Failure::new(format!("{} does not exist", named(path)))
        .with_exit_code(NOT_FOUND)
        .with_hint("`meshagent room storage ls -r` lists all documents and files")
}

/// Whether a path asks for a folder: a document or file may have the same path otherwise.
pub(super) fn is_of_folder(path: &str) -> bool {
    path.ends_with('/')
}

/// Whether a path has `*` or `?` in its last segment.
pub(super) fn is_pattern(path: &str) -> bool {
    let last = path.rsplit('/').next().unwrap_or_default();
    last.contains(['*', '?'])
}

/// The folder at a path, beside a document or file with the same path.
pub(super) fn folder_at(path: &str) -> Found {
    Found {
        path: path.to_owned(),
        entry: Entry {
            name: path.rsplit('/').next().unwrap_or_default().to_owned(),
            is_folder: true,
            size: None,
            created_at: None,
            updated_at: None,
        },
    }
}

pub(super) fn missing_folder(path: &str) -> Failure {
    Failure::new(format!("there is no folder {path:?}"))
        .with_exit_code(NOT_FOUND)
        .with_hint("omit the / at the end for the document or file with this path")
}

/// The entries of a folder, sorted by name; `None` if there is no such folder, or the token does
/// not show it.
pub(super) async fn content(room: &Connection, folder: &str) -> anyhow::Result<Option<Vec<Found>>> {
    match room.storage().list(folder).await {
        Ok(entries) => Ok(Some(checked(folder, entries)?)),
        Err(error) => match failure::code(&error) {
            Some(
                ErrorCode::NotFound | ErrorCode::StorageNotFound | ErrorCode::PermissionDenied,
            ) => Ok(None),
            _ => Err(failure::of_call(format!("can't list {}", named(folder)), error).into()),
        },
    }
}

/// The entries of a folder, sorted by name.
pub(super) async fn list(room: &Connection, folder: &str) -> anyhow::Result<Vec<Found>> {
    let entries = room.storage().list(folder).await;
    let entries = entries
        .map_err(|error| failure::of_call(format!("can't list {}", named(folder)), error))?;
    checked(folder, entries)
}

/// Checks and sorts the entries that the server lists.
fn checked(folder: &str, entries: Vec<Entry>) -> anyhow::Result<Vec<Found>> {
    let mut found = Vec::with_capacity(entries.len());
    for entry in entries {
        let is_name = |name: &str| !name.is_empty() && !name.contains('/');
        let is_normal = |path: DocPath| path.as_str() == entry.name;
        // `cp` may use the name as part of a local path.
        if !is_name(&entry.name) || !DocPath::parse(&entry.name).is_ok_and(is_normal) {
            let message = format!("the server listed an invalid name: {:?}", entry.name);
            return Err(Failure::new(message).with_exit_code(REFUSED).into());
        }
        found.push(Found {
            path: join(folder, &entry.name),
            entry,
        });
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(found)
}

/// All entries below a folder; each folder precedes its content.
pub(super) async fn walk(room: &Connection, folder: &str) -> anyhow::Result<Vec<Found>> {
    let mut walked = Vec::new();
    // A stack, so each list is reversed.
    let mut rest = list(room, folder).await?;
    rest.reverse();
    while let Some(found) = rest.pop() {
        if found.entry.is_folder {
            let below = list(room, &found.path).await;
            let mut below = below.with_context(|| format!("below {}", named(folder)))?;
            below.reverse();
            rest.append(&mut below);
        }
        walked.push(found);
    }
    Ok(walked)
}

/// The entries that match a path with `*` and `?` in its last segment. A path without them names
/// one entry; a slash at its end, the folder. At least one entry must exist.
pub(super) async fn matching(room: &Connection, pattern: &str) -> anyhow::Result<Vec<Found>> {
    let (folder, last) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    if !is_pattern(pattern) {
        let path = normalized(pattern)?;
        let found = stat_existing(room, &path).await?;
        if found.entry.is_folder || !is_of_folder(pattern) {
            return Ok(vec![found]);
        }
        return match content(room, &path).await? {
            Some(_) => Ok(vec![folder_at(&path)]),
            None => Err(missing_folder(&path).into()),
        };
    }
    let mut found = list(room, &normalized(folder)?).await?;
    found.retain(|found| matches(last, &found.entry.name));
    if found.is_empty() {
        return Err(missing(pattern).into());
    }
    Ok(found)
}

/// The kind of an entry, as far as the token allows to determine it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// A file, or nothing at all.
    File,
    /// A live document.
    Document,
    /// Unknown: the token does not allow downloads here.
    Denied,
}

/// Determines the kind of an entry that is not a folder: the server returns download URLs for files
/// and never for documents.
pub(super) async fn kind(room: &Connection, path: &str) -> anyhow::Result<Kind> {
    match room.storage().download_url(path).await {
        Ok(_url) => Ok(Kind::File),
        Err(error) => match failure::code(&error) {
            Some(ErrorCode::InvalidRequest) => Ok(Kind::Document),
            Some(ErrorCode::PermissionDenied) => Ok(Kind::Denied),
            Some(_) => Ok(Kind::File),
            None => Err(failure::of_call(format!("can't look up {path:?}"), error).into()),
        },
    }
}

/// Whether an entry is a live document.
pub(super) async fn is_document(room: &Connection, path: &str) -> anyhow::Result<bool> {
    // A token that does not allow downloads may still allow documents.
    Ok(kind(room, path).await? != Kind::File)
}

/// The content of a file; `None` if the path is that of a live document.
pub(super) async fn download(room: &Connection, path: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let error = match room.storage().download(path).await {
        Ok(file) => return Ok(Some(file.data.into())),
        Err(error) => error,
    };
    // For a document that is not loaded, the server may report that the file does not exist.
    let may_be_document = matches!(
        &error,
        CallError::Refused { code: Some(code), .. }
            if [ErrorCode::InvalidRequest, ErrorCode::StorageNotFound]
                .map(ErrorCode::number)
                .contains(code)
    );
    if may_be_document && is_document(room, path).await? {
        return Ok(None);
    }
    Err(failure::of_call(format!("can't read {path:?}"), error).into())
}

pub(super) fn join(folder: &str, name: &str) -> String {
    match folder {
        "" => name.to_owned(),
        folder => format!("{folder}/{name}"),
    }
}

/// Matches a name against a pattern: `*` matches any characters, `?` exactly one.
fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut at, mut from) = (0, 0);
    // The position of the last `*`, and of the end of its match.
    let mut star = None;
    while from < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(&char) if char == '?' || char == name[from] => {
                at += 1;
                from += 1;
            }
            _ => {
                let Some((star_at, reached)) = star else {
                    return false;
                };
                star = Some((star_at, reached + 1));
                (at, from) = (star_at + 1, reached + 1);
            }
        }
    }
    pattern[at..].iter().all(|&char| char == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_match() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("*.txt", "a.txt", true),
            ("*.txt", "a.txt.gz", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("?", "ü", true),
            ("?", "", false),
            ("a?", "abc", false),
            ("abc", "abc", true),
            ("**", "x", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
