//! `envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs`: Envoy's access log over gRPC. The entry of a request's end is the
//! report of what its answer cost.
//!
//! A stream lives as long as its Envoy. It is answered at once, with nothing but headers, so that no bound of a call holds for it, and
//! it is read in a task of its own, an entry at a time. It ends at a stop and when its connection has to go; what had been sent by then
//! is still taken. Who is at the other end is not asked: an entry is believed by its sealed reservation alone.

mod entry;
mod message;

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use envoy_types::pb::envoy::data::accesslog::v3::HttpAccessLogEntry;
use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_server::SERVICE_NAME;
use futures_util::future::BoxFuture;
use futures_util::stream;
use hyper::body::Bytes;
use prost::Message;
use prost::bytes::Buf;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::Stream;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::Service;
use tonic::codegen::http;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Response, Status, Streaming};

use self::entry::Entry;
use self::message::Part;
use super::places::Seat;
use super::rate_limit::RateLimit;
use crate::usage::{Channel, Passed};

/// A message is what Envoy has gathered (`buffer_size_bytes`, 16 KiB if nobody says otherwise), the entry that filled it, and at first
/// the node, of about 70 KiB.
pub(super) const MAX_LOG_MESSAGE: usize = 1024 * 1024;
/// What comes after a stream was told to end was on its way.
const LINGER: Duration = Duration::from_secs(1);
/// Once a connection was asked to go, and before it is broken off.
const AFTER_AGE: Duration = Duration::from_secs(1);
const METHOD: &str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";

/// The access-log service of one worker.
#[derive(Clone, Debug)]
pub struct AccessLog {
    /// Has what every channel's reports go to.
    rate_limit: Arc<RateLimit>,
    stop: watch::Receiver<bool>,
    /// How old a connection gets.
    age: Duration,
}

/// Messages as they are: what they hold is read an entry at a time. An answer is empty.
#[derive(Clone, Copy, Debug, Default)]
struct Raw;

/// What is said when a stream ends.
type Answer = Pin<Box<dyn Stream<Item = Result<(), Status>> + Send>>;

// === impl AccessLog ===

impl AccessLog {
    /// Takes logs until `stop` changes, or their connection is of that `age`.
    #[must_use]
    pub fn new(rate_limit: Arc<RateLimit>, stop: watch::Receiver<bool>, age: Duration) -> Self {
        AccessLog { rate_limit, stop, age }
    }

    /// Takes what a stream brings, until it ends or has to.
    async fn follow(
        mut self,
        mut log: Streaming<Bytes>,
        seat: Option<Arc<Seat>>,
        over: oneshot::Sender<Result<(), Status>>,
    ) {
        let since = seat.map_or_else(Instant::now, |seat| seat.since().into());
        // One reading to the end, so that no message is left half-way.
        let mut read = pin!(Self::read(&self.rate_limit, &mut log));
        tokio::select! {
            biased;
            // An error means that nobody can say stop any more, which is one.
            _ = self.stop.wait_for(|stop| *stop) => {}
            () = sleep_until(since + self.age + AFTER_AGE) => {}
            // Who has gone needs no answer.
            ended = &mut read => return drop(over.send(ended)),
        }
        let _ = over.send(Ok(()));
        let _ = timeout(LINGER, read).await;
    }

    /// Takes messages until there is none, or one is none.
    async fn read(rate_limit: &RateLimit, log: &mut Streaming<Bytes>) -> Result<(), Status> {
        loop {
            match log.message().await {
                Ok(Some(message)) => take(rate_limit, message).await,
                Ok(None) => return Ok(()),
                Err(status) => {
                    // What the connection did has a source. What is wrong with the stream itself has none.
                    if std::error::Error::source(&status).is_none() {
                        rate_limit.usage.refuse(Channel::AccessLog, status.message());
                    }
                    return Err(status);
                }
            }
        }
    }
}

/// Takes what one message holds. Between two entries others have a turn.
async fn take(rate_limit: &RateLimit, message: Bytes) {
    for part in message::parts(message) {
        match part {
            Ok(Part::Http(encoded)) => take_entry(rate_limit, encoded).await,
            Ok(Part::Tcp) => rate_limit.usage.pass(Passed::Tcp),
            Err(why) => rate_limit.usage.refuse(Channel::AccessLog, &why),
        }
        tokio::task::coop::consume_budget().await;
    }
}

async fn take_entry(rate_limit: &RateLimit, encoded: Bytes) {
    let usage = &rate_limit.usage;
    let entry = match HttpAccessLogEntry::decode(encoded) {
        Ok(entry) => entry,
        Err(error) => return usage.refuse(Channel::AccessLog, &error.to_string()),
    };
    match Entry::of(&entry) {
        Entry::Passed(why) => usage.pass(why),
        Entry::Running { sealed } => {
            usage.pass(Passed::Interim);
            usage.renew(sealed, rate_limit.clock.now()).await;
        }
        Entry::Report { sealed, report, wrong } => {
            if let Some(why) = wrong {
                usage.pass_over(Channel::AccessLog, &why);
            }
            usage.take(sealed, &report, Channel::AccessLog, rate_limit.clock.now()).await;
            rate_limit.miss_the_question();
        }
    }
}

impl NamedService for AccessLog {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<http::Request<Body>> for AccessLog {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let log = self.clone();
        Box::pin(async move {
            if request.uri().path() != METHOD {
                return Ok(Status::unimplemented("there is no such method").into_http());
            }
            Ok(Grpc::new(Raw).max_decoding_message_size(MAX_LOG_MESSAGE).streaming(log, request).await)
        })
    }
}

impl StreamingService<Bytes> for AccessLog {
    type Response = ();
    type ResponseStream = Answer;
    type Future = std::future::Ready<Result<Response<Answer>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<Bytes>>) -> Self::Future {
        let seat = request.extensions().get::<Arc<Seat>>().cloned();
        let (over, ended) = oneshot::channel();
        tokio::spawn(self.clone().follow(request.into_inner(), seat, over));
        let answer = async { ended.await.unwrap_or_else(|_| Err(Status::unavailable("the log could not be read"))) };
        std::future::ready(Ok(Response::new(Box::pin(stream::once(answer)))))
    }
}

// === impl Raw ===

impl Codec for Raw {
    type Encode = ();
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = ();
    type Error = Status;

    fn encode(&mut self, (): (), _: &mut EncodeBuf<'_>) -> Result<(), Status> {
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(message.copy_to_bytes(message.remaining())))
    }
}

#[cfg(test)]
mod tests;
