//! One file, read into the objects that it holds.

use std::collections::HashMap;
use std::sync::Arc;

use super::kind::{KINDS, Kind, Recognised};
use super::meta::{Meta, read_meta};
use super::{Manifests, Target};
use super::{annotation, auth_policy, gateway, limit_policy, model, namespace, rbac, target, tiers};
use crate::document::{self, Field, Fields, Node, Report, Value};
use crate::problem::{Finding, ObjectName, Place, Position, Severity};

/// A file that is being read.
struct Reading<'r> {
    manifests: &'r mut Manifests,
    /// Where the first object of each name is, in this file or one before it.
    seen: &'r mut HashMap<ObjectName, Place>,
    text: &'r str,
    report: &'r Report,
}

/// What an object says that it is.
struct Header<'a> {
    node: &'a Node,
    kind: Field<'a>,
    kind_name: &'a str,
    group: &'a str,
    api_version: Field<'a>,
    /// Without the group.
    version: &'a str,
}

const START: Position = Position { line: 1, column: 1 };

/// Reads `file` into `manifests`. Where its text could not be read the reason stands in place of it.
pub(super) fn read_file(
    manifests: &mut Manifests,
    seen: &mut HashMap<ObjectName, Place>,
    file: &Arc<str>,
    text: Result<&str, &str>,
) {
    let report = Report::new(file);
    let all_known = match text {
        Ok(text) => Reading { manifests, seen, text, report: &report }.file(),
        Err(reason) => {
            let problem = report.problem(Severity::Error, START, "", format!("cannot be read: {reason}"));
            report.add(problem.code(Finding::FileUnreadable).remedy("make it readable"));
            false
        }
    };
    // What a document without a kind was meant to be cannot be told: it may be a limit.
    let list = if all_known { &mut manifests.files } else { &mut manifests.unparsable };
    list.push(Arc::clone(file));
    manifests.problems.append(&mut report.into_problems());
}

/// Reads one object of a cluster into `manifests`.
pub(super) fn read_object(manifests: &mut Manifests, node: &Node, report: &Report) {
    Reading { manifests, seen: &mut HashMap::new(), text: "", report }.document(node);
}

// === impl Reading ===

impl Reading<'_> {
    /// Reads all documents; `false` if one of them is not known.
    fn file(&mut self) -> bool {
        let documents = match document::parse(self.text) {
            Ok(documents) => documents,
            Err(fault) => {
                let message = format!("is not YAML: {}", fault.message);
                let problem = self.report.problem(Severity::Error, fault.at, "", message);
                self.report.add(problem.code(Finding::YamlSyntax).remedy("mend the syntax"));
                return false;
            }
        };
        if documents.is_empty() {
            let problem = self.report.problem(Severity::Warning, START, "", "holds no object");
            self.report.add(problem.code(Finding::FileNotRead).remedy("remove the file, if that is meant"));
        }
        self.documents(&documents)
    }

    /// Reads each of `nodes`; `false` if one of them is not known.
    fn documents<'n>(&mut self, nodes: impl IntoIterator<Item = &'n Node>) -> bool {
        let mut all_known = true;
        for node in nodes {
            all_known &= self.document(node);
        }
        all_known
    }

    /// Reads one document; `false` if it is not an object at all.
    fn document(&mut self, node: &Node) -> bool {
        self.report.name(None);
        let root = Field::root(node, self.report);
        let Some(mut fields) = root.fields() else { return false };
        let Some(header) = Header::read(node, &mut fields) else { return false };
        if header.is_list() {
            return self.list(fields);
        }
        self.recognised(&header, fields);
        true
    }

    /// Reads what a list holds; `false` if that is not all known, which may be a limit.
    fn list(&mut self, mut fields: Fields<'_>) -> bool {
        let errors = self.report.errors();
        let items = match fields.take_even_null("items") {
            Some(field) if field.node.value == Value::Null => Vec::new(),
            Some(field) => field.items().unwrap_or_default(),
            None => fields.require("items", "a list of objects").and_then(|field| field.items()).unwrap_or_default(),
        };
        fields.ignore(&["metadata"]);
        fields.done(Severity::Warning);
        let is_read = self.report.errors() == errors;
        self.documents(items.iter().map(|item| item.node)) && is_read
    }

    /// Reads an object by what its kind is recognised as.
    fn recognised(&mut self, header: &Header<'_>, fields: Fields<'_>) {
        match Recognised::of(header.kind_name, header.group) {
            Recognised::Known(known) => self.object(header, known, false, fields),
            Recognised::Misspelt(meant) => {
                header.unknown(meant.name, Some(meant), self.report);
                self.object(header, meant, true, fields);
            }
            Recognised::AnyPolicy(meant) => {
                header.unknown(header.kind_name, meant, self.report);
                self.any_policy(header, fields);
            }
            Recognised::Unread(consequence) => {
                self.ignore(header);
                let Header { kind, kind_name, group, .. } = header;
                let problem = kind.warning(format!("`{kind_name}` of `{group}` is not read: {consequence}"));
                kind.report(problem.code(Finding::KindNotRead));
            }
            Recognised::Foreign => self.ignore(header),
        }
    }

    fn ignore(&mut self, header: &Header<'_>) {
        *self.manifests.ignored.entry(header.kind_name.to_owned()).or_default() += 1;
    }

    /// Reads an object of a known kind. One whose kind or group is misspelt cannot be used.
    fn object(&mut self, header: &Header<'_>, known: &Kind, is_misspelt: bool, mut fields: Fields<'_>) {
        let unreadable = self.unreadable(header, known.name);
        let errors = self.report.errors();
        let Some(mut meta) = read_meta(&mut fields, known, self.report) else {
            self.manifests.shut(unreadable, header.place(self.report), Target::Unknown);
            return;
        };
        self.report.rename(&meta.object);
        annotation::unknown(&meta, self.report, known.annotations());
        meta.usable = self.report.errors() == errors && !is_misspelt && header.is_of_version(known);
        // It may still say what it is for, and that must stay shut. Objects that shut nothing are not used; but that a model
        // is there is known.
        if !meta.usable && !known.guards() && known.name != "LLMInferenceService" {
            return;
        }
        if self.is_second(&meta, header) {
            meta.usable = false;
            if !known.guards() || known.name == "Gateway" {
                return;
            }
        }
        self.read_kind(known.name, meta, fields);
    }

    /// The name of an object until its own is read, which may not come.
    fn unreadable(&mut self, header: &Header<'_>, kind: &str) -> ObjectName {
        self.manifests.read += 1;
        let unreadable = ObjectName::unreadable(kind, &header.place(self.report));
        self.report.name(Some(unreadable.clone()));
        unreadable
    }

    /// Reports an object whose name another one has.
    fn is_second(&mut self, meta: &Meta, header: &Header<'_>) -> bool {
        let Some(first) = self.seen.get(&meta.object) else {
            self.seen.insert(meta.object.clone(), meta.place.clone());
            return false;
        };
        let root = Field::root(header.node, self.report);
        let problem = root.error(format!("is defined a second time; the first is at {first}"));
        self.report.add(problem.code(Finding::ObjectDuplicate).remedy("remove one of them; the first is used"));
        true
    }

    /// Reads what an object of Kuadrant's group is for, whose kind is none of that group's. It could be a policy of any kind.
    fn any_policy(&mut self, header: &Header<'_>, mut fields: Fields<'_>) {
        let kind = Kind { name: "", group: "", versions: &[], namespaced: true };
        let unreadable = self.unreadable(header, header.kind_name);
        let meta = read_meta(&mut fields, &kind, self.report);
        let spec = fields.take("spec").and_then(|spec| spec.fields());
        let target =
            meta.as_ref().zip(spec).map(|(meta, mut spec)| target::read_target(spec.take("targetRef"), meta).0);
        // By its own name it is known to whoever asks for the problems of what shuts a target.
        let object = meta.map_or(unreadable, |meta| ObjectName { kind: header.kind_name.into(), ..meta.object });
        self.report.rename(&object);
        self.manifests.shut(object, header.place(self.report), target.unwrap_or(Target::Unknown));
    }

    fn read_kind(&mut self, kind: &str, meta: Meta, fields: Fields<'_>) {
        let Reading { manifests, text, report, .. } = self;
        match kind {
            "ConfigMap" => manifests.tier_mappings.push(tiers::read(meta, fields, text, report)),
            "ServiceAccount" => manifests.service_accounts.push(model::read_service_account(meta, fields)),
            "Namespace" => manifests.namespaces.extend(namespace::read(meta, fields, report)),
            "AuthPolicy" => manifests.auth_policies.push(auth_policy::read(meta, fields, report)),
            "RateLimitPolicy" | "TokenRateLimitPolicy" => {
                manifests.limit_policies.push(limit_policy::read(meta, fields, report));
            }
            "Role" | "ClusterRole" => manifests.roles.extend(rbac::read_role(meta, fields, report)),
            "RoleBinding" | "ClusterRoleBinding" => {
                manifests.role_bindings.extend(rbac::read_binding(meta, fields, report));
            }
            "Gateway" => manifests.gateways.push(gateway::read_gateway(meta, fields, report)),
            "HTTPRoute" => manifests.routes.push(gateway::read_route(meta, fields, report)),
            _ => manifests.models.push(model::read_model(meta, fields, report)),
        }
    }
}

// === impl Header ===

impl<'a> Header<'a> {
    fn read(node: &'a Node, fields: &mut Fields<'a>) -> Option<Self> {
        let kind = fields.require("kind", "the kind of a Kubernetes object");
        let api_version = fields.require("apiVersion", "the API version of a Kubernetes object");
        let (kind, api_version) = (kind?, api_version?);
        let (kind_name, version) = (kind.text(), api_version.text());
        let (kind_name, version) = (kind_name?, version?);
        let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
        Some(Header { node, kind, kind_name, group, api_version, version })
    }

    fn place(&self, report: &Report) -> Place {
        report.place(self.node.at)
    }

    /// Whether it is a list of objects, as `kubectl get -o yaml` prints one. What has a name is an object of somebody else's
    /// kind.
    fn is_list(&self) -> bool {
        let Some(of) = self.kind_name.strip_suffix("List") else { return false };
        let is_named = || self.node.get("metadata").is_some_and(|metadata| metadata.get("name").is_some());
        of.is_empty() || KINDS.iter().any(|known| known.name == of) || self.node.get("items").is_some() || !is_named()
    }

    /// Reports a version that `known` does not have.
    fn is_of_version(&self, known: &Kind) -> bool {
        if known.versions.contains(&self.version) {
            return true;
        }
        let message = format!("version `{}` of {} is not supported", self.version, known.name);
        let expected: Vec<_> = known.versions.iter().map(|version| known.api_version(version)).collect();
        let problem = self.api_version.error(message).code(Finding::Unsupported);
        self.api_version.report(problem.expected(expected.join(" or ")));
        false
    }

    /// Reports, of an object called `name`, a kind or group that is nearly one of ours, or a kind of Kuadrant's group that it does
    /// not have. A policy that is silently not there opens what it should have limited.
    fn unknown(&self, name: &str, meant: Option<&Kind>, report: &Report) {
        report.name(Some(ObjectName::unreadable(name, &self.place(report))));
        let of = if self.group.is_empty() { "the core group".to_owned() } else { format!("`{}`", self.group) };
        let problem = self.kind.error(format!("`{}` of {of} is not a kind that is known here", self.kind_name));
        let problem = problem.code(Finding::KindUnknown);
        self.kind.report(match meant {
            Some(meant) => {
                let version = meant.api_version(meant.versions.first().unwrap_or(&"v1"));
                problem.remedy(format!("did you mean {} of {version}?", meant.name))
            }
            None => {
                let policies: Vec<_> = KINDS.iter().filter(|known| known.is_policy()).map(|known| known.name).collect();
                problem.expected(policies.join(", "))
            }
        });
    }
}
