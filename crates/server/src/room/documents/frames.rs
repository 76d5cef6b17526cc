//! Changes as readers receive them, and their merging.

use std::borrow::Cow;

use meshagent_document::merge_updates;

use super::{StreamId, Version};

/// The maximum bytes of a merged change; a single update may be longer.
const MERGED_BYTES: usize = 1 << 20;

/// An update that readers receive as one change.
pub(super) struct Frame<'a> {
    pub(super) version: Version,
    pub(super) update: Cow<'a, [u8]>,
    pub(super) known_to: Option<StreamId>,
}

impl<'a> Frame<'a> {
    pub(super) fn of(version: Version, update: &'a [u8], known_to: Option<StreamId>) -> Self {
        Self {
            version,
            update: Cow::Borrowed(update),
            known_to,
        }
    }

    /// Whether the update deletes or overwrites something: its delete set, the last part, is not
    /// empty.
    ///
    /// Our replica wrote the bytes in their shortest form. An empty set is a 0, and any other ends
    /// with a length.
    fn deletes(&self) -> bool {
        self.update.last() != Some(&0)
    }
}

/// Merges neighbouring changes, so that those which arrived while the disk was busy become one.
///
/// A reader that takes merged changes receives everything as one. For others, an update that
/// deletes is sent alone: the published SDKs keep their view of a document by deltas and lose count
/// when one update deletes in two places of an element, or deletes and then changes something
/// behind that.
pub(super) fn merge(frames: Vec<Frame<'_>>, merges: bool) -> Vec<Frame<'_>> {
    let mut runs: Vec<Vec<Frame<'_>>> = Vec::new();
    let mut run_bytes = 0;
    for frame in frames {
        let bytes = frame.update.len();
        let joins = |run: &Vec<Frame<'_>>| {
            run_bytes + bytes <= MERGED_BYTES && (merges || !frame.deletes() && !run[0].deletes())
        };
        match runs.last_mut() {
            Some(run) if joins(run) => {
                run.push(frame);
                run_bytes += bytes;
            }
            _ => {
                runs.push(vec![frame]);
                run_bytes = bytes;
            }
        }
    }
    runs.into_iter().flat_map(merge_run).collect()
}

/// Merges a run into one frame. A run of one, or one that does not merge, stays as it is.
fn merge_run(run: Vec<Frame<'_>>) -> Vec<Frame<'_>> {
    if run.len() < 2 {
        return run;
    }
    let updates: Vec<&[u8]> = run.iter().map(|frame| &*frame.update).collect();
    match (run.last(), merge_updates(&updates)) {
        (Some(last), Ok(update)) => vec![Frame {
            version: last.version,
            update: Cow::Owned(update),
            // An author has its own changes, but not those of others that are merged with them.
            known_to: last
                .known_to
                .filter(|author| run.iter().all(|frame| frame.known_to == Some(*author))),
        }],
        _ => run,
    }
}
