//! What is copied, and what a memory that begins with the copies makes of it.

use std::collections::BTreeMap;

use super::*;
use crate::limit::{Copied, Row, RowKey};

const SECOND: u64 = 1_000_000;

/// What a file keeps, without the file.
#[derive(Default)]
struct Kept {
    records: Vec<(usize, Vec<u8>)>,
    copied: Vec<Micros>,
    rows: BTreeMap<RowKey, Vec<u8>>,
}

/// Processes one after another, with one account each for a few callers.
struct World {
    memory: Memory,
    instance: Instance,
    kept: Kept,
    serial: u64,
}

#[derive(Clone, Debug)]
struct Reserved {
    instance: Instance,
    serial: u64,
    minted: Micros,
    holds: Vec<(Hold, Quota)>,
}

// === impl Kept ===

impl Kept {
    fn accounts(&mut self, memory: &Memory, now: Micros) -> Vec<Micros> {
        let mut visited = Vec::new();
        self.copied.resize(Memory::SHARDS, Micros(0));
        for shard in 0..Memory::SHARDS {
            let (at, copied) = memory.copy(shard, now);
            visited.push(at);
            if let Some(Copied { records, at, .. }) = copied {
                self.records.push((shard, records));
                self.copied[shard] = at;
            }
        }
        visited
    }

    fn rows(&mut self, rows: Vec<Row>) {
        for Row { key, blob } in rows {
            match blob {
                Some(blob) => _ = self.rows.insert(key, blob),
                None => _ = self.rows.remove(&key),
            }
        }
    }

    fn save(&mut self, memory: &Memory, now: Micros) {
        let visited = self.accounts(memory, now);
        self.rows(memory.copy_settled(&visited, now));
    }

    fn load(&mut self, instance: Instance, now: Micros) -> Memory {
        let mut memory = Memory::default().copied();
        let mut shards: BTreeMap<usize, Accounts> = BTreeMap::new();
        for (shard, records) in &self.records {
            shards.entry(*shard).or_default().read(*shard, records).unwrap();
        }
        for (shard, mut accounts) in shards {
            accounts.retain(now, |_| true);
            memory.restore(shard, accounts, self.copied[shard]);
        }
        for (key, row) in &self.rows {
            memory.restore_settled(*key, row).unwrap();
        }
        let begun = memory.begin(instance, &self.copied, now);
        self.rows(begun);
        memory
    }
}

// === impl World ===

impl World {
    fn new() -> Self {
        let (instance, mut kept) = (Instance(1), Kept::default());
        kept.copied.resize(Memory::SHARDS, Micros(0));
        let memory = kept.load(instance, Micros(0));
        World { memory, instance, kept, serial: 0 }
    }

    fn save(&mut self, now: u64) {
        self.kept.save(&self.memory, Micros(now));
    }

    /// As it is killed, and starts again.
    fn restart(&mut self, now: u64) {
        self.instance.0 += 1;
        self.serial = 0;
        self.memory = self.kept.load(self.instance, Micros(now));
    }

    fn ask(&mut self, demands: &[Demand], now: u64) -> (Admission, Option<Reserved>) {
        let admission = self.memory.admit(demands, Micros(now));
        let hold = |(demand, standing): (&Demand, &Standing)| {
            let (held, mark) = (standing.held(), standing.mark());
            (Hold { account: demand.account, cell: demand.cell, held, mark }, demand.quota)
        };
        let holds = demands.iter().zip(&admission.standings).map(hold).collect();
        let reserved = Reserved { instance: self.instance, serial: self.serial, minted: admission.at, holds };
        self.serial += u64::from(admission.admitted());
        let reserved = admission.admitted().then_some(reserved);
        (admission, reserved)
    }

    fn report(&self, reserved: &Reserved, quality: Quality, used: u64, now: u64) -> Settled {
        let Reserved { instance, serial, minted, holds } = reserved;
        let due = |(hold, quota): &(Hold, Quota)| Due {
            hold: *hold,
            quota: Some(*quota),
            used,
            debt_windows: 10,
            watched: false,
        };
        let due: Vec<Due> = holds.iter().map(due).collect();
        let report = Report { instance: *instance, serial: *serial, minted: *minted, quality, tokens: used, due: &due };
        self.memory.settle(&report, Micros(now))
    }

    fn left(&self, demand: Demand, now: u64) -> u64 {
        self.memory.admit(&[Demand { cost: Cost::POSTPAID, ..demand }], Micros(now)).standings[0].remaining()
    }
}

fn holding(account: u128, quota: Quota, want: u64) -> Demand {
    Demand { cost: Cost::Hold { want, need: 1 }, ..take(account << 64 | account, 1, quota) }
}

/// Every kind, each with a debt that is carried and with one that is not.
fn quota(kind: usize, limit: u64) -> Quota {
    let algorithm = Algorithm::ALL[kind / 2 % Algorithm::ALL.len()];
    let quota = match algorithm {
        Algorithm::Calendar => Quota::in_calendar(limit, Calendar::new(Unit::Day, "Europe/Berlin").unwrap()),
        algorithm => Quota::new(limit, MINUTE).by(algorithm),
    };
    if kind.is_multiple_of(2) { quota } else { quota.carrying_debt() }
}

#[derive(Clone, Debug)]
enum Step {
    /// Of one account two cells, or two accounts.
    Ask {
        accounts: (u128, u128),
        want: u64,
        limit: u64,
    },
    Report {
        call: usize,
        quality: usize,
        used: u64,
    },
    Save,
    /// After a save.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let ask = ((1_u128..4, 1_u128..4), 1_u64..60, prop::sample::select(vec![100_u64, 100, 100, 40]))
        .prop_map(|(accounts, want, limit)| Step::Ask { accounts, want, limit });
    let report =
        (0_usize..100, 0_usize..4, 0_u64..120).prop_map(|(call, quality, used)| Step::Report { call, quality, used });
    let step = prop_oneof![4 => ask, 4 => report, 1 => Just(Step::Save), 2 => Just(Step::Restart)];
    prop::collection::vec((2_u64..20 * SECOND, step), 1..60)
}

proptest! {
    /// A process that goes on, and one that is saved and loaded whenever it may be: each answer is the same.
    #[test]
    fn a_save_and_a_load_change_no_answer(steps in steps(), kind in 0_usize..2 * Algorithm::ALL.len()) {
        let (mut steady, mut restarted) = (World::new(), World::new());
        let mut calls: Vec<[Reserved; 2]> = Vec::new();
        let mut now = 0;
        for (wait, step) in steps {
            now += wait;
            match step {
                Step::Ask { accounts: (one, other), want, limit } => {
                    let demands = [holding(one, quota(kind, limit), want), Demand {
                        cell: CellId(2),
                        ..holding(other, quota(kind + 2, 2 * limit), want)
                    }];
                    let [(expected, first), (found, second)] =
                        [&mut steady, &mut restarted].map(|world| world.ask(&demands, now));
                    prop_assert_eq!(expected.outcome, found.outcome);
                    for (expected, found) in expected.standings.iter().zip(&found.standings) {
                        let told = |standing: &Standing| {
                            (standing.verdict, standing.remaining(), standing.held(), standing.reset())
                        };
                        prop_assert_eq!(told(expected), told(found));
                    }
                    calls.extend(first.zip(second).map(|(first, second)| [first, second]));
                }
                Step::Report { call, quality, used } => {
                    let Some([first, second]) = calls.get(call % calls.len().max(1)) else { continue };
                    let quality = [Quality::Running, Quality::Estimate, Quality::Counted, Quality::Final][quality];
                    let expected = steady.report(first, quality, used, now);
                    let found = restarted.report(second, quality, used, now);
                    // Whether a report that comes again says another number is not known after a restart.
                    let plain = |settled: Settled| match settled {
                        Settled::Duplicate { .. } => Settled::Duplicate { conflicting: false },
                        settled => settled,
                    };
                    prop_assert_eq!(plain(expected), plain(found));
                }
                Step::Save => restarted.save(now),
                Step::Restart => {
                    restarted.save(now);
                    restarted.restart(now);
                }
            }
        }
    }

    /// Bytes that nobody wrote are nothing, and do not panic; what is read of them can be used.
    #[test]
    fn damaged_records_are_none_or_are_accounts(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(), kind in 0_usize..2 * Algorithm::ALL.len(),
    ) {
        let mut world = World::new();
        let (_, reserved) = world.ask(&[holding(1, quota(kind, 100), 30), holding(2, quota(kind, 100), 30)], SECOND);
        world.report(&reserved.unwrap(), Quality::Estimate, 50, SECOND);
        world.save(SECOND);
        for (at, byte) in &damage {
            for (_, records) in &mut world.kept.records {
                let at = at.index(records.len());
                records[at] = *byte;
            }
        }
        for (shard, records) in &mut world.kept.records {
            let whole = Accounts::default().read(*shard, records);
            records.truncate(cut.index(records.len()));
            let mut accounts = Accounts::default();
            if accounts.read(*shard, records).or(whole).is_some() {
                world.memory.restore(*shard, accounts, Micros(SECOND));
            }
        }
        for (key, row) in &mut world.kept.rows {
            let at = damage[0].0.index(row.len());
            row[at] = damage[0].1;
            let _ = world.memory.restore_settled(*key, row);
        }
        for account in [1, 2] {
            let demand = holding(account, quota(kind, 100), 30);
            prop_assert!(world.left(demand, 2 * SECOND) <= 100);
            let _ = world.ask(&[demand], 3 * SECOND);
        }
    }
}

/// 46. What a process admits after its last copy is not in the file; its report charges it in full.
#[test]
fn what_was_admitted_after_the_last_copy_is_charged_by_its_report() {
    for kind in 0..2 * Algorithm::ALL.len() {
        let (mut world, demand) = (World::new(), holding(1, quota(kind, 100), 20));
        let [(_, kept), _] =
            [world.ask(&[demand], SECOND), world.ask(&[holding(1 + 256, quota(kind, 100), 20)], SECOND)];
        world.save(SECOND);
        // In the same microsecond as the copy.
        let (_, lost) = world.ask(&[demand], SECOND);
        let (kept, lost) = (kept.unwrap(), lost.unwrap());
        assert!(lost.minted > kept.minted);
        assert_eq!(world.left(demand, SECOND + 1), 60);
        world.restart(SECOND + 2);
        assert_eq!(world.left(demand, SECOND + 2), 80, "{kind}: a second's holds are lost");
        for (reserved, left) in [(&lost, 70), (&lost, 70), (&kept, 80), (&kept, 80)] {
            world.report(reserved, Quality::Final, 10, SECOND + 3);
            assert_eq!(world.left(demand, SECOND + 3), left, "{kind}");
        }
        // It is known after another one too, in whose cells the report is and not the hold.
        world.save(SECOND + 4);
        world.restart(SECOND + 5);
        assert_eq!(world.report(&lost, Quality::Final, 10, SECOND + 6), Settled::Duplicate { conflicting: false });
        assert_eq!(world.left(demand, SECOND + 6), 80, "{kind}");
    }
}

/// 46. However many processes there were in between.
#[test]
fn what_one_process_lost_is_not_given_back_by_a_later_one() {
    let (mut world, demand) = (World::new(), holding(1, quota(0, 100), 20));
    let _ = world.ask(&[demand], SECOND);
    world.save(SECOND);
    let (_, lost) = world.ask(&[demand], 2 * SECOND);
    world.restart(3 * SECOND);
    let _ = world.ask(&[demand], 3 * SECOND);
    world.save(4 * SECOND);
    world.restart(4 * SECOND);
    let before = world.left(demand, 4 * SECOND);
    world.report(&lost.unwrap(), Quality::Final, 0, 4 * SECOND);
    assert_eq!(world.left(demand, 4 * SECOND), before);
}

/// 47. A crash after the cells are copied and before the bits, and one after reports that are in the bits and not in the cells.
#[test]
fn a_crash_between_cells_and_bits_applies_no_report_twice() {
    for kind in 0..2 * Algorithm::ALL.len() {
        for quality in [Quality::Estimate, Quality::Final] {
            let (mut world, demand) = (World::new(), holding(1, quota(kind, 100), 20));
            let (_, reserved) = world.ask(&[demand], SECOND);
            let reserved = reserved.unwrap();
            world.save(SECOND);
            // The report is applied while the copy is made: after the shard's, before the bits'.
            let visited = world.kept.accounts(&world.memory, Micros(SECOND));
            world.report(&reserved, quality, 50, SECOND + 5);
            let rows = world.memory.copy_settled(&visited, Micros(SECOND + 5));
            world.kept.rows(rows);
            world.restart(SECOND + 10);
            assert_eq!(world.left(demand, SECOND + 10), 80, "the correction is lost");
            world.report(&reserved, Quality::Final, 5, SECOND + 10);
            // Of what the estimate added nothing is in the cell, and nothing of it comes back.
            let expected = if quality == Quality::Final { 80 } else { 95 };
            assert_eq!(world.left(demand, SECOND + 10), expected, "{kind} {quality:?}");
        }
    }
}

/// Sequence 47. Of several corrections some are in the cells. Whatever the last report says, nothing is charged or given back twice: where it is
/// not known what of them the cell has, the cell stays as it is.
#[test]
fn a_crash_among_corrections_charges_no_more_than_what_the_last_report_says() {
    use Quality::{Counted, Estimate, Final};
    // What was used, each as the first, second and third thing that was known; how many of them are in the copy of the cell; what the
    // report after the crash says; and what is used then.
    for ([hold, first, second], copied, last, expected) in [
        ([20, 1, 50], 1, 20, 20),
        ([20, 1, 50], 1, 50, 20),
        ([20, 1, 50], 1, 60, 30),
        ([20, 1, 50], 1, 0, 19),
        ([20, 1, 50], 2, 20, 1),
        ([20, 1, 50], 2, 60, 11),
        ([20, 1, 50], 2, 0, 0),
        ([20, 1, 50], 3, 60, 60),
        ([20, 1, 50], 3, 5, 5),
        ([90, 1, 1], 1, 90, 90),
        ([90, 1, 1], 2, 90, 90),
        ([1, 50, 20], 1, 50, 1),
        ([1, 50, 20], 2, 50, 50),
        ([1, 50, 20], 2, 0, 49),
        ([1, 50, 20], 2, 60, 60),
    ] {
        for kind in 0..2 * Algorithm::ALL.len() {
            let (mut world, demand) = (World::new(), holding(1, quota(kind, 100), hold));
            let (_, reserved) = world.ask(&[demand], SECOND);
            let reserved = reserved.unwrap();
            let mut visited = Vec::new();
            for (step, report) in [None, Some((Estimate, first)), Some((Counted, second))].into_iter().enumerate() {
                let now = SECOND + 10 * step as u64;
                if let Some((quality, used)) = report.filter(|(_, used)| step == 1 || *used != first) {
                    world.report(&reserved, quality, used, now);
                }
                if step + 1 == copied {
                    visited = world.kept.accounts(&world.memory, Micros(now + 5));
                }
            }
            let rows = world.memory.copy_settled(&visited, Micros(SECOND + 30));
            world.kept.rows(rows);
            world.restart(SECOND + 40);
            world.report(&reserved, Final, last, SECOND + 40);
            let found = 100 - world.left(demand, SECOND + 40);
            assert_eq!(found, expected, "{hold} {first} {second}, {copied} of them copied, then {last}: {kind}");
        }
    }
}

/// A correction that missed a copy is in the next one.
#[test]
fn what_missed_a_copy_is_in_the_next() {
    let (mut world, demand) = (World::new(), holding(1, quota(0, 100), 20));
    let (_, reserved) = world.ask(&[demand], SECOND);
    let reserved = reserved.unwrap();
    let visited = world.kept.accounts(&world.memory, Micros(SECOND));
    world.report(&reserved, Quality::Estimate, 50, SECOND + 5);
    let rows = world.memory.copy_settled(&visited, Micros(SECOND + 5));
    world.kept.rows(rows);
    world.save(SECOND + 10);
    world.restart(SECOND + 20);
    assert_eq!(world.left(demand, SECOND + 20), 50);
    world.report(&reserved, Quality::Final, 5, SECOND + 20);
    assert_eq!(world.left(demand, SECOND + 20), 95);
}

#[test]
fn what_does_not_change_is_not_copied() {
    let (mut world, demand) = (World::new(), holding(1, quota(0, 100), 20));
    world.save(SECOND);
    let (_, reserved) = world.ask(&[demand], SECOND);
    world.report(&reserved.unwrap(), Quality::Estimate, 20, SECOND);
    world.save(SECOND + 1);
    assert_eq!(world.kept.records.len(), 1);
    let again = |at: u64| {
        let copies: Vec<_> = (0..Memory::SHARDS).map(|shard| world.memory.copy(shard, Micros(at))).collect();
        let visited: Vec<Micros> = copies.iter().map(|(at, _)| *at).collect();
        let rows = world.memory.copy_settled(&visited, Micros(at));
        (copies.into_iter().filter_map(|(_, copied)| copied).collect::<Vec<_>>(), rows)
    };
    let (copies, rows) = again(SECOND + 2);
    assert!(copies.is_empty() && rows.is_empty(), "{copies:?} {rows:?}");
    // Nor does it change by what is refused.
    let refused = world.memory.admit(&[Demand { cost: Cost::Take(1000), ..demand }], Micros(SECOND + 3));
    assert!(!refused.admitted() && again(SECOND + 3).0.is_empty());
    // What could not be kept is copied again.
    let _ = world.memory.admit(&[demand], Micros(SECOND + 3));
    let (copies, _) = again(SECOND + 4);
    copies.into_iter().for_each(|copied| world.memory.put_back(copied));
    assert_eq!(again(SECOND + 5).0.len(), 1);
    assert_eq!(again(SECOND + 6).0.len(), 0);
}

/// A file that says it is not empty would have its caller wait.
#[test]
fn an_account_that_goes_goes_from_the_file() {
    let (mut world, demand) = (World::new(), holding(1, quota(0, 100), 90));
    let (_, reserved) = world.ask(&[demand], SECOND);
    world.save(SECOND);
    world.report(&reserved.unwrap(), Quality::Final, 0, SECOND + 1);
    for turn in 0..Memory::TURNS {
        world.memory.sweep(turn, Micros(SECOND + 2));
    }
    assert_eq!(world.memory.accounts(), 0);
    world.save(SECOND + 3);
    world.restart(SECOND + 4);
    assert_eq!((world.memory.accounts(), world.left(demand, SECOND + 4)), (0, 100));
}

#[test]
fn a_report_that_could_be_corrected_goes_from_the_file_after_a_day() {
    let (mut world, hour) = (World::new(), 3600 * SECOND);
    let (_, reserved) = world.ask(&[holding(1, quota(0, 100), 20)], SECOND);
    let reserved = reserved.unwrap();
    world.report(&reserved, Quality::Estimate, 20, SECOND);
    let kept = |world: &mut World, now: u64| {
        world.save(now);
        world.kept.rows.keys().filter(|key| key.kind == 2).count()
    };
    assert_eq!([kept(&mut world, SECOND), kept(&mut world, 23 * hour), kept(&mut world, 25 * hour)], [1, 1, 0]);
    assert_eq!(world.report(&reserved, Quality::Final, 10, 25 * hour), Settled::Late);
}

#[test]
fn earlier_instances_are_known_for_a_day_and_of_too_many_the_last() {
    let hour = 3600 * SECOND;
    let mut world = World::new();
    let (_, reserved) = world.ask(&[holding(1, quota(0, 100), 20)], SECOND);
    world.report(&reserved.unwrap(), Quality::Final, 20, SECOND);
    world.save(SECOND);
    world.restart(hour);
    assert_eq!(world.memory.earlier(), [Instance(1)]);
    world.restart(24 * hour);
    assert_eq!(world.memory.earlier().len(), 2);
    world.restart(26 * hour);
    assert_eq!(world.memory.earlier().len(), 2, "the first one ended a day ago");
    assert!(world.kept.rows.keys().all(|key| key.instance != Instance(1)), "nothing of it is left");
    for second in 0..1_100 {
        let rows = world.memory.begin(Instance(100 + second), &[], Micros(26 * hour + second * SECOND));
        world.kept.rows(rows);
    }
    let earlier = world.memory.earlier();
    assert!(earlier.len() <= 1025 && earlier.contains(&Instance(1198)), "{}", earlier.len());
    let told = world.kept.rows.keys().filter(|key| key.kind == 0).count();
    assert_eq!(told, earlier.len() + 1, "those that are known and the last one");
}

/// Names are not in the file.
#[test]
fn the_first_request_after_a_restart_tells_what_an_account_is_called() {
    let mut world = World::new();
    let demands = [1, 2].map(|number| holding(number, quota(0, 100), 10));
    let told = |world: &mut World, demands: &[Demand], at| world.ask(demands, at).0.is_new;
    let another = |demand: Demand| [demand, Demand { cell: CellId(7), ..demand }];
    for (at, expected) in [(SECOND, true), (5 * SECOND, true)] {
        // One cell of an account, two cells of another, and two accounts.
        let third = [holding(3, quota(0, 100), 10), demands[0]];
        for ask in [&demands[..1], &another(demands[1]), &third] {
            assert_eq!(told(&mut world, ask, at), expected);
            assert!(!told(&mut world, ask, at + 1), "once");
        }
        world.save(at + 2);
        assert!(!told(&mut world, &demands[..1], at + 3), "nor again after a save");
        world.save(at + 4);
        world.restart(at + SECOND);
    }
    // Who is refused tells nothing.
    let far = [Demand { cost: Cost::Take(1000), ..demands[0] }];
    assert!(!told(&mut world, &far, 7 * SECOND) && told(&mut world, &demands[..1], 7 * SECOND));
}

#[test]
fn an_entry_of_the_map_is_small() {
    assert_eq!(crate::limit::memory::entry_size(), 40);
}
