//! Documents that stay open across reconnects.

use meshagent_client::{
    CallError, DocumentEnd, LiveDocument, OpenError, OpenOptions, Refusal, RoomClient,
};

use crate::failure::{self, Failure, REFUSED};
use crate::room::entries;

/// The hint for a document that this program can't read.
pub(super) const UNREADABLE: &str = "check for a newer version of this program";

pub(super) async fn open(
    room: &RoomClient,
    path: &str,
    options: &OpenOptions,
) -> anyhow::Result<LiveDocument> {
    let path = entries::document(path)?;
    let opened = room.sync().open_with(&path, options).await;
    let document = opened.map_err(|error| match error {
        OpenError::Ended(end) => failure(&path, "open", end),
        error => Failure::new(format!("can't open {path:?}"))
            .with_exit_code(REFUSED)
            .with_hint(UNREADABLE)
            .with_source(error),
    })?;
    Ok(document)
}

/// The error for a document that was closed; `verb` says what the command does with it.
pub(super) fn failure(path: &str, verb: &str, end: DocumentEnd) -> Failure {
    let message = format!("can't {verb} {path:?}");
    match end {
        DocumentEnd::Refused(Refusal { code, text }) => {
            failure::of_call(message, CallError::Refused { code, text })
        }
        DocumentEnd::RoomEnded(end) => failure::of_call(message, CallError::Ended(end)),
        end => Failure::new(message)
            .with_exit_code(REFUSED)
            .with_hint(UNREADABLE)
            .with_source(end),
    }
}
