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
/// room://PATH is in the room, any other path on this machine, and - is stdin or stdout. Files that are there already
/// are replaced. Live documents are left out, which ends the command with code 1: `room sync export` writes their
/// content.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  meshagent room storage cp --room my-room march.csv room://reports/
  meshagent room storage cp --room my-room 'room://reports/*.csv' .
  meshagent room storage cp --room my-room -r site room://site
  date | meshagent room storage cp --room my-room - room://now.txt")]
pub(super) struct CpArgs {
    /// What to copy; * and ? in the last part of a room:// path stand for any characters and for one
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<String>,

    /// Where to; into a folder that is there, or whose name ends in /
    destination: String,

    /// Copy folders with all that is in them
    #[arg(long, short)]
    recursive: bool,

    #[command(flatten)]
    room: RoomArgs,
}

/// What is to be copied.
enum Source {
    Room(Found),
    Local(PathBuf),
    Stream,
}

impl Source {
    /// How it is called where a folder is the destination.
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
    let room = args.room.connect().await?;
    let sources = sources(&room, &args.sources).await?;
    let is_folder = match &destination {
        Place::Room(path) => is_folder_in_room(&room, path).await?,
        Place::Local(path) => args.destination.ends_with('/') || path.is_dir(),
        Place::Stream => false,
    };
    if sources.len() > 1 && !is_folder {
        let what = format!(
            "{} is no folder, to copy more than one into",
            args.destination
        );
        let hint = "put a / behind the name of a folder that is to be made";
        return Err(Failure::new(what)
            .with_exit_code(USAGE)
            .with_hint(hint)
            .into());
    }
    let mut copy = Copy {
        room: &room,
        output,
        is_recursive: args.recursive,
        left_out: Vec::new(),
    };
    for source in &sources {
        let mut destination = destination.clone();
        if is_folder {
            let name = source.name().ok_or_else(|| {
                Failure::new("stdin has no name").with_hint("name the file in the folder")
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
                let failure =
                    Failure::new(format!("can't read {}: it is not there", path.display()))
                        .with_exit_code(USAGE)
                        .with_hint("what is in the room is named room://PATH");
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
    /// Documents among what was copied.
    left_out: Vec<String>,
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
            .with_hint("use -r to copy a folder with what is in it"))
    }

    async fn file_in_room(&mut self, path: &str, destination: &Place) -> anyhow::Result<()> {
        if let Some(data) = entries::download(self.room, path).await? {
            return self.write(path, data, destination).await;
        }
        self.left_out.push(path.to_owned());
        Ok(())
    }

    /// Says what was left out.
    fn finish(self) -> anyhow::Result<()> {
        if self.left_out.is_empty() {
            return Ok(());
        }
        let what = format!(
            "live documents are not copied: {}",
            self.left_out.join(", ")
        );
        Err(Failure::new(what)
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

/// A place below a folder.
fn below(folder: &Place, rest: &str) -> Result<Place, Failure> {
    match folder {
        Place::Room(folder) => Ok(Place::Room(entries::join(folder, rest))),
        // The server's names are checked before they lead anywhere on this machine.
        Place::Local(folder) => Ok(Place::Local(folder.join(entries::normalized(rest)?))),
        Place::Stream => Err(Failure::new("a folder can't be written to stdout")
            .with_exit_code(USAGE)
            .with_hint("name a folder to copy it to")),
    }
}

/// All files below a folder, each with the rest of its path; what links lead to outside is not followed.
fn files_below(folder: &Path) -> anyhow::Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    let mut folders = vec![(folder.to_owned(), String::new())];
    while let Some((folder, rest)) = folders.pop() {
        let entries = fs::read_dir(&folder);
        let entries = entries.map_err(|error| {
            Failure::new(format!("can't read {}", folder.display()))
                .with_exit_code(USAGE)
                .with_hint("see that the folder is there and that you may read it")
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
