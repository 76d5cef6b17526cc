//! One attack, from the start of its server to the check of its goals.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::runtime::Builder;
use tokio::time::{sleep, timeout};

use crate::attack::Attack;
use crate::innocent::{Delays, Innocents, Seat};
use crate::server::{Memory, Server};
use crate::stage::{ARENA, ELSEWHERE, Pace, Stage, token_for};

/// The address space that a server may take beyond that of an idle server and its documents.
const SPACE_BOUND: u64 = 1 << 30;
/// The memory that may stay in caches, threads and the allocator.
const KEPT_BOUND: u64 = 96 << 20;
const PREPARATION_LIMIT: Duration = Duration::from_mins(2);
/// The time after an attack in which its effects may still show.
const AFTER: Duration = Duration::from_secs(2);
/// The time after its limit at which an attack is cut off.
const CUT_OFF_GRACE: Duration = Duration::from_secs(1);

const ELSEWHERE_GOAL: Duration = Duration::from_millis(100);
const SAME_ROOM_GOAL: Duration = Duration::from_secs(1);
/// On a slow machine a delay may be this many times its baseline.
const TIMES_BASELINE: u32 = 3;

/// The measured effects of an attack.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) name: &'static str,
    pub(crate) description: &'static str,
    pub(crate) result: String,
    pub(crate) took: Duration,
    /// The largest increase over the memory before the attack.
    pub(crate) peak: Memory,
    /// The increase of resident memory at the end, and the time since the attack.
    pub(crate) kept: u64,
    pub(crate) kept_after: Duration,
    pub(crate) elsewhere: Comparison,
    pub(crate) same_room: Comparison,
    /// The missed goals, in words.
    pub(crate) missed: Vec<String>,
}

/// An innocent participant's delays before the attack and during it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Comparison {
    pub(crate) before: Delays,
    pub(crate) during: Delays,
}

pub(crate) fn run(attack: &Attack, binary: &PathBuf, pace: Pace) -> Result<Outcome> {
    let mut server = Server::start(binary)?;
    server.bound_space(SPACE_BOUND + attack.documents)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let stage = Stage::new(&server, pace);
    let seats = [ELSEWHERE, ARENA].map(|room| Seat {
        room,
        token: token_for("innocent", room).sign(stage.key()),
    });
    let mut innocents = Innocents::start(server.address, seats)
        .with_context(|| format!("before {}", attack.name))?;

    let result = runtime.block_on(async {
        let cut_off = async {
            stage.time_is_up().await;
            sleep(CUT_OFF_GRACE).await;
        };
        let never_begun = async {
            sleep(PREPARATION_LIMIT).await;
            if stage.begun().is_some() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            result = (attack.run)(&stage) => {
                result.unwrap_or_else(|error| format!("ended: {error:#}"))
            }
            () = cut_off => "ran until its time limit".to_owned(),
            () = never_begun => "the preparations did not end in time".to_owned(),
        }
    });
    // Connections that the attack left open in tasks end with the runtime.
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
    let bound = KEPT_BOUND + attack.documents;
    while ended.elapsed() < pace.aftermath && kept(&server) > bound {
        std::thread::sleep(Duration::from_millis(100));
    }
    let (kept, kept_after) = (kept(&server), ended.elapsed());
    let peaks = server.peaks();
    let is_alive = is_alive(&runtime);
    let delays = |number| {
        let Some(begun) = begun else {
            return Comparison::default();
        };
        Comparison {
            before: innocents.delays(number, begun.baseline_from, begun.at),
            during: innocents.delays(number, begun.at, until),
        }
    };
    let (elsewhere, same_room) = (delays(0), delays(1));
    let failures = innocents.finish();

    let mut missed = Vec::new();
    if let Some(end) = server.end()? {
        missed.push(format!("the process ended: {end}"));
    } else {
        if !is_alive {
            missed.push("/healthz did not answer with 200".to_owned());
        }
        if let Some(panic) = server.panic() {
            missed.push(panic);
        }
        if begun.is_none() {
            missed.push(format!("the attack did not begin: {result}"));
        }
        if kept > bound && !pace.is_short {
            let megabytes = kept >> 20;
            let after = kept_after.as_secs();
            missed.push(format!("{megabytes} MB are still held after {after} s"));
        }
        for (place, failure) in ["another room", "the same room"].iter().zip(failures) {
            if let Some(failure) = failure {
                missed.push(format!("in {place}: {failure}"));
            }
        }
        let goals = [
            ("another room", elsewhere, ELSEWHERE_GOAL),
            ("the same room", same_room, SAME_ROOM_GOAL),
        ];
        for (place, delays, goal) in goals {
            let goal = goal.max(delays.before.p99 * TIMES_BASELINE);
            let p99 = delays.during.p99;
            if p99 > goal && !pace.is_short {
                missed.push(format!("p99 of {} ms in {place}", p99.as_millis()));
            }
        }
    }
    Ok(Outcome {
        name: attack.name,
        description: attack.description,
        result,
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
    })
}
