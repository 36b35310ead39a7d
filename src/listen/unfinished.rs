//! Messages that are not whole: what has come of them is bounded over all calls of the process.
//!
//! Each call by itself is bounded in size and time, and each connection in calls and windows; but there are many of each, and
//! a peer may send all of a message but its last byte. Who sends a message whole is never counted: Envoy does, at once. So when
//! the room is short, the call that waits for longest is refused, and not the one that comes.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use hyper::body::{Bytes, Frame, SizeHint};
use parking_lot::Mutex;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::Request;
use tonic::server::NamedService;

use super::places::Seat;
use crate::metrics::PortMetrics;
use crate::throttle::Throttle;

/// What a call takes that has said nothing yet, in bytes, as measured: tonic's first buffer is 8 KiB, and the rest is its task.
const CALL: usize = 12 * 1024;

/// What gRPC has before a message.
const PREFIX: usize = 5;

/// The bytes of all messages that are not whole.
#[derive(Debug)]
pub struct Unfinished {
    most: usize,
    held: Mutex<Held>,
    metrics: PortMetrics,
    refused: Mutex<Throttle>,
}

#[derive(Debug, Default)]
struct Held {
    /// All that is there, that of calls that are refused and not gone yet included.
    bytes: usize,
    /// INVARIANT: the sum of the waiting calls' bytes.
    waiting: usize,
    last: u64,
    /// In the order in which they began to wait.
    calls: BTreeMap<u64, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    bytes: usize,
    waker: Waker,
}

/// What one call has there.
#[derive(Debug)]
struct Share {
    number: u64,
    bytes: usize,
}

/// A service whose calls' messages are counted while they are not whole.
#[derive(Clone, Debug)]
pub struct CountedService<S> {
    service: S,
    unfinished: Arc<Unfinished>,
    /// Whether a call has many of them, one after another.
    streams: bool,
}

/// Where one is in the messages of a call, by what gRPC has before each: a flag, and its length in four bytes.
#[derive(Debug, Default)]
struct Frames {
    /// The bytes of the prefix that have come.
    prefix: usize,
    /// The last four of them.
    length: u32,
    /// The bytes of the message that are still to come.
    rest: usize,
}

/// The message of one call, or its messages.
struct Message {
    body: Body,
    /// Of a call that has many.
    frames: Option<Frames>,
    /// The bytes of the call's headers.
    headers: usize,
    /// From when it first waits.
    share: Option<Share>,
    unfinished: Arc<Unfinished>,
    seat: Option<Arc<Seat>>,
}

// === impl Unfinished ===

impl Unfinished {
    /// From `most` bytes on the oldest is refused. It may take a moment to go, so a quarter more is there at one time; beyond
    /// that, who comes is refused.
    #[must_use]
    pub fn new(most: usize, metrics: PortMetrics) -> Self {
        Unfinished { most, held: Mutex::default(), metrics, refused: Mutex::default() }
    }

    /// The service with its messages counted here.
    pub fn count<S>(self: &Arc<Self>, service: S) -> CountedService<S> {
        CountedService { service, unfinished: Arc::clone(self), streams: false }
    }

    /// The service with each message of its calls counted here by itself. A call waits for longest that has sent none whole for
    /// longest.
    pub fn count_each<S>(self: &Arc<Self>, service: S) -> CountedService<S> {
        CountedService { streams: true, ..self.count(service) }
    }

    /// A call waits for more, and `bytes` more of it have come; whether it may.
    fn wait(&self, share: &mut Option<Share>, bytes: usize, waker: &Waker) -> bool {
        let mut refused = Vec::new();
        let may = {
            let mut held = self.held.lock();
            let share = share.get_or_insert_with(|| held.enter(waker));
            held.add(share, bytes, waker);
            while held.waiting > self.most
                && let Some(oldest) = held.calls.keys().next().copied()
            {
                refused.extend(held.remove(oldest));
            }
            if held.bytes > self.most + self.most / 4 {
                refused.extend(held.remove(share.number));
            }
            held.calls.contains_key(&share.number)
        };
        // Not under the lock: who is woken may be gone by that, and leaves.
        for waker in refused {
            self.tell();
            waker.wake();
        }
        may
    }

    /// The message is whole, or the call is over.
    fn leave(&self, share: &Share) {
        let mut held = self.held.lock();
        let waker = held.remove(share.number);
        held.bytes = held.bytes.saturating_sub(share.bytes);
        drop(held);
        drop(waker);
    }

    fn tell(&self) {
        self.metrics.unfinished();
        if let Some(calls) = self.refused.lock().count(Instant::now()) {
            let why = "messages that are not whole take too much memory";
            tracing::warn!(calls, why, "calls were refused");
        }
    }
}

// === impl Held ===

impl Held {
    fn enter(&mut self, waker: &Waker) -> Share {
        self.last += 1;
        self.calls.insert(self.last, Waiting { bytes: 0, waker: waker.clone() });
        Share { number: self.last, bytes: 0 }
    }

    /// Nothing to a call that is refused: it goes.
    fn add(&mut self, share: &mut Share, bytes: usize, waker: &Waker) {
        let Some(call) = self.calls.get_mut(&share.number) else { return };
        call.waker.clone_from(waker);
        for sum in [&mut call.bytes, &mut share.bytes, &mut self.waiting, &mut self.bytes] {
            *sum += bytes;
        }
    }

    /// The call waits no longer. Its bytes are there until it leaves.
    fn remove(&mut self, number: u64) -> Option<Waker> {
        let call = self.calls.remove(&number)?;
        self.waiting = self.waiting.saturating_sub(call.bytes);
        Some(call.waker)
    }
}

// === impl CountedService ===

impl<S: NamedService> NamedService for CountedService<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for CountedService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (head, body) = request.into_parts();
        let message = Message {
            body,
            frames: self.streams.then(Frames::default),
            headers: head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum(),
            share: None,
            unfinished: Arc::clone(&self.unfinished),
            seat: head.extensions.get::<Arc<Seat>>().cloned(),
        };
        self.service.call(Request::from_parts(head, Body::new(message)))
    }
}

// === impl Frames ===

impl Frames {
    /// How many bytes of `data` are behind the last message that is whole with it, if one is.
    fn take(&mut self, data: &[u8]) -> Option<usize> {
        let (mut left, mut behind) = (data, None);
        while let Some((byte, after)) = left.split_first() {
            left = if self.rest == 0 {
                self.begin(*byte);
                after
            } else {
                let (part, after) = left.split_at(self.rest.min(left.len()));
                self.rest -= part.len();
                after
            };
            if (self.rest, self.prefix) == (0, 0) {
                behind = Some(left.len());
            }
        }
        behind
    }

    /// Takes a byte of the prefix.
    fn begin(&mut self, byte: u8) {
        self.length = self.length << 8 | u32::from(byte);
        self.prefix += 1;
        if self.prefix == PREFIX {
            (self.prefix, self.rest) = (0, usize::try_from(self.length).unwrap_or(usize::MAX));
        }
    }
}

// === impl Message ===

impl Message {
    /// Notes what has come of a call that has many messages; what of it is of one that is not whole.
    fn part(&mut self, data: &[u8]) -> usize {
        let Some(behind) = self.frames.as_mut().and_then(|frames| frames.take(data)) else { return data.len() };
        self.leave();
        if let Some(seat) = &self.seat {
            seat.used();
        }
        behind
    }

    /// More is to come, after these bytes.
    fn wait(&mut self, bytes: usize, waker: &Waker) -> Result<(), Status> {
        let first = if self.share.is_none() { CALL + self.headers } else { 0 };
        match self.unfinished.wait(&mut self.share, first + bytes, waker) {
            true => Ok(()),
            false => Err(Status::resource_exhausted("messages that are not whole take too much memory")),
        }
    }

    fn leave(&mut self) {
        if let Some(share) = self.share.take() {
            self.unfinished.leave(&share);
        }
    }
}

impl hyper::body::Body for Message {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) if !this.body.is_end_stream() => {
                let bytes = frame.data_ref().map_or(0, |data| this.part(data));
                let may = this.wait(bytes, cx.waker());
                Poll::Ready(Some(may.map(|()| frame)))
            }
            Poll::Ready(end) => {
                this.leave();
                if let (Some(seat), None | Some(Ok(_))) = (&this.seat, &end) {
                    seat.used();
                }
                Poll::Ready(end)
            }
            Poll::Pending => match this.wait(0, cx.waker()) {
                Ok(()) => Poll::Pending,
                Err(status) => Poll::Ready(Some(Err(status))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        self.leave();
    }
}
