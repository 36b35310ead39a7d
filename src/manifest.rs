//! The objects of a folder or a cluster, as users write them: Kubernetes, Gateway API, Kuadrant and KServe manifests.
//!
//! Reading collects every problem of every object. Expressions are compiled on the way, so that their errors carry
//! the place they were written at. Unknown fields are errors in policy specs, where skipping a rule could open the
//! gate, and warnings elsewhere.

mod age;
mod annotation;
mod auth_policy;
mod cluster;
mod few;
mod gateway;
mod in_force;
mod kind;
mod kinds;
mod last_good;
mod limit_policy;
mod meta;
mod model;
mod namespace;
mod parts;
mod pattern;
mod permission;
mod rbac;
mod reading;
mod route_match;
mod selector;
mod target;
mod tiers;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;

pub use self::age::Age;
pub use self::annotation::Shadow;
pub use self::auth_policy::AuthPolicy;
pub use self::few::few;
pub use self::gateway::{Gateway, HttpRoute, Listener, NamespacesFrom, ParentRef, RouteFault, RouteOrder, RouteRule};
pub use self::kind::{KINDS, Kind};
pub use self::limit_policy::{DEBT as DEBT_ANNOTATION, LimitPolicy, LimitSpec, Predicate, parse_duration};
pub use self::meta::{IGNORE_ANNOTATION, Meta};
pub use self::model::{Model, ModelGrant, ServiceAccount, TIERS_ANNOTATION};
pub use self::namespace::Namespace;
pub use self::parts::{Part, Within};
pub use self::permission::Permission;
pub use self::rbac::{Role, RoleBinding};
pub use self::route_match::{Match, PathMatch, TextMatch, ValueMatch};
pub use self::selector::{Aggregation, LabelSelector, Labels};
pub use self::target::{Strategy, Target};
pub use self::tiers::{TierMapping, TierSpec};

use crate::problem::{ObjectName, Place, Problem};

/// What a folder says, and what is wrong with it.
#[derive(Clone, Debug, Default)]
pub struct Manifests {
    pub gateways: Vec<Gateway>,
    pub routes: Vec<HttpRoute>,
    pub auth_policies: Vec<AuthPolicy>,
    pub limit_policies: Vec<LimitPolicy>,
    /// Tier mappings by `namespace/name` of their ConfigMap.
    pub tier_mappings: Vec<TierMapping>,
    pub roles: Vec<Role>,
    pub role_bindings: Vec<RoleBinding>,
    pub service_accounts: Vec<ServiceAccount>,
    pub models: Vec<Model>,
    pub namespaces: Vec<Namespace>,
    pub problems: Vec<Problem>,
    /// Files that were read.
    pub files: Vec<Arc<str>>,
    /// Files that are not YAML, or could not be read: nothing of them is known.
    pub unparsable: Vec<Arc<str>>,
    /// Objects of which it cannot be read which ones they are.
    pub unreadable: Vec<(ObjectName, Place)>,
    /// Since when an object, or what a file had, is in force in place of what is in error now.
    pub kept: HashMap<ObjectName, Timestamp>,
    pub kept_files: HashMap<Arc<str>, Timestamp>,
    /// How many objects were read; and how many were not, by their kinds.
    pub read: usize,
    pub ignored: BTreeMap<String, usize>,
}

// === impl Manifests ===

impl Manifests {
    /// Reads `files`, pairs of a name for messages and a text.
    pub fn read<'f>(files: impl IntoIterator<Item = (&'f str, &'f str)>) -> Self {
        Self::read_files(files.into_iter().map(|(name, text)| (name, Ok(text))))
    }

    /// Reads `files`, some of which could not be read: then the reason stands in place of the text.
    pub fn read_files<'f>(files: impl IntoIterator<Item = (&'f str, Result<&'f str, &'f str>)>) -> Self {
        let mut manifests = Manifests::default();
        let mut seen = HashMap::new();
        for (file, text) in files {
            reading::read_file(&mut manifests, &mut seen, &file.into(), text);
        }
        manifests
    }

    /// The headers of all objects that are used.
    pub fn metas(&self) -> impl Iterator<Item = &Meta> {
        let policies = self.auth_policies.iter().map(|o| &o.meta).chain(self.limit_policies.iter().map(|o| &o.meta));
        let routing = self.gateways.iter().map(|o| &o.meta).chain(self.routes.iter().map(|o| &o.meta));
        let rbac = self.roles.iter().map(|o| &o.meta).chain(self.role_bindings.iter().map(|o| &o.meta));
        let models = self.models.iter().map(|o| &o.meta).chain(self.service_accounts.iter().map(|o| &o.meta));
        let rest = self.tier_mappings.iter().map(|o| &o.meta).chain(self.namespaces.iter().map(|o| &o.meta));
        policies.chain(routing).chain(rbac).chain(models).chain(rest)
    }

    /// The labels of each namespace that is there.
    #[must_use]
    pub fn namespace_labels(&self) -> HashMap<&str, &Labels> {
        self.namespaces.iter().map(|namespace| (&**namespace.meta.name(), &namespace.labels)).collect()
    }

    /// Shuts what an object that cannot be used may be for.
    fn shut(&mut self, object: ObjectName, place: Place, target: Target) {
        self.unreadable.push((object.clone(), place.clone()));
        let meta = Meta::unreadable(object, place.clone());
        match &*meta.object.kind {
            "AuthPolicy" => self.auth_policies.push(AuthPolicy::unreadable(meta, target)),
            "HTTPRoute" => self.routes.push(HttpRoute::unreadable(meta, place)),
            "Gateway" => self.gateways.push(Gateway::unreadable(meta)),
            kind if KINDS.iter().any(|known| known.name == kind && !known.is_policy()) => {}
            // One of no kind shuts what it is for like a limit.
            _ => self.limit_policies.push(LimitPolicy::unreadable(meta, target)),
        }
    }
}
