//! A take from one limit, beside governor's keyed check: one key, a million keys at random, one key that two threads want.
//!
//! Each iteration does what a request does: it has a user's name, hashes it, reads the clock and takes one hit from a limit
//! that is never reached. governor has the same names as `String` keys in its default map, and the same clock. The
//! contended case reports one thread's time while another does the same to the same key; on a machine of two cores it also
//! measures who else was running. Left out: what the answer says about the limit (see `check`), limits that refuse.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench that cannot be set up has to stop"
)]

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use governor::clock::MonotonicClock;
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota as GovernorQuota, RateLimiter};
use tiergate::clock::{Clock, Pace};
use tiergate::hash::KeyedHasher;
use tiergate::limit::{AccountKey, CellId, Cost, Demand, Memory, Quota};

const KEYS: u64 = 1_000_000;

/// Far more than a bench asks for.
const LIMIT: u32 = 4_000_000_000;

type Governor = RateLimiter<String, DefaultKeyedStateStore<String>, MonotonicClock, NoOpMiddleware<std::time::Instant>>;

/// Users as tokens name them.
fn users(count: u64) -> Vec<String> {
    (0..count).map(|n| format!("user-{n:08x}-of-a-tenant")).collect()
}

struct Ours {
    memory: Memory,
    keys: KeyedHasher,
    clock: Clock,
    quota: Quota,
}

impl Ours {
    fn new() -> Self {
        let quota = Quota::new(u64::from(LIMIT), Duration::from_secs(1));
        Ours { memory: Memory::default(), keys: KeyedHasher::random(), clock: Clock::start(), quota }
    }

    fn take(&self, user: &str, cells: &[u64]) -> bool {
        let account = AccountKey(self.keys.hash(user));
        let demand = |cell: &u64| Demand { account, cell: CellId(*cell), quota: self.quota, cost: Cost::Take(1) };
        let now = Pace::since(self.clock.began()).time(self.clock.now());
        match cells {
            [one] => self.memory.admit(&[demand(one)], now).admitted(),
            [one, two] => self.memory.admit(&[demand(one), demand(two)], now).admitted(),
            _ => false,
        }
    }
}

fn governor() -> Governor {
    let quota = GovernorQuota::per_second(NonZeroU32::new(LIMIT).expect("not zero"));
    RateLimiter::new(quota, DefaultKeyedStateStore::default(), MonotonicClock)
}

/// A user at random: the same for both.
fn at_random(n: &mut u64, users: &[String]) -> usize {
    *n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*n >> 33) as usize % users.len()
}

fn limits(c: &mut Criterion) {
    let mut group = c.benchmark_group("take");
    let (ours, theirs) = (Ours::new(), governor());
    let one = users(1).remove(0);
    group.bench_function("one key", |b| b.iter(|| ours.take(black_box(&one), &[1])));
    group.bench_function("one key, governor", |b| b.iter(|| theirs.check_key(black_box(&one)).is_ok()));
    group.bench_function("one key, two limits", |b| b.iter(|| ours.take(black_box(&one), &[1, 2])));

    let users = users(KEYS);
    let (ours, theirs) = (Ours::new(), governor());
    for user in &users {
        assert!(ours.take(user, &[1]) && theirs.check_key(user).is_ok());
    }
    let mut n = 1;
    group.bench_function("a million keys at random", |b| {
        b.iter(|| ours.take(black_box(&users[at_random(&mut n, &users)]), &[1]));
    });
    let mut n = 1;
    group.bench_function("a million keys at random, governor", |b| {
        b.iter(|| theirs.check_key(black_box(&users[at_random(&mut n, &users)])).is_ok());
    });

    let (ours, theirs) = (Ours::new(), governor());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                black_box(ours.take(&one, &[1]));
            }
        });
        group.bench_function("one key, contended", |b| b.iter(|| ours.take(black_box(&one), &[1])));
        stop.store(true, Ordering::Relaxed);
    });
    stop.store(false, Ordering::Relaxed);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                black_box(theirs.check_key(&one).is_ok());
            }
        });
        group.bench_function("one key, contended, governor", |b| {
            b.iter(|| theirs.check_key(black_box(&one)).is_ok());
        });
        stop.store(true, Ordering::Relaxed);
    });
    group.finish();
}

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

criterion_group!(benches, limits);
criterion_main!(benches);
