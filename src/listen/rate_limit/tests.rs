use envoy_types::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::{Entry, RateLimitOverride};
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::google::protobuf::UInt64Value;

use super::*;
use crate::clock::Micros;
use crate::gate::{DecisionSettings, EnforceLimits};
use crate::metrics::PageFormat;
use crate::test_util::{compile_files, demo, gate, options, settings};
use crate::usage::{MAX_HITS, ModelId, Terms};

fn service(enforce_limits: EnforceLimits) -> RateLimit {
    let gate = gate(compile_files(&demo(), &options()), DecisionSettings { enforce_limits, ..settings() });
    let metrics = Metrics::new();
    metrics.published(&gate.policies.current(), &[]);
    RateLimit::new(Arc::new(gate), Arc::new(metrics), Arc::default(), Clock::start(), Style::default())
}

fn descriptor(entries: &[(&str, &str)]) -> RateLimitDescriptor {
    let entry = |(key, value): &(&str, &str)| Entry { key: (*key).to_owned(), value: (*value).to_owned() };
    RateLimitDescriptor { entries: entries.iter().map(entry).collect(), ..RateLimitDescriptor::default() }
}

fn question(descriptors: Vec<RateLimitDescriptor>) -> RateLimitRequest {
    RateLimitRequest { domain: DOMAIN.to_owned(), descriptors, hits_addend: 0 }
}

const COMPLETE: &[(&str, &str)] = &[
    ("auth.identity", r#"{"tier": "free", "userid": "alice"}"#),
    ("request.method", "POST"),
    ("request.host", "models"),
    ("request.path", "/llm/granite/v1/chat/completions?a=b"),
    ("tiergate.tier", "free"),
];

/// The names of the headers that are added.
fn headers(answer: &RateLimitResponse) -> Vec<&str> {
    answer.response_headers_to_add.iter().map(|header| header.key.as_str()).collect()
}

#[tokio::test]
async fn limits_say_yes_or_no_with_headers_body_and_metadata() {
    let service = service(EnforceLimits::Rls);
    // One fact a descriptor, and all facts in one, are the same question.
    let spread = COMPLETE.iter().map(|entry| descriptor(&[*entry])).collect();
    for request in [question(spread), question(vec![descriptor(COMPLETE)]), question(vec![descriptor(COMPLETE); 2])] {
        let answer = service.handle(&request).await.unwrap();
        assert_eq!(answer.overall_code, Code::Ok as i32);
        assert!(headers(&answer).contains(&"x-ratelimit-remaining-requests"), "{answer:?}");
        assert!(answer.raw_body.is_empty() && !headers(&answer).contains(&"retry-after"));
    }
    let explicit = RateLimitDescriptor { hits_addend: Some(UInt64Value { value: 1 }), ..descriptor(COMPLETE) };
    for _ in 0..2 {
        let answer = service.handle(&question(vec![explicit.clone()])).await.unwrap();
        assert_eq!(answer.overall_code, Code::Ok as i32);
    }
    let refused = service.handle(&question(vec![descriptor(COMPLETE)])).await.unwrap();
    assert_eq!(refused.overall_code, Code::OverLimit as i32);
    for name in ["retry-after", "content-type", "x-ext-auth-reason", "x-ratelimit-limit", "x-ratelimit-limit-tokens"] {
        assert!(headers(&refused).contains(&name), "{name}: {refused:?}");
    }
    let body: serde_json::Value = serde_json::from_slice(&refused.raw_body).unwrap();
    assert_eq!((&body["error"]["code"], &body["error"]["tier"]), (&"TG-LIMIT-REQUESTS".into(), &"free".into()));
    assert!(refused.dynamic_metadata.unwrap().fields.contains_key("tiergate"));
    let [record] = &service.gate.recent.newest_first()[..] else { panic!("one is kept") };
    let trace = crate::explain::Trace::of_record(record, &service.gate.policies.current()).to_string();
    for line in [
        "POST /llm/granite/v1/chat/completions at models",
        "identity  skipped     this call asks about the limits alone; Check asked the rest",
        "5 requests per 2m, 0 left",
    ] {
        assert!(trace.contains(line), "{line}\n{trace}");
    }
    let page = service.metrics.page(PageFormat::Text, 0, 0);
    for line in [
        "tiergate_decisions_total{outcome=\"allowed\",reason=\"\"} 5",
        "tiergate_decisions_total{outcome=\"refused\",reason=\"TG-LIMIT-REQUESTS\"} 1",
        "tiergate_limit_decisions_total{kind=\"requests\",tier=\"free\",verdict=\"exceeds\"} 1",
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
}

#[tokio::test]
async fn a_question_that_is_not_one_is_refused_and_takes_nothing() {
    let service = service(EnforceLimits::Rls);
    let one = || descriptor(COMPLETE);
    let with = |key: &str, value: &str| {
        let mut descriptor = one();
        descriptor.entries.push(Entry { key: key.to_owned(), value: value.to_owned() });
        question(vec![descriptor])
    };
    let hits = |value| RateLimitDescriptor { hits_addend: Some(UInt64Value { value }), ..one() };
    let limit = RateLimitOverride { requests_per_unit: 1000, unit: 2 };
    let long = "a".repeat(128 * 1024 + 1);
    let many: Vec<_> = (0..300).map(|_| ("x", "y")).collect();
    for (what, request, text) in [
        ("nothing", question(vec![]), "request.method"),
        ("an empty descriptor", question(vec![RateLimitDescriptor::default()]), "request.method"),
        ("without identity", question(vec![descriptor(&COMPLETE[1..])]), "auth.identity.tier"),
        ("without path", question(vec![descriptor(&COMPLETE[..3])]), "request.path"),
        ("another identity", with("auth.identity", "{}"), "contradicts"),
        ("both ways", with("auth.identity.tier", "premium"), "stand together"),
        ("no JSON", with("request.headers", "not told"), "not a JSON object"),
        ("a Gateway that is none", with("tiergate.gateway", "not told"), "TG-UNAVAILABLE-GATEWAY"),
        ("many descriptors", question(vec![one(); 65]), "more than 64 descriptors"),
        ("many entries", question(vec![descriptor(&many)]), "more than 256 entries"),
        ("a long entry", with("x", &long), "longer than"),
        ("two at once", question(vec![hits(2)]), "costs one"),
        ("none at all", question(vec![hits(0)]), "costs one"),
        ("a refund", question(vec![RateLimitDescriptor { is_negative_hits: true, ..one() }]), "costs one"),
        ("many at once", RateLimitRequest { hits_addend: 7, ..question(vec![one()]) }, "costs one"),
        ("its own limit", question(vec![RateLimitDescriptor { limit: Some(limit), ..one() }]), "limit of its own"),
    ] {
        let status = service.handle(&request).await.unwrap_err();
        assert!(status.message().contains(text), "{what}: {status}");
    }
    assert_eq!(service.gate.limits.accounts(), 0);
}

#[tokio::test]
async fn where_check_takes_from_the_limits_the_second_call_is_refused() {
    let status = service(EnforceLimits::Check).handle(&question(vec![descriptor(COMPLETE)])).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(status.message().contains("TIERGATE_ENFORCE_LIMITS"), "{status}");
}

#[tokio::test]
async fn what_cannot_be_decided_is_unavailable() {
    let service = service(EnforceLimits::Rls);
    let broken: Vec<_> = demo()
        .into_iter()
        .map(|(name, text)| (name, text.replace("auth.identity.tier == \"free\"", "auth.identity.tier ==")))
        .collect();
    service.gate.policies.publish(compile_files(&broken, &options()));
    let status = service.handle(&question(vec![descriptor(COMPLETE)])).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
}

fn reported(sealed: &str, numbers: &[(&str, u64)]) -> RateLimitRequest {
    let number = |(name, value): &(&str, u64)| RateLimitDescriptor {
        hits_addend: Some(UInt64Value { value: *value }),
        ..descriptor(&[("tiergate.reservation", sealed), ("tiergate.usage", name)])
    };
    let descriptors = numbers.iter().map(number).collect();
    RateLimitRequest { domain: REPORT_DOMAIN.to_owned(), descriptors, hits_addend: 0 }
}

#[tokio::test]
async fn a_number_that_is_none_loses_itself_and_not_the_report() {
    let service = service(EnforceLimits::Check);
    let sealed = service
        .gate
        .sealer
        .seal(&Terms { is_call: true, model: ModelId::of("llm/granite"), ..Terms::default() }, Micros(0));
    let request = reported(&sealed, &[("input", 10), ("output", 50), ("cached", u64::MAX), ("status", 200)]);
    service.handle(&request).await.unwrap();
    let sealed = service
        .gate
        .sealer
        .seal(&Terms { is_call: true, model: ModelId::of("llm/granite"), ..Terms::default() }, Micros(0));
    let request = reported(&sealed, &[("total", MAX_HITS + 1), ("bytes", 400), ("request_bytes", 4), ("status", 200)]);
    service.handle(&request).await.unwrap();
    for malformed in [reported("x", &[]), question(vec![descriptor(&[])]), question(vec![descriptor(COMPLETE); 65])] {
        let malformed = RateLimitRequest { domain: REPORT_DOMAIN.to_owned(), ..malformed };
        assert_eq!(service.handle(&malformed).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    }
    let page = service.metrics.page(PageFormat::OpenMetrics, 0, 0);
    for line in [
        "tiergate_usage_reports_total{channel=\"rate_limit\",result=\"settled\"} 1",
        "tiergate_usage_reports_total{channel=\"rate_limit\",result=\"estimated\"} 1",
        "tiergate_usage_reports_total{channel=\"rate_limit\",result=\"refused\"} 3",
        "tiergate_usage_corrections_total{what=\"number\"} 2",
        "tiergate_usage_tokens_total{tier=\"\",usage=\"total\"} 60",
        "tiergate_usage_tokens_total{tier=\"\",usage=\"estimated\"} ",
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
}

#[tokio::test]
async fn what_an_answer_costs_is_bounded_counted_and_told() {
    let service = service(EnforceLimits::Check);
    let sealed = service.gate.sealer.seal(&Terms { is_call: true, ..Terms::default() }, Micros(0));
    service.handle(&reported(&sealed, &[("total", MAX_HITS)])).await.unwrap();
    let page = service.metrics.page(PageFormat::OpenMetrics, 0, 0);
    assert!(page.contains("tiergate_usage_corrections_total{what=\"answer\"} 1"), "{page}");
}
