mod attach;
mod audiences;
mod filters;
mod gateways;
mod gone;
mod grants;
mod limits;
mod listeners;
mod namespaces;
mod orders;
mod recorded;
mod routes;
mod shadow;
mod shared;
mod strategies;
mod tiers;
mod users;
mod warnings;

use super::*;
use crate::lint::compile;
use crate::manifest::Manifests;
use crate::problem::{Finding, Severity};
use crate::request::{Headers, OperatorModel};
use crate::source::on_large_stack;

/// A folder of one file, written object by object.
#[derive(Clone, Default)]
struct World {
    text: String,
    options: Options,
}

/// The tiers of the seeds.
const TIERS: &str = "[{name: free, level: 1, groups: [everyone]}, {name: premium, level: 10, groups: [premium-users]}, \
                     {name: enterprise, level: 20, groups: [enterprise-users]}]";

/// A counter of the caller, whatever an AuthPolicy declares.
const BY_CALLER: &str = "counters: [{expression: 'auth.identity.?userid.orValue(\"\")'}]";

impl World {
    /// A Gateway `ns/gw` that takes routes of every namespace.
    fn new() -> Self {
        World::default().gateway("ns/gw", "{name: http, allowedRoutes: {namespaces: {from: All}}}")
    }

    /// `path` is `namespace/name`, or `namespace/name@day` for one that was made on a day of March.
    fn object(mut self, version: &str, kind: &str, path: &str, rest: &str) -> Self {
        let (namespace, name) = path.split_once('/').unwrap();
        let (name, age) = match name.split_once('@') {
            Some((name, day)) => (name, format!(", creationTimestamp: '2026-03-{day:0>2}T09:00:00Z'")),
            None => (name, String::new()),
        };
        let metadata = format!("metadata: {{name: {name}, namespace: {namespace}{age}}}");
        self.text += &format!("---\napiVersion: {version}\nkind: {kind}\n{metadata}\n{rest}\n");
        self
    }

    fn gateway(self, path: &str, listeners: &str) -> Self {
        self.object("gateway.networking.k8s.io/v1", "Gateway", path, &format!("spec: {{listeners: [{listeners}]}}"))
    }

    /// A route to `ns/gw`.
    fn route(self, path: &str, spec: &str) -> Self {
        self.route_to("{name: gw, namespace: ns}", path, spec)
    }

    fn route_to(self, parents: &str, path: &str, spec: &str) -> Self {
        let comma = if spec.is_empty() { "" } else { ", " };
        let spec = format!("spec: {{parentRefs: [{parents}]{comma}{spec}}}");
        self.object("gateway.networking.k8s.io/v1", "HTTPRoute", path, &spec)
    }

    /// A route to `ns/gw` with one match.
    fn matching(self, path: &str, one: &str) -> Self {
        self.route(path, &format!("rules: [{{matches: [{{{one}}}]}}]"))
    }

    /// A policy on `Kind name` of its own namespace.
    fn policy(self, kind: &str, path: &str, target: &str, rest: &str) -> Self {
        let (target_kind, target) = target.split_once(' ').unwrap();
        let target = format!("{{group: gateway.networking.k8s.io, kind: {target_kind}, name: {target}}}");
        self.object("kuadrant.io/v1", kind, path, &format!("spec: {{targetRef: {target}, {rest}}}"))
    }

    fn auth(self, path: &str, target: &str) -> Self {
        self.policy(
            "AuthPolicy",
            path,
            target,
            "rules: {authentication: {sa: {kubernetesTokenReview: {audiences: [a]}}}, \
             response: {success: {filters: {identity: {json: {properties: {userid: {value: x}}}}}}}}",
        )
    }

    /// An AuthPolicy that looks tiers up.
    fn auth_with_tiers(self, path: &str, target: &str) -> Self {
        let lookup = "{http: {url: 'http://maas-api/v1/tiers/lookup', body: {expression: '{\"groups\": auth.identity.user.groups}'}}}";
        // What limits may ask for.
        let properties: Vec<String> = ["tier", "team", "userid"].map(|name| format!("{name}: {{value: x}}")).into();
        let identity = format!("{{json: {{properties: {{{}}}}}}}", properties.join(", "));
        let response = format!("{{success: {{filters: {{identity: {identity}}}}}}}");
        let rules = format!(
            "rules: {{authentication: {{sa: {{kubernetesTokenReview: {{audiences: [a]}}}}}}, metadata: {{tier: {lookup}}}, response: {response}}}"
        );
        self.policy("AuthPolicy", path, target, &rules)
    }

    fn requests(self, path: &str, target: &str) -> Self {
        self.policy(
            "RateLimitPolicy",
            path,
            target,
            &format!("limits: {{a: {{rates: [{{limit: 1, window: 1m}}], {BY_CALLER}}}}}"),
        )
    }

    fn tokens(self, path: &str, target: &str) -> Self {
        self.policy(
            "TokenRateLimitPolicy",
            path,
            target,
            &format!("limits: {{a: {{rates: [{{limit: 1, window: 1m}}], {BY_CALLER}}}}}"),
        )
    }

    /// A RateLimitPolicy on `Gateway gw` with a limit for each predicate.
    fn limits_when(self, predicates: &[&str]) -> Self {
        let limit = |(i, predicate): (usize, &&str)| {
            format!("l{i}: {{rates: [{{limit: 1, window: 1m}}], when: [{{predicate: '{predicate}'}}], {BY_CALLER}}}")
        };
        let limits: Vec<String> = predicates.iter().enumerate().map(limit).collect();
        self.policy("RateLimitPolicy", "ns/limits", "Gateway gw", &format!("limits: {{{}}}", limits.join(", ")))
    }

    fn tiers(self, tiers: &str) -> Self {
        self.tiers_at("maas-api/tier-to-group-mapping", tiers)
    }

    fn tiers_at(self, path: &str, tiers: &str) -> Self {
        self.object("v1", "ConfigMap", path, &format!("data: {{tiers: '{tiers}'}}"))
    }

    fn model(mut self, path: &str, annotation: Option<&str>) -> Self {
        let (namespace, name) = path.split_once('/').unwrap();
        let annotations =
            annotation.map(|value| format!(", annotations: {{alpha.maas.opendatahub.io/tiers: '{value}'}}"));
        self.text += &format!(
            "---\napiVersion: serving.kserve.io/v1alpha1\nkind: LLMInferenceService\nmetadata: {{name: {name}, namespace: \
             {namespace}{}}}\n",
            annotations.unwrap_or_default()
        );
        self
    }

    fn rbac(self, kind: &str, path: &str, rest: &str) -> Self {
        self.object("rbac.authorization.k8s.io/v1", kind, path, rest)
    }

    fn text(mut self, text: &str) -> Self {
        self.text += text;
        self
    }

    fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    fn compile(&self) -> Policy {
        on_large_stack(|| compile(Manifests::read([("f.yaml", self.text.as_str())]), &self.options)).unwrap()
    }

    /// Compiles what has to be without a problem, aside from warnings about what a small world does without.
    #[track_caller]
    fn sound(&self) -> Policy {
        use Finding::{
            CounterMissing, CounterUndeclared, LimitUnreachable, PredicateUnreachable, PropertyUndeclared,
            RouteUnprotected, TokenLimitAlone,
        };
        let policy = self.compile();
        let aside = [
            CounterMissing,
            CounterUndeclared,
            LimitUnreachable,
            PredicateUnreachable,
            PropertyUndeclared,
            RouteUnprotected,
            TokenLimitAlone,
        ];
        let others = policy.problems.iter().filter(|problem| !aside.contains(&problem.code));
        let shown: Vec<String> = others.map(ToString::to_string).collect();
        assert_eq!(shown, <[String; 0]>::default());
        policy
    }
}

/// `POST` to a host and path, without headers.
fn request<'r>(host: &'r str, path: &'r str) -> Request<'r> {
    Request {
        method: "POST",
        host,
        scheme: "https",
        path,
        query: None,
        headers: Headers::List(vec![]),
        gateway: None,
        listener: None,
        port: None,
        peer: None,
        sni: None,
        model: OperatorModel::Unset,
        body: None,
    }
}

/// The name of the route that a request finds.
fn found<'p>(policy: &'p Policy, request: &Request<'_>) -> Result<&'p str, Code> {
    policy.route(None, request).map(|plan| &*plan.name).map_err(|denial| denial.code)
}

/// What applies to the only route that a request for this path finds: the AuthPolicy, then the limit policies.
fn applied(policy: &Policy, path: &str) -> Vec<String> {
    let plan = policy.route(None, &request("any.example.com", path)).unwrap();
    fn shown<T>(attached: &Attached<T>, name: impl Fn(&T) -> &ObjectName) -> String {
        match attached {
            Attached::None => "none".to_owned(),
            Attached::Active(policy) => name(policy).to_string(),
            Attached::Broken(policy) => format!("broken {policy}"),
        }
    }
    let mut all = vec![shown(&plan.auth, |plan| &plan.policy)];
    all.extend(plan.limits.iter().map(|limits| shown(limits, |limits| &limits.policy)));
    all
}

fn shown(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

#[test]
fn unparsable_file_makes_the_policy_unready_and_names_the_file() {
    let read = |files: &[(&str, &str)]| {
        on_large_stack(|| compile(Manifests::read(files.iter().copied()), &Options::default())).unwrap()
    };
    let account = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: a}}";
    assert_eq!(read(&[("a.yaml", account)]).unready, None);
    let policy = read(&[("a.yaml", account), ("b.yaml", "["), ("c.yaml", "}")]);
    let why = policy.unready.unwrap();
    assert!(why.contains("b.yaml, c.yaml") && !why.contains("a.yaml"), "{why}");
    assert_eq!(policy.objects, 1);
    // An object in error is no reason: the rest is decided.
    assert_eq!(read(&[("a.yaml", "{apiVersion: v1, kind: ServiceAccount}")]).unready, None);
}

#[test]
fn publishing_raises_the_generation() {
    let policies = Policies::new(Policy::default());
    assert_eq!(policies.current().generation, 1);
    policies.publish(Policy { generation: 40, ..Policy::default() });
    assert_eq!(policies.current().generation, 2);
}

#[test]
fn an_object_in_error_counts_once() {
    let world = World::new().requests("ns/good", "Gateway gw").text(
        "---\n{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: r}, rules: [{}, {}, {}]}\n\
         ---\n{apiVersion: v1, kind: ServiceAccount, metadata: {name: 1}}\n",
    );
    let policy = world.compile();
    assert_eq!(policy.objects_in_error(), 2, "{}", shown(&policy.problems));
}

#[test]
fn service_accounts_have_the_uid_of_their_manifest_or_a_derived_one() {
    let account = |metadata: &str| format!("---\n{{apiVersion: v1, kind: ServiceAccount, metadata: {{{metadata}}}}}\n");
    let world = World::new()
        .text(&account("name: a, namespace: x, uid: 1234"))
        .text(&account("name: a, namespace: z, uid: real-uid"))
        .text(&account("name: b, namespace: z"));
    let policy = world.compile();
    assert_eq!(policy.accounts.uid("z", "a"), Some("real-uid"));
    assert_eq!(policy.accounts.uid("z", "b"), Some(&*derived_uid("z", "b")));
    assert_eq!(policy.accounts.uid("z", "c"), None);
    assert_eq!(policy.accounts.uid("w", "a"), None);
    let uids = [
        derived_uid("z", "b"),
        derived_uid("z", "a"),
        derived_uid("y", "b"),
        derived_uid("z/b", ""),
        derived_uid("", "z/b"),
    ];
    let mut distinct = uids.to_vec();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), uids.len());
    assert_eq!(derived_uid("z", "b"), derived_uid("z", "b"));
}

#[test]
fn tiers_are_missing_invalid_or_known() {
    let none = World::new().compile();
    assert!(matches!(none.tiers, Tiers::Missing), "{:?}", none.tiers);
    let elsewhere = World::new().tiers_at("tenant/tier-to-group-mapping", TIERS).compile();
    assert!(matches!(elsewhere.tiers, Tiers::Missing), "a tenant cannot redefine tiers");
    let invalid = World::new().tiers("[{name: free, groups: [x]}]").compile();
    let Tiers::Invalid(fault) = &invalid.tiers else {
        panic!("{:?}", invalid.tiers);
    };
    assert_eq!(&**fault, "data.tiers[0]: `level` is missing");
    let known = World::new().tiers(TIERS).sound();
    let Tiers::Known(table) = &known.tiers else {
        panic!("{:?}", known.tiers);
    };
    assert_eq!(&*table.of(["premium-users", "everyone"]).unwrap().name, "premium");
    let options = Options { tier_mapping: "tenant/other".to_owned(), ..Options::default() };
    let other = World::new().tiers_at("tenant/other", TIERS).options(options).sound();
    assert!(matches!(other.tiers, Tiers::Known(_)));
}

#[test]
fn tiers_of_each_gateway_have_the_service_accounts_of_its_instance() {
    let group = |instance: &str| crate::tier::service_account_group(instance, "premium");
    let lookup = |tiers: &Tiers, instance: &str| match tiers {
        Tiers::Known(table) => table.of([&*group(instance)]).map(|tier| tier.name.to_string()),
        other => panic!("{other:?}"),
    };
    let plan = |policy: &Policy, gateway: &str| {
        let asked = Request { gateway: Some(gateway), ..request("h", "/") };
        match &policy.route(None, &asked).unwrap().auth {
            Attached::Active(plan) => plan.tiers.clone(),
            other => panic!("{other:?}"),
        }
    };
    let one = World::new().tiers(TIERS).route("ns/r", "").auth("ns/a", "Gateway gw");
    let premium = Some("premium".to_owned());
    let policy = one.sound();
    // For the HTTP lookup, which does not say which gateway is meant, the only one is meant.
    for tiers in [&policy.tiers, &plan(&policy, "ns/gw")] {
        assert_eq!([lookup(tiers, "gw"), lookup(tiers, "gw2")], [premium.clone(), None]);
    }
    let two =
        one.clone().gateway("ns/gw2", "{name: http}").route_to("{name: gw2}", "ns/r2", "").auth("ns/a2", "Gateway gw2");
    let policy = two.sound();
    assert_eq!([lookup(&policy.tiers, "gw"), lookup(&policy.tiers, "gw2")], [None, None]);
    let [first, second] = [plan(&policy, "ns/gw"), plan(&policy, "ns/gw2")];
    assert_eq!([lookup(&first, "gw"), lookup(&first, "gw2")], [premium.clone(), None]);
    assert_eq!([lookup(&second, "gw"), lookup(&second, "gw2")], [None, premium.clone()]);
    let named = two.options(Options { instance: Some("maas".to_owned()), ..Options::default() }).sound();
    for tiers in [&named.tiers, &plan(&named, "ns/gw"), &plan(&named, "ns/gw2")] {
        assert_eq!([lookup(tiers, "gw"), lookup(tiers, "maas")], [None, premium.clone()]);
    }
}
