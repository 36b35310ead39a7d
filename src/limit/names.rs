//! What accounts are called, for people: an account itself is known by a hash alone.
//!
//! A name is noted when its account is new, and never on the way of a request whose account is there. The table is bounded: an account
//! whose name went is still found by its exact values, of which the hash is made.

use std::collections::VecDeque;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::AccountKey;
use crate::hash::Prehashed;

/// What one account is called: the values that its limits count under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountName {
    /// In the order of the counters; of an account that all callers share the name of its limit alone.
    pub values: Box<[Box<str>]>,
    /// Whether all callers share it: its limit has no counters.
    pub is_shared: bool,
    /// Whether more was sent than is kept.
    pub is_cut: bool,
}

/// The names of accounts, as far as they are known.
#[derive(Debug, Default)]
pub struct AccountNames(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    names: HashMap<AccountKey, Arc<AccountName>, BuildHasherDefault<Prehashed>>,
    /// Those that were noted first come first.
    order: VecDeque<AccountKey>,
}

// === impl AccountName ===

impl AccountName {
    /// The longest that is kept, in bytes.
    pub const LONGEST: usize = 256;

    /// Of `values`, as far as they are kept.
    #[must_use]
    pub fn new<'v>(values: impl IntoIterator<Item = &'v str>, is_shared: bool) -> Self {
        let (mut room, mut is_cut) = (Self::LONGEST, false);
        let mut kept = |value: &'v str| {
            let start = value.get(..value.floor_char_boundary(room)).unwrap_or_default();
            is_cut |= start.len() < value.len();
            // What comes behind a cut says nothing.
            room = if is_cut { 0 } else { room - start.len() };
            Box::from(start)
        };
        let values = values.into_iter().map(&mut kept).collect();
        AccountName { values, is_shared, is_cut }
    }

    fn has(&self, text: &str) -> bool {
        self.values.iter().any(|value| value.contains(text))
    }
}

// === impl AccountNames ===

impl AccountNames {
    /// How many are kept.
    pub const MOST: usize = 65_536;
    /// So many of the oldest are asked whether their accounts live, before one goes all the same.
    const ASKED: usize = 8;

    /// Notes a name. Where there is no room, the oldest goes whose account is not there any more; if the oldest few all are, the oldest.
    pub fn note(&self, account: AccountKey, name: AccountName, is_live: impl Fn(AccountKey) -> bool) {
        let Some(oldest) = self.0.lock().oldest_for(account) else { return };
        // Nobody waits for this lock while those of other accounts are asked.
        let living: SmallVec<[AccountKey; Self::ASKED]> =
            oldest.into_iter().take_while(|oldest| is_live(*oldest)).collect();
        self.0.lock().insert(account, name, &living);
    }

    /// What the account is called, if that is known.
    #[must_use]
    pub fn get(&self, account: AccountKey) -> Option<Arc<AccountName>> {
        self.0.lock().names.get(&account).map(Arc::clone)
    }

    /// The accounts of whose values one holds `text`.
    #[must_use]
    pub fn search(&self, text: &str) -> Vec<AccountKey> {
        let mut accounts: Vec<AccountKey> = self.0.lock().order.iter().copied().collect();
        accounts.retain(|account| self.get(*account).is_some_and(|name| name.has(text)));
        accounts
    }
}

// === impl Known ===

impl Known {
    /// Those of which one goes for the name of `account`: none where there is room; `None` where the name is there.
    fn oldest_for(&self, account: AccountKey) -> Option<SmallVec<[AccountKey; AccountNames::ASKED]>> {
        let asked = if self.names.len() < AccountNames::MOST { 0 } else { AccountNames::ASKED };
        (!self.names.contains_key(&account)).then(|| self.order.iter().take(asked).copied().collect())
    }

    /// Notes a name. Where there is no room, the oldest goes that is none of the `living`; these count as new from now on.
    fn insert(&mut self, account: AccountKey, name: AccountName, living: &[AccountKey]) {
        // Others may have noted names since the oldest were asked.
        if self.names.contains_key(&account) {
            return;
        }
        if self.names.len() >= AccountNames::MOST {
            self.make_room(living);
        }
        self.names.insert(account, Arc::new(name));
        self.order.push_back(account);
    }

    fn make_room(&mut self, living: &[AccountKey]) {
        for _ in living {
            match self.order.front() {
                Some(oldest) if living.contains(oldest) => self.order.rotate_left(1),
                _ => break,
            }
        }
        if let Some(oldest) = self.order.pop_front() {
            self.names.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> AccountKey {
        AccountKey(number as u128 + 1)
    }

    fn name(text: &str) -> AccountName {
        AccountName::new([text], false)
    }

    #[test]
    fn a_name_is_kept_as_far_as_there_is_room_in_whole_characters() {
        let long = "ä".repeat(200);
        let name = AccountName::new(["alice", long.as_str(), "end"], false);
        assert!(name.is_cut && name.values.iter().map(|value| value.len()).sum::<usize>() <= AccountName::LONGEST);
        assert_eq!((&*name.values[0], name.values[1].chars().count(), &*name.values[2]), ("alice", 125, ""));
        assert!(!AccountName::new(["a:/{}\n"], false).is_cut);
    }

    #[test]
    fn a_name_is_found_by_what_it_holds() {
        let names = AccountNames::default();
        for (at, text) in ["alice", "bob", "malice"].into_iter().enumerate() {
            names.note(key(at), name(text), |_| true);
        }
        let mut found = names.search("alice");
        found.sort_unstable();
        assert_eq!(found, [key(0), key(2)]);
        assert_eq!(names.get(key(1)).as_deref(), Some(&name("bob")));
    }

    /// Who asks whether an account lives may need the names, or wait for who does.
    #[test]
    fn accounts_are_asked_without_the_lock_of_the_names() {
        let names = AccountNames::default();
        (0..AccountNames::MOST).for_each(|at| names.note(key(at), name("x"), |_| true));
        let asked = std::cell::Cell::new(0);
        names.note(key(AccountNames::MOST), name("new"), |_| {
            asked.set(asked.get() + 1);
            names.0.try_lock().is_some()
        });
        assert_eq!(asked.get(), AccountNames::ASKED);
        assert!(names.get(key(AccountNames::ASKED)).is_none(), "all lived, so the next goes");
        // Another takes the place while the oldest are asked.
        let second = AccountNames::MOST + 1;
        names.note(key(second), name("late"), |_| {
            names.note(key(second), name("first"), |_| false);
            false
        });
        assert_eq!(names.get(key(second)).as_deref(), Some(&name("first")));
        assert_eq!(names.0.lock().names.len(), AccountNames::MOST);
    }

    #[test]
    fn the_oldest_name_goes_whose_account_is_gone() {
        let names = AccountNames::default();
        (0..AccountNames::MOST).for_each(|at| names.note(key(at), name("x"), |_| true));
        // The fourth is not there any more.
        names.note(key(AccountNames::MOST), name("new"), |account| account != key(3));
        assert!(names.get(key(3)).is_none() && names.get(key(0)).is_some());
        // All live: the oldest few are spared this once, and the next goes.
        names.note(key(AccountNames::MOST + 1), name("new"), |_| true);
        assert_eq!(names.0.lock().names.len(), AccountNames::MOST);
        assert_eq!(names.0.lock().order.len(), AccountNames::MOST);
        assert!(names.get(key(0)).is_some() && names.get(key(AccountNames::MOST + 1)).is_some());
    }
}
