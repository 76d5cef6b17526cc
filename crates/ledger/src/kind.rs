//! What memory is held for.

/// What something is held for.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// Parts of files on their way out.
    Download,
    /// Chunks that came before their call was ready for them.
    Early,
    /// Long heads of HTTP requests that are not complete.
    Head,
    /// JSON as values.
    Parsed,
    /// Answers and messages in a connection's outbox, without what it shares with others.
    Queued,
    /// What was read from the store, until its room has handled it.
    Read,
    /// Frames and messages, until they are handled.
    Received,
    /// Encoded states, changes and messages that many connections share.
    Shared,
    /// Writes that wait for the disk.
    Staged,
    /// What a participant's entry in its room takes: attributes, calls, requests that wait.
    State,
    /// Files on their way in.
    Upload,
}

impl Kind {
    /// All kinds, in the order of the enum.
    pub const ALL: [Self; 11] = [
        Self::Download,
        Self::Early,
        Self::Head,
        Self::Parsed,
        Self::Queued,
        Self::Read,
        Self::Received,
        Self::Shared,
        Self::Staged,
        Self::State,
        Self::Upload,
    ];

    /// The label of its gauge.
    pub fn label(self) -> &'static str {
        match self {
            Self::Download => "download",
            Self::Early => "early",
            Self::Head => "head",
            Self::Parsed => "parsed",
            Self::Queued => "queued",
            Self::Read => "read",
            Self::Received => "received",
            Self::Shared => "shared",
            Self::Staged => "staged",
            Self::State => "state",
            Self::Upload => "upload",
        }
    }
}
