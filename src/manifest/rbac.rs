//! Role, ClusterRole and their bindings. What the API server refuses is an error here: it grants nothing there either.

use super::Meta;
use super::selector::{Aggregation, Labels, read_aggregation, read_labels};
use crate::document::{Field, Fields, Report};
use crate::problem::{Place, Severity};
use crate::request::is_dns1123_subdomain;
use crate::rules::{PolicyRule, Subject};

const GROUP: &str = "rbac.authorization.k8s.io";

/// A Role or ClusterRole.
#[derive(Clone, Debug)]
pub struct Role {
    pub meta: Meta,
    /// As written; of an aggregated ClusterRole, what they become is another matter.
    pub rules: Vec<PolicyRule>,
    pub labels: Labels,
    pub aggregation: Option<Aggregation>,
}

/// A RoleBinding or ClusterRoleBinding.
#[derive(Clone, Debug)]
pub struct RoleBinding {
    pub meta: Meta,
    /// Whether the role is a ClusterRole.
    pub cluster_role: bool,
    pub role: String,
    /// Where the role is named.
    pub role_place: Place,
    pub subjects: Vec<Subject>,
    /// Where they are listed.
    pub subjects_place: Place,
}

pub(super) fn read_role(meta: Meta, mut fields: Fields<'_>, report: &Report) -> Option<Role> {
    let errors = report.errors();
    let labels = read_header(&meta, &mut fields, report);
    let mut aggregation = None;
    if is_cluster_wide(&meta) {
        aggregation = fields.take("aggregationRule").and_then(|field| read_aggregation(&field));
    }
    let mut rules = Vec::new();
    if let Some(items) = fields.take("rules").and_then(|field| field.items()) {
        rules.extend(items.iter().filter_map(|item| read_rule(item, is_cluster_wide(&meta))));
    }
    fields.done(Severity::Warning);
    // A role in error is not used: fewer grants, never more.
    (report.errors() == errors).then_some(Role { meta, rules, labels, aggregation })
}

fn is_cluster_wide(meta: &Meta) -> bool {
    meta.object.kind.starts_with("Cluster")
}

/// Checks the name, and reads the labels.
fn read_header(meta: &Meta, fields: &mut Fields<'_>, report: &Report) -> Labels {
    if let Some(fault) = name_fault(meta.name()) {
        report.add(report.problem_at(Severity::Error, &meta.place, "metadata.name", fault));
    }
    let metadata = fields.take("metadata").and_then(|field| field.fields());
    let labels = metadata.and_then(|mut metadata| metadata.take("labels"));
    labels.map(|field| read_labels(&field)).unwrap_or_default()
}

/// Why no role or binding can have this name: it is a segment of a path.
fn name_fault(name: &str) -> Option<String> {
    let fault = matches!(name, "." | "..") || name.contains(['/', '%']);
    fault.then(|| format!("`{name}` cannot be a name: it is `.` or `..`, or has `/` or `%` in it"))
}

fn read_rule(item: &Field<'_>, cluster_wide: bool) -> Option<PolicyRule> {
    let mut fields = item.fields()?;
    let mut texts = |name| fields.take(name).map_or(Some(Vec::new()), |field| field.texts());
    let (api_groups, resources) = (texts("apiGroups"), texts("resources"));
    let (resource_names, verbs) = (texts("resourceNames"), texts("verbs"));
    let urls = texts("nonResourceURLs");
    fields.done(Severity::Warning);
    let rule =
        PolicyRule { verbs: verbs?, api_groups: api_groups?, resources: resources?, resource_names: resource_names? };
    let for_urls = !urls?.is_empty();
    let for_resources = !(rule.api_groups.is_empty() && rule.resources.is_empty() && rule.resource_names.is_empty());
    let mut faults = Vec::new();
    if rule.verbs.is_empty() {
        faults.push(item.error("`verbs` is missing").expected("the verbs that the rule grants, such as post"));
    }
    if for_urls && !cluster_wide {
        faults.push(item.error("a Role cannot grant URLs").remedy("grant `nonResourceURLs` in a ClusterRole"));
    }
    if for_urls && for_resources {
        faults.push(item.error("is both for resources and for URLs").remedy("make two rules of it"));
    }
    if !for_urls && (rule.api_groups.is_empty() || rule.resources.is_empty()) {
        faults.push(item.error("grants nothing").expected("apiGroups and resources, or nonResourceURLs"));
    }
    let sound = faults.is_empty();
    faults.into_iter().for_each(|fault| item.report(fault));
    sound.then_some(rule)
}

pub(super) fn read_binding(meta: Meta, mut fields: Fields<'_>, report: &Report) -> Option<RoleBinding> {
    let errors = report.errors();
    read_header(&meta, &mut fields, report);
    let role = fields.require("roleRef", "the Role or ClusterRole that is granted");
    let role_place = role.as_ref().map_or_else(|| meta.place.clone(), Field::place);
    let role = role.and_then(|field| read_role_ref(&field, &meta));
    let (mut subjects, list) = (Vec::new(), fields.take("subjects"));
    let subjects_place = list.as_ref().map_or_else(|| meta.place.clone(), Field::place);
    if let Some(items) = list.and_then(|field| field.items()) {
        subjects.extend(items.iter().filter_map(|item| read_subject(item, &meta)));
    }
    fields.done(Severity::Warning);
    let (cluster_role, role) = role?;
    (report.errors() == errors).then_some(RoleBinding {
        meta,
        cluster_role,
        role,
        role_place,
        subjects,
        subjects_place,
    })
}

fn read_role_ref(field: &Field<'_>, meta: &Meta) -> Option<(bool, String)> {
    let mut fields = field.fields()?;
    let kind = fields.require("kind", "Role or ClusterRole");
    let name = fields.require("name", "the role's name").and_then(|field| {
        let name = field.non_empty_text()?;
        if let Some(fault) = name_fault(name) {
            field.report(field.error(fault));
        }
        Some(name.to_owned())
    });
    check_group(&mut fields, GROUP);
    fields.done(Severity::Warning);
    let (kind, cluster_wide) = (kind?, is_cluster_wide(meta));
    match kind.text()? {
        "ClusterRole" => Some((true, name?)),
        "Role" if !cluster_wide => Some((false, name?)),
        other => {
            let expected = if cluster_wide { "ClusterRole" } else { "Role or ClusterRole" };
            kind.invalid(format!("cannot refer to `{other}`"), expected)
        }
    }
}

fn read_subject(item: &Field<'_>, meta: &Meta) -> Option<Subject> {
    let mut fields = item.fields()?;
    let kind = fields.require("kind", "User, Group or ServiceAccount");
    let name_field = fields.require("name", "the subject's name");
    let name = name_field.as_ref().and_then(Field::non_empty_text);
    let namespace = fields.take("namespace").and_then(|field| field.text());
    let kind_text = kind.as_ref().and_then(Field::text);
    if let Some(text) = kind_text {
        check_group(&mut fields, if text == "ServiceAccount" { "" } else { GROUP });
    } else {
        fields.ignore(&["apiGroup"]);
    }
    fields.done(Severity::Warning);
    let kind = kind?;
    match kind_text? {
        "User" => Some(Subject::User(name?.to_owned())),
        "Group" => Some(Subject::Group(name?.to_owned())),
        "ServiceAccount" => {
            let (name, name_field) = (name?, name_field?);
            if !is_dns1123_subdomain(name) {
                return name_field.invalid(
                    format!("`{name}` is not the name of a ServiceAccount"),
                    "lower-case letters, digits, inner `-` and `.`",
                );
            }
            let namespace = namespace.filter(|text| !text.is_empty()).unwrap_or(meta.namespace());
            if namespace.is_empty() {
                let problem = item.error("a ServiceAccount subject of a ClusterRoleBinding needs its namespace");
                return item.refuse(problem.remedy("add `namespace`"));
            }
            Some(Subject::User(format!("system:serviceaccount:{namespace}:{name}")))
        }
        other => kind.invalid(format!("`{other}` cannot be granted anything"), "User, Group or ServiceAccount"),
    }
}

/// The API server fills in a group that is absent or empty, and refuses another one.
fn check_group(fields: &mut Fields<'_>, expected: &str) {
    let Some(field) = fields.take("apiGroup") else { return };
    let Some(group) = field.text().filter(|group| !group.is_empty() && *group != expected) else { return };
    let problem = field.error(format!("is `{group}`"));
    field.report(match expected {
        "" => problem.remedy("remove `apiGroup`: ServiceAccounts are of the core group"),
        _ => problem.expected(expected),
    });
}
