//! Disk space: making space on a full disk, and freeing the space of large deletions.

use std::io;

use meshagent_store::{Staging, StoreError};

use super::{Failed, Session, Step, Writer};
use crate::error::{concerns_one_write, is_out_of_space, write_error};
use crate::freeing::{self, FreeingError, MAX_DAMAGED};
use crate::reserve::Use;

/// The pages that a probe must find, free or beyond the end of the database.
const PROBED_PAGES: u64 = 16;

/// The ways to make space that were tried.
#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each way is tried once, and some callers leave some out"
)]
pub(super) struct Space {
    pub(super) is_emptied: bool,
    pub(super) is_released: bool,
    pub(super) is_freed: bool,
    pub(super) is_taken: bool,
}

pub(super) fn space_taken() -> StoreError {
    StoreError::Full("other writes needed the space of the staged content".into())
}

impl Writer {
    /// Makes space for a transaction that found none at this step, by one way after another;
    /// returns `false` if all were tried. Staged content of batches other than `own` is discarded
    /// last.
    pub(super) fn make_space(
        &mut self,
        space: &mut Space,
        own: Option<&Staging>,
        purpose: Use,
        at: Step,
    ) -> bool {
        if !space.is_emptied {
            space.is_emptied = true;
            if self.checkpoint_all() {
                return true;
            }
        }
        if !space.is_released && (at != Step::Grow || purpose == Use::Deletion) {
            space.is_released = true;
            if self.reserve.release(purpose) {
                self.checkpoint_all();
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

    /// Extends the database's file for the pages that the transaction in this session has added to
    /// the `before` committed ones. It grows only into space that the reserve does not need, unless
    /// it deletes.
    pub(super) fn grow(
        &mut self,
        session: &Session,
        before: u64,
        purpose: Use,
    ) -> rusqlite::Result<()> {
        let mut after = session.pages()?;
        if purpose == Use::Probe {
            let probed = (before + PROBED_PAGES).saturating_sub(session.free_pages()?);
            after = after.max(probed.min(session.number("PRAGMA max_page_count")?));
        }
        if after <= before {
            return Ok(());
        }
        // A deletion must not lose the space that was released for it.
        if purpose != Use::Deletion {
            self.reserve
                .refill(self.files.wal_bytes())
                .map_err(|error| write_error(&error))?;
        }
        self.files
            .grow(before * self.page_size, after * self.page_size)
            .map_err(|error| write_error(&error))
    }

    /// Completes the reserve.
    pub(super) fn refill_reserve(&mut self) -> Result<(), StoreError> {
        self.reserve
            .refill(self.files.wal_bytes())
            .map_err(|error| {
                let what = format!("reserving space for deletions: {error}");
                let error = write_error(&io::Error::new(error.kind(), what));
                self.failure(Step::Grow.failed()(error))
            })
    }

    /// Returns whether rows of erased keys may be removed now. As long as the WAL may contain a
    /// key, its row stays, so that the erased one reaches the database first.
    fn is_sweep_due(&self) -> bool {
        self.is_wal_clean() && self.sweep.is_due()
    }

    /// Removes some of the rows of erased keys. Returns whether no further ones can be removed now.
    fn sweep_keys(&mut self) -> Result<bool, Failed> {
        if !self.is_sweep_due() {
            return Ok(true);
        }
        let mut sweep = self.sweep.clone();
        let swept = self.transact(Use::Deletion, |session| {
            sweep
                .step(&session.connection)
                .map_err(Step::Write(0).failed())
        });
        match swept {
            Ok(()) => {
                self.sweep = sweep;
                Ok(!self.sweep.is_due())
            }
            // The rows take no space that others need now.
            Err(Failed::Sqlite { error, .. }) if is_out_of_space(&error) => Ok(true),
            Err(failed) => {
                if matches!(&failed, Failed::Sqlite { error, .. } if concerns_one_write(error)) {
                    self.sweep.give_up();
                }
                Err(failed)
            }
        }
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
                return self.sweep_keys();
            }
            let mut space = Space {
                is_freed: true,
                is_taken: true,
                ..Space::default()
            };
            loop {
                let tried = self.transact(Use::Deletion, |session| {
                    freeing::free_some(&session.connection, &excluded).map_err(
                        |FreeingError { garbage, error }| {
                            damaged = garbage.filter(|_| concerns_one_write(&error));
                            Step::Write(0).failed()(error)
                        },
                    )
                });
                match tried {
                    Err(Failed::Sqlite { error, at })
                        if is_out_of_space(&error)
                            && self.make_space(&mut space, None, Use::Deletion, at) => {}
                    tried => return Ok(tried? && !self.is_sweep_due()),
                }
            }
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
