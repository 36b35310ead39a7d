//! Accounts in this process's memory, in shards of one lock each.

mod account;
mod copy;

use hashbrown::HashMap;
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

pub use self::account::Accounts;
pub use self::copy::Copied;

use self::account::{Account, Key};
use super::settled::{Charged, Due, Interim, Quality, Report, Rise, Settled, Settlements};
use super::{
    AccountKey, Admission, Cell, CellId, Change, Changed, Demand, Instance, Outcome, Quota, Standing, Stands,
    Undecided, Verdict,
};
use crate::clock::Micros;
use crate::hash::Unhashed;

/// More than there are threads to contend, so that two callers seldom meet. A map doubles when it is full to 7/8: a million accounts are
/// just below that in so many.
const SHARDS: usize = 300;
/// In microseconds.
const SWEEP_EVERY: u64 = 1_000_000;
/// How long settled reservations are remembered, so that none is settled twice: longer than any stream.
const REMEMBERED: Micros = Micros(24 * 3600 * 1_000_000);

/// Accounts of this process.
#[derive(Debug)]
pub struct Memory {
    shards: Box<[Mutex<Shard>]>,
    /// INVARIANT: locked before a shard, never after one.
    settled: Mutex<Settlements>,
}

#[derive(Debug, Default)]
struct Shard {
    /// How many accounts are kept at most.
    room: usize,
    accounts: HashMap<Key, Account, Unhashed>,
    /// Those that changed since the last copy, where copies are made.
    changes: Changes,
    /// At this size idle accounts are looked for and forgotten; then it is twice what is left.
    sweep_at: usize,
    /// The latest time that a request came with. Those who wait for the lock do not get it in the order of their clock readings,
    /// and a request may have waited for a review since: to count from an earlier time would refuse the last that still fits.
    latest: Micros,
    /// When idle accounts were looked for because there was no room: that is not done for every request of a flood.
    swept: Micros,
}

/// Accounts that a copy has to be made of, each once.
#[derive(Debug, Default)]
struct Changes {
    keys: Vec<Key>,
    /// Whether anybody makes copies.
    are_kept: bool,
}

// === impl Memory ===

impl Default for Memory {
    fn default() -> Self {
        Memory::bounded(Self::ACCOUNTS)
    }
}

impl Memory {
    /// Accounts that are kept by default: more callers than most gateways have in one window.
    pub const ACCOUNTS: usize = 4_000_000;
    /// See [`Memory::sweep`].
    pub const TURNS: usize = 64;

    /// Keeps about `accounts` at most. A live one is never forgotten: at the bound there is no room for new ones.
    #[must_use]
    pub fn bounded(accounts: usize) -> Self {
        let room = accounts.div_ceil(SHARDS);
        let shards = (0..SHARDS).map(|_| Mutex::new(Shard { room, ..Shard::default() })).collect();
        Memory { shards, settled: Mutex::default() }
    }

    /// One that never answers.
    #[cfg(test)]
    pub(crate) fn mute() -> Self {
        Memory { shards: Box::default(), settled: Mutex::default() }
    }

    /// See [`super::Limits::admit`].
    #[inline]
    pub fn admit(&self, demands: &[Demand], now: Micros) -> Admission {
        // Written where the caller has it: moving it afterwards costs as much as the rest.
        let mut admission = Admission::default();
        self.admit_into(demands, now, &mut admission);
        admission
    }

    fn admit_into(&self, demands: &[Demand], now: Micros, admission: &mut Admission) {
        match demands {
            // What nearly every request asks: one lock, one look-up.
            [first, rest @ ..] if rest.iter().all(|demand| demand.account == first.account) => {
                if let Some(shard) = self.shard_of(first.account) {
                    let mut shard = shard.lock();
                    let now = shard.not_before_latest(now);
                    admission.at = now;
                    shard.admit(first.account, demands, now, admission);
                }
            }
            _ => self.admit_several(demands, now, admission),
        }
    }

    /// Demands on several accounts: what each shard would do alone, with all of them locked.
    #[cold]
    fn admit_several(&self, demands: &[Demand], now: Micros, admission: &mut Admission) {
        let Some(mut shards) = self.lock(demands) else { return };
        let now = shards.not_before_latest(now);
        admission.at = now;
        // A demand that takes nothing now will want an account when the usage is charged.
        if demands.iter().any(|demand| !shards.has_room(demand, now)) {
            admission.outcome = Outcome::Undecided(Undecided::Full);
            return;
        }
        let mut is_new = false;
        let find = |demand: &Demand| match shards.find(demand) {
            Some(account) => account.cell(demand.cell),
            None => {
                is_new = true;
                None
            }
        };
        let cells = check(demands, now, find, admission);
        admission.is_new = is_new && admission.admitted();
        if admission.admitted() {
            for (demand, Checked { cell, .. }) in demands.iter().zip(cells) {
                if let (true, Some(shard)) = (demand.cost.takes(), shards.shard(demand)) {
                    let account = shard.account(demand.account, now);
                    account.put(demand.cell, cell);
                    account.name(admission);
                }
            }
        }
    }

    /// See [`super::Limits::look`].
    #[must_use]
    pub fn look(&self, demands: &[Demand], now: Micros) -> Option<Vec<Standing>> {
        let mut by_account: Vec<(usize, &Demand)> = demands.iter().enumerate().collect();
        by_account.sort_by_key(|(_, demand)| demand.account);
        let mut standings = Vec::with_capacity(demands.len());
        for of_one in by_account.chunk_by(|(_, one), (_, other)| one.account == other.account) {
            let Some((_, first)) = of_one.first() else { continue };
            let mut shard = self.shard_of(first.account)?.lock();
            let now = shard.not_before_latest(now);
            let account = shard.accounts.get(&Key::from(first.account));
            let cell = |demand: &Demand| account.and_then(|account| account.cell(demand.cell));
            standings.extend(of_one.iter().map(|(at, demand)| (*at, demand.standing(cell(demand), now))));
        }
        standings.sort_unstable_by_key(|(at, _)| *at);
        Some(standings.into_iter().map(|(_, standing)| standing).collect())
    }

    /// Whether there is such an account.
    #[must_use]
    pub fn has(&self, account: AccountKey) -> bool {
        self.shard_of(account).is_some_and(|shard| shard.lock().accounts.contains_key(&Key::from(account)))
    }

    /// See [`super::Limits::page`]. One shard is looked through after another, as many as it takes.
    #[must_use]
    pub fn page(&self, after: Option<AccountKey>, most: usize) -> Vec<AccountKey> {
        let mut page = Vec::new();
        for shard in self.shards.iter().skip(after.map_or(0, AccountKey::shard)) {
            let mut found: Vec<AccountKey> = shard.lock().accounts.keys().copied().map(AccountKey::from).collect();
            found.retain(|account| after.is_none_or(|after| after.place() < account.place()));
            found.sort_unstable();
            page.extend(found.into_iter().take(most - page.len()));
            if page.len() >= most {
                break;
            }
        }
        page
    }

    /// Likewise, of those `among` which alone are looked for.
    #[must_use]
    pub fn page_among(&self, after: Option<AccountKey>, most: usize, mut among: Vec<AccountKey>) -> Vec<AccountKey> {
        among.retain(|account| after.is_none_or(|after| after.place() < account.place()));
        among.sort_unstable_by_key(|account| account.place());
        among.into_iter().filter(|account| self.has(*account)).take(most).collect()
    }

    /// See [`super::Limits::account`].
    #[must_use]
    pub fn account(
        &self,
        account: AccountKey,
        quota: impl Fn(CellId) -> Option<Quota>,
        now: Micros,
    ) -> Option<Vec<Stands>> {
        let (cells, now) = {
            let mut shard = self.shard_of(account)?.lock();
            let now = shard.not_before_latest(now);
            (shard.accounts.get(&Key::from(account))?.cells().to_vec(), now)
        };
        let stands = |(id, mut cell): (CellId, Cell)| {
            let quota = quota(id)?;
            cell.advance(&quota, now);
            Some(Stands { cell: id, quota, standing: cell.shown(&quota, now) })
        };
        Some(cells.into_iter().filter_map(stands).collect())
    }

    /// See [`super::Limits::change`].
    #[must_use]
    pub fn change(
        &self,
        account: AccountKey,
        cells: &[(CellId, Quota)],
        change: Change,
        now: Micros,
    ) -> Option<Vec<Changed>> {
        let mut shard = self.shard_of(account)?.lock();
        let now = shard.not_before_latest(now);
        shard.accounts.contains_key(&Key::from(account)).then(|| {
            cells.iter().filter_map(|(cell, quota)| shard.change(account, (*cell, quota), change, now)).collect()
        })
    }

    /// See [`super::Limits::settle`].
    pub fn settle(&self, report: &Report<'_>, now: Micros) -> Settled {
        let mut settlements = self.settled.lock();
        let before = match settlements.open(report, REMEMBERED, now) {
            Ok(before) => before,
            Err(settled) => return settled,
        };
        let (mut debt_cut, mut rises, mut overran) = (false, Vec::new(), false);
        let mut charged = SmallVec::new();
        for (at, due) in report.due.iter().enumerate() {
            let known = before.as_ref().and_then(|before| before.charged.get(at).copied());
            let known = known.unwrap_or_else(|| settlements.held(report, &due.hold));
            if report.quality == Quality::Running {
                charged.push(self.renew(due, known, report.minted, now));
                continue;
            }
            let corrected = self.correct(due, known, report.minted, now);
            debt_cut |= corrected.debt_cut;
            let taken = if known.extra > 0 { known.at.minted } else { report.minted };
            overran |= corrected.charged.certain() > due.used && due.has_ended(taken, now);
            rises.extend(corrected.rise.map(|rise| Rise { at, ..rise }));
            charged.push(corrected.charged);
        }
        settlements.close(report, charged, now);
        Settled::Applied { before: before.and_then(Interim::told), debt_cut, rises, overran }
    }

    /// Has a call that runs keep its place; other holds stay as they are.
    fn renew(&self, due: &Due, known: Charged, minted: Micros, now: Micros) -> Charged {
        let (Some(quota), Some(shard)) = (&due.quota, self.shard_of(due.hold.account)) else { return known };
        if !due.counts_calls() {
            return known;
        }
        let mut shard = shard.lock();
        let now = shard.not_before_latest(now);
        let account = shard.account(due.hold.account, now);
        let mut cell = account.cell(due.hold.cell).unwrap_or_else(|| Cell::fresh(quota));
        cell.advance(quota, now);
        let renewed = known.renewed(&mut cell, due, minted, now);
        account.put(due.hold.cell, cell);
        renewed
    }

    /// See [`super::Limits::refuses`].
    #[must_use]
    pub fn refuses(&self, report: &Report<'_>, now: Micros) -> Option<Settled> {
        self.settled.lock().open(report, REMEMBERED, now).err()
    }

    /// Makes what is charged to the cell of one hold what is due.
    fn correct(&self, due: &Due, known: Charged, minted: Micros, now: Micros) -> Corrected {
        let (hold, used) = (&due.hold, due.used);
        let nothing = Corrected { charged: known, debt_cut: false, rise: None };
        let (Some(quota), Some(shard)) = (&due.quota, self.shard_of(hold.account)) else { return nothing };
        if (known.certain()..=known.hits).contains(&used) {
            return nothing;
        }
        let mut shard = shard.lock();
        let now = shard.not_before_latest(now);
        // What is not there any more has nothing to give back.
        let is_there = || shard.accounts.get(&Key::from(hold.account))?.cell(hold.cell);
        if used < known.certain() && is_there().is_none() {
            return nothing;
        }
        let account = shard.account(hold.account, now);
        let mut cell = account.cell(hold.cell).unwrap_or_else(|| Cell::fresh(quota));
        cell.advance(quota, now);
        let before = (due.watched && used > known.hits).then(|| cell.used(now));
        let (corrected, debt_cut) = known.corrected(&mut cell, due, minted, now);
        let rise = |before| Rise { at: 0, before, standing: cell.standing(quota, Verdict::Fits, now) };
        let rise = before.map(rise);
        account.put(hold.cell, cell);
        Corrected { charged: corrected.corrected_at(now), debt_cut, rise }
    }

    /// How many of an instance's reservations from `first` on, and before `end`, no report has come for.
    #[must_use]
    pub fn silent(&self, instance: Instance, first: u64, end: u64) -> u64 {
        self.settled.lock().silent(instance, first, end)
    }

    /// Charges what a demand takes, into debt if need be.
    #[cfg(test)]
    pub(crate) fn charge(&self, demand: &Demand, debt_windows: u32, now: Micros) -> bool {
        let Demand { account, cell, quota, cost } = demand;
        let Some(mut shard) = self.shard_of(*account).map(Mutex::lock) else { return false };
        let now = shard.not_before_latest(now);
        let account = shard.account(*account, now);
        let mut charged = account.cell(*cell).unwrap_or_else(|| Cell::fresh(quota));
        charged.advance(quota, now);
        charged.take(quota, *cost, now);
        let is_cut = charged.bound_debt(quota, debt_windows, now);
        account.put(*cell, charged);
        is_cut
    }

    /// A copy of one cell, as it is.
    #[cfg(test)]
    pub(crate) fn cell(&self, account: AccountKey, cell: super::CellId) -> Option<Cell> {
        self.shard_of(account)?.lock().accounts.get(&Key::from(account))?.cell(cell)
    }

    fn shard_of(&self, account: AccountKey) -> Option<&Mutex<Shard>> {
        self.shards.get(account.shard())
    }

    /// Forgets the idle accounts of a few shards, others in every turn: nobody waits long for a lock, and what a flood left
    /// behind goes although no new account comes. [`Memory::TURNS`] turns in a row see every shard.
    pub fn sweep(&self, turn: usize, now: Micros) {
        for shard in self.shards.iter().skip(turn % Self::TURNS).step_by(Self::TURNS) {
            let mut shard = shard.lock();
            // A request may have come since: a cell that is looked at from before its own time says anything.
            let now = shard.not_before_latest(now);
            shard.sweep(now);
        }
    }

    /// How many accounts are kept.
    #[must_use]
    pub fn accounts(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().accounts.len()).sum()
    }

    /// Locks the shards of all demands, in order, so that two requests never wait for each other.
    fn lock(&self, demands: &[Demand]) -> Option<Locked<'_>> {
        let mut indices: SmallVec<[usize; 4]> = demands.iter().map(Demand::shard).collect();
        indices.sort_unstable();
        indices.dedup();
        let guard = |index: usize| self.shards.get(index).map(|shard| (index, shard.lock()));
        indices.into_iter().map(guard).collect::<Option<_>>().map(Locked)
    }
}

/// What became of the cell of one hold.
struct Corrected {
    /// What is charged to it now.
    charged: Charged,
    debt_cut: bool,
    /// How its use rose, where that is watched.
    rise: Option<Rise>,
}

/// A copy of a demand's cell, and what it said.
#[derive(Clone, Copy)]
struct Checked {
    cell: Cell,
    verdict: Verdict,
}

/// One for each demand, in their order.
type Checks = SmallVec<[Checked; 2]>;

/// Whether all demands fit the cells that `find` finds; each cell, once what is asked of it is taken if they do.
///
/// INVARIANT: nothing is written before everything was checked. Two demands on one cell see each other's cost.
fn check(
    demands: &[Demand],
    now: Micros,
    mut find: impl FnMut(&Demand) -> Option<Cell>,
    admission: &mut Admission,
) -> Checks {
    let mut checks = Checks::new();
    let mut all_fit = true;
    for (at, demand) in demands.iter().enumerate() {
        let mut cell = find(demand).unwrap_or_else(|| Cell::fresh(&demand.quota));
        cell.advance(&demand.quota, now);
        for earlier in demands.iter().take(at).filter(|earlier| earlier.is_same_cell(demand)) {
            cell.charge(&demand.quota, earlier.cost.hits(), now);
        }
        let verdict = cell.peek(&demand.quota, demand.cost, now);
        all_fit &= verdict == Verdict::Fits;
        checks.push(Checked { cell, verdict });
    }
    admission.outcome = Outcome::of(all_fit);
    for (at, (demand, Checked { cell, verdict })) in demands.iter().zip(&mut checks).enumerate() {
        // What another demand needs of the same cell is left to it.
        let is_last = !demands.iter().skip(at + 1).any(|later| later.is_same_cell(demand));
        let cost = if is_last { demand.cost } else { demand.cost.at_least() };
        let held = if all_fit { cell.take(&demand.quota, cost, now) } else { 0 };
        admission.standings.push(Standing { held, ..cell.standing(&demand.quota, *verdict, now) });
    }
    checks
}

/// The shards of one request.
struct Locked<'m>(SmallVec<[(usize, MutexGuard<'m, Shard>); 2]>);

// === impl Locked ===

impl Locked<'_> {
    fn shard(&mut self, demand: &Demand) -> Option<&mut Shard> {
        let wanted = demand.shard();
        self.0.iter_mut().find(|(index, _)| *index == wanted).map(|(_, shard)| &mut **shard)
    }

    /// The same time for all of them, so that none of their cells is ahead of its shard.
    fn not_before_latest(&mut self, now: Micros) -> Micros {
        let latest = self.0.iter_mut().map(|(_, shard)| shard.not_before_latest(now)).max().unwrap_or(now);
        // What is charged now is charged at that time in each of them: what is in a copy is told by it.
        self.0.iter_mut().for_each(|(_, shard)| shard.latest = latest);
        latest
    }

    fn has_room(&mut self, demand: &Demand, now: Micros) -> bool {
        self.shard(demand).is_none_or(|shard| shard.has_room(demand.account, now))
    }

    fn find(&mut self, demand: &Demand) -> Option<&Account> {
        self.shard(demand)?.accounts.get(&Key::from(demand.account))
    }
}

// === impl Shard ===

impl Shard {
    fn not_before_latest(&mut self, now: Micros) -> Micros {
        self.latest = self.latest.max(now);
        self.latest
    }

    /// Demands on one account.
    fn admit(&mut self, key: AccountKey, demands: &[Demand], now: Micros, admission: &mut Admission) {
        if let Some(account) = self.accounts.get_mut(&Key::from(key)) {
            // What is asked most: in place, without a copy to check on.
            if let [demand] = demands
                && let Some(known) = account.cell_mut(demand.cell)
            {
                // A copy after all, of a few words: reading back what was just written would stall.
                let mut cell = *known;
                let standing = cell.admit(demand, now);
                *known = cell;
                admission.outcome = Outcome::of(standing.verdict == Verdict::Fits);
                // Time alone has passed for who is refused: that is not worth a write.
                if admission.admitted() {
                    account.note_admitted(key, &mut self.changes, admission);
                }
                admission.standings.push(standing);
                return;
            }
            account.admit(demands, now, admission);
            if admission.admitted() {
                account.note_admitted(key, &mut self.changes, admission);
            }
            return;
        }
        self.admit_new(key, demands, now, admission);
    }

    /// Demands on an account that is not there yet.
    #[cold]
    fn admit_new(&mut self, key: AccountKey, demands: &[Demand], now: Micros, admission: &mut Admission) {
        // A demand that takes nothing now will want an account when the usage is charged.
        if !self.has_room(key, now) {
            admission.outcome = Outcome::Undecided(Undecided::Full);
            return;
        }
        let checks = check(demands, now, |_| None, admission);
        admission.is_new = admission.admitted();
        if admission.admitted() && demands.iter().any(|demand| demand.cost.takes()) {
            self.account(key, now).put_taken(demands, &checks);
        }
    }

    /// Changes a cell that is there.
    fn change(
        &mut self,
        key: AccountKey,
        (id, quota): (CellId, &Quota),
        change: Change,
        now: Micros,
    ) -> Option<Changed> {
        let mut cell = self.accounts.get(&Key::from(key))?.cell(id)?;
        cell.advance(quota, now);
        let before = cell.shown(quota, now);
        let cell = change.of(cell, quota, now);
        self.account(key, now).put(id, cell);
        Some(Changed { cell: id, before, after: cell.shown(quota, now) })
    }

    /// Whether the account is there, or may be.
    fn has_room(&mut self, key: AccountKey, now: Micros) -> bool {
        if self.accounts.len() < self.room || self.accounts.contains_key(&Key::from(key)) {
            return true;
        }
        if now.0.saturating_sub(self.swept.0) < SWEEP_EVERY {
            return false;
        }
        self.swept = now;
        self.sweep(now);
        self.accounts.len() < self.room
    }

    fn sweep(&mut self, now: Micros) {
        self.accounts.retain(|_, account| !account.is_idle(now));
        self.accounts.shrink_to(self.accounts.len() * 2);
        self.sweep_at = (self.accounts.len() * 2).max(64);
    }

    /// An account that is about to be changed, be it a new one.
    fn account(&mut self, key: AccountKey, now: Micros) -> &mut Account {
        if self.accounts.len() >= self.sweep_at && !self.accounts.contains_key(&Key::from(key)) {
            self.sweep(now);
        }
        let account = self.accounts.entry(Key::from(key)).or_insert_with(|| Account::new(self.changes.are_kept));
        account.note(key, &mut self.changes);
        account
    }
}

// === impl Changes ===

impl Changes {
    // Once for each account and copy: whoever takes hits of one that is noted does not come here.
    #[inline(never)]
    fn add(&mut self, key: Key) {
        self.keys.push(key);
    }
}

// === impl Demand ===

impl Demand {
    /// A copy of its cell, as far as it has one or needs none of its own.
    #[inline]
    fn look(&self, cell: Option<&Cell>) -> Option<Cell> {
        match (cell, self.cost) {
            (Some(cell), _) => Some(*cell),
            (None, cost) if !cost.takes() => Some(Cell::fresh(&self.quota)),
            (None, _) => None,
        }
    }

    /// Where its cell stands, and what that would say to it.
    fn standing(&self, cell: Option<Cell>, now: Micros) -> Standing {
        let mut cell = cell.unwrap_or_else(|| Cell::fresh(&self.quota));
        cell.advance(&self.quota, now);
        cell.standing(&self.quota, cell.peek(&self.quota, self.cost, now), now)
    }

    fn shard(&self) -> usize {
        self.account.shard()
    }

    fn is_same_cell(&self, other: &Demand) -> bool {
        self.cell == other.cell && self.account == other.account
    }
}

// === impl AccountKey ===

impl AccountKey {
    pub(super) fn shard(self) -> usize {
        // The map takes its bits from the low half.
        (self.0 >> 64) as usize % SHARDS
    }

    /// Its place in the order of pages.
    fn place(self) -> (usize, AccountKey) {
        (self.shard(), self)
    }
}

/// What an account takes in its shard's map, without its cells; in bytes.
#[cfg(test)]
pub(super) fn entry_size() -> usize {
    size_of::<(Key, Account)>()
}
