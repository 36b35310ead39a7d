//! The objects of a cluster: each is read by itself.

use std::sync::Arc;

use serde_json::Value;

use super::{Kind, Manifests, reading};
use crate::document::{Node, Report};

impl Manifests {
    /// Reads one object as an API server stores it. Places are `kind namespace/name`.
    ///
    /// `rules` of a ClusterRole are used as they are: the cluster has filled in what `aggregationRule` asks for.
    #[must_use]
    pub fn of_object(object: &Value) -> Self {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let (kind, namespace, name) = (text("/kind"), text("/metadata/namespace"), text("/metadata/name"));
        let file: Arc<str> = match namespace {
            "" => format!("{kind} {name}").into(),
            _ => format!("{kind} {namespace}/{name}").into(),
        };
        let report = Report::new(&file);
        let mut manifests = Manifests::default();
        reading::read_object(&mut manifests, &Node::from(object), &report);
        manifests.problems = report.into_problems();
        for role in &mut manifests.roles {
            role.aggregation = None;
        }
        manifests
    }

    /// Adds what `other` says.
    pub fn append(&mut self, other: &Manifests) {
        macro_rules! append {
            ($($list:ident),*) => { $( self.$list.extend_from_slice(&other.$list); )* };
        }
        append!(gateways, routes, auth_policies, limit_policies, tier_mappings, roles, role_bindings);
        append!(service_accounts, models, namespaces, problems, files, unparsable, unreadable);
        self.kept.extend(other.kept.iter().map(|(object, since)| (object.clone(), *since)));
        self.read += other.read;
    }
}

// === impl Kind ===

impl Kind {
    /// The name in URLs and in RBAC, such as `authpolicies`.
    #[must_use]
    pub fn plural(&self) -> String {
        let name = self.name.to_ascii_lowercase();
        match name.strip_suffix("policy") {
            Some(stem) => format!("{stem}policies"),
            None => format!("{name}s"),
        }
    }

    /// The `apiVersion` of an object of this version.
    #[must_use]
    pub fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) }
    }

    /// The resource with its group, such as `authpolicies.kuadrant.io`.
    #[must_use]
    pub fn resource(&self) -> String {
        match self.group {
            "" => self.plural(),
            group => format!("{}.{group}", self.plural()),
        }
    }
}
