//! What accounts are called, for people: an account itself is known by a hash alone.
//!
//! A name is noted when its account is new, and never on the way of a request whose account is there. The table is bounded: an account
//! whose name went is still found by its exact values, of which the hash is made.

use std::collections::VecDeque;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;

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
        let mut known = self.0.lock();
        if known.names.contains_key(&account) {
            return;
        }
        if known.names.len() >= Self::MOST {
            known.make_room(is_live);
        }
        known.names.insert(account, Arc::new(name));
        known.order.push_back(account);
    }

    /// What the account is called, if that is known.
    #[must_use]
    pub fn get(&self, account: AccountKey) -> Option<Arc<AccountName>> {
        self.0.lock().names.get(&account).map(Arc::clone)
    }

    /// The accounts of whose values one holds `text`.
    #[must_use]
    pub fn search(&self, text: &str) -> Vec<AccountKey> {
        // Nobody waits while texts are compared.
        let all: Vec<_> = self.0.lock().names.iter().map(|(account, name)| (*account, Arc::clone(name))).collect();
        all.into_iter().filter(|(_, name)| name.has(text)).map(|(account, _)| account).collect()
    }
}

// === impl Known ===

impl Known {
    fn make_room(&mut self, is_live: impl Fn(AccountKey) -> bool) {
        for _ in 0..AccountNames::ASKED {
            match self.order.pop_front() {
                Some(account) if is_live(account) => self.order.push_back(account),
                Some(account) => {
                    self.names.remove(&account);
                    return;
                }
                None => return,
            }
        }
        if let Some(account) = self.order.pop_front() {
            self.names.remove(&account);
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
