use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::headers;
use super::reach::{RateComparison, always_stricter};
use crate::clock::Micros;
use crate::limit::{AccountKey, Algorithm, CellId, Cost, Demand, Memory, Quota, Verdict};
use crate::manifest::Manifests;
use crate::rules::LimitKind;
use crate::source::on_large_stack;
use crate::test_util::assert_linear;

const SECOND: u64 = 1_000_000;

/// A quota of few hits in few seconds, so that windows meet in all ways.
fn quotas(algorithm: Algorithm) -> impl Strategy<Value = Quota> {
    (0_u64..8, 1_u64..6).prop_map(move |(limit, window)| Quota::new(limit, Duration::from_secs(window)).by(algorithm))
}

fn algorithms() -> impl Strategy<Value = Algorithm> {
    prop::sample::select(Algorithm::ALL)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// Requests come at any time, some of them counted by the stricter limit alone: where the other one refuses, so does it.
    #[test]
    fn a_limit_that_is_called_unreachable_never_refuses_alone(
        (quota, rate) in algorithms().prop_flat_map(|algorithm| (quotas(algorithm), quotas(algorithm))),
        tokens in any::<bool>(),
        same in any::<bool>(),
        requests in prop::collection::vec((0_u64..3 * SECOND, any::<bool>(), 0_u64..12), 1..60),
    ) {
        let kind = if tokens { LimitKind::Tokens } else { LimitKind::Requests };
        if !always_stricter(&quota, &rate, RateComparison { kind, same }) {
            return Ok(());
        }
        let memory = Memory::default();
        let demand = |cell, quota| {
            let cost = if tokens { Cost::POSTPAID } else { Cost::Take(1) };
            Demand { account: AccountKey(cell), cell: CellId(1), quota, cost }
        };
        let demands = [demand(1, quota), demand(2, rate)];
        let mut now = Micros(0);
        for (pause, both, cost) in requests {
            now = Micros(now.0 + pause);
            let counted = if both || same { &demands[..] } else { &demands[..1] };
            let admission = memory.admit(counted, now);
            if let [stricter, other] = admission.standings.as_slice() {
                prop_assert!(stricter.verdict != Verdict::Fits || other.verdict == Verdict::Fits, "{quota:?} {rate:?}");
            }
            if tokens && admission.admitted() {
                for demand in counted {
                    memory.charge(&Demand { cost: Cost::Take(cost), ..*demand }, 10, now);
                }
            }
        }
    }
}

/// The property holds of nothing, too: these are called unreachable.
#[test]
fn larger_rates_are_called_unreachable() {
    let requests = RateComparison { kind: LimitKind::Requests, same: true };
    let tokens = RateComparison { kind: LimitKind::Tokens, same: true };
    let quota = |limit, seconds| Quota::new(limit, Duration::from_secs(seconds));
    let fixed = |limit, seconds| quota(limit, seconds).by(Algorithm::FixedWindow);
    for (few, many, compared, expected) in [
        (quota(10, 60), quota(100, 60), requests, true),
        (quota(10, 60), quota(100, 3600), requests, false),
        (quota(10, 60), quota(600, 3600), tokens, true),
        (quota(10, 60), quota(9, 10), requests, false),
        (fixed(10, 60), fixed(10, 60), tokens, true),
        (fixed(10, 60), fixed(10, 60), RateComparison { same: false, ..requests }, false),
        (fixed(10, 60), fixed(20, 60), RateComparison { same: false, ..requests }, true),
        (fixed(10, 60), fixed(25, 90), requests, false),
        (fixed(10, 60), fixed(30, 90), requests, true),
        (fixed(10, 60), fixed(300, 90), tokens, false),
    ] {
        assert_eq!(always_stricter(&few, &many, compared), expected, "{few:?} {many:?} {compared:?}");
    }
}

/// Under a condition of the whole policy.
#[test]
fn limits_that_a_header_lifts_are_looked_for_in_time() {
    let time = |number: usize| {
        let limit = |at: usize| {
            let header = if at % 2 == 1 { ", {predicate: 'request.headers[\"x\"] == \"y\"'}" } else { "" };
            let when = format!("when: [{{predicate: 'auth.identity.tier == \"t{at}\"'}}{header}]");
            format!("l{at}: {{rates: [{{limit: 1, window: 1m}}], {when}}}")
        };
        let limits: Vec<String> = (0..number).map(limit).collect();
        let text = format!(
            "{{apiVersion: kuadrant.io/v1, kind: RateLimitPolicy, metadata: {{name: p}}, spec: {{targetRef: {{group: \
             gateway.networking.k8s.io, kind: Gateway, name: gw}}, when: [{{predicate: 'auth.identity.team != \"\"'}}], limits: \
             {{{}}}}}}}",
            limits.join(", ")
        );
        let manifests = on_large_stack(|| Manifests::read([("f", text.as_str())])).unwrap();
        let (mut problems, started) = (Vec::new(), Instant::now());
        headers::lifted(&manifests, &mut problems);
        let elapsed = started.elapsed();
        assert_eq!((manifests.problems.len(), problems.len()), (0, number / 2));
        elapsed
    };
    assert_linear("limits", 300, time);
}
