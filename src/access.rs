//! Who may do what: Kubernetes RBAC, evaluated in process.
//!
//! Agrees with the API server's RBAC authorizer (`plugin/pkg/auth/authorizer/rbac` and `pkg/apis/rbac/v1/evaluation_helpers.go`):
//! rules only grant, a binding whose role is missing grants nothing.

use std::fmt;
use std::sync::Arc;

use hashbrown::HashMap;
use smallvec::SmallVec;

mod changes;
mod review;

#[cfg(test)]
mod tests;

pub use self::changes::Changes;
pub use self::review::{AccessDecision, AccessMode, AccessReview, AccessReviews, AccessSource, UserInfo};

use crate::rules::{PolicyRule, Subject};

/// A question, as a SubjectAccessReview asks it.
#[derive(Clone, Copy, Debug)]
pub struct AccessQuery<'a> {
    pub user: &'a str,
    pub groups: &'a [&'a str],
    pub verb: &'a str,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    /// Empty: the whole cluster.
    pub namespace: &'a str,
    /// Empty: every object, so only a rule without resource names grants it.
    pub name: &'a str,
}

/// What granted something: a binding, or an annotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grantor {
    /// For people: `RoleBinding llm/model-post-access`.
    pub name: Arc<str>,
}

/// All bindings, by the subject they grant something to.
#[derive(Debug, Default)]
pub struct Rbac {
    cluster: Bindings,
    namespaces: HashMap<String, Bindings>,
    /// What of it could not be read: then nobody can be told that nothing grants them what they ask for.
    pub unread: Option<String>,
    /// When it changed, as far as that was seen.
    pub changes: Changes,
}

#[derive(Debug, Default)]
struct Bindings {
    users: HashMap<String, SubjectBindings>,
    groups: HashMap<String, SubjectBindings>,
}

/// What one subject is bound to.
#[derive(Debug, Default)]
struct SubjectBindings {
    /// By the names of objects, for bindings that grant nothing else: of a Role for each model, one is looked at.
    named: HashMap<String, Vec<Binding>>,
    other: Vec<Binding>,
}

#[derive(Clone, Debug)]
struct Binding {
    grantor: Grantor,
    rules: Arc<[PolicyRule]>,
}

/// A binding for more names than these is not kept by name: a role of many, bound to many, would take the product of memory.
const MAX_NAMES: usize = 8;

/// A group that every API server lets do everything.
const SUPERUSERS: &str = "system:masters";

// === impl AccessQuery ===

impl AccessQuery<'_> {
    /// Whether it is about an LLMInferenceService.
    #[must_use]
    pub fn is_for_a_model(&self) -> bool {
        self.group == "serving.kserve.io" && self.resource == "llminferenceservices" && self.subresource.is_empty()
    }

    /// Whom a grant is usually for: the group of the tier's namespace, else the user.
    #[must_use]
    pub fn grantee(&self) -> Subject {
        let is_of_tier = |group: &&&str| {
            group.strip_prefix("system:serviceaccounts:").is_some_and(|namespace| namespace.contains("-tier-"))
        };
        match self.groups.iter().find(is_of_tier) {
            Some(group) => Subject::Group((*group).to_owned()),
            None => Subject::User(self.user.to_owned()),
        }
    }
}

// === impl Rbac ===

impl Rbac {
    /// Adds a binding of `rules`, in `namespace` or, if that is empty, in the whole cluster.
    pub fn bind(
        &mut self,
        namespace: &str,
        name: impl Into<Arc<str>>,
        rules: &Arc<[PolicyRule]>,
        subjects: &[Subject],
    ) {
        let bindings = match namespace {
            "" => &mut self.cluster,
            _ => self.namespaces.entry(namespace.to_owned()).or_default(),
        };
        let binding = Binding { grantor: Grantor { name: name.into() }, rules: Arc::clone(rules) };
        for subject in subjects {
            let (map, key) = match subject {
                Subject::User(name) => (&mut bindings.users, name),
                Subject::Group(name) => (&mut bindings.groups, name),
            };
            map.entry(key.clone()).or_default().add(&binding);
        }
    }

    /// What grants `query`, if anything does.
    #[must_use]
    pub fn authorize(&self, query: &AccessQuery<'_>) -> Option<Grantor> {
        if query.groups.contains(&SUPERUSERS) {
            return Some(Grantor { name: SUPERUSERS.into() });
        }
        let namespaced = self.namespaces.get(query.namespace).filter(|_| !query.namespace.is_empty());
        [Some(&self.cluster), namespaced].into_iter().flatten().find_map(|bindings| bindings.authorize(query))
    }
}

// === impl Bindings ===

impl Bindings {
    fn authorize(&self, query: &AccessQuery<'_>) -> Option<Grantor> {
        let user = self.users.get(query.user).into_iter();
        let groups = query.groups.iter().filter_map(|group| self.groups.get(*group));
        user.chain(groups).find_map(|bound| bound.authorize(query))
    }
}

// === impl SubjectBindings ===

impl SubjectBindings {
    fn add(&mut self, binding: &Binding) {
        match binding.names() {
            Some(names) => {
                for name in names {
                    self.named.entry_ref(name).or_default().push(binding.clone());
                }
            }
            None => self.other.push(binding.clone()),
        }
    }

    fn authorize(&self, query: &AccessQuery<'_>) -> Option<Grantor> {
        let grants = |binding: &&Binding| binding.rules.iter().any(|rule| grants(rule, query));
        let named = self.named.get(query.name).into_iter().flatten();
        named.chain(&self.other).find(grants).map(|binding| binding.grantor.clone())
    }
}

// === impl Binding ===

impl Binding {
    /// The names of the only objects that it can grant anything of, if there are few.
    fn names(&self) -> Option<SmallVec<[&str; MAX_NAMES]>> {
        let mut names = SmallVec::new();
        for rule in &*self.rules {
            if rule.resource_names.is_empty() {
                return None;
            }
            for name in &rule.resource_names {
                if names.contains(&name.as_str()) {
                    continue;
                }
                if names.len() == MAX_NAMES {
                    return None;
                }
                names.push(name.as_str());
            }
        }
        Some(names)
    }
}

/// Whether `rule` grants what is asked.
fn grants(rule: &PolicyRule, query: &AccessQuery<'_>) -> bool {
    let any = |names: &[String], wanted: &str| names.iter().any(|name| name == "*" || name == wanted);
    any(&rule.verbs, query.verb)
        && any(&rule.api_groups, query.group)
        && rule.resources.iter().any(|resource| names_resource(resource, query))
        && (rule.resource_names.is_empty() || rule.resource_names.iter().any(|name| name == query.name))
}

/// `*` names everything, `resource/sub` one subresource, `*/sub` that subresource of everything. As in the API server, a
/// question for resource `a/b` and one for subresource `b` of `a` are the same to a rule for `a/b`, and not to `*/b`.
fn names_resource(rule: &str, query: &AccessQuery<'_>) -> bool {
    if rule == "*" {
        return true;
    }
    if query.subresource.is_empty() {
        return rule == query.resource;
    }
    let subresource_of = |resource: &str| rule.strip_prefix(resource).and_then(|rest| rest.strip_prefix('/'));
    [query.resource, "*"].into_iter().filter_map(subresource_of).any(|subresource| subresource == query.subresource)
}

// === impl Grantor ===

impl fmt::Display for Grantor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
