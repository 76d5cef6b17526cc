//! `meshagent room storage cp`.

mod beneath;
mod local;

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use meshagent_client::Connection;

use self::beneath::Unwritten;
use self::local::Tree;
use super::place::Place;
use crate::failure::{self, Failure, REFUSED, USAGE};
use crate::local_file;
use crate::output::{Output, terminal};
use crate::room::entries::{self, Found};
use crate::room::input;
use crate::room::session::RoomArgs;

/// Copy files into the room, out of it, or within it
///
/// room://PATH is a path in the room, - is stdin or stdout, and all other paths are on this
/// machine. Existing files are replaced. With -r, symbolic links among the sources on this machine
/// are followed. Live documents (`room sync export` writes their content), broken links, loops of
/// links, sockets, pipes and devices are skipped; an error names them, and the command exits with
/// code 1. Nothing is written through a symbolic link in the destination that leads out of it or
/// nowhere.
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
            // Not the name that the server returns for one path, which it may have made up.
            Self::Room(found) => Some(found.path.rsplit('/').next()?.to_owned()),
            // The content of `.`, `..` or `site/.` is copied, as by `cp`.
            Self::Local(path) if path.as_os_str().as_bytes().ends_with(b"/.") => None,
            Self::Local(path) => Some(path.file_name()?.to_str()?.to_owned()),
            Self::Stream => None,
        }
    }
}

/// Where a copy is written.
#[derive(Clone)]
enum Target {
    Room(String),
    /// The file or folder that the user named.
    Named(PathBuf),
    /// A path below the folder that the user named.
    Below(PathBuf, String),
    Stream,
}

impl Target {
    fn new(place: Place) -> Self {
        match place {
            Place::Room(path) => Self::Room(path),
            Place::Local(path) => Self::Named(path),
            Place::Stream => Self::Stream,
        }
    }

    /// The path `rest` below this one.
    fn join(&self, rest: &str) -> Result<Self, Failure> {
        match self {
            Self::Room(folder) => Ok(Self::Room(entries::join(
                folder.trim_end_matches('/'),
                rest,
            ))),
            // Names from the server must not escape from the folder.
            Self::Named(folder) => Ok(Self::Below(folder.clone(), entries::normalized(rest)?)),
            Self::Below(folder, path) => {
                let path = entries::join(path, &entries::normalized(rest)?);
                Ok(Self::Below(folder.clone(), path))
            }
            Self::Stream => Err(Failure::new("can't write a folder to stdout")
                .with_exit_code(USAGE)
                .with_hint("pass a folder as the destination")),
        }
    }
}

pub(super) async fn run(args: &CpArgs, output: &Output) -> anyhow::Result<()> {
    let destination = Place::parse(&args.destination);
    let is_in_room = |place: &Place| matches!(place, Place::Room(_));
    let mut places = args.sources.iter().map(|source| Place::parse(source));
    if !is_in_room(&destination) && !places.all(|place| is_in_room(&place)) {
        return Err(Failure::new(format!(
            "can't copy {:?} to {:?}: neither the source nor the destination is in the room",
            args.sources[0], args.destination
        ))
        .with_exit_code(USAGE)
        .with_hint("paths in the room need the prefix room://, such as room://notes/a.txt")
        .into());
    }
    let room = args.room.connect().await?;
    let sources = sources(&room, &args.sources, args.recursive).await?;
    let is_folder = match &destination {
        Place::Room(path) => is_folder_in_room(&room, path).await?,
        Place::Local(path) => args.destination.ends_with('/') || path.is_dir(),
        Place::Stream => false,
    };
    // A document and the folder with the same path count as one.
    let is_one =
        |pair: &[Source]| matches!(pair, [Source::Room(a), Source::Room(b)] if a.path == b.path);
    if !is_folder && !sources.windows(2).all(is_one) {
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
    let destination = Target::new(destination);
    let copied = copy.all(&sources, &destination, is_folder).await;
    if let Err(error) = copied {
        // What was skipped before is not lost.
        if let Err(skipped) = copy.finish() {
            terminal::print_stderr(&format!("error: {skipped}"));
        }
        return Err(error);
    }
    room.close().await;
    copy.finish()
}

async fn sources(
    room: &Connection,
    named: &[String],
    is_recursive: bool,
) -> anyhow::Result<Vec<Source>> {
    let mut sources = Vec::new();
    for name in named {
        match Place::parse(name) {
            Place::Room(pattern) => {
                let mut found = entries::matching(room, &pattern).await?;
                // A folder may have the path of a document or file.
                if let [one] = found.as_slice()
                    && is_recursive
                    && !one.entry.is_folder
                    && !entries::is_pattern(&pattern)
                    && entries::content(room, &one.path).await?.is_some()
                {
                    found.push(entries::folder_at(&one.path));
                }
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
    /// The sources that can't be copied, with the reason.
    skipped: Vec<(String, String)>,
}

impl Copy<'_> {
    async fn all(
        &mut self,
        sources: &[Source],
        destination: &Target,
        is_folder: bool,
    ) -> anyhow::Result<()> {
        for source in sources {
            let mut target = destination.clone();
            if is_folder {
                match source.name() {
                    Some(name) => target = target.join(&name)?,
                    None if matches!(source, Source::Stream) => {
                        return Err(Failure::new("can't copy stdin to a folder")
                            .with_exit_code(USAGE)
                            .with_hint("pass the path of a file in the folder")
                            .into());
                    }
                    None => {}
                }
            }
            self.any(source, &target).await?;
        }
        Ok(())
    }

    async fn any(&mut self, source: &Source, destination: &Target) -> anyhow::Result<()> {
        match source {
            Source::Room(found) if found.entry.is_folder => {
                self.must_be_recursive(&found.path)?;
                for one in entries::walk(self.room, &found.path).await? {
                    let rest = one.path[found.path.len()..].trim_start_matches('/');
                    let destination = destination.join(rest)?;
                    if !one.entry.is_folder {
                        self.file_in_room(&one.path, &destination).await?;
                    }
                }
                Ok(())
            }
            Source::Room(found) => self.file_in_room(&found.path, destination).await,
            Source::Local(path) if path.is_dir() => {
                self.must_be_recursive(&path.display().to_string())?;
                let Tree { files, skipped, .. } = Tree::read(path)?;
                self.skipped.extend(skipped);
                for (file, rest) in files {
                    let name = file.display().to_string();
                    let destination = destination.join(&rest)?;
                    match input::read_found(&file) {
                        Ok(data) => self.write(&name, data, &destination).await?,
                        Err(error) => self.skipped.push((name, reason(&error))),
                    }
                }
                Ok(())
            }
            Source::Local(path)
                if let Some(kind) = local::device(path)
                    && self.is_recursive =>
            {
                self.skipped
                    .push((path.display().to_string(), kind.to_owned()));
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
        Err(
            Failure::new(format!("can't copy {path:?}: {path:?} is a folder"))
                .with_exit_code(REFUSED)
                .with_hint("use -r to copy a folder with its content"),
        )
    }

    async fn file_in_room(&mut self, path: &str, destination: &Target) -> anyhow::Result<()> {
        if let Some(data) = entries::download(self.room, path).await? {
            return self.write(path, data, destination).await;
        }
        self.skipped.push((path.to_owned(), DOCUMENT.to_owned()));
        Ok(())
    }

    /// Reports what was skipped.
    fn finish(self) -> anyhow::Result<()> {
        if self.skipped.is_empty() {
            return Ok(());
        }
        let mut message = "these could not be copied, and were skipped:".to_owned();
        for (name, reason) in &self.skipped {
            // Writing to a `String` never fails.
            let _ = write!(message, "\n  {}: {reason}", terminal::one_line(name));
        }
        let mut failure = Failure::new(message).with_exit_code(REFUSED);
        if self.skipped.iter().any(|(_, reason)| reason == DOCUMENT) {
            failure = failure.with_hint("`meshagent room sync export` writes a document's content");
        }
        Err(failure.into())
    }

    async fn write(&mut self, source: &str, data: Vec<u8>, target: &Target) -> anyhow::Result<()> {
        let written = match target {
            Target::Stream => return self.output.file(&data),
            Target::Named(path) => {
                let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
                let written = folder.and_then(|()| local_file::write(path, &data));
                if !self.is_written(path, written.map_err(Unwritten::Io))? {
                    return Ok(());
                }
                path.display().to_string()
            }
            Target::Below(folder, rest) => {
                let path = folder.join(rest);
                if !self.is_written(&path, beneath::write(folder, rest, &data))? {
                    return Ok(());
                }
                path.display().to_string()
            }
            Target::Room(path) => {
                let path = match entries::normalized(path) {
                    Ok(path) => path,
                    Err(_) if self.is_recursive => {
                        let reason = "its path is not allowed in a room".to_owned();
                        self.skipped.push((source.to_owned(), reason));
                        return Ok(());
                    }
                    Err(failure) => return Err(failure.into()),
                };
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

impl Copy<'_> {
    /// Whether a file of this machine was written. A folder is copied on if only this file can't
    /// be: in the room a file and a folder may have the same path, for example.
    fn is_written(&mut self, path: &Path, written: Result<(), Unwritten>) -> Result<bool, Failure> {
        match written {
            Ok(()) => Ok(true),
            Err(Unwritten::Io(error)) if self.is_recursive && concerns_one(&error) => {
                let path = path.display().to_string();
                self.skipped.push((path, reason(&error)));
                Ok(false)
            }
            Err(Unwritten::Io(error)) => Err(input::unwritable(path, error)),
            Err(Unwritten::Refused(failure)) => Err(failure),
        }
    }
}

/// Whether other files may be written in spite of this error.
fn concerns_one(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AlreadyExists
            | io::ErrorKind::ExecutableFileBusy
            | io::ErrorKind::InvalidFilename
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::PermissionDenied
    ) || is_unread(error)
}

/// Whether the path is that of a pipe that nobody reads, or of a socket.
fn is_unread(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error())
}

/// Why a file was skipped.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            "a file has the path of its folder".to_owned()
        }
        io::ErrorKind::IsADirectory => "a folder has its path".to_owned(),
        _ if is_unread(error) => "a socket, or a pipe that nobody reads, has its path".to_owned(),
        _ => error.to_string(),
    }
}

/// The reason to skip a live document.
const DOCUMENT: &str = "a live document";
