//! Texts that are made to exhaust a recursive parser. A test that fails here may end the whole process.

use super::*;

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
    use std::fmt::Write;
    let mut text = String::new();
    for i in 0..2_000 {
        writeln!(text, "---\n{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: a{i}}}}}").unwrap();
    }
    let manifests = read(&text);
    assert_eq!((manifests.service_accounts.len(), manifests.problems.len()), (2_000, 0));
}

/// What of a long text a message may show.
fn head(text: &str) -> &str {
    text.get(..200).unwrap_or(text)
}
