use std::sync::Arc;

use proptest::prelude::*;
use smallvec::smallvec;

use super::*;
use crate::limit::{AccountKey, CellId, Cost, Demand, Memory, Quota, Verdict};

const MINUTE: Duration = Duration::from_secs(60);

fn hold(cell: u64) -> Hold {
    Hold { account: AccountKey(1), cell: CellId(cell), quota: Quota::new(100, MINUTE) }
}

fn used(limits: &Limits, cell: u64) -> u64 {
    let Limits::Memory(memory) = limits;
    let Hold { account, cell, quota } = hold(cell);
    let standing = memory.admit(&[Demand { account, cell, quota, cost: Cost::Positive }], Nanos(0)).standings[0];
    assert!(standing.verdict == Verdict::Fits || standing.remaining() == 0);
    100 - standing.remaining()
}

#[test]
fn a_reservation_comes_back_as_it_was() {
    let sealer = Sealer::random();
    let model = ModelId::of("llm/qwen3");
    let sealed = sealer.seal(&[hold(1), hold(2)], About { tier: "premium", model }, Nanos(7));
    let reservation = sealer.open(&sealed).unwrap();
    let holds = smallvec![hold(1), hold(2)];
    let expected = Reservation { minted: Nanos(7), serial: 0, tier: Arc::from("premium"), model, holds };
    assert_eq!(reservation, expected);
    assert_ne!(sealer.seal(&[hold(1)], "", Nanos(7)), sealer.seal(&[hold(1)], "", Nanos(7)), "no two are alike");
    assert_eq!(sealer.open(&sealer.seal(&[], "x".repeat(100).as_str(), Nanos(0))).unwrap().tier.as_ref(), "");
}

#[test]
fn nobody_else_can_make_a_reservation() {
    let (ours, theirs) = (Sealer::random(), Sealer::random());
    let sealed = ours.seal(&[hold(1)], "free", Nanos(0));
    assert_eq!(theirs.open(&sealed), None);
    for junk in ["", "x", "AAAA", &"A".repeat(10_000), "\u{0}", "💥"] {
        assert_eq!(ours.open(junk), None);
    }
}

#[tokio::test]
async fn a_reservation_is_settled_once() {
    let (limits, settlements) = (Limits::Memory(Memory::default()), Settlements::default());
    let sealer = Sealer::random();
    let usage = Usage { total: Some(30), ..Usage::default() };
    for (times, cell) in [(1, 1), (2, 1)] {
        let reservation = sealer.open(&sealer.seal(&[hold(cell), hold(2)], "", Nanos(0))).unwrap();
        let settle = || settlements.settle(&limits, &reservation, &usage, Nanos(0));
        assert_eq!(settle().await, Settlement::Settled(30));
        assert_eq!(settle().await, Settlement::Duplicate);
        assert_eq!((used(&limits, 1), used(&limits, 2)), (30 * times, 30 * times));
    }
}

#[tokio::test]
async fn a_report_without_usage_charges_nothing_and_leaves_the_reservation_open() {
    let (limits, settlements) = (Limits::Memory(Memory::default()), Settlements::default());
    let sealer = Sealer::random();
    let reservation = sealer.open(&sealer.seal(&[hold(1)], "", Nanos(0))).unwrap();
    assert_eq!(settlements.settle(&limits, &reservation, &Usage::default(), Nanos(0)).await, Settlement::NoUsage);
    let usage = Usage { input: Some(3), output: Some(4), ..Usage::default() };
    assert_eq!(settlements.settle(&limits, &reservation, &usage, Nanos(0)).await, Settlement::Settled(7));
    assert_eq!(used(&limits, 1), 7);
}

#[tokio::test]
async fn what_is_settled_is_remembered_as_long_as_it_could_be_settled_again() {
    let (limits, settlements) = (Limits::Memory(Memory::default()), Settlements::default());
    let sealer = Sealer::random();
    let usage = Usage { total: Some(1), ..Usage::default() };
    let reservation = sealer.open(&sealer.seal(&[hold(1)], "", Nanos(0))).unwrap();
    assert_eq!(settlements.settle(&limits, &reservation, &usage, Nanos(0)).await, Settlement::Settled(1));
    for minute in (0..=30 * 60_u32).step_by(30).map(|minute| Nanos::from(MINUTE * minute)) {
        let other = sealer.open(&sealer.seal(&[], "", minute)).unwrap();
        assert_eq!(settlements.settle(&limits, &other, &usage, minute).await, Settlement::Settled(1));
        let again = settlements.settle(&limits, &reservation, &usage, minute).await;
        let expected = if minute <= Nanos::from(SETTLE_WITHIN) { Settlement::Duplicate } else { Settlement::Late };
        assert_eq!(again, expected, "{minute:?}");
    }
    assert_eq!(settlements.settled.lock().pages.len(), 1);
}

proptest! {
    /// One changed byte, anywhere, and it is no reservation.
    #[test]
    fn a_reservation_cannot_be_changed(at in 0_usize..200, byte in any::<u8>()) {
        let sealer = Sealer::random();
        let sealed = sealer.seal(&[hold(1), hold(2)], "free", Nanos(9));
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
        let minted = Nanos::from(MINUTE * u32::try_from(page).unwrap() * 60);
        for serial in [page * PAGE, page * PAGE + 63, page * PAGE + 64, page * PAGE + PAGE - 1] {
            assert!(matches!(settled.insert(minted, serial, minted), Mark::New));
            assert!(matches!(settled.insert(minted, serial, minted), Mark::Known));
        }
    }
    assert_eq!(settled.pages.len(), 25, "a day of them, one an hour");
}

#[test]
fn what_is_remembered_of_settlements_is_bounded_and_nothing_is_settled_twice() {
    let mut settled = Settled::default();
    let pages = MAX_PAGES as u64 + 10;
    for page in 0..pages {
        assert!(matches!(settled.insert(Nanos(page), page * PAGE, Nanos(page)), Mark::New), "{page}");
    }
    assert_eq!(settled.pages.len(), MAX_PAGES);
    let again: Vec<_> = (0..pages).map(|page| settled.insert(Nanos(page), page * PAGE, Nanos(pages))).collect();
    assert!(again[..10].iter().all(|mark| matches!(mark, Mark::Forgotten)));
    assert!(again[10..].iter().all(|mark| matches!(mark, Mark::Known)));
    assert_eq!(settled.pages.len(), MAX_PAGES);
}
