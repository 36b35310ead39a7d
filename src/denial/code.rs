//! The reason codes: what stays the same in bodies, headers, logs and metrics, and what people search for.
//!
//! One table has them. `docs/reasons.md` has a section for each, which `tiergate explain --code` prints; a test holds the two together.

/// Declares the codes once: their classes with the HTTP status; and for each code its name, its text, what it says in a line, and the
/// remedy, as an operator's message.
macro_rules! codes {
    ($(
        $(#[doc = $of_class:literal])+
        $class:ident $status:literal {
            $($name:ident $text:literal, $sentence:literal, $remedy:literal;)+
        }
    )+) => {
        /// What kind of answer a code is. [`crate::respond`] has the gRPC code and the `type` of the error body for each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Class {
            $($(#[doc = $of_class])+ $class,)+
        }

        /// Why a request is not let through.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $($(#[doc = $sentence] $name,)+)+
        }

        impl Class {
            /// The HTTP status (RFC 9110, section 15) of a refusal, where its policy has none of its own.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self {
                    $(Class::$class => $status,)+
                }
            }
        }

        impl Code {
            /// All, in the order of `docs/reasons.md`.
            pub const ALL: &'static [Code] = &[$($(Code::$name,)+)+];

            /// What kind of answer it is.
            #[must_use]
            pub const fn class(self) -> Class {
                match self {
                    $($(Code::$name)|+ => Class::$class,)+
                }
            }

            /// The stable name in bodies, logs and metrics.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $($(Code::$name => $text,)+)+
                }
            }

            /// What it says, in a line: the first one of its section.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self {
                    $($(Code::$name => $sentence,)+)+
                }
            }

            /// What to do about it, whoever can: in lower case, and without a full stop.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self {
                    $($(Code::$name => $remedy,)+)+
                }
            }
        }
    };
}

codes! {
    /// The request itself is at fault.
    Invalid 400 {
        RequestInvalid "TG-REQUEST-INVALID",
            "The request has more than one reading, or lacks what decides it.",
            "send the method in capitals, the host of the URL, and each header once";
        RequestUncounted "TG-REQUEST-UNCOUNTED",
            "The caller has a token limit, and what this call costs cannot be read from its answer.",
            "call a path whose answers say their usage, or set --uncounted allow, which charges an answer by its bytes";
        PathNotCanonical "TG-PATH-NOT-CANONICAL",
            "The path has more than one reading, or names no model.",
            "send the model's path as it is documented, without empty or dot segments, `;`, `#`, `\\` and their escapes";
    }
    /// It is not known who calls.
    Unauthenticated 401 {
        TokenMissing "TG-TOKEN-MISSING",
            "The request has no bearer token, and the route asks for one.",
            "send `Authorization: Bearer <token>`";
        TokenMalformed "TG-TOKEN-MALFORMED",
            "What was sent in place of a token cannot be one.",
            "send the whole token, once, as `Authorization: Bearer <token>`";
        TokenExpired "TG-TOKEN-EXPIRED",
            "The token has expired.",
            "make a new token, and send that";
        TokenNotYet "TG-TOKEN-NOT-YET",
            "The token is not valid yet.",
            "wait until the token is valid, or set the clocks of its issuer and of this machine right";
        TokenAudience "TG-TOKEN-AUDIENCE",
            "The token is for another audience.",
            "make a token for an audience of the policy, or name the token's audience in the policy";
        TokenIssuer "TG-TOKEN-ISSUER",
            "The token is of an issuer that is not accepted here.",
            "use a token of the issuer that is accepted here: the one of --issuer, or of the cluster";
        TokenSignature "TG-TOKEN-SIGNATURE",
            "No key that is accepted here has made the token's signature.",
            "use a token that an accepted key has signed, or add its key to --jwks";
        TokenSubjectGone "TG-TOKEN-SUBJECT-GONE",
            "The token's ServiceAccount was deleted, or made anew since.",
            "create the ServiceAccount if it is gone, and make a new token";
        TokenRejected "TG-TOKEN-REJECTED",
            "The token can be read, and is not accepted all the same.",
            "use another token, or mend the policy's identity: the detail says what is wrong";
    }
    /// It is known who calls, and they may not.
    Forbidden 403 {
        AccessDenied "TG-ACCESS-DENIED",
            "Nothing grants the caller this model.",
            "grant it with a Role and a RoleBinding, which the detail spells out";
        AccessRule "TG-ACCESS-RULE",
            "A rule of the route's AuthPolicy does not let this request in.",
            "send a request for which the rule holds, or change the rule: the detail names it";
        TierNone "TG-TIER-NONE",
            "The caller belongs to no tier.",
            "put the caller into a group of a tier, or list one of the caller's groups in a tier";
        TierGone "TG-TIER-GONE",
            "The caller's tier is no longer configured.",
            "configure the tier again, or move the account to the namespace of a tier that is there";
        RouteNoPolicy "TG-ROUTE-NO-POLICY",
            "The route has no AuthPolicy.",
            "attach an AuthPolicy to the route, its listener or its Gateway";
        LimitNone "TG-LIMIT-NONE",
            "No limit is meant for this caller, and `--without-limit refuse` wants one.",
            "add a limit whose `when` holds for this caller, or serve with --without-limit allow";
    }
    /// There is nothing there.
    Unknown 404 {
        RouteUnknown "TG-ROUTE-UNKNOWN",
            "No route matches the request.",
            "send host, method and path of an HTTPRoute, or add one for them";
    }
    /// Not now, or not so much.
    Limited 429 {
        LimitRequests "TG-LIMIT-REQUESTS",
            "The caller has used up a limit of requests.",
            "wait as long as `Retry-After` says, or raise the limit";
        LimitTokens "TG-LIMIT-TOKENS",
            "The caller has used up a limit of tokens.",
            "wait as long as `Retry-After` says, or raise the limit";
    }
    /// It could not be told: no refusal.
    Undecided 503 {
        UnavailableConfiguration "TG-UNAVAILABLE-CONFIGURATION",
            "What the decision rests on could not be read yet.",
            "mend what /readyz and /problems name";
        UnavailableGateway "TG-UNAVAILABLE-GATEWAY",
            "It cannot be told which Gateway, listener or route the request belongs to.",
            "name the Gateway in --gateway or context_extensions.gateway, its listener in context_extensions.listener";
        UnavailableDeadline "TG-UNAVAILABLE-DEADLINE",
            "The API server or the tier service did not answer in time.",
            "try again: what had to be asked took too long";
        UnavailableAccounts "TG-UNAVAILABLE-ACCOUNTS",
            "There is no room to count another caller.",
            "raise --max-accounts, or serve with --without-room allow, which counts no new caller";
        UnavailableTiers "TG-UNAVAILABLE-TIERS",
            "The tier service did not say the caller's tier.",
            "see that the tier service answers, or put the tier mapping where tiergate reads it";
        UnavailableApiServer "TG-UNAVAILABLE-API-SERVER",
            "The API server could not be asked.",
            "see that the API server answers, and that tiergate may ask it: the detail says what failed";
        UnavailableStale "TG-UNAVAILABLE-STALE",
            "What is known of the cluster is too old to decide by.",
            "see that the API server answers, or allow more time with --stale-for";
        UnavailableInternal "TG-UNAVAILABLE-INTERNAL",
            "tiergate itself failed on this request.",
            "nothing on the caller's side: see the log of tiergate";
        PolicyInvalid "TG-POLICY-INVALID",
            "A policy of the route, or the route itself, is in error, which shuts it.",
            "mend what `tiergate check` or /problems names";
        PolicyTiers "TG-POLICY-TIERS",
            "The tier mapping is in error.",
            "mend the tier mapping: `tiergate check` or /problems names the fault";
        PolicyExpression "TG-POLICY-EXPRESSION",
            "An expression of a policy has no value for this request.",
            "mend the expression that the detail names";
        PolicyModel "TG-POLICY-MODEL",
            "The operator names the model of the route wrongly, or names two.",
            "name one model, as namespace/name, in context_extensions.model or the route's metadata";
    }
}
