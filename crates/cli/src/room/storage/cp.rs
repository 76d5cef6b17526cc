//! `meshagent room storage cp`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use meshagent_client::Connection;

use super::place::Place;
use crate::failure::{self, Failure, REFUSED, USAGE};
use crate::output::Output;
use crate::room::entries::{self, Found};
use crate::room::input;
use crate::room::session::RoomArgs;

/// Copy files into the room, out of it, or within it
///
/// room://PATH is a path in the room, - is stdin or stdout, and all other paths are on this
/// machine. Existing files are replaced. Live documents are skipped, and the command then exits
/// with code 1; `room sync export` writes their content.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  meshagent room storage cp --room my-room march.csv room://reports/
  meshagent room storage cp --room my-room 'room://reports/*.csv' .
  meshagent room storage cp --room my-room -r site room://site
  date | meshagent room storage cp --room my-room - room://now.txt")]
pub(super) struct CpArgs {
    /// Files or folders to copy; in the last segment of a room:// path, * matches any characters
    /// and ? exactly one
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<String>,

    /// Target file, or target folder if it exists or ends in /
    destination: String,

    /// Copy folders with their content
    #[arg(long, short)]
    recursive: bool,

    #[command(flatten)]
    room: RoomArgs,
}

/// A file or folder to copy.
enum Source {
    Room(Found),
    Local(PathBuf),
    Stream,
}

impl Source {
    /// Its name in a target folder.
    fn name(&self) -> Option<String> {
        match self {
            Self::Room(found) => Some(found.entry.name.clone()),
            Self::Local(path) => Some(path.file_name()?.to_string_lossy().into_owned()),
            Self::Stream => None,
        }
    }
}

pub(super) async fn run(args: &CpArgs, output: &Output) -> anyhow::Result<()> {
    let destination = Place::parse(&args.destination);
    let is_in_room = |place: &Place| matches!(place, Place::Room(_));
    let mut places = args.sources.iter().map(|source| Place::parse(source));
    if !is_in_room(&destination) && !places.any(|place| is_in_room(&place)) {
        return Err(
            Failure::new("neither the source nor the destination is in the room")
                .with_exit_code(USAGE)
                .with_hint("paths in the room need the prefix room://, such as room://notes/a.txt")
                .into(),
        );
    }
    let room = args.room.connect().await?;
    let sources = sources(&room, &args.sources).await?;
    let is_folder = match &destination {
        Place::Room(path) => is_folder_in_room(&room, path).await?,
        Place::Local(path) => args.destination.ends_with('/') || path.is_dir(),
        Place::Stream => false,
    };
    if sources.len() > 1 && !is_folder {
        let message = format!(
            "can't copy {} sources to {}, which is not a folder",
            sources.len(),
            args.destination
        );
        let hint = "add a / to the name to create a folder";
        return Err(Failure::new(message)
            .with_exit_code(USAGE)
            .with_hint(hint)
            .into());
    }
    let mut copy = Copy {
        room: &room,
        output,
        is_recursive: args.recursive,
        skipped: Vec::new(),
    };
    for source in &sources {
        let mut destination = destination.clone();
        if is_folder {
            let name = source.name().ok_or_else(|| {
                Failure::new("can't copy stdin to a folder")
                    .with_hint("pass the path of a file in the folder")
            });
            let name = name.map_err(|failure| failure.with_exit_code(USAGE))?;
            destination = match destination {
                Place::Room(folder) => {
                    Place::Room(entries::join(folder.trim_end_matches('/'), &name))
                }
                Place::Local(folder) => Place::Local(folder.join(name)),
                Place::Stream => Place::Stream,
            };
        }
        copy.any(source, &destination).await?;
    }
    room.close().await;
    copy.finish()
}

async fn sources(room: &Connection, named: &[String]) -> anyhow::Result<Vec<Source>> {
    let mut sources = Vec::new();
    for name in named {
        match Place::parse(name) {
            Place::Room(pattern) => {
                let found = entries::matching(room, &pattern).await?;
                sources.extend(found.into_iter().map(Source::Room));
            }
            Place::Local(path) if path.exists() => sources.push(Source::Local(path)),
            Place::Local(path) => {
                let failure = Failure::new(format!("can't read {}: no such file", path.display()))
                    .with_exit_code(USAGE)
                    .with_hint("paths in the room need the prefix room://");
                return Err(failure.into());
            }
            Place::Stream => sources.push(Source::Stream),
        }
    }
    Ok(sources)
}

async fn is_folder_in_room(room: &Connection, path: &str) -> anyhow::Result<bool> {
    if path.is_empty() || path.ends_with('/') {
        return Ok(true);
    }
    let found = entries::stat(room, &entries::normalized(path)?).await?;
    Ok(found.is_some_and(|found| found.entry.is_folder))
}

struct Copy<'a> {
    room: &'a Connection,
    output: &'a Output,
    is_recursive: bool,
    /// Live documents among the sources.
    skipped: Vec<String>,
}

impl Copy<'_> {
    async fn any(&mut self, source: &Source, destination: &Place) -> anyhow::Result<()> {
        match source {
            Source::Room(found) if found.entry.is_folder => {
                self.must_be_recursive(&found.path)?;
                for one in entries::walk(self.room, &found.path).await? {
                    let rest = one.path[found.path.len()..].trim_start_matches('/');
                    let destination = below(destination, rest)?;
                    if !one.entry.is_folder {
                        self.file_in_room(&one.path, &destination).await?;
                    }
                }
                Ok(())
            }
            Source::Room(found) => self.file_in_room(&found.path, destination).await,
            Source::Local(path) if path.is_dir() => {
                self.must_be_recursive(&path.display().to_string())?;
                for (file, rest) in files_below(path)? {
                    let destination = below(destination, &rest)?;
                    let data = input::read(&file)?;
                    self.write(&file.display().to_string(), data, &destination)
                        .await?;
                }
                Ok(())
            }
            Source::Local(path) => {
                let name = path.display().to_string();
                self.write(&name, input::read(path)?, destination).await
            }
            Source::Stream => {
                let data = input::read(Path::new("-"))?;
                self.write("stdin", data, destination).await
            }
        }
    }

    fn must_be_recursive(&self, path: &str) -> Result<(), Failure> {
        if self.is_recursive {
            return Ok(());
        }
        Err(Failure::new(format!("{path:?} is a folder"))
            .with_exit_code(REFUSED)
            .with_hint("use -r to copy a folder with its content"))
    }

    async fn file_in_room(&mut self, path: &str, destination: &Place) -> anyhow::Result<()> {
        if let Some(data) = entries::download(self.room, path).await? {
            return self.write(path, data, destination).await;
        }
        self.skipped.push(path.to_owned());
        Ok(())
    }

    /// Reports skipped documents.
    fn finish(self) -> anyhow::Result<()> {
        if self.skipped.is_empty() {
            return Ok(());
        }
        let message = format!("skipped live documents: {}", self.skipped.join(", "));
        Err(Failure::new(message)
            .with_exit_code(REFUSED)
            .with_hint("`meshagent room sync export` writes a document's content")
            .into())
    }

    async fn write(&self, source: &str, data: Vec<u8>, destination: &Place) -> anyhow::Result<()> {
        let written = match destination {
            Place::Stream => return self.output.file(&data),
            Place::Local(path) => {
                let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
                folder
                    .and_then(|()| fs::write(path, data))
                    .map_err(|error| input::unwritable(path, error))?;
                path.display().to_string()
            }
            Place::Room(path) => {
                let path = entries::normalized(path)?;
                let uploaded = self.room.storage().upload(&path, data, true).await;
                uploaded.map_err(|error| {
                    let is_document = error.to_string().contains("document");
                    let failure = failure::of_call(format!("can't write {path:?}"), error);
                    match failure.hint() {
                        None if is_document => failure.with_hint(
                            "choose another path; `meshagent room sync update` changes a document",
                        ),
                        _ => failure,
                    }
                })?;
                path
            }
        };
        self.output
            .done(&format!("Copied '{source}' to '{written}'"))
    }
}

/// The path `rest` below a folder.
fn below(folder: &Place, rest: &str) -> Result<Place, Failure> {
    match folder {
        Place::Room(folder) => Ok(Place::Room(entries::join(folder, rest))),
        // Names from the server must not escape from the folder.
        Place::Local(folder) => Ok(Place::Local(folder.join(entries::normalized(rest)?))),
        Place::Stream => Err(Failure::new("can't write a folder to stdout")
            .with_exit_code(USAGE)
            .with_hint("pass a folder as the destination")),
    }
}

/// All files below a folder, each with its path in the folder. Symbolic links are not followed.
fn files_below(folder: &Path) -> anyhow::Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    let mut folders = vec![(folder.to_owned(), String::new())];
    while let Some((folder, rest)) = folders.pop() {
        let entries = fs::read_dir(&folder);
        let entries = entries.map_err(|error| {
            Failure::new(format!("can't read {}", folder.display()))
                .with_exit_code(USAGE)
                .with_hint("check that the folder exists and that you may read it")
                .with_source(error)
        })?;
        for entry in entries {
            let entry = entry?;
            let rest = entries::join(&rest, &entry.file_name().to_string_lossy());
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push((entry.path(), rest));
            } else if kind.is_file() {
                files.push((entry.path(), rest));
            }
        }
    }
    files.sort();
    Ok(files)
}
