//! Objects → policy: which policy applies to which route, who is granted what, which tiers there are.

use std::collections::{HashMap, HashSet};
use std::hash::Hasher;
use std::sync::Arc;
use std::time::Duration;

use siphasher::sip::SipHasher13;

use super::attach::{self, AuthAttachments, Enforcement, Levels, LimitAttachments, Ruled};
use super::hostless::Hostless;
use super::route::{Host, Served};
use super::served::{LabelsOf, Serving};
use super::{
    Attached, AuthPlan, GatewayPlan, ListenerPlan, Policy, RoutePlan, RouteTable, Tiers, aggregate, properties, tiers,
};
use crate::access::Rbac;
use crate::manifest::{Gateway, HttpRoute, Listener, Manifests, ModelGrant, Target, TierMapping, TierSpec};
use crate::problem::{InForce, ObjectName, Problem};
use crate::rules::{AuthRules, LimitKind, PolicyRule, Subject};
use crate::tier::{TierTable, service_account_group};
use crate::usage::Bounds;

/// What the process's flags say about compiling.
#[derive(Clone, Debug)]
pub struct Options {
    /// `namespace/name` of the tier ConfigMap: by name alone any tenant could redefine tiers.
    pub tier_mapping: String,
    /// The instance whose `<instance>-tier-<tier>` namespaces belong to the tiers; by default the Gateway's name.
    pub instance: Option<String>,
    /// Whether the tiers annotation of a model grants access by itself.
    pub grant_from_annotation: bool,
    /// `namespace/name` of the Gateway that requests are for where Envoy names none: it has to be there.
    pub gateway: Option<String>,
    /// The longest that a call may take: so long it counts at most as one that runs.
    pub call_time: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            tier_mapping: "maas-api/tier-to-group-mapping".to_owned(),
            instance: None,
            grant_from_annotation: false,
            gateway: None,
            call_time: Bounds::CALL_TIME,
        }
    }
}

/// What was compiled, and of what.
#[derive(Debug)]
pub struct Compiled {
    pub policy: Policy,
    /// Without its problems, which the policy has.
    pub manifests: Manifests,
    /// How many of the policy's problems, the first ones, were found by reading.
    pub read: usize,
}

/// The tiers of a mapping: `None` without one, or what is wrong with it.
pub type Mapping<'m> = Option<Result<&'m [TierSpec], Arc<str>>>;

/// Whose `<instance>-tier-<tier>` namespaces belong to the tiers.
#[must_use]
pub fn instances<'m>(manifests: &'m Manifests, options: &'m Options) -> Vec<&'m str> {
    let name = |gateway: &'m Gateway| &**gateway.meta.name();
    match &options.instance {
        Some(instance) => vec![instance],
        None => manifests.gateways.iter().map(name).collect(),
    }
}

/// Compiles what was read. Problems of single objects are already in `manifests`; those of objects that meet are added. What only
/// looks wrong is for the linter to say ([`crate::lint`]).
#[must_use]
pub fn compile(mut manifests: Manifests, options: &Options) -> Compiled {
    manifests.say_what_is_in_force();
    manifests.lease_calls(options.call_time);
    let mut problems = std::mem::take(&mut manifests.problems);
    manifests.routes.sort_by(|a, b| a.meta.seniority().cmp(&b.meta.seniority()));
    leave_foreign_mappings(&mut problems, &manifests, options);
    let read = problems.len();
    let mapping = mapping(&manifests, options, &problems);
    let instances = instances(&manifests, options);
    let mut policy = Policy {
        unready: unready(&manifests),
        rbac: rbac(&manifests, options, &instances),
        // Over HTTP nobody says which gateway is meant, so an instance has to be the only one.
        tiers: tiers(&mapping, if let [only] = instances.as_slice() { vec![only] } else { Vec::new() }),
        named_tiers: tiers::named(&manifests),
        objects: manifests.read,
        ignored: manifests.ignored.clone(),
        kept: manifests.kept.iter().map(|(object, since)| (object.clone(), *since)).collect(),
        places: manifests.metas().map(|meta| (meta.object.clone(), meta.place.clone())).collect(),
        ..Policy::default()
    };
    policy.learn_names(&manifests);
    let labels = manifests.namespace_labels();
    let applied = Given { manifests: &manifests, labels, mapping, options }.apply(&mut policy, &mut problems);
    applied.say_what_is_in_force(&mut policy, &mut problems);
    problems.extend(applied.into_problems());
    policy.problems = problems;
    Compiled { policy, manifests, read }
}

/// Takes the problems of tier mappings out that are not the one that is meant: any other ConfigMap is somebody else's.
fn leave_foreign_mappings(problems: &mut Vec<Problem>, manifests: &Manifests, options: &Options) {
    let foreign = |mapping: &&TierMapping| mapping.meta.object.path() != options.tier_mapping;
    let foreign = manifests.tier_mappings.iter().filter(foreign).map(|mapping| &mapping.meta.object);
    let foreign: HashSet<&ObjectName> = foreign.collect();
    problems.retain(|problem| problem.object.as_ref().is_none_or(|object| !foreign.contains(object)));
}

fn unready(manifests: &Manifests) -> Option<String> {
    let files: Vec<&str> = manifests.unparsable.iter().map(|file| &**file).collect();
    (!files.is_empty())
        .then(|| format!("not YAML, or no Kubernetes object, so nothing of it is known: {}", files.join(", ")))
}

/// The tier mapping: absent, in error (with the first fault), or there.
#[must_use]
pub fn mapping<'m>(manifests: &'m Manifests, options: &Options, problems: &[Problem]) -> Mapping<'m> {
    let mapping = manifests.tier_mappings.iter().find(|mapping| mapping.meta.object.path() == options.tier_mapping)?;
    Some(mapping.tiers.as_deref().ok_or_else(|| {
        let of_mapping = |p: &&Problem| p.is_error() && p.object.as_ref() == Some(&mapping.meta.object);
        let first = problems.iter().find(of_mapping);
        first.map_or_else(|| "in error".into(), |problem| format!("{}: {}", problem.field, problem.message).into())
    }))
}

fn tiers(mapping: &Mapping<'_>, instances: Vec<&str>) -> Tiers {
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

// === impl Policy ===

impl Policy {
    /// Learns which service accounts and models there are.
    fn learn_names(&mut self, manifests: &Manifests) {
        for account in &manifests.service_accounts {
            let meta = &account.meta;
            let uid = meta.uid.clone().unwrap_or_else(|| derived_uid(meta.namespace(), meta.name()));
            let namespace = self.accounts.uids.entry(meta.namespace().to_string()).or_default();
            namespace.insert(meta.name().to_string(), uid);
        }
        for model in &manifests.models {
            let namespace = self.models.entry(model.meta.namespace().to_string()).or_default();
            namespace.insert(model.meta.name().to_string());
        }
    }
}

// === RBAC ===

fn rbac(manifests: &Manifests, options: &Options, instances: &[&str]) -> Rbac {
    let mut roles: HashMap<(&str, &str), Arc<[PolicyRule]>> = HashMap::new();
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
        let rules: Arc<[PolicyRule]> = Arc::new([PolicyRule {
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

/// The policies of all kinds.
struct AppliedPolicies<'m> {
    auth: AuthAttachments<'m>,
    requests: LimitAttachments<'m>,
    tokens: LimitAttachments<'m>,
    /// The AuthPolicies of one Gateway, with its tiers, by their rules, and by whether these and those on trial are usable as they are.
    plans: HashMap<(*const Ruled, [bool; 2]), Arc<AuthPlan>>,
    hostless: Hostless,
}

impl<'m> AppliedPolicies<'m> {
    /// `unusable` are limit policies that are right by themselves, and in error here.
    fn new(manifests: &'m Manifests, unusable: &HashSet<ObjectName>) -> Self {
        AppliedPolicies {
            auth: attach::auth_policies(manifests),
            requests: attach::limit_policies(manifests, LimitKind::Requests, unusable),
            tokens: attach::limit_policies(manifests, LimitKind::Tokens, unusable),
            plans: HashMap::new(),
            hostless: Hostless::default(),
        }
    }

    fn plan(&mut self, spot: &Spot<'_>, tiers: &Tiers) -> RoutePlan {
        let route = &spot.route.meta.object;
        if spot.route.fault.any || !spot.serving.certain {
            return spot.plan(Attached::Broken(route.clone()));
        }
        let site = Site { levels: spot.levels(), object: route, served: &spot.serving.served };
        self.plan_at(&site, tiers, spot.plan(Attached::None))
    }

    /// What a Gateway, and one of its listeners, say where no route is.
    fn own_plan(&mut self, gateway: &Gateway, section: Option<&str>, host: &Host, tiers: &Tiers) -> RoutePlan {
        let object = &gateway.meta.object;
        let (whole, none) = (Target::gateway(object, None), Target::gateway(object, Some("")));
        let levels = [whole, Target::gateway(object, Some(section.unwrap_or_default())), none.clone(), none];
        let served = [Served { host: host.clone(), wider: None }];
        let (name, rule) = (object.path().into(), Arc::default());
        let plan = RoutePlan { name, rule, hash: 0, auth: Attached::None, limits: Vec::new(), overridden: Vec::new() };
        self.plan_at(&Site { levels, object, served: &served }, tiers, plan)
    }

    /// `plan` with the policies that apply at `site`.
    fn plan_at(&mut self, site: &Site<'_>, tiers: &Tiers, plan: RoutePlan) -> RoutePlan {
        let row = self.auth.at(&site.levels);
        let auth = match &row.attached {
            Attached::None => Attached::None,
            Attached::Broken(policy) => Attached::Broken(policy.clone()),
            Attached::Active(rules) => self.auth_plan(rules, site, tiers),
        };
        self.auth.note_plan(&row, &auth);
        let (requests, tokens) = (self.requests.at(&site.levels), self.tokens.at(&site.levels));
        let limits = [&requests, &tokens].map(|row| row.attached.clone());
        let limits = limits.into_iter().filter(|of_kind| !matches!(of_kind, Attached::None)).collect();
        let mut overridden = vec![Arc::clone(&row.overridden)];
        overridden.extend([requests, tokens].map(|row| Arc::clone(&row.overridden)));
        overridden.retain(|overridden| !overridden.is_empty());
        RoutePlan { auth, limits, overridden, ..plan }
    }

    fn auth_plan(&mut self, rules: &Arc<Ruled>, site: &Site<'_>, tiers: &Tiers) -> Attached<AuthPlan> {
        let fault = self.hostless.find(&rules.rules, rules.shadow, site.object, site.served);
        if let Some(origin) = fault.as_ref().filter(|_| !rules.shadow) {
            return Attached::Broken(origin.clone());
        }
        let trial = rules.trial.as_ref();
        let trial = trial.map(|trial| (trial, self.hostless.find(&trial.rules, true, site.object, site.served)));
        let faults = [fault.is_some(), matches!(trial, Some((_, Some(_))))];
        Attached::Active(Arc::clone(self.plans.entry((Arc::as_ptr(rules), faults)).or_insert_with(|| {
            let trial = trial.map(|(trial, fault)| plan_of(trial, fault, tiers, None));
            plan_of(rules, fault, tiers, trial)
        })))
    }

    /// Says which policies are in force; those that are not shut nothing, whatever is wrong with them.
    fn say_what_is_in_force(&self, policy: &mut Policy, problems: &mut [Problem]) {
        for Enforcement { enforced, overridden } in
            [self.auth.in_force(), self.requests.in_force(), self.tokens.in_force()]
        {
            policy.enforced.extend(enforced);
            policy.overridden.extend(overridden);
        }
        let spared = self.auth.spared().chain(self.requests.spared()).chain(self.tokens.spared());
        let spared: HashSet<&ObjectName> = spared.collect();
        let is_spared = |problem: &&mut Problem| problem.object.as_ref().is_some_and(|object| spared.contains(object));
        for problem in problems.iter_mut().filter(|problem| problem.in_force == Some(InForce::Shut)).filter(is_spared) {
            problem.in_force = Some(InForce::Nothing);
        }
    }

    /// Whether a policy is for one listener of the Gateway.
    fn tell_listeners_apart(&self, gateway: &Gateway) -> bool {
        let target = Target::gateway(&gateway.meta.object, None);
        self.auth.has_section_of(&target)
            || self.requests.has_section_of(&target)
            || self.tokens.has_section_of(&target)
    }

    fn into_problems(self) -> impl Iterator<Item = Problem> {
        let limits = self.requests.into_problems().into_iter().chain(self.tokens.into_problems());
        self.auth.into_problems().into_iter().chain(limits).chain(self.hostless.into_problems())
    }
}

// === routes ===

/// What is compiled.
struct Given<'m> {
    manifests: &'m Manifests,
    labels: LabelsOf<'m>,
    mapping: Mapping<'m>,
    options: &'m Options,
}

/// A rule of a route, where it is attached.
struct Spot<'s> {
    gateway: &'s Gateway,
    /// The listener, where policies tell listeners apart.
    section: Option<&'s str>,
    route: &'s HttpRoute,
    rule: &'s str,
    serving: &'s Serving,
}

/// Where policies apply: at a rule of a route, or at a Gateway itself.
struct Site<'s> {
    levels: Levels,
    /// The route, or the Gateway.
    object: &'s ObjectName,
    served: &'s [Served],
}

/// Listeners of one host name that nothing tells apart, and how each route is attached to them.
struct ListenerGroup<'m> {
    listeners: Vec<&'m Listener>,
    served: Vec<Serving>,
}

// === impl Given ===

impl<'m> Given<'m> {
    /// Fills in the Gateways of `policy`, and says which policies apply there.
    fn apply(&self, policy: &mut Policy, problems: &mut Vec<Problem>) -> AppliedPolicies<'m> {
        let mut unusable = HashSet::new();
        loop {
            let mut applied = AppliedPolicies::new(self.manifests, &unusable);
            let gateways = self.manifests.gateways.iter();
            policy.gateways = gateways.map(|gateway| self.gateway(gateway, &mut applied)).collect();
            // Only now is it known what limits can look at. Those that look at anything else are in error, and others may take
            // their place.
            let mut unmade = properties::unmade(policy, self.manifests);
            unmade.retain(|problem| problem.object.as_ref().is_none_or(|object| !unusable.contains(object)));
            if unmade.is_empty() {
                self.fill_in_own(policy, &unusable);
                return applied;
            }
            unusable.extend(unmade.iter().filter_map(|problem| problem.object.clone()));
            problems.extend(unmade);
        }
    }

    fn gateway(&self, gateway: &'m Gateway, applied: &mut AppliedPolicies<'m>) -> GatewayPlan {
        let instance = self.options.instance.as_deref().unwrap_or(gateway.meta.name());
        applied.plans.clear();
        let tiers = tiers(&self.mapping, vec![instance]);
        let apart = applied.tell_listeners_apart(gateway);
        let groups = self.groups(gateway, apart).into_iter();
        let listeners =
            groups.map(|group| self.listener(gateway, &group, apart, &mut |spot| applied.plan(spot, &tiers)));
        GatewayPlan { listeners: listeners.collect(), name: gateway.meta.object.path().into(), broken: gateway.broken }
    }

    /// The listeners of a Gateway. Those of one host name are one, unless policies tell them `apart`, or their routes do.
    fn groups(&self, gateway: &'m Gateway, apart: bool) -> Vec<ListenerGroup<'m>> {
        let mut groups: Vec<ListenerGroup<'_>> = Vec::new();
        for listener in &gateway.listeners {
            let routes = self.manifests.routes.iter();
            let served: Vec<_> = routes.map(|route| route.attached_to(gateway, listener, &self.labels)).collect();
            let has_host = |other: &&Listener| other.hostname == listener.hostname;
            let same = |group: &&mut ListenerGroup<'_>| {
                !apart && group.listeners.iter().all(has_host) && group.served == served
            };
            match groups.iter_mut().find(same) {
                Some(group) => group.listeners.push(listener),
                None => groups.push(ListenerGroup { listeners: vec![listener], served }),
            }
        }
        // A broken Gateway may have none.
        if groups.is_empty() {
            groups.push(ListenerGroup { listeners: Vec::new(), served: Vec::new() });
        }
        groups
    }

    fn listener(
        &self,
        gateway: &Gateway,
        group: &ListenerGroup<'_>,
        apart: bool,
        plan: &mut dyn FnMut(&Spot<'_>) -> RoutePlan,
    ) -> ListenerPlan {
        let ListenerGroup { listeners, served } = group;
        let section = listeners.first().filter(|_| apart).map(|listener| listener.name.as_str());
        let routes = table(gateway, self.manifests.routes.iter().zip(served), |route, rule, serving| {
            Arc::new(plan(&Spot { gateway, section, route, rule, serving }))
        });
        let hostname = listeners.first().and_then(|listener| listener.hostname.clone());
        ListenerPlan {
            names: listeners.iter().map(|listener| listener.name.as_str().into()).collect(),
            ports: listeners.iter().filter_map(|listener| listener.port).flat_map(|port| gateway.ports(port)).collect(),
            host: hostname.map_or(Host::Every, Host::Named),
            routes,
            own: None,
        }
    }

    /// Fills in what the Gateways of `policy` say where no route is. Those are policies apart from those of routes: nobody is to
    /// take one for in force because of it.
    fn fill_in_own(&self, policy: &mut Policy, unusable: &HashSet<ObjectName>) {
        let mut applied = AppliedPolicies::new(self.manifests, unusable);
        for (gateway, plan) in self.manifests.gateways.iter().zip(&mut policy.gateways) {
            let instance = self.options.instance.as_deref().unwrap_or(gateway.meta.name());
            applied.plans.clear();
            let tiers = tiers(&self.mapping, vec![instance]);
            let apart = applied.tell_listeners_apart(gateway);
            for listener in &mut plan.listeners {
                let section = listener.names.first().filter(|_| apart).map(|name| &**name);
                let own = applied.own_plan(gateway, section, &listener.host, &tiers);
                let is_any = !matches!(own.auth, Attached::None) || !own.limits.is_empty();
                listener.own = is_any.then(|| Arc::new(own));
            }
        }
    }
}

// === impl Spot ===

impl Spot<'_> {
    /// By what the rule can be reached.
    fn levels(&self) -> Levels {
        let (gateway, route) = (&self.gateway.meta.object, &self.route.meta.object);
        [
            Target::gateway(gateway, None),
            // Without a name it is the Gateway again, which adds nothing.
            Target::gateway(gateway, Some(self.section.unwrap_or_default())),
            Target::route(route, None),
            Target::route(route, Some(self.rule)),
        ]
    }

    /// Its plan, without limits.
    fn plan(&self, auth: Attached<AuthPlan>) -> RoutePlan {
        let route = &self.route.meta.object;
        RoutePlan {
            name: route.path().into(),
            rule: self.rule.into(),
            hash: hash_of(route),
            auth,
            limits: Vec::new(),
            overridden: Vec::new(),
        }
    }
}

fn plan_of(ruled: &Ruled, fault: Option<ObjectName>, tiers: &Tiers, trial: Option<Arc<AuthPlan>>) -> Arc<AuthPlan> {
    let Ruled { policy, rules, shadow, .. } = ruled;
    let rules = match fault {
        None => Arc::clone(rules),
        Some(_) => Arc::new(AuthRules { broken: fault, ..(**rules).clone() }),
    };
    Arc::new(AuthPlan { policy: Arc::clone(policy), rules, tiers: tiers.clone(), shadow: *shadow, trial })
}

fn table<'m>(
    gateway: &Gateway,
    routes: impl Iterator<Item = (&'m HttpRoute, &'m Serving)>,
    mut plan: impl FnMut(&HttpRoute, &str, &Serving) -> Arc<RoutePlan>,
) -> RouteTable {
    let mut table = RouteTable::new(gateway.order);
    for (at, (route, serving)) in routes.enumerate() {
        let served = &serving.served;
        if served.is_empty() {
            continue;
        }
        for (i, rule) in route.rules.iter().enumerate() {
            let plan = plan(route, &route.rule_name(i), serving);
            for (found, served) in rule.matches.iter().flat_map(|found| served.iter().map(move |one| (found, one))) {
                table.add(served, found, &plan, (at, i));
            }
        }
        if route.fault.matches {
            let plan = plan(route, "", serving);
            served.iter().for_each(|served| table.shut(&served.host, &plan));
        }
    }
    table.finish();
    table
}

fn hash_of(route: &ObjectName) -> u64 {
    let mut hasher = SipHasher13::new();
    for part in [&*route.namespace, &*route.name] {
        hasher.write_usize(part.len());
        hasher.write(part.as_bytes());
    }
    hasher.finish()
}
