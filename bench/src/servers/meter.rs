//! What readers got of what writers wrote, and when.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use hdrhistogram::Histogram;

use super::host::Host;
use super::link::Listener;
use super::speech::{Heard, Speech};
use super::workload::ClockReader;

/// What all listeners of a run write down.
#[derive(Debug)]
pub struct Meter {
    clocks: ClockReader,
    /// When each update was due, by writer; the first has the clock 1.
    due: Vec<Vec<Instant>>,
    latencies: Histogram<u64>,
    /// The same, with what the host took of our cores.
    gross: Histogram<u64>,
    host: Host,
    counts: Counts,
    /// Something that no protocol says.
    failure: Option<String>,
}

/// What came so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Updates, at each who got it.
    pub delivered: u64,
    /// Messages that carried them.
    pub messages: u64,
    /// Bytes of all messages.
    pub bytes: u64,
    /// Updates whose writers were told that they arrived.
    pub acknowledged: u64,
    /// Clients that have the document's state.
    pub ready: u64,
}

/// A meter that listeners share.
pub type SharedMeter = Rc<RefCell<Meter>>;

impl Meter {
    /// A meter of so many writers.
    pub fn shared(writers: usize) -> SharedMeter {
        Rc::new(RefCell::new(Self {
            clocks: ClockReader::default(),
            due: vec![Vec::new(); writers],
            latencies: histogram(),
            gross: histogram(),
            host: Host::default(),
            counts: Counts::default(),
            failure: None,
        }))
    }

    /// What came so far.
    ///
    /// # Errors
    /// When something came that should not have.
    pub fn counts(&self) -> Result<Counts> {
        match &self.failure {
            Some(failure) => anyhow::bail!("{failure}"),
            None => Ok(self.counts),
        }
    }

    /// Says when a writer's next update is due.
    pub fn due(&mut self, writer: usize, at: Instant) {
        self.due[writer].push(at);
    }

    /// Latencies since the last call, in microseconds: without the time for which the host gave our cores to others, and
    /// with it.
    pub fn take_latencies(&mut self) -> [Histogram<u64>; 2] {
        self.host.forget();
        [&mut self.latencies, &mut self.gross].map(|taken| std::mem::replace(taken, histogram()))
    }

    /// Looks at what the host took; to be called every few milliseconds while something is measured.
    pub fn look_at_host(&mut self) {
        self.host.look(Instant::now());
    }
}

fn histogram() -> Histogram<u64> {
    // Up to a minute with three digits; what takes longer counts as a minute.
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order")
}

/// One client's ear.
#[derive(Debug)]
pub struct Ear {
    meter: SharedMeter,
    /// The first of its document's writers; the meter may have those of many documents.
    first: usize,
    sight: Sight,
    /// Whose it is, if a writer's: its own updates don't count.
    own: Option<usize>,
}

/// What one client has.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// The clocks that it has, by writer of its document.
    seen: Rc<RefCell<Vec<u32>>>,
    first_state: Rc<RefCell<Option<Bytes>>>,
    bytes: Rc<Cell<u64>>,
}

impl Sight {
    /// The clocks that it has seen, by writer of its document.
    pub fn clocks(&self) -> Vec<u32> {
        self.seen.borrow().clone()
    }

    /// Bytes of the messages that it got.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// The state that it was sent when it opened the document, decoded; once.
    pub fn take_state(&self) -> Option<Bytes> {
        self.first_state.borrow_mut().take()
    }
}

impl Ear {
    /// The ear of a reader, or of a writer, of a document with these writers.
    pub fn new(meter: &SharedMeter, writers: Range<usize>, own: Option<usize>) -> (Self, Sight) {
        let sight = Sight::default();
        sight.seen.borrow_mut().resize(writers.len(), 0);
        let ear = Self {
            meter: Rc::clone(meter),
            first: writers.start,
            sight: sight.clone(),
            own,
        };
        (ear, sight)
    }

    fn take(&self, at: Instant, heard: &Heard, speech: &dyn Speech) -> Result<()> {
        let mut meter = self.meter.borrow_mut();
        let Meter {
            clocks,
            due,
            latencies,
            gross,
            host,
            counts,
            ..
        } = &mut *meter;
        match heard {
            Heard::Acknowledged(count) => counts.acknowledged += u64::from(*count),
            Heard::State(payload) => {
                counts.ready += 1;
                let state = speech.decode(payload)?;
                let mut seen = self.sight.seen.borrow_mut();
                for (writer, clock) in super::workload::clocks(&state)? {
                    if let Some(seen) = seen.get_mut(writer.wrapping_sub(self.first)) {
                        *seen = clock;
                    }
                }
                *self.sight.first_state.borrow_mut() = Some(state.into_owned().into());
            }
            Heard::Update(payload) => {
                counts.messages += 1;
                let mut seen = self.sight.seen.borrow_mut();
                for (writer, clock) in clocks.read(payload, |payload| speech.decode(payload))? {
                    let seen = seen.get_mut(writer.wrapping_sub(self.first));
                    let (Some(seen), Some(due)) = (seen, due.get(*writer)) else {
                        continue;
                    };
                    if Some(*writer) == self.own || clock <= seen {
                        continue;
                    }
                    counts.delivered += u64::from(clock - *seen);
                    let [from, to] = [*seen, *clock].map(|clock| due.len().min(clock as usize));
                    for due in &due[from..to] {
                        let latency = at.saturating_duration_since(*due);
                        gross.saturating_record(micros(latency));
                        let stolen = host.stolen_between(*due, at);
                        latencies.saturating_record(micros(latency.saturating_sub(stolen)));
                    }
                    *seen = *clock;
                }
            }
        }
        Ok(())
    }
}

impl Listener for Ear {
    fn hear(&mut self, at: Instant, frame_bytes: usize, heard: &[Heard], speech: &dyn Speech) {
        let bytes = &self.sight.bytes;
        bytes.set(bytes.get() + frame_bytes as u64);
        self.meter.borrow_mut().counts.bytes += frame_bytes as u64;
        for heard in heard {
            if let Err(error) = self.take(at, heard, speech) {
                self.meter.borrow_mut().failure = Some(format!("{error:#}"));
            }
        }
    }
}

/// Whole microseconds.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
