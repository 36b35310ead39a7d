mod lines;

use std::sync::Arc;

use proptest::prelude::*;
use smallvec::smallvec;

use super::*;
use crate::clock::Micros;
use crate::expression::TokenCost;
use crate::hash::{Secret, Secrets};
use crate::limit::{AccountKey, CellId, Cost, Demand, Memory, Quota, Quotas, Rate, Store, Verdict};

const MINUTE: Duration = Duration::from_secs(60);

/// What a call reserves of these cells, and holds nothing.
fn seal(sealer: &Sealer, cells: &[u64], now: Micros) -> String {
    let holds: Vec<Hold> = cells.iter().copied().map(hold).collect();
    sealer.seal(&Terms { is_call: true, model: ModelId::of("llm/granite"), holds: &holds, ..Terms::default() }, now)
}

fn tokens(total: u64) -> Report {
    Report { usage: Usage { total: Some(total), ..Usage::default() }, ..Report::default() }
}

fn hold(cell: u64) -> Hold {
    let of = limit::Hold { account: AccountKey(1), cell: CellId(cell), held: 0, mark: Micros(0) };
    Hold { kind: LimitKind::Tokens, shadow: false, of }
}

/// A look at what [`hold`] holds of.
fn look(cell: u64) -> Demand {
    let limit::Hold { account, cell, .. } = hold(cell).of;
    Demand { account, cell, quota: Quota::new(100, MINUTE), cost: Cost::POSTPAID }
}

/// 100 a minute, in each of two cells.
fn limits() -> Limits {
    let limits = Limits::in_memory(Memory::default());
    limits.put_in_force([1, 2].map(|cell| (CellId(cell), Quota::new(100, MINUTE))).into_iter().collect());
    limits
}

fn used(limits: &Limits, cell: u64) -> u64 {
    let Store::Memory(memory) = &limits.store;
    let standing = memory.admit(&[look(cell)], Micros(0)).standings[0];
    assert!(standing.verdict == Verdict::Fits || standing.remaining() == 0);
    100 - standing.remaining()
}

#[test]
fn a_reservation_comes_back_as_it_was() {
    let sealer = Sealer::random();
    let of = |account, cell| limit::Hold { account: AccountKey(account), cell: CellId(cell), held: 7, mark: Micros(9) };
    let holds = [
        Hold { kind: LimitKind::Requests, shadow: false, of: of(1, 1) },
        Hold { kind: LimitKind::Tokens, shadow: true, of: of(1, 2) },
        Hold { kind: LimitKind::Tokens, shadow: false, of: of(2, u64::MAX) },
    ];
    let model = ModelId::of("llm/granite");
    let forecast = Forecast { want: 0, prior: 1.5, guess: 2.5 };
    let terms = Terms {
        is_call: true,
        is_priced: true,
        decision: Some(77),
        tier: "premium",
        model,
        model_name: "llm/granite",
        user: "ada",
        route_name: "llm/qwen3",
        route: 5,
        forecast,
        holds: &holds,
    };
    let reservation = sealer.open(&sealer.seal(&terms, Micros(7))).unwrap();
    let expected = Reservation {
        minted: Micros(7),
        instance: reservation.instance,
        serial: 0,
        is_call: true,
        is_priced: true,
        decision: Some(77),
        tier: Arc::from("premium"),
        model,
        model_name: Arc::from("llm/granite"),
        user: Arc::from("ada"),
        route_name: Arc::from("llm/qwen3"),
        route: 5,
        forecast,
        holds: holds.into_iter().collect(),
    };
    assert_eq!(reservation, expected);
    assert_ne!(sealer.seal(&terms, Micros(7)), sealer.seal(&terms, Micros(7)), "no two are alike");
    // A name that is too long is cut between two characters.
    let opened = sealer.open(&sealer.seal(&Terms { user: &"\u{e4}".repeat(200), ..terms }, Micros(0))).unwrap();
    assert_eq!((&*opened.user, opened.holds.len()), (&*"\u{e4}".repeat(127), 3));
    // As many limits as there may be, with the longest names, can be read.
    let most: Vec<Hold> = (0..200).map(|n| Hold { kind: LimitKind::Tokens, shadow: false, of: of(n, 1) }).collect();
    let long = "x".repeat(300);
    let terms = Terms { tier: &long, model_name: &long, user: &long, holds: &most, ..terms };
    assert_eq!(sealer.open(&sealer.seal(&terms, Micros(0))).unwrap().holds[..], most[..64]);
}

/// Which one of them it is for is known, and whose numbers count in whose memory.
#[test]
fn all_who_have_the_secret_can_read_a_reservation_and_only_its_maker_settles_it() {
    let secret = Secret::random();
    let (ours, theirs) = (Sealer::new(&secret), Sealer::new(&secret));
    let (one, other) = (seal(&ours, &[1], Micros(0)), seal(&theirs, &[1], Micros(0)));
    assert_eq!((ours.read(&one), ours.read(&other)), (theirs.read(&one), theirs.read(&other)));
    let [one_read, other_read] = [&one, &other].map(|sealed| ours.read(sealed).unwrap());
    assert_eq!((one_read.serial, other_read.serial), (0, 0));
    assert_ne!(one_read.instance, other_read.instance);
    assert_eq!((ours.open(&one), ours.open(&other)), (Some(one_read), None));
    assert_eq!(Sealer::random().read(&one), None);
}

/// Sequence 51: an old key that is second opens; one that is gone does not.
#[test]
fn a_secret_is_changed_without_a_reservation_that_is_lost() {
    let [old, new] = [(); 2].map(|()| Secret::random());
    let both = |first: &Secret, second: &Secret| Secrets { first: first.clone(), second: Some(second.clone()) };
    let (ours, theirs) = (Sealer::new(&old), Sealer::new(&old));
    let opens = |sealed: &str| (ours.open(sealed).is_some(), ours.read(sealed).is_some());
    let [first, foreign] = [&ours, &theirs].map(|sealer| seal(sealer, &[1], Micros(0)));
    // The new one is made known everywhere before anybody seals with it.
    assert!(ours.adopt(&both(&old, &new)));
    assert!(theirs.adopt(&both(&new, &old)));
    let by_new = seal(&theirs, &[1], Micros(0));
    assert_eq!([&first, &foreign, &by_new].map(|sealed| opens(sealed)), [(true, true), (false, true), (false, true)]);
    assert!(ours.adopt(&both(&new, &old)));
    let second = seal(&ours, &[1], Micros(0));
    assert_eq!(theirs.read(&second).map(|reservation| reservation.serial), Some(1), "one counter for all keys");
    assert_eq!([&first, &second, &foreign].map(|sealed| opens(sealed)), [(true, true), (true, true), (false, true)]);
    assert!(ours.adopt(&new.clone().into()), "what was sealed last can be opened still");
    assert_eq!([&first, &second, &foreign].map(|sealed| opens(sealed)), [(false, false), (true, true), (false, false)]);
    assert!(!ours.adopt(&Secret::random().into()), "without the old one what it sealed is lost");
    assert_eq!(opens(&second), (false, false));
}

/// Sequence 52: nothing is settled in another one's name, and no nonce is used twice with one key.
#[test]
fn of_two_replicas_that_restart_a_thousand_times_no_identity_is_made_twice() {
    let secret = Secret::random();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..2 * 1_000 {
        let sealer = Sealer::new(&secret);
        for _ in 0..2 {
            let reservation = sealer.open(&seal(&sealer, &[1], Micros(0))).unwrap();
            assert!(seen.insert((reservation.instance, reservation.serial)));
        }
    }
}

/// Sequence 10: a foreign key, another layout, 10 kB of text; one changed byte is [`a_reservation_cannot_be_changed`].
#[test]
fn nobody_else_can_make_a_reservation() {
    let (ours, theirs) = (Sealer::random(), Sealer::random());
    let sealed = seal(&ours, &[1], Micros(0));
    assert_eq!(theirs.open(&sealed), None);
    for junk in ["", "x", "AAAA", &"A".repeat(10_000), "\u{0}", "💥"] {
        assert_eq!(ours.open(junk), None);
    }
}

#[tokio::test]
async fn a_reservation_is_settled_once() {
    let (limits, settlements) = (limits(), Settlements::default());
    let sealer = Sealer::random();
    let usage = tokens(30);
    for (times, cell) in [(1, 1), (2, 1)] {
        let reservation = sealer.open(&seal(&sealer, &[cell, 2], Micros(0))).unwrap();
        let settle = || settlements.settle(&limits, &reservation, &usage, Nanos(0));
        assert_eq!(settle().await.settlement, Settlement::Settled(30));
        assert_eq!(settle().await, Settlement::Duplicate.into());
        assert_eq!((used(&limits, 1), used(&limits, 2)), (30 * times, 30 * times));
    }
}

/// So nobody's report takes a change back; and what is gone may come back, when its policy is mended.
#[tokio::test]
async fn a_report_is_charged_by_what_its_limits_allow_then() {
    let (limits, settlements, sealer) = (limits(), Settlements::default(), Sealer::random());
    let settle = async |sealed: String| {
        let reservation = sealer.open(&sealed).unwrap();
        settlements.settle(&limits, &reservation, &tokens(30), Nanos(0)).await
    };
    let before = [(); 3].map(|()| seal(&sealer, &[1, 2], Micros(0)));
    let [first, second, third] = before;
    settle(first).await;
    let wider = Quota::new(1000, MINUTE);
    limits.put_in_force([(CellId(2), wider)].into_iter().collect());
    assert_eq!(settle(second).await.settlement, Settlement::Settled(30));
    let at = Demand { quota: wider, ..look(2) };
    let standing = limits.admit(&[at], Nanos(0)).await.standings[0];
    assert_eq!((used(&limits, 1), standing.limit(), standing.remaining()), (60, 1000, 940));
    limits.put_in_force(Quotas::default());
    limits.put_in_force(Quotas::default());
    assert_eq!(settle(third).await.settlement, Settlement::Settled(30));
    assert_eq!(limits.admit(&[at], Nanos(0)).await.standings[0].remaining(), 910);
}

/// A name that was cut is another's, perhaps: a cost that looks at it has no value, and the same as one that is not told.
#[tokio::test]
async fn a_cost_sees_the_name_of_a_model_in_full_or_not_at_all() {
    let limits = Limits::in_memory(Memory::default());
    let (settlements, sealer) = (Settlements::default(), Sealer::random());
    let rate = |cost| {
        let cost = Some(Arc::new(TokenCost::compile(cost).unwrap()));
        Rate { cost, ..Rate::from(Quota::new(100, MINUTE)) }
    };
    let costs = ["size(model.name) * usage.total", "2 * usage.total"];
    limits.put_in_force([1, 2].map(|cell| (CellId(cell), rate(costs[cell as usize - 1]))).into_iter().collect());
    let holds = [hold(1), hold(2)];
    for decision in [None, Some(7)] {
        for (length, of_name, is_fault) in [(255, 255 - 4, false), (256, 1, true), (300, 1, true)] {
            let model_name = &*format!("llm/{}", "x".repeat(length - 4));
            let model = ModelId::of(model_name);
            let terms = Terms { is_call: true, decision, model, model_name, holds: &holds, ..Terms::default() };
            let reservation = sealer.open(&sealer.seal(&terms, Micros(0))).unwrap();
            let told = settlements.settle(&limits, &reservation, &tokens(30), Nanos(0)).await;
            assert_eq!((&told.charges[..], told.cost_fault.is_some()), (&[30 * of_name, 60][..], is_fault), "{length}");
        }
    }
}

/// The limit is known by its own cell, and each route has another.
#[tokio::test]
async fn a_limit_that_counts_for_each_route_is_charged_for_the_route_that_was_asked() {
    let (limits, settlements, sealer) = (limits(), Settlements::default(), Sealer::random());
    let of = limit::Hold { cell: CellId(1).on_route(7), ..hold(1).of };
    let holds = [Hold { of, ..hold(1) }];
    let sealed = sealer.seal(&Terms { route: 7, holds: &holds, ..Terms::default() }, Micros(0));
    let reservation = sealer.open(&sealed).unwrap();
    settlements.settle(&limits, &reservation, &tokens(30), Nanos(0)).await;
    let of_route = Demand { cell: of.cell, ..look(1) };
    assert_eq!(limits.admit(&[of_route], Nanos(0)).await.standings[0].remaining(), 70);
    assert_eq!(used(&limits, 1), 0);
}

#[tokio::test]
async fn what_was_refused_or_is_no_call_costs_nothing() {
    let (limits, settlements) = (limits(), Settlements::default());
    let sealer = Sealer::random();
    let reservation = |is_call| {
        let reservation = sealer.open(&seal(&sealer, &[1], Micros(0))).unwrap();
        Reservation { is_call, ..reservation }
    };
    let answer = |status, bytes| Report { status: Some(status), bytes: Some(bytes), ..Report::default() };
    for (reservation_of, report) in [
        (true, answer(400, 100)),
        (true, answer(503, 100)),
        (true, answer(200, 0)),
        (false, answer(200, 5000)),
        (false, Report::default()),
    ] {
        let charged = settlements.settle(&limits, &reservation(reservation_of), &report, Nanos(0)).await;
        assert_eq!(charged.settlement, Settlement::NoUsage, "{report:?}");
    }
    assert_eq!(used(&limits, 1), 0);
    let call = reservation(true);
    let usage = Usage { input: Some(3), output: Some(4), ..Usage::default() };
    let report = Report { usage, status: Some(503), ..Report::default() };
    assert_eq!(settlements.settle(&limits, &call, &report, Nanos(0)).await.settlement, Settlement::Settled(7));
    assert_eq!(used(&limits, 1), 7);
}

/// Of the model, and of streams apart from whole answers.
#[tokio::test]
async fn an_answer_without_usage_is_charged_what_its_bytes_usually_cost_once() {
    let (limits, settlements) = (limits(), Settlements::default());
    let sealer = Sealer::random();
    let settle = async |model: &str, report: Report| {
        let model = ModelId::of(model);
        let sealed = sealer.seal(&Terms { is_call: true, model, ..Terms::default() }, Micros(0));
        settlements.settle(&limits, &sealer.open(&sealed).unwrap(), &report, Nanos(0)).await.settlement
    };
    let bytes = |request, answer, streamed| Report {
        status: Some(200),
        bytes: Some(answer),
        request_bytes: Some(request),
        streamed,
        ..Report::default()
    };
    for _ in 0..50 {
        let usage = |input, output| Usage { input: Some(input), output: Some(output), ..Usage::default() };
        let streamed = Report { usage: usage(100, 200), ..bytes(1000, 60_000, true) };
        assert_eq!(settle("llm/chat", streamed).await, Settlement::Settled(300));
        let whole = Report { usage: usage(100, 200), ..bytes(1000, 1000, false) };
        assert_eq!(settle("llm/chat", whole).await, Settlement::Settled(300));
    }
    // What costs no answer, and what failed, says nothing of what answers cost.
    for (output, status) in [(0, 200), (5000, 500)] {
        let usage = Usage { input: Some(100), output: Some(output), ..Usage::default() };
        let report = Report { usage, status: Some(status), ..bytes(1000, 100_000, false) };
        assert_eq!(settle("llm/chat", report).await, Settlement::Settled(100 + output));
    }
    let about = |settlement, tokens: u64| match settlement {
        Settlement::Estimated(charged) => charged.abs_diff(tokens) * 20 <= tokens,
        _ => false,
    };
    for (report, tokens) in
        [(bytes(1000, 30_000, true), 200), (bytes(2000, 2000, false), 600), (bytes(1000, 300, true), 101)]
    {
        let charged = settle("llm/chat", report).await;
        assert!(about(charged, tokens), "{charged:?} for {report:?}");
    }
    // Of a model that nobody has seen, as text and events are; a long request is an image and no text.
    for (report, tokens) in [
        (bytes(400, 4000, false), 1100),
        (bytes(400, 20_000, true), 300),
        (bytes(40_000_000, 4000, false), 16_384 + 1000),
        (bytes(0, 1, true), 1),
    ] {
        let charged = settle("llm/other", report).await;
        assert!(about(charged, tokens), "{charged:?} for {report:?}");
    }
    // A total of 0 says nothing; of a stream that was left Messages say the prompt.
    let zero = Usage { total: Some(0), ..Usage::default() };
    let charged = settle("llm/other", Report { usage: zero, ..bytes(400, 4000, false) }).await;
    assert!(about(charged, 1100), "{charged:?}");
    let prompt = Usage { input: Some(7000), ..Usage::default() };
    let charged = settle("llm/other", Report { usage: prompt, ..bytes(400, 20_000, true) }).await;
    assert!(about(charged, 7200), "{charged:?}");
    let reservation = sealer.open(&seal(&sealer, &[1], Micros(0))).unwrap();
    let first = settlements.settle(&limits, &reservation, &bytes(0, 100, false), Nanos(0)).await;
    assert_eq!(first.settlement, Settlement::Estimated(25));
    assert_eq!(used(&limits, 1), 25);
}

#[tokio::test]
async fn one_answer_and_its_debt_are_bounded() {
    let limits = limits();
    let settlements = Settlements::new(Bounds { answer: 5000, debt_windows: 10, ..Bounds::default() }, Arc::default());
    let sealer = Sealer::random();
    let settle = async |said| {
        let reservation = sealer.open(&seal(&sealer, &[1], Micros(0))).unwrap();
        settlements.settle(&limits, &reservation, &tokens(said), Nanos(0)).await
    };
    let full = Charged {
        settlement: Settlement::Settled(900),
        cut: None,
        cost_fault: None,
        charges: smallvec![900],
        debt_cut: false,
        overran: false,
        before: None,
        quality: Quality::Final,
        reached: Vec::new(),
    };
    assert_eq!(settle(900).await, full);
    let cut = Charged {
        settlement: Settlement::Settled(5000),
        cut: Some(MAX_HITS),
        cost_fault: None,
        charges: smallvec![5000],
        debt_cut: true,
        overran: false,
        before: None,
        quality: Quality::Final,
        reached: Vec::new(),
    };
    assert_eq!(settle(MAX_HITS).await, cut);
    let Store::Memory(memory) = &limits.store;
    let admitted = |seconds| memory.admit(&[look(1)], Micros::from(Duration::from_secs(seconds))).admitted();
    // 100 a minute: the debt is over after ten minutes, and a token is back 600 ms later.
    assert_eq!((admitted(600), admitted(601)), (false, true));
}

/// Sequence 8. After that nobody needs to remember what was settled.
#[tokio::test]
async fn a_report_is_taken_for_as_long_as_flags_say() {
    let (limits, settlements, sealer) = (limits(), Settlements::default(), Sealer::random());
    let settle = async |after: Duration| {
        let reservation = sealer.open(&seal(&sealer, &[1], Micros(0))).unwrap();
        settlements.settle(&limits, &reservation, &tokens(1), Nanos::from(after)).await
    };
    assert_eq!(settle(Bounds::SETTLE_WITHIN).await.settlement, Settlement::Settled(1));
    assert_eq!(settle(Bounds::SETTLE_WITHIN + Duration::from_micros(1)).await, Settlement::Late.into());
}

/// Sequences 1 to 4 of one call: the best report counts, once, and whatever order they come in the sum is the same.
#[tokio::test]
async fn of_several_reports_the_best_counts_once() {
    let bytes = Report { status: Some(200), bytes: Some(80), ..Report::default() };
    let usage = |ended| Report { ended, bytes: Some(80), ..tokens(60) };
    let (estimate, counted, last) = (bytes, usage(Some(false)), Report { ended: Some(true), ..tokens(70) });
    let orders: [&[Report]; 7] = [
        &[last],
        &[estimate, last],
        &[last, estimate],
        &[estimate, counted, last],
        &[counted, estimate, last],
        &[last, counted, estimate],
        &[counted, last, last],
    ];
    for order in orders {
        let (limits, settlements, sealer) = (limits(), Settlements::default(), Sealer::random());
        let reservation = sealer.open(&seal(&sealer, &[1], Micros(0))).unwrap();
        for report in order {
            settlements.settle(&limits, &reservation, report, Nanos(0)).await;
        }
        assert_eq!(used(&limits, 1), 70, "{order:?}");
        let other = settlements.settle(&limits, &reservation, &tokens(71), Nanos(0)).await;
        assert_eq!((other, used(&limits, 1)), (Settlement::Conflicting.into(), 70));
        let again = settlements.settle(&limits, &reservation, &tokens(70), Nanos(0)).await;
        assert_eq!((again, used(&limits, 1)), (Settlement::Duplicate.into(), 70));
    }
}

/// A client that left before there was an answer had called a model all the same, and so had one whose gateway knows nothing of it.
#[tokio::test]
async fn a_call_of_which_nothing_is_known_is_not_free() {
    let (limits, settlements, sealer) = (limits(), Settlements::default(), Sealer::random());
    let settle = async |report: Report| {
        let reservation = sealer.open(&seal(&sealer, &[1], Micros(0))).unwrap();
        let forecast = Forecast { want: 0, prior: 30.0, guess: 30.0 };
        settlements.settle(&limits, &Reservation { forecast, ..reservation }, &report, Nanos(0)).await.settlement
    };
    let left = Report { status: Some(0), bytes: Some(0), request_bytes: Some(40), ..Report::default() };
    assert_eq!(settle(left).await, Settlement::Estimated(10));
    assert_eq!(settle(Report::default()).await, Settlement::Estimated(30));
    assert_eq!(used(&limits, 1), 40);
}

#[tokio::test]
async fn forecasts_learn_from_whole_answers_that_did_not_fail_and_from_nothing_else() {
    let (limits, sealer, forecasts) = (limits(), Sealer::random(), Arc::new(Forecasts::default()));
    let settlements = Settlements::new(Bounds::default(), Arc::clone(&forecasts));
    let calling = Calling { model: ModelId::of("llm/granite"), account: AccountKey(1) };
    let settle = async |report: Report| {
        let reservation = sealer.open(&seal(&sealer, &[1], Micros(0))).unwrap();
        let forecast = forecasts.forecast(calling, None);
        settlements.settle(&limits, &Reservation { forecast, ..reservation }, &report, Nanos(0)).await;
    };
    let before = forecasts.forecast(calling, None);
    let usage = |output| Report {
        usage: Usage { input: Some(5), output: Some(output), ..Usage::default() },
        ..Report::default()
    };
    settle(Report { bytes: Some(100_000), ..Report::default() }).await;
    settle(Report { ended: Some(false), ..usage(40) }).await;
    settle(Report { status: Some(500), ..usage(40) }).await;
    settle(usage(Bounds::ANSWER + 1)).await;
    assert_eq!(forecasts.forecast(calling, None), before);
    settle(usage(40)).await;
    assert!(forecasts.forecast(calling, None).want < before.want);
}

proptest! {
    /// One changed byte, anywhere, and it is no reservation.
    #[test]
    fn a_reservation_cannot_be_changed(at in 0_usize..200, byte in any::<u8>()) {
        let sealer = Sealer::random();
        let sealed = seal(&sealer, &[1, 2], Micros(9));
        let mut bytes = sealed.clone().into_bytes();
        let at = at % bytes.len();
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        let opened = String::from_utf8(bytes).ok().and_then(|text| sealer.open(&text));
        prop_assert_eq!(opened, None);
    }

    #[test]
    fn junk_opens_nothing(junk in ".{0,300}") {
        prop_assert_eq!(Sealer::random().open(&junk), None);
    }
}

#[tokio::test]
async fn what_came_to_no_model_costs_no_tokens_and_no_request_if_the_gateway_refused_it() {
    for (status, requests) in [(Some(413), 0), (Some(0), 1)] {
        let (sealer, limits) = (Sealer::random(), limits());
        let demand = Demand { cost: Cost::Take(1), ..look(2) };
        let standing = &limits.admit(&[look(1), demand], Nanos(0)).await.standings[1];
        let of = limit::Hold { held: standing.held(), mark: standing.mark(), ..hold(2).of };
        let holds = [hold(1), Hold { kind: LimitKind::Requests, shadow: false, of }];
        let terms = Terms { is_call: true, holds: &holds, ..Terms::default() };
        let reservation = sealer.open(&sealer.seal(&terms, Micros(0))).unwrap();
        // Bytes are those of the gateway's own words.
        let report = Report { status, bytes: Some(90), unsent: true, ..Report::default() };
        let charged = Settlements::default().settle(&limits, &reservation, &report, Nanos(0)).await;
        assert_eq!(charged.settlement, Settlement::NoUsage);
        assert_eq!((used(&limits, 1), used(&limits, 2)), (0, requests), "{status:?}");
    }
}
