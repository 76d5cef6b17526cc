//! `meshagent token`: signs a participant token that a file describes.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use meshagent_protocol::{ApiScope, Grant, ParticipantToken, Role, RoomName};
use serde::Deserialize;

use crate::failure::{Failure, USAGE};
use crate::local_file;
use crate::private_file;
use crate::room::given_token;
use crate::room::input::{self, is_standard_stream};
use crate::scope;
use crate::settings::ProjectArgs;

/// Sign a participant token
///
/// A YAML file describes the participant, the room and the permissions.
#[derive(Args, Debug)]
#[command(after_help = "The file is YAML:
  version: v1
  kind: ParticipantToken
  identity: ada
  room: my-room
  role: user            # or agent, or tool
  api:
    sync:
      paths:
        - path: \"notes/*\"
          read_only: true
    storage: {}
    messaging: {}

Example:
  meshagent token --input token.yaml --output token.jwt")]
pub(crate) struct TokenArgs {
    /// File that describes the token; `-` reads stdin
    #[arg(long, short, value_name = "FILE")]
    input: PathBuf,

    /// File for the token, readable only by its owner [default: stdout]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// API key to sign with [default: from the environment, else of the server on this machine]
    #[arg(long, value_name = "KEY")]
    key: Option<String>,

    #[command(flatten)]
    project: ProjectArgs,
}

/// The content of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenSpec {
    version: Version,
    kind: Kind,
    identity: String,
    /// Required: a token without a room opens no room.
    room: String,
    role: Option<SpecRole>,
    api: serde_json::Value,
}

#[derive(Deserialize)]
enum Version {
    #[serde(rename = "v1")]
    V1,
}

#[derive(Deserialize)]
enum Kind {
    ParticipantToken,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum SpecRole {
    Agent,
    Tool,
    User,
}

/// # Errors
/// If the file is invalid, no key is found, or the token can't be written.
pub(crate) fn run(args: &TokenArgs) -> anyhow::Result<()> {
    let text = input::read(&args.input)?;
    let token = parse(&text).map_err(|failure| {
        let message = format!("{} is not a valid token file", input::name(&args.input));
        Failure::new(message)
            .with_source(failure)
            .with_exit_code(USAGE)
            .with_hint("`meshagent token --help` shows an example")
    })?;
    let jwt = token.sign(&args.project.key(args.key.as_deref())?);
    let Some(path) = args
        .output
        .as_deref()
        .filter(|path| !is_standard_stream(path))
    else {
        return writeln!(std::io::stdout(), "{jwt}").context("can't write to stdout");
    };
    // A file gets no trailing newline, which readers would have to strip.
    let written = if is_stream(path)? {
        // Never created here: a new file would be readable by everybody.
        let stream = OpenOptions::new().write(true).open(path);
        stream.and_then(|mut stream| stream.write_all(jwt.as_bytes()))
    } else {
        private_file::write(path, jwt.as_bytes())
    };
    Ok(written.map_err(|error| input::unwritable(path, error))?)
}

/// Whether the path is an existing pipe or device. A file is replaced by one that only its owner
/// may read. A symbolic link to a file is refused, because the target would keep the location and
/// permissions that others chose.
fn is_stream(path: &Path) -> Result<bool, Failure> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(false);
    };
    if !metadata.is_symlink() || local_file::is_system_link(path) {
        return Ok(!metadata.is_file());
    }
    if fs::metadata(path).is_ok_and(|target| !target.is_file()) {
        return Ok(true);
    }
    let message = format!("{} is a symbolic link", path.display());
    Err(Failure::new(message)
        .with_exit_code(USAGE)
        .with_hint("pass the target file: it is replaced by one that only its owner may read"))
}

/// A token with the grants in the order of the published SDKs. The role `user` needs no grant.
pub(crate) fn token(
    identity: &str,
    room: &RoomName,
    role: Role,
    api: ApiScope,
) -> ParticipantToken {
    let mut token = ParticipantToken::new(identity);
    if role != Role::User {
        token.grants.push(Grant::Role(role));
    }
    token.grants.push(Grant::Api(Box::new(api)));
    token.grants.push(Grant::Room(room.to_string()));
    token
}

fn parse(text: &[u8]) -> Result<ParticipantToken, Failure> {
    let TokenSpec {
        version: Version::V1,
        kind: Kind::ParticipantToken,
        identity,
        room,
        role,
        api,
    } = serde_saphyr::from_slice(text).map_err(|error| Failure::new(reason(text, &error)))?;
    if identity.trim().is_empty() {
        return Err(Failure::new(format!(
            "invalid identity {identity:?}: expected a text that is not empty"
        )));
    }
    let room = RoomName::parse(&room)
        .map_err(|error| Failure::new(format!("invalid room {room:?}")).with_source(error))?;
    let role = match role {
        Some(SpecRole::Agent) => Role::Agent,
        Some(SpecRole::Tool) => Role::Tool,
        Some(SpecRole::User) | None => Role::User,
    };
    let api = scope::parse(&api, "api")
        .map_err(|error| Failure::new("invalid api scope").with_source(error))?;
    Ok(token(&identity, &room, role, api))
}

/// Why a text is not a token file, on one line; the library also quotes the text around the place.
fn reason(text: &[u8], error: &serde_saphyr::Error) -> String {
    if str::from_utf8(text).is_ok_and(|text| given_token::is_token(text.trim())) {
        return "it contains a signed token, not the YAML that describes one".to_owned();
    }
    let shown = error.to_string();
    let first = shown.lines().next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(first);
    let line = first.strip_prefix("line ").and_then(|rest| {
        let number: usize = rest.split(' ').next()?.parse().ok()?;
        let line = str::from_utf8(text)
            .ok()?
            .lines()
            .nth(number.checked_sub(1)?)?
            .trim();
        (!line.is_empty() && line.len() <= MAX_SHOWN_BYTES).then_some(line)
    });
    match line {
        Some(line) => format!("{first}: `{line}`"),
        None => first.to_owned(),
    }
}

/// Longer lines of a token file are not quoted in errors.
const MAX_SHOWN_BYTES: usize = 80;
