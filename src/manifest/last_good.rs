//! An object in error keeps its own last good version; the rest is as it is written now.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::{KINDS, Kind, Manifests, Meta, ModelGrant};
use crate::problem::ObjectName;

/// Calls a macro with the lists of objects.
macro_rules! lists {
    ($what:ident) => {
        $what!(
            gateways,
            routes,
            auth_policies,
            limit_policies,
            tier_mappings,
            roles,
            role_bindings,
            service_accounts,
            models,
            namespaces
        )
    };
}

impl Manifests {
    /// Puts the last good versions of `last` in place of what is in error now.
    ///
    /// What was removed is gone; what is in error and was never good stays in error. A file that is new and cannot be
    /// parsed says nothing: only at the start does it keep the gate from getting ready.
    pub fn keep_last_good(&mut self, last: &Manifests) {
        let now = Timestamp::now();
        let mut kept = self.keep_files(last, now);
        let broken = self.objects_in_error();
        macro_rules! replace {
            ($list:ident, $is_broken:expr) => {
                let good = last.$list.iter().filter(|good| !$is_broken(good));
                let good: HashMap<&ObjectName, _> = good.map(|good| (&good.meta.object, good)).collect();
                for object in self.$list.iter_mut().filter(|object| $is_broken(object)) {
                    if let Some(good) = good.get(&object.meta.object) {
                        kept.push(object.meta.object.clone());
                        object.clone_from(good);
                    }
                }
            };
        }
        replace!(auth_policies, |policy: &super::AuthPolicy| policy.rules.is_none());
        replace!(limit_policies, |policy: &super::LimitPolicy| policy.limits.is_none());
        replace!(tier_mappings, |mapping: &super::TierMapping| mapping.tiers.is_none());
        replace!(routes, |route: &super::HttpRoute| route.fault.any);
        replace!(gateways, |gateway: &super::Gateway| gateway.broken);
        replace!(models, |model: &super::Model| model.grant == ModelGrant::Unreadable);
        // What grants is not in the lists at all where it is in error.
        macro_rules! restore {
            ($($list:ident),*) => {$(
                let now: HashSet<ObjectName> = self.$list.iter().map(|object| object.meta.object.clone()).collect();
                let lost = |meta: &Meta| broken.contains(&meta.object) && !now.contains(&meta.object);
                let lost: Vec<_> = last.$list.iter().filter(|good| lost(&good.meta)).cloned().collect();
                kept.extend(lost.iter().map(|good| good.meta.object.clone()));
                self.$list.extend(lost);
            )*};
        }
        lists!(restore);
        kept.extend(self.keep_unreadable(last));
        for object in kept {
            let since = last.kept.get(&object).copied().unwrap_or(now);
            self.kept.insert(object, since);
        }
    }

    /// The objects of files that cannot be parsed now; those that are kept.
    fn keep_files(&mut self, last: &Manifests, now: Timestamp) -> Vec<ObjectName> {
        let unparsable: BTreeSet<Arc<str>> = std::mem::take(&mut self.unparsable).into_iter().collect();
        let mut restored = Vec::new();
        macro_rules! keep {
            ($($list:ident),*) => {$(
                let known: HashSet<ObjectName> = self.$list.iter().map(|object| object.meta.object.clone()).collect();
                // An object may have moved to a file that can be parsed.
                let kept = |meta: &Meta| unparsable.contains(&meta.place.file) && !known.contains(&meta.object);
                let kept: Vec<_> = last.$list.iter().filter(|object| kept(&object.meta)).cloned().collect();
                restored.extend(kept.iter().map(|object| object.meta.object.clone()));
                self.$list.extend(kept);
            )*};
        }
        lists!(keep);
        let (known, unknown): (HashSet<_>, HashSet<_>) =
            (last.files.iter().collect(), last.unparsable.iter().collect());
        for file in unparsable {
            if known.contains(&file) {
                // It stays known as long as it is there, however long it cannot be parsed.
                let since = last.kept_files.get(&file).copied().unwrap_or(now);
                self.kept_files.insert(Arc::clone(&file), since);
                self.files.push(file);
            } else if unknown.contains(&file) {
                self.unparsable.push(file);
            }
        }
        restored
    }

    /// In place of objects of which it cannot be read which ones they are, those that they may have been: of their file, and not
    /// there any more. Those that are kept.
    fn keep_unreadable(&mut self, last: &Manifests) -> Vec<ObjectName> {
        let Unidentified { placeholders, were } = Unidentified::of(self, last);
        macro_rules! put {
            ($($list:ident),*) => {$(
                self.$list.retain(|object| !placeholders.contains(&object.meta.object));
                self.$list.extend(last.$list.iter().filter(|object| were.contains(&object.meta.object)).cloned());
            )*};
        }
        lists!(put);
        placeholders.into_iter().chain(were).collect()
    }

    fn objects_in_error(&self) -> HashSet<ObjectName> {
        let errors = self.problems.iter().filter(|problem| problem.is_error());
        errors.filter_map(|problem| problem.object.clone()).collect()
    }
}

// === objects of which it cannot be read which ones they are ===

/// What was found for objects of which it cannot be read which ones they are.
#[derive(Default)]
struct Unidentified {
    /// Those that stand for an object that was good.
    placeholders: HashSet<ObjectName>,
    /// What they may have been. Of several that guard all are: one that was removed in the same moment closes more than was meant.
    were: HashSet<ObjectName>,
}

/// What a file had and has no more, by file and kind.
type Gone<'m> = HashMap<(&'m str, &'m str), BTreeSet<&'m ObjectName>>;

// === impl Unidentified ===

impl Unidentified {
    fn of(now: &Manifests, last: &Manifests) -> Self {
        let present: HashSet<&ObjectName> = now.metas().map(|meta| &meta.object).collect();
        let mut gone = Gone::new();
        for meta in last.metas().filter(|meta| !present.contains(&meta.object) && !meta.object.is_unreadable()) {
            gone.entry((&*meta.place.file, &*meta.object.kind)).or_default().insert(&meta.object);
        }
        let mut by_kind: BTreeMap<(&str, &str), Vec<&ObjectName>> = BTreeMap::new();
        for (unreadable, place) in &now.unreadable {
            by_kind.entry((&*place.file, &*unreadable.kind)).or_default().push(unreadable);
        }
        let mut found = Unidentified::default();
        // What is of no known kind may stand for what those of a known one do not.
        let (of_kinds, of_none): (Vec<_>, Vec<_>) =
            by_kind.into_iter().partition(|((_, kind), _)| known(kind).is_some());
        let mut taken: HashMap<&str, usize> = HashMap::new();
        for ((file, kind), unreadable) in of_kinds {
            let of_kind = gone.get(&(file, kind)).map_or(0, |gone| found.of_kind(gone, &unreadable));
            *taken.entry(file).or_default() += if kind.ends_with("Policy") { of_kind } else { 0 };
        }
        for ((file, _), unreadable) in of_none {
            found.policies(&gone_policies(&gone, file), taken.entry(file).or_default(), &unreadable);
        }
        found
    }

    /// For objects of one kind; how many stand for one that was good. One that is more than these is new, and stays in error.
    fn of_kind(&mut self, gone: &BTreeSet<&ObjectName>, unreadable: &[&ObjectName]) -> usize {
        let guards = gone.first().and_then(|object| known(&object.kind)).is_some_and(Kind::guards);
        // What was removed must not grant again: of what grants it has to be certain which ones these are.
        if !guards && gone.len() > unreadable.len() {
            return 0;
        }
        self.were.extend(gone.iter().copied().cloned());
        let good = gone.len().min(unreadable.len());
        self.placeholders.extend(unreadable.iter().take(good).copied().cloned());
        good
    }

    /// For objects of a kind that is none: they may have been policies of any. Their names may be read all the same.
    fn policies(&mut self, gone: &[&BTreeSet<&ObjectName>], taken: &mut usize, unreadable: &[&ObjectName]) {
        let number: usize = gone.iter().map(|gone| gone.len()).sum();
        let (nameless, named): (Vec<_>, Vec<_>) = unreadable.iter().copied().partition(|policy| policy.is_unreadable());
        for policy in named {
            let of_name = gone.iter().filter_map(|gone| {
                let kind = Arc::clone(&gone.first()?.kind);
                gone.get(&&ObjectName { kind, ..policy.clone() }).copied().cloned()
            });
            let of_name: Vec<_> = of_name.collect();
            if !of_name.is_empty() && *taken < number {
                *taken += 1;
                self.placeholders.insert(policy.clone());
            }
            self.were.extend(of_name);
        }
        if !nameless.is_empty() {
            self.were.extend(gone.iter().copied().flatten().copied().cloned());
        }
        let good = nameless.len().min(number.saturating_sub(*taken));
        *taken += good;
        self.placeholders.extend(nameless.into_iter().take(good).cloned());
    }
}

/// The policies that `file` had and has no more, by kind.
fn gone_policies<'g, 'm>(gone: &'g Gone<'m>, file: &'m str) -> Vec<&'g BTreeSet<&'m ObjectName>> {
    let kinds = KINDS.iter().filter(|kind| kind.is_policy());
    kinds.filter_map(|kind| gone.get(&(file, kind.name))).collect()
}

fn known(kind: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|known| known.name == kind)
}
