//! The connections that only read: a few, lent one at a time, opened when first needed.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use meshagent_store::StoreError;
use rusqlite::{Connection, Transaction};

use crate::error::store_error;
use crate::identity::OpenFiles;
use crate::open::open_reader;

/// Reads at the same time. More of them wait for one another, never for the writer; SQLite's reads are bound by
/// the processor, so more connections than processors would only cost memory.
pub(crate) const MAX_READERS: usize = 8;

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
        self.read_with(self.lend()?, read)
    }

    /// The same if a connection is free; `None` if all of them read just now.
    pub(crate) fn try_read<T>(
        &self,
        read: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let state = self.state();
        if state.lent >= MAX_READERS {
            return Ok(None);
        }
        let lent = self.lend_one(state)?;
        self.read_with(lent, read).map(Some)
    }

    fn read_with<T>(
        &self,
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
        while state.lent >= MAX_READERS {
            state = self
                .returned
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
