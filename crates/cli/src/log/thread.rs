//! The thread that writes the log.
//!
//! stderr may be a pipe that nobody reads, or a file on a full disk. So events are queued without
//! waiting, and one thread writes them. Lines that find the queue full are lost and counted.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The maximal number of lines that wait for stderr.
const MAX_WAITING_LINES: usize = 4096;

/// The time for the waiting lines at the end of the process.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

/// The queue of the process's log, until the log is finished.
static QUEUE: Mutex<Option<SyncSender<Message>>> = Mutex::new(None);

enum Message {
    Line(Vec<u8>),
    /// Everything before this is to be written; then the sender gets an answer.
    Finish(SyncSender<()>),
}

/// A writer for events that neither waits nor fails.
#[derive(Clone)]
pub(super) struct Lines {
    queue: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

impl Lines {
    /// Starts the thread that writes the lines to `output`.
    ///
    /// # Errors
    ///
    /// If the system starts no thread.
    pub(super) fn start(output: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, waiting) = mpsc::sync_channel(MAX_WAITING_LINES);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        // The thread ends with the process: it may wait for a reader of stderr.
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || write_all(&waiting, output, &counted))?;
        *QUEUE.lock().unwrap_or_else(PoisonError::into_inner) = Some(queue.clone());
        Ok(Self { queue, lost })
    }
}

impl Write for Lines {
    /// The library passes each event in one call.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Message::Line(line.to_vec())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(waiting: &Receiver<Message>, mut output: impl Write, lost: &AtomicU64) {
    for message in waiting {
        match message {
            // There is nowhere to report that the log can't be written.
            Message::Line(line) => drop(output.write_all(&line)),
            Message::Finish(done) => {
                let _ = output.flush();
                let _ = done.try_send(());
            }
        }
        let lines = lost.swap(0, Ordering::Relaxed);
        if lines > 0 {
            tracing::warn!(
                lines,
                "lines of the log were lost, because stderr did not take them in time"
            );
        }
    }
}

/// Writes the waiting lines, if stderr accepts them in time.
pub(crate) fn finish() {
    let queue = QUEUE.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(queue) = queue else { return };
    let deadline = Instant::now() + FINISH_TIMEOUT;
    let (done, is_done) = mpsc::sync_channel(1);
    let mut message = Message::Finish(done);
    while let Err(TrySendError::Full(refused)) = queue.try_send(message) {
        if Instant::now() >= deadline {
            return;
        }
        message = refused;
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = is_done.recv_timeout(deadline.saturating_duration_since(Instant::now()));
}
