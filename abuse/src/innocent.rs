//! Two participants who do nothing wrong, one in the attacked room and one in another: each makes small edits at a steady
//! rate, whatever became of those before, and somebody beside it reads them.
//!
//! The delay of an edit counts from when it was due until it was acknowledged and seen. They have a thread of their own.

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

/// Between two edits of one of them.
const EDIT_EVERY: Duration = Duration::from_millis(25);
/// A reader says something now and then, or it would be dropped as silent.
const PING_EVERY: Duration = Duration::from_secs(10);
const JOIN_LIMIT: Duration = Duration::from_mins(1);
/// How long answers may still come after the last edit was sent.
const LAST_ANSWERS: Duration = Duration::from_secs(10);
/// An edit is sent under the message id `FIRST_ID` and its number.
const FIRST_ID: u64 = 1 << 20;
const DIGITS: usize = 7;

/// The only client id of its document.
const CLIENT: u64 = 4_000_000_007;
const PATH: &str = "innocent.document";

/// Where an innocent is, and what lets it in.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    pub(crate) room: &'static str,
    pub(crate) token: String,
}

/// Both, in the order of the rooms that were given.
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

/// What became of one's edits.
#[derive(Debug, Default)]
struct Track {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    edits: Vec<Edit>,
    is_ready: bool,
    /// How its connection, or its reader's, ended before its time.
    trouble: Option<String>,
    /// Edits that were acknowledged, and are not there in the end.
    lost: usize,
}

#[derive(Debug)]
struct Edit {
    due: Instant,
    acked: Option<Duration>,
    seen: Option<Duration>,
}

/// The delays of the edits of some time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Delays {
    pub(crate) count: usize,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
}

impl Innocents {
    /// Lets them join and begin; returns when both have done so.
    pub(crate) fn start(address: SocketAddr, places: [Seat; 2]) -> Result<Self> {
        let shared = Arc::new(Shared {
            is_over: AtomicBool::new(false),
            tracks: Default::default(),
        });
        let ours = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let [first, second] = &places;
            runtime.block_on(async {
                let (first, second) = tokio::join!(
                    live(address, first, &ours, 0),
                    live(address, second, &ours, 1)
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
                let trouble = innocents.state(number).trouble.clone();
                ensure!(
                    trouble.is_none() && began.elapsed() < JOIN_LIMIT,
                    "an innocent participant could not begin: {trouble:?}"
                );
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(innocents)
    }

    /// The delays of edits that were due between two moments. What has no answer yet counts with the time until now.
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

    /// Stops both, and looks for all their edits in a state that is opened for it; what is wrong with each.
    pub(crate) fn finish(&mut self) -> [Option<String>; 2] {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let ended = match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => Some(format!("{error:#}")),
            Some(Err(_panic)) => Some("its thread panicked".to_owned()),
            Some(Ok(Ok(()))) | None => None,
        };
        [0, 1].map(|number| {
            let state = self.state(number);
            let lost = state.lost;
            let lost = (lost > 0).then(|| format!("{lost} acknowledged edits are lost"));
            lost.or_else(|| state.trouble.clone())
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

    fn note_trouble(&self, trouble: String) {
        self.lock().trouble.get_or_insert(trouble);
    }
}

async fn live(address: SocketAddr, place: &Seat, shared: &Shared, number: usize) -> Result<()> {
    let track = &shared.tracks[number];
    let lived = edit_and_read(address, place, shared, track).await;
    if let Err(error) = &lived {
        track.note_trouble(format!("{error:#}"));
    }
    let missing = timeout(JOIN_LIMIT, find_missing(address, place, track)).await;
    match missing
        .context("its document could not be opened in time")
        .and_then(|found| found)
    {
        Ok(missing) => track.lock().lost = missing,
        Err(error) => track.note_trouble(format!("its document could not be read: {error:#}")),
    }
    Ok(())
}

async fn edit_and_read(
    address: SocketAddr,
    place: &Seat,
    shared: &Shared,
    track: &Track,
) -> Result<()> {
    let mut writer = open(address, place).await?;
    let mut reader = open(address, place).await?;
    let (answers, updates) = (writer.take_reader()?, reader.take_reader()?);
    track.lock().is_ready = true;
    let all = async {
        write(&mut writer, shared, track).await?;
        // The last answers.
        let began = Instant::now();
        while began.elapsed() < LAST_ANSWERS && track.lock().edits.iter().any(Edit::is_open) {
            sleep(EDIT_EVERY).await;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        ended = all => ended,
        ended = hear_answers(answers, track) => ended.context("its connection ended"),
        ended = hear_updates(updates, track) => ended.context("its reader's connection ended"),
        ended = say_something(&mut reader) => ended.context("its reader's connection ended"),
    }
}

impl Edit {
    fn is_open(&self) -> bool {
        self.acked.is_none() || self.seen.is_none()
    }
}

async fn open(address: SocketAddr, place: &Seat) -> Result<Socket> {
    let mut socket = Socket::connect(address, false)
        .await?
        .join(place.room, &place.token)
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
        socket.bytes(&bytes).await.context("its connection ended")?;
        due += EDIT_EVERY;
    }
    Ok(())
}

/// An element behind the last one, whose text holds its number.
fn append(ops: &mut Ops, last: Option<Id>, number: usize) -> Id {
    let place = last.map_or(Place::Root, Place::After);
    let id = ops.element_with_id(place, "body");
    let text = format!("#{number:0DIGITS$}# привет, שלום, 你好 🙂");
    ops.attribute(id, "text", &text);
    id
}

async fn hear_answers(mut answers: Reader, track: &Track) -> Result<()> {
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
            let text = format!("an edit was answered {}", message.header);
            state.trouble.get_or_insert(text);
        }
    }
}

async fn hear_updates(mut updates: Reader, track: &Track) -> Result<()> {
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

async fn say_something(socket: &mut Socket) -> Result<()> {
    loop {
        sleep(PING_EVERY).await;
        socket.frame(PING, true, b"").await?;
    }
}

/// How many acknowledged edits are not in the document.
async fn find_missing(address: SocketAddr, place: &Seat, track: &Track) -> Result<usize> {
    let mut socket = Socket::connect(address, false)
        .await?
        .join(place.room, &place.token)
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

/// The numbers of the edits whose texts these bytes hold.
fn numbers(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let windows = bytes.windows(DIGITS + 2);
    windows
        .filter(|window| window[0] == b'#' && window[DIGITS + 1] == b'#')
        .filter_map(|window| std::str::from_utf8(&window[1..=DIGITS]).ok()?.parse().ok())
}
