//! The file and its saves, without a process around them.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata};

use super::file::{BASE, GONE, JOURNAL, META};
use super::save::{Also, Saver, Told};
use super::*;
use crate::clock::Nanos;
use crate::limit::{
    AccountKey, Admission, Cost, Demand, Due, Hold, Instance, Quality, Quota, Quotas, Report, Settled, Store,
};
use crate::test_util::Scratch;

const SECOND: u64 = 1_000_000;
const HOUR: u64 = 3600 * SECOND;
const BEGAN: u64 = 1_800_000_000 * SECOND;
const YEAR: Duration = Duration::from_secs(364 * 24 * 3600);

/// One process after another on one file.
struct World {
    saver: Saver,
    meta: [[u8; 32]; 2],
    in_force: InForce,
}

fn quota() -> Quota {
    Quota::new(1000, YEAR)
}

fn in_force(cells: &[u64]) -> InForce {
    let rates: Quotas = cells.iter().map(|cell| (CellId(*cell), quota())).collect();
    InForce::new(&rates, [])
}

fn options(path: PathBuf) -> Options {
    Options { path, discard: false }
}

fn opened(options: &Options, wall: u64, in_force: &InForce) -> Result<Opened, StateError> {
    let clock = Clock::started(Micros(wall), Duration::ZERO);
    Opened::open(options, Beginning { memory: Memory::bounded(1_000_000), clock, in_force })
}

/// The file, what it is written from, and its keys.
fn begun(path: PathBuf, wall: u64, in_force: &InForce) -> (Opened, Shared, [[u8; 32]; 2]) {
    let mut opened = opened(&options(path), wall, in_force).unwrap();
    let secret = opened.secret(None);
    let keys = opened.account_key(&KeyedHasher::derived(&secret, "accounts")).keys();
    let limits = Limits::in_memory(std::mem::take(&mut opened.memory)).since(opened.began);
    let (sealer, forecasts) = (Arc::new(Sealer::new(&secret)), Arc::default());
    let shared = Shared { limits: Arc::new(limits), sealer, forecasts };
    opened.begin(&shared).unwrap();
    (opened, shared, [secret.key("test", b""), keys])
}

/// What a start says of a file that it does not use.
fn refused(options: &Options) -> String {
    opened(options, BEGAN, &in_force(&[1])).map(drop).unwrap_err().to_string()
}

/// Of that number; all are in different shards, as hashes are.
fn account(number: u64) -> AccountKey {
    AccountKey(u128::from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64 | u128::from(number + 1))
}

fn demand(number: u64, cell: u64, hits: u64) -> Demand {
    Demand { account: account(number), cell: CellId(cell), quota: quota(), cost: Cost::Take(hits) }
}

// === impl World ===

impl World {
    fn open(path: PathBuf, wall: u64, cells: &[u64]) -> Self {
        let in_force = in_force(cells);
        let (opened, shared, meta) = begun(path, wall, &in_force);
        let Opened { file, journals, gone, unsettled, .. } = opened;
        let told = Told { gone: gone.clone(), unsettled };
        World { saver: Saver { file, shared, journals, gone, told, is_told: true }, meta, in_force }
    }

    fn memory(&self) -> &Memory {
        let Store::Memory(memory) = &self.saver.shared.limits.store;
        memory
    }

    fn take(&self, demand: Demand, now: u64) -> Admission {
        self.memory().admit(&[demand], Micros(now))
    }

    fn used(&self, number: u64, cell: u64, now: u64) -> u64 {
        let look = Demand { cost: Cost::POSTPAID, ..demand(number, cell, 0) };
        1000 - self.take(look, now).standings[0].remaining()
    }

    fn save(&mut self, now: u64) -> bool {
        self.try_save(now).unwrap()
    }

    fn try_save(&mut self, now: u64) -> Result<bool, StateError> {
        let in_force = self.in_force.clone();
        self.saver.save(Also::default(), Micros(now), &move || in_force.clone())
    }

    /// The cells that are gone, as the file has it.
    fn gone(&mut self) -> Vec<u64> {
        let transaction = self.saver.file.database().unwrap().begin_read().unwrap();
        let table = transaction.open_table(GONE).unwrap();
        table.iter().unwrap().map(|row| row.unwrap().0.value()).collect()
    }

    /// How many rows the tables of accounts have: the base, and the journal.
    fn rows(&mut self) -> [u64; 2] {
        let transaction = self.saver.file.database().unwrap().begin_read().unwrap();
        let [base, journal] =
            [transaction.open_table(BASE).unwrap().len(), transaction.open_table(JOURNAL).unwrap().len()];
        [base.unwrap(), journal.unwrap()]
    }
}

#[test]
fn a_process_goes_on_with_what_the_one_before_it_saved() {
    let folder = Scratch::new();
    let path = folder.path("state");
    let mut first = World::open(path.clone(), BEGAN, &[1, 2]);
    assert!(!first.save(BEGAN), "nothing has changed");
    for number in 0..500 {
        first.take(demand(number, 1, 1 + number % 7), BEGAN + 1);
    }
    assert!(first.save(BEGAN + SECOND));
    first.take(demand(3, 2, 9), BEGAN + 2 * SECOND);
    assert!(first.save(BEGAN + 2 * SECOND));
    assert!(!first.save(BEGAN + 3 * SECOND));
    let (meta, instance) = (first.meta, first.saver.shared.sealer.instance());
    let sealed = first.saver.shared.sealer.seal(&crate::usage::Terms::default(), Micros(BEGAN));
    drop(first);
    let second = World::open(path, BEGAN + 4 * SECOND, &[1, 2]);
    assert_eq!(second.meta, meta, "secret and key of names are kept");
    assert_eq!(second.memory().accounts(), 500);
    for number in 0..500 {
        assert_eq!(second.used(number, 1, BEGAN + 4 * SECOND), 1 + number % 7);
    }
    assert_eq!(second.used(3, 2, BEGAN + 4 * SECOND), 9);
    assert_eq!(second.saver.shared.sealer.open(&sealed).unwrap().instance, instance);
}

/// The wall clock may be set back between two processes.
#[test]
fn the_stores_clock_never_begins_before_what_was_saved() {
    let folder = Scratch::new();
    let path = folder.path("state");
    let mut first = World::open(path.clone(), BEGAN, &[1]);
    first.take(demand(1, 1, 100), BEGAN);
    first.save(BEGAN + HOUR);
    drop(first);
    let second = World::open(path, BEGAN - 5 * HOUR, &[1]);
    // The clock had started a moment before that.
    let began = second.saver.shared.limits.time(Nanos(0));
    assert!(began.0 >= BEGAN + HOUR - 5 * SECOND && began.0 <= BEGAN + HOUR + 1, "{began:?}");
    let admission = second.take(demand(1, 1, 1), began.0);
    assert!(admission.at > Micros(BEGAN + HOUR), "{admission:?}");
}

/// A journal is merged when it is as large as its base: the file stays within twice what is in it, and nothing is lost.
#[test]
fn a_journal_that_has_grown_is_merged_with_its_base() {
    let folder = Scratch::new();
    let path = folder.path("state");
    let mut first = World::open(path.clone(), BEGAN, &[1]);
    // All in one shard: the shard is told by the upper half.
    let in_shard = |number: u64| Demand { account: AccountKey(7 << 64 | u128::from(number)), ..demand(0, 1, 1) };
    let mut merged = 0;
    for save in 0..60_u64 {
        let now = BEGAN + save * SECOND;
        for number in 0..50 {
            first.take(in_shard(save * 10 + number), now);
        }
        let before = first.rows()[1];
        first.save(now);
        merged += u64::from(first.rows()[1] < before);
    }
    let [base, journal] = first.rows();
    assert!(merged >= 2 && base >= 1 && journal < 40, "{merged} {base} {journal}");
    let expected: Vec<u64> = (0..640)
        .map(|number| {
            first.take(Demand { cost: Cost::POSTPAID, ..in_shard(number) }, BEGAN + HOUR).standings[0].remaining()
        })
        .collect();
    first.save(BEGAN + HOUR);
    drop(first);
    let second = World::open(path, BEGAN + HOUR, &[1]);
    let found: Vec<u64> = (0..640)
        .map(|number| {
            second.take(Demand { cost: Cost::POSTPAID, ..in_shard(number) }, BEGAN + HOUR).standings[0].remaining()
        })
        .collect();
    assert_eq!(expected, found);
    assert!(expected.iter().collect::<HashSet<_>>().len() > 2, "they differ");
}

/// A limit whose policy is in error for an hour has not forgotten anybody; one that is gone for a day has.
#[test]
fn cells_of_limits_that_are_gone_are_dropped_a_day_later_whatever_starts_in_between() {
    let folder = Scratch::new();
    let path = folder.path("state");
    let mut world = World::open(path.clone(), BEGAN, &[1, 2]);
    world.take(demand(1, 1, 100), BEGAN);
    world.take(demand(1, 2, 200), BEGAN);
    world.take(demand(2, 2, 300), BEGAN);
    world.save(BEGAN);
    drop(world);
    for (hours, cells, expected) in [
        (1, &[1][..], [100, 200, 300]),
        (23, &[1], [100, 200, 300]),
        // It is there again, and is not a day later.
        (24, &[1, 2], [100, 200, 300]),
        (30, &[1], [100, 200, 300]),
        (53, &[1], [100, 200, 300]),
        (55, &[1], [100, 0, 0]),
    ] {
        let now = BEGAN + hours * HOUR;
        let world = World::open(path.clone(), now, cells);
        let left = |used: u64| {
            // A year's limit of 1,000 regains one in nine hours.
            used.saturating_sub(1000 * hours / (364 * 24))
        };
        let found = [world.used(1, 1, now), world.used(1, 2, now), world.used(2, 2, now)];
        for (found, expected) in found.into_iter().zip(expected.map(left)) {
            assert!(found.abs_diff(expected) <= 1, "{hours} h: {found} and {expected}");
        }
    }
    // And at a merge, while a process runs.
    let mut world = World::open(path, BEGAN + 56 * HOUR, &[1]);
    for number in 0..2_000_u64 {
        world.take(
            Demand { account: AccountKey(9 << 64 | u128::from(number + 1)), ..demand(0, 3, 500) },
            BEGAN + 56 * HOUR,
        );
    }
    world.save(BEGAN + 56 * HOUR);
    assert!(world.gone().contains(&3));
    let [base, _] = world.rows();
    world.in_force = in_force(&[1]);
    for number in 0..2_000_u64 {
        world.take(
            Demand { account: AccountKey(9 << 64 | u128::from(number + 1)), ..demand(0, 1, 1) },
            BEGAN + 81 * HOUR,
        );
    }
    // Nor does it matter what the saver thought of a file that it has to open anew.
    world.saver.file.close();
    world.saver.journals = load::Journals::default();
    world.save(BEGAN + 81 * HOUR);
    let merged = world.saver.journals.shards[9].clone();
    assert!(merged.saves.is_empty() && base > 0, "{merged:?}");
    let size = world.saver.journals.shards[9].base;
    assert!(size < 2_000 * 70, "one cell each is left: {size}");
}

/// A limit that is there again has not been gone, whatever becomes of the process.
#[test]
fn since_when_a_cell_is_gone_is_kept_no_longer_than_it_is_so() {
    let folder = Scratch::new();
    let path = folder.path("state");
    let mut world = World::open(path.clone(), BEGAN, &[1, 2]);
    world.take(demand(1, 2, 200), BEGAN);
    world.save(BEGAN);
    drop(world);
    let mut world = World::open(path.clone(), BEGAN + HOUR, &[1]);
    assert_eq!(world.gone(), [2]);
    // It is there again while the process runs: nothing else changes.
    let all = in_force(&[1, 2]);
    let learned = Also { learned: true };
    assert!(world.saver.save(learned, Micros(BEGAN + 2 * HOUR), &|| all.clone()).unwrap());
    assert_eq!(world.gone(), [0; 0]);
    drop(world);
    // It is gone when a process starts, and there when the next one does.
    assert_eq!(World::open(path.clone(), BEGAN + 3 * HOUR, &[1]).gone(), [2]);
    assert_eq!(World::open(path.clone(), BEGAN + 4 * HOUR, &[1, 2]).gone(), [0; 0]);
    let used = |hours: u64| World::open(path.clone(), BEGAN + hours * HOUR, &[1]).used(1, 2, BEGAN + hours * HOUR);
    assert!(used(28) > 190, "it has not been gone for a day");
    // What nobody has is not remembered for ever.
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(GONE).unwrap().insert(77, BEGAN).unwrap();
    transaction.open_table(GONE).unwrap().insert(78, BEGAN + 28 * HOUR).unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert_eq!(World::open(path.clone(), BEGAN + 49 * HOUR, &[1]).gone(), [2, 78]);
    assert_eq!(used(54), 0, "and a day later it is");
}

/// A process that is killed before it has saved anything loses nothing that the one before it knew.
#[test]
fn calls_that_have_a_line_are_known_after_a_second_kill() {
    let folder = Scratch::new();
    let path = folder.path("state");
    let instance = World::open(path.clone(), BEGAN, &[1]).saver.shared.sealer.instance();
    let (known, foreign) = (u128::from(instance.0) << 64 | 5, u128::from(instance.0 ^ 1) << 64 | 5);
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let calls = [foreign, known].map(u128::to_be_bytes).concat();
    transaction.open_table(META).unwrap().insert("unsettled", calls.as_slice()).unwrap();
    transaction.commit().unwrap();
    drop(database);
    for restart in 1..4 {
        let world = World::open(path.clone(), BEGAN + restart * SECOND, &[1]);
        assert_eq!(world.saver.told.unsettled, [known], "{restart}");
    }
}

/// The process's clock runs while the process waits for the file.
#[test]
fn a_process_that_waited_for_the_file_is_not_ahead_of_the_wall_clock() {
    let folder = Scratch::new();
    let path = folder.path("state");
    let mut first = World::open(path.clone(), BEGAN, &[1]);
    first.take(demand(1, 1, 100), BEGAN);
    first.save(BEGAN + 9 * SECOND);
    drop(first);
    let clock = Clock::started(Micros(BEGAN), Duration::from_secs(9));
    let in_force = in_force(&[1]);
    let beginning = Beginning { memory: Memory::default(), clock, in_force: &in_force };
    let opened = Opened::open(&options(path), beginning).unwrap();
    let limits = Limits::in_memory(Memory::default()).since(opened.began);
    let ahead = limits.time(clock.now()).0.checked_sub(BEGAN + 9 * SECOND).unwrap();
    // The machine may be slow.
    assert!(ahead < 5 * SECOND, "{ahead}");
}

/// 50. Not even an empty one is made: it would have no keys.
#[test]
fn a_file_that_was_moved_is_not_made_anew_and_is_written_again_when_it_is_back() {
    let folder = Scratch::new();
    let path = folder.path("state");
    let mut world = World::open(path.clone(), BEGAN, &[1]);
    world.take(demand(1, 1, 100), BEGAN);
    world.save(BEGAN);
    let aside = path.with_file_name("aside");
    std::fs::rename(&path, &aside).unwrap();
    for _ in 0..2 {
        world.take(demand(1, 1, 10), BEGAN);
        let told = world.try_save(BEGAN + SECOND).unwrap_err().to_string();
        assert!(
            told.contains("is not the file that was opened: it was moved") && told.contains("put it back"),
            "{told}"
        );
        assert!(!path.exists());
    }
    // Nor is another one taken for it.
    std::fs::copy(&aside, &path).unwrap();
    let copy = std::fs::read(&path).unwrap();
    assert!(world.try_save(BEGAN + SECOND).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), copy);
    std::fs::remove_file(&path).unwrap();
    std::fs::rename(&aside, &path).unwrap();
    assert!(world.save(BEGAN + 2 * SECOND));
    drop(world);
    let world = World::open(path, BEGAN + 3 * SECOND, &[1]);
    assert_eq!(world.used(1, 1, BEGAN + 3 * SECOND), 120);
}

/// Of a commit that failed nobody knows whether it was made.
#[test]
fn after_a_failure_the_tables_say_what_is_in_the_file() {
    let folder = Scratch::new();
    let path = folder.path("state");
    let mut world = World::open(path.clone(), BEGAN, &[1]);
    for save in 0..3 {
        world.take(demand(1, 1, 10), BEGAN + save * SECOND);
        world.save(BEGAN + save * SECOND);
    }
    // As if the second and the third had not been made.
    world.saver.file.close();
    world.saver.journals.next = 1;
    for journal in &mut world.saver.journals.shards {
        journal.saves.truncate(1);
    }
    world.take(demand(1, 1, 10), BEGAN + 4 * SECOND);
    world.save(BEGAN + 4 * SECOND);
    assert_eq!(world.rows()[1], 4, "each has its row");
    assert_eq!(
        (world.saver.journals.next, world.saver.journals.shards.iter().map(|shard| shard.saves.len()).sum()),
        (4, 4)
    );
    drop(world);
    assert_eq!(World::open(path, BEGAN + 5 * SECOND, &[1]).used(1, 1, BEGAN + 5 * SECOND), 40);
}

/// 48. Of the future.
#[test]
fn a_file_of_another_format_is_not_used_and_not_touched() {
    let folder = Scratch::new();
    let path = folder.path("state");
    drop(World::open(path.clone(), BEGAN, &[1]));
    let set = |key: &str, value: &[u8]| {
        let database = Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert(key, value).unwrap();
        transaction.commit().unwrap();
    };
    set("format", &2_u32.to_be_bytes());
    // Its mode is not changed either.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let told = refused(&options(path.clone()));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(
        told.contains("another version of tiergate (format 2; this one reads 1)") && told.contains("--state-discard"),
        "{told}"
    );
    let database = Database::open(&path).unwrap();
    let read = database.begin_read().unwrap();
    assert_eq!(read.open_table(META).unwrap().get("format").unwrap().unwrap().value(), 2_u32.to_be_bytes());
    drop((read, database));
    set("format", &1_u32.to_be_bytes());
    drop(World::open(path.clone(), BEGAN, &[1]));
    set("product", b"something else");
    assert!(refused(&options(path)).contains("it is no state file of tiergate"));
}

/// 48. A database of something else.
#[test]
fn a_database_of_something_else_is_not_used() {
    let folder = Scratch::new();
    let path = folder.path("state");
    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(redb::TableDefinition::<u64, u64>::new("numbers")).unwrap().insert(1, 1).unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert!(refused(&options(path.clone())).contains("it is no state file of tiergate"));
    // Moved aside, it is there still.
    let discard = Options { path: path.clone(), discard: true };
    drop(opened(&discard, BEGAN, &in_force(&[1])).unwrap());
    let names: Vec<String> = std::fs::read_dir(path.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let aside = names.iter().find(|name| name.starts_with("state.discarded-")).unwrap();
    assert!(Database::open(path.with_file_name(aside)).is_ok());
}

/// Rows that nobody wrote, in a file that is whole.
#[test]
fn rows_that_are_none_are_told_and_let_nobody_in() {
    for damage in 0..12 {
        let folder = Scratch::new();
        let path = folder.path("state");
        let mut world = World::open(path.clone(), BEGAN, &[1]);
        world.take(demand(1, 1, 100), BEGAN);
        world.save(BEGAN);
        drop(world);
        let database = Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        match damage {
            0 => drop(transaction.open_table(BASE).unwrap().insert((3, 0), [1_u8, 2, 3].as_slice()).unwrap()),
            1 => drop(transaction.open_table(BASE).unwrap().insert((300, 0), [1_u8].as_slice()).unwrap()),
            2 => drop(transaction.open_table(JOURNAL).unwrap().insert((u64::MAX, 0), [1_u8].as_slice()).unwrap()),
            3 => drop(transaction.open_table(super::file::SHARDS).unwrap().insert(0, u64::MAX).unwrap()),
            4 => drop(
                transaction.open_table(super::file::SETTLED).unwrap().insert((1, 9, 1), [1_u8].as_slice()).unwrap(),
            ),
            5 => drop(transaction.open_table(super::file::SHARDS).unwrap().insert(300, 1).unwrap()),
            6 => drop(transaction.open_table(META).unwrap().remove("accounts").unwrap()),
            7 => drop(transaction.open_table(META).unwrap().remove("secret").unwrap()),
            8 => drop(transaction.open_table(META).unwrap().insert("accounts", [1_u8; 31].as_slice()).unwrap()),
            9 => drop(transaction.open_table(META).unwrap().insert("secret", [1_u8; 33].as_slice()).unwrap()),
            10 => drop(transaction.delete_table(super::file::LEARNED).unwrap()),
            _ => {
                transaction.delete_table(GONE).unwrap();
                drop(transaction.open_table(redb::TableDefinition::<&str, u64>::new("gone")).unwrap());
            }
        }
        transaction.commit().unwrap();
        drop(database);
        let told = refused(&options(path.clone()));
        assert!(told.contains("it is damaged") && told.contains("--state-discard"), "{damage}: {told}");
        let discard = Options { path, discard: true };
        assert!(opened(&discard, BEGAN, &in_force(&[1])).is_ok(), "{damage}");
    }
}

/// 49. In one process or two: the lock is the file's.
#[test]
fn a_file_that_is_in_use_is_waited_for_and_then_it_is_said_by_whom() {
    let folder = Scratch::new();
    let path = folder.path("state");
    let _world = World::open(path.clone(), BEGAN, &[1]);
    let path = std::fs::canonicalize(path).unwrap();
    let error = lock::Lock::take(&path, Duration::ZERO).unwrap_err();
    let StateError::InUse { pid, .. } = &error else { panic!("{error}") };
    assert_eq!(*pid, Some(std::process::id()));
}

/// 52. Replicas of one key, each with its file: every start is an instance of its own, which nobody takes for another.
#[test]
fn two_replicas_of_one_key_have_no_identity_twice_in_a_thousand_restarts() {
    let secret = Secret::random();
    let folder = Scratch::new();
    let mut seen = HashSet::new();
    let mut memories = [Memory::default().copied(), Memory::default().copied()];
    for restart in 0..500_u64 {
        for memory in &mut memories {
            let sealer = Sealer::new(&secret);
            assert!(seen.insert(sealer.instance().0), "no instance twice");
            memory.begin(sealer.instance(), &[], Micros(restart * SECOND));
            sealer.take_over(memory.earlier());
            let sealed = sealer.seal(&crate::usage::Terms::default(), Micros(restart));
            assert_eq!(sealer.open(&sealed).unwrap().instance, sealer.instance());
        }
    }
    let known =
        |memory: &Memory| memory.earlier().into_iter().map(|Instance(instance)| instance).collect::<HashSet<_>>();
    let [one, other] = [&memories[0], &memories[1]].map(known);
    assert_eq!((seen.len(), one.len(), other.len(), one.intersection(&other).count()), (1000, 499, 499, 0));
    // What another replica made is not settled here, though it can be read.
    let [first, second] = ["one", "other"].map(|name| World::open(folder.path(name), BEGAN, &[1]));
    let sealed = first.saver.shared.sealer.seal(&crate::usage::Terms::default(), Micros(BEGAN));
    assert!(second.saver.shared.sealer.open(&sealed).is_none());
}

/// With a key of one's own the file's seals no more, and opens what it has sealed; names of accounts stay what they are whatever becomes of the key.
#[test]
fn a_secret_that_is_given_seals_and_the_names_of_accounts_stay() {
    let folder = Scratch::new();
    let options = options(folder.path("state"));
    let (mut keys, mut before) = (HashSet::new(), None);
    for secret in [None, Some(Secret::random())] {
        let mut opened = opened(&options, BEGAN, &in_force(&[1])).unwrap();
        let sealer = Arc::new(Sealer::new(&opened.secret(secret.clone())));
        if secret.is_some() {
            sealer.keep(&opened.kept());
        }
        let kept = opened.kept();
        let _ = opened.account_key(&KeyedHasher::derived(&kept, "accounts"));
        let limits = Arc::new(Limits::in_memory(std::mem::take(&mut opened.memory)));
        opened.begin(&Shared { limits, sealer: Arc::clone(&sealer), forecasts: Arc::default() }).unwrap();
        if let Some(sealed) = before.replace(sealer.seal(&crate::usage::Terms::default(), Micros(BEGAN))) {
            assert!(sealer.open(&sealed).is_some(), "what the file's key has sealed");
        }
    }
    for secret in [Some(Secret::random()), Some(Secret::random()), None] {
        let mut opened = opened(&options, BEGAN, &in_force(&[1])).unwrap();
        let used = opened.secret(secret.clone());
        if let Some(secret) = &secret {
            assert_eq!(used.key::<32>("a", b""), secret.key::<32>("a", b""));
        }
        keys.insert(opened.account_key(&KeyedHasher::derived(&used, "accounts")).keys());
        let limits = Arc::new(Limits::in_memory(std::mem::take(&mut opened.memory)));
        let shared = Shared { limits, sealer: Arc::new(Sealer::new(&used)), forecasts: Arc::default() };
        opened.begin(&shared).unwrap();
    }
    assert_eq!(keys.len(), 1);
}

/// 50. What could not be saved is saved later: here since the file is not what it was.
#[test]
fn what_cannot_be_saved_is_noted_again() {
    let folder = Scratch::new();
    let path = folder.path("state");
    let mut world = World::open(path.clone(), BEGAN, &[1]);
    let admission = world.take(demand(1, 1, 100), BEGAN);
    let hold = Hold { account: account(1), cell: CellId(1), held: 100, mark: admission.standings[0].mark() };
    let due = [Due { hold, quota: Some(quota()), used: 40, debt_windows: 10, watched: false }];
    let (instance, minted) = (world.saver.shared.sealer.instance(), admission.at);
    let report = Report { instance, serial: 0, minted, quality: Quality::Estimate, tokens: 40, due: &due };
    assert!(matches!(world.memory().settle(&report, Micros(BEGAN + 1)), Settled::Applied { .. }));
    world.saver.file.close();
    let aside = path.with_file_name("aside");
    std::fs::rename(&path, &aside).unwrap();
    std::fs::create_dir(&path).unwrap();
    for _ in 0..3 {
        assert!(world.try_save(BEGAN + SECOND).is_err());
    }
    std::fs::remove_dir(&path).unwrap();
    std::fs::rename(&aside, &path).unwrap();
    assert!(world.save(BEGAN + 2 * SECOND));
    drop(world);
    let world = World::open(path, BEGAN + 3 * SECOND, &[1]);
    assert_eq!(world.used(1, 1, BEGAN + 3 * SECOND), 40);
    let again = world.memory().settle(&report, Micros(BEGAN + 4 * SECOND));
    assert_eq!(again, Settled::Duplicate { conflicting: false });
}

/// What cannot be saved at the end may be in a moment.
#[test]
fn the_last_save_is_tried_again_as_long_as_there_is_patience() {
    let folder = Scratch::new();
    let path = folder.path("state");
    let aside = path.with_file_name("aside");
    for (is_back, expected) in [(false, 0), (true, 100)] {
        let (opened, shared, _) = begun(path.clone(), BEGAN, &in_force(&[1]));
        let (limits, clock) = (Arc::clone(&shared.limits), Clock::started(Micros(BEGAN), Duration::ZERO));
        let metrics = StateMetrics::default();
        let state = State::start(opened, shared, clock, metrics, Box::new(|| in_force(&[1]))).unwrap();
        std::fs::rename(&path, &aside).unwrap();
        let Store::Memory(memory) = &limits.store;
        assert!(memory.admit(&[demand(1, 1, 100)], Micros(BEGAN)).admitted());
        let back = std::thread::spawn({
            let (path, aside) = (path.clone(), aside.clone());
            move || {
                if is_back {
                    // Some tries later: nothing tells of them.
                    std::thread::sleep(Duration::from_millis(350));
                    std::fs::rename(aside, path).unwrap();
                }
            }
        });
        let patience = if is_back { Duration::from_secs(60) } else { Duration::from_millis(250) };
        assert_eq!(state.end(patience), is_back);
        back.join().unwrap();
        if !is_back {
            std::fs::rename(&aside, &path).unwrap();
        }
        let world = World::open(path.clone(), BEGAN + 90 * SECOND, &[1]);
        assert_eq!(world.used(1, 1, BEGAN + 90 * SECOND), expected);
    }
}
