//! A million callers with two limits each: memory, file, time to save and to load, and what decisions feel of a save.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tiergate::clock::Clock;
use tiergate::hash::KeyedHasher;
use tiergate::limit::{AccountKey, CellId, Cost, Demand, InForce, Limits, Memory, Quota, Quotas};
use tiergate::state::{Beginning, Opened, Options, Shared, State, StateMetrics};
use tiergate::usage::{Forecasts, Sealer};

use crate::support::{Folder, PATIENCE, soak};

const YEAR: Duration = Duration::from_secs(364 * 24 * 3600);
const CELLS: [CellId; 2] = [CellId(1), CellId(2)];

/// A process's limits on a file.
struct Kept {
    shared: Shared,
    state: State,
    clock: Clock,
    took: Duration,
}

fn quota() -> Quota {
    Quota::new(100, YEAR)
}

fn in_force() -> InForce {
    InForce::new(&CELLS.map(|cell| (cell, quota())).into_iter().collect::<Quotas>(), [])
}

/// As hashes are: the same number is the same caller.
fn account(number: u64) -> AccountKey {
    let mix =
        |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    AccountKey(u128::from(mix(number + 1)) << 64 | u128::from(mix(!number)))
}

fn demands(number: u64) -> [Demand; 2] {
    CELLS.map(|cell| Demand { account: account(number), cell, quota: quota(), cost: Cost::Take(1) })
}

impl Kept {
    fn open(path: &Path) -> Self {
        let (started, clock, in_force) = (Instant::now(), Clock::start(), in_force());
        let beginning = Beginning { memory: Memory::default(), clock, in_force: &in_force };
        let options = Options { path: path.to_owned(), discard: false };
        let mut opened = Opened::open(&options, beginning).unwrap();
        let took = started.elapsed();
        let limits = Limits::in_memory(std::mem::take(&mut opened.memory)).since(opened.began);
        let (sealer, forecasts) = (Sealer::new(&opened.secret(None)), Forecasts::default());
        let shared = Shared { limits: Arc::new(limits), sealer: Arc::new(sealer), forecasts: Arc::new(forecasts) };
        let _ = opened.account_key(&KeyedHasher::random());
        opened.begin(&shared).unwrap();
        let now = Box::new(self::in_force);
        let state = State::start(opened, shared.clone(), clock, StateMetrics::default(), now).unwrap();
        Kept { shared, state, clock, took }
    }

    fn memory(&self) -> &Memory {
        let tiergate::limit::Store::Memory(memory) = &self.shared.limits.store;
        memory
    }

    fn take(&self, number: u64) {
        let admission = self.memory().admit(&demands(number), self.shared.limits.time(self.clock.now()));
        assert!(admission.admitted());
    }

    /// How long the last save took.
    fn end(self) -> Duration {
        let started = Instant::now();
        assert!(self.state.end(PATIENCE));
        started.elapsed()
    }
}

/// Of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// How long decisions took while `callers` asked for so long, at that pace: half of them, 99 of 100, 999 of 1,000, the longest.
fn decisions(kept: &Kept, accounts: u64, lasting: Duration) -> [Duration; 4] {
    const A_SECOND: u64 = 20_000;
    let enough = AtomicBool::new(false);
    let ask = |first: u64| {
        let (mut took, started) = (Vec::new(), Instant::now());
        for asked in 0.. {
            if enough.load(Ordering::Relaxed) {
                break;
            }
            let due = Duration::from_micros(asked * 1_000_000 / (A_SECOND / 2));
            while started.elapsed() < due {
                std::thread::yield_now();
            }
            let begun = Instant::now();
            kept.take((first + asked * 7919) % accounts);
            took.push(begun.elapsed());
        }
        took
    };
    let mut took = std::thread::scope(|scope| {
        let threads = [0, 1].map(|first| scope.spawn(move || ask(first)));
        // So long it is measured.
        std::thread::sleep(lasting);
        enough.store(true, Ordering::Relaxed);
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    took.sort_unstable();
    [500, 990, 999, 1000].map(|part| took[(took.len() * part / 1000).min(took.len() - 1)])
}

#[test]
fn a_million_callers_are_saved_and_read_in_bounded_time() {
    let accounts = soak(20_000, 1_000_000);
    let folder = Folder::new();
    let path = folder.0.join("state");
    let before = resident();
    let kept = Kept::open(&path);
    for number in 0..accounts {
        kept.take(number);
    }
    let memory = resident().saturating_sub(before);
    let saved = kept.end();
    let size = || std::fs::metadata(&path).unwrap().len();
    println!(
        "{accounts} accounts of two cells: {} MB of memory, saved in {saved:?} to {} MB",
        memory >> 20,
        size() >> 20
    );
    let kept = Kept::open(&path);
    assert_eq!(kept.memory().accounts() as u64, accounts);
    println!("read in {:?}", kept.took);
    let lasting = Duration::from_secs(soak(3, 30));
    let during = decisions(&kept, accounts, lasting);
    println!("decisions during saves of 20,000 changes a second, p50 p99 p99.9 max: {during:?}");
    let saved = kept.end();
    println!("the last save took {saved:?}; the file has {} MB", size() >> 20);
    let kept = Kept::open(&path);
    assert_eq!(kept.memory().accounts() as u64, accounts);
    println!("read again in {:?}, journal and all", kept.took);
    kept.end();
    if soak(false, true) {
        // By the system's allocator, which takes 16 bytes more for each account than that of the process; the copies of the first save
        // are in it.
        assert!(memory <= 300 << 20, "{memory}");
        assert!(size() <= 600 << 20, "{}", size());
    }
    // A machine that has more to do is no reason to fail, a lock that is held for a save is one.
    assert!(during[1] < Duration::from_millis(soak(50, 5)), "{during:?}");
}
