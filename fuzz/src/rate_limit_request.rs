//! RateLimitRequests as they come off the wire: usage reports, and questions about limits.
//!
//! No corpus can hold a reservation, which is sealed under a random key: `@0` and `@1` stand for two of ours, `~0` for
//! one that another process sealed.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitRequest;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use prost::Message;
use tiergate::clock::{Clock, Micros, Nanos};
use tiergate::gate::EnforceLimits;
use tiergate::limit::{self, AccountKey, Algorithm, CellId, Cost, Demand, Limits, Quota};
use tiergate::listen::rate_limit::{DOMAIN, REPORT_DOMAIN, RateLimit};
use tiergate::respond::Style;
use tiergate::rules::LimitKind;
use tiergate::usage::{Bounds, Hold, MAX_HITS, Sealer, Terms};

use super::world::{GATE, gate_by, run};

/// Only a reservation that this process sealed is charged, with what the report says, and never twice.
pub fn rate_limit_request(data: &[u8]) -> &'static str {
    let Ok(mut request) = RateLimitRequest::decode(data) else { return "not a RateLimitRequest" };
    let holds = [hold(0), hold(1)];
    let gate = Arc::new(gate_by(Arc::clone(&GATE.policies), EnforceLimits::Rls));
    gate.limits.put_in_force(holds.map(|hold| (hold.of.cell, quota())).into_iter().collect());
    let (ours, foreign) = (Arc::clone(&gate.sealer), Sealer::random());
    // Of a request that is no call, so that only what is said is charged.
    let seal =
        |sealer: &Sealer, holds: &[Hold], tier| sealer.seal(&Terms { holds, tier, ..Terms::default() }, Micros(0));
    let named = [
        ("@0", seal(&ours, &holds[..1], "free")),
        ("@1", seal(&ours, &holds[1..], "premium")),
        ("~0", seal(&foreign, &holds, "free")),
    ];
    let written = written(&request);
    for entry in request.descriptors.iter_mut().flat_map(|descriptor| &mut descriptor.entries) {
        for (name, sealed) in &named {
            entry.value = entry.value.replace(name, sealed);
        }
    }
    let service = RateLimit::new(gate, Arc::default(), Arc::default(), Clock::start(), Style::default());
    let answer = run(service.handle(&request));
    if request.domain == DOMAIN {
        return match answer {
            // Every limit is far away.
            Ok(answer) => {
                assert_eq!(answer.overall_code, Code::Ok as i32);
                "within limits"
            }
            Err(_) => "not told enough",
        };
    }
    let charged = holds.map(|hold| used(&service.gate.limits, hold));
    match &answer {
        Ok(answer) => {
            assert_eq!(request.domain, REPORT_DOMAIN);
            assert_eq!(answer.overall_code, Code::Ok as i32);
            let (reservation, tokens) = written.expect("a report that is answered can be read");
            let expected = ["@0", "@1"].map(|name| if reservation == name { tokens } else { 0 });
            assert_eq!(charged, expected, "{reservation:?}");
        }
        Err(_) => assert_eq!(charged, [0, 0]),
    }
    let again = run(service.handle(&request));
    assert_eq!(answer.is_ok(), again.is_ok());
    assert_eq!(holds.map(|hold| used(&service.gate.limits, hold)), charged, "a report is charged once");
    match answer {
        Err(_) => "refused",
        Ok(_) if charged == [0, 0] => "charged nothing",
        Ok(_) => "charged",
    }
}

fn hold(cell: u64) -> Hold {
    let of = limit::Hold { account: AccountKey(u128::from(cell)), cell: CellId(cell), held: 0, mark: Micros(0) };
    Hold { kind: LimitKind::Tokens, shadow: false, of }
}

/// In a window of an hour, so that nothing comes back while one input is looked at.
fn quota() -> Quota {
    Quota::new(Quota::MAX_LIMIT, Duration::from_secs(3600)).by(Algorithm::FixedWindow)
}

fn used(limits: &Limits, hold: Hold) -> u64 {
    let limit::Hold { account, cell, .. } = hold.of;
    let demand = Demand { account, cell, quota: quota(), cost: Cost::POSTPAID };
    demand.quota.limit() - run(limits.admit(&[demand], Nanos(0))).standings[0].remaining()
}

/// The one reservation of a report as it is written, and its tokens; `None` for what is no report.
fn written(request: &RateLimitRequest) -> Option<(String, u64)> {
    let mut reservations = Vec::new();
    let mut numbers = [None; 3];
    for descriptor in &request.descriptors {
        let entry = |key| descriptor.entries.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str());
        reservations.push(entry("tiergate.reservation")?.to_owned());
        let hits = descriptor.hits_addend.as_ref().map_or(u64::from(request.hits_addend), |hits| hits.value);
        let at = ["total", "input", "output"].iter().position(|name| entry("tiergate.usage") == Some(name));
        // A number that is none loses itself.
        if let Some(at) = at.filter(|_| hits <= MAX_HITS && !descriptor.is_negative_hits) {
            numbers[at] = Some(hits);
        }
    }
    reservations.dedup();
    let [total, input, output] = numbers;
    let tokens = total.unwrap_or(input.unwrap_or(0).saturating_add(output.unwrap_or(0)));
    match <[String; 1]>::try_from(reservations) {
        Ok([reservation]) => Some((reservation, tokens.min(Bounds::ANSWER))),
        Err(_) => None,
    }
}
