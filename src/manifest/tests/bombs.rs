//! Texts that are made to exhaust a recursive parser. A test that fails here may end the whole process.

use std::time::Instant;

use super::*;
use crate::document::Report;
use crate::problem::InForce;
use crate::problem::{Position, Severity};
use crate::test_util::assert_linear;

/// A policy whose only predicate is this text, in a block so that no YAML quoting gets in the way.
fn predicate(text: &str) -> String {
    format!(
        "apiVersion: kuadrant.io/v1
kind: RateLimitPolicy
metadata: {{name: p}}
spec:
  targetRef: {{group: gateway.networking.k8s.io, kind: Gateway, name: gw}}
  limits:
    a:
      rates: [{{limit: 1, window: 1m}}]
      when:
        - predicate: |-
            {text}
"
    )
}

#[test]
fn expression_bombs_are_refused_and_the_process_lives() {
    let times = |text: &str, count: usize| text.repeat(count);
    for (name, text, phrase) in [
        ("parentheses", format!("{}true{}", times("(", 10_000), times(")", 10_000)), "are accepted"),
        ("open parentheses", times("(", 10_000), "are accepted"),
        ("brackets", format!("{}{}", times("[", 10_000), times("]", 10_000)), "are accepted"),
        ("braces", format!("{}1{}", times("{1:", 10_000), times("}", 10_000)), "are accepted"),
        ("a sum", format!("{}a == 1", times("a+", 10_000)), "are accepted"),
        ("a short sum", format!("{}1 == 1", times("1+", 3_000)), "are accepted"),
        ("a disjunction", format!("{}true", times("true||", 1_000)), "are accepted"),
        ("negations", format!("{}true", times("!", 5_000)), "are accepted"),
        ("signs", format!("{}1 == 1", times("-", 5_000)), "are accepted"),
        ("selections", format!("auth{} == 1", times(".a", 4_000)), "are accepted"),
        ("conditionals", format!("{}true", times("true?true:", 700)), "are accepted"),
        ("a megabyte of sum", format!("{}a == 1", times("a+", 512 * 1024)), "bytes long"),
        ("a megabyte of text", format!("auth.identity.tier == \"{}\"", times("a", 1024 * 1024)), "bytes long"),
        ("a megabyte of parentheses", times("(", 1024 * 1024), "bytes long"),
        // Inside of the first bounds, and still a deep tree.
        ("a sum inside the bounds", format!("{}1 == 1", times("1+", 200)), "levels deep"),
        ("nesting inside the bounds", format!("{}true{}", times("[", 33), times("]", 33)), "at most 32"),
    ] {
        let manifests = read(&predicate(&text));
        let [problem] = manifests.problems.as_slice() else {
            panic!("{name}: {} problems", manifests.problems.len());
        };
        assert!(problem.is_error(), "{name}");
        assert_eq!(problem.field, "spec.limits.a.when[0].predicate", "{name}");
        assert_eq!((problem.place.line, problem.place.column), (11, 13), "{name}");
        assert!(problem.message.contains(phrase), "{name}: {}", head(&problem.message));
        assert!(manifests.limit_policies[0].limits.is_none(), "{name}");
    }
}

#[test]
fn message_about_a_bomb_is_short() {
    for text in ["(".repeat(10_000), format!("auth.identity.tier == \"{}\"", "a".repeat(1024 * 1024))] {
        let manifests = read(&predicate(&text));
        let shown = manifests.problems[0].to_string();
        assert!(shown.len() < 2_000, "{} bytes: {}", shown.len(), head(&shown));
    }
}

#[test]
fn reasonable_expressions_are_inside_the_bounds() {
    let any_of = |count: usize| {
        let tiers: Vec<String> = (0..count).map(|i| format!("\"tier-{i}\"")).collect();
        format!("auth.identity.tier in [{}]", tiers.join(", "))
    };
    for text in [
        any_of(100),
        format!("auth.identity.tier == \"{}\"", "a".repeat(4_000)),
        format!("{}true", "auth.identity.tier == \"a\" && ".repeat(20)),
        "((((((((((true))))))))))".to_owned(),
    ] {
        let manifests = read(&predicate(&text));
        assert_eq!(manifests.problems, [], "{}", head(&text));
    }
}

#[test]
fn yaml_bombs_are_refused_and_the_process_lives() {
    let nested = |open: &str, close: &str, count: usize| format!("a: {}{}", open.repeat(count), close.repeat(count));
    let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for i in 1..12 {
        let last = format!("*a{}", i - 1);
        laughs += &format!("a{i}: &a{i} [{}]\n", [&*last; 9].join(", "));
    }
    for (name, text) in [
        ("flow lists", nested("[", "]", 10_000)),
        ("open flow lists", "[".repeat(100_000)),
        ("flow mappings", nested("{a: ", "}", 10_000)),
        ("block lists", format!("{}a", "- ".repeat(10_000))),
        ("aliases", laughs),
    ] {
        let manifests = read(&text);
        let [problem] = manifests.problems.as_slice() else {
            panic!("{name}: {} problems", manifests.problems.len());
        };
        assert!(problem.is_error() && problem.message.starts_with("is not YAML"), "{name}");
        assert!(problem.message.len() < 2_000, "{name}: {}", head(&problem.message));
        assert_eq!(manifests.unparsable, [FILE.into()], "{name}");
    }
}

#[test]
fn yaml_bomb_inside_the_tiers_is_refused_too() {
    let tiers = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let text = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: tier-to-group-mapping, namespace: maas-api}}\ndata:\n  tiers: |\n    {tiers}\n"
    );
    let manifests = read(&text);
    assert_eq!(manifests.problems.len(), 1);
    assert!(manifests.problems[0].message.starts_with("the text is not YAML"));
    assert!(manifests.tier_mappings[0].tiers.is_none());
    assert_eq!(manifests.unparsable.len(), 0);
}

#[test]
fn annotation_bomb_is_refused() {
    let json = "[".repeat(100_000);
    let text = format!(
        "apiVersion: serving.kserve.io/v1alpha1\nkind: LLMInferenceService\nmetadata:\n  name: m\n  annotations: \
         {{alpha.maas.opendatahub.io/tiers: '{json}'}}\n"
    );
    let manifests = read(&text);
    assert_eq!(manifests.problems.len(), 1);
    assert_eq!(manifests.models[0].grant, ModelGrant::Unreadable);
}

#[test]
fn a_large_folder_is_read_in_time() {
    assert_linear("objects", 300, |number| {
        let object = |i| {
            let metadata = format!("metadata: {{name: a{i}, shape: round, nmespace: x}}");
            // One of a field too many, and one of a name that cannot be read.
            format!(
                "---\n{{apiVersion: v1, kind: ServiceAccount, {metadata}}}\n---\n{{apiVersion: kuadrant.io/v1, kind: RateLimitPolicy, metadata: {{name: {i}}}}}\n"
            )
        };
        let text: String = (0..number).map(object).collect();
        let started = Instant::now();
        let manifests = read(&text);
        let elapsed = started.elapsed();
        assert_eq!((manifests.limit_policies.len(), manifests.problems.len()), (number, 3 * number));
        elapsed
    });
}

#[test]
fn problems_of_many_objects_are_counted_and_named_in_time() {
    let file: Arc<str> = FILE.into();
    assert_linear("problems", 2_000, |number| {
        let report = Report::new(&file);
        let started = Instant::now();
        for i in 0..number {
            let at = Position { line: i as u32, column: 1 };
            report.name(Some(ObjectName::unreadable("Role", &report.place(at))));
            report.add(report.problem(Severity::Error, at, "", "is wrong"));
            assert_eq!(report.errors(), i + 1);
            report.rename(&ObjectName::new("Role", "ns", &format!("r{i}")));
        }
        let elapsed = started.elapsed();
        let problems = report.into_problems();
        let is_named = |(i, problem): (usize, &Problem)| *problem.object.as_ref().unwrap().name == *format!("r{i}");
        assert!(problems.iter().enumerate().all(is_named));
        elapsed
    });
}

#[test]
fn what_is_in_force_of_many_objects_is_found_in_time() {
    assert_linear("policies", 200, |number| {
        let policies = |window: &str| {
            let limits = format!("limits: {{a: {{rates: [{{limit: 1, window: {window}}}]}}}}");
            let target = "targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: gw}";
            let policy = |i| {
                format!(
                    "---\n{{apiVersion: kuadrant.io/v1, kind: RateLimitPolicy, metadata: {{name: p{i}}}, spec: {{{target}, {limits}}}}}\n"
                )
            };
            read(&(0..number).map(policy).collect::<String>())
        };
        let (last, mut now, mut new) = (policies("1m"), policies("1d"), policies("1d"));
        let started = Instant::now();
        now.keep_last_good(&last);
        new.say_what_is_in_force();
        let elapsed = started.elapsed();
        assert_eq!((now.kept.len(), now.limit_policies.iter().all(|policy| policy.limits.is_some())), (number, true));
        assert!(new.problems.iter().all(|problem| problem.in_force == Some(InForce::Shut)));
        elapsed
    });
}

/// What of a long text a message may show.
fn head(text: &str) -> &str {
    text.get(..200).unwrap_or(text)
}
