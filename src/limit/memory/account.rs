//! One account: the cells of one counter key, and its record.

use std::hash::{Hash, Hasher};

use hashbrown::HashMap;

use super::{Changes, Checked, check};
use crate::clock::Micros;
use crate::hash::Unhashed;
use crate::limit::{AccountKey, Admission, Cell, CellId, Demand, Outcome, Verdict};
use crate::record::{Reading, write_number};

/// The key of an account in a map, as two words: a `u128` has to stand at a multiple of 16 bytes, and an entry would take 48 of them
/// with the mark of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    high: u64,
    low: u64,
}

/// The cells of one counter key. They are few; a slice of their own keeps the map's empty slots small, and there are as many
/// of those as accounts.
#[derive(Debug, Default)]
pub(super) struct Account {
    cells: Box<[(CellId, Cell)]>,
    /// Whether it is among the changes since the last copy; it is so from the start where no copies are made.
    pub(super) is_noted: bool,
    /// Whether somebody was told that it is there, for its name: not of one that an earlier process has left.
    is_named: bool,
}

/// Accounts of one shard, as records tell of them.
#[derive(Debug, Default)]
pub struct Accounts(pub(super) HashMap<Key, Account, Unhashed>);

/// How records of accounts are written; another number is another way.
const VERSION: u8 = 1;

// === impl Accounts ===

impl Accounts {
    /// Takes over what `records` tell of accounts of `shard`, which is newer than what was known of them. `None` if they are none: then
    /// nothing of this can be relied on.
    pub fn read(&mut self, shard: usize, records: &[u8]) -> Option<()> {
        let mut records = Reading::of(records, VERSION)?;
        while !records.is_empty() {
            let key = Key { high: records.word()?, low: records.word()? };
            if AccountKey::from(key).shard() != shard {
                return None;
            }
            let account = Account::read(&mut records)?;
            match account.cells.is_empty() {
                true => _ = self.0.remove(&key),
                false => _ = self.0.insert(key, account),
            }
        }
        Some(())
    }

    /// Forgets what counts no more at `now`: idle accounts, and the cells that are not `kept`.
    pub fn retain(&mut self, now: Micros, mut kept: impl FnMut(CellId) -> bool) {
        self.0.retain(|_, account| {
            if !account.cells.iter().all(|(id, _)| kept(*id)) {
                account.cells = account.cells.iter().filter(|(id, _)| kept(*id)).copied().collect();
            }
            !account.is_idle(now)
        });
    }

    /// Records of them all, in parts of about so many bytes at most.
    #[must_use]
    pub fn records(&self, most: usize) -> Vec<Vec<u8>> {
        let mut parts = Vec::new();
        let mut part = records();
        for (key, account) in &self.0 {
            account.write(*key, &mut part);
            if part.len() >= most {
                parts.push(std::mem::replace(&mut part, records()));
            }
        }
        if part.len() > 1 {
            parts.push(part);
        }
        parts
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The begin of records.
pub(super) fn records() -> Vec<u8> {
    vec![VERSION]
}

/// Appends the record of an account that is gone.
pub(super) fn write_gone(key: Key, records: &mut Vec<u8>) {
    Account::default().write(key, records);
}

// === impl Account ===

impl Account {
    /// One without cells; with `is_copied`, of which copies are made.
    pub(super) fn new(is_copied: bool) -> Self {
        Account { cells: Box::default(), is_noted: !is_copied, is_named: true }
    }

    /// All of its cells.
    pub(super) fn cells(&self) -> &[(CellId, Cell)] {
        &self.cells
    }

    /// Notes among the `changes` that it has changed, which it does once until it is copied. Whether its name may be unknown: that is
    /// looked at no more often.
    #[inline]
    pub(super) fn note(&mut self, key: AccountKey, changes: &mut Changes) -> bool {
        if self.is_noted {
            return false;
        }
        self.is_noted = true;
        changes.add(key.into());
        !self.is_named
    }

    /// Whether it had no name until now, when it is told.
    pub(super) fn takes_name(&mut self) -> bool {
        !std::mem::replace(&mut self.is_named, true)
    }

    /// Checks all demands, and takes all of them or none.
    // Apart from the way of a single demand, which needs less of the stack.
    #[inline(never)]
    pub(super) fn admit(&mut self, demands: &[Demand], now: Micros, admission: &mut Admission) {
        if let [first, second] = demands
            && self.admit_two(first, second, now, admission)
        {
            return;
        }
        let checks = check(demands, now, |demand| self.cell(demand.cell), admission);
        if admission.admitted() {
            self.put_taken(demands, &checks);
        }
    }

    /// What is asked most of several, without a list of what was checked: two demands on two cells, that both fit. If they are anything
    /// else, nothing was done.
    #[inline]
    fn admit_two(&mut self, first: &Demand, second: &Demand, now: Micros, admission: &mut Admission) -> bool {
        let (mut one, mut two) = (None, None);
        for (id, cell) in &mut self.cells {
            if *id == first.cell {
                one = Some(cell);
            } else if *id == second.cell {
                two = Some(cell);
            }
        }
        let looked = (first.look(one.as_deref()), second.look(two.as_deref()));
        let (Some(mut after_one), Some(mut after_two)) = looked else { return false };
        if first.cell == second.cell {
            return false;
        }
        let (first, second) = (after_one.admit(first, now), after_two.admit(second, now));
        let both_fit = first.verdict == Verdict::Fits && second.verdict == Verdict::Fits;
        if both_fit {
            admission.outcome = Outcome::Admitted;
            for (cell, after, standing) in [(one, after_one, first), (two, after_two, second)] {
                admission.standings.push(standing);
                if let Some(cell) = cell {
                    *cell = after;
                }
            }
        }
        both_fit
    }

    pub(super) fn cell(&self, wanted: CellId) -> Option<Cell> {
        self.cells.iter().find(|(id, _)| *id == wanted).map(|(_, cell)| *cell)
    }

    pub(super) fn cell_mut(&mut self, wanted: CellId) -> Option<&mut Cell> {
        self.cells.iter_mut().find(|(id, _)| *id == wanted).map(|(_, cell)| cell)
    }

    pub(super) fn put(&mut self, id: CellId, cell: Cell) {
        match self.cell_mut(id) {
            Some(known) => *known = cell,
            None => {
                let mut cells = std::mem::take(&mut self.cells).into_vec();
                cells.reserve_exact(1);
                cells.push((id, cell));
                self.cells = cells.into_boxed_slice();
            }
        }
    }

    /// Writes what an admission took.
    pub(super) fn put_taken(&mut self, demands: &[Demand], checks: &[Checked]) {
        for (demand, Checked { cell, .. }) in demands.iter().zip(checks) {
            if demand.cost.takes() {
                self.put(demand.cell, *cell);
            }
        }
    }

    pub(super) fn is_idle(&self, now: Micros) -> bool {
        self.cells.iter().all(|(_, cell)| cell.is_idle(now))
    }

    /// Appends its record.
    pub(super) fn write(&self, key: Key, records: &mut Vec<u8>) {
        records.extend_from_slice(&key.high.to_be_bytes());
        records.extend_from_slice(&key.low.to_be_bytes());
        write_number(records, self.cells.len() as u64);
        for (id, cell) in &self.cells {
            records.extend_from_slice(&id.0.to_be_bytes());
            cell.write(records);
        }
    }

    /// What [`Account::write`] wrote behind the key.
    fn read(records: &mut Reading<'_>) -> Option<Self> {
        let cells = records.number()?;
        // As many as there are: a number alone takes no memory.
        let cells: Option<Box<[_]>> =
            (0..cells).map(|_| Some((CellId(records.word()?), Cell::read(records)?))).collect();
        Some(Account { cells: cells?, is_noted: false, is_named: false })
    }
}

// === impl Key ===

impl From<AccountKey> for Key {
    fn from(AccountKey(key): AccountKey) -> Self {
        Key { high: (key >> 64) as u64, low: key as u64 }
    }
}

impl From<Key> for AccountKey {
    fn from(Key { high, low }: Key) -> Self {
        AccountKey(u128::from(high) << 64 | u128::from(low))
    }
}

/// It is a hash: a half of it is enough.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.low);
    }
}
