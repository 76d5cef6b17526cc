//! The connections that only read: a few, lent one at a time, opened when first needed.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use meshagent_store::StoreError;
use rusqlite::{Connection, Transaction};

use crate::error::store_error;
use crate::identity::OpenFiles;
use crate::open::open_reader;

/// Reads at the same time. More of them wait for one another, never for the writer; SQLite's reads are bound by
/// the processor, so more connections than processors would only cost memory.
pub(crate) const MAX_READERS: usize = 8;
/// How long new reads wait for those that are under way, when the log is to be emptied; and how long they don't,
/// before they do so again. Twice as long each time that it was too short, as on a machine that is overloaded.
const HOLD: Duration = Duration::from_millis(50);
const MAX_HOLD: Duration = Duration::from_millis(800);

#[derive(Debug)]
pub(crate) struct Readers {
    path: PathBuf,
    files: Arc<OpenFiles>,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Connection>,
    lent: usize,
    /// New reads wait until then, or waited.
    held_until: Option<Instant>,
    /// For how long.
    held: Duration,
}

impl Readers {
    pub(crate) fn new(path: PathBuf, files: Arc<OpenFiles>) -> Self {
        Self {
            path,
            files,
            state: Mutex::default(),
            returned: Condvar::new(),
        }
    }

    /// Runs `read` on one state of the database, whatever is committed meanwhile.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        Self::read_with(self.lend()?, read)
    }

    /// The same if a connection is free; `None` if all of them read just now.
    pub(crate) fn try_read<T>(
        &self,
        read: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let state = self.state();
        if state.lent >= MAX_READERS || state.held_for().is_some() {
            return Ok(None);
        }
        let lent = self.lend_one(state)?;
        Self::read_with(lent, read).map(Some)
    }

    fn read_with<T>(
        mut lent: Lent<'_>,
        read: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let connection = lent.connection.as_mut().expect("there until it is dropped");
        let result = connection
            .transaction()
            .map_err(store_error)
            .and_then(|transaction| read(&transaction));
        if matches!(
            result,
            Err(StoreError::Unavailable(_) | StoreError::Corrupt { document: None, .. })
        ) {
            // The fault may lie in the connection; the next read gets a new one.
            lent.connection = None;
        }
        result
    }

    /// The same for a document that is going to be edited: what only files without a name have, it must not show.
    pub(crate) fn read_document<T>(
        &self,
        read: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.files.still_there()?;
        let result = self.read(read)?;
        // Afterwards: whoever wrote what was read found the files there, or is going to be refused.
        self.files.check_written()?;
        Ok(result)
    }

    fn lend(&self) -> Result<Lent<'_>, StoreError> {
        let mut state = self.state();
        loop {
            if let Some(pause) = state.held_for() {
                let waited = self.returned.wait_timeout(state, pause);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            } else if state.lent >= MAX_READERS {
                let waited = self.returned.wait(state);
                state = waited.unwrap_or_else(PoisonError::into_inner);
            } else {
                break;
            }
        }
        self.lend_one(state)
    }

    /// One of those that there may be.
    fn lend_one<'a>(&'a self, mut state: MutexGuard<'a, State>) -> Result<Lent<'a>, StoreError> {
        state.lent += 1;
        let idle = state.idle.pop();
        drop(state);
        // From here on, a drop gives the place back.
        let mut lent = Lent {
            readers: self,
            connection: idle,
        };
        if lent.connection.is_none() {
            let connection = open_reader(&self.path);
            // It may be one to another file.
            self.files.check()?;
            lent.connection = Some(connection.map_err(store_error)?);
        }
        Ok(lent)
    }

    /// Whether no read is under way. If one is, new ones are held back for a moment, now and then, so that there will
    /// be none.
    pub(crate) fn are_idle(&self) -> bool {
        let mut state = self.state();
        if state.lent == 0 {
            return true;
        }
        let now = Instant::now();
        if state
            .held_until
            .is_none_or(|until| until + state.held <= now)
        {
            state.held = (state.held * 2).clamp(HOLD, MAX_HOLD);
            state.held_until = Some(now + state.held);
        }
        false
    }

    /// Holds nothing back any more.
    pub(crate) fn release(&self) {
        let mut state = self.state();
        state.held_until = None;
        state.held = Duration::ZERO;
        drop(state);
        self.returned.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How long new reads have to wait still.
    fn held_for(&self) -> Option<Duration> {
        let pause = self.held_until?.checked_duration_since(Instant::now())?;
        (!pause.is_zero()).then_some(pause)
    }
}

struct Lent<'a> {
    readers: &'a Readers,
    connection: Option<Connection>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut state = self.readers.state();
        state.lent -= 1;
        state.idle.extend(self.connection.take());
        self.readers.returned.notify_one();
    }
}
