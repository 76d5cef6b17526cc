//! All checks of the workspace in one place; this program only starts the programs that test.

#![expect(clippy::print_stdout, reason = "commands print their progress")]

mod abuse;
mod autobahn;
mod bench;
mod fuzz;
mod interop;
mod picture;
mod process;
mod sim;
#[cfg(test)]
mod tidy;
mod wasm;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::process::{cargo, run};

const USAGE: &str = "\
usage: cargo xtask <command>

  test [--no-interop]   all tests, those with the published SDKs among them
  interop [TEST...]     install the published SDKs if needed, then run the interop tests;
                        MESHAGENT_BIN names another binary than target/debug/meshagent
  interop --install-only
  conformance [--seeds N] [--from N]
                        random scripts on our document, Yjs and pycrdt: 1000 seeds, or from this
                        one on; `--from N` alone repeats one
  conformance --differential [--seeds N] [--from N]
                        our engine beside Yjs at each step, with all kinds of content: 5000
                        scripts, or from this one on; `--from N` alone repeats one
  sim [--seeds N] [--from N] [--verbose]
                        simulates the whole server: 10000 seeds, or from this one on; `--from N`
                        alone repeats one, and `--verbose` shows its steps
  bench [--short] [--check] [SECTION...]
                        the figures of the document library, in a release build
  bench servers [--short] [--check] [--runs N] [--peers LIST] [--out DIR] [SCENARIO...]
                        our server beside Hocuspocus, Y-Sweet, y-websocket and bare relays
  abuse [--profile NAME] [--short] [--check] [--list] [--out FILE] [NAME...]
                        attacks on the server binary beside innocent participants, in a release
                        build or with another profile; MESHAGENT_BIN names another binary
  autobahn              the cases of the Autobahn suite on the server's WebSocket reader; needs
                        CPython 2.7
  man [DIR]             the man pages of the command line tool, in target/man or DIR
  picture               runs two participants of a real server and draws the session as
                        docs/demo.svg
  wasm                  the tests of the pure crates on wasm32 under Node
  fuzz [--seconds N] [TARGET...]
                        the fuzz targets, each for N seconds [default: 60]
  ci                    formatting, lints, dependency policy, a little fuzzing, then all tests";

/// The limit of a build: a cold release build on two cores takes minutes.
const BUILD_LIMIT: Duration = Duration::from_mins(25);

/// The limit for all tests, with their build.
const TEST_LIMIT: Duration = Duration::from_hours(1);

const CONFORMANCE_SEEDS: u64 = 1000;

const DIFFERENTIAL_SCRIPTS: u64 = 5000;

/// The limit of a conformance run: ten thousand seeds of 0.1 s, or differential scripts of 0.5 s.
const CONFORMANCE_LIMIT: Duration = Duration::from_hours(3);

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["test"] => test(true),
        ["test", "--no-interop"] => test(false),
        ["interop", "--install-only"] => interop::prepare(),
        ["interop", filters @ ..] => interop(filters),
        ["man"] => man(&target_dir().join("man")),
        ["man", directory] => man(Path::new(directory)),
        ["picture"] => picture::picture(),
        ["wasm"] => wasm::test(),
        ["conformance", options @ ..] => conformance(options),
        ["sim", arguments @ ..] => sim::sim(arguments),
        ["autobahn"] => autobahn::autobahn(),
        ["abuse", arguments @ ..] => abuse::abuse(arguments),
        ["bench", arguments @ ..] => bench::bench(arguments),
        ["fuzz", arguments @ ..] => fuzz::fuzz(arguments),
        ["ci"] => ci(),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        _ => bail!("unknown command {args:?}\n{USAGE}"),
    }
}

/// Runs all tests in one command: separate parts would build their common crates with different
/// features.
fn test(with_interop: bool) -> Result<()> {
    // `--no-fail-fast` shows all failures, not only those of the first program with a failure.
    let mut tests = cargo(&["test", "--workspace", "--no-fail-fast"]);
    if with_interop {
        // The interop tests run the binary that cargo builds with the tests.
        interop::prepare()?;
    } else {
        tests.args(["--exclude", "interop"]);
    }
    run(tests, TEST_LIMIT)?;
    if wasm::is_target_installed() {
        wasm::test()?;
    } else {
        println!("xtask: the wasm32 target is not installed, its tests are skipped");
    }
    println!("xtask: all tests passed");
    Ok(())
}

fn interop(filters: &[&str]) -> Result<()> {
    run(cargo(&["build", "-p", "meshagent-cli"]), BUILD_LIMIT)?;
    interop::prepare()?;
    // A test that is skipped without the API page prints that, and a passing test prints nothing.
    let mut tests = cargo(&["test", "-p", "interop", "--", "--show-output"]);
    tests.args(filters);
    if std::env::var_os("MESHAGENT_BIN").is_none() {
        let name = format!("meshagent{}", std::env::consts::EXE_SUFFIX);
        tests.env("MESHAGENT_BIN", target_dir().join("debug").join(name));
    }
    run(tests, BUILD_LIMIT)
}

fn man(directory: &Path) -> Result<()> {
    let mut tool = cargo(&["run", "-p", "meshagent-cli", "--", "man", "--output"]);
    tool.arg(directory);
    run(tool, BUILD_LIMIT)?;
    println!("xtask: the man pages are in {}", directory.display());
    Ok(())
}

fn conformance(options: &[&str]) -> Result<()> {
    let is_differential = options.first() == Some(&"--differential");
    let (test, prefix, all) = if is_differential {
        (
            "our_engine_does_at_each_step",
            "DIFFERENTIAL",
            DIFFERENTIAL_SCRIPTS,
        )
    } else {
        ("random_scripts", "CONFORMANCE", CONFORMANCE_SEEDS)
    };
    let (mut seeds, mut from): (Option<u64>, Option<u64>) = (None, None);
    for option in options[usize::from(is_differential)..].chunks(2) {
        match option {
            ["--seeds", number] => seeds = Some(number.parse()?),
            ["--from", number] => from = Some(number.parse()?),
            _ => bail!("unknown option {option:?}\n{USAGE}"),
        }
    }
    let otherwise = if from.is_some() { 1 } else { all };
    let seeds = seeds.unwrap_or(otherwise);
    interop::prepare()?;
    let mut tests = cargo(&["test", "-p", "interop", "--test", "conformance"]);
    tests
        .args(["--", test, "--nocapture"])
        .env(format!("{prefix}_SEEDS"), seeds.to_string())
        .env(format!("{prefix}_FROM"), from.unwrap_or(0).to_string());
    run(tests, CONFORMANCE_LIMIT)
}

fn ci() -> Result<()> {
    run(cargo(&["fmt", "--all", "--check"]), BUILD_LIMIT)?;
    let clippy = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    run(cargo(&clippy), BUILD_LIMIT)?;
    run(
        cargo(&["deny", "check", "licenses", "bans", "sources"]),
        BUILD_LIMIT,
    )?;
    fuzz::fuzz_shortly()?;
    bench::check_shortly()?;
    test(true)?;
    bench::check_servers()?;
    abuse::check_shortly()
}

fn workspace_root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace_root().join("target"), PathBuf::from)
}
