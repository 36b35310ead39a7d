//! The kinds of objects: those that are read, those that were probably meant to be, and those that are not read.

use super::TIERS_ANNOTATION;
use super::annotation::{COST, NOTIFY, SHADOW};
use super::gateway::ORDER;
use super::kinds::{ALGORITHM_OF, WINDOW_OF, ZONE_OF};
use super::limit_policy::{ADMISSION, ALGORITHM, DEBT, SCOPE};
use crate::spelling::did_you_mean;

/// A kind of object that is read, with the API versions whose shape it has.
#[derive(Debug)]
pub struct Kind {
    pub name: &'static str,
    /// Empty for the core group.
    pub group: &'static str,
    /// The first of them that a cluster serves is read.
    pub versions: &'static [&'static str],
    pub namespaced: bool,
}

/// The kinds that are read.
pub const KINDS: &[Kind] = &[
    Kind { name: "ConfigMap", group: "", versions: &["v1"], namespaced: true },
    Kind { name: "ServiceAccount", group: "", versions: &["v1"], namespaced: true },
    Kind { name: "Namespace", group: "", versions: &["v1"], namespaced: false },
    Kind { name: "AuthPolicy", group: KUADRANT, versions: &["v1"], namespaced: true },
    Kind { name: "RateLimitPolicy", group: KUADRANT, versions: &["v1", "v1beta3", "v1beta2"], namespaced: true },
    Kind { name: "TokenRateLimitPolicy", group: KUADRANT, versions: &["v1", "v1alpha1"], namespaced: true },
    Kind { name: "Role", group: "rbac.authorization.k8s.io", versions: &["v1"], namespaced: true },
    Kind { name: "ClusterRole", group: "rbac.authorization.k8s.io", versions: &["v1"], namespaced: false },
    Kind { name: "RoleBinding", group: "rbac.authorization.k8s.io", versions: &["v1"], namespaced: true },
    Kind { name: "ClusterRoleBinding", group: "rbac.authorization.k8s.io", versions: &["v1"], namespaced: false },
    Kind { name: "Gateway", group: "gateway.networking.k8s.io", versions: &["v1", "v1beta1"], namespaced: true },
    Kind { name: "HTTPRoute", group: "gateway.networking.k8s.io", versions: &["v1", "v1beta1"], namespaced: true },
    Kind {
        name: "LLMInferenceService",
        group: "serving.kserve.io",
        versions: &["v1alpha1", "v1alpha2", "v1beta1", "v1"],
        namespaced: true,
    },
];

const KUADRANT: &str = "kuadrant.io";

/// Kinds of other objects that are near one of ours, or in Kuadrant's group, and decide nothing here.
const HARMLESS: &[(&str, &str)] = &[
    (KUADRANT, "Kuadrant"),
    (KUADRANT, "DNSPolicy"),
    (KUADRANT, "DNSRecord"),
    (KUADRANT, "DNSHealthCheckProbe"),
    (KUADRANT, "ManagedZone"),
    (KUADRANT, "TLSPolicy"),
    ("extensions.kuadrant.io", "TelemetryPolicy"),
    ("gateway.networking.k8s.io", "GatewayClass"),
    ("gateway.networking.k8s.io", "ReferenceGrant"),
    ("gateway.networking.k8s.io", "BackendTLSPolicy"),
    ("serving.kserve.io", "InferenceService"),
    ("serving.kserve.io", "LLMInferenceServiceConfig"),
];

/// Routes of other protocols than HTTP/1 and HTTP/2 requests.
const ROUTES: &[&str] = &["GRPCRoute", "TCPRoute", "TLSRoute", "UDPRoute"];

/// Groups whose objects say who may call what, or how much, in the systems that they come from.
const DECIDING: &[&str] =
    &["authorino.kuadrant.io", "extensions.kuadrant.io", "limitador.kuadrant.io", "maas.opendatahub.io"];

/// What an object is, by its kind and group.
#[derive(Clone, Copy, Debug)]
pub(super) enum Recognised {
    Known(&'static Kind),
    /// The name or the group is nearly that of this kind.
    Misspelt(&'static Kind),
    /// Of Kuadrant's group, and of no kind that it has; the one that was probably meant. It could be any policy.
    AnyPolicy(Option<&'static Kind>),
    /// Not read, though it decides something where it comes from: what follows from that.
    Unread(&'static str),
    /// Somebody else's.
    Foreign,
}

// === impl Kind ===

impl Kind {
    /// Whether requests could pass that should not, if an object of this kind were not there.
    #[must_use]
    pub fn guards(&self) -> bool {
        self.name.ends_with("Policy") || matches!(self.name, "HTTPRoute" | "Gateway")
    }

    /// The annotations that are read, beside those of every object.
    pub(super) fn annotations(&self) -> &'static [&'static str] {
        match self.name {
            "AuthPolicy" => &[SHADOW],
            "RateLimitPolicy" => &[ALGORITHM, ALGORITHM_OF, WINDOW_OF, ZONE_OF, SCOPE, SHADOW, NOTIFY],
            "TokenRateLimitPolicy" => {
                &[ALGORITHM, ALGORITHM_OF, WINDOW_OF, ZONE_OF, SCOPE, SHADOW, ADMISSION, DEBT, COST, NOTIFY]
            }
            "Gateway" => &[ORDER],
            "LLMInferenceService" => &[TIERS_ANNOTATION],
            _ => &[],
        }
    }

    pub(super) fn is_policy(&self) -> bool {
        self.name.ends_with("Policy")
    }
}

// === impl Recognised ===

impl Recognised {
    pub(super) fn of(name: &str, group: &str) -> Self {
        if let Some(known) = KINDS.iter().find(|known| known.name == name && known.group == group) {
            return Recognised::Known(known);
        }
        if HARMLESS.contains(&(group, name)) {
            return Recognised::Foreign;
        }
        if ROUTES.contains(&name) && is_near(group, "gateway.networking.k8s.io") {
            return Recognised::Unread("its requests are answered 404 where no HTTPRoute matches them");
        }
        if group == KUADRANT {
            let policies = KINDS.iter().filter(|known| known.is_policy());
            let short = policies.clone().find(|known| abbreviates(name, known.name));
            return Recognised::AnyPolicy(short.or_else(|| meant(name, policies)));
        }
        if DECIDING.contains(&group) {
            return Recognised::Unread("nothing of it is in force here");
        }
        let same_name = KINDS.iter().find(|known| known.name == name && is_near(group, known.group));
        // Of the core group there are many kinds with short names; a policy's is long enough to be told without its group.
        let of_group = |known: &&Kind| match group {
            "" => known.group.is_empty() || known.is_policy(),
            _ => is_near(group, known.group),
        };
        let near = || meant(name, KINDS.iter().filter(of_group));
        same_name.or_else(near).map_or(Recognised::Foreign, Recognised::Misspelt)
    }
}

/// Whether `group` is `known`, nearly so, or lacks: then only the kind's name says whose it is.
fn is_near(group: &str, known: &str) -> bool {
    group == known
        || group.is_empty()
        || did_you_mean(group, [known]).is_some()
        || group.strip_suffix(known).is_some_and(|prefix| known.contains('.') && prefix.ends_with('.'))
}

/// The kind that was probably meant, by its name or its name in URLs.
fn meant(name: &str, kinds: impl Iterator<Item = &'static Kind> + Clone) -> Option<&'static Kind> {
    let plural = kinds.clone().find(|known| known.plural().eq_ignore_ascii_case(name));
    plural.or_else(|| {
        let near = did_you_mean(name, kinds.clone().map(|known| known.name))?;
        kinds.clone().find(|known| known.name == near)
    })
}

/// Whether `name` is `known` cut short: `RateLimit`, `LimitPolicy`, `RLP`.
fn abbreviates(name: &str, known: &str) -> bool {
    let initials = known.chars().filter(char::is_ascii_uppercase);
    let mut rest = words(known);
    initials.eq(name.chars()) || words(name).all(|word| rest.any(|other| other == word))
}

/// The words of a name in CamelCase.
fn words(name: &str) -> impl Iterator<Item = &str> {
    let is_start = |(at, c): &(usize, char)| *at == 0 || c.is_ascii_uppercase();
    let starts = name.char_indices().filter(is_start).map(|(at, _)| at);
    let ends = starts.clone().skip(1).chain([name.len()]);
    starts.zip(ends).filter_map(|(start, end)| name.get(start..end))
}
