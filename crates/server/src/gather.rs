//! The write coalescer: merges small writes. Its buffer exists only while it has content, because
//! most connections are idle most of the time.

use std::io::{Error, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

/// Bytes that are collected before they are written without a flush.
const GATHERED_BYTES: usize = 8 << 10;

/// A writer that collects bytes until it is flushed or its buffer is full.
#[derive(Debug)]
pub(crate) struct Gather<W> {
    inner: W,
    /// Allocated with the first byte, freed by a flush.
    buffer: Vec<u8>,
    /// How much of the buffer is already written.
    written: usize,
}

impl<W: AsyncWrite + Unpin> Gather<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self {
            inner,
            buffer: Vec::new(),
            written: 0,
        }
    }

    fn poll_buffer(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while self.written < self.buffer.len() {
            let left = &self.buffer[self.written..];
            let count = ready!(Pin::new(&mut self.inner).poll_write(context, left))?;
            if count == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        self.buffer.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Gather<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, Error>> {
        if self.buffer.len() + bytes.len() > GATHERED_BYTES {
            ready!(self.poll_buffer(context))?;
        }
        if bytes.len() >= GATHERED_BYTES {
            return Pin::new(&mut self.inner).poll_write(context, bytes);
        }
        if self.buffer.capacity() == 0 {
            self.buffer.reserve_exact(GATHERED_BYTES);
        }
        self.buffer.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        ready!(self.poll_buffer(context))?;
        self.buffer = Vec::new();
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        ready!(self.poll_buffer(context))?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_is_written_in_pieces_of_any_size_arrives_in_order() {
        let (ours, mut theirs) = tokio::io::duplex(1000);
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).await.map(|_| all)
        });
        let mut gather = Gather::new(ours);
        let mut expected = Vec::new();
        for (number, size) in [1, 7000, 2000, 8192, 5, 20_000, 0, 8191, 1]
            .into_iter()
            .enumerate()
        {
            let piece = vec![u8::try_from(number).unwrap(); size];
            gather.write_all(&piece).await.unwrap();
            if number % 3 == 2 {
                gather.flush().await.unwrap();
                assert_eq!(gather.buffer.capacity(), 0, "nothing is kept for later");
            }
            expected.extend(piece);
        }
        gather.shutdown().await.unwrap();
        drop(gather);
        assert_eq!(reading.await.unwrap().unwrap(), expected);
    }
}
