//! The kinds of problems, by a code that stays the same: what people search for, silence, and count.
//!
//! `docs/check.md` explains each in a section of its own, which `tiergate check --explain` prints.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::spelling::did_you_mean;

/// Where a finding comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// One object or file, as it is read.
    Reading,
    /// Objects that are right each by itself, and together do not say what was meant.
    Objects,
    /// An Envoy configuration.
    Envoy,
    /// The watches of a cluster.
    Cluster,
    /// The source of the policy, as it changes.
    Serving,
}

/// Declares the findings once: their names, codes and origins.
macro_rules! findings {
    ($($origin:ident { $($name:ident $code:literal)* })*) => {
        /// What kind of problem it is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Finding {
            $($($name,)*)*
        }

        impl Finding {
            /// All, in the order of `docs/check.md`.
            pub const ALL: &'static [Finding] = &[$($(Finding::$name,)*)*];

            /// The code, as it is written everywhere.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $($(Finding::$name => $code,)*)*
                }
            }

            #[must_use]
            pub const fn origin(self) -> Origin {
                match self {
                    $($(Finding::$name)|* => Origin::$origin,)*
                }
            }
        }
    };
}

findings! {
    Reading {
        FileUnreadable "file-unreadable"
        FileNotRead "file-not-read"
        YamlSyntax "yaml-syntax"
        KindUnknown "kind-unknown"
        KindNotRead "kind-not-read"
        FieldUnknown "field-unknown"
        FieldMissing "field-missing"
        TypeWrong "type-wrong"
        ValueInvalid "value-invalid"
        ExpressionInvalid "expression-invalid"
        ReferenceUnknown "reference-unknown"
        AnnotationUnknown "annotation-unknown"
        CacheKeyUnsafe "cache-key-unsafe"
        ObjectDuplicate "object-duplicate"
        Unsupported "unsupported"
    }
    Objects {
        TierUnknown "tier-unknown"
        TierCase "tier-case"
        TierLevelsEqual "tier-levels-equal"
        TierServiceAccountGroup "tier-service-account-group"
        GroupMisspelt "group-misspelt"
        TierWithoutLimit "tier-without-limit"
        TierWithoutModel "tier-without-model"
        TierMappingMissing "tier-mapping-missing"
        TierMappingUnused "tier-mapping-unused"
        ModelTierUnknown "model-tier-unknown"
        ModelWithoutGrant "model-without-grant"
        BindingTierUnknown "binding-tier-unknown"
        AccountTierUnknown "account-tier-unknown"
        GrantTooBroad "grant-too-broad"
        RuleMisspelt "rule-misspelt"
        RoleWithoutModels "role-without-models"
        RoleMissing "role-missing"
        AggregationEmpty "aggregation-empty"
        AggregationReplacesRules "aggregation-replaces-rules"
        PredicateUnreachable "predicate-unreachable"
        PropertyUndeclared "property-undeclared"
        CounterUndeclared "counter-undeclared"
        LimitUnreachable "limit-unreachable"
        CounterMissing "counter-missing"
        CounterOfCaller "counter-of-caller"
        LimitWithoutHeader "limit-without-header"
        LimitLiftedByHeader "limit-lifted-by-header"
        TokenLimitAlone "token-limit-alone"
        TokensFixedWindow "tokens-fixed-window"
        PathWithoutModel "path-without-model"
        PolicyOpen "policy-open"
        PolicyShadowed "policy-shadowed"
        RuleReplaced "rule-replaced"
        LimitReplaced "limit-replaced"
        TargetShared "target-shared"
        AudienceMissing "audience-missing"
        GatewayUnknown "gateway-unknown"
        TargetMissing "target-missing"
        RouteUnattached "route-unattached"
        NamespaceUnknown "namespace-unknown"
        RouteUnprotected "route-unprotected"
    }
    Envoy {
        EnvoyCheckMissing "envoy-check-missing"
        EnvoyFailOpen "envoy-fail-open"
        EnvoyStatusOnError "envoy-status-on-error"
        EnvoyTimeout "envoy-timeout"
        EnvoyCheckRetried "envoy-check-retried"
        EnvoyApiVersion "envoy-api-version"
        EnvoyAuthorizationWithheld "envoy-authorization-withheld"
        EnvoyContextUnread "envoy-context-unread"
        EnvoyBodyBuffered "envoy-body-buffered"
        EnvoyRouteCache "envoy-route-cache"
        EnvoyPathNotNormalized "envoy-path-not-normalized"
        EnvoyPathRewritten "envoy-path-rewritten"
        EnvoyRequestTimeout "envoy-request-timeout"
        EnvoyIdleTimeout "envoy-idle-timeout"
        EnvoyFilterOrder "envoy-filter-order"
        EnvoyReportMissing "envoy-report-missing"
        EnvoyReportUnread "envoy-report-unread"
        EnvoyDescriptorsMixed "envoy-descriptors-mixed"
        EnvoyHitsAddendIgnored "envoy-hits-addend-ignored"
        EnvoyClusterNotHttp2 "envoy-cluster-not-http2"
        EnvoyCircuitBreakers "envoy-circuit-breakers"
    }
    Cluster {
        ClusterUnreachable "cluster-unreachable"
        ClusterUnauthenticated "cluster-unauthenticated"
        WatchForbidden "watch-forbidden"
        KindMissing "kind-missing"
        VersionUnknown "version-unknown"
    }
    Serving {
        ObjectGone "object-gone"
        SourceUnreadable "source-unreadable"
        SettingUnreadable "setting-unreadable"
    }
}

/// The sections of the documentation, one for each finding.
const EXPLANATIONS: &str = include_str!("../../docs/check.md");

// === impl Finding ===

impl Finding {
    /// The finding of this code.
    ///
    /// # Errors
    ///
    /// There is none; the code that was probably meant, if any is near.
    pub fn named(code: &str) -> Result<Self, Option<&'static str>> {
        let found = Self::ALL.iter().find(|finding| finding.as_str() == code);
        found.copied().ok_or_else(|| did_you_mean(code, Self::ALL.iter().map(|finding| finding.as_str())))
    }

    /// What it says, in a line.
    #[must_use]
    pub fn title(self) -> &'static str {
        self.explanation().lines().next().unwrap_or_default()
    }

    /// The title, why it matters, an example and the remedy, as Markdown.
    #[must_use]
    pub fn explanation(self) -> &'static str {
        let sections = EXPLANATIONS.split("\n### ").skip(1);
        let mut own = sections.filter_map(|section| section.split_once('\n'));
        let found = own.find(|(heading, _)| heading.trim_matches('`') == self.as_str());
        let (text, _) = found.map(|(_, text)| text.split_once("\n## ").unwrap_or((text, ""))).unwrap_or_default();
        text.trim()
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Finding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
