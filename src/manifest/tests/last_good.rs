//! What is in force in place of what cannot be read.

use std::collections::HashSet;

use super::*;
use crate::problem::InForce;

fn object(version: &str, kind: &str, name: &str, rest: &str) -> String {
    format!("---\n{{apiVersion: {version}, kind: {kind}, metadata: {{name: {name}, namespace: ns}}, {rest}}}\n")
}

/// One whose name is a number cannot be read.
fn policy(name: &str) -> String {
    of_kind("RateLimitPolicy", name)
}

fn of_kind(kind: &str, name: &str) -> String {
    let target = "targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: gw}";
    object(
        "kuadrant.io/v1",
        kind,
        name,
        &format!("spec: {{{target}, limits: {{l: {{rates: [{{limit: 1, window: 1m}}]}}}}}}"),
    )
}

fn binding(name: &str) -> String {
    let rest = "roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}, subjects: []";
    object("rbac.authorization.k8s.io/v1", "RoleBinding", name, rest)
}

/// What is in force once `before` has become `now`.
fn become_of(before: &[(&str, &str)], now: &[(&str, &str)]) -> Manifests {
    let last = read_all(before);
    assert_eq!(last.problems, []);
    let mut now = read_all(now);
    now.keep_last_good(&last);
    now.say_what_is_in_force();
    now
}

/// The limit policies that are in force, and `shut` for each that shuts everything.
fn limits(manifests: &Manifests) -> Vec<String> {
    let shown = |policy: &LimitPolicy| match (&policy.limits, &policy.target) {
        (Some(_), _) => policy.meta.name().to_string(),
        (None, Target::Unknown) => "shut".to_owned(),
        (None, _) => "in error".to_owned(),
    };
    let mut all: Vec<String> = manifests.limit_policies.iter().map(shown).collect();
    all.sort_unstable();
    all
}

fn errors_in<'m>(manifests: &'m Manifests, file: &str) -> Vec<&'m Problem> {
    manifests.problems.iter().filter(|problem| problem.is_error() && &*problem.place.file == file).collect()
}

/// Which of them it was cannot be told, so all that it may have been stay in force.
#[test]
fn a_policy_that_goes_as_another_becomes_unreadable_takes_none_out_of_force() {
    let before = [policy("a"), policy("b")].concat();
    for (now, expected) in [
        (policy("5"), &["a", "b"][..]),
        ([policy("c"), policy("5")].concat(), &["a", "b", "c"]),
        (of_kind("RatePolicy", "5"), &["a", "b"]),
        ([policy("a"), policy("5")].concat(), &["a", "b"]),
        ([policy("a"), of_kind("RatePolicy", "b")].concat(), &["a", "b"]),
        (of_kind("RatePolicy", "b"), &["b"]),
    ] {
        let now = become_of(&[("f", &before)], &[("f", &now)]);
        assert_eq!(limits(&now), expected, "{:?}", now.problems);
        for error in errors_in(&now, "f") {
            assert!(matches!(error.in_force, Some(InForce::LastGood(_))), "{error}");
        }
    }
}

#[test]
fn an_unreadable_policy_that_was_never_good_stays_shut_beside_one_that_was() {
    let a = policy("a");
    let on_one_line = [policy("5"), policy("6")].map(|text| text.replace("---\n", ""));
    let on_one_line = format!("{{apiVersion: v1, kind: List, items: [{}]}}", on_one_line.join(", ")).replace('\n', "");
    for now in [
        &[("a", policy("5")), ("b", policy("6"))][..],
        &[("a", [policy("5"), policy("6")].concat())],
        &[("a", on_one_line)],
        &[("a", [policy("5"), of_kind("RatePolicy", "6")].concat())],
        &[("a", [of_kind("RatePolicy", "a"), of_kind("RatePolicy", "6")].concat())],
    ] {
        let now: Vec<(&str, &str)> = now.iter().map(|(file, text)| (*file, text.as_str())).collect();
        let manifests = become_of(&[("a", &a)], &now);
        assert_eq!(limits(&manifests), ["a", "shut"], "{now:?}");
        let shut = manifests.problems.iter().filter(|problem| problem.in_force == Some(InForce::AllShut));
        let shut: HashSet<_> = shut.map(|problem| &problem.object).collect();
        assert_eq!(shut.len(), 1, "{:?}", manifests.problems);
        for error in errors_in(&manifests, "b") {
            assert_eq!(error.in_force, Some(InForce::AllShut), "{error}");
        }
    }
}

/// What was removed must not grant again.
#[test]
fn of_what_grants_only_what_is_certain_is_kept() {
    let before = [binding("a"), binding("b")].concat();
    for (now, expected) in [
        ([binding("a"), binding("5")].concat(), &["a", "b"][..]),
        ([binding("5"), binding("6")].concat(), &["a", "b"]),
        (binding("5"), &[]),
    ] {
        let now = become_of(&[("f", &before)], &[("f", &now)]);
        let mut names: Vec<&str> = now.role_bindings.iter().map(|binding| &**binding.meta.name()).collect();
        names.sort_unstable();
        assert_eq!(names, expected);
        let kept = errors_in(&now, "f").iter().all(|error| matches!(error.in_force, Some(InForce::LastGood(_))));
        assert_eq!(kept, !expected.is_empty(), "{:?}", now.problems);
    }
}
