//! A pool of read-only connections, which are opened when they are first needed.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use meshagent_store::StoreError;
use rusqlite::{Connection, Transaction};

use crate::error::store_error;
use crate::identity::OpenFiles;
use crate::open::open_reader;

/// The number of concurrent reads. Further reads wait for one of these, never for the writer.
/// SQLite's reads are bound by the processor, so more connections than processors would only
/// cost memory.
pub(crate) const MAX_READERS: usize = 8;
/// The time for which new reads wait for those in flight when the WAL is to be emptied, and then
/// the time for which they don't, before they wait again. It doubles each time that it was too
/// short, for example on an overloaded machine.
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
    in_use: usize,
    /// New reads wait, or waited, until this instant.
    held_until: Option<Instant>,
    /// The duration of that wait.
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

    /// Runs `read` on one state of the database, regardless of commits in the meantime.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        Self::read_with(self.acquire()?, read)
    }

    /// Calls [`read`](Self::read) if a connection is free; returns `None` if all of them are
    /// in use.
    pub(crate) fn try_read<T>(
        &self,
        read: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let state = self.state();
        if state.in_use >= MAX_READERS || state.held_for().is_some() {
            return Ok(None);
        }
        let pooled = self.take_connection(state)?;
        Self::read_with(pooled, read).map(Some)
    }

    fn read_with<T>(
        mut pooled: PooledConnection<'_>,
        read: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let connection = pooled
            .connection
            .as_mut()
            .expect("only `drop` takes the connection");
        let result = connection
            .transaction()
            .map_err(store_error)
            .and_then(|transaction| read(&transaction));
        if matches!(
            result,
            Err(StoreError::Unavailable(_) | StoreError::Corrupt { document: None, .. })
        ) {
            // The connection may be the cause; the next read gets a new one.
            pooled.connection = None;
        }
        result
    }

    /// Calls [`read`](Self::read) for a document that will be edited: the result must not contain
    /// content that exists only in deleted files.
    pub(crate) fn read_document<T>(
        &self,
        read: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.files.check_known()?;
        let result = self.read(read)?;
        // The check follows the read: the commit of the content has found the files in place, or
        // will be refused.
        self.files.check_written()?;
        Ok(result)
    }

    fn acquire(&self) -> Result<PooledConnection<'_>, StoreError> {
        let mut state = self.state();
        loop {
            if let Some(pause) = state.held_for() {
                let waited = self.returned.wait_timeout(state, pause);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            } else if state.in_use >= MAX_READERS {
                let waited = self.returned.wait(state);
                state = waited.unwrap_or_else(PoisonError::into_inner);
            } else {
                break;
            }
        }
        self.take_connection(state)
    }

    /// Returns one of the connections that the limit allows.
    fn take_connection<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
    ) -> Result<PooledConnection<'a>, StoreError> {
        state.in_use += 1;
        let idle = state.idle.pop();
        drop(state);
        // From here on, a drop returns the connection's place.
        let mut pooled = PooledConnection {
            readers: self,
            connection: idle,
        };
        if pooled.connection.is_none() {
            let connection = open_reader(&self.path);
            // The connection may have opened another file.
            self.files.check()?;
            pooled.connection = Some(connection.map_err(store_error)?);
        }
        Ok(pooled)
    }

    /// Returns whether no read is in flight. If one is, new reads are held back for a moment, now
    /// and then, so that none will be.
    pub(crate) fn are_idle(&self) -> bool {
        let mut state = self.state();
        if state.in_use == 0 {
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

    /// Stops holding back reads.
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
    /// Returns how long new reads still have to wait.
    fn held_for(&self) -> Option<Duration> {
        let pause = self.held_until?.checked_duration_since(Instant::now())?;
        (!pause.is_zero()).then_some(pause)
    }
}

struct PooledConnection<'a> {
    readers: &'a Readers,
    connection: Option<Connection>,
}

impl Drop for PooledConnection<'_> {
    fn drop(&mut self) {
        let mut state = self.readers.state();
        state.in_use -= 1;
        state.idle.extend(self.connection.take());
        self.readers.returned.notify_one();
    }
}
