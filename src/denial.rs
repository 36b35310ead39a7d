//! Refusals, and failures to decide: two different answers.

use std::borrow::Cow;
use std::time::Duration;

/// Why a request is not let through. [`crate::respond`] chooses status, headers and body for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    RequestInvalid,
    RequestUncounted,
    PathNotCanonical,
    TokenMissing,
    TokenMalformed,
    TokenExpired,
    TokenNotYet,
    TokenAudience,
    TokenIssuer,
    TokenSignature,
    TokenSubjectGone,
    TokenRejected,
    AccessDenied,
    AccessRule,
    TierNone,
    TierGone,
    RouteNoPolicy,
    RouteUnknown,
    LimitNone,
    LimitRequests,
    LimitTokens,
    UnavailableConfiguration,
    UnavailableGateway,
    UnavailableDeadline,
    UnavailableAccounts,
    UnavailableTiers,
    UnavailableApiServer,
    UnavailableStale,
    UnavailableInternal,
    PolicyInvalid,
    PolicyTiers,
    PolicyExpression,
    PolicyModel,
}

/// What kind of answer a code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    Invalid,
    Unauthenticated,
    Forbidden,
    Unknown,
    Limited,
    /// It could not be told: no refusal.
    Undecided,
}

/// A refusal in a policy's own words, Authorino's `denyWith`. What is `None` or empty is said as usual.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DenyWith {
    /// The HTTP status, 300 to 599.
    pub status: Option<u16>,
    /// The header `x-ext-auth-reason`.
    pub reason: Option<String>,
    /// Headers by name, in place of tiergate's own of that name.
    pub headers: Vec<(String, String)>,
    /// The body: `text/plain`, unless `headers` say otherwise.
    pub body: Option<String>,
}

/// A request that is not let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    pub code: Code,
    /// For the caller.
    pub message: Cow<'static, str>,
    /// For the operator: goes to log and metadata, to the caller only under `--verbose-refusals`.
    pub detail: Option<String>,
    /// When the same request would pass.
    pub retry_after: Option<Duration>,
    /// How the policy wants it to be said.
    pub deny_with: Option<Box<DenyWith>>,
}

// === impl Code ===

impl Code {
    pub const ALL: &'static [Code] = &[
        Code::RequestInvalid,
        Code::RequestUncounted,
        Code::PathNotCanonical,
        Code::TokenMissing,
        Code::TokenMalformed,
        Code::TokenExpired,
        Code::TokenNotYet,
        Code::TokenAudience,
        Code::TokenIssuer,
        Code::TokenSignature,
        Code::TokenSubjectGone,
        Code::TokenRejected,
        Code::AccessDenied,
        Code::AccessRule,
        Code::TierNone,
        Code::TierGone,
        Code::RouteNoPolicy,
        Code::RouteUnknown,
        Code::LimitNone,
        Code::LimitRequests,
        Code::LimitTokens,
        Code::UnavailableConfiguration,
        Code::UnavailableGateway,
        Code::UnavailableDeadline,
        Code::UnavailableAccounts,
        Code::UnavailableTiers,
        Code::UnavailableApiServer,
        Code::UnavailableStale,
        Code::UnavailableInternal,
        Code::PolicyInvalid,
        Code::PolicyTiers,
        Code::PolicyExpression,
        Code::PolicyModel,
    ];

    #[must_use]
    pub fn class(self) -> Class {
        match self {
            Code::RequestInvalid | Code::RequestUncounted | Code::PathNotCanonical => Class::Invalid,
            Code::TokenMissing
            | Code::TokenMalformed
            | Code::TokenExpired
            | Code::TokenNotYet
            | Code::TokenAudience
            | Code::TokenIssuer
            | Code::TokenSignature
            | Code::TokenSubjectGone
            | Code::TokenRejected => Class::Unauthenticated,
            Code::AccessDenied
            | Code::AccessRule
            | Code::TierNone
            | Code::TierGone
            | Code::RouteNoPolicy
            | Code::LimitNone => Class::Forbidden,
            Code::RouteUnknown => Class::Unknown,
            Code::LimitRequests | Code::LimitTokens => Class::Limited,
            Code::UnavailableConfiguration
            | Code::UnavailableGateway
            | Code::UnavailableDeadline
            | Code::UnavailableAccounts
            | Code::UnavailableTiers
            | Code::UnavailableApiServer
            | Code::UnavailableStale
            | Code::UnavailableInternal
            | Code::PolicyInvalid
            | Code::PolicyTiers
            | Code::PolicyExpression
            | Code::PolicyModel => Class::Undecided,
        }
    }

    /// The stable name in bodies, logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Code::RequestInvalid => "TG-REQUEST-INVALID",
            Code::RequestUncounted => "TG-REQUEST-UNCOUNTED",
            Code::PathNotCanonical => "TG-PATH-NOT-CANONICAL",
            Code::TokenMissing => "TG-TOKEN-MISSING",
            Code::TokenMalformed => "TG-TOKEN-MALFORMED",
            Code::TokenExpired => "TG-TOKEN-EXPIRED",
            Code::TokenNotYet => "TG-TOKEN-NOT-YET",
            Code::TokenAudience => "TG-TOKEN-AUDIENCE",
            Code::TokenIssuer => "TG-TOKEN-ISSUER",
            Code::TokenSignature => "TG-TOKEN-SIGNATURE",
            Code::TokenSubjectGone => "TG-TOKEN-SUBJECT-GONE",
            Code::TokenRejected => "TG-TOKEN-REJECTED",
            Code::AccessDenied => "TG-ACCESS-DENIED",
            Code::AccessRule => "TG-ACCESS-RULE",
            Code::TierNone => "TG-TIER-NONE",
            Code::TierGone => "TG-TIER-GONE",
            Code::RouteNoPolicy => "TG-ROUTE-NO-POLICY",
            Code::RouteUnknown => "TG-ROUTE-UNKNOWN",
            Code::LimitNone => "TG-LIMIT-NONE",
            Code::LimitRequests => "TG-LIMIT-REQUESTS",
            Code::LimitTokens => "TG-LIMIT-TOKENS",
            Code::UnavailableConfiguration => "TG-UNAVAILABLE-CONFIGURATION",
            Code::UnavailableGateway => "TG-UNAVAILABLE-GATEWAY",
            Code::UnavailableDeadline => "TG-UNAVAILABLE-DEADLINE",
            Code::UnavailableAccounts => "TG-UNAVAILABLE-ACCOUNTS",
            Code::UnavailableTiers => "TG-UNAVAILABLE-TIERS",
            Code::UnavailableApiServer => "TG-UNAVAILABLE-API-SERVER",
            Code::UnavailableStale => "TG-UNAVAILABLE-STALE",
            Code::UnavailableInternal => "TG-UNAVAILABLE-INTERNAL",
            Code::PolicyInvalid => "TG-POLICY-INVALID",
            Code::PolicyTiers => "TG-POLICY-TIERS",
            Code::PolicyExpression => "TG-POLICY-EXPRESSION",
            Code::PolicyModel => "TG-POLICY-MODEL",
        }
    }
}

// === impl Denial ===

impl Denial {
    #[must_use]
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Denial { code, message: message.into(), detail: None, retry_after: None, deny_with: None }
    }

    /// Adds what only the operator should read.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
}
