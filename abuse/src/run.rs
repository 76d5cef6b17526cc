//! One attack from the server's start to its verdict.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::runtime::Builder;
use tokio::time::{sleep, timeout};

use crate::attack::Attack;
use crate::innocent::{Delays, Innocents, Seat};
use crate::server::{Memory, Server};
use crate::stage::{ARENA, ELSEWHERE, Pace, Stage, token_for};

/// The address space that a server may take beyond that of an idle one and its documents.
const SPACE: u64 = 1 << 30;
/// What may stay of memory for caches, threads and the allocator.
const KEPT: u64 = 96 << 20;
const PREPARATION_LIMIT: Duration = Duration::from_mins(2);
/// What an attack does may show some time after it.
const AFTER: Duration = Duration::from_secs(2);
/// An attack that is over its time is cut off; this much later it is over for certain.
const GRACE: Duration = Duration::from_secs(1);

const ELSEWHERE_GOAL: Duration = Duration::from_millis(100);
const SAME_ROOM_GOAL: Duration = Duration::from_secs(1);
/// On a slow machine delays may be so many times those without an attack.
const TIMES_BASELINE: u32 = 3;

/// What an attack did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) said: String,
    pub(crate) took: Duration,
    /// How much more it had at its worst than before.
    pub(crate) peak: Memory,
    /// How much more was resident in the end, and how long after.
    pub(crate) kept: u64,
    pub(crate) kept_after: Duration,
    pub(crate) elsewhere: Beside,
    pub(crate) same_room: Beside,
    /// Each goal that was missed, in words.
    pub(crate) missed: Vec<String>,
    pub(crate) shown_only: Option<&'static str>,
}

/// An innocent's delays without the attack, and during it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Beside {
    pub(crate) before: Delays,
    pub(crate) during: Delays,
}

pub(crate) fn run(attack: &Attack, binary: &PathBuf, pace: Pace) -> Result<Outcome> {
    let mut server = Server::start(binary)?;
    server.bound_space(SPACE + attack.documents)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let stage = Stage::new(&server, pace);
    let seats = [ELSEWHERE, ARENA].map(|room| Seat {
        room,
        token: token_for("innocent", room).sign(stage.key()),
    });
    let mut innocents = Innocents::start(server.address, seats)
        .with_context(|| format!("before {}", attack.name))?;

    let said = runtime.block_on(async {
        let cut_off = async {
            stage.time_is_up().await;
            sleep(GRACE).await;
        };
        let never_begun = async {
            sleep(PREPARATION_LIMIT).await;
            if stage.begun().is_some() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            said = (attack.run)(&stage) => said.unwrap_or_else(|error| format!("ended: {error:#}")),
            () = cut_off => "went on until its time was up".to_owned(),
            () = never_begun => "could not be prepared".to_owned(),
        }
    });
    // What it left open in tasks ends with their runtime.
    runtime.shutdown_background();
    let ended = Instant::now();
    let begun = stage.begun();
    let is_alive = |runtime: &tokio::runtime::Runtime| {
        let asked = async { timeout(Duration::from_secs(20), stage.get("/healthz")).await };
        matches!(runtime.block_on(asked), Ok(Ok(line)) if line.contains(" 200 "))
    };
    let runtime = Builder::new_current_thread().enable_all().build()?;
    std::thread::sleep(if pace.is_short { AFTER / 4 } else { AFTER });
    let until = Instant::now();

    let before = begun.map(|begun| begun.memory).unwrap_or_default();
    let kept = |server: &Server| {
        let now = server.memory().unwrap_or_default();
        now.resident.saturating_sub(before.resident)
    };
    let bound = KEPT + attack.documents;
    while ended.elapsed() < pace.aftermath && kept(&server) > bound {
        std::thread::sleep(Duration::from_millis(100));
    }
    let (kept, kept_after) = (kept(&server), ended.elapsed());
    let peaks = server.peaks();
    let is_alive = is_alive(&runtime);
    let delays = |number| {
        let Some(begun) = begun else {
            return Beside::default();
        };
        Beside {
            before: innocents.delays(number, begun.baseline_from, begun.at),
            during: innocents.delays(number, begun.at, until),
        }
    };
    let (elsewhere, same_room) = (delays(0), delays(1));
    let troubles = innocents.finish();

    let mut missed = Vec::new();
    if let Some(end) = server.end()? {
        missed.push(format!("the process ended: {end}"));
    } else {
        if !is_alive {
            missed.push("/healthz does not answer".to_owned());
        }
        if let Some(panic) = server.panic() {
            missed.push(panic);
        }
        if begun.is_none() {
            missed.push(format!("it could not begin: {said}"));
        }
        if kept > bound && !pace.is_short {
            let megabytes = kept >> 20;
            let after = kept_after.as_secs();
            missed.push(format!("{megabytes} MB are still held after {after} s"));
        }
        for (place, trouble) in ["another room", "the same room"].iter().zip(troubles) {
            if let Some(trouble) = trouble {
                missed.push(format!("in {place}: {trouble}"));
            }
        }
        let goals = [
            ("another room", elsewhere, ELSEWHERE_GOAL),
            ("the same room", same_room, SAME_ROOM_GOAL),
        ];
        for (place, delays, goal) in goals {
            let goal = goal.max(delays.before.p99 * TIMES_BASELINE);
            let p99 = delays.during.p99;
            if p99 > goal && !pace.is_short && attack.shown_only.is_none() {
                missed.push(format!("p99 of {} ms in {place}", p99.as_millis()));
            }
        }
    }
    Ok(Outcome {
        name: attack.name,
        what: attack.what,
        said,
        took: begun.map_or(Duration::ZERO, |begun| ended - begun.at),
        peak: Memory {
            resident: peaks.resident.saturating_sub(before.resident),
            space: peaks.space.saturating_sub(before.space),
        },
        kept,
        kept_after,
        elsewhere,
        same_room,
        missed,
        shown_only: attack.shown_only,
    })
}
