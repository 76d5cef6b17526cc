//! A peer's socket while it speaks HTTP: received bytes are charged until they are answered, and
//! responses must be read in time.

use std::io::{Error, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use meshagent_ledger::{Account, Charge, Kind};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::FREE_HEAD_BYTES;

/// Bytes of a response that a peer must read within each period of patience.
const PROGRESS_BYTES: usize = 16 << 10;

/// Bytes that a peer must read in each window while others wait for parts of files: a whole part in
/// four windows.
const WANTED_BYTES: usize = 128 << 10;

/// A TCP stream whose writes fail when the peer reads too slowly, and whose reads fail when the
/// incomplete requests of all peers exceed their bound.
#[derive(Debug)]
pub(crate) struct HttpStream {
    stream: TcpStream,
    patience: Duration,
    window: Duration,
    /// Bytes received since the last answer.
    came: usize,
    charge: Charge,
    account: Arc<Account>,
    /// Set when a write had to wait, until enough or everything is written.
    waiting: Option<Waiting>,
    /// Set when a write had to wait, until everything is written.
    pace: Option<Window>,
}

#[derive(Debug)]
struct Waiting {
    until: Pin<Box<Sleep>>,
    /// Bytes that must be written by then.
    bytes: usize,
}

#[derive(Debug)]
struct Window {
    ends: Pin<Box<Sleep>>,
    taken: usize,
}

impl HttpStream {
    pub(crate) fn new(
        stream: TcpStream,
        patience: Duration,
        window: Duration,
        account: &Arc<Account>,
    ) -> Self {
        Self {
            stream,
            patience,
            window,
            came: 0,
            charge: account.empty(Kind::Head),
            account: Arc::clone(account),
            waiting: None,
            pace: None,
        }
    }

    /// Returns the socket, for another protocol.
    pub(crate) fn into_inner(self) -> TcpStream {
        self.stream
    }

    fn after_write(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<Result<usize, Error>>,
    ) -> Poll<Result<usize, Error>> {
        if let Poll::Ready(written) = written {
            // The request has an answer.
            self.came = 0;
            self.charge.shrink(usize::MAX);
            if let (Ok(bytes), Some(waiting)) = (&written, &mut self.waiting) {
                waiting.bytes = waiting.bytes.saturating_sub(*bytes);
                if waiting.bytes == 0 {
                    self.waiting = None;
                }
            }
            if let (Ok(bytes), Some(pace)) = (&written, &mut self.pace) {
                pace.taken += bytes;
            }
            return Poll::Ready(written);
        }
        let pace = self.pace.get_or_insert_with(|| Window {
            ends: Box::pin(sleep(self.window)),
            taken: 0,
        });
        while pace.ends.as_mut().poll(context).is_ready() {
            let taken = std::mem::take(&mut pace.taken);
            if taken < WANTED_BYTES && self.account.ledger().is_part_wanted() {
                let text = "the peer does not take what it asked for, and others wait";
                return Poll::Ready(Err(Error::new(ErrorKind::TimedOut, text)));
            }
            pace.ends = Box::pin(sleep(self.window));
        }
        let waiting = self.waiting.get_or_insert_with(|| Waiting {
            until: Box::pin(sleep(self.patience)),
            bytes: PROGRESS_BYTES,
        });
        ready!(waiting.until.as_mut().poll(context));
        let text = "the peer does not take what it asked for";
        Poll::Ready(Err(Error::new(ErrorKind::TimedOut, text)))
    }
}

impl AsyncRead for HttpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), Error>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.came += buffer.filled().len() - before;
        let more = self
            .came
            .saturating_sub(FREE_HEAD_BYTES + self.charge.bytes());
        if more > 0 && self.charge.try_grow(more).is_err() {
            let text = "requests that are not complete take as much memory as they may";
            return Poll::Ready(Err(Error::new(ErrorKind::OutOfMemory, text)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HttpStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, Error>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.after_write(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize, Error>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.after_write(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // A flush follows the last write, so everything is written.
        (self.waiting, self.pace) = (None, None);
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use meshagent_ledger::{Bounds, Ledger};
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    /// How writing a long response ends within a second if the peer reads nothing; `None` if it
    /// still waits.
    async fn write_to_the_deaf(ledger: &Arc<Ledger>) -> Option<ErrorKind> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (peer, ours) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (_peer, (ours, _)) = (peer.unwrap(), ours.unwrap());
        let (patience, window) = (Duration::from_mins(1), Duration::from_millis(50));
        let mut stream = HttpStream::new(ours, patience, window, &ledger.common());
        let body = vec![7; 32 << 20];
        let writing = stream.write_all(&body);
        let ended = tokio::time::timeout(Duration::from_secs(1), writing).await;
        ended.ok().map(|ended| ended.unwrap_err().kind())
    }

    #[tokio::test]
    async fn who_takes_nothing_is_dropped_when_others_wait_for_its_part() {
        let ledger = Ledger::new(Bounds {
            server: 64 << 20,
            received: 64 << 20,
        });
        assert_eq!(write_to_the_deaf(&ledger).await, None);
        let wanted = ledger.want_part();
        assert_eq!(write_to_the_deaf(&ledger).await, Some(ErrorKind::TimedOut));
        drop(wanted);
        assert!(!ledger.is_part_wanted());
    }
}
