use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::data::accesslog::v3::HttpRequestProperties;
use envoy_types::pb::google::protobuf::{Any, Duration, ListValue, UInt32Value};

use super::*;

type Fields<'a> = &'a [(&'a str, Kind)];

fn fields(fields: Fields<'_>) -> Struct {
    let fields = fields.iter().map(|(key, kind)| ((*key).to_owned(), Value { kind: Some(kind.clone()) }));
    Struct { fields: fields.collect() }
}

fn text(text: &str) -> Kind {
    Kind::StringValue(text.to_owned())
}

/// The entry of a request that a model answered, with the usage that a reader wrote.
fn answered(usage: Fields<'_>) -> HttpAccessLogEntry {
    let ours = Kind::StructValue(fields(&[("reservation", text("sealed"))]));
    let metadata = [
        (CHECK.to_owned(), fields(&[("tiergate", ours)])),
        (USAGE.to_owned(), fields(usage)),
        (REQUEST.to_owned(), fields(&[("streams", Kind::NumberValue(1.0))])),
    ];
    HttpAccessLogEntry {
        common_properties: Some(AccessLogCommon {
            access_log_type: AccessLogType::DownstreamEnd.into(),
            metadata: Some(Metadata { filter_metadata: metadata.into(), ..Metadata::default() }),
            time_to_first_upstream_tx_byte: Some(Duration { seconds: 0, nanos: 1 }),
            upstream_request_attempt_count: 1,
            ..AccessLogCommon::default()
        }),
        request: Some(HttpRequestProperties { request_body_bytes: 80, ..HttpRequestProperties::default() }),
        response: Some(HttpResponseProperties {
            response_code: Some(UInt32Value { value: 200 }),
            response_body_bytes: 400,
            response_code_details: BY_MODEL.to_owned(),
            ..HttpResponseProperties::default()
        }),
        ..HttpAccessLogEntry::default()
    }
}

/// What Envoy says where it answered by itself, and asked no model.
fn unasked(status: Option<u32>, details: &str) -> HttpAccessLogEntry {
    let mut entry = answered(&[]);
    let common = entry.common_properties.as_mut().unwrap();
    (common.time_to_first_upstream_tx_byte, common.upstream_request_attempt_count) = (None, 0);
    let response = entry.response.as_mut().unwrap();
    response.response_code = status.map(|value| UInt32Value { value });
    response.response_code_details = details.to_owned();
    entry
}

fn with(mut entry: HttpAccessLogEntry, change: impl FnOnce(&mut AccessLogCommon)) -> HttpAccessLogEntry {
    change(entry.common_properties.as_mut().unwrap());
    entry
}

fn flagged(entry: HttpAccessLogEntry, flag: impl FnOnce(&mut ResponseFlags)) -> HttpAccessLogEntry {
    let mut flags = ResponseFlags::default();
    flag(&mut flags);
    with(entry, |common| common.response_flags = Some(flags))
}

fn report(entry: &HttpAccessLogEntry) -> (Report, Option<String>) {
    match Entry::of(entry) {
        Entry::Report { sealed: "sealed", report, wrong } => (report, wrong),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_entry_says_what_an_answer_cost_and_what_became_of_it() {
    let numbers =
        [("total", 61.0), ("input", 21.0), ("output", 40.0), ("cached", 5.0), ("reasoning", 7.0), ("chunks", 9.0)];
    let numbers = numbers.map(|(key, number)| (key, Kind::NumberValue(number)));
    let usage = Usage { total: Some(61), input: Some(21), output: Some(40), cached: Some(5), reasoning: Some(7) };
    let report_of_all = Report {
        usage,
        status: Some(200),
        bytes: Some(400),
        request_bytes: Some(80),
        streamed: true,
        ended: None,
        unsent: false,
    };
    assert_eq!(report(&answered(&numbers)), (report_of_all, None));
    for name in ["total_of_response", "total_of_gemini", "total_of_bedrock"] {
        let (report, _) = report(&answered(&[(name, Kind::NumberValue(8.0)), ("total", Kind::NumberValue(0.0))]));
        assert_eq!(report.usage.total, Some(8), "{name}");
    }
}

/// Sequence 11.
#[test]
fn what_is_no_number_of_tokens_is_no_usage() {
    for (kind, expected) in [
        (Kind::NumberValue(7.0), Ok(Some(7))),
        (Kind::NumberValue(2.5), Ok(Some(3))),
        (text("7"), Ok(Some(7))),
        (Kind::NumberValue(0.0), Ok(Some(0))),
        (Kind::NumberValue(9_223_372_036_854_775_808.0), Ok(Some(MAX_HITS))),
        (Kind::NumberValue(f64::MAX), Ok(Some(MAX_HITS))),
        (Kind::NullValue(0), Ok(None)),
        (Kind::NumberValue(-1.0), Err(())),
        (Kind::NumberValue(f64::NAN), Err(())),
        (Kind::NumberValue(f64::INFINITY), Err(())),
        (text("seven"), Err(())),
        (text(""), Err(())),
        (text("-7"), Err(())),
        (Kind::ListValue(ListValue::default()), Err(())),
        (Kind::StructValue(Struct::default()), Err(())),
    ] {
        // Its other numbers count.
        let (report, wrong) = report(&answered(&[("total", kind.clone()), ("output", Kind::NumberValue(4.0))]));
        assert_eq!((report.usage.total, report.usage.output), (expected.unwrap_or(None), Some(4)), "{kind:?}");
        assert_eq!(wrong.is_some(), expected.is_err(), "{kind:?}: {wrong:?}");
    }
}

/// Sequence 12, by one entry.
#[test]
fn only_the_end_of_a_request_that_has_a_reservation_is_a_report() {
    let of = |kind: AccessLogType| with(answered(&[]), |common| common.access_log_type = kind.into());
    for kind in [AccessLogType::DownstreamEnd, AccessLogType::NotSet] {
        assert!(matches!(Entry::of(&of(kind)), Entry::Report { .. }), "{kind:?}");
    }
    for kind in [AccessLogType::DownstreamStart, AccessLogType::UpstreamEnd, AccessLogType::UpstreamPeriodic] {
        assert_eq!(Entry::of(&of(kind)), Entry::Passed(Passed::Interim), "{kind:?}");
    }
    // It says that the call runs, and settles nothing.
    assert_eq!(Entry::of(&of(AccessLogType::DownstreamPeriodic)), Entry::Running { sealed: "sealed" });
    let unknown = with(answered(&[]), |common| common.access_log_type = 99);
    assert_eq!(Entry::of(&unknown), Entry::Passed(Passed::Interim));
    #[expect(deprecated, reason = "older Envoys have nothing else")]
    let old = with(of(AccessLogType::NotSet), |common| common.intermediate_log_entry = true);
    assert_eq!(Entry::of(&old), Entry::Passed(Passed::Interim));
    let ours = |ours: Kind| {
        with(answered(&[]), |common| {
            let metadata = &mut common.metadata.as_mut().unwrap().filter_metadata;
            metadata.insert(CHECK.to_owned(), fields(&[("tiergate", ours)]));
        })
    };
    for (what, entry) in [
        ("nothing", HttpAccessLogEntry::default()),
        ("no metadata", with(answered(&[]), |common| common.metadata = None)),
        ("no struct", ours(text("sealed"))),
        ("an empty one", ours(Kind::StructValue(fields(&[("reservation", text(""))])))),
        ("a number", ours(Kind::StructValue(fields(&[("reservation", Kind::NumberValue(1.0))])))),
    ] {
        assert_eq!(Entry::of(&entry), Entry::Passed(Passed::Unreserved), "{what}");
    }
}

#[test]
fn an_answer_that_was_cut_off_says_what_was_counted_so_far() {
    let usage = || answered(&[("total", Kind::NumberValue(30.0))]);
    let left = report(&flagged(usage(), |flags| flags.downstream_connection_termination = true)).0;
    assert_eq!((left.ended, left.usage.total, left.unsent), (Some(false), Some(30), false));
    // The reader saw the last event: who leaves behind it has had all.
    let ended = answered(&[("total", Kind::NumberValue(30.0)), ("ended", Kind::NumberValue(1.0))]);
    assert_eq!(report(&flagged(ended, |flags| flags.downstream_remote_reset = true)).0.ended, Some(true));
    assert_eq!(report(&flagged(usage(), |flags| flags.rate_limited = true)).0.ended, None);
    // Before there was a status, and after a model was asked.
    let mut silent = flagged(answered(&[]), |flags| flags.downstream_connection_termination = true);
    silent.response = Some(HttpResponseProperties::default());
    let silent = report(&silent).0;
    assert_eq!((silent.status, silent.bytes, silent.unsent), (Some(0), Some(0), false));
}

#[test]
fn what_came_to_no_model_is_unsent() {
    for (status, details) in
        [(413, "request_payload_too_large"), (400, "rbac_access_denied_matched_policy[unreadable]")]
    {
        let report = report(&unasked(Some(status), details)).0;
        assert_eq!((report.unsent, report.status), (true, Some(status.into())), "{details}");
    }
    let left = report(&flagged(unasked(None, ""), |flags| flags.downstream_connection_termination = true)).0;
    assert_eq!((left.unsent, left.status), (true, Some(0)));
    for (what, entry) in [
        ("a try before this one", with(unasked(Some(503), ""), |common| common.upstream_request_attempt_count = 2)),
        ("bytes", with(unasked(Some(503), ""), |common| common.upstream_wire_bytes_sent = 1)),
        ("a model's word", unasked(Some(400), BY_MODEL)),
        ("a byte of the request", answered(&[])),
    ] {
        assert!(!report(&entry).0.unsent, "{what}");
    }
}

#[test]
fn the_usage_of_the_ai_protocol_manager_is_read() {
    let part = |tokens| Some(Part { tokens: Some(tokens) });
    let whole = TokenUsage {
        input: Some(17),
        output: Some(403),
        total: Some(420),
        of_input: part(3),
        of_output: part(9),
        provider_total: Some(421),
        status: 1,
    };
    let typed = |usage: &TokenUsage| {
        with(answered(&[]), |common| {
            let any = Any { value: usage.encode_to_vec(), ..Any::default() };
            common.metadata.as_mut().unwrap().typed_filter_metadata.insert(TOKEN_USAGE.to_owned(), any);
        })
    };
    let expected = Usage { total: Some(421), input: Some(17), output: Some(403), cached: Some(3), reasoning: Some(9) };
    let (read, wrong) = report(&typed(&whole));
    assert_eq!((read.usage, read.ended, wrong), (expected, None, None));
    assert_eq!(report(&typed(&TokenUsage { status: PARTIAL, ..whole })).0.ended, Some(false));
    assert_eq!(report(&typed(&TokenUsage { total: Some(1 << 63), ..whole })).0.usage.total, Some(MAX_HITS));
    let failed = TokenUsage { status: 3, ..TokenUsage::default() };
    assert_eq!(report(&typed(&failed)).0.usage, Usage::default());
    let garbage = with(typed(&whole), |common| {
        let typed = &mut common.metadata.as_mut().unwrap().typed_filter_metadata;
        typed.get_mut(TOKEN_USAGE).unwrap().value = vec![0xff; 9];
    });
    let (read, wrong) = report(&garbage);
    assert_eq!(read.usage, Usage::default());
    assert!(wrong.unwrap().starts_with("`envoy.ai.token_usage`: "));
}
