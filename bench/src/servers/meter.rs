//! The meter of a run: deliveries and latencies of updates, measured at readers.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use hdrhistogram::Histogram;

use super::host::Host;
use super::link::Listener;
use super::protocol::{Meaning, Protocol};
use super::workload::ClockReader;

/// The measurements of all listeners of a run.
#[derive(Debug)]
pub struct Meter {
    clocks: ClockReader,
    /// The due time of each update, by writer; the first update has the clock 1.
    due: Vec<Vec<Instant>>,
    latencies: Histogram<u64>,
    /// Latencies without the correction for time that the host took from our cores.
    gross: Histogram<u64>,
    host: Host,
    counts: Counts,
    /// The first violation of a protocol.
    failure: Option<String>,
}

/// The numbers of received things so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// The updates, counted once for each receiver.
    pub delivered: u64,
    /// The messages that carried updates.
    pub messages: u64,
    /// The bytes of all messages.
    pub bytes: u64,
    /// The acknowledged updates.
    pub acknowledged: u64,
    /// The clients that have the document's state.
    pub ready: u64,
}

/// The latencies of a phase.
#[derive(Clone, Copy, Debug)]
pub struct Latencies {
    /// The latencies without the host's steal.
    pub net: Percentiles,
    /// The latencies as measured.
    pub gross: Percentiles,
}

/// Two percentiles, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Percentiles {
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
}

impl Percentiles {
    #[expect(clippy::cast_precision_loss, reason = "latencies of a minute at most")]
    fn of(micros: &Histogram<u64>) -> Self {
        let millis = |quantile| micros.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            p50: millis(0.5),
            p99: millis(0.99),
        }
    }
}

/// A meter that listeners share.
pub type SharedMeter = Rc<RefCell<Meter>>;

impl Meter {
    /// Creates a meter for `writers` writers.
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

    /// Returns the counts so far.
    ///
    /// # Errors
    /// When a message violated its protocol.
    pub fn counts(&self) -> Result<Counts> {
        match &self.failure {
            Some(failure) => anyhow::bail!("{failure}"),
            None => Ok(self.counts),
        }
    }

    /// Records the due time of a writer's next update.
    pub fn due(&mut self, writer: usize, at: Instant) {
        self.due[writer].push(at);
    }

    /// Returns the latencies since the last call, in microseconds: net and gross.
    ///
    /// The net latency excludes the time that the host took from our cores while the update was in
    /// flight, or a part of that time, but never more.
    pub fn take_latencies(&mut self) -> Latencies {
        self.host.forget();
        let [net, gross] = [&mut self.latencies, &mut self.gross]
            .map(|taken| Percentiles::of(&std::mem::replace(taken, histogram())));
        Latencies { net, gross }
    }

    /// Samples the host's steal. Call it every few milliseconds during a measurement.
    pub fn look_at_host(&mut self) {
        self.host.look(Instant::now());
    }
}

fn histogram() -> Histogram<u64> {
    // Up to a minute with three digits; longer latencies count as a minute.
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order")
}

/// The listener of one client, which reports to a meter.
#[derive(Debug)]
pub struct MeterListener {
    meter: SharedMeter,
    /// The first writer of the client's document; the meter may have writers of many documents.
    first: usize,
    progress: Progress,
    /// The client's own number if it writes: its own updates do not count.
    own: Option<usize>,
}

/// The updates that one client has received.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// The clocks by writer of the document.
    seen: Rc<RefCell<Vec<u32>>>,
    first_state: Rc<RefCell<Option<Bytes>>>,
    bytes: Rc<Cell<u64>>,
}

impl Progress {
    /// Returns the received clocks, by writer of the document.
    pub fn clocks(&self) -> Vec<u32> {
        self.seen.borrow().clone()
    }

    /// Returns the bytes of all received messages.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Takes the decoded state from the opening of the document.
    pub fn take_state(&self) -> Option<Bytes> {
        self.first_state.borrow_mut().take()
    }
}

impl MeterListener {
    /// Creates the listener of a reader or a writer, and its progress.
    pub fn new(meter: &SharedMeter, writers: Range<usize>, own: Option<usize>) -> (Self, Progress) {
        let progress = Progress::default();
        progress.seen.borrow_mut().resize(writers.len(), 0);
        let listener = Self {
            meter: Rc::clone(meter),
            first: writers.start,
            progress: progress.clone(),
            own,
        };
        (listener, progress)
    }

    fn record(&self, at: Instant, meaning: &Meaning, protocol: &dyn Protocol) -> Result<()> {
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
        match meaning {
            Meaning::Acknowledged(count) => counts.acknowledged += u64::from(*count),
            Meaning::State(payload) => {
                counts.ready += 1;
                let state = protocol.decode(payload)?;
                let mut seen = self.progress.seen.borrow_mut();
                for (writer, clock) in super::workload::clocks(&state)? {
                    if let Some(seen) = seen.get_mut(writer.wrapping_sub(self.first)) {
                        *seen = clock;
                    }
                }
                *self.progress.first_state.borrow_mut() = Some(state.into_owned().into());
            }
            Meaning::Update(payload) => {
                counts.messages += 1;
                let mut seen = self.progress.seen.borrow_mut();
                for (writer, clock) in clocks.read(payload, |payload| protocol.decode(payload))? {
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

impl Listener for MeterListener {
    fn handle(
        &mut self,
        at: Instant,
        frame_bytes: usize,
        meanings: &[Meaning],
        protocol: &dyn Protocol,
    ) {
        let bytes = &self.progress.bytes;
        bytes.set(bytes.get() + frame_bytes as u64);
        self.meter.borrow_mut().counts.bytes += frame_bytes as u64;
        for meaning in meanings {
            if let Err(error) = self.record(at, meaning, protocol) {
                self.meter.borrow_mut().failure = Some(format!("{error:#}"));
            }
        }
    }
}

/// Returns whole microseconds.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
