//! What the benches share: the captured request, and the tour's gate with its caller remembered.

#![allow(
    dead_code,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "each bench uses a part; one that cannot be set up has to stop"
)]

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use serde_json::json;
use tiergate::clock::{Clock, Nanos};
use tiergate::gate::{DecisionSettings, EnforceLimits, Fallback, Gate, LimitsPath, Reserving, TierUnknown};
use tiergate::identity::{Authority, Identities, Identity, Remember, ServiceAccountRef};
use tiergate::limit::{Limits, Memory, Quota};
use tiergate::lint::compile;
use tiergate::listen::ext_authz::{ExtAuthz, to_request};
use tiergate::manifest::Manifests;
use tiergate::policy::{Options, Policies, derived_uid};
use tiergate::request::{BearerToken, HeaderLookup};
use tiergate::respond::Style;
use tiergate::usage::Bounds;

const NAMESPACE: &str = "maas-default-gateway-tier-premium";
/// A public key and nothing else: the bench verifies no token.
const JWKS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","kid":"bench",
    "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

pub fn root(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub fn captured() -> Vec<u8> {
    std::fs::read(root("tests/data/check.bin")).expect("the captured request is in the repository")
}

/// How much there is in a policy.
#[derive(Clone, Copy)]
pub struct Scale {
    pub models: usize,
    pub tiers: usize,
    pub bindings: usize,
}

pub const SMALL: Scale = Scale { models: 10, tiers: 3, bindings: 30 };
pub const LARGE: Scale = Scale { models: 1_000, tiers: 20, bindings: 5_000 };

/// Of the tour.
const MODELS: usize = 4;
const TIERS: [&str; 3] = ["free", "premium", "enterprise"];

impl Scale {
    fn tiers(self) -> Vec<String> {
        let more = (TIERS.len()..self.tiers).map(|n| format!("tier-{n}"));
        TIERS.into_iter().map(str::to_owned).chain(more).collect()
    }

    /// The lines of the tier ConfigMap that are not in the tour's.
    fn more_tiers(self) -> String {
        let more = self.tiers().split_off(TIERS.len());
        let lines = more
            .iter()
            .enumerate()
            .map(|(n, tier)| format!("    - name: {tier}\n      level: {}\n      groups: [{tier}-users]\n", 100 + n));
        lines.collect()
    }

    /// Models with a route and a Role each, beside those of the tour; the bindings go round models and tiers.
    fn objects(self) -> String {
        let tiers = self.tiers();
        let models = self.models - MODELS;
        let mut objects = Vec::new();
        for n in 0..models {
            let (name, metadata) = (format!("model-{n}"), json!({"name": format!("model-{n}"), "namespace": "llm"}));
            objects.push(json!({
                "apiVersion": "serving.kserve.io/v1alpha1", "kind": "LLMInferenceService", "metadata": metadata,
            }));
            objects.push(json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": metadata,
                "spec": {
                    "parentRefs": [{"name": "maas-default-gateway", "namespace": "openshift-ingress"}],
                    "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": format!("/llm/{name}")}}]}],
                },
            }));
            objects.push(json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata,
                "rules": [{
                    "apiGroups": ["serving.kserve.io"], "resources": ["llminferenceservices"], "verbs": ["post"],
                    "resourceNames": [name],
                }],
            }));
        }
        for n in 0..self.bindings {
            let group = format!("system:serviceaccounts:maas-default-gateway-tier-{}", tiers[n % tiers.len()]);
            objects.push(json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
                "metadata": {"name": format!("binding-{n}"), "namespace": "llm"},
                "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": group}],
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": format!("model-{}", n % models),
                },
            }));
        }
        objects.iter().map(|object| format!("---\n{object}\n")).collect()
    }
}

/// The tour's manifests, with limits that are never reached, and so many more for tiers that nobody has; and what `scale` adds.
fn policies(more: usize, scale: Option<Scale>) -> (Policies, String) {
    let mut files: Vec<_> = scale.iter().map(|scale| ("scale.yaml".to_owned(), scale.objects())).collect();
    for entry in std::fs::read_dir(root("examples/manifests")).expect("the tour's manifests") {
        let path = entry.expect("a folder entry").path();
        let text = std::fs::read_to_string(&path).expect("a manifest");
        let raised = text.lines().map(|line| match line.find("limit: ") {
            Some(at) => {
                let (before, after) = line.split_at(at + "limit: ".len());
                let rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
                format!("{before}{}{rest}\n", Quota::MAX_LIMIT)
            }
            // The two policies have their limits under this line.
            None if line == "  limits:" => {
                let limit = |n| {
                    format!(
                        "    more-{n}:\n      rates: [{{limit: 9, window: 2m}}]\n      \
                         when: [{{predicate: auth.identity.tier == \"tier-{n}\"}}]\n      \
                         counters: [{{expression: auth.identity.userid}}]\n"
                    )
                };
                format!("{line}\n{}", (0..more).map(limit).collect::<String>())
            }
            None => format!("{line}\n"),
        });
        let mut raised: String = raised.collect();
        if path.ends_with("tiers.yaml") {
            raised.extend(scale.map(Scale::more_tiers));
        }
        files.push((path.display().to_string(), raised));
    }
    let manifests = Manifests::read(files.iter().map(|(name, text)| (name.as_str(), text.as_str())));
    let policy = compile(manifests, &Options { grant_from_annotation: true, ..Options::default() });
    assert_eq!(policy.problems.iter().filter(|problem| problem.is_error()).count(), 0);
    let name = policy.accounts.uids[NAMESPACE].keys().min().expect("a premium user").clone();
    (Policies::new(policy), name)
}

/// The tour's gate, with the captured request's token remembered as a premium user's.
pub fn gate(request: &CheckRequest) -> Arc<Gate> {
    gate_with_limits(request, 0)
}

/// The same, with about so many limits in all.
pub fn gate_with_limits(request: &CheckRequest, limits: usize) -> Arc<Gate> {
    gate_of(request, policies(limits.saturating_sub(6) / 2, None))
}

/// The same with so many models, tiers and bindings in all.
pub fn gate_at(request: &CheckRequest, scale: Scale) -> Arc<Gate> {
    gate_of(request, policies(0, Some(scale)))
}

fn gate_of(request: &CheckRequest, (policies, name): (Policies, String)) -> Arc<Gate> {
    let authority = Authority::from_jwks(JWKS, "https://kubernetes.default.svc").expect("a key set");
    let remember = Remember { identities: std::time::Duration::from_secs(86_400), ..Remember::default() };
    let gate = Gate::new(
        Arc::new(policies),
        Identities::new(authority, remember),
        Arc::new(Limits::in_memory(Memory::default())),
        DecisionSettings {
            gateway: None,
            without_policy: Fallback::Refuse,
            without_limit: Fallback::Refuse,
            without_room: Fallback::Refuse,
            uncounted: Fallback::Allow,
            bounds: Bounds::default(),
            reserving: Reserving::default(),
            enforce_limits: EnforceLimits::Check,
            shadow: false,
            limits_path: LimitsPath::default(),
            tier_unknown: TierUnknown::Next,
            stale_for: std::time::Duration::ZERO,
        },
    );
    let uid = derived_uid(NAMESPACE, &name);
    let account = ServiceAccountRef { namespace: NAMESPACE.to_owned(), name, uid: uid.clone() };
    let (user, groups) = (account.user(), account.groups());
    let identity = Identity {
        object: json!({
            "authenticated": true,
            "audiences": ["maas-default-gateway-sa"],
            "user": {"username": user, "uid": uid, "groups": groups, "extra": {}},
        }),
        user: user.into(),
        uid,
        groups,
        audiences: vec!["maas-default-gateway-sa".to_owned()],
        scoped: false,
        service_account: Some(account),
        keep: std::time::Duration::MAX,
        expires: Nanos(u64::MAX),
    };
    let http = to_request(request).expect("HTTP attributes");
    let HeaderLookup::One(header) = http.headers.get("authorization") else {
        panic!("the captured request has a token")
    };
    gate.identities.insert(&BearerToken::new(header.trim_start_matches("Bearer ")), identity);
    Arc::new(gate)
}

/// Runs a future that is ready at once.
pub fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the warm path waits for nothing"),
    }
}

pub fn ext_authz(gate: &Arc<Gate>, clock: Clock) -> ExtAuthz {
    let (metrics, refusals) = (Arc::default(), Arc::default());
    ExtAuthz { gate: Arc::clone(gate), metrics, refusals, clock, style: Style::default() }
}
