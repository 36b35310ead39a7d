//! What RBAC objects say, as data.

use std::fmt;

/// One rule of a role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyRule {
    pub verbs: Vec<String>,
    pub api_groups: Vec<String>,
    pub resources: Vec<String>,
    /// Empty: every name.
    pub resource_names: Vec<String>,
}

/// Whom a binding grants its role. A ServiceAccount is the user it authenticates as.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    User(String),
    Group(String),
}

// === impl Subject ===

impl Subject {
    /// What names the subject to `kubectl create rolebinding`.
    #[must_use]
    pub fn flag(&self) -> String {
        let (flag, name) = match self {
            Subject::Group(group) => ("group", group.as_str()),
            Subject::User(user) => match user.strip_prefix("system:serviceaccount:") {
                Some(account) => ("serviceaccount", account),
                None => ("user", user.as_str()),
            },
        };
        format!("--{flag}={name}")
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Group(group) => write!(f, "Group {group}"),
            Subject::User(user) => write!(f, "User {user}"),
        }
    }
}
