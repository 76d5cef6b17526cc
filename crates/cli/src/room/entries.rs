//! What a room's storage holds: folders walked, patterns matched, documents told from files.

use anyhow::Context as _;
use meshagent_client::{CallError, Connection};
use meshagent_protocol::storage::Entry;
use meshagent_protocol::{DocPath, ErrorCode};
use serde_json::{Value, json};

use crate::failure::{self, Failure, NOT_FOUND, REFUSED, USAGE};

/// An entry with where it is.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: String,
    pub(super) entry: Entry,
}

impl Found {
    /// What scripts are told.
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

    /// How large, and when changed: columns in front of a name.
    pub(super) fn columns(&self) -> String {
        let size = self
            .entry
            .size
            .map_or_else(|| "-".to_owned(), |size| size.to_string());
        let updated_at = self.entry.updated_at.as_deref().unwrap_or("-");
        format!("{size:>12}  {updated_at:<24}")
    }
}

/// A path as the server knows it.
pub(super) fn normalized(path: &str) -> Result<String, Failure> {
    let path = DocPath::parse(path).map_err(|error| {
        Failure::new(format!("{path:?} is not a path"))
            .with_exit_code(USAGE)
            .with_hint("a path in the room is like plan or notes/plan")
            .with_source(error)
    })?;
    Ok(path.as_str().to_owned())
}

/// The path of a document, likewise.
pub(super) fn document(path: &str) -> Result<String, Failure> {
    let path = normalized(path)?;
    if path.is_empty() {
        return Err(Failure::new("the room's root is no document")
            .with_exit_code(USAGE)
            .with_hint("a document's path is like plan or notes/plan"));
    }
    Ok(path)
}

/// How a path is called in messages.
pub(super) fn named(path: &str) -> String {
    match path {
        "" => "the room's root".to_owned(),
        path => format!("{path:?}"),
    }
}

/// What is at the path; the root is a folder.
pub(super) async fn stat(room: &Connection, path: &str) -> anyhow::Result<Option<Found>> {
    let entry = room.storage().stat(path).await;
    let entry =
        entry.map_err(|error| failure::of_call(format!("can't look at {}", named(path)), error))?;
    Ok(entry.map(|entry| Found {
        path: path.to_owned(),
        entry,
    }))
}

/// The same, which has to be there.
pub(super) async fn stat_existing(room: &Connection, path: &str) -> anyhow::Result<Found> {
    let found = stat(room, path).await?;
    Ok(found.ok_or_else(|| missing(path))?)
}

pub(super) fn missing(path: &str) -> Failure {
    Failure::new(format!("there is nothing at {}", named(path)))
        .with_exit_code(NOT_FOUND)
        .with_hint("`meshagent room storage ls` shows what is there")
}

/// What is in a folder, by name.
pub(super) async fn list(room: &Connection, folder: &str) -> anyhow::Result<Vec<Found>> {
    let entries = room.storage().list(folder).await;
    let entries = entries
        .map_err(|error| failure::of_call(format!("can't list {}", named(folder)), error))?;
    let mut found = Vec::with_capacity(entries.len());
    for entry in entries {
        let is_name = |name: &str| !name.is_empty() && !name.contains('/');
        let is_normal = |path: DocPath| path.as_str() == entry.name;
        // It may become a path on this machine, too.
        if !is_name(&entry.name) || !DocPath::parse(&entry.name).is_ok_and(is_normal) {
            let what = format!("the server lists {:?}, which is no name", entry.name);
            return Err(Failure::new(what).with_exit_code(REFUSED).into());
        }
        found.push(Found {
            path: join(folder, &entry.name),
            entry,
        });
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(found)
}

/// All that is below a folder, each folder before what is in it.
pub(super) async fn walk(room: &Connection, folder: &str) -> anyhow::Result<Vec<Found>> {
    let mut walked = Vec::new();
    // The next one is the last.
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

/// What a path with `*` and `?` in its last part leads to; one without these leads to one entry, which has to be there.
pub(super) async fn matching(room: &Connection, pattern: &str) -> anyhow::Result<Vec<Found>> {
    let (folder, last) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    if !last.contains(['*', '?']) {
        return Ok(vec![stat_existing(room, &normalized(pattern)?).await?]);
    }
    let mut found = list(room, &normalized(folder)?).await?;
    found.retain(|found| matches(last, &found.entry.name));
    if found.is_empty() {
        return Err(missing(pattern).into());
    }
    Ok(found)
}

/// What the server says when it is asked for the bytes at a path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Asked {
    /// A file, or nothing.
    File,
    /// A live document, whose bytes are nobody's.
    Document,
    /// The token does not allow to ask.
    Denied,
}

pub(super) async fn ask(room: &Connection, path: &str) -> anyhow::Result<Asked> {
    match room.storage().download_url(path).await {
        Ok(_url) => Ok(Asked::File),
        Err(error) => match failure::code(&error) {
            Some(ErrorCode::InvalidRequest) => Ok(Asked::Document),
            Some(ErrorCode::PermissionDenied) => Ok(Asked::Denied),
            Some(_) => Ok(Asked::File),
            None => Err(failure::of_call(format!("can't look at {path:?}"), error).into()),
        },
    }
}

/// Whether a live document is there, and not a file: the server hands out a file's bytes, a document's never.
pub(super) async fn is_document(room: &Connection, path: &str) -> anyhow::Result<bool> {
    // Who may not read files may still read documents.
    Ok(ask(room, path).await? != Asked::File)
}

/// A file's bytes, or nothing if it is a live document.
pub(super) async fn download(room: &Connection, path: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let error = match room.storage().download(path).await {
        Ok(file) => return Ok(Some(file.data.into())),
        Err(error) => error,
    };
    // Of a document that nobody has open, the server may say that there is no such file.
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

/// `*` stands for any characters, `?` for one.
fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut at, mut from) = (0, 0);
    // Where the last `*` is, and up to where it reaches.
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
