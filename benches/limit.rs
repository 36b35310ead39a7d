//! The limit cell: one key, a million keys at random, and one key that two threads want.
//!
//! Each iteration admits one request to one limit that is never reached. The contended case reports the time of one
//! admission while another thread does the same to the same account; on a machine of two cores it also measures who
//! else was running.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench that cannot be set up has to stop"
)]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use tiergate::limit::{AccountKey, CellId, Cost, Demand, Memory, Nanos, Quota};

fn demand(account: u128) -> Demand {
    Demand {
        account: AccountKey(account),
        cell: CellId(1),
        quota: Quota::new(1_000_000_000_000, Duration::from_secs(60)),
        cost: Cost::Take(1),
    }
}

/// A cheap permutation of numbers into keys that look random, as hashed keys do.
fn key(n: u64) -> u128 {
    let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (u128::from(mixed) << 64) | u128::from(mixed.rotate_left(17))
}

fn limits(c: &mut Criterion) {
    let mut group = c.benchmark_group("limit");
    let memory = Memory::default();
    let mut now = 0;
    group.bench_function("one key", |b| {
        b.iter(|| {
            now += 1;
            memory.admit(black_box(&[demand(1)]), Nanos(now)).admitted
        });
    });
    let two = [demand(1), Demand { cell: CellId(2), ..demand(1) }];
    group.bench_function("one key, two limits", |b| {
        b.iter(|| {
            now += 1;
            memory.admit(black_box(&two), Nanos(now)).admitted
        });
    });

    const KEYS: u64 = 1_000_000;
    let memory = Memory::default();
    for n in 0..KEYS {
        // Long ago enough not to be idle: the quota is regained in a minute.
        memory.charge(AccountKey(key(n)), CellId(1), demand(0).quota, 900_000_000_000, Nanos(now));
    }
    let mut n = 1_u64;
    group.bench_function("a million keys at random", |b| {
        b.iter(|| {
            n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            memory.admit(black_box(&[demand(key((n >> 33) % KEYS))]), Nanos(now)).admitted
        });
    });

    let memory = Memory::default();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                black_box(memory.admit(&[demand(1)], Nanos(1)));
            }
        });
        group.bench_function("one key, contended by another thread", |b| {
            b.iter(|| memory.admit(black_box(&[demand(1)]), Nanos(1)).admitted);
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
