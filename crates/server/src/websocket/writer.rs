//! A writer of WebSocket frames to a client: never masked, never fragmented.

use std::io::Error;

use tokio::io::{AsyncWrite, AsyncWriteExt as _};

/// The kinds of frames that the server sends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Opcode {
    #[cfg(test)]
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

/// Writes one frame, without a flush.
///
/// # Errors
/// If the socket can't be written to; the connection is unusable after that.
pub(crate) async fn write_frame<W: AsyncWrite + Unpin>(
    writer: &mut W,
    opcode: Opcode,
    payload: &[u8],
) -> Result<(), Error> {
    begin_frame(writer, opcode, payload.len(), payload).await
}

/// Writes the head of a frame of `length` bytes, and its first bytes. The caller writes the rest.
///
/// # Errors
/// See [`write_frame`].
pub(crate) async fn begin_frame<W: AsyncWrite + Unpin>(
    writer: &mut W,
    opcode: Opcode,
    length: usize,
    first: &[u8],
) -> Result<(), Error> {
    let mut head = [0; 10];
    let head_length = head_of(&mut head, opcode, length);
    writer.write_all(&head[..head_length]).await?;
    writer.write_all(first).await
}

/// Encodes the head of a frame, and returns its length.
fn head_of(head: &mut [u8; 10], opcode: Opcode, payload: usize) -> usize {
    head[0] = 0x80 | opcode as u8;
    match (u8::try_from(payload), u16::try_from(payload)) {
        (Ok(short @ 0..126), _) => {
            head[1] = short;
            2
        }
        (_, Ok(middle)) => {
            head[1] = 126;
            head[2..4].copy_from_slice(&middle.to_be_bytes());
            4
        }
        _ => {
            head[1] = 127;
            head[2..].copy_from_slice(&(payload as u64).to_be_bytes());
            10
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_the_fewest_bytes() {
        for (payload, expected) in [
            (0, &[0x82, 0][..]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (0xffff, &[0x82, 126, 0xff, 0xff]),
            (0x1_0000, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let mut head = [0; 10];
            let length = head_of(&mut head, Opcode::Binary, payload);
            assert_eq!(&head[..length], expected, "{payload}");
        }
    }
}
