use std::sync::Arc;

use proptest::prelude::*;
use smallvec::smallvec;

use super::*;
use crate::hash::Secret;
use crate::limit::{AccountKey, CellId, Memory, Quota, Quotas, Store, Verdict};

const MINUTE: Duration = Duration::from_secs(60);

/// What a call reserves of these cells.
fn seal(sealer: &Sealer, cells: &[u64], now: Micros) -> String {
    let holds: Vec<Hold> = cells.iter().copied().map(hold).collect();
    sealer.seal(&Terms { is_call: true, model: ModelId::of("llm/granite"), holds: &holds, ..Terms::default() }, now)
}

fn tokens(total: u64) -> Report {
    Report { usage: Usage { total: Some(total), ..Usage::default() }, ..Report::default() }
}

fn hold(cell: u64) -> Hold {
    Hold { account: AccountKey(1), cell: CellId(cell) }
}

/// A look at what [`hold`] holds of.
fn look(cell: u64) -> Demand {
    let Hold { account, cell } = hold(cell);
    Demand { account, cell, quota: Quota::new(100, MINUTE), cost: Cost::Postpaid }
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
    let (model, holds) = (ModelId::of("llm/granite"), [hold(1), hold(2)]);
    let terms = Terms { is_call: true, tier: "premium", model, route: 5, holds: &holds };
    let reservation = sealer.open(&sealer.seal(&terms, Micros(7))).unwrap();
    let expected = Reservation {
        minted: Micros(7),
        instance: reservation.instance,
        serial: 0,
        is_call: true,
        tier: Arc::from("premium"),
        model,
        route: 5,
        holds: smallvec![hold(1), hold(2)],
    };
    assert_eq!(reservation, expected);
    assert_ne!(sealer.seal(&terms, Micros(7)), sealer.seal(&terms, Micros(7)), "no two are alike");
    let opened = sealer.open(&sealer.seal(&Terms { tier: &"x".repeat(100), ..terms }, Micros(0))).unwrap();
    assert_eq!((&*opened.tier, opened.holds.len()), ("", 2));
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
        assert_eq!(settle().await, Settlement::Settled(30).into());
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
    assert_eq!(settle(second).await, Settlement::Settled(30).into());
    let at = Demand { quota: wider, ..look(2) };
    let standing = limits.admit(&[at], Nanos(0)).await.standings[0];
    assert_eq!((used(&limits, 1), standing.limit(), standing.remaining()), (60, 1000, 940));
    limits.put_in_force(Quotas::default());
    limits.put_in_force(Quotas::default());
    assert_eq!(settle(third).await, Settlement::Settled(30).into());
    assert_eq!(limits.admit(&[at], Nanos(0)).await.standings[0].remaining(), 910);
}

/// The limit is known by its own cell, and each route has another.
#[tokio::test]
async fn a_limit_that_counts_for_each_route_is_charged_for_the_route_that_was_asked() {
    let (limits, settlements, sealer) = (limits(), Settlements::default(), Sealer::random());
    let holds = [Hold { cell: CellId(1).on_route(7), ..hold(1) }];
    let sealed = sealer.seal(&Terms { route: 7, holds: &holds, ..Terms::default() }, Micros(0));
    let reservation = sealer.open(&sealed).unwrap();
    settlements.settle(&limits, &reservation, &tokens(30), Nanos(0)).await;
    let of_route = Demand { cell: holds[0].cell, ..look(1) };
    assert_eq!(limits.admit(&[of_route], Nanos(0)).await.standings[0].remaining(), 70);
    assert_eq!(used(&limits, 1), 0);
}

#[tokio::test]
async fn what_was_refused_or_is_no_call_costs_nothing_and_leaves_the_reservation_open() {
    let (limits, settlements) = (limits(), Settlements::default());
    let sealer = Sealer::random();
    let call = sealer.open(&seal(&sealer, &[1], Micros(0))).unwrap();
    let list = Reservation { is_call: false, ..call.clone() };
    let answer = |status, bytes| Report { status: Some(status), bytes: Some(bytes), ..Report::default() };
    for (reservation, report) in [
        (&call, Report::default()),
        (&call, answer(400, 100)),
        (&call, answer(503, 100)),
        (&call, answer(200, 0)),
        (&call, answer(0, 0)),
        (&list, answer(200, 5000)),
    ] {
        let charged = settlements.settle(&limits, reservation, &report, Nanos(0)).await;
        assert_eq!(charged, Settlement::NoUsage.into(), "{report:?}");
    }
    let usage = Usage { input: Some(3), output: Some(4), ..Usage::default() };
    let report = Report { usage, status: Some(503), ..Report::default() };
    assert_eq!(settlements.settle(&limits, &call, &report, Nanos(0)).await, Settlement::Settled(7).into());
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
        (bytes(400, 20_000, true), 200),
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
    assert!(about(charged, 7100), "{charged:?}");
    let reservation = sealer.open(&seal(&sealer, &[1], Micros(0))).unwrap();
    let first = settlements.settle(&limits, &reservation, &bytes(0, 100, false), Nanos(0)).await;
    assert_eq!(first.settlement, Settlement::Estimated(25));
    assert_eq!(settlements.settle(&limits, &reservation, &tokens(40), Nanos(0)).await, Settlement::Duplicate.into());
    assert_eq!(used(&limits, 1), 25);
}

#[tokio::test]
async fn one_answer_and_its_debt_are_bounded() {
    let limits = limits();
    let settlements = Settlements::new(Bounds { answer: 5000, debt_windows: 10 });
    let sealer = Sealer::random();
    let settle = async |said| {
        let reservation = sealer.open(&seal(&sealer, &[1], Micros(0))).unwrap();
        settlements.settle(&limits, &reservation, &tokens(said), Nanos(0)).await
    };
    let full = Charged { settlement: Settlement::Settled(900), cut: None, debt_cut: false };
    assert_eq!(settle(900).await, full);
    let cut = Charged { settlement: Settlement::Settled(5000), cut: Some(MAX_HITS), debt_cut: true };
    assert_eq!(settle(MAX_HITS).await, cut);
    let Store::Memory(memory) = &limits.store;
    let admitted = |seconds| memory.admit(&[look(1)], Micros::from(Duration::from_secs(seconds))).admitted();
    // 100 a minute: the debt is over after ten minutes, and a token is back 600 ms later.
    assert_eq!((admitted(600), admitted(601)), (false, true));
}

#[tokio::test]
async fn a_late_report_is_charged_where_it_is_known_not_to_have_been_settled() {
    let (limits, settlements) = (limits(), Settlements::default());
    let sealer = Sealer::random();
    let [first, second] = [(); 2].map(|()| sealer.open(&seal(&sealer, &[1], Micros(0))).unwrap());
    assert_eq!(settlements.settle(&limits, &first, &tokens(1), Nanos(0)).await, Settlement::Settled(1).into());
    let after = |hours: u64| Nanos::from(Duration::from_secs(hours * 3600));
    // What was settled beside it is remembered, with it and without it, for a day.
    assert_eq!(settlements.settle(&limits, &first, &tokens(1), after(24)).await, Settlement::Duplicate.into());
    assert_eq!(settlements.settle(&limits, &second, &tokens(1), after(25)).await, Settlement::Late.into());
    let other = sealer.open(&seal(&sealer, &[1], limits.time(after(25)))).unwrap();
    let other = Reservation { serial: other.serial + PAGE, ..other };
    assert_eq!(settlements.settle(&limits, &other, &tokens(1), after(75)).await, Settlement::Settled(1).into());
    assert_eq!(settlements.settle(&limits, &other, &tokens(1), after(75)).await, Settlement::Duplicate.into());
}

#[tokio::test]
async fn what_is_settled_is_remembered_as_long_as_it_could_be_settled_again() {
    let (limits, settlements) = (limits(), Settlements::default());
    let sealer = Sealer::random();
    let reservation = sealer.open(&seal(&sealer, &[1], Micros(0))).unwrap();
    let settled = |settlement: Settlement| Charged::from(settlement);
    assert_eq!(settlements.settle(&limits, &reservation, &tokens(1), Nanos(0)).await, settled(Settlement::Settled(1)));
    for minute in (0..=30 * 60_u32).step_by(30).map(|minute| Nanos::from(MINUTE * minute)) {
        let again = settlements.settle(&limits, &reservation, &tokens(1), minute).await;
        let expected = if minute <= Nanos::from(REMEMBERED) { Settlement::Duplicate } else { Settlement::Late };
        assert_eq!(again, settled(expected), "{minute:?}");
    }
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

#[test]
fn pages_of_settled_reservations_are_forgotten_when_they_are_late() {
    let mut settled = Settled::default();
    for page in 0..100_u64 {
        let minted = Micros::from(MINUTE * u32::try_from(page).unwrap() * 60);
        for serial in [page * PAGE, page * PAGE + 63, page * PAGE + 64, page * PAGE + PAGE - 1] {
            assert!(matches!(settled.insert(serial, minted), Mark::New));
            assert!(matches!(settled.insert(serial, minted), Mark::Known));
        }
    }
    assert_eq!(settled.pages.len(), 25, "a day of them, one an hour");
}

#[test]
fn what_is_remembered_of_settlements_is_bounded_and_nothing_is_settled_twice() {
    let mut settled = Settled::default();
    let pages = MAX_PAGES as u64 + 10;
    for page in 0..pages {
        assert!(matches!(settled.insert(page * PAGE, Micros(page)), Mark::New), "{page}");
    }
    assert_eq!(settled.pages.len(), MAX_PAGES);
    let again: Vec<_> = (0..pages).map(|page| settled.insert(page * PAGE, Micros(pages))).collect();
    assert!(again[..10].iter().all(|mark| matches!(mark, Mark::Forgotten)));
    assert!(again[10..].iter().all(|mark| matches!(mark, Mark::Known)));
    assert_eq!(settled.pages.len(), MAX_PAGES);
}
