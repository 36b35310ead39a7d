//! The world that targets act in: the tour's manifests, and callers whose tokens are remembered.

use std::sync::{Arc, LazyLock};

use serde_json::json;
use tiergate::clock::Nanos;
use tiergate::gate::{DecisionSettings, EnforceLimits, Fallback, Gate, LimitsPath, Reserving, TierUnknown};
use tiergate::identity::{Authority, Identities, Identity, Remember, ServiceAccountRef};
use tiergate::limit::{Limits, Memory};
use tiergate::lint::compile;
use tiergate::manifest::Manifests;
use tiergate::policy::{Options, Policies, Policy, derived_uid};
use tiergate::request::BearerToken;
use tiergate::usage::Bounds;
use tokio::runtime::{Builder, Runtime};

pub(super) const TOUR: &[(&str, &str)] = &[
    ("auth-policy.yaml", include_str!("../../examples/manifests/auth-policy.yaml")),
    ("gateway.yaml", include_str!("../../examples/manifests/gateway.yaml")),
    ("lab.yaml", include_str!("../../examples/manifests/lab.yaml")),
    ("limits.yaml", include_str!("../../examples/manifests/limits.yaml")),
    ("models.yaml", include_str!("../../examples/manifests/models.yaml")),
    ("tiers.yaml", include_str!("../../examples/manifests/tiers.yaml")),
    ("users.yaml", include_str!("../../examples/manifests/users.yaml")),
];

/// A limit that refuses everyone for ever, so that a limit's refusal does not depend on what was tried before.
const SHUT: (&str, &str) = (
    "shut.yaml",
    "
apiVersion: kuadrant.io/v1
kind: RateLimitPolicy
metadata: {name: phi-limits, namespace: lab}
spec:
  targetRef: {group: gateway.networking.k8s.io, kind: HTTPRoute, name: phi-route}
  limits: {nobody: {rates: [{limit: 0, window: 1m}]}}
",
);

/// A public key and nothing else: no token is verified here.
const JWKS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","kid":"fuzz",
    "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

/// What every token of these callers starts with, and no name or message does.
pub(super) const SECRET: &str = "s3cret-";

/// A caller whose token is remembered.
pub(super) struct Caller {
    pub(super) token: &'static str,
    namespace: &'static str,
    name: &'static str,
    audience: &'static str,
    /// The models whose limits let it through.
    pub(super) may: &'static [&'static str],
}

pub(super) const CALLERS: &[Caller] = &[
    Caller {
        token: "s3cret-free-7d1f",
        namespace: "maas-default-gateway-tier-free",
        name: "alice-12345678",
        audience: "maas-default-gateway-sa",
        may: &["llm/granite"],
    },
    Caller {
        token: "s3cret-premium-02ce",
        namespace: "maas-default-gateway-tier-premium",
        name: "jland-78028f6d",
        audience: "maas-default-gateway-sa",
        may: &["llm/granite", "llm/qwen3"],
    },
    // It has a grant for lab/phi too, whose limit lets nobody through.
    Caller {
        token: "s3cret-enterprise-9a40",
        namespace: "maas-default-gateway-tier-enterprise",
        name: "ivan-e85d40b9",
        audience: "maas-default-gateway-sa",
        may: &["llm/granite", "llm/qwen3"],
    },
    Caller {
        token: "s3cret-gone-51b3",
        namespace: "maas-default-gateway-tier-premium",
        name: "nobody-00000000",
        audience: "maas-default-gateway-sa",
        may: &[],
    },
    Caller {
        token: "s3cret-elsewhere-c6f8",
        namespace: "maas-default-gateway-tier-premium",
        name: "jland-78028f6d",
        audience: "another-gateway-sa",
        may: &[],
    },
];

/// One warm gate for all inputs: no decision on it depends on an earlier one.
pub(super) static GATE: LazyLock<Arc<Gate>> = LazyLock::new(|| {
    let raised: Vec<_> = TOUR.iter().map(|(name, text)| (*name, raise_limits(text))).collect();
    let files = raised.iter().map(|(name, text)| (*name, text.as_str())).chain([SHUT]);
    let policy = compile(Manifests::read(files), &options());
    assert_eq!(policy.problems.iter().filter(|problem| problem.is_error()).count(), 0, "{:?}", policy.problems);
    let gate = gate(policy);
    for caller in CALLERS {
        gate.identities.insert(&BearerToken::new(caller.token), caller.identity());
    }
    Arc::new(gate)
});

pub(super) fn options() -> Options {
    Options { grant_from_annotation: true, ..Options::default() }
}

pub(super) fn gate(policy: Policy) -> Gate {
    gate_by(Arc::new(Policies::new(policy)), EnforceLimits::Check)
}

/// A gate whose limits are taken by this call.
pub(super) fn gate_by(policies: Arc<Policies>, enforce_limits: EnforceLimits) -> Gate {
    let authority = Authority::from_jwks(JWKS, "https://kubernetes.default.svc").unwrap();
    let settings = DecisionSettings {
        gateway: None,
        without_policy: Fallback::Refuse,
        without_limit: Fallback::Allow,
        without_room: Fallback::Refuse,
        uncounted: Fallback::Allow,
        bounds: Bounds::default(),
        reserving: Reserving::default(),
        enforce_limits,
        shadow: false,
        limits_path: LimitsPath::default(),
        tier_unknown: TierUnknown::Next,
        stale_for: std::time::Duration::ZERO,
    };
    let identities = Identities::new(authority, Remember { bytes: 400_000, ..Remember::default() });
    Gate::new(policies, identities, Arc::new(Limits::in_memory(Memory::default())), settings)
}

/// Raises every limit to what no run reaches.
fn raise_limits(text: &str) -> String {
    let raise = |line: &str| match line.split_once("limit: ") {
        Some((before, after)) => {
            let rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
            format!("{before}limit: 1000000000000{rest}\n")
        }
        None => format!("{line}\n"),
    };
    text.lines().map(raise).collect()
}

/// Runs what the server runs on a worker.
pub(super) fn run<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().unwrap();
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

// === impl Caller ===

impl Caller {
    fn identity(&self) -> Identity {
        let uid = derived_uid(self.namespace, self.name);
        let account =
            ServiceAccountRef { namespace: self.namespace.to_owned(), name: self.name.to_owned(), uid: uid.clone() };
        let (user, groups) = (account.user(), account.groups());
        Identity {
            object: json!({
                "authenticated": true,
                "audiences": [self.audience],
                "user": {"username": user, "uid": uid, "groups": groups, "extra": {}},
            }),
            user: user.into(),
            uid,
            groups,
            audiences: vec![self.audience.to_owned()],
            scoped: false,
            service_account: Some(account),
            keep: std::time::Duration::MAX,
            expires: Nanos(u64::MAX),
        }
    }
}
