use super::*;

/// The target that a policy with this `targetRef` has; it is in error.
fn broken_target(targets: &[(&str, &[Row])], kind: &str, rest: &str) {
    for (target, rows) in targets {
        let manifests = expect(&object(kind, &format!("{target}\n{rest}")), rows);
        let auth = manifests.auth_policies.iter().map(|p| (&p.target, p.rules.is_none()));
        let limits = manifests.limit_policies.iter().map(|p| (&p.target, p.limits.is_none()));
        let states: Vec<_> = auth.chain(limits).collect();
        assert_eq!(states, [(&Target::Unknown, true)], "{target}");
    }
}

#[test]
fn targets_and_strategies_are_read_as_written() {
    let section = TARGET.replace('}', ", sectionName: http}");
    let limits = "limits: {a: {rates: [{limit: 1, window: 1m}]}}";
    let strategy = |overrides, merge| Some(Strategy { overrides, merge });
    let listener = Target::gateway(&ObjectName::new("Gateway", "ns", "gw"), Some("http"));
    for (spec, target, expected) in [
        (format!("{TARGET}{limits}"), gateway(), strategy(false, false)),
        (format!("{section}defaults: {{{limits}}}"), listener, strategy(false, false)),
        (format!("{TARGET}defaults: {{strategy: atomic, {limits}}}"), gateway(), strategy(false, false)),
        (format!("{TARGET}defaults: {{strategy: merge, {limits}}}"), gateway(), strategy(false, true)),
        (format!("{TARGET}overrides: {{{limits}}}"), gateway(), strategy(true, false)),
        (format!("{TARGET}overrides: {{strategy: merge, {limits}}}"), gateway(), strategy(true, true)),
    ] {
        let manifests = expect(&object("RateLimitPolicy", &spec), &[]);
        let policy = &manifests.limit_policies[0];
        assert_eq!((&policy.target, policy.strategy), (&target, expected), "{spec}");
    }
}

#[test]
fn policy_whose_target_is_unreadable_could_be_for_anything() {
    let targets: &[(&str, &[Row])] = &[
        ("targetRef: ▸text", &[(E, "spec.targetRef", "a mapping")]),
        ("targetRef: ▸{kind: Gateway, name: gw}", &[(E, "spec.targetRef", "`group` is missing")]),
        ("targetRef: ▸{group: gateway.networking.k8s.io, name: gw}", &[(E, "spec.targetRef", "`kind` is missing")]),
        (
            "targetRef: ▸{group: gateway.networking.k8s.io, kind: Gateway}",
            &[(E, "spec.targetRef", "`name` is missing")],
        ),
        (
            "targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: ▸''}",
            &[(E, "spec.targetRef.name", "is empty")],
        ),
        (
            "targetRef: {group: gateway.networking.k8s.io, kind: ▸Gatway, name: gw}",
            &[(E, "spec.targetRef.kind", "Gateway or HTTPRoute")],
        ),
        (
            "targetRef: {group: gateway.networking.k8s.io, kind: ▸Service, name: gw}",
            &[(E, "spec.targetRef.kind", "cannot target `Service`")],
        ),
        (
            "targetRef: {group: ▸networking.istio.io, kind: Gateway, name: gw}",
            &[(E, "spec.targetRef.group", "gateway.networking.k8s.io")],
        ),
    ];
    let rules = format!("rules:\n{}", indent(AUTHENTICATION, 2));
    broken_target(targets, "AuthPolicy", &rules);
    broken_target(
        targets,
        "RateLimitPolicy",
        "limits: {}".replace("{}", "{a: {rates: [{limit: 1, window: 1m}]}}").as_str(),
    );
    for kind in ["AuthPolicy", "RateLimitPolicy", "TokenRateLimitPolicy"] {
        for spec in ["", "spec: text\n", "spec: []\n", "spec: {}\n", "spec: {targetRef: null}\n"] {
            let head = "apiVersion: kuadrant.io/v1\n";
            let manifests = read(&format!("{head}kind: {kind}\nmetadata: {{name: p}}\n{spec}"));
            let auth = manifests.auth_policies.iter().map(|p| (&p.target, p.rules.is_none()));
            let limits = manifests.limit_policies.iter().map(|p| (&p.target, p.limits.is_none()));
            let states: Vec<_> = auth.chain(limits).collect();
            assert_eq!(states, [(&Target::Unknown, true)], "{kind} {spec}");
            assert!(manifests.problems.iter().all(Problem::is_error), "{kind} {spec}");
        }
    }
}
