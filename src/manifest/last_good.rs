//! An object in error keeps its own last good version; the rest is as it is written now.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;

use super::{KINDS, Manifests, Meta, ModelGrant, ObjectName};

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
                for object in self.$list.iter_mut().filter(|object| $is_broken(object)) {
                    let good = |good: &&_| !$is_broken(good) && same(&good.meta, &object.meta);
                    if let Some(good) = last.$list.iter().find(good) {
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
        let unparsable = std::mem::take(&mut self.unparsable);
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
        for file in unparsable {
            if last.files.contains(&file) {
                // It stays known as long as it is there, however long it cannot be parsed.
                let since = last.kept_files.get(&file).copied().unwrap_or(now);
                self.kept_files.insert(Arc::clone(&file), since);
                self.files.push(file);
            } else if last.unparsable.contains(&file) {
                self.unparsable.push(file);
            }
        }
        restored
    }

    /// In place of an object of which it cannot be read which one it is, the one that it was: of its file, and not there any
    /// more. Those that are kept.
    fn keep_unreadable(&mut self, last: &Manifests) -> Vec<ObjectName> {
        let present: HashSet<&ObjectName> = self.metas().map(|meta| &meta.object).collect();
        let gone = last.metas().filter(|meta| !present.contains(&meta.object) && !meta.object.is_unreadable());
        let mut gone: Vec<(ObjectName, Arc<str>)> =
            gone.map(|meta| (meta.object.clone(), Arc::clone(&meta.place.file))).collect();
        let (mut placeholders, mut kept) = (HashSet::new(), HashSet::new());
        for (unreadable, place) in &self.unreadable {
            let was = |(object, file): &(ObjectName, Arc<str>)| *file == place.file && unreadable.may_have_been(object);
            if let Some(at) = gone.iter().position(was) {
                kept.insert(gone.swap_remove(at).0);
                placeholders.insert(unreadable.clone());
            }
        }
        macro_rules! put {
            ($($list:ident),*) => {$(
                self.$list.retain(|object| !placeholders.contains(&object.meta.object));
                self.$list.extend(last.$list.iter().filter(|object| kept.contains(&object.meta.object)).cloned());
            )*};
        }
        lists!(put);
        placeholders.into_iter().chain(kept).collect()
    }

    fn objects_in_error(&self) -> HashSet<ObjectName> {
        let errors = self.problems.iter().filter(|problem| problem.is_error());
        errors.filter_map(|problem| problem.object.clone()).collect()
    }
}

fn same(one: &Meta, other: &Meta) -> bool {
    one.object == other.object
}

impl ObjectName {
    /// Whether this one, of which it cannot be read which object it is, was `object` before.
    fn may_have_been(&self, object: &ObjectName) -> bool {
        match KINDS.iter().any(|known| *known.name == *self.kind) {
            true => self.kind == object.kind,
            // Of a kind that is none: its name may be read all the same.
            false => object.kind.ends_with("Policy") && (self.is_unreadable() || self.path() == object.path()),
        }
    }
}
