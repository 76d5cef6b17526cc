//! Two innocent participants, one in the attacked room and one in another room.
//!
//! Each makes small edits at a steady rate, without waiting for earlier ones, and a second
//! connection reads them. The delay of an edit counts from its due time until it is acknowledged
//! and has reached the reader. The participants run in a thread of their own.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use meshagent_protocol::decode_base64;
use tokio::runtime::Builder;
use tokio::time::{sleep, sleep_until, timeout};

use crate::forge::{Id, Ops, Place};
use crate::socket::{PING, Reader, Socket};

/// The interval between two edits of a participant.
const EDIT_EVERY: Duration = Duration::from_millis(25);
/// The interval of a reader's pings, without which the server would drop it as silent.
const PING_EVERY: Duration = Duration::from_secs(10);
const JOIN_LIMIT: Duration = Duration::from_mins(1);
/// The time for outstanding answers after the last edit.
const LAST_ANSWERS: Duration = Duration::from_secs(10);
/// The message id of the first edit; later edits count up from it.
const FIRST_ID: u64 = 1 << 20;
const DIGITS: usize = 7;

/// The only client id in an innocent's document.
const CLIENT: u64 = 4_000_000_007;
const PATH: &str = "innocent.document";

/// The room of an innocent participant, and its token.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    pub(crate) room: &'static str,
    pub(crate) token: String,
}

/// Both innocent participants, in the order of their seats.
#[derive(Debug)]
pub(crate) struct Innocents {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug)]
struct Shared {
    is_over: AtomicBool,
    tracks: [Track; 2],
}

/// The record of one participant's edits.
#[derive(Debug, Default)]
struct Track {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    edits: Vec<Edit>,
    is_ready: bool,
    /// Why the connection of the participant or of its reader ended early.
    failure: Option<String>,
    /// Acknowledged edits that are missing at the end.
    lost: usize,
}

#[derive(Debug)]
struct Edit {
    due: Instant,
    acked: Option<Duration>,
    seen: Option<Duration>,
}

/// The delays of the edits in a period.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Delays {
    pub(crate) count: usize,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
}

impl Innocents {
    /// Starts both participants, and returns when both have joined and opened their documents.
    pub(crate) fn start(address: SocketAddr, seats: [Seat; 2]) -> Result<Self> {
        let shared = Arc::new(Shared {
            is_over: AtomicBool::new(false),
            tracks: Default::default(),
        });
        let ours = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let [first, second] = &seats;
            runtime.block_on(async {
                let (first, second) = tokio::join!(
                    participate(address, first, &ours, 0),
                    participate(address, second, &ours, 1)
                );
                first.and(second)
            })
        });
        let innocents = Self {
            shared,
            thread: Some(thread),
        };
        let began = Instant::now();
        for number in 0..2 {
            while !innocents.state(number).is_ready {
                let failure = innocents.state(number).failure.clone();
                ensure!(
                    failure.is_none() && began.elapsed() < JOIN_LIMIT,
                    "an innocent participant did not start: {failure:?}"
                );
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(innocents)
    }

    /// Returns the delays of the edits that were due between two moments.
    ///
    /// An edit without an answer counts with the time so far.
    pub(crate) fn delays(&self, number: usize, from: Instant, to: Instant) -> Delays {
        let now = Instant::now();
        let state = self.state(number);
        let edits = state.edits.iter();
        let mut delays: Vec<Duration> = edits
            .filter(|edit| edit.due >= from && edit.due < to)
            .map(|edit| match (edit.acked, edit.seen) {
                (Some(acked), Some(seen)) => acked.max(seen),
                _ => now.saturating_duration_since(edit.due),
            })
            .collect();
        delays.sort_unstable();
        let at = |percent| {
            let last = delays.len().saturating_sub(1);
            delays
                .get(last * percent / 100)
                .copied()
                .unwrap_or_default()
        };
        Delays {
            count: delays.len(),
            p50: at(50),
            p99: at(99),
            max: at(100),
        }
    }

    /// Stops both participants, opens their documents again, and looks for all their edits there.
    ///
    /// Returns the failure of each.
    pub(crate) fn finish(&mut self) -> [Option<String>; 2] {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let ended = match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => Some(format!("{error:#}")),
            Some(Err(_panic)) => Some("the thread of the innocents panicked".to_owned()),
            Some(Ok(Ok(()))) | None => None,
        };
        [0, 1].map(|number| {
            let state = self.state(number);
            let lost = state.lost;
            let lost = (lost > 0).then(|| format!("{lost} acknowledged edits are lost"));
            lost.or_else(|| state.failure.clone())
                .or_else(|| ended.clone())
        })
    }

    fn state(&self, number: usize) -> MutexGuard<'_, State> {
        self.shared.tracks[number].lock()
    }
}

impl Drop for Innocents {
    fn drop(&mut self) {
        let _ = self.finish();
    }
}

impl Track {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report_failure(&self, failure: String) {
        self.lock().failure.get_or_insert(failure);
    }
}

async fn participate(
    address: SocketAddr,
    seat: &Seat,
    shared: &Shared,
    number: usize,
) -> Result<()> {
    let track = &shared.tracks[number];
    let ended = edit_and_read(address, seat, shared, track).await;
    if let Err(error) = &ended {
        track.report_failure(format!("{error:#}"));
    }
    let missing = timeout(JOIN_LIMIT, find_missing(address, seat, track)).await;
    match missing
        .context("the document did not open in time")
        .and_then(|found| found)
    {
        Ok(missing) => track.lock().lost = missing,
        Err(error) => track.report_failure(format!("the document is not readable: {error:#}")),
    }
    Ok(())
}

async fn edit_and_read(
    address: SocketAddr,
    seat: &Seat,
    shared: &Shared,
    track: &Track,
) -> Result<()> {
    let mut writer = open(address, seat).await?;
    let mut reader = open(address, seat).await?;
    let (answers, updates) = (writer.take_reader()?, reader.take_reader()?);
    track.lock().is_ready = true;
    let all = async {
        write(&mut writer, shared, track).await?;
        // Waits for the last answers.
        let began = Instant::now();
        while began.elapsed() < LAST_ANSWERS && track.lock().edits.iter().any(Edit::is_open) {
            sleep(EDIT_EVERY).await;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        ended = all => ended,
        ended = read_answers(answers, track) => ended.context("the connection ended"),
        ended = read_updates(updates, track) => ended.context("the reader's connection ended"),
        ended = send_pings(&mut reader) => ended.context("the reader's connection ended"),
    }
}

impl Edit {
    fn is_open(&self) -> bool {
        self.acked.is_none() || self.seen.is_none()
    }
}

async fn open(address: SocketAddr, seat: &Seat) -> Result<Socket> {
    let mut socket = Socket::connect(address, false)
        .await?
        .join(seat.room, &seat.token)
        .await?;
    socket.open_document("open", PATH).await?;
    while socket.next().await?.kind != "room.tool_call_response_chunk" {}
    Ok(socket)
}

async fn write(socket: &mut Socket, shared: &Shared, track: &Track) -> Result<()> {
    let mut last = None;
    let mut clock = 0;
    let mut due = Instant::now();
    for number in 0.. {
        sleep_until(due.into()).await;
        if shared.is_over.load(Ordering::Relaxed) {
            break;
        }
        let mut ops = Ops::new(CLIENT, clock);
        last = Some(append(&mut ops, last, number));
        clock = ops.next();
        track.lock().edits.push(Edit {
            due,
            acked: None,
            seen: None,
        });
        let payload = meshagent_protocol::encode_base64(&ops.finish());
        let header = crate::socket::chunk("open", r#"{"kind":"sync"}"#);
        let id = FIRST_ID + number as u64;
        let bytes = crate::socket::message(id, "room.tool_call_request_chunk", &header, &payload);
        socket.bytes(&bytes).await.context("the connection ended")?;
        due += EDIT_EVERY;
    }
    Ok(())
}

/// Adds an element after the last one, with its number in its text.
fn append(ops: &mut Ops, last: Option<Id>, number: usize) -> Id {
    let place = last.map_or(Place::Root, Place::After);
    let id = ops.element_with_id(place, "body");
    let text = format!("#{number:0DIGITS$}# привет, שלום, 你好 🙂");
    ops.attribute(id, "text", &text);
    id
}

async fn read_answers(mut answers: Reader, track: &Track) -> Result<()> {
    loop {
        let message = answers.next().await?;
        let Some(number) = message.id.checked_sub(FIRST_ID) else {
            continue;
        };
        if message.kind != "__response__" {
            continue;
        }
        let mut state = track.lock();
        if message.header["type"] == "empty" {
            if let Some(edit) = state.edits.get_mut(usize::try_from(number)?) {
                edit.acked.get_or_insert_with(|| edit.due.elapsed());
            }
        } else {
            let text = format!("an edit was refused: {}", message.header);
            state.failure.get_or_insert(text);
        }
    }
}

async fn read_updates(mut updates: Reader, track: &Track) -> Result<()> {
    loop {
        let message = updates.next().await?;
        if message.kind == "room.tool_call_response_chunk" {
            let update = decode_base64(&message.payload)?;
            let mut state = track.lock();
            for number in numbers(&update) {
                if let Some(edit) = state.edits.get_mut(number) {
                    edit.seen.get_or_insert_with(|| edit.due.elapsed());
                }
            }
        }
    }
}

async fn send_pings(socket: &mut Socket) -> Result<()> {
    loop {
        sleep(PING_EVERY).await;
        socket.frame(PING, true, b"").await?;
    }
}

/// Opens the document again, and counts the acknowledged edits that are not in it.
async fn find_missing(address: SocketAddr, seat: &Seat, track: &Track) -> Result<usize> {
    let mut socket = Socket::connect(address, false)
        .await?
        .join(seat.room, &seat.token)
        .await?;
    socket.open_document("open", PATH).await?;
    let state = loop {
        let message = socket.next().await?;
        if message.kind == "room.tool_call_response_chunk" {
            break decode_base64(&message.payload)?;
        }
    };
    let there: std::collections::HashSet<usize> = numbers(&state).collect();
    let edits = &track.lock().edits;
    let acked = edits
        .iter()
        .enumerate()
        .filter(|(_, edit)| edit.acked.is_some());
    Ok(acked.filter(|(number, _)| !there.contains(number)).count())
}

/// Returns the numbers of the edits whose texts are in these bytes.
fn numbers(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let windows = bytes.windows(DIGITS + 2);
    windows
        .filter(|window| window[0] == b'#' && window[DIGITS + 1] == b'#')
        .filter_map(|window| std::str::from_utf8(&window[1..=DIGITS]).ok()?.parse().ok())
}
