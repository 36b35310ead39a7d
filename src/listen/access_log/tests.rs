use envoy_types::pb::envoy::config::core::v3::{Metadata, Node};
use envoy_types::pb::envoy::data::accesslog::v3::{AccessLogCommon, AccessLogType, TcpAccessLogEntry};
use envoy_types::pb::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_client::AccessLogServiceClient;
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::{
    HttpAccessLogEntries, Identifier, LogEntries, TcpAccessLogEntries,
};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use proptest::prelude::*;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Code;
use tonic::transport::Channel as Transport;

use super::*;
use crate::listen::places::{ConnectionBounds, Places};
use crate::listen::tests::services;
use crate::listen::{AGE_GRACE, IDLE, MAX_AGE, MAX_UNFINISHED, Rooms, Services, converse, router};
use crate::metrics::PageFormat;
use crate::usage::Terms;

/// A server, and what stops it.
struct Served {
    address: String,
    services: Services,
    stop: watch::Sender<bool>,
    task: AbortHandle,
}

/// One stream of a client.
struct Log {
    messages: mpsc::UnboundedSender<StreamAccessLogsMessage>,
    answer: tokio::task::JoinHandle<Result<(), Status>>,
}

impl Served {
    async fn start(age: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (services, (stop, stopped)) = (services(), watch::channel(false));
        let router = router(&services, &Rooms::new(&services.ext_authz.metrics.ports), age, &stopped);
        let places = Arc::new(Places::new(ConnectionBounds { all: 8, of_one: 8, idle: IDLE }));
        let task = tokio::spawn(async move {
            let (_go, going) = watch::channel(());
            while let Ok((stream, peer)) = listener.accept().await {
                let (place, _) = places.take(peer.ip()).unwrap();
                tokio::spawn(converse(
                    router.clone(),
                    stream.into_std().unwrap(),
                    place,
                    age + AGE_GRACE,
                    going.clone(),
                ));
            }
        });
        Served { address, services, stop, task: task.abort_handle() }
    }

    async fn log(&self) -> Log {
        let transport = Transport::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap();
        let (messages, sent) = mpsc::unbounded_channel();
        let answer = tokio::spawn(async move {
            let mut client = AccessLogServiceClient::new(transport);
            client.stream_access_logs(UnboundedReceiverStream::new(sent)).await.map(|_| ())
        });
        Log { messages, answer }
    }

    /// The value of a counter.
    fn counted(&self, series: &str) -> u64 {
        let page = self.services.rate_limit.metrics.page(PageFormat::Text, 0, 0);
        let line = page.lines().find_map(|line| line.strip_prefix(series));
        line.unwrap_or_else(|| panic!("{series}\n{page}")).trim().parse().unwrap()
    }

    fn reports(&self, result: &str) -> u64 {
        let over = |channel: Channel| {
            self.counted(&format!(
                "tiergate_usage_reports_total{{channel=\"{}\",result=\"{result}\"}}",
                channel.as_str()
            ))
        };
        Channel::ALL.iter().map(|channel| over(*channel)).sum()
    }

    fn passed(&self, entry: &str) -> u64 {
        self.counted(&format!("tiergate_access_log_passed_total{{entry=\"{entry}\"}}"))
    }

    /// The entry of a request's end, which cost so many tokens.
    fn entry(&self, tokens: f64) -> HttpAccessLogEntry {
        let RateLimit { gate, clock, .. } = &*self.services.rate_limit;
        let sealed = gate.sealer.seal(&Terms { is_call: true, ..Terms::default() }, gate.limits.time(clock.now()));
        let object = |key: &str, kind| Struct { fields: [(key.to_owned(), Value { kind: Some(kind) })].into() };
        let ours = Kind::StructValue(object("reservation", Kind::StringValue(sealed)));
        let metadata = [
            ("envoy.filters.http.ext_authz".to_owned(), object("tiergate", ours)),
            ("tiergate.usage".to_owned(), object("total", Kind::NumberValue(tokens))),
        ];
        let common = AccessLogCommon {
            access_log_type: AccessLogType::DownstreamEnd.into(),
            time_to_first_upstream_tx_byte: Some(envoy_types::pb::google::protobuf::Duration { seconds: 0, nanos: 1 }),
            metadata: Some(Metadata { filter_metadata: metadata.into(), ..Metadata::default() }),
            ..AccessLogCommon::default()
        };
        HttpAccessLogEntry { common_properties: Some(common), ..HttpAccessLogEntry::default() }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Log {
    fn send(&self, entries: Vec<HttpAccessLogEntry>) {
        let log_entries = Some(LogEntries::HttpLogs(HttpAccessLogEntries { log_entry: entries }));
        self.messages.send(StreamAccessLogsMessage { identifier: None, log_entries }).unwrap();
    }

    /// Says that there is no more; the answer.
    async fn end(self) -> Result<(), Status> {
        drop(self.messages);
        self.answer.await.unwrap()
    }
}

#[tokio::test]
async fn each_entry_of_a_log_is_taken_once_whoever_sends_it() {
    let served = Served::start(MAX_AGE).await;
    let log = served.log().await;
    let entry = served.entry(5.0);
    let mut begun = entry.clone();
    begun.common_properties.as_mut().unwrap().access_log_type = AccessLogType::DownstreamStart.into();
    // Nobody has said who it is.
    log.send(vec![begun, entry.clone(), entry, HttpAccessLogEntry::default()]);
    log.send(Vec::new());
    let tcp = TcpAccessLogEntries { log_entry: vec![TcpAccessLogEntry::default(); 3] };
    let node = Node { id: "n".repeat(70_000), ..Node::default() };
    let identifier = Some(Identifier { node: Some(node), log_name: "tiergate".to_owned() });
    log.messages.send(StreamAccessLogsMessage { identifier, log_entries: Some(LogEntries::TcpLogs(tcp)) }).unwrap();
    log.send(vec![served.entry(7.0), served.entry(f64::NAN), served.entry(9_223_372_036_854_775_808.0)]);
    assert!(log.end().await.is_ok());
    assert_eq!(["settled", "duplicate", "estimated", "refused"].map(|result| served.reports(result)), [3, 1, 1, 0]);
    assert_eq!(["unreserved", "interim", "tcp"].map(|entry| served.passed(entry)), [1, 1, 3]);
    let corrected = |what: &str| served.counted(&format!("tiergate_usage_corrections_total{{what=\"{what}\"}}"));
    assert_eq!(["number", "answer"].map(corrected), [1, 1]);
}

/// Sequence 12: entries of a request that goes on have its reservation and its usage so far.
#[tokio::test]
async fn entries_before_the_end_of_a_request_settle_nothing() {
    let served = Served::start(MAX_AGE).await;
    let log = served.log().await;
    let end = served.entry(60.0);
    let so_far = |kind: AccessLogType, tokens: f64| {
        let mut entry = end.clone();
        let common = entry.common_properties.as_mut().unwrap();
        common.access_log_type = kind.into();
        let usage = common.metadata.as_mut().unwrap().filter_metadata.get_mut("tiergate.usage").unwrap();
        usage.fields.insert("total".to_owned(), Value { kind: Some(Kind::NumberValue(tokens)) });
        entry
    };
    let (start, periodic) = (AccessLogType::DownstreamStart, AccessLogType::DownstreamPeriodic);
    log.send(vec![so_far(start, 1.0), so_far(periodic, 20.0), so_far(periodic, 40.0), end.clone()]);
    log.send(vec![so_far(periodic, 70.0)]);
    assert!(log.end().await.is_ok());
    assert_eq!((served.passed("interim"), served.reports("settled"), served.reports("conflicting")), (4, 1, 0));
    let total = "tiergate_channel_tokens_total{channel=\"access_log\",usage=\"total\"}";
    assert_eq!(served.counted(total), 60);
}

/// Sequence 1.
#[tokio::test]
async fn a_report_over_both_channels_is_charged_once() {
    let served = Served::start(MAX_AGE).await;
    let log = served.log().await;
    let entry = served.entry(5.0);
    let Entry::Report { sealed, report, .. } = Entry::of(&entry) else { panic!("it is one") };
    let rate_limit = &served.services.rate_limit;
    rate_limit.usage.take(sealed, &report, Channel::RateLimit, rate_limit.clock.now()).await;
    log.send(vec![entry]);
    assert!(log.end().await.is_ok());
    assert_eq!((served.reports("settled"), served.reports("duplicate")), (1, 1));
}

#[tokio::test]
async fn a_log_that_never_ends_takes_no_memory() {
    let served = Served::start(MAX_AGE).await;
    let log = served.log().await;
    let identifier = || Some(Identifier { log_name: "n".repeat(512 * 1024), ..Identifier::default() });
    for _ in 0..2 * MAX_UNFINISHED / (512 * 1024) {
        log.messages.send(StreamAccessLogsMessage { identifier: identifier(), log_entries: None }).unwrap();
    }
    log.send(vec![served.entry(5.0)]);
    assert!(log.end().await.is_ok());
    assert_eq!((served.reports("settled"), served.counted("tiergate_unfinished_calls_refused_total")), (1, 0));
}

#[tokio::test]
async fn a_log_ends_at_a_stop_though_its_sender_goes_on() {
    let served = Served::start(MAX_AGE).await;
    let log = served.log().await;
    log.send(vec![served.entry(5.0)]);
    served.stop.send(true).unwrap();
    assert!(log.answer.await.unwrap().is_ok());
    drop(log.messages);
    let again = served.log().await;
    assert!(again.answer.await.unwrap().is_ok(), "and does not begin");
}

#[tokio::test]
async fn a_log_ends_when_its_connection_has_to_go() {
    let served = Served::start(Duration::from_millis(10)).await;
    let log = served.log().await;
    // Not broken off with it: that would be an error.
    log.answer.await.unwrap().unwrap();
    drop(log.messages);
}

/// A stream of bytes, and its answer.
async fn stream(served: &Served) -> (h2::SendStream<Bytes>, h2::client::ResponseFuture) {
    let stream = TcpStream::connect(&served.address).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://tiergate{METHOD}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (answer, body) = sender.ready().await.unwrap().send_request(request, false).unwrap();
    (body, answer)
}

/// What a stream is answered that carries these bytes, whole or not: `grpc-status`.
async fn answer(served: &Served, bytes: Vec<u8>) -> Code {
    let (mut body, answer) = stream(served).await;
    body.send_data(bytes.into(), true).unwrap();
    let mut answer = answer.await.unwrap().into_body();
    while answer.data().await.is_some() {}
    let trailers = answer.trailers().await.unwrap().unwrap();
    Code::from_bytes(trailers.get("grpc-status").unwrap().as_bytes())
}

#[tokio::test]
async fn a_log_is_answered_at_once_so_that_no_bound_of_a_call_ends_it() {
    let served = Served::start(MAX_AGE).await;
    let (mut body, answer) = stream(&served).await;
    let answer = answer.await.unwrap();
    assert_eq!((answer.status(), answer.body().is_end_stream()), (http::StatusCode::OK, false));
    body.send_data(Bytes::new(), true).unwrap();
}

/// A message with gRPC's prefix, which says this length.
fn framed(flag: u8, length: usize, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(length).unwrap().to_be_bytes();
    [&[flag], &length[..], message].concat()
}

#[tokio::test]
async fn garbage_is_refused_and_counted_and_what_is_whole_beside_it_is_taken() {
    let served = Served::start(MAX_AGE).await;
    let garbage = [0xff; 64];
    let entries = HttpAccessLogEntries { log_entry: vec![served.entry(5.0)] };
    let log_entries = Some(LogEntries::HttpLogs(entries));
    let good = StreamAccessLogsMessage { identifier: None, log_entries }.encode_to_vec();
    // `http_logs` of one `log_entry` that is no message.
    let bad = [&[0x12, 4, 0x0a, 2][..], &[0xff, 0xff]].concat();
    let [good, bad] = [good, bad].map(|message| framed(0, message.len(), &message));
    for (what, bytes, code, refused) in [
        ("no message, and one", [framed(0, garbage.len(), &garbage), good.clone()].concat(), Code::Ok, 1),
        ("no entry, and one", [bad, good.clone()].concat(), Code::Ok, 1),
        ("an entry longer than its message", framed(0, 3, &[0x12, 0x7f, 0]), Code::Ok, 1),
        ("64 MiB", framed(0, 64 * 1024 * 1024, &[]), Code::OutOfRange, 1),
        ("one byte too long", framed(0, MAX_LOG_MESSAGE + 1, &[]), Code::OutOfRange, 1),
        ("half of one", good[..good.len() / 2].to_vec(), Code::Internal, 1),
        ("no prefix", vec![0; 3], Code::Internal, 1),
        ("an unknown flag", framed(7, garbage.len(), &garbage), Code::Internal, 1),
        ("compressed", framed(1, garbage.len(), &garbage), Code::Internal, 1),
        ("nothing", Vec::new(), Code::Ok, 0),
    ] {
        let before = served.reports("refused");
        assert_eq!(answer(&served, bytes).await, code, "{what}");
        assert_eq!(served.reports("refused") - before, refused, "{what}");
    }
    assert_eq!((served.reports("settled"), served.reports("duplicate")), (1, 1));
}

proptest! {
    #[test]
    fn no_bytes_are_taken_for_more_than_they_are(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut whole = 0;
        for part in message::parts(bytes.clone().into()) {
            match part {
                Ok(Part::Http(entry)) => {
                    whole += entry.len();
                    let _ = HttpAccessLogEntry::decode(entry).map(|entry| Entry::of(&entry) == Entry::Passed(Passed::Tcp));
                }
                Ok(Part::Tcp) | Err(_) => {}
            }
        }
        prop_assert!(whole <= bytes.len());
    }

    #[test]
    fn each_entry_of_a_message_is_found(sizes in prop::collection::vec(0_usize..300, 0..20), name in ".{0,40}") {
        let entry = |size: &usize| HttpAccessLogEntry {
            common_properties: Some(AccessLogCommon { route_name: "r".repeat(*size), ..AccessLogCommon::default() }),
            ..HttpAccessLogEntry::default()
        };
        let log_entry: Vec<_> = sizes.iter().map(entry).collect();
        let expected: Vec<_> = log_entry.iter().map(|entry| Ok(Part::Http(entry.encode_to_vec().into()))).collect();
        let message = StreamAccessLogsMessage {
            identifier: Some(Identifier { log_name: name, ..Identifier::default() }),
            log_entries: Some(LogEntries::HttpLogs(HttpAccessLogEntries { log_entry })),
        };
        let found: Vec<_> = message::parts(message.encode_to_vec().into()).collect();
        prop_assert_eq!(found, expected);
    }
}
