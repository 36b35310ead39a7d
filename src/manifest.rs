//! The objects of a folder or a cluster, as users write them: Kubernetes, Gateway API, Kuadrant and KServe manifests.
//!
//! Reading collects every problem of every object. Expressions are compiled on the way, so that their errors carry
//! the place they were written at. Unknown fields are errors in policy specs, where skipping a rule could open the
//! gate, and warnings elsewhere.

mod annotation;
mod auth_policy;
mod block;
mod cluster;
mod finding;
mod gateway;
mod last_good;
mod limit_policy;
mod model;
mod pattern;
mod problem;
mod rbac;
pub(crate) mod reader;
mod route_match;
mod selector;
mod target;
mod tiers;
pub(crate) mod tree;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

pub use self::annotation::Shadow;
pub use self::auth_policy::AuthPolicy;
pub use self::finding::{Finding, Origin};
pub use self::gateway::{Gateway, HttpRoute, Listener, NamespacesFrom, ParentRef, RouteFault, RouteOrder, RouteRule};
pub use self::limit_policy::{ALGORITHM as ALGORITHM_ANNOTATION, LimitPolicy, LimitSpec, Predicate, parse_duration};
pub use self::model::{Model, ModelGrant, ServiceAccount, TIERS_ANNOTATION};
pub use self::problem::{ObjectName, Place, Problem, Severity, did_you_mean};
pub use self::rbac::{Role, RoleBinding};
pub use self::route_match::{Match, PathMatch, TextMatch, ValueMatch};
pub use self::selector::{Aggregation, Labels, Selector};
pub use self::target::{Strategy, Target};
pub use self::tiers::{TierMapping, TierSpec};

use self::reader::{Field, Report};
use self::tree::{Node, Position};

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
    pub problems: Vec<Problem>,
    /// Files that were read.
    pub files: Vec<Arc<str>>,
    /// Files that are not YAML, or could not be read: nothing of them is known.
    pub unparsable: Vec<Arc<str>>,
    /// How many objects were read, and how many are of kinds that tiergate has no use for.
    pub read: usize,
    pub ignored: usize,
}

/// The header of an object.
#[derive(Clone, Debug)]
pub struct Meta {
    pub object: ObjectName,
    pub place: Place,
    pub namespace_place: Place,
    pub annotations: Vec<(String, String, Place)>,
    /// Findings that are meant to be so, by the annotation [`IGNORE_ANNOTATION`].
    pub ignored: Vec<Finding>,
    /// Whether an annotation is no text.
    pub unreadable_annotation: bool,
    pub uid: Option<String>,
    /// When a cluster made it; a folder has no ages.
    pub created: Option<jiff::Timestamp>,
    /// Whether the object can be used: its API version is known, and no other object has its name.
    pub usable: bool,
}

/// A kind of object that is read, with the API versions whose shape it has.
#[derive(Debug)]
pub struct Kind {
    pub name: &'static str,
    /// Empty for the core group.
    pub group: &'static str,
    /// The first of them that a cluster serves is read.
    pub versions: &'static [&'static str],
    pub namespaced: bool,
}

/// The kinds that are read.
pub const KINDS: &[Kind] = &[
    Kind { name: "ConfigMap", group: "", versions: &["v1"], namespaced: true },
    Kind { name: "ServiceAccount", group: "", versions: &["v1"], namespaced: true },
    Kind { name: "AuthPolicy", group: "kuadrant.io", versions: &["v1"], namespaced: true },
    Kind { name: "RateLimitPolicy", group: "kuadrant.io", versions: &["v1", "v1beta3", "v1beta2"], namespaced: true },
    Kind { name: "TokenRateLimitPolicy", group: "kuadrant.io", versions: &["v1", "v1alpha1"], namespaced: true },
    Kind { name: "Role", group: "rbac.authorization.k8s.io", versions: &["v1"], namespaced: true },
    Kind { name: "ClusterRole", group: "rbac.authorization.k8s.io", versions: &["v1"], namespaced: false },
    Kind { name: "RoleBinding", group: "rbac.authorization.k8s.io", versions: &["v1"], namespaced: true },
    Kind { name: "ClusterRoleBinding", group: "rbac.authorization.k8s.io", versions: &["v1"], namespaced: false },
    Kind { name: "Gateway", group: "gateway.networking.k8s.io", versions: &["v1", "v1beta1"], namespaced: true },
    Kind { name: "HTTPRoute", group: "gateway.networking.k8s.io", versions: &["v1", "v1beta1"], namespaced: true },
    Kind {
        name: "LLMInferenceService",
        group: "serving.kserve.io",
        versions: &["v1alpha1", "v1alpha2", "v1beta1", "v1"],
        namespaced: true,
    },
];

// === impl Kind ===

impl Kind {
    /// Whether requests could pass that should not, if an object of this kind were not there.
    #[must_use]
    pub fn guards(&self) -> bool {
        self.name.ends_with("Policy") || matches!(self.name, "HTTPRoute" | "Gateway")
    }
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
        policies.chain(routing).chain(rbac).chain(models).chain(self.tier_mappings.iter().map(|o| &o.meta))
    }

    fn read_file(&mut self, file: &Arc<str>, text: Result<&str, &str>, seen: &mut HashMap<ObjectName, Place>) {
        let report = Report::new(file);
        let unusable = |code, at, message: String, remedy: &str| {
            let problem = report.problem(Severity::Error, at, "", message).code(code);
            report.add(problem.remedy(format!("{remedy}; nothing of this file is used until then")));
        };
        match text.map(tree::parse) {
            Ok(Ok(documents)) => {
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
        if kind_name.ends_with("List") && KINDS.iter().all(|known| known.name != kind_name) {
            let items = fields.take("items").and_then(|items| items.items()).unwrap_or_default();
            let mut all_objects = true;
            for item in &items {
                all_objects &= self.read_document(item.node, text, report, seen);
            }
            return all_objects;
        }
        let (group, version_name) = version_text.rsplit_once('/').unwrap_or(("", version_text));
        match KINDS.iter().find(|known| known.name == kind_name && known.group == group) {
            Some(known) => {
                self.read_object(node, known, Some((&version, version_name)), fields, text, report, seen);
            }
            None => match misspelt_kind(&kind, kind_name, group) {
                Some(meant) if meant.guards() => self.read_object(node, meant, None, fields, text, report, seen),
                _ => self.ignored += 1,
            },
        }
        true
    }

    /// Reads an object of a known kind. Without a `version` its kind or group is misspelt, and it cannot be used.
    #[expect(clippy::too_many_arguments, reason = "the second half of a function, split where it can be named")]
    fn read_object(
        &mut self,
        node: &Node,
        known: &Kind,
        version: Option<(&Field<'_>, &str)>,
        mut fields: reader::Fields<'_>,
        text: &str,
        report: &Report,
        seen: &mut HashMap<ObjectName, Place>,
    ) {
        self.read += 1;
        let Some(mut meta) = read_meta(&mut fields, known, report) else {
            self.shut(known.name, report.place(node.at));
            return;
        };
        report.name(Some(meta.object.clone()));
        meta.usable = match version {
            None => false,
            Some((_, name)) if known.versions.contains(&name) => true,
            Some((field, name)) => {
                let message = format!("version `{name}` of {} is not supported", known.name);
                let expected: Vec<_> = known.versions.iter().map(|v| api_version(known.group, v)).collect();
                report.add(field.error(message).code(Finding::Unsupported).expected(expected.join(" or ")));
                false
            }
        };
        // It may still say what it is for, and that must stay shut. Objects that shut nothing are not used.
        if !meta.usable && !known.guards() {
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

    /// An object without a name could have been for anything, so everything stays shut.
    fn shut(&mut self, kind: &str, place: Place) {
        let meta = Meta::nameless(kind, place.clone());
        let target = Target::Unknown;
        match kind {
            "AuthPolicy" => self.auth_policies.push(AuthPolicy {
                meta,
                target,
                target_place: place,
                strategy: None,
                rules: None,
                shadow: false,
            }),
            "RateLimitPolicy" | "TokenRateLimitPolicy" => self.limit_policies.push(LimitPolicy {
                meta,
                kind: limit_policy::kind_of(kind),
                target,
                target_place: place.clone(),
                strategy: None,
                when: Vec::new(),
                limits: None,
                limits_place: place,
                per_route: false,
                shadow: Shadow::Nothing,
            }),
            "HTTPRoute" => self.routes.push(HttpRoute::unreadable(meta, place)),
            "Gateway" => self.gateways.push(Gateway::unreadable(meta)),
            _ => {}
        }
    }

    fn read_kind(&mut self, kind: &str, meta: Meta, fields: reader::Fields<'_>, text: &str, report: &Report) {
        match kind {
            "ConfigMap" => self.tier_mappings.extend(tiers::read(meta, fields, text, report)),
            "ServiceAccount" => self.service_accounts.push(model::read_service_account(meta, fields)),
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

fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// A kind or group that is nearly one of ours is a typing error; any other is somebody else's object.
fn misspelt_kind(kind: &Field<'_>, name: &str, group: &str) -> Option<&'static Kind> {
    let of_group = || KINDS.iter().filter(|known| known.group == group);
    let same_name = KINDS.iter().find(|known| known.name == name);
    let near = |known: &Kind| {
        group.is_empty()
            || did_you_mean(group, [known.group]).is_some()
            || group.strip_suffix(known.group).is_some_and(|prefix| known.group.contains('.') && prefix.ends_with('.'))
    };
    let meant = match same_name {
        Some(known) => Some(known).filter(|known| near(known)),
        None => {
            let meant = did_you_mean(name, of_group().map(|known| known.name));
            // KServe's `InferenceService` is a kind of its own.
            of_group().find(|known| Some(known.name) == meant && !known.name.ends_with(name))
        }
    }?;
    let of = if group.is_empty() { "the core group".to_owned() } else { format!("`{group}`") };
    let message = format!("`{name}` of {of} is not a kind that is known here, so the object is not used");
    // A policy that is silently not there opens what it should have limited.
    let severity = if meant.guards() { Severity::Error } else { Severity::Warning };
    let version = api_version(meant.group, meant.versions.first().unwrap_or(&"v1"));
    let problem = kind.problem(severity, message).code(Finding::KindUnknown);
    kind.report(problem.remedy(format!("did you mean {} of {version}?", meant.name)));
    Some(meant)
}

fn read_meta(fields: &mut reader::Fields<'_>, kind: &Kind, report: &Report) -> Option<Meta> {
    let metadata = fields.require("metadata", "name, and namespace where the kind has one")?;
    let place = metadata.place();
    let mut meta = metadata.fields()?;
    let name = meta.require("name", "the object's name")?.non_empty_text()?;
    let namespace = meta.take("namespace");
    let namespace_place = namespace.as_ref().map_or_else(|| place.clone(), Field::place);
    let namespace = namespace.and_then(|field| field.non_empty_text());
    // What kubectl would do without a context.
    let namespace = if kind.namespaced { namespace.unwrap_or("default") } else { "" };
    let object = ObjectName::new(kind.name, namespace, name);
    report.name(Some(object.clone()));
    let uid = meta.take("uid").and_then(|field| field.non_empty_text()).map(str::to_owned);
    let (mut annotations, mut unreadable_annotation) = (Vec::new(), false);
    if let Some(entries) = meta.take("annotations").and_then(|field| field.entries()) {
        for (key, value) in entries {
            match value.text() {
                Some(text) => annotations.push((key.name.clone(), text.to_owned(), value.place())),
                None => unreadable_annotation = true,
            }
        }
    }
    meta.ignore(&[
        "labels",
        "creationTimestamp",
        "resourceVersion",
        "generation",
        "generateName",
        "managedFields",
        "ownerReferences",
        "finalizers",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ]);
    meta.done(Severity::Warning);
    fields.ignore(&["status"]);
    let ignored = read_ignored(&annotations, report);
    Some(Meta {
        object,
        place,
        namespace_place,
        annotations,
        ignored,
        unreadable_annotation,
        uid,
        created: None,
        usable: true,
    })
}

/// Lists, with commas between, the codes of findings about an object that are meant to be so.
pub const IGNORE_ANNOTATION: &str = "tiergate.io/ignore";

fn read_ignored(annotations: &[(String, String, Place)], report: &Report) -> Vec<Finding> {
    let Some((_, text, place)) = annotations.iter().find(|(name, _, _)| name == IGNORE_ANNOTATION) else {
        return Vec::new();
    };
    let read = |code: &str| match Finding::named(code) {
        Ok(finding) => Some(finding),
        Err(meant) => {
            let field = format!("metadata.annotations.{IGNORE_ANNOTATION}");
            let message = format!("`{code}` is not the code of a finding");
            report.add(report.problem_at(Severity::Warning, place, &field, message).remedy(match meant {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => "`tiergate check --explain` lists them".to_owned(),
            }));
            None
        }
    };
    text.split(',').map(str::trim).filter(|code| !code.is_empty()).filter_map(read).collect()
}

// === impl Meta ===

impl Meta {
    /// The header of an object that has none.
    fn nameless(kind: &str, place: Place) -> Self {
        Meta {
            object: ObjectName::new(kind, "", "(without a name)"),
            namespace_place: place.clone(),
            place,
            annotations: Vec::new(),
            ignored: Vec::new(),
            unreadable_annotation: false,
            uid: None,
            created: None,
            usable: false,
        }
    }

    #[must_use]
    pub fn namespace(&self) -> &Arc<str> {
        &self.object.namespace
    }

    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.object.name
    }

    /// The order in which objects go before each other: the oldest first, then by namespace and name.
    #[must_use]
    pub fn seniority(&self) -> (Option<jiff::Timestamp>, &ObjectName) {
        (self.created, &self.object)
    }

    #[must_use]
    pub fn annotation(&self, name: &str) -> Option<&(String, String, Place)> {
        self.annotations.iter().find(|(key, _, _)| key == name)
    }
}

impl ObjectName {
    /// `namespace/name`
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}
