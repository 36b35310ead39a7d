//! An object in error keeps its own last good version; the rest is as it is written now.

use std::collections::HashSet;

use super::{Manifests, Meta, ModelGrant, ObjectName};

impl Manifests {
    /// Puts the last good versions of `last` in place of what is in error now.
    ///
    /// What was removed is gone; what is in error and was never good stays in error. A file that is new and cannot be
    /// parsed says nothing: only at the start does it keep the gate from getting ready.
    pub fn keep_last_good(&mut self, last: &Manifests) {
        self.keep_files(last);
        let broken = self.objects_in_error();
        for policy in &mut self.auth_policies {
            let good = last.auth_policies.iter().find(|good| good.rules.is_some() && same(&good.meta, &policy.meta));
            if let (None, Some(good)) = (&policy.rules, good) {
                policy.clone_from(good);
            }
        }
        for policy in &mut self.limit_policies {
            let good = last.limit_policies.iter().find(|good| good.limits.is_some() && same(&good.meta, &policy.meta));
            if let (None, Some(good)) = (&policy.limits, good) {
                policy.clone_from(good);
            }
        }
        for mapping in &mut self.tier_mappings {
            let good = last.tier_mappings.iter().find(|good| good.tiers.is_some() && same(&good.meta, &mapping.meta));
            if let (None, Some(good)) = (&mapping.tiers, good) {
                mapping.clone_from(good);
            }
        }
        for route in self.routes.iter_mut().filter(|route| route.fault.any) {
            if let Some(good) = last.routes.iter().find(|good| !good.fault.any && same(&good.meta, &route.meta)) {
                route.clone_from(good);
            }
        }
        for gateway in self.gateways.iter_mut().filter(|gateway| gateway.broken) {
            if let Some(good) = last.gateways.iter().find(|good| !good.broken && same(&good.meta, &gateway.meta)) {
                gateway.clone_from(good);
            }
        }
        for model in self.models.iter_mut().filter(|model| model.grant == ModelGrant::Unreadable) {
            if let Some(good) = last.models.iter().find(|good| same(&good.meta, &model.meta)) {
                model.grant = good.grant.clone();
            }
        }
        // Roles, bindings and Namespaces in error are not in the lists at all.
        let lost = |meta: &Meta, now: &[ObjectName]| broken.contains(&meta.object) && !now.contains(&meta.object);
        let now: Vec<ObjectName> = self.roles.iter().map(|role| role.meta.object.clone()).collect();
        self.roles.extend(last.roles.iter().filter(|good| lost(&good.meta, &now)).cloned());
        let now: Vec<ObjectName> = self.role_bindings.iter().map(|binding| binding.meta.object.clone()).collect();
        self.role_bindings.extend(last.role_bindings.iter().filter(|good| lost(&good.meta, &now)).cloned());
        let now: Vec<ObjectName> = self.namespaces.iter().map(|namespace| namespace.meta.object.clone()).collect();
        self.namespaces.extend(last.namespaces.iter().filter(|good| lost(&good.meta, &now)).cloned());
    }

    /// The objects of files that cannot be parsed now.
    fn keep_files(&mut self, last: &Manifests) {
        let unparsable = std::mem::take(&mut self.unparsable);
        macro_rules! keep {
            ($($list:ident),*) => {$(
                let now: HashSet<ObjectName> = self.$list.iter().map(|object| object.meta.object.clone()).collect();
                // An object may have moved to a file that can be parsed.
                let kept = |meta: &Meta| unparsable.contains(&meta.place.file) && !now.contains(&meta.object);
                self.$list.extend(last.$list.iter().filter(|object| kept(&object.meta)).cloned());
            )*};
        }
        keep!(
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
        );
        for file in unparsable {
            if last.files.contains(&file) {
                // It stays known as long as it is there, however long it cannot be parsed.
                self.files.push(file);
            } else if last.unparsable.contains(&file) {
                self.unparsable.push(file);
            }
        }
    }

    fn objects_in_error(&self) -> HashSet<ObjectName> {
        let errors = self.problems.iter().filter(|problem| problem.is_error());
        errors.filter_map(|problem| problem.object.clone()).collect()
    }
}

fn same(one: &Meta, other: &Meta) -> bool {
    one.object == other.object
}
