//! Disk space: making space on a full disk, and freeing the space of large deletions.

use meshagent_store::{Staging, StoreError};

use super::{Step, Writer};
use crate::error::concerns_one_write;
use crate::freeing::{self, FreeingError, MAX_DAMAGED};

/// The ways to make space that were tried.
#[derive(Default)]
pub(super) struct Space {
    pub(super) is_emptied: bool,
    pub(super) is_freed: bool,
    pub(super) is_taken: bool,
}

pub(super) fn space_taken() -> StoreError {
    StoreError::Full("other writes needed the space of the staged content".into())
}

impl Writer {
    /// Makes space, by one way after another; returns `false` if all were tried. Staged content of
    /// batches other than `own` is discarded last.
    pub(super) fn make_space(&mut self, space: &mut Space, own: Option<&Staging>) -> bool {
        if !space.is_emptied {
            space.is_emptied = true;
            if self.checkpoint_all() {
                return true;
            }
        }
        if !space.is_freed {
            space.is_freed = true;
            while let Ok(false) = self.free_some() {}
            return true;
        }
        if !space.is_taken {
            space.is_taken = true;
            let mut is_any = false;
            for batch in &mut self.staged_batches {
                if !own.is_some_and(|own| own.is(&batch.staging)) {
                    is_any |= batch.staged.take().is_some();
                }
            }
            while let Ok(false) = self.free_some() {}
            return is_any;
        }
        false
    }

    /// Frees some of the rows of large deletions, and returns whether all of them are freed.
    pub(crate) fn free_some(&mut self) -> Result<bool, StoreError> {
        self.begin()?;
        let mut excluded = std::mem::take(&mut self.damaged);
        let mut in_flight = self.in_flight();
        in_flight.retain(|one| excluded.insert(*one));
        let mut damaged = None;
        let freed = (|| {
            let has_garbage = self
                .session()
                .and_then(|session| freeing::has_garbage(&session.connection, &excluded));
            if !has_garbage.map_err(Step::Begin.failed())? {
                return Ok(true);
            }
            self.transact(|session| {
                freeing::free_some(&session.connection, &excluded).map_err(
                    |FreeingError { garbage, error }| {
                        damaged = garbage.filter(|_| concerns_one_write(&error));
                        Step::Write(0).failed()(error)
                    },
                )
            })
        })();
        let found = self.files.check_written();
        for one in in_flight {
            excluded.remove(&one);
        }
        let may_continue = damaged.is_some() && excluded.len() < MAX_DAMAGED;
        excluded.extend(damaged);
        self.damaged = excluded;
        self.rescue_if_lost(found)?;
        match freed {
            // The damaged object costs space; the others can still be freed.
            Err(_) if may_continue => Ok(false),
            freed => Ok(freed?),
        }
    }
}
