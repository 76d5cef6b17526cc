//! Documents that stay open, over connections that come and go.

use meshagent_client::{
    CallError, DocumentEnd, LiveDocument, OpenError, OpenOptions, Refusal, RoomClient,
};

use crate::failure::{self, Failure, REFUSED};
use crate::room::entries;

/// What to do about a document that this program does not understand.
pub(super) const UNREADABLE: &str = "see whether there is a newer `meshagent`";

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

/// The document is not open any more; it was open to `verb` it.
pub(super) fn failure(path: &str, verb: &str, end: DocumentEnd) -> Failure {
    let what = format!("can't {verb} {path:?}");
    match end {
        DocumentEnd::Refused(Refusal { code, text }) => {
            failure::of_call(what, CallError::Refused { code, text })
        }
        DocumentEnd::RoomEnded(end) => failure::of_call(what, CallError::Ended(end)),
        end => Failure::new(what)
            .with_exit_code(REFUSED)
            .with_hint(UNREADABLE)
            .with_source(end),
    }
}
