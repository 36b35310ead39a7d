//! Role, ClusterRole and their bindings.

use super::reader::{Field, Fields, Report};
use super::{Meta, Place, Severity};
use crate::access::{Rule, Subject};

/// A Role or ClusterRole.
#[derive(Clone, Debug)]
pub struct Role {
    pub meta: Meta,
    pub rules: Vec<Rule>,
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
}

pub(super) fn read_role(meta: Meta, mut fields: Fields<'_>, report: &Report) -> Option<Role> {
    let errors = report.errors();
    if let Some(aggregation) = fields.take("aggregationRule") {
        let problem = aggregation.warning("aggregation is not carried out from a folder");
        aggregation.report(problem.remedy("list the rules in the role itself"));
    }
    let mut rules = Vec::new();
    if let Some(items) = fields.take("rules").and_then(|field| field.items()) {
        rules.extend(items.iter().filter_map(read_rule));
    }
    fields.done(Severity::Warning);
    // A role in error is not used: fewer grants, never more.
    (report.errors() == errors).then_some(Role { meta, rules })
}

fn read_rule(item: &Field<'_>) -> Option<Rule> {
    let mut fields = item.fields()?;
    let mut texts = |name| fields.take(name).map_or(Some(Vec::new()), |field| field.texts());
    let (api_groups, resources) = (texts("apiGroups"), texts("resources"));
    let (resource_names, verbs) = (texts("resourceNames"), texts("verbs"));
    let urls = texts("nonResourceURLs");
    fields.done(Severity::Warning);
    let rule = Rule { verbs: verbs?, api_groups: api_groups?, resources: resources?, resource_names: resource_names? };
    if rule.verbs.is_empty() {
        item.report(item.error("`verbs` is missing").expected("the verbs that the rule grants, such as post"));
        return None;
    }
    if urls?.is_empty() && (rule.api_groups.is_empty() || rule.resources.is_empty()) {
        item.report(item.error("grants nothing").expected("apiGroups and resources, or nonResourceURLs"));
        return None;
    }
    Some(rule)
}

pub(super) fn read_binding(meta: Meta, mut fields: Fields<'_>, report: &Report) -> Option<RoleBinding> {
    let errors = report.errors();
    let role = fields.require("roleRef", "the Role or ClusterRole that is granted");
    let role_place = role.as_ref().map_or_else(|| meta.place.clone(), Field::place);
    let (cluster_role, role) = role.and_then(|field| read_role_ref(&field, &meta))?;
    let mut subjects = Vec::new();
    if let Some(items) = fields.take("subjects").and_then(|field| field.items()) {
        subjects.extend(items.iter().filter_map(|item| read_subject(item, &meta)));
    }
    fields.done(Severity::Warning);
    (report.errors() == errors).then_some(RoleBinding { meta, cluster_role, role, role_place, subjects })
}

fn read_role_ref(field: &Field<'_>, meta: &Meta) -> Option<(bool, String)> {
    let mut fields = field.fields()?;
    let kind = fields.require("kind", "Role or ClusterRole")?;
    let name = fields.require("name", "the role's name")?.non_empty_text()?;
    fields.ignore(&["apiGroup"]);
    fields.done(Severity::Warning);
    let cluster_wide = meta.object.kind.starts_with("Cluster");
    match kind.text()? {
        "ClusterRole" => Some((true, name.to_owned())),
        "Role" if !cluster_wide => Some((false, name.to_owned())),
        other => {
            let expected = if cluster_wide { "ClusterRole" } else { "Role or ClusterRole" };
            kind.report(kind.error(format!("cannot refer to `{other}`")).expected(expected));
            None
        }
    }
}

fn read_subject(item: &Field<'_>, meta: &Meta) -> Option<Subject> {
    let mut fields = item.fields()?;
    let kind = fields.require("kind", "User, Group or ServiceAccount")?;
    let name = fields.require("name", "the subject's name")?.non_empty_text()?;
    let namespace = fields.take("namespace").and_then(|field| field.non_empty_text());
    fields.ignore(&["apiGroup"]);
    fields.done(Severity::Warning);
    match kind.text()? {
        "User" => Some(Subject::User(name.to_owned())),
        "Group" => Some(Subject::Group(name.to_owned())),
        "ServiceAccount" => {
            let namespace = namespace.unwrap_or(meta.namespace());
            if namespace.is_empty() {
                let problem = item.error("a ServiceAccount subject of a ClusterRoleBinding needs its namespace");
                item.report(problem.remedy("add `namespace`"));
                return None;
            }
            Some(Subject::User(format!("system:serviceaccount:{namespace}:{name}")))
        }
        other => {
            let problem = kind.error(format!("`{other}` cannot be granted anything"));
            kind.report(problem.expected("User, Group or ServiceAccount"));
            None
        }
    }
}
