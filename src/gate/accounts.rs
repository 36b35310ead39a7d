//! Accounts as operators see them: who has one, where its limits stand, and what is changed by hand.
//!
//! An account is known by a hash of its counters' values. What they are is noted when the account is new; the hash of exact values finds
//! it all the same.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Deciding, Facts, Gate, Grant};
use crate::clock::Nanos;
use crate::expression::{Object, Properties, Scope};
use crate::limit::{AccountKey, AccountName, CellId, Change, Changed, Quota, Span, Stands};
use crate::policy::{Attached, Limit, LimitSet, Policy, RoutePlan};
use crate::printable::masked;
use crate::request::{Request, Unset};
use crate::rules::Counts;

/// One account.
#[derive(Clone, Debug)]
pub struct Account {
    pub key: AccountKey,
    /// `None` where it is not known any more.
    pub name: Option<Arc<AccountName>>,
    /// Of limits that are in force, in their order, or were a day ago.
    pub cells: Vec<(CellName, Stands)>,
}

/// Which limit counts in a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CellName {
    /// `namespace/policy/limit`
    pub limit: Arc<str>,
    /// `None` where the limit is gone.
    pub counts: Option<Counts>,
    /// Whose requests alone it counts, where the limit counts for each route by itself.
    pub route: Option<Arc<str>>,
    pub in_shadow: bool,
}

/// Some accounts.
#[derive(Clone, Debug, Default)]
pub struct AccountsPage {
    pub accounts: Vec<Account>,
    /// The account that the next page comes after, if there may be one.
    pub next: Option<AccountKey>,
}

/// Which accounts are asked for.
#[derive(Clone, Debug, Default)]
pub struct AccountsQuery {
    /// Those of whose known values one holds this, or all of it is.
    pub search: Option<String>,
    /// Those behind this one.
    pub after: Option<AccountKey>,
    pub most: usize,
}

/// Which limits of an account are meant; all, where nothing is said.
#[derive(Clone, Copy, Debug, Default)]
pub struct LimitsMeant<'a> {
    /// `namespace/policy/limit`
    pub name: Option<&'a str>,
    /// Policies of two kinds may have limits of one name.
    pub counts: Option<Counts>,
}

/// What became of a change.
#[derive(Clone, Debug)]
pub enum ChangeOutcome {
    Done {
        name: Option<Arc<AccountName>>,
        /// None where nothing was used of these limits.
        changed: Vec<(CellName, Changed)>,
    },
    /// There is no such account: nothing was used.
    NoAccount,
    /// The account counts in no such limit.
    NoLimit,
}

/// The cells of limits in force.
struct Cells<'g> {
    gate: &'g Gate,
    known: HashMap<CellId, (CellName, Quota)>,
}

// === impl LimitsMeant ===

impl LimitsMeant<'_> {
    fn has(self, cell: &CellName) -> bool {
        self.name.is_none_or(|name| *cell.limit == *name)
            && self.counts.is_none_or(|counts| cell.counts == Some(counts))
    }
}

// === impl AccountsPage ===

impl AccountsPage {
    /// A page ends with the account that makes it so many cells: an account may count in many limits.
    pub const MOST_CELLS: usize = 10_000;
}

// === impl Gate ===

impl Gate {
    /// The account of these values, in the order of a limit's counters; of a limit without any its name alone.
    #[must_use]
    pub fn account_of(&self, values: &[String]) -> AccountKey {
        AccountKey(match values {
            [only] => self.keys.hash(only),
            several => self.keys.hash_list(several.iter().map(String::as_str)),
        })
    }

    /// Some accounts, at most as many as were asked for, and no more once they have [`AccountsPage::MOST_CELLS`].
    #[must_use]
    pub fn accounts(&self, query: &AccountsQuery, now: Nanos) -> AccountsPage {
        let among = query.search.as_ref().map(|text| {
            let mut among = self.limits.names.search(text);
            // Whose name was forgotten is found by all of it.
            among.push(self.account_of(std::slice::from_ref(text)));
            among.sort_unstable();
            among.dedup();
            among
        });
        let keys = self.limits.page(query.after, query.most, among);
        let cells = Cells::new(self, &self.policies.current());
        let (mut page, mut shown) = (AccountsPage::default(), 0);
        let is_full = keys.len() >= query.most;
        let mut keys = keys.into_iter().peekable();
        while let Some(key) = keys.next() {
            page.next = Some(key).filter(|_| is_full || keys.peek().is_some());
            if let Some(account) = cells.account(key, now) {
                shown += account.cells.len();
                page.accounts.push(account);
            }
            if shown >= AccountsPage::MOST_CELLS {
                break;
            }
        }
        page
    }

    /// One account; `None` where it is not there: nothing was used.
    #[must_use]
    pub fn account(&self, key: AccountKey, now: Nanos) -> Option<Account> {
        Cells::new(self, &self.policies.current()).account(key, now)
    }

    /// Changes what an account has of the limits that are meant.
    pub fn change(&self, key: AccountKey, limits: LimitsMeant<'_>, change: Change, now: Nanos) -> ChangeOutcome {
        let cells = Cells::new(self, &self.policies.current());
        let Some(account) = cells.account(key, now) else { return ChangeOutcome::NoAccount };
        let meant: Vec<_> = account.cells.into_iter().filter(|(name, _)| limits.has(name)).collect();
        if meant.is_empty() {
            return if limits.name.is_some() || limits.counts.is_some() {
                ChangeOutcome::NoLimit
            } else {
                ChangeOutcome::NoAccount
            };
        }
        let of_cells: Vec<_> = meant.iter().map(|(_, stands)| (stands.cell, stands.quota)).collect();
        let Some(changed) = self.limits.change(key, &of_cells, change, now) else { return ChangeOutcome::NoAccount };
        let named = |changed: Changed| {
            let of_cell = meant.iter().find(|(_, stands)| stands.cell == changed.cell);
            of_cell.map(|(name, _)| (name.clone(), changed))
        };
        ChangeOutcome::Done { name: account.name, changed: changed.into_iter().filter_map(named).collect() }
    }
}

// === impl Cells ===

impl<'g> Cells<'g> {
    fn new(gate: &'g Gate, policy: &Policy) -> Self {
        let mut cells = Cells { gate, known: HashMap::new() };
        for plan in policy.combinations() {
            active(plan).for_each(|set| cells.learn(set, plan, false));
        }
        for plan in policy.plans() {
            active(plan)
                .filter(|set| set.all().any(|limit| limit.per_route))
                .for_each(|set| cells.learn(set, plan, true));
        }
        cells
    }

    /// Learns the cells of the limits of a set, of those that count for each route by itself or of the others.
    fn learn(&mut self, set: &LimitSet, plan: &RoutePlan, per_route: bool) {
        for (at, limit) in set.all().enumerate().filter(|(_, limit)| limit.per_route == per_route) {
            for (cell, quota) in limit.cells(plan.hash) {
                let name = || CellName {
                    limit: Arc::clone(&limit.name),
                    counts: Some(Counts::new(limit.kind, matches!(quota.span(), Span::Running))),
                    route: per_route.then(|| Arc::clone(&plan.name)),
                    in_shadow: at >= set.limits().len(),
                };
                self.known.entry(cell).or_insert_with(|| (name(), quota));
            }
        }
    }

    fn of(&self, cell: CellId) -> Option<(CellName, Quota)> {
        self.known.get(&cell).cloned().or_else(|| {
            let rate = self.gate.limits.rate(cell, 0)?;
            Some((CellName { limit: rate.name, counts: None, route: None, in_shadow: false }, rate.quota))
        })
    }

    fn account(&self, key: AccountKey, now: Nanos) -> Option<Account> {
        let stands = self.gate.limits.account(key, |cell| Some(self.of(cell)?.1), now)?;
        let named = |stands: Stands| Some((self.of(stands.cell)?.0, stands));
        let mut cells: Vec<_> = stands.into_iter().filter_map(named).collect();
        cells.sort_by(|(one, _), (other, _)| (&one.limit, &one.route).cmp(&(&other.limit, &other.route)));
        Some(Account { key, name: self.gate.limits.names.get(key), cells })
    }
}

fn active(plan: &RoutePlan) -> impl Iterator<Item = &LimitSet> {
    plan.limits.iter().filter_map(Attached::active).map(|set| &**set)
}

// === impl Deciding ===

impl Deciding<'_> {
    /// Notes what the accounts of a granted request are called, if one of them is new.
    #[inline]
    pub(super) fn note_names(&self, route: &RoutePlan, request: &Request<'_>, grant: &Grant) {
        if self.evidence.is_new_account {
            let attributes = request.attributes(Unset::Empty);
            let identity = grant.filters.iter().find(|(name, _)| &**name == "identity");
            let identity = identity.map(|(_, properties)| Properties::object(properties));
            self.note(route, &Scope { request: attributes, identity, metadata: &[], filters: &grant.filters });
        }
    }

    /// Likewise, of a request that is told by `facts`.
    pub(super) fn note_told(&self, facts: &Facts) {
        if self.evidence.is_new_account
            && let Ok(request) = facts.request()
            && let Ok(route) = self.policy.route(self.gate.settings.gateway.as_deref(), &request)
        {
            let identity = facts.identity().map(|base| Object { base: Some(base), extra: &[] });
            let request = request.attributes(Unset::Empty);
            self.note(route, &Scope { request, identity, metadata: &[], filters: facts.filters() });
        }
    }

    /// Evaluates the counters once more, for their values: that is too much for a request whose accounts are there.
    #[cold]
    fn note(&self, route: &RoutePlan, scope: &Scope<'_>) {
        let keys = &self.gate.keys;
        let in_force = active(route);
        let in_shadow = active(route).filter_map(|set| set.shadow.as_ref()).map(|shadow| &shadow.limits);
        for (limit, account) in in_force.chain(in_shadow).flat_map(|set| set.every_matching(scope, keys)) {
            if let Ok(account) = account {
                self.gate.limits.note(account, name(limit, scope));
            }
        }
    }
}

/// What the account of a request is called in which `limit` counts it. What looks like a secret is not kept.
fn name(limit: &Limit, scope: &Scope<'_>) -> AccountName {
    if limit.counters.is_empty() {
        return AccountName::new([&*limit.name], true);
    }
    let values = limit.key(scope);
    let masked: Vec<_> = values.iter().map(|value| masked(value)).collect();
    AccountName::new(masked.iter().map(|value| &**value), false)
}
