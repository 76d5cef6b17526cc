//! Which of SQLite's errors may pass, and which mean damage.

use meshagent_store::{DocumentId, StoreError};
use rusqlite::{Error, ErrorCode, ffi};

/// Grades an error by what the caller can do about it.
pub(crate) fn store_error(error: Error) -> StoreError {
    error_of(error, None)
}

/// The same, for a read of one document's rows.
pub(crate) fn document_error(document: DocumentId) -> impl Fn(Error) -> StoreError {
    move |error| error_of(error, Some(document))
}

/// Whether an error may be the fault of the one write at which it came up: of what is stored where it writes, or of
/// what it brings. Others would fail at any write.
pub(crate) fn is_of_one_write(error: &Error) -> bool {
    match error {
        Error::FromSqlConversionFailure(..)
        | Error::IntegralValueOutOfRange(..)
        | Error::InvalidColumnType(..)
        | Error::Utf8Error(..) => true,
        Error::SqliteFailure(error, _) => {
            matches!(
                error.code,
                ErrorCode::ConstraintViolation
                    | ErrorCode::DatabaseCorrupt
                    | ErrorCode::TooBig
                    | ErrorCode::TypeMismatch
            ) || UNREADABLE.contains(&error.extended_code)
        }
        _ => false,
    }
}

/// Whether a write found no space, on the disk or in the file that may grow no further.
pub(crate) fn is_of_space(error: &Error) -> bool {
    match error {
        Error::SqliteFailure(error, _) => {
            error.code == ErrorCode::DiskFull || error.extended_code == ffi::SQLITE_IOERR_WRITE
        }
        _ => false,
    }
}

/// A page that the disk does not give back, whole or as it was written.
const UNREADABLE: [i32; 4] = [
    ffi::SQLITE_IOERR_READ,
    ffi::SQLITE_IOERR_SHORT_READ,
    ffi::SQLITE_IOERR_DATA,
    ffi::SQLITE_IOERR_CORRUPTFS,
];

fn error_of(error: Error, document: Option<DocumentId>) -> StoreError {
    match (&error, error.sqlite_error_code()) {
        (_, Some(ErrorCode::DiskFull)) => StoreError::Full(Box::new(error)),
        // The latter four: a value of another type than the one that was written, or text that isn't UTF-8.
        (_, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
        | (
            Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::InvalidColumnType(..)
            | Error::Utf8Error(..),
            _,
        ) => StoreError::Corrupt {
            document,
            what: error.to_string(),
        },
        _ => StoreError::Unavailable(Box::new(error)),
    }
}
