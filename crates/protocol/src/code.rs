//! The error codes of the protocol, the same as the table in `docs/protocol.md`.

/// Why a request was rejected, as a number on the wire.
///
/// The order and the numbers are those of the published SDKs. Codes of toolkits that this project
/// does not serve are left out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(i64)]
#[non_exhaustive]
pub enum ErrorCode {
    /// The participant's token does not permit the request.
    PermissionDenied = 1001,
    /// The request is malformed; a retry will not help.
    InvalidRequest = 1002,
    /// The target of the request does not exist.
    NotFound = 1003,
    /// The item to be created already exists.
    AlreadyExists = 1004,
    /// The request conflicts with a concurrent change.
    Conflict = 1005,
    /// The request does not fit the state of the connection or the call.
    InvalidState = 1006,
    /// The server failed; the request is not at fault.
    OperationFailed = 1008,
    /// The operation took too long and was cancelled.
    Timeout = 1009,
    /// The storage path does not exist.
    StorageNotFound = 3001,
    /// Deleting a folder with content requires `recursive`.
    StorageRecursiveRequired = 3002,
    /// The storage path is invalid.
    StorageInvalidPath = 3004,
    /// The storage path exists, and `overwrite` was not set.
    StorageAlreadyExists = 3005,
    /// The document is not open on this connection.
    SyncNotConnected = 4001,
    /// The document is already open on this connection.
    SyncAlreadyConnected = 4002,
}

impl ErrorCode {
    /// All codes, in the order of the table in `docs/protocol.md`.
    pub const ALL: [Self; 14] = [
        Self::PermissionDenied,
        Self::InvalidRequest,
        Self::NotFound,
        Self::AlreadyExists,
        Self::Conflict,
        Self::InvalidState,
        Self::OperationFailed,
        Self::Timeout,
        Self::StorageNotFound,
        Self::StorageRecursiveRequired,
        Self::StorageInvalidPath,
        Self::StorageAlreadyExists,
        Self::SyncNotConnected,
        Self::SyncAlreadyConnected,
    ];

    /// Returns the code with this number.
    pub fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|code| *code as i64 == number)
    }

    /// Returns the number on the wire.
    pub const fn number(self) -> i64 {
        self as i64
    }

    /// Returns the name in words, as in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PermissionDenied => "permission denied",
            Self::InvalidRequest => "invalid request",
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::Conflict => "conflict",
            Self::InvalidState => "invalid state",
            Self::OperationFailed => "operation failed",
            Self::Timeout => "timeout",
            Self::StorageNotFound => "storage not found",
            Self::StorageRecursiveRequired => "recursive flag required",
            Self::StorageInvalidPath => "invalid storage path",
            Self::StorageAlreadyExists => "storage exists",
            Self::SyncNotConnected => "sync not connected",
            Self::SyncAlreadyConnected => "sync already connected",
        }
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name(), self.number())
    }
}
