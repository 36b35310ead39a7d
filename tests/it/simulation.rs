//! Every kind of limit under many callers, on virtual time: what the limiter itself admits, beside what the limit allows.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tiergate::clock::Micros;
use tiergate::limit::{
    AccountKey, Algorithm, Calendar, CellId, Cost, Demand, Due, Hold, Instance, Memory, Quality, Quota, Report, Unit,
};

use crate::support::soak;

/// Of each caller: so many hits a window.
const LIMIT: u64 = 4;
/// Callers ask for so much of their limit, on average: a fifth of them for each.
const ASKED: [f64; 5] = [0.25, 0.5, 1.0, 2.0, 4.0];
const WINDOWS: u64 = 3;
/// Moments of a window.
const MOMENTS: u64 = 60;
/// 2026-03-01T00:00:00Z: windows of any kind begin here.
const BEGAN: u64 = 1_772_323_200_000_000;
/// One of so many callers is looked at closely.
const CLOSELY: u64 = 97;

/// What became of what the callers asked, by how much they ask for.
struct Told {
    asked: [u64; ASKED.len()],
    admitted: [u64; ASKED.len()],
    /// Of those who are looked at: the most that one had in any time of one window; of calls that run, at once.
    most: u64,
    accounts: usize,
    took: Duration,
}

/// A call that runs: its caller, and what it held.
struct Call {
    serial: u64,
    minted: Micros,
    hold: Hold,
}

/// Numbers that are the same in every run (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// How often something happens that happens so often on average, which is well below 1.
    fn times(&mut self, mean: f64) -> u64 {
        let number = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        u64::from(number < mean) + u64::from(number < mean * mean / 2.0)
    }
}

fn quota(kind: Algorithm) -> Quota {
    match kind {
        Algorithm::Calendar => Quota::in_calendar(LIMIT, Calendar::new(Unit::Day, "UTC").unwrap()),
        kind => Quota::new(LIMIT, Duration::from_secs(60)).by(kind),
    }
}

/// The window, in microseconds; of calls that run, what stands for it.
fn window(kind: Algorithm) -> u64 {
    if kind == Algorithm::Calendar { 24 * 3600 * 1_000_000 } else { 60_000_000 }
}

fn simulate(kind: Algorithm, callers: u64) -> Told {
    let started = Instant::now();
    let (memory, quota, moment) = (Memory::bounded(usize::MAX / 2), quota(kind), window(kind) / MOMENTS);
    let mut told = Told { asked: [0; 5], admitted: [0; 5], most: 0, accounts: 0, took: Duration::ZERO };
    let (mut numbers, mut serial) = (Numbers(1), 0);
    let mut closely: Vec<VecDeque<u64>> = (0..callers.div_ceil(CLOSELY)).map(|_| VecDeque::new()).collect();
    // Calls of a quarter of a window, by the moment at which they end.
    let mut running: VecDeque<Vec<Call>> = (0..=MOMENTS / 4).map(|_| Vec::new()).collect();
    for at in 0..MOMENTS * WINDOWS {
        let now = Micros(BEGAN + at * moment);
        let ended = running.pop_front().unwrap_or_default();
        ended.iter().for_each(|call| end(&memory, call, quota, now));
        let mut begun = Vec::new();
        for caller in 0..callers {
            let class = (caller % ASKED.len() as u64) as usize;
            for _ in 0..numbers.times(ASKED[class] * LIMIT as f64 / MOMENTS as f64) {
                told.asked[class] += 1;
                // Spread, as keyed hashes are.
                let account = AccountKey(u128::from(Numbers(caller).next()) << 64 | u128::from(caller));
                let demand = Demand { account, cell: CellId(1), quota, cost: Cost::Take(1) };
                let admission = memory.admit(&[demand], now);
                if !admission.admitted() {
                    continue;
                }
                told.admitted[class] += 1;
                serial += 1;
                let standing = admission.standings[0];
                if kind == Algorithm::Concurrency {
                    told.most = told.most.max(LIMIT - standing.remaining());
                    let hold = Hold { account, cell: CellId(1), held: 1, mark: standing.mark() };
                    begun.push(Call { serial, minted: admission.at, hold });
                } else if caller % CLOSELY == 0 {
                    let times = &mut closely[(caller / CLOSELY) as usize];
                    times.push_back(at);
                    times.retain(|time| time + MOMENTS > at);
                    told.most = told.most.max(times.len() as u64);
                }
            }
        }
        running.push_back(begun);
    }
    Told { accounts: memory.accounts(), took: started.elapsed(), ..told }
}

/// The answer of a call is over.
fn end(memory: &Memory, call: &Call, quota: Quota, now: Micros) {
    let due = [Due { hold: call.hold, quota: Some(quota), used: 0, debt_windows: u32::MAX, watched: false }];
    let Call { serial, minted, .. } = *call;
    memory
        .settle(&Report { instance: Instance(1), serial, minted, quality: Quality::Final, tokens: 0, due: &due }, now);
}

#[test]
fn what_each_kind_admits_of_what_is_asked() {
    let callers = soak(20_000, 1_000_000);
    println!(
        "{callers} callers, {LIMIT} in a window, {WINDOWS} windows; admitted in % of the limit, by what is asked for"
    );
    println!(
        "{:<16}{:>9}{:>8}{:>8}{:>8}{:>8}{:>18}{:>11}{:>8}",
        "asked for", "25 %", "50 %", "100 %", "200 %", "400 %", "most in a window", "accounts", "s"
    );
    for kind in Algorithm::ALL.iter().copied() {
        let told = simulate(kind, callers);
        let each = (callers / ASKED.len() as u64 * LIMIT * WINDOWS) as f64;
        let percent: Vec<f64> = told.admitted.iter().map(|admitted| *admitted as f64 / each * 100.0).collect();
        let shown: String = percent.iter().map(|percent| format!("{percent:>8.1}")).collect();
        println!("{:<17}{shown}{:>18}{:>11}{:>8.1}", kind.name(), told.most, told.accounts, told.took.as_secs_f64());
        assert!(told.admitted.iter().zip(told.asked).all(|(admitted, asked)| *admitted <= asked));
        let (most, ceiling) = match kind {
            Algorithm::Concurrency => (LIMIT, 4.0),
            // What it holds, and what comes back in each window.
            Algorithm::TokenBucket => (2 * LIMIT, (WINDOWS + 1) as f64 / WINDOWS as f64),
            // The windows that a first hit starts, and the moment that each begins.
            _ => (2 * LIMIT, 1.0),
        };
        assert!(told.most <= most, "{kind:?}: {}", told.most);
        assert!(percent.iter().all(|percent| *percent <= ceiling * 100.0 + 0.1), "{kind:?}: {percent:?}");
        assert!(percent[4] > 60.0, "who asks for more has nearly all of it: {kind:?}: {percent:?}");
    }
}
