//! Space: what a full disk still has, and what large deletions left to be freed.

use meshagent_store::{Staging, StoreError};

use super::{At, Writer};
use crate::error::is_of_one_write;
use crate::freeing::{self, Doomed, MAX_KEPT, Unfreed};

/// Which ways to make space were tried.
#[derive(Default)]
pub(super) struct Space {
    pub(super) is_emptied: bool,
    pub(super) is_freed: bool,
    pub(super) is_taken: bool,
}

pub(super) fn given_up() -> StoreError {
    StoreError::Full("others needed the space".into())
}

impl Writer {
    /// Makes space, one way after another; `false` if there is none left. What is written ahead of others than `own` is
    /// given up last.
    pub(super) fn make_space(&mut self, space: &mut Space, own: Option<&Staging>) -> bool {
        if !space.is_emptied {
            space.is_emptied = true;
            if self.empty_log() {
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
            for upload in &mut self.uploads {
                if !own.is_some_and(|own| own.is(&upload.staging)) {
                    is_any |= upload.ahead.take().is_some();
                }
            }
            while let Ok(false) = self.free_some() {}
            return is_any;
        }
        false
    }

    /// Frees some of what large deletions set aside, and returns whether nothing is left of it.
    pub(crate) fn free_some(&mut self) -> Result<bool, StoreError> {
        self.begin()?;
        let mut kept = std::mem::take(&mut self.kept);
        let spared = self.spared();
        let spared: Vec<Doomed> = spared.into_iter().filter(|one| kept.insert(*one)).collect();
        let mut damaged = None;
        let freed = (|| {
            let is_owed = self
                .session()
                .and_then(|session| freeing::is_owed(&session.connection, &kept));
            if !is_owed.map_err(At::Beginning.failed())? {
                return Ok(true);
            }
            self.transact(|session| {
                freeing::free_some(&session.connection, &kept).map_err(
                    |Unfreed { doomed, error }| {
                        damaged = doomed.filter(|_| is_of_one_write(&error));
                        At::Write(0).failed()(error)
                    },
                )
            })
        })();
        let found = self.files.check_written();
        for one in spared {
            kept.remove(&one);
        }
        let is_kept = damaged.is_some() && kept.len() < MAX_KEPT;
        kept.extend(damaged);
        self.kept = kept;
        self.unless_lost(found)?;
        match freed {
            // It costs space, and the others none.
            Err(_) if is_kept => Ok(false),
            freed => Ok(freed?),
        }
    }
}
