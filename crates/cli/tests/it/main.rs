//! Tests of the real binary: arguments, environment, exit codes and output. The server itself is
//! tested elsewhere.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a step that fails is the test that fails"
)]

mod arguments;
mod connect;
mod copies;
mod creating;
mod data_dir;
mod descriptors;
mod edit;
mod failures;
mod full_disk;
mod help;
mod hostile;
mod import;
mod joiners;
mod kill;
mod local_files;
mod log;
mod memory;
mod packaging;
mod patchless;
mod raw;
mod readme;
mod room;
mod same_path;
mod serve;
mod slow_reader;
mod stop;
mod storage;
mod stress;
mod sync;
mod terminal;
mod tls;
mod token;
mod tutorial;
mod update;
mod watch;

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// From the golden vectors; the secret contains the separator.
const KEY: &str = "ma-Ej5FZ.ibEtOkVkJmFBdAAA-._fvPjt7T76____._fz7.g-\
                   a-secret-with-dashes-and-enough-length-0123456789";
const KEY_ID: &str = "123e4567-e89b-12d3-a456-426614174000";
const PROJECT_ID: &str = "fbf7ef3e-3b7b-4fbe-bfff-fffefdfcfbfa";
const SECRET: &str = "a-secret-with-dashes-and-enough-length-0123456789";
/// A time before the tokens of the vectors expire.
const NOW: u64 = 1_900_000_000;

/// The command with an empty environment and the given home directory. `MESHAGENT_BIN` names
/// another binary.
fn meshagent(home: &Path, arguments: &[&str]) -> Command {
    let named = std::env::var_os("MESHAGENT_BIN");
    let mut command = Command::new(named.unwrap_or_else(|| env!("CARGO_BIN_EXE_meshagent").into()));
    command
        .args(arguments)
        .env_clear()
        .env("HOME", home)
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null());
    command
}

struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(command: &mut Command) -> Ran {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    Ran {
        code: status.code(),
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}

/// Verifies a token with the key of the vectors.
fn verified(jwt: &str) -> meshagent_protocol::ParticipantToken {
    let key = meshagent_protocol::ApiKey::parse(KEY).unwrap();
    meshagent_protocol::TokenVerifier::new(PROJECT_ID, [key])
        .verify(jwt, NOW)
        .unwrap()
}
