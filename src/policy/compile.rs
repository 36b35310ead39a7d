//! Objects → policy: which policy applies to which route, who is granted what, which tiers there are.

use std::collections::HashMap;
use std::sync::Arc;

use super::route::Host;
use super::{
    Attached, AuthPlan, AuthRules, GatewayPlan, Limit, LimitKind, LimitSet, Policy, RoutePlan, RouteTable, Tiers,
    aggregate, lint,
};
use crate::access::{Rbac, Rule, Subject};
use crate::manifest::{
    AuthPolicy, Gateway, HttpRoute, LimitPolicy, Listener, Manifests, Meta, ModelGrant, NamespacesFrom, ObjectName,
    ParentRef, Problem, Severity, Target, TierMapping,
};
use crate::tier::{TierTable, service_account_group};

/// What the process's flags say about compiling.
#[derive(Clone, Debug)]
pub struct Options {
    /// `namespace/name` of the tier ConfigMap: by name alone any tenant could redefine tiers.
    pub tier_mapping: String,
    /// The instance whose `<instance>-tier-<tier>` namespaces belong to the tiers; by default the Gateway's name.
    pub instance: Option<String>,
    /// Whether the tiers annotation of a model grants access by itself.
    pub grant_from_annotation: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            tier_mapping: "maas-api/tier-to-group-mapping".to_owned(),
            instance: None,
            grant_from_annotation: false,
        }
    }
}

/// Policies of one kind.
type ByTarget<T> = HashMap<Target, Attached<T>>;

/// Compiles what was read. Problems of single objects are already in `manifests`; those between objects are added.
#[must_use]
pub fn compile(mut manifests: Manifests, options: &Options) -> Policy {
    let mut problems = std::mem::take(&mut manifests.problems);
    // Without ages, namespace and name decide between routes.
    manifests.routes.sort_by(|a, b| a.meta.object.cmp(&b.meta.object));
    // A ConfigMap that only happens to have a key `tiers` is somebody else's.
    let foreign = |mapping: &&TierMapping| mapping.meta.object.path() != options.tier_mapping;
    let foreign: Vec<_> = manifests.tier_mappings.iter().filter(foreign).map(|mapping| &mapping.meta.object).collect();
    problems.retain(|problem| problem.object.as_ref().is_none_or(|object| !foreign.contains(&object)));
    lint::objects(&manifests, options, &mut problems);
    let mapping = mapping(&manifests, options, &problems);
    let instances: Vec<&str> = match &options.instance {
        Some(instance) => vec![instance],
        None => manifests.gateways.iter().map(|gateway| &**gateway.meta.name()).collect(),
    };
    let mut policy = Policy {
        unready: unready(&manifests),
        rbac: rbac(&manifests, options, &instances),
        // Over HTTP nobody says which gateway is meant, so an instance has to be the only one.
        tiers: tiers(&mapping, if let [only] = instances.as_slice() { vec![only] } else { Vec::new() }),
        objects: manifests.read,
        ..Policy::default()
    };
    for account in &manifests.service_accounts {
        let meta = &account.meta;
        let uid = meta.uid.clone().unwrap_or_else(|| derived_uid(meta.namespace(), meta.name()));
        let namespace = policy.service_accounts.entry(meta.namespace().to_string()).or_default();
        namespace.insert(meta.name().to_string(), uid);
    }
    let requests = attach_limits(&manifests, LimitKind::Requests, &mut problems);
    let tokens = attach_limits(&manifests, LimitKind::Tokens, &mut problems);
    let auth = attach(manifests.auth_policies.iter().map(|p| (&p.meta, &p.target, auth_state(p))), &mut problems);
    for gateway in &manifests.gateways {
        let instance = options.instance.as_deref().unwrap_or(gateway.meta.name());
        let tiers = tiers(&mapping, vec![instance]);
        let plan = |route: &HttpRoute| {
            let name = route.meta.object.path().into();
            if route.fault.any || route.is_uncertain_on(gateway) {
                return Arc::new(RoutePlan {
                    name,
                    auth: Attached::Broken(route.meta.object.clone()),
                    limits: Vec::new(),
                });
            }
            let limits =
                [&requests, &tokens].map(|policies| per_route(effective(policies, gateway, route), &manifests, route));
            let auth = match effective(&auth, gateway, route) {
                Attached::None => Attached::None,
                Attached::Broken(policy) => Attached::Broken(policy),
                Attached::Active(rules) => Attached::Active(Arc::new(AuthPlan {
                    policy: rules.0.clone(),
                    rules: Arc::clone(&rules.1),
                    tiers: tiers.clone(),
                })),
            };
            let limits = limits.into_iter().filter(|limits| !matches!(limits, Attached::None)).collect();
            Arc::new(RoutePlan { name, auth, limits })
        };
        policy.gateways.push(GatewayPlan {
            name: gateway.meta.object.path().into(),
            routes: routes(gateway, &manifests.routes, plan),
            broken: gateway.broken,
        });
    }
    lint::policy(&policy, &manifests, &mapping, &mut problems);
    problems.sort_by(|a, b| (&a.place, &a.field).cmp(&(&b.place, &b.field)));
    policy.problems = problems;
    policy
}

fn unready(manifests: &Manifests) -> Option<String> {
    let files: Vec<&str> = manifests.unparsable.iter().map(|file| &**file).collect();
    (!files.is_empty())
        .then(|| format!("not YAML, or no Kubernetes object, so nothing of it is known: {}", files.join(", ")))
}

/// The tier mapping: absent, in error (with the first fault), or there.
fn mapping<'m>(
    manifests: &'m Manifests,
    options: &Options,
    problems: &[Problem],
) -> Option<Result<&'m [crate::manifest::TierSpec], Arc<str>>> {
    let mapping = manifests.tier_mappings.iter().find(|mapping| mapping.meta.object.path() == options.tier_mapping)?;
    Some(mapping.tiers.as_deref().ok_or_else(|| {
        let of_mapping = |p: &&Problem| p.is_error() && p.object.as_ref() == Some(&mapping.meta.object);
        let first = problems.iter().find(of_mapping);
        first.map_or_else(|| "in error".into(), |problem| format!("{}: {}", problem.field, problem.message).into())
    }))
}

fn tiers(mapping: &Option<Result<&[crate::manifest::TierSpec], Arc<str>>>, instances: Vec<&str>) -> Tiers {
    match mapping {
        None => Tiers::Missing,
        Some(Err(fault)) => Tiers::Invalid(Arc::clone(fault)),
        Some(Ok(specs)) => Tiers::Known(Arc::new(TierTable::new(specs, instances))),
    }
}

/// The uid of a ServiceAccount whose manifest has none, as a fresh object has none: derived from namespace and name, so
/// that `tiergate token create` and `serve` agree.
#[must_use]
pub fn derived_uid(namespace: &str, name: &str) -> String {
    let object = format!("serviceaccounts/{namespace}/{name}");
    uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, object.as_bytes()).to_string()
}

// === RBAC ===

fn rbac(manifests: &Manifests, options: &Options, instances: &[&str]) -> Rbac {
    let mut roles: HashMap<(&str, &str), Arc<[Rule]>> = HashMap::new();
    for (role, rules) in manifests.roles.iter().zip(aggregate::rules(&manifests.roles)) {
        roles.insert((&**role.meta.namespace(), &**role.meta.name()), rules);
    }
    let mut rbac = Rbac::default();
    for binding in &manifests.role_bindings {
        let namespace = if binding.cluster_role { "" } else { &**binding.meta.namespace() };
        // A binding whose role is missing grants nothing; `lint` warns.
        if let Some(rules) = roles.get(&(namespace, binding.role.as_str())) {
            rbac.bind(binding.meta.namespace(), binding.meta.object.to_string(), rules, &binding.subjects);
        }
    }
    if options.grant_from_annotation {
        grant_from_annotations(&mut rbac, manifests, options, instances);
    }
    rbac
}

/// What the model controller of Open Data Hub makes of the annotation: `post` on this one model for the service accounts
/// of the tiers' namespaces.
fn grant_from_annotations(rbac: &mut Rbac, manifests: &Manifests, options: &Options, instances: &[&str]) {
    let mapping = mapping(manifests, options, &[]);
    // Without a mapping no tier is configured, so there is nobody to grant anything to.
    let Some(Ok(specs)) = mapping else { return };
    for model in &manifests.models {
        let granted = |tier: &str| match &model.grant {
            ModelGrant::Nobody | ModelGrant::Unreadable => false,
            ModelGrant::AllTiers => true,
            ModelGrant::Tiers(tiers, _) => tiers.iter().any(|granted| granted == tier),
        };
        let tiers = specs.iter().filter(|tier| granted(&tier.name));
        let groups = tiers.flat_map(|tier| {
            instances.iter().map(|instance| Subject::Group(service_account_group(instance, &tier.name)))
        });
        let rules: Arc<[Rule]> = Arc::new([Rule {
            verbs: vec!["post".to_owned()],
            api_groups: vec!["serving.kserve.io".to_owned()],
            resources: vec!["llminferenceservices".to_owned()],
            resource_names: vec![model.meta.name().to_string()],
        }]);
        let name = format!("annotation of {}", model.meta.object);
        rbac.bind(model.meta.namespace(), name, &rules, &groups.collect::<Vec<_>>());
    }
}

// === which policy applies ===

fn auth_state(policy: &AuthPolicy) -> Attached<(ObjectName, Arc<AuthRules>)> {
    match &policy.rules {
        Some(rules) => Attached::Active(Arc::new((policy.meta.object.clone(), Arc::clone(rules)))),
        None => Attached::Broken(policy.meta.object.clone()),
    }
}

fn attach_limits(manifests: &Manifests, kind: LimitKind, problems: &mut Vec<Problem>) -> ByTarget<LimitSet> {
    let of_kind = manifests.limit_policies.iter().filter(|policy| policy.kind == kind);
    attach(of_kind.map(|policy| (&policy.meta, &policy.target, limit_state(policy, &policy.target))), problems)
}

/// The limits of a policy, counting for `scope`: on a Gateway once per user for that Gateway, on an HTTPRoute for that
/// route.
fn limit_state(policy: &LimitPolicy, scope: &Target) -> Attached<LimitSet> {
    let name = &policy.meta.object;
    let Some(specs) = &policy.limits else {
        return Attached::Broken(name.clone());
    };
    let scope = scope.to_string();
    let limit = |spec: &crate::manifest::LimitSpec| Limit {
        name: format!("{}/{}", name.path(), spec.name).into(),
        kind: policy.kind,
        when: spec.when.iter().map(|predicate| Arc::clone(&predicate.expression)).collect(),
        counters: spec.counters.iter().map(Arc::clone).collect(),
        rates: (spec.rates.iter())
            .map(|quota| (Limit::cell(name, &spec.name, &scope, quota.window().as_nanos()), *quota))
            .collect(),
    };
    Attached::Active(Arc::new(LimitSet::new(name.clone(), specs.iter().map(limit).collect())))
}

/// Policies of one kind by target. Of several the first by namespace and name wins, as the oldest does in a cluster.
fn attach<'m, T: 'm>(
    policies: impl Iterator<Item = (&'m Meta, &'m Target, Attached<T>)>,
    problems: &mut Vec<Problem>,
) -> ByTarget<T> {
    let mut policies: Vec<_> = policies.collect();
    policies.sort_by(|(a, _, _), (b, _, _)| a.object.cmp(&b.object));
    let mut attached: HashMap<Target, (Attached<T>, &ObjectName)> = HashMap::new();
    for (meta, target, state) in policies {
        match attached.get(target) {
            // One object that is there twice was reported as such.
            Some((_, winner)) if *target != Target::Unknown && **winner != meta.object => problems.push(Problem {
                severity: Severity::Warning,
                place: meta.place.clone(),
                object: Some(meta.object.clone()),
                field: "spec.targetRef".to_owned(),
                message: format!("{winner} has the same target, and wins"),
                expected: None,
                remedy: Some("keep one policy of a kind per target".to_owned()),
            }),
            Some(_) if *target != Target::Unknown => {}
            _ => {
                attached.insert(target.clone(), (state, &meta.object));
            }
        }
    }
    attached.into_iter().map(|(target, (state, _))| (target, state)).collect()
}

/// The policy of a kind for `route`: its own, else the Gateway's; one whose target is unknown shuts everything.
fn effective<T>(policies: &ByTarget<T>, gateway: &Gateway, route: &HttpRoute) -> Attached<T> {
    let (own, parent) = (&route.meta.object, &gateway.meta.object);
    let targets = [
        Target::Unknown,
        Target::HttpRoute { namespace: Arc::clone(&own.namespace), name: Arc::clone(&own.name) },
        Target::Gateway { namespace: Arc::clone(&parent.namespace), name: Arc::clone(&parent.name) },
    ];
    targets.iter().find_map(|target| policies.get(target)).cloned().unwrap_or(Attached::None)
}

/// A policy that counts for each route by itself, for this one.
fn per_route(limits: Attached<LimitSet>, manifests: &Manifests, route: &HttpRoute) -> Attached<LimitSet> {
    let Attached::Active(set) = &limits else { return limits };
    let policy = manifests.limit_policies.iter().find(|policy| policy.per_route && policy.meta.object == set.policy);
    let Some(policy) = policy else { return limits };
    let object = &route.meta.object;
    limit_state(policy, &Target::HttpRoute { namespace: object.namespace.clone(), name: object.name.clone() })
}

// === routes ===

fn routes(gateway: &Gateway, routes: &[HttpRoute], plan: impl Fn(&HttpRoute) -> Arc<RoutePlan>) -> RouteTable {
    let mut table = RouteTable::default();
    for (at, route) in routes.iter().enumerate() {
        let mut hosts = route.hosts_on(gateway);
        hosts.sort_unstable();
        hosts.dedup();
        if hosts.is_empty() {
            continue;
        }
        let plan = plan(route);
        let matches = route.rules.iter().enumerate().flat_map(|(i, rule)| rule.matches.iter().map(move |m| (i, m)));
        for (rule, found) in matches {
            for host in &hosts {
                table.add(host, found, &plan, (at, rule));
            }
        }
        if route.fault.matches {
            for host in &hosts {
                table.shut(host, &plan);
            }
        }
    }
    table.finish();
    table
}

impl HttpRoute {
    /// Whether the route may be attached to `gateway`, by labels of its namespace that are not known. Envoy would send it
    /// requests; under a broader route's policies they must not be decided.
    fn is_uncertain_on(&self, gateway: &Gateway) -> bool {
        let same = gateway.meta.namespace() == self.meta.namespace();
        let parents = self.parents.iter().filter(|parent| parent.is(gateway));
        let mut listeners =
            parents.flat_map(|parent| gateway.listeners.iter().filter(|l| l.admits(gateway, self, parent)));
        !same && listeners.all(|listener| listener.from == NamespacesFrom::Selector)
    }

    /// The hosts at which `gateway` serves the route; none if it is not attached.
    pub(super) fn hosts_on(&self, gateway: &Gateway) -> Vec<Host> {
        let listeners = gateway.listeners.iter().filter(|listener| {
            let mut parents = self.parents.iter().filter(|parent| parent.is(gateway));
            self.fault.parents || parents.any(|parent| listener.admits(gateway, self, parent))
        });
        let hosts = listeners.flat_map(|listener| match self.fault.hosts {
            true => vec![Host::Unknown],
            false => common_hosts(listener.hostname.as_deref(), &self.hostnames),
        });
        hosts.collect()
    }
}

/// Host names that both a listener and a route serve.
fn common_hosts(listener: Option<&str>, route: &[String]) -> Vec<Host> {
    let named = |name: &str| Host::Named(name.to_owned());
    match (listener, route) {
        (None, []) => vec![Host::Every],
        (Some(listener), []) => vec![named(listener)],
        (None, names) => names.iter().map(|name| named(name)).collect(),
        (Some(listener), names) => names.iter().filter_map(|name| common_host(listener, name)).map(named).collect(),
    }
}

/// The more specific of two names of which one covers the other.
fn common_host<'h>(a: &'h str, b: &'h str) -> Option<&'h str> {
    let covers = |wildcard: &str, name: &str| {
        wildcard.strip_prefix('*').is_some_and(|suffix| name.ends_with(suffix) && name.len() > suffix.len())
    };
    if a == b || covers(a, b) {
        Some(b)
    } else if covers(b, a) {
        Some(a)
    } else {
        None
    }
}

impl ParentRef {
    fn is(&self, gateway: &Gateway) -> bool {
        self.name == *gateway.meta.name() && self.namespace == *gateway.meta.namespace()
    }
}

impl Listener {
    fn admits(&self, gateway: &Gateway, route: &HttpRoute, parent: &ParentRef) -> bool {
        let same = gateway.meta.namespace() == route.meta.namespace();
        let from = self.from != NamespacesFrom::Same || same;
        from && parent.section.as_ref().is_none_or(|section| *section == self.name)
    }
}

impl Target {
    fn parts(&self) -> (&str, &str, &str) {
        match self {
            Target::Gateway { namespace, name } => ("Gateway", namespace, name),
            Target::HttpRoute { namespace, name } => ("HTTPRoute", namespace, name),
            Target::Unknown => ("", "", ""),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kind, namespace, name) = self.parts();
        write!(f, "{kind} {namespace}/{name}")
    }
}
