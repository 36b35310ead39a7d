//! The rules of an AuthPolicy, and how those of several are put together.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::{Condition, Endpoint, Patterns, ValueSource};
use crate::problem::{ObjectName, Place};
use crate::request::host_name;

/// The rules of one AuthPolicy, or of several, compiled.
#[derive(Clone, Debug, Default)]
pub struct AuthRules {
    /// The policy among them that is in error. Only rules on trial come so far; others are not used at all then.
    pub broken: Option<ObjectName>,
    /// Where it does not hold, the policy has nothing to say.
    pub when: Option<Arc<Rule<Vec<Condition>>>>,
    pub patterns: Patterns,
    /// In the order in which they are tried; the first that accepts the caller decides. None: everybody is anonymous.
    pub authentication: Vec<Arc<Rule<Authentication>>>,
    pub metadata: Vec<Arc<Rule<TierLookup>>>,
    /// Where the look-ups are written.
    pub metadata_place: Option<Place>,
    /// All of them have to hold.
    pub authorization: Vec<Arc<Rule<Authorization>>>,
    /// What callers without an identity are told.
    pub unauthenticated: Option<Arc<Rule<DenyWithSpec>>>,
    /// What callers without access are told.
    pub unauthorized: Option<Arc<Rule<DenyWithSpec>>>,
    /// Dynamic metadata of an admitted request.
    pub filters: Vec<Arc<Rule<Item>>>,
    /// Headers that the model receives; their names are lower case.
    pub headers: Vec<Arc<Rule<Item>>>,
}

/// A named rule.
#[derive(Debug)]
pub struct Rule<T> {
    pub name: Arc<str>,
    /// The policy that it is written in.
    pub origin: Arc<ObjectName>,
    pub place: Place,
    /// All have to hold, or the rule is left out.
    pub when: Vec<Condition>,
    /// Lower ones come first.
    pub priority: i64,
    pub what: T,
}

/// How a caller is named.
#[derive(Debug)]
pub struct Authentication {
    pub method: Method,
    /// Properties of the identity, where it has none of that name.
    pub defaults: Vec<(Arc<str>, ValueSource)>,
    /// Properties of the identity, whether it has them or not.
    pub overrides: Vec<(Arc<str>, ValueSource)>,
    /// The longest that an identity may be remembered.
    pub ttl: Option<Duration>,
}

/// How a rule names a caller. Whatever other modules ask of it is a method here that matches every way, so that a new one which
/// is left out does not compile.
#[derive(Debug)]
pub enum Method {
    /// By a bearer token.
    Token {
        reviewer: Reviewer,
        /// Those that the token may be for. For what it means that there are none, see [`Method::takes_host`].
        audiences: Vec<String>,
    },
    /// `anonymous`: nobody has to say who they are.
    Anonymous,
    /// `plain`: by an identity that something before tiergate has found out.
    Plain(ValueSource),
}

/// Who says whose a token is. Rules one after another that name the same one go by one review.
#[derive(Debug, PartialEq, Eq)]
pub enum Reviewer {
    /// `kubernetesTokenReview`: the API server, or the keys of `--jwks` in its stead.
    Kubernetes,
}

/// `metadata.http` of `/v1/tiers/lookup`
#[derive(Debug)]
pub struct TierLookup {
    /// Who is asked where the mapping is not ours.
    pub endpoint: Arc<Endpoint>,
    /// Yields `{"groups": […]}`.
    pub body: ValueSource,
}

#[derive(Debug)]
pub enum Authorization {
    /// `kubernetesSubjectAccessReview`
    Access(Box<AccessRule>),
    /// `patternMatching`
    Patterns(Vec<Condition>),
}

/// The question of a `kubernetesSubjectAccessReview`.
#[derive(Debug)]
pub struct AccessRule {
    pub user: ValueSource,
    pub groups: Option<ValueSource>,
    pub verb: ValueSource,
    pub group: ValueSource,
    pub resource: ValueSource,
    pub subresource: ValueSource,
    pub namespace: ValueSource,
    pub model: ValueSource,
}

/// An entry of `response.success`.
#[derive(Debug)]
pub struct Item {
    pub name: Arc<str>,
    pub shape: Shape,
}

/// `json` or `plain`
#[derive(Debug)]
pub enum Shape {
    Object(Vec<(Arc<str>, ValueSource)>),
    Plain(ValueSource),
}

/// `response.unauthenticated` or `response.unauthorized`: a refusal in the policy's own words.
#[derive(Debug)]
pub struct DenyWithSpec {
    /// 300 to 599
    pub code: Option<u16>,
    /// The header `x-ext-auth-reason`.
    pub message: Option<ValueSource>,
    /// By lower-case name.
    pub headers: Vec<(String, ValueSource)>,
    pub body: Option<ValueSource>,
}

/// The members of an identity that a TokenReview makes, and of that of an anonymous caller.
const REVIEWED: &[&str] = &["authenticated", "audiences", "user"];
pub(super) const ANONYMOUS: &[&str] = &["anonymous"];

// === impl Rule ===

impl<T> Rule<T> {
    #[must_use]
    pub fn new(name: &str, origin: &Arc<ObjectName>, place: Place, what: T) -> Self {
        Rule { name: name.into(), origin: Arc::clone(origin), place, when: Vec::new(), priority: 0, what }
    }
}

// === impl Method ===

impl Method {
    /// Whether tokens have to be for the host of the request, because no audience is named, as in Authorino. Only where a listener or
    /// route spells the host out is it one: elsewhere callers could make it up.
    #[must_use]
    pub fn takes_host(&self) -> bool {
        match self {
            Method::Token { reviewer: Reviewer::Kubernetes, audiences } => audiences.is_empty(),
            Method::Anonymous | Method::Plain(_) => false,
        }
    }

    /// The audiences that a token may be for on `host`, if it is one that `reviewer` reviews. A token for none of them is not accepted.
    pub fn audiences<'a>(&'a self, reviewer: &Reviewer, host: &'a str) -> impl Iterator<Item = Cow<'a, str>> + use<'a> {
        let (audiences, host) = match self {
            Method::Token { reviewer: own, audiences } if own == reviewer => {
                (audiences.as_slice(), self.takes_host().then_some(host))
            }
            Method::Token { .. } | Method::Anonymous | Method::Plain(_) => (&[][..], None),
        };
        audiences.iter().map(|audience| Cow::Borrowed(audience.as_str())).chain(host.map(host_name))
    }

    /// The members that `auth.identity` has, `defaults` and `overrides` apart; `None` where it may have any.
    #[must_use]
    pub(super) fn members(&self) -> Option<&'static [&'static str]> {
        match self {
            Method::Token { reviewer: Reviewer::Kubernetes, .. } => Some(REVIEWED),
            Method::Anonymous => Some(ANONYMOUS),
            Method::Plain(_) => None,
        }
    }

    /// What callers have to show, for people.
    #[must_use]
    pub fn wants(&self) -> String {
        match self {
            Method::Token { reviewer: Reviewer::Kubernetes, audiences } => match audiences.as_slice() {
                [] => "a token for the host of the request".to_owned(),
                audiences => format!("a token for {}", audiences.join(" or ")),
            },
            Method::Anonymous => "nothing".to_owned(),
            Method::Plain(_) => "an identity that the request carries".to_owned(),
        }
    }
}

// === impl AuthRules ===

impl AuthRules {
    /// Whether nobody has to say who they are, and nothing is checked.
    #[must_use]
    pub fn admit_everybody(&self) -> bool {
        self.authentication.is_empty() && self.authorization.is_empty()
    }

    /// These rules, and those of `other` whose names are not among them.
    #[must_use]
    pub fn and(&self, other: &AuthRules) -> AuthRules {
        AuthRules {
            broken: self.broken.clone().or_else(|| other.broken.clone()),
            when: self.when.clone().or_else(|| other.when.clone()),
            patterns: union(&self.patterns, &other.patterns),
            authentication: union(&self.authentication, &other.authentication),
            metadata: union(&self.metadata, &other.metadata),
            metadata_place: self.metadata_place.clone().or_else(|| other.metadata_place.clone()),
            authorization: union(&self.authorization, &other.authorization),
            unauthenticated: self.unauthenticated.clone().or_else(|| other.unauthenticated.clone()),
            unauthorized: self.unauthorized.clone().or_else(|| other.unauthorized.clone()),
            filters: union(&self.filters, &other.filters),
            headers: union(&self.headers, &other.headers),
        }
    }

    /// The audiences that tokens which `reviewer` reviews may be for on `host`, by whichever rule.
    pub fn audiences<'a>(&'a self, reviewer: &'a Reviewer, host: &'a str) -> impl Iterator<Item = Cow<'a, str>> {
        self.authentication.iter().flat_map(move |rule| rule.what.method.audiences(reviewer, host))
    }

    /// The longest that an identity may be remembered.
    #[must_use]
    pub fn identity_ttl(&self) -> Option<Duration> {
        self.authentication.iter().filter_map(|rule| rule.what.ttl).min()
    }
}

/// `rules`, and those of `others` whose names are not among them, by priority.
fn union<T>(rules: &[Arc<Rule<T>>], others: &[Arc<Rule<T>>]) -> Vec<Arc<Rule<T>>> {
    let known: HashSet<&str> = rules.iter().map(|rule| &*rule.name).collect();
    let is_new = |rule: &&Arc<Rule<T>>| !known.contains(&*rule.name);
    let mut union: Vec<_> = rules.iter().chain(others.iter().filter(is_new)).cloned().collect();
    union.sort_by_key(|rule| rule.priority);
    union
}
