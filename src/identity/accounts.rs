//! The ServiceAccounts that there are: a token whose account is gone is good for nothing.

use hashbrown::HashMap;

use crate::denial::{Code, Denial};

/// The ServiceAccounts that are known.
#[derive(Clone, Debug, Default)]
pub struct ServiceAccounts {
    /// The uid of every one that is watched, by namespace and name.
    pub uids: HashMap<String, HashMap<String, String>>,
    /// The namespaces whose ServiceAccounts are watched.
    pub watched: Namespaces,
}

/// The ServiceAccount behind a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccountRef {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// A set of namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Namespaces {
    #[default]
    All,
    /// `<instance>-tier-<tier>`; without an instance, of any.
    Tiers(Option<String>),
}

// === impl ServiceAccounts ===

impl ServiceAccounts {
    /// The uid of a ServiceAccount.
    #[must_use]
    pub fn uid(&self, namespace: &str, name: &str) -> Option<&str> {
        self.uids.get(namespace)?.get(name).map(String::as_str)
    }
}

// === impl Namespaces ===

impl Namespaces {
    /// Whether `namespace` is one of them.
    #[must_use]
    pub fn hold(&self, namespace: &str) -> bool {
        match self {
            Namespaces::All => true,
            Namespaces::Tiers(Some(instance)) => {
                namespace.strip_prefix(instance.as_str()).is_some_and(|rest| rest.starts_with("-tier-"))
            }
            Namespaces::Tiers(None) => namespace.contains("-tier-"),
        }
    }
}

// === impl ServiceAccountRef ===

impl ServiceAccountRef {
    /// The user name that the API server gives it.
    #[must_use]
    pub fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }

    #[must_use]
    pub fn groups(&self) -> Vec<String> {
        vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{}", self.namespace),
            "system:authenticated".to_owned(),
        ]
    }

    /// The ServiceAccount of a user name, as [`Self::user`] writes it.
    #[must_use]
    pub fn of(user: &str, uid: &str) -> Option<Self> {
        let account = user.strip_prefix("system:serviceaccount:")?;
        let (namespace, name) = account.split_once(':')?;
        Some(ServiceAccountRef { namespace: namespace.to_owned(), name: name.to_owned(), uid: uid.to_owned() })
    }

    /// Whether it exists, and is not another of the same name. Where it is not watched that is so if somebody has
    /// `vouched_for` it.
    ///
    /// # Errors
    ///
    /// It was deleted, or deleted and made anew.
    pub fn check(&self, accounts: &ServiceAccounts, vouched_for: bool) -> Result<(), Denial> {
        match accounts.uid(&self.namespace, &self.name) {
            Some(uid) if uid == self.uid => Ok(()),
            None if vouched_for && !accounts.watched.hold(&self.namespace) => Ok(()),
            found => {
                let what = if found.is_some() { "was made anew since" } else { "does not exist" };
                let detail = format!("ServiceAccount {}/{} {what}", self.namespace, self.name);
                Err(Denial::new(Code::TokenSubjectGone, "the token's ServiceAccount is gone").detail(detail))
            }
        }
    }
}
