//! Calls that reserve what they are expected to cost, and settle what they did.

use super::*;
use crate::gate::Reserving;
use crate::limit::{AccountKey, Standing};
use crate::rules::{LimitKind, TokenAdmission};
use crate::usage::{Calling, Channel, Reports, UsageMetrics};

const DAY: u64 = 24 * 3600;

/// A gate where everybody has so many tokens in so many seconds, each caller for themselves; and where its reports go.
pub(super) struct World {
    pub(super) gate: Gate,
    pub(super) reports: Reports,
}

/// An admitted call.
pub(super) struct Admitted {
    pub(super) reservation: String,
    pub(super) held: u64,
}

// === impl World ===

impl World {
    pub(super) fn new(limit: u64, seconds: u64, annotations: &str) -> Self {
        World::with(&each(limit, seconds, annotations))
    }

    pub(super) fn with(limits: &str) -> Self {
        let settings = DecisionSettings { reserving: Reserving::default(), ..settings() };
        let gate = gate(compiled(limits), settings);
        let reports = gate.reports(UsageMetrics::default());
        World { gate, reports }
    }

    pub(super) async fn decide(&self, user: &str, at: Nanos) -> Decision {
        let mut call = Call::path("/v1/chat/completions");
        call.headers.insert("x-user".to_owned(), user.to_owned());
        call.headers.insert("content-length".to_owned(), "40".to_owned());
        call.on(&self.gate, at).await
    }

    /// What is held of the last limit; `None` if it is refused for want of tokens.
    pub(super) async fn call(&self, user: &str) -> Option<Admitted> {
        let decision = self.decide(user, Nanos(0)).await;
        match decision.outcome {
            Ok(grant) => {
                let held = decision.evidence.limits.last().unwrap().standing.unwrap().held();
                Some(Admitted { reservation: grant.reservation, held })
            }
            Err(denial) => {
                assert_eq!(denial.code, Code::LimitTokens);
                None
            }
        }
    }

    pub(super) async fn settle(&self, admitted: &Admitted, report: &Report) -> Settlement {
        self.reports.take(&admitted.reservation, report, Channel::RateLimit, Nanos(0)).await.settlement
    }

    /// Where a limit stands for the caller.
    pub(super) async fn standing(&self, user: &str) -> Standing {
        *self.decide(user, Nanos(0)).await.evidence.most_restrictive(LimitKind::Tokens).unwrap()
    }

    /// All that `count` calls at once use; how many there were, and what they used beyond what they held.
    async fn at_once(&self, user: &str, count: u64, tokens: impl Fn(u64) -> u64) -> (u64, u64, u64) {
        let mut running = Vec::new();
        for number in 0..count {
            running.extend(self.call(user).await.map(|admitted| (admitted, tokens(number))));
        }
        let (mut used, mut missed) = (0, 0);
        for (admitted, tokens) in &running {
            assert_eq!(self.settle(admitted, &total(*tokens)).await, Settlement::Settled(*tokens));
            used += tokens;
            missed += tokens.saturating_sub(admitted.held);
        }
        (running.len() as u64, used, missed)
    }
}

/// A policy of one limit, for each caller for themselves.
pub(super) fn each(limit: u64, seconds: u64, annotations: &str) -> String {
    format!(
        "
apiVersion: kuadrant.io/v1
kind: TokenRateLimitPolicy
metadata: {{name: tokens, namespace: ns, annotations: {{{annotations}}}}}
spec:
  targetRef: {{group: gateway.networking.k8s.io, kind: Gateway, name: gw}}
  limits:
    all:
      rates: [{{limit: {limit}, window: {seconds}s}}]
      counters: [{{expression: 'request.headers[\"x-user\"]'}}]
"
    )
}

/// One route for everybody, under these limits.
pub(super) fn compiled(limits: &str) -> Policy {
    let everybody = "apiVersion: kuadrant.io/v1
kind: AuthPolicy
metadata: {name: open, namespace: ns}
spec:
  targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: gw}
  rules: {authentication: {anybody: {anonymous: {}}}}
---";
    let policy = compile_text(&format!("{ONE_ROUTE}{everybody}{limits}"));
    let errors: Vec<_> = policy.problems.iter().filter(|problem| problem.is_error()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    policy
}

pub(super) fn total(tokens: u64) -> Report {
    Report { usage: Usage { input: Some(10), output: Some(tokens - 10), ..Usage::default() }, ..Report::default() }
}

/// 64 calls of 60 tokens against 100 a minute. What is used beyond the limit is what the estimates missed, and no more.
#[tokio::test]
async fn of_64_calls_at_once_one_runs_where_one_fits_and_all_of_them_without_a_reservation() {
    let world = World::new(100, 60, "");
    assert_eq!(world.at_once("ada", 64, |_| 60).await, (1, 60, 0));
    // The tokens that are left are fewer than a call that is not known may cost.
    assert_eq!(world.standing("ada").await.remaining(), 40);
    let positive = World::new(100, 60, "tiergate.io/token-admission: positive");
    assert_eq!(positive.at_once("ada", 64, |_| 60).await, (64, 64 * 60, 64 * 60));
}

/// 800 each against 10,000 a day, once answers of the model are known.
#[tokio::test]
async fn use_passes_the_limit_by_no_more_than_the_estimates_missed() {
    let world = World::new(10_000, DAY, "");
    for user in 0..50 {
        let user = format!("user-{user}");
        let (admitted, used, _) = world.at_once(&user, 1, |number| 700 + number % 3 * 100).await;
        assert_eq!(admitted, 1, "{used}");
    }
    let (admitted, used, missed) = world.at_once("ada", 64, |number| 600 + number * 97 % 400).await;
    assert!(used <= 10_000 + missed, "{used} used, {missed} missed");
    assert!((7..=14).contains(&admitted), "{admitted}");
    let positive = World::new(10_000, DAY, "tiergate.io/token-admission: positive");
    let (admitted, used, _) = positive.at_once("ada", 64, |number| 600 + number * 97 % 400).await;
    assert!(admitted == 64 && used > 40_000, "{admitted} admitted, {used} used");
}

/// A model whose answers are longer than the limit of a small tier.
#[tokio::test]
async fn a_limit_smaller_than_one_answer_lets_one_call_through_at_a_time() {
    let world = World::new(100, 60, "");
    for _ in 0..3 {
        let admitted = world.call("ada").await.unwrap();
        assert_eq!(admitted.held, 100);
        assert!(world.call("ada").await.is_none(), "while it runs");
        assert_eq!(world.settle(&admitted, &total(11)).await, Settlement::Settled(11));
        // Nine tenths of the limit are enough.
        if world.standing("ada").await.remaining() < 90 {
            break;
        }
    }
    assert!(world.call("bob").await.is_some(), "others are not concerned");
}

#[tokio::test]
async fn what_is_left_goes_down_at_admission_and_up_again_when_less_was_used() {
    let world = World::new(100_000, DAY, "");
    let before = world.standing("ada").await.remaining();
    assert_eq!(before, 100_000 - 1_313, "1,000, and a prompt of 40 bytes, with a margin");
    let admitted: Vec<_> = {
        let mut admitted = Vec::new();
        for _ in 0..40 {
            admitted.extend(world.call("ada").await);
        }
        admitted
    };
    assert_eq!(admitted.len(), 40);
    assert_eq!(world.gate.limits.accounts(), 1);
    let held: u64 = admitted.iter().map(|call| call.held).sum();
    assert_eq!(world.standing("ada").await.remaining(), before - held - admitted[0].held);
    // A second apart, so that each teaches the model.
    for (call, second) in admitted.iter().zip(1..) {
        let now = Nanos::from(Duration::from_secs(second));
        world.reports.take(&call.reservation, &total(20), Channel::RateLimit, now).await;
    }
    let learned = world.call("ada").await.unwrap().held;
    assert!(learned < 200, "{learned}");
}

/// Failures of the model, and what is never free.
#[tokio::test]
async fn a_call_that_the_model_refused_gives_everything_back_and_one_that_broke_off_does_not() {
    let answer = |status, bytes| Report { status: Some(status), bytes: Some(bytes), ..Report::default() };
    let prompt = Usage { input: Some(10), ..Usage::default() };
    let broken = Report { usage: prompt, streamed: true, ..answer(200, 2_000) };
    let counted = Report { ended: Some(false), ..total(70) };
    let failed = Report { status: Some(500), ..total(70) };
    for (report, used) in [
        (answer(400, 90), 0),
        (answer(503, 90), 0),
        (failed, 70),
        (counted, 70),
        (broken, 30),
        (Report { request_bytes: Some(40), ..answer(0, 0) }, 10),
    ] {
        let world = World::new(100_000, DAY, "tiergate.io/algorithm: fixed-window");
        let admitted = world.call("ada").await.unwrap();
        world.settle(&admitted, &report).await;
        let look = world.decide("ada", Nanos(0)).await.evidence.limits[0].standing.unwrap();
        assert_eq!(100_000 - look.remaining() - look.held(), used, "{report:?}");
    }
}

/// 35. The second limit of a request refuses.
#[tokio::test]
async fn of_two_limits_both_are_held_or_none() {
    let world = World::with(
        "
apiVersion: kuadrant.io/v1
kind: TokenRateLimitPolicy
metadata: {name: tokens, namespace: ns}
spec:
  targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: gw}
  limits:
    each:
      rates: [{limit: 5000, window: 1h}]
      counters: [{expression: 'request.headers[\"x-user\"]'}]
    all:
      rates: [{limit: 2000, window: 1h}]
",
    );
    let ada = world.call("ada").await.unwrap();
    assert_eq!(ada.held, 1_313);
    let refused = world.decide("bob", Nanos(0)).await;
    let denial = refused.outcome.unwrap_err();
    assert_eq!(denial.code, Code::LimitTokens);
    assert_eq!(denial.message, "you have 687 of your 2000 tokens per 3600s left, fewer than this call may cost");
    world.settle(&ada, &total(100)).await;
    let bob = world.decide("bob", Nanos(0)).await;
    let [each, all] = [0, 1].map(|at| bob.evidence.limits[at].standing.unwrap());
    assert_eq!(each.remaining(), 5000 - each.held(), "the refused one took nothing");
    assert_eq!(all.remaining(), 2000 - 100 - all.held());
}

/// Lists of models and the like cost nothing, and wait for no report.
#[tokio::test]
async fn a_request_that_is_no_call_holds_nothing() {
    let world = World::new(100, 60, "");
    let mut call = Call::path("/v1/chat/completions/tokenize");
    call.headers.insert("x-user".to_owned(), "ada".to_owned());
    for _ in 0..3 {
        let decision = call.on(&world.gate, Nanos(0)).await;
        assert!(decision.outcome.is_ok());
        assert_eq!(decision.evidence.limits[0].standing.unwrap().held(), 0);
    }
    assert_eq!(world.call("ada").await.unwrap().held, 100);
    assert!(call.on(&world.gate, Nanos(0)).await.outcome.is_err(), "nothing is left");
}

/// A flag says it for all, and an annotation for one policy.
#[tokio::test]
async fn a_policy_says_how_its_tokens_are_admitted_and_a_flag_for_those_that_do_not() {
    let positive = Reserving { admission: TokenAdmission::Positive, ..Reserving::default() };
    for (flag, annotation, held) in [
        (Reserving::default(), "", 100),
        (Reserving::default(), "tiergate.io/token-admission: positive", 0),
        (positive, "", 0),
        (positive, "tiergate.io/token-admission: reserve", 100),
    ] {
        let mut world = World::new(100, 60, annotation);
        world.gate.settings.reserving = flag;
        assert_eq!(world.call("ada").await.unwrap().held, held, "{flag:?} {annotation}");
    }
}

/// 31. The body of a call is long because of an image: the model's prompts count, not its bytes.
#[tokio::test]
async fn a_long_body_holds_what_the_models_prompts_cost() {
    let world = World::new(1_000_000, DAY, "");
    for _ in 0..100 {
        world.at_once("ada", 1, |_| 100).await;
    }
    let calling = Calling { model: ModelId::NONE, account: AccountKey(0) };
    let want = world.gate.forecasts.forecast(calling, Some(1 << 20)).want;
    assert!(want < 1_000, "{want}, not 262,144");
}

/// A length that is none is not known.
#[tokio::test]
async fn a_length_that_is_none_is_not_believed() {
    for length in ["", "-1", "1e9", "18446744073709551616", "0x10"] {
        let world = World::new(1_000_000, DAY, "");
        let mut call = Call::path("/v1/chat/completions");
        call.headers.extend([("x-user", "ada"), ("content-length", length)].map(|(a, b)| (a.to_owned(), b.to_owned())));
        let decision = call.on(&world.gate, Nanos(0)).await;
        assert_eq!(decision.evidence.limits[0].standing.unwrap().held(), 1_300, "{length:?}");
    }
}

/// A chat of `ada` that sends this body, whose length is told.
fn asking(body: &str) -> Call {
    let mut call = Call { body: Some(body.to_owned()), ..Call::path("/v1/chat/completions") };
    let length = body.len().to_string();
    call.headers.extend([("x-user", "ada"), ("content-length", &*length)].map(|(a, b)| (a.to_owned(), b.to_owned())));
    call
}

/// Sequence 30: `n: 8, max_tokens: 100`, where the gateway sends the body along.
#[tokio::test]
async fn a_call_holds_no_more_than_its_prompt_and_the_longest_answer_of_each_choice() {
    let world = World::new(1_000_000, DAY, "");
    let held = async |body: &str| {
        let decision = asking(body).on(&world.gate, Nanos(0)).await;
        decision.evidence.limits[0].standing.unwrap().held()
    };
    for (body, most) in [
        (r#"{"n": 8, "max_tokens": 100, "messages": []}"#, 11 + 800),
        (r#"{"max_tokens": 20}"#, 5 + 20),
        (r#"{"max_tokens": 1}"#, 5 + 1),
    ] {
        assert_eq!(held(body).await, most, "{body}");
    }
    // A bound makes nothing greater, and what leaves a doubt is none.
    for body in [r#"{"max_tokens": 100000}"#, r#"{"max_tokens": 20, "max_tokens": 100000}"#, r#"{"max_tokens": "20"}"#]
    {
        let prompt = body.len() as f64 / 4.0;
        assert_eq!(held(body).await, ((1_000.0 + prompt) * 1.3).ceil() as u64, "{body}");
    }
}

#[tokio::test]
async fn a_limit_in_shadow_holds_no_more_either() {
    let world = World::new(1_000_000, DAY, "tiergate.io/shadow: \"true\"");
    let decision = asking(r#"{"max_tokens": 20}"#).on(&world.gate, Nanos(0)).await;
    let held: Vec<u64> = decision.evidence.shadow_limits.iter().map(|limit| limit.standing.unwrap().held()).collect();
    assert_eq!((decision.evidence.limits.len(), held), (0, vec![25]));
}

/// A caller who asks for little teaches what was learned without the bound.
#[tokio::test]
async fn what_is_learned_does_not_know_the_bound() {
    let forecast = async |body: &str| {
        let world = World::new(1_000_000, DAY, "");
        asking(body).on(&world.gate, Nanos(0)).await.evidence.forecast
    };
    let (bound, free) = (forecast(r#"{"max_tokens": 20}"#).await, forecast(r#"{"max_tokons": 20}"#).await);
    assert_eq!((bound.want, free.want), (25, 1_306));
    assert_eq!((bound.prior, bound.guess), (free.prior, free.guess));
}
