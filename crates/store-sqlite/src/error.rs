//! Which of SQLite's errors may pass, and which mean damage.

use meshagent_store::{DocumentId, StoreError};
use rusqlite::{Error, ErrorCode};

/// Grades an error by what the caller can do about it.
pub(crate) fn store_error(error: Error) -> StoreError {
    error_of(error, None)
}

/// The same, for a read of one document's rows.
pub(crate) fn document_error(document: DocumentId) -> impl Fn(Error) -> StoreError {
    move |error| error_of(error, Some(document))
}

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
