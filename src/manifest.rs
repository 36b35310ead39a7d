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
mod last_good;
mod limit_policy;
mod meta;
mod model;
mod namespace;
mod parts;
mod pattern;
mod permission;
mod rbac;
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
pub use self::limit_policy::{ALGORITHM as ALGORITHM_ANNOTATION, LimitPolicy, LimitSpec, Predicate, parse_duration};
pub use self::meta::{IGNORE_ANNOTATION, Meta};
pub use self::model::{Model, ModelGrant, ServiceAccount, TIERS_ANNOTATION};
pub use self::namespace::Namespace;
pub use self::parts::{Part, Within};
pub use self::permission::Permission;
pub use self::rbac::{Role, RoleBinding};
pub use self::route_match::{Match, PathMatch, TextMatch, ValueMatch};
pub use self::selector::{Aggregation, Labels, Selector};
pub use self::target::{Strategy, Target};
pub use self::tiers::{TierMapping, TierSpec};

use self::kind::Recognised;
use self::meta::read_meta;
use crate::document::{self, Field, Fields, Node, Report};
use crate::problem::{Finding, ObjectName, Place, Position, Problem, Severity};

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
            manifests.read_file(&file.into(), text, &mut seen);
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

    fn read_file(&mut self, file: &Arc<str>, text: Result<&str, &str>, seen: &mut HashMap<ObjectName, Place>) {
        let report = Report::new(file);
        let unusable = |code, at, message: String, remedy: &str| {
            report.add(report.problem(Severity::Error, at, "", message).code(code).remedy(remedy));
        };
        match text.map(document::parse) {
            Ok(Ok(documents)) => {
                if documents.is_empty() {
                    let start = Position { line: 1, column: 1 };
                    let problem = report.problem(Severity::Warning, start, "", "holds no object");
                    report.add(problem.code(Finding::FileNotRead).remedy("remove the file, if that is meant"));
                }
                let mut all_objects = true;
                for document in &documents {
                    all_objects &= self.read_document(document, text.unwrap_or_default(), &report, seen);
                }
                // What a document without a kind was meant to be cannot be told: it may be a limit.
                let known = if all_objects { &mut self.files } else { &mut self.unparsable };
                known.push(Arc::clone(file));
            }
            Ok(Err(fault)) => {
                unusable(Finding::YamlSyntax, fault.at, format!("is not YAML: {}", fault.message), "mend the syntax");
                self.unparsable.push(Arc::clone(file));
            }
            Err(reason) => {
                let message = format!("cannot be read: {reason}");
                unusable(Finding::FileUnreadable, Position { line: 1, column: 1 }, message, "make it readable");
                self.unparsable.push(Arc::clone(file));
            }
        }
        self.problems.append(&mut report.into_problems());
    }

    /// Reads one document; `false` if it is not an object at all.
    fn read_document(
        &mut self,
        node: &Node,
        text: &str,
        report: &Report,
        seen: &mut HashMap<ObjectName, Place>,
    ) -> bool {
        report.name(None);
        let root = Field::root(node, report);
        let Some(mut fields) = root.fields() else { return false };
        let kind = fields.require("kind", "the kind of a Kubernetes object");
        let version = fields.require("apiVersion", "the API version of a Kubernetes object");
        let (Some(kind), Some(version)) = (kind, version) else { return false };
        let (Some(kind_name), Some(version_text)) = (kind.text(), version.text()) else { return false };
        if is_list(kind_name, node) {
            return self.read_list(fields, text, report, seen);
        }
        let (group, version_name) = version_text.rsplit_once('/').unwrap_or(("", version_text));
        match Recognised::of(kind_name, group) {
            Recognised::Known(known) => {
                self.read_object(node, known, Some((&version, version_name)), fields, text, report, seen);
            }
            Recognised::Misspelt(meant) => {
                report.name(Some(ObjectName::unreadable(meant.name, &report.place(node.at))));
                unknown_kind(&kind, kind_name, group, Some(meant));
                self.read_object(node, meant, None, fields, text, report, seen);
            }
            Recognised::AnyPolicy(meant) => {
                report.name(Some(ObjectName::unreadable(kind_name, &report.place(node.at))));
                unknown_kind(&kind, kind_name, group, meant);
                self.read_any_policy(node, kind_name, fields, report);
            }
            Recognised::Unread(consequence) => {
                *self.ignored.entry(kind_name.to_owned()).or_default() += 1;
                let problem = kind.warning(format!("`{kind_name}` of `{group}` is not read: {consequence}"));
                kind.report(problem.code(Finding::KindNotRead));
            }
            Recognised::Foreign => *self.ignored.entry(kind_name.to_owned()).or_default() += 1,
        }
        true
    }

    /// Reads what a list holds; `false` if that is not all known, which may be a limit.
    fn read_list(
        &mut self,
        mut fields: Fields<'_>,
        text: &str,
        report: &Report,
        seen: &mut HashMap<ObjectName, Place>,
    ) -> bool {
        let errors = report.errors();
        let items = match fields.take_even_null("items") {
            Some(field) if field.node.value == document::Value::Null => Vec::new(),
            Some(field) => field.items().unwrap_or_default(),
            None => fields.require("items", "a list of objects").and_then(|field| field.items()).unwrap_or_default(),
        };
        fields.ignore(&["metadata"]);
        fields.done(Severity::Warning);
        let mut all_known = report.errors() == errors;
        for item in &items {
            all_known &= self.read_document(item.node, text, report, seen);
        }
        all_known
    }

    /// Reads an object of a known kind. Without a `version` its kind or group is misspelt, and it cannot be used.
    #[expect(clippy::too_many_arguments, reason = "the second half of a function, split where it can be named")]
    fn read_object(
        &mut self,
        node: &Node,
        known: &Kind,
        version: Option<(&Field<'_>, &str)>,
        mut fields: Fields<'_>,
        text: &str,
        report: &Report,
        seen: &mut HashMap<ObjectName, Place>,
    ) {
        self.read += 1;
        let unreadable = ObjectName::unreadable(known.name, &report.place(node.at));
        report.name(Some(unreadable.clone()));
        let errors = report.errors();
        let Some(mut meta) = read_meta(&mut fields, known, report) else {
            self.shut(unreadable, report.place(node.at), Target::Unknown);
            return;
        };
        report.rename(&meta.object);
        annotation::unknown(&meta, report, known.annotations());
        meta.usable = report.errors() == errors
            && match version {
                None => false,
                Some((_, name)) if known.versions.contains(&name) => true,
                Some((field, name)) => {
                    let message = format!("version `{name}` of {} is not supported", known.name);
                    let expected: Vec<_> = known.versions.iter().map(|v| api_version(known.group, v)).collect();
                    report.add(field.error(message).code(Finding::Unsupported).expected(expected.join(" or ")));
                    false
                }
            };
        // It may still say what it is for, and that must stay shut. Objects that shut nothing are not used; but that a model
        // is there is known.
        if !meta.usable && !known.guards() && known.name != "LLMInferenceService" {
            return;
        }
        if let Some(first) = seen.get(&meta.object) {
            let problem = Field::root(node, report).error(format!("is defined a second time; the first is at {first}"));
            report.add(problem.code(Finding::ObjectDuplicate).remedy("remove one of them; the first is used"));
            meta.usable = false;
            if !known.guards() || known.name == "Gateway" {
                return;
            }
        } else {
            seen.insert(meta.object.clone(), meta.place.clone());
        }
        self.read_kind(known.name, meta, fields, text, report);
    }

    /// Reads what an object of Kuadrant's group is for, whose kind is none of that group's. It could be a policy of any kind.
    fn read_any_policy(&mut self, node: &Node, kind_name: &str, mut fields: Fields<'_>, report: &Report) {
        self.read += 1;
        let kind = Kind { name: "", group: "", versions: &[], namespaced: true };
        let unreadable = ObjectName::unreadable(kind_name, &report.place(node.at));
        report.name(Some(unreadable.clone()));
        let meta = read_meta(&mut fields, &kind, report);
        let spec = fields.take("spec").and_then(|spec| spec.fields());
        let target =
            meta.as_ref().zip(spec).map(|(meta, mut spec)| target::read_target(spec.take("targetRef"), meta).0);
        // By its own name it is known to whoever asks for the problems of what shuts a target.
        let object = meta.map_or(unreadable.clone(), |meta| ObjectName { kind: kind_name.into(), ..meta.object });
        report.rename(&object);
        self.shut(object, report.place(node.at), target.unwrap_or(Target::Unknown));
    }

    /// Shuts what an object that cannot be used may be for.
    fn shut(&mut self, object: ObjectName, place: Place, target: Target) {
        self.unreadable.push((object.clone(), place.clone()));
        let meta = Meta::unreadable(object, place.clone());
        match &*meta.object.kind {
            "AuthPolicy" => self.auth_policies.push(AuthPolicy {
                meta,
                target,
                target_place: place,
                strategy: None,
                rules: None,
                shadow: false,
            }),
            "HTTPRoute" => self.routes.push(HttpRoute::unreadable(meta, place)),
            "Gateway" => self.gateways.push(Gateway::unreadable(meta)),
            kind if KINDS.iter().any(|known| known.name == kind && !known.is_policy()) => {}
            // One of no kind shuts what it is for like a limit.
            kind => self.limit_policies.push(LimitPolicy {
                kind: limit_policy::kind_of(kind),
                meta,
                target,
                target_place: place.clone(),
                strategy: None,
                when: Vec::new(),
                limits: None,
                limits_place: place,
                per_route: false,
                shadow: Shadow::Nothing,
            }),
        }
    }

    fn read_kind(&mut self, kind: &str, meta: Meta, fields: Fields<'_>, text: &str, report: &Report) {
        match kind {
            "ConfigMap" => self.tier_mappings.push(tiers::read(meta, fields, text, report)),
            "ServiceAccount" => self.service_accounts.push(model::read_service_account(meta, fields)),
            "Namespace" => self.namespaces.extend(namespace::read(meta, fields, report)),
            "AuthPolicy" => self.auth_policies.push(auth_policy::read(meta, fields, report)),
            "RateLimitPolicy" | "TokenRateLimitPolicy" => {
                self.limit_policies.push(limit_policy::read(meta, fields, report));
            }
            "Role" | "ClusterRole" => self.roles.extend(rbac::read_role(meta, fields, report)),
            "RoleBinding" | "ClusterRoleBinding" => {
                self.role_bindings.extend(rbac::read_binding(meta, fields, report));
            }
            "Gateway" => self.gateways.push(gateway::read_gateway(meta, fields, report)),
            "HTTPRoute" => self.routes.push(gateway::read_route(meta, fields, report)),
            _ => self.models.push(model::read_model(meta, fields, report)),
        }
    }
}

/// Whether an object is a list of others, as `kubectl get -o yaml` prints one. What has a name is an object of somebody else's kind.
fn is_list(kind: &str, node: &Node) -> bool {
    let Some(of) = kind.strip_suffix("List") else { return false };
    let is_named = || node.get("metadata").is_some_and(|metadata| metadata.get("name").is_some());
    of.is_empty() || KINDS.iter().any(|known| known.name == of) || node.get("items").is_some() || !is_named()
}

fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Reports a kind or group that is nearly one of ours, or a kind of Kuadrant's group that it does not have. A policy that is
/// silently not there opens what it should have limited.
fn unknown_kind(kind: &Field<'_>, name: &str, group: &str, meant: Option<&Kind>) {
    let of = if group.is_empty() { "the core group".to_owned() } else { format!("`{group}`") };
    let problem = kind.error(format!("`{name}` of {of} is not a kind that is known here")).code(Finding::KindUnknown);
    kind.report(match meant {
        Some(meant) => {
            let version = api_version(meant.group, meant.versions.first().unwrap_or(&"v1"));
            problem.remedy(format!("did you mean {} of {version}?", meant.name))
        }
        None => {
            let policies: Vec<_> = KINDS.iter().filter(|known| known.is_policy()).map(|known| known.name).collect();
            problem.expected(policies.join(", "))
        }
    });
}
