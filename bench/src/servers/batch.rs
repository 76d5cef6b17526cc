//! Several messages as one, as the batching relay sends them: each after its length in four bytes.

use anyhow::{Context as _, Result};
use bytes::{BufMut as _, BytesMut};

/// Appends a message to a batch.
///
/// # Panics
/// If the message has 4 GiB or more.
pub fn append(batch: &mut BytesMut, message: &[u8]) {
    let length = u32::try_from(message.len()).expect("messages are smaller than 4 GiB");
    batch.put_u32(length);
    batch.put_slice(message);
}

/// Returns the messages of a batch.
///
/// # Errors
/// When the batch is truncated.
pub fn messages(mut batch: &[u8]) -> Result<Vec<&[u8]>> {
    let mut messages = Vec::new();
    while !batch.is_empty() {
        let (length, rest) = batch
            .split_first_chunk()
            .context("the batch ends within a length")?;
        let length = usize::try_from(u32::from_be_bytes(*length))?;
        let (message, rest) = rest
            .split_at_checked(length)
            .context("the batch ends within a message")?;
        messages.push(message);
        batch = rest;
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_a_batch_are_as_appended() {
        let mut batch = BytesMut::new();
        assert!(messages(&batch).unwrap().is_empty());
        append(&mut batch, b"one");
        append(&mut batch, b"");
        append(&mut batch, &[7; 300]);
        assert_eq!(messages(&batch).unwrap(), [&b"one"[..], b"", &[7; 300]]);
    }

    #[test]
    fn a_truncated_batch_is_an_error() {
        let mut batch = BytesMut::new();
        append(&mut batch, b"one");
        for length in 1..batch.len() {
            assert!(messages(&batch[..length]).is_err(), "{length} bytes");
        }
    }
}
