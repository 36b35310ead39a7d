//! Manifests: a folder's reading, what is kept of the reading before it, and the policy that comes of both.
//!
//! The input is one file beside some of the tour's. A line `%%%%` ends what the file said before; without one, it is new.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tiergate::clock::Nanos;
use tiergate::lint::compile;
use tiergate::manifest::Manifests;
use tiergate::policy::{Attached, GatewayPlan, Policy};
use tiergate::problem::{ObjectName, Problem};
use tiergate::request::{Headers, OperatorModel, Request};
use tiergate::rules::{Authentication, Method, Rule};
use tiergate::source::on_large_stack;

use super::world::{TOUR, gate, options, run};

const FILE: &str = "fuzz.yaml";

/// Reading the same is the same; an object in error is not used, and whatever stands there nobody passes without a token.
pub fn manifests(data: &[u8]) -> &'static str {
    let Ok(text) = str::from_utf8(data) else { return "not text" };
    let (before, now) = text.split_once("\n%%%%\n").unwrap_or(("", text));
    on_large_stack(|| {
        let alone = Manifests::read([(FILE, now)]);
        assert_places(&alone, now);
        assert_in_error_is_not_used(&alone);
        assert_same(&alone, &Manifests::read([(FILE, now)]));
        let mut kept = alone.clone();
        kept.keep_last_good(&alone);
        // The second of two objects of one name is in error, and the first is what is good of that name.
        if twice(&alone).is_empty() {
            assert_same(&alone, &kept);
        }
        assert_shut(compile(alone.clone(), &options()), &alone);

        let last = Manifests::read(beside().chain([(FILE, before)]));
        let mut folder = Manifests::read(beside().chain([(FILE, now)]));
        assert_in_error_is_not_used(&folder);
        folder.keep_last_good(&last);
        let policy = compile(folder.clone(), &options());
        assert_eq!(policy.problems, compile(folder, &options()).problems);
        assert_nobody_passes(policy);
        match () {
            () if !alone.unparsable.is_empty() => "not manifests",
            () if alone.problems.iter().any(Problem::is_error) => "in error",
            () if alone.read > 0 => "good",
            () => "nothing",
        }
    })
    .expect("reading does not panic")
}

/// A Gateway, a route and a grant. Not the policies, whose expressions would be most of the work.
fn beside<'f>() -> impl Iterator<Item = (&'f str, &'f str)> {
    TOUR.iter().copied().filter(|(name, _)| ["gateway.yaml", "lab.yaml"].contains(name))
}

fn assert_places(manifests: &Manifests, text: &str) {
    // Of a text that ends in a line break, the parser counts the empty line behind it.
    let lines = u32::try_from(text.split(['\n', '\r']).count()).unwrap() + 1;
    for problem in &manifests.problems {
        assert!(problem.place.line <= lines && &*problem.place.file == FILE, "{problem}");
        assert!(!problem.message.is_empty(), "{problem:?}");
    }
}

/// The names that several objects have.
fn twice(manifests: &Manifests) -> HashSet<ObjectName> {
    let second = manifests.problems.iter().filter(|problem| problem.message.starts_with("is defined a second time"));
    second.filter_map(|problem| problem.object.clone()).collect()
}

/// Objects that are there once, and in error, have nothing that could be used. (Of two of one name the first is.)
fn assert_in_error_is_not_used(manifests: &Manifests) {
    let twice = twice(manifests);
    let errors = manifests.problems.iter().filter(|problem| problem.is_error());
    let errors: HashSet<_> = errors.filter_map(|p| p.object.as_ref()).filter(|name| !twice.contains(name)).collect();
    for policy in &manifests.auth_policies {
        assert!(policy.rules.is_none() || !errors.contains(&policy.meta.object), "{}", policy.meta.object);
    }
    for policy in &manifests.limit_policies {
        assert!(policy.limits.is_none() || !errors.contains(&policy.meta.object), "{}", policy.meta.object);
    }
    for route in &manifests.routes {
        assert!(route.fault.any || !errors.contains(&route.meta.object), "{}", route.meta.object);
    }
    for gateway in &manifests.gateways {
        assert!(gateway.broken || !errors.contains(&gateway.meta.object), "{}", gateway.meta.object);
    }
    for mapping in &manifests.tier_mappings {
        assert!(mapping.tiers.is_none() || !errors.contains(&mapping.meta.object), "{}", mapping.meta.object);
    }
    let grants = manifests.roles.iter().map(|role| &role.meta);
    for meta in grants.chain(manifests.role_bindings.iter().map(|binding| &binding.meta)) {
        assert!(!errors.contains(&meta.object), "{}", meta.object);
    }
}

fn assert_same(one: &Manifests, other: &Manifests) {
    let summary = |m: &Manifests| {
        let auth: Vec<_> = m.auth_policies.iter().map(|p| (p.meta.object.clone(), p.rules.is_some())).collect();
        let limits: Vec<_> = m.limit_policies.iter().map(|p| (p.meta.object.clone(), p.limits.is_some())).collect();
        let routes: Vec<_> = m.routes.iter().map(|r| (r.meta.object.clone(), r.fault, r.rules.len())).collect();
        let roles: Vec<_> = m.roles.iter().map(|r| (r.meta.object.clone(), r.rules.clone())).collect();
        let bindings: Vec<_> = m.role_bindings.iter().map(|b| (b.meta.object.clone(), b.subjects.clone())).collect();
        let models: Vec<_> = m.models.iter().map(|m| (m.meta.object.clone(), m.grant.clone())).collect();
        let counts = (
            m.read,
            m.ignored.values().sum::<usize>(),
            m.gateways.len(),
            m.service_accounts.len(),
            m.tier_mappings.len(),
        );
        (auth, limits, routes, roles, bindings, models, counts)
    };
    assert_eq!(summary(one), summary(other));
    assert_eq!((&one.problems, &one.files, &one.unparsable), (&other.problems, &other.files, &other.unparsable));
}

/// No policy is active that the reading has an error in.
fn assert_shut(policy: Policy, manifests: &Manifests) {
    let (twice, mut open) = (twice(manifests), false);
    let in_error = |name: &ObjectName| {
        let mut errors = manifests.problems.iter().filter(|problem| problem.is_error());
        errors.any(|problem| problem.object.as_ref() == Some(name)) && !twice.contains(name)
    };
    for plan in policy.gateways.iter().flat_map(GatewayPlan::plans) {
        if let Attached::Active(auth) = &plan.auth {
            assert!(!in_error(&auth.policy), "{}", plan.name);
            let reviews = |rule: &Arc<Rule<Authentication>>| matches!(rule.what.method, Method::Token { .. });
            let rules = &auth.rules;
            // Some policies let callers in without a token, and say so.
            open |=
                rules.when.is_some() || rules.authentication.is_empty() || !rules.authentication.iter().all(reviews);
        }
        for limits in &plan.limits {
            assert!(!matches!(limits, Attached::Active(limits) if in_error(&limits.policy)), "{}", plan.name);
        }
    }
    if !open {
        assert_nobody_passes(policy);
    }
}

fn assert_nobody_passes(policy: Policy) {
    let gateways: Vec<_> = policy.gateways.iter().map(|gateway| gateway.name.clone()).collect();
    let gate = gate(policy);
    let headers = HashMap::new();
    for path in ["/llm/granite/v1/chat/completions", "/lab/phi", "/"] {
        for gateway in gateways.iter().map(|name| Some(&**name)).chain([None]).take(4) {
            let request = Request {
                method: "POST",
                host: "127.0.0.1:10000",
                scheme: "http",
                path,
                query: None,
                headers: Headers::Map(&headers),
                gateway,
                listener: None,
                port: None,
                peer: None,
                sni: None,
                model: OperatorModel::Unset,
                body: None,
            };
            let decision = run(gate.check(&request, Nanos(0)));
            assert!(decision.outcome.is_err(), "{path} of {gateway:?} passes without a token");
        }
    }
}
