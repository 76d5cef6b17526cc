//! Batches that are written ahead of their commit.

use std::sync::Weak;

use meshagent_store::{Staging, StoreError, Write};

use super::space::{Space, given_up};
use super::{At, Failed, Writer};
use crate::contents::{self, Ahead, Content};
use crate::error::{is_of_one_write, is_of_space};
use crate::freeing::Doomed;
use crate::write::{self, Failure};

/// A batch that is written ahead of its commit, as long as somebody has its [`Staging`].
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) staging: Weak<()>,
    /// For each write; `None` if it was given up, as others needed the space.
    pub(super) ahead: Option<Vec<Ahead>>,
}

impl Writer {
    /// Writes some parts ahead of a batch, and returns whether none was left to be written.
    pub(crate) fn stage(
        &mut self,
        writes: &[Write],
        staging: &Staging,
    ) -> Result<bool, StoreError> {
        if !contents::is_worth_it(writes) {
            return Ok(true);
        }
        self.begin()?;
        let ahead = match self.upload(staging) {
            Some(upload) => upload.ahead.clone().ok_or_else(given_up)?,
            None => vec![Ahead::Nothing; writes.len()],
        };
        if contents::is_all_ahead(writes, &ahead) {
            return Ok(true);
        }
        // A commit takes what others have staged, but not this.
        let mut space = Space {
            is_taken: true,
            ..Space::default()
        };
        let failed = loop {
            let mut ahead = ahead.clone();
            let result =
                self.transact(|session| {
                    let connection = &session.connection;
                    contents::write_ahead(connection, writes, &mut ahead, |write| {
                        match write::refuses(connection, write) {
                            Ok(()) => Ok(false),
                            Err(Failure::Refused(_)) => Ok(true),
                            Err(Failure::Sqlite(error)) => Err(error),
                        }
                    })
                    .map_err(At::Write(0).failed())
                });
            match result {
                Ok(()) => {
                    let found = self.files.check_written();
                    self.unless_lost(found)?;
                    self.set_ahead(staging, ahead);
                    return Ok(false);
                }
                // The commit finds out which of the writes it is.
                Err(Failed::Sqlite {
                    error,
                    at: At::Write(_),
                }) if is_of_one_write(&error) => {
                    self.set_ahead(staging, vec![Ahead::Done(None); writes.len()]);
                    return Ok(false);
                }
                Err(Failed::Sqlite { error, .. })
                    if is_of_space(&error) && self.make_space(&mut space, Some(staging)) => {}
                Err(failed) => break failed,
            }
        };
        self.overwrite_tail(&failed);
        let found = self.files.check_written();
        self.unless_lost(found)?;
        Err(failed.into())
    }

    pub(super) fn upload(&mut self, staging: &Staging) -> Option<&mut Upload> {
        self.uploads
            .retain(|upload| upload.staging.strong_count() > 0);
        self.uploads
            .iter_mut()
            .find(|upload| staging.is(&upload.staging))
    }

    fn set_ahead(&mut self, staging: &Staging, ahead: Vec<Ahead>) {
        match self.upload(staging) {
            Some(upload) => upload.ahead = Some(ahead),
            None => self.uploads.push(Upload {
                staging: staging.token(),
                ahead: Some(ahead),
            }),
        }
    }

    /// What is written ahead of batches that may still be committed.
    pub(super) fn spared(&mut self) -> Vec<Doomed> {
        self.uploads
            .retain(|upload| upload.staging.strong_count() > 0);
        let ahead = self
            .uploads
            .iter()
            .flat_map(|upload| &upload.ahead)
            .flatten();
        ahead
            .filter_map(Ahead::content)
            .flat_map(Content::doomed)
            .collect()
    }
}
