//! Classification of SQLite's errors: temporary failures, a lack of space, and damage.

use std::io;

use meshagent_store::{DocumentId, StoreError};
use rusqlite::{Error, ErrorCode, ffi};

/// Converts an error by what the caller can do about it.
pub(crate) fn store_error(error: Error) -> StoreError {
    error_of(error, None)
}

/// Converts an error of reading one document's rows.
pub(crate) fn document_error(document: DocumentId) -> impl Fn(Error) -> StoreError {
    move |error| error_of(error, Some(document))
}

/// Returns whether an error may concern only the write that reported it: the rows that it writes
/// to, or its content. Other errors would fail any write.
pub(crate) fn concerns_one_write(error: &Error) -> bool {
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

/// Returns whether a write found no space, on the disk or in a file that has reached its limit.
pub(crate) fn is_out_of_space(error: &Error) -> bool {
    match error {
        Error::SqliteFailure(error, _) => {
            error.code == ErrorCode::DiskFull
                || matches!(
                    error.extended_code,
                    ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_SHMSIZE
                )
        }
        _ => false,
    }
}

/// Returns the error of a write to a file of the database outside of SQLite, as SQLite would.
pub(crate) fn write_error(error: &io::Error) -> Error {
    let code = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ffi::SQLITE_FULL,
        _ => ffi::SQLITE_IOERR_WRITE,
    };
    Error::SqliteFailure(ffi::Error::new(code), Some(error.to_string()))
}

/// A page that the disk does not return, completely or as it was written.
const UNREADABLE: [i32; 4] = [
    ffi::SQLITE_IOERR_READ,
    ffi::SQLITE_IOERR_SHORT_READ,
    ffi::SQLITE_IOERR_DATA,
    ffi::SQLITE_IOERR_CORRUPTFS,
];

fn error_of(error: Error, document: Option<DocumentId>) -> StoreError {
    match (&error, error.sqlite_error_code()) {
        (_, Some(ErrorCode::DiskFull)) => StoreError::Full(Box::new(error)),
        (_, Some(ErrorCode::ReadOnly)) => StoreError::ReadOnly(Box::new(error)),
        // The last four are a value of another type than the one that was written, and text that
        // isn't UTF-8.
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
