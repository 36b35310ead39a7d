//! A gRPC connection: it holds its place among the allowed ones, has to begin soon, and has an end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};
use tonic::transport::server::Connected;

use super::places::{ConnectionPlace, Seat};

/// How long a peer may take for the client's preface. Who does not send it holds a place that another could use, and no
/// keepalive would find it.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// `PRI * HTTP/2.0`, two empty lines and what is between them: RFC 9113, section 3.4. What the bytes are is h2's to check.
const PREFACE: usize = 24;

/// How long a connection may take to close whose place another has: it was idle, and is asked to go (GOAWAY).
const GOODBYE: Duration = Duration::from_secs(1);

/// A TCP connection with its place, which is given back when it is closed.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// What of the preface is still to come.
    preface: usize,
    /// When the preface has to be there, and after that when the connection ends.
    limit: Pin<Box<Sleep>>,
    end: Instant,
    /// Whether its place is another's.
    leaving: bool,
    place: ConnectionPlace,
}

// === impl Connection ===

impl Connection {
    /// Whatever is in flight after `lifetime` is broken off: the peer was asked to go before.
    #[must_use]
    pub fn new(stream: TcpStream, place: ConnectionPlace, lifetime: Duration) -> Self {
        let limit = Box::pin(sleep(HANDSHAKE));
        Connection { stream, preface: PREFACE, limit, end: Instant::now() + lifetime, leaving: false, place }
    }

    /// Polled before every read and write, so that it wakes this task whichever of them waits.
    fn poll_limit(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        // Who is asked to go is polled to say so, and comes by here.
        if !self.leaving && self.place.seat().is_needed() {
            self.leaving = true;
            self.limit.as_mut().reset(self.end.min(Instant::now() + GOODBYE));
        }
        match self.limit.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Arc<Seat>;

    fn connect_info(&self) -> Arc<Seat> {
        Arc::clone(self.place.seat())
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_limit(cx)?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if self.preface > 0 && read.is_ready() {
            self.preface = self.preface.saturating_sub(buffer.filled().len() - before);
            if self.preface == 0 && !self.leaving {
                let end = self.end;
                self.limit.as_mut().reset(end);
            }
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_limit(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    /// No: h2 would write an answer of 256 bytes or more with a system call of its own, without copying it. So it copies those below
    /// 1,024 bytes, and what is answered at one time is written together.
    fn is_write_vectored(&self) -> bool {
        false
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
