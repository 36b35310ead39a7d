//! Limits for which answers cost something else than their tokens.

use super::reserve::{World, compiled, each, total};
use super::*;
use crate::clock::Micros;
use crate::expression::EVALUATED;
use crate::gate::Reserving;
use crate::limit::{AccountKey, Quota};
use crate::rules::{LimitKind, TokenAdmission};
use crate::usage::{Bounds, Calling, Channel, Charged, MAX_COST, UsageMetrics};

/// So many that nothing is refused.
const LIMIT: u64 = 100_000;

/// The tokens that a call of 40 bytes is expected to use, of a model of which nothing is known: a prompt of 10, and the rest for the
/// answer.
const WANT: u64 = 1_313;

/// Within a window all comes back that is not used.
fn annotations(cost: &str) -> String {
    format!("tiergate.io/cost.all: '{cost}', tiergate.io/algorithm: fixed-window")
}

fn world(cost: &str) -> World {
    World::new(LIMIT, 60, &annotations(cost))
}

/// Puts these annotations in force.
fn publish(world: &World, annotations: &str) {
    world.gate.publish(compiled(&each(LIMIT, 60, annotations)));
}

async fn charged(world: &World, reservation: &str, report: &Report) -> Charged {
    world.reports.take(reservation, report, Channel::RateLimit, Nanos(0)).await
}

/// What of the limit is used after one call, which is reported so; and what was told of that.
async fn used(world: &World, report: &Report) -> (u64, Charged) {
    let admitted = world.call("ada").await.unwrap();
    let charged = charged(world, &admitted.reservation, report).await;
    (used_now(world).await, charged)
}

/// Without what the look at it holds, which stays.
async fn used_now(world: &World) -> u64 {
    let standing = world.standing("ada").await;
    LIMIT - standing.remaining() - standing.held()
}

fn answer(status: u64, bytes: u64) -> Report {
    Report { status: Some(status), bytes: Some(bytes), ..Report::default() }
}

/// 32. At both times.
#[tokio::test]
async fn a_cost_of_three_times_the_output_is_held_and_settled_in_its_unit() {
    let world = world("3 * usage.output");
    let admitted = world.call("ada").await.unwrap();
    assert_eq!(admitted.held, 3 * (WANT - 10));
    assert_eq!(world.standing("ada").await.remaining(), LIMIT - 2 * admitted.held);
    let charged = charged(&world, &admitted.reservation, &total(70)).await;
    assert_eq!((charged.settlement, &charged.charges[..]), (Settlement::Settled(70), &[180][..]));
    // What the look before holds is out still.
    assert_eq!(used_now(&world).await, 180 + admitted.held);
}

/// What a body bounds is prompt and answer: the cost is that of both.
#[tokio::test]
async fn what_is_held_of_a_bounded_call_is_its_cost() {
    const BODY: &str = r#"{"max_tokens": 20, "messages": "aaaaaaa"}"#;
    for (cost, held) in [("usage.total", 31), ("usage.input", 11), ("3 * usage.output", 60)] {
        let world = world(cost);
        let mut call = Call { body: Some(BODY.to_owned()), ..Call::path("/v1/chat/completions") };
        let headers = [("x-user", "ada"), ("content-length", "41")];
        call.headers.extend(headers.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let decision = call.on(&world.gate, Nanos(0)).await;
        assert_eq!(decision.evidence.limits[0].standing.unwrap().held(), held, "{cost}");
    }
}

/// The body says its length by itself: the prompts of others are none of it.
#[tokio::test]
async fn a_bounded_call_whose_length_no_header_tells_holds_the_cost_of_its_answer() {
    const BODY: &str = r#"{"max_tokens": 20, "messages": "aaaaaaa"}"#;
    let world = world("3 * usage.output");
    let calling = Calling { model: ModelId::NONE, account: AccountKey(1) };
    let usage = Usage { input: Some(1_000), output: Some(1_000), ..Usage::default() };
    for second in 1..9 {
        let forecast = world.gate.forecasts.forecast(calling, None);
        world.gate.forecasts.learn(calling, forecast, &usage, Micros(second * 1_000_000));
    }
    let mut call = Call { body: Some(BODY.to_owned()), ..Call::path("/v1/chat/completions") };
    call.headers.insert("x-user".to_owned(), "ada".to_owned());
    let decision = call.on(&world.gate, Nanos(0)).await;
    assert_eq!(decision.evidence.forecast.want, 11 + 20);
    assert_eq!(decision.evidence.limits[0].standing.unwrap().held(), 60);
}

#[tokio::test]
async fn what_is_held_is_the_cost_of_what_is_expected() {
    for (cost, held) in [
        ("usage.total", WANT),
        ("usage.input", 10),
        ("usage.output", WANT - 10),
        ("usage.cached + usage.reasoning", 0),
        ("0.001 * double(usage.total)", 2),
        ("usage.total * 1000000", LIMIT),
        ("7", 7),
    ] {
        assert_eq!(world(cost).call("ada").await.unwrap().held, held, "{cost}");
    }
    // More than an answer may cost is not asked for.
    let huge = World::new(Quota::MAX_LIMIT, 60, &annotations("usage.total * 1000000000"));
    assert_eq!(huge.call("ada").await.unwrap().held, MAX_COST);
}

/// Whatever the model, the gateway or the client does, by the same expression.
#[tokio::test]
async fn an_answer_costs_by_the_same_expression_however_it_is_known() {
    let usage = |input, output| Usage { input: Some(input), output: Some(output), ..Usage::default() };
    let of = |usage| Report { usage, ..Report::default() };
    let all = Usage { total: Some(50), cached: Some(8), reasoning: Some(5), ..usage(10, 40) };
    let only_total = Usage { total: Some(50), ..Usage::default() };
    let more_in_all = Usage { total: Some(70), ..usage(10, 40) };
    let without_output = Usage { total: Some(50), input: Some(10), ..Usage::default() };
    for (report, expected) in [
        (of(usage(10, 40)), 10 + 3 * 40),
        (of(all), 10 + 3 * 40 - 8),
        // What is not known to be the prompt's is the answer's.
        (of(only_total), 3 * 50),
        (of(more_in_all), 10 + 3 * 60),
        (of(without_output), 10 + 3 * 40),
        (of(Usage { output: Some(40), total: Some(50), ..Usage::default() }), 10 + 3 * 40),
        // No usage: a byte of four is a token, of prompt and answer.
        (Report { request_bytes: Some(40), ..answer(200, 160) }, 10 + 3 * 40),
        (Report { usage: Usage { input: Some(20), ..Usage::default() }, ..answer(200, 160) }, 20 + 3 * 40),
        // Neither usage nor bytes: what was expected (two digits of 1,010 travel), of which the prompt's bytes are known or not.
        (Report { request_bytes: Some(40), ..Report::default() }, 10 + 3 * 998),
        (Report::default(), 3 * 1008),
        // Broken off: the running total, or what its bytes tell where there is none and that is more.
        (Report { ended: Some(false), ..of(usage(10, 40)) }, 10 + 3 * 40),
        (Report { ended: Some(false), usage: usage(10, 40), ..answer(200, 400) }, 10 + 3 * 40),
        (Report { ended: Some(false), usage: usage(10, 8), ..answer(200, 400) }, 10 + 3 * 100),
        // Left before the first byte: the model may have written one token.
        (Report { request_bytes: Some(40), ..answer(0, 0) }, 9 + 3),
        // A model that failed, or was not asked, costs nothing.
        (answer(503, 90), 0),
        (Report { unsent: true, ..answer(413, 90) }, 0),
        (Report { usage: usage(10, 40), ..answer(500, 90) }, 10 + 3 * 40),
    ] {
        let world = world("usage.input + 3 * usage.output - usage.cached");
        assert_eq!(used(&world, &report).await.0, expected, "{report:?}");
    }
    // Not even what each call costs.
    let each_call = |report| async move { used(&world("100 + usage.output"), &report).await.0 };
    assert_eq!(each_call(answer(503, 90)).await, 0);
    assert_eq!(each_call(total(70)).await, 160);
}

/// A slip in a cost makes no answer free, and is charged in the unit of its limit.
#[tokio::test]
async fn an_answer_whose_cost_nobody_can_tell_is_charged_what_is_held_or_in_proportion_more() {
    // What is expected, as two digits of it travel.
    const GUESS: u64 = 1_008;
    for (cost, held, tokens, expected, fault) in [
        // A long answer is expected, and a short one comes.
        ("usage.output > 999 ? 3 * usage.output : 1 / (usage.output - 60)", 3 * (WANT - 10), 70, 3 * (WANT - 10), ""),
        // Fewer units than tokens.
        ("usage.output > 999 ? 5 : 1 / (usage.output - 60)", 5, 70, 5, ""),
        ("usage.output > 999 ? 5 : usage.output % (usage.output - 60)", 5, 70, 5, ""),
        ("usage.output > 9999 ? 1 / (usage.input - 10) : 5", 5, 20_000, (5 * 20_000_u64).div_ceil(GUESS), ""),
        ("usage.output > 999 ? 5 : int([\"a\"][0])", 5, 70, 5, "`int` failed"),
        ("usage.output > 999 ? 5 : [1, 2][usage.output]", 5, 70, 5, "element 60 is not there"),
        ("usage.output != 60 ? 5 : -1", 5, 70, 5, "yields less than 0"),
        ("usage.output != 60 ? 5.0 : -0.5", 5, 70, 5, "yields less than 0"),
        ("usage.output != 60 ? 5.0 : -1.0 / 0.0", 5, 70, 5, "yields less than 0"),
        ("usage.output != 60 ? 5.0 : 0.0 / 0.0", 5, 70, 5, "yields what is not a number"),
        ("usage.output != 60 ? 5u : uint(usage.output) - 61u", 5, 70, 5, "arithmetic overflow"),
        ("usage.output != 60 ? 5u : uint(usage.output - 61)", 5, 70, 5, "`uint` failed"),
        ("usage.output != 60 ? 5u : uint(0.0 / 0.0)", 5, 70, 5, "`uint` failed"),
        // Nothing is held, so there is no number in the unit.
        ("usage.output > 999 ? 0 : 1 / (usage.output - 60)", 0, 70, 70, ""),
    ] {
        let world = world(cost);
        let admitted = world.call("ada").await.unwrap();
        assert_eq!(admitted.held, held, "{cost}");
        let told = charged(&world, &admitted.reservation, &total(tokens)).await;
        assert_eq!(told.charges[..], [expected as i64], "{cost}");
        let fault = if fault.is_empty() { "division by zero" } else { fault };
        assert_eq!(told.cost_fault.as_deref(), Some(&*format!("`{cost}` {fault}: charged {expected}")));
        assert_eq!(told.settlement, Settlement::Settled(tokens), "what it used is known all the same");
        assert_eq!(used_now(&world).await, expected, "{cost}");
    }
    // Likewise where nothing is reserved.
    let positive = format!("{}, tiergate.io/token-admission: positive", annotations("1 / (usage.output - 60)"));
    let (now, told) = used(&World::new(LIMIT, 60, &positive), &total(70)).await;
    assert_eq!((now, told.cost_fault.is_some()), (70, true));
    assert_eq!(used(&world("1 / (usage.output - 60)"), &answer(503, 90)).await.0, 0, "of no tokens");
}

/// Of a limit without a cost, whose hold was cut to what there was: then it is known how many tokens were held.
#[tokio::test]
async fn a_cost_that_came_later_and_fails_is_charged_no_less_than_tokens() {
    let window = "tiergate.io/algorithm: fixed-window";
    let world = World::new(100, 60, window);
    let admitted = world.call("ada").await.unwrap();
    assert_eq!(admitted.held, 100);
    world.gate.publish(compiled(&each(100, 60, &annotations("1 / (usage.output - 490)"))));
    let told = charged(&world, &admitted.reservation, &total(500)).await;
    assert_eq!((&told.charges[..], told.cost_fault.is_some()), (&[500][..], true));
}

/// What is beyond all numbers is charged no less than what is merely large.
#[tokio::test]
async fn a_cost_beyond_all_numbers_is_charged_as_the_most_that_an_answer_can_cost() {
    for (cost, fault) in [
        ("usage.output != 60 ? 5.0 : 1.0 / 0.0", "yields a number that is not finite"),
        ("usage.output != 60 ? 5 : usage.output * 9223372036854775807", "arithmetic overflow"),
        ("usage.output != 60 ? 5 : int(double(usage.output) * 1e300)", "`int` failed"),
        ("usage.output != 60 ? 5 : 1000000000001", "yields 1000000000001"),
        ("usage.output != 60 ? 5.0 : 1e300", "yields 18446744073709551615"),
    ] {
        let world = world(cost);
        let admitted = world.call("ada").await.unwrap();
        assert_eq!(admitted.held, 5, "{cost}");
        let told = charged(&world, &admitted.reservation, &total(70)).await;
        assert_eq!((&told.charges[..], told.cut), (&[MAX_COST as i64][..], None), "{cost}");
        assert_eq!(told.cost_fault.as_deref(), Some(&*format!("`{cost}` {fault}: charged {MAX_COST}")));
        assert!(world.call("ada").await.is_none(), "{cost}");
    }
}

/// The tokens are bounded before they have a price, and the price by itself.
#[tokio::test]
async fn what_an_answer_may_use_bounds_its_tokens_and_not_their_price() {
    let large = |cost: &str| World::new(Quota::MAX_LIMIT, 60, &annotations(cost));
    let world = large("usage.input * 1000000 + usage.output");
    let admitted = world.call("ada").await.unwrap();
    assert_eq!(admitted.held, 10_000_000 + WANT - 10);
    let told = charged(&world, &admitted.reservation, &total(70)).await;
    assert_eq!((&told.charges[..], told.cut, told.cost_fault), (&[10_000_060][..], None, None));
    // A number that no answer has is cut before its price is told.
    let usage = Usage { input: Some(u64::MAX), output: Some(1), ..Usage::default() };
    let report = Report { usage, ..Report::default() };
    for (cost, expected) in [("usage.input * 1000", Bounds::ANSWER * 1000), ("usage.input * 500000", MAX_COST)] {
        let world = large(cost);
        let admitted = world.call("ada").await.unwrap();
        let told = charged(&world, &admitted.reservation, &report).await;
        assert_eq!((&told.charges[..], told.cut), (&[expected as i64][..], Some(u64::MAX)), "{cost}");
        assert_eq!((told.settlement, told.cost_fault), (Settlement::Settled(Bounds::ANSWER), None), "{cost}");
    }
}

/// A report that is charged has each cost evaluated once, whatever rates its limit has; any other report none.
#[tokio::test]
async fn a_cost_is_evaluated_once_for_each_answer_and_all_rates_of_its_limit_are_charged_the_same() {
    let rates = "rates: [{limit: 2000, window: 3h}, {limit: 100000, window: 1h}, {limit: 200000, window: 2h}]";
    for (cost, held, expected) in [
        ("3 * usage.output", 3 * (WANT - 10), 180),
        ("usage.output > 999 ? 3 * usage.output : 1 / (usage.output - 60)", 3 * (WANT - 10), 3 * (WANT - 10)),
        ("usage.output == 60 ? 1000000000001 : 3 * usage.output", 3 * (WANT - 10), MAX_COST),
    ] {
        let limits = each(LIMIT, 60, &annotations(cost)).replace("rates: [{limit: 100000, window: 60s}]", rates);
        let world = World::with(&limits);
        let decision = world.decide("ada", Nanos(0)).await;
        let holds: Vec<u64> = decision.evidence.limits.iter().map(|limit| limit.standing.unwrap().held()).collect();
        assert_eq!(holds, [2000, held, held], "each rate holds what is there");
        let reservation = decision.outcome.unwrap().reservation;
        for (report, settlement, evaluated) in [
            (total(70), Settlement::Settled(70), 1),
            (total(70), Settlement::Duplicate, 0),
            (total(80), Settlement::Conflicting, 0),
            (answer(200, 90), Settlement::Duplicate, 0),
        ] {
            let before = EVALUATED.get();
            let told = charged(&world, &reservation, &report).await;
            assert_eq!((told.settlement, EVALUATED.get() - before), (settlement, evaluated), "{cost}");
            let charges: &[i64] = if evaluated == 1 { &[expected as i64; 3] } else { &[] };
            assert_eq!(told.charges[..], *charges, "{cost}");
        }
    }
}

/// What cannot be told before the answer lets nobody through; in shadow it stops nobody.
#[tokio::test]
async fn a_cost_that_has_no_value_for_what_is_expected_is_undecided() {
    let cost = "1000 - usage.output";
    let denial = world(cost).decide("ada", Nanos(0)).await.outcome.unwrap_err();
    assert_eq!(denial.code, Code::PolicyExpression);
    assert_eq!(denial.detail.as_deref(), Some("cost of limit ns/tokens/all: yields less than 0"));
    let shadow = world_in_shadow(cost);
    let decision = shadow.decide("ada", Nanos(0)).await;
    assert!(decision.outcome.is_ok());
    let told: Vec<_> = decision.evidence.shadowed.iter().map(|told| (told.denial.code, told.by.as_deref())).collect();
    assert_eq!(told, [(Code::PolicyExpression, Some("ns/tokens/all"))]);
    // What asks no model costs nothing, so nothing has to be told of it.
    let mut models = Call::path("/v1/tokenize");
    models.headers.insert("x-user".to_owned(), "ada".to_owned());
    assert!(models.on(&world(cost).gate, Nanos(0)).await.outcome.is_ok());
}

fn world_in_shadow(cost: &str) -> World {
    World::new(LIMIT, 60, &format!("{}, tiergate.io/shadow: all", annotations(cost)))
}

#[tokio::test]
async fn a_limit_in_shadow_holds_and_is_charged_by_its_cost() {
    let world = world_in_shadow("3 * usage.output");
    let shadowed = async || world.decide("ada", Nanos(0)).await;
    let first = shadowed().await;
    assert_eq!(first.evidence.shadow_limits[0].standing.unwrap().held(), 3 * (WANT - 10));
    let told = charged(&world, &first.outcome.unwrap().reservation, &total(70)).await;
    assert_eq!(told.charges[..], [180]);
    let standing = shadowed().await.evidence.shadow_limits[0].standing.unwrap();
    assert_eq!(LIMIT - standing.remaining() - standing.held(), 180);
}

#[tokio::test]
async fn without_a_reservation_an_answer_is_charged_its_cost_too() {
    let positive = format!("{}, tiergate.io/token-admission: positive", annotations("3 * usage.output"));
    let world = World::new(LIMIT, 60, &positive);
    let admitted = world.call("ada").await.unwrap();
    assert_eq!(admitted.held, 0);
    charged(&world, &admitted.reservation, &total(70)).await;
    assert_eq!(used_now(&world).await, 180);
    // Nothing is estimated, so no cost of it can fail.
    let failing = positive.replace("3 * usage.output", "1000 - usage.output");
    let (used, told) = used(&World::new(LIMIT, 60, &failing), &total(70)).await;
    assert_eq!((used, told.cost_fault), (940, None));
}

/// Each limit with its own, in one settlement; a better report corrects each by its own.
#[tokio::test]
async fn limits_with_different_costs_are_charged_differently() {
    let limits = "
apiVersion: kuadrant.io/v1
kind: TokenRateLimitPolicy
metadata:
  name: tokens
  namespace: ns
  annotations: {tiergate.io/cost.output: usage.output, tiergate.io/cost.money: usage.input + 3 * usage.output}
spec:
  targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: gw}
  limits:
    all: {rates: [{limit: 100000, window: 1h}, {limit: 200000, window: 2h}]}
    money: {rates: [{limit: 100000, window: 1h}]}
    output: {rates: [{limit: 100000, window: 1h}]}
";
    let world = World::with(limits);
    let decision = world.decide("ada", Nanos(0)).await;
    let held: Vec<u64> = decision.evidence.limits.iter().map(|limit| limit.standing.unwrap().held()).collect();
    assert_eq!(held, [WANT, WANT, 10 + 3 * (WANT - 10), WANT - 10]);
    let reservation = decision.outcome.unwrap().reservation;
    let estimated = charged(&world, &reservation, &Report { request_bytes: Some(40), ..answer(200, 400) }).await;
    assert_eq!(estimated.charges[..], [110, 110, 310, 100]);
    let known = charged(&world, &reservation, &total(70)).await;
    assert_eq!(known.charges[..], [-40, -40, 190 - 310, -40], "by how much less");
    assert_eq!(known.before, Some(110));
}

/// What is in force when the report comes counts, as for what limits allow.
#[tokio::test]
async fn an_answer_is_charged_by_the_cost_that_is_in_force_then() {
    for (then, expected) in [("usage.input", 10), ("5 * usage.output", 300)] {
        let world = world("3 * usage.output");
        let admitted = world.call("ada").await.unwrap();
        publish(&world, &annotations(then));
        charged(&world, &admitted.reservation, &total(70)).await;
        assert_eq!(used_now(&world).await, expected, "{then}");
    }
    let [without, with] = ["tiergate.io/algorithm: fixed-window", &annotations("3 * usage.output")].map(str::to_owned);
    for (then, expected) in [(&with, 180), (&without, 70)] {
        let world = World::new(LIMIT, 60, if expected == 70 { &with } else { &without });
        let admitted = world.call("ada").await.unwrap();
        publish(&world, then);
        charged(&world, &admitted.reservation, &total(70)).await;
        assert_eq!(used_now(&world).await, expected, "{then}");
    }
    // A limit that is gone is charged by what it was.
    let world = world("3 * usage.output");
    let admitted = world.call("ada").await.unwrap();
    world.gate.publish(compiled(""));
    assert_eq!(charged(&world, &admitted.reservation, &total(70)).await.charges[..], [180]);
    publish(&world, &annotations("3 * usage.output"));
    assert_eq!(used_now(&world).await, 180);
}

/// The demo's gate, whose premium callers have this cost.
fn demo_priced(cost: &str) -> Policy {
    let priced = |(name, text): (String, String)| {
        let annotation = format!("tiergate.io/cost.premium-user-tokens: '{cost}'");
        let kind = "kind: TokenRateLimitPolicy\nmetadata:\n";
        (name, text.replace(kind, &format!("{kind}  annotations: {{{annotation}}}\n")))
    };
    let files: Vec<_> = demo().into_iter().map(priced).collect();
    assert_ne!(files, demo(), "there is one to annotate");
    let policy = compile_files(&files, &options());
    assert_eq!(policy.objects_in_error(), 0);
    policy
}

/// Its name travels in the reservation, as far as a cost looks at it.
#[tokio::test]
async fn a_cost_may_look_at_the_model() {
    let cost = "(model.namespace == \"llm\" && model.name == \"qwen3\" ? 3 : 1) * usage.output";
    let reserving = Reserving { admission: TokenAdmission::Reserve, ..Reserving::default() };
    let gate = gate(demo_priced(cost), DecisionSettings { reserving, ..settings() });
    let reports = gate.reports(UsageMetrics::default());
    let bearer = token("premium", &user(&gate, "premium", 0));
    for (model, expected) in [("qwen3", 180), ("granite", 60)] {
        let decision = Call::chat(model).bearer(&bearer).on(&gate, Nanos(0)).await;
        let sealed = decision.outcome.unwrap().reservation;
        let reservation = gate.sealer.open(&sealed).unwrap();
        let names = [&reservation.model_name, &reservation.user, &reservation.route_name].map(|name| &**name);
        assert_eq!((names, reservation.decision), ([&*format!("llm/{model}"), "", ""], None));
        let told = reports.take(&sealed, &total(70), Channel::RateLimit, Nanos(0)).await;
        let at = reservation.holds.iter().position(|hold| hold.kind == LimitKind::Tokens).unwrap();
        assert_eq!((told.charges[at], told.cost_fault), (expected, None), "{model}");
    }
}

/// Whose name nobody has asked for then: an answer is not charged as that of another model.
#[tokio::test]
async fn a_cost_that_came_later_knows_no_model() {
    let gate = gate(compile_files(&demo(), &options()), settings());
    let reports = gate.reports(UsageMetrics::default());
    let bearer = token("premium", &user(&gate, "premium", 0));
    let sealed = Call::chat("qwen3").bearer(&bearer).on(&gate, Nanos(0)).await.outcome.unwrap().reservation;
    let reservation = gate.sealer.open(&sealed).unwrap();
    assert_eq!(&*reservation.model_name, "");
    gate.publish(demo_priced("(model.name == \"granite\" ? 1 : 3) * usage.output"));
    let told = reports.take(&sealed, &total(70), Channel::RateLimit, Nanos(0)).await;
    let at = reservation.holds.iter().position(|hold| hold.kind == LimitKind::Tokens).unwrap();
    assert_eq!(told.charges[at], 70);
    assert!(
        told.cost_fault
            .unwrap()
            .ends_with("looks at the model, whose name this call does not tell in full: charged 70")
    );
}
