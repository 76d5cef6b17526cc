//! The kinds of held memory, by purpose.

/// The purpose of held memory.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// Parts of files that are being sent.
    Download,
    /// Chunks that arrived before their call was ready for them.
    Early,
    /// Long heads of HTTP requests that have no response yet.
    Head,
    /// JSON that was parsed into values.
    Parsed,
    /// Answers and messages in a connection's outbox, without the bytes that it shares with others.
    Queued,
    /// Results of reads of the store, until their room has handled them.
    Read,
    /// Frames and messages, until they are handled.
    Received,
    /// Encoded states, changes and messages that many connections share.
    Shared,
    /// Writes that wait for the disk.
    Staged,
    /// A participant's entry in its room: attributes, calls, requests that wait.
    State,
    /// Files that are being received.
    Upload,
    /// What a turn of a room makes and drops again: the values of a description, the copy of a
    /// document on which a patch is tried.
    Work,
}

impl Kind {
    /// All kinds, in the order of the enum.
    pub const ALL: [Self; 12] = [
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
        Self::Work,
    ];

    /// The label of the kind's gauge.
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
            Self::Work => "work",
        }
    }
}
