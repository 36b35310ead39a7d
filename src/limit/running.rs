//! Calls that run at once: each takes a place when it is admitted, and gives it back when its answer is reported.
//!
//! A report may be lost, and then the place is free when the call cannot run any more: at the end of its *lease*, the longest time that a
//! call may take, or a slot later at most. Places are counted by the slot of time in which they were taken, so no list of calls is kept.

use std::time::Duration;

use super::cell::Counter;
use super::{Charge, Quota, Verdict};
use crate::clock::Micros;
use crate::record::{Reading, write_number};

/// The state of one counter: how many places are taken until each slot of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// Places that are free when a slot begins, by its number, going round.
    /// INVARIANT: the slots of now and of before have none, after [`Counter::advance`].
    until: [u16; SLOTS as usize],
    /// The number of the slot of now; they are numbered from 1970 on.
    slot: u32,
    /// How long a slot is, in milliseconds; 0 before the first call.
    length: u32,
    /// How often that was changed, or all places were freed.
    changes: u16,
}

/// How far ahead a place may end. That of now, which has none, stands for the last one.
const SLOTS: u64 = 21;
/// A lease has so many slots: a place is taken somewhere within one, and has to outlast it.
const LEASE: u64 = SLOTS - 1;
/// Numbers of slots begin anew there: they fit a `u32`, and go round with the places.
const TURN: u64 = SLOTS << 27;
/// They are below it in bits, so a mark has room for more.
const NUMBERS: u32 = 32;

// === impl Running ===

impl Running {
    /// The most calls that can be counted to run at once.
    pub const MAX_LIMIT: u64 = u16::MAX as u64;

    /// Appends its record.
    pub(super) fn write(&self, record: &mut Vec<u8>) {
        write_number(record, self.length.into());
        write_number(record, self.slot.into());
        write_number(record, self.changes.into());
        for places in self.until {
            write_number(record, places.into());
        }
    }

    /// What [`Running::write`] wrote. `None` for what none is.
    pub(super) fn read(record: &mut Reading<'_>) -> Option<Self> {
        let length = u32::try_from(record.number()?).ok()?;
        let slot = u32::try_from(record.number()?).ok().filter(|slot| u64::from(*slot) < TURN)?;
        let changes = u16::try_from(record.number()?).ok()?;
        let mut running = Running { length, slot, changes, ..Running::default() };
        for places in &mut running.until {
            *places = u16::try_from(record.number()?).ok()?;
        }
        Some(running)
    }

    /// How long a slot is, in milliseconds, so that a lease of `quota` has [`LEASE`] of them.
    fn length(quota: &Quota) -> u32 {
        u32::try_from(quota.window.div_ceil(LEASE * 1_000).max(1)).unwrap_or(u32::MAX)
    }

    /// Likewise, in microseconds.
    fn microseconds(&self) -> u64 {
        u64::from(self.length.max(1)) * 1_000
    }

    fn slot_of(&self, now: Micros) -> u32 {
        (now.0 / self.microseconds() % TURN) as u32
    }

    /// How many slots have ended since that of now was; none at a moment of before, as it were.
    fn passed(&self, now: Micros) -> u64 {
        let passed = (u64::from(self.slot_of(now)) + TURN - u64::from(self.slot)) % TURN;
        if passed > TURN / 2 { 0 } else { passed }
    }

    /// Goes on to the slot of `now`, and frees the places that were taken until one that has begun.
    fn pass(&mut self, now: Micros) {
        let passed = self.passed(now);
        for _ in 0..passed.min(SLOTS) {
            self.slot = ((u64::from(self.slot) + 1) % TURN) as u32;
            self.ahead(0).map(std::mem::take);
        }
        if passed > 0 {
            self.slot = self.slot_of(now);
        }
    }

    /// The places that are taken until the slot which is so many after that of now.
    fn ahead(&mut self, slots: u64) -> Option<&mut u16> {
        self.until.get_mut(((u64::from(self.slot) + slots) % SLOTS) as usize)
    }

    /// How long places are taken, each slot that has some once: in slots, from that of now on.
    fn taken(&self) -> impl DoubleEndedIterator<Item = u64> {
        let places = |slots: u64| self.until.get(((u64::from(self.slot) + slots) % SLOTS) as usize);
        (1..=SLOTS).filter(move |slots| places(*slots).is_some_and(|places| *places > 0))
    }

    /// Frees so many places, or all that are taken, those first that end first; how many that are.
    fn free(&mut self, hits: u64) -> u64 {
        let mut left = hits;
        for slots in 1..=SLOTS {
            let Some(places) = self.ahead(slots) else { continue };
            let free = left.min(u64::from(*places));
            *places -= free as u16;
            left -= free;
        }
        hits - left
    }

    /// When the slot begins that is so many after that of now, in microseconds from `now`.
    fn until_slot(&self, slots: u64, now: Micros) -> u64 {
        let length = self.microseconds();
        (slots * length).saturating_sub(now.0 % length)
    }
}

impl Counter for Running {
    /// Frees the places whose lease has ended. Where the time of a lease was changed, all others are taken until a new one ends.
    fn advance(&mut self, quota: &Quota, now: Micros) {
        let length = Self::length(quota);
        if self.length == length {
            return self.pass(now);
        }
        let used = if self.length == 0 {
            0
        } else {
            self.pass(now);
            self.used(now)
        };
        *self = Running { length, changes: self.changes.wrapping_add(1), ..Running::default() };
        self.slot = self.slot_of(now);
        self.charge(quota, used, now);
    }

    fn fits(&self, quota: &Quota, need: u64, now: Micros) -> Verdict {
        match (quota.limit, self.used(now).saturating_add(need) <= quota.limit) {
            (0, _) => Verdict::Exceeds(None),
            (_, true) => Verdict::Fits,
            // If none of them is reported: nobody knows how long calls run.
            (_, false) => {
                let first = self.taken().next().unwrap_or(1);
                Verdict::Exceeds(Some(Duration::from_micros(self.until_slot(first, now))))
            }
        }
    }

    fn charge(&mut self, _: &Quota, hits: u64, _: Micros) {
        if let Some(places) = self.ahead(SLOTS) {
            *places = places.saturating_add(u16::try_from(hits).unwrap_or(u16::MAX));
        }
    }

    fn used(&self, _: Micros) -> u64 {
        self.until.iter().map(|places| u64::from(*places)).sum()
    }

    fn left(&self, _: &Quota, now: Micros) -> u64 {
        self.taken().next_back().map_or(0, |slots| self.until_slot(slots, now))
    }

    /// The slot in which a place is taken.
    fn mark(&self) -> Micros {
        Micros(u64::from(self.slot) | u64::from(self.changes) << NUMBERS)
    }

    fn room(&self, _: &Quota) -> u64 {
        u64::from(u16::MAX)
    }

    /// Frees places, unless their lease has ended: then they are free already, or somebody else's.
    /// One of a lease of another length has one of those that end first: they were all taken then.
    fn give_back(&mut self, quota: &Quota, hits: u64, charge: Charge, now: Micros) -> u64 {
        let (changes, taken) = (charge.mark.0 >> NUMBERS, charge.mark.0 & ((1 << NUMBERS) - 1));
        if changes + 1 == u64::from(self.changes) && now.0.saturating_sub(charge.minted.0) < quota.window {
            return self.free(hits);
        }
        if changes != u64::from(self.changes) || taken >= TURN {
            return 0;
        }
        let since = (u64::from(self.slot) + TURN - taken) % TURN;
        let Some(slots) = SLOTS.checked_sub(since).filter(|slots| *slots > 0) else { return 0 };
        let Some(places) = self.ahead(slots) else { return 0 };
        let free = hits.min(u64::from(*places));
        *places -= free as u16;
        free
    }

    /// What runs ends later, and frees nobody's place then: it is of no lease that is known, nor of the one before.
    fn reset(&mut self, _: &Quota, _: Micros) {
        (self.until, self.changes) = (Default::default(), self.changes.wrapping_add(2));
    }

    /// The places that are free soonest.
    fn grant(&mut self, _: &Quota, hits: u64, _: Micros) {
        self.free(hits);
    }

    /// There is none: what runs ends.
    fn bound_debt(&mut self, _: &Quota, _: u32, _: Micros) -> bool {
        false
    }

    fn is_idle(&self, now: Micros) -> bool {
        let mut then = *self;
        then.pass(now);
        // A cell that is made anew would take marks of before a reset for its own.
        let is_remembered = self.changes > 1 && self.passed(now) < SLOTS;
        then.used(now) == 0 && !is_remembered
    }
}
