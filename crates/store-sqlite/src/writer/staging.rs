//! Staging: batches that are written ahead of their commit.

use std::sync::Weak;

use meshagent_store::{Staging, StoreError, Write};

use super::space::{Space, space_taken};
use super::{Failed, Step, Writer, is_failed_commit};
use crate::contents::{self, Content, Staged};
use crate::error::{concerns_one_write, is_out_of_space};
use crate::freeing::Garbage;
use crate::reserve::Use;
use crate::write::{self, Failure};

/// A batch that is being staged, as long as its [`Staging`] exists.
#[derive(Debug)]
pub(super) struct StagedBatch {
    pub(super) staging: Weak<()>,
    /// The staged content of each write; `None` if it was discarded because other writes needed
    /// the space.
    pub(super) staged: Option<Vec<Staged>>,
}

impl Writer {
    /// Stages some parts of a batch, and returns whether all of it is staged.
    pub(crate) fn stage(
        &mut self,
        writes: &[Write],
        staging: &Staging,
    ) -> Result<bool, StoreError> {
        if !contents::is_large_batch(writes) {
            return Ok(true);
        }
        self.begin()?;
        let mut before = match self.staged_batch(staging) {
            Some(batch) => batch.staged.clone().ok_or_else(space_taken)?,
            None => vec![Staged::Nothing; writes.len()],
        };
        if contents::is_all_staged(writes, &before) {
            return Ok(true);
        }
        // A commit may take the space of other staged batches, but staging may not.
        let mut space = Space {
            is_taken: true,
            ..Space::default()
        };
        let mut may_be_in_tail = false;
        let failed = loop {
            let mut staged = before.clone();
            let result =
                self.transact(Use::Other, |session| {
                    let connection = &session.connection;
                    contents::stage_parts(connection, writes, &mut staged, |write| {
                        match write::precheck(connection, write) {
                            Ok(()) => Ok(false),
                            Err(Failure::Refused(_)) => Ok(true),
                            Err(Failure::Sqlite(error)) => Err(error),
                        }
                    })
                    .map_err(|(index, error)| Step::Write(index).failed()(error))
                });
            may_be_in_tail |= is_failed_commit(&result);
            match result {
                Ok(()) => {
                    let found = self.files.check_written();
                    self.rescue_if_lost(found)?;
                    self.set_staged(staging, staged);
                    return Ok(false);
                }
                // The commit finds out, too, that this write fails; the others are staged.
                Err(Failed::Sqlite {
                    error,
                    at: Step::Write(index),
                }) if concerns_one_write(&error) => {
                    before[index] = Staged::Done(None);
                    self.set_staged(staging, before);
                    return Ok(false);
                }
                Err(Failed::Sqlite { error, at })
                    if is_out_of_space(&error)
                        && self.make_space(&mut space, Some(staging), Use::Other, at) => {}
                Err(failed) => break failed,
            }
        };
        if may_be_in_tail {
            self.overwrite_tail();
        }
        let found = self.files.check_written();
        self.rescue_if_lost(found)?;
        Err(self.failure(failed))
    }

    pub(super) fn staged_batch(&mut self, staging: &Staging) -> Option<&mut StagedBatch> {
        self.staged_batches
            .retain(|batch| batch.staging.strong_count() > 0);
        self.staged_batches
            .iter_mut()
            .find(|batch| staging.is(&batch.staging))
    }

    fn set_staged(&mut self, staging: &Staging, staged: Vec<Staged>) {
        match self.staged_batch(staging) {
            Some(batch) => batch.staged = Some(staged),
            None => self.staged_batches.push(StagedBatch {
                staging: staging.token(),
                staged: Some(staged),
            }),
        }
    }

    /// Returns the staged content of batches that may still be committed.
    pub(super) fn in_flight(&mut self) -> Vec<Garbage> {
        self.staged_batches
            .retain(|batch| batch.staging.strong_count() > 0);
        let staged = self
            .staged_batches
            .iter()
            .flat_map(|batch| &batch.staged)
            .flatten();
        staged
            .filter_map(Staged::content)
            .flat_map(Content::garbage)
            .collect()
    }
}
