use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::request::Headers;

/// A world for expressions to look at.
#[derive(Debug)]
struct World {
    identity: Option<Value>,
    extra: Vec<(Arc<str>, Value)>,
    metadata: Vec<(Arc<str>, Value)>,
    filters: Vec<(Arc<str>, Properties<'static>)>,
    path: String,
    query: Option<String>,
    headers: HashMap<String, String>,
    unset: Unset,
}

impl World {
    fn new(identity: Value) -> Self {
        World {
            identity: Some(identity),
            extra: Vec::new(),
            metadata: Vec::new(),
            filters: Vec::new(),
            path: "/llm/qwen3/v1/chat/completions".to_owned(),
            query: None,
            headers: HashMap::new(),
            unset: Unset::Absent,
        }
    }

    /// What `expression` yields: the fast way, and by the interpreter alone.
    fn both(&self, expression: &Expression) -> [Result<Value, EvalError>; 2] {
        let extra: Vec<(Arc<str>, Val<'_>)> =
            self.extra.iter().map(|(name, value)| (Arc::clone(name), Val::Json(Cow::Borrowed(value)))).collect();
        let metadata: Vec<(Arc<str>, Val<'_>)> =
            self.metadata.iter().map(|(name, value)| (Arc::clone(name), Val::Json(Cow::Borrowed(value)))).collect();
        let headers = Headers::Map(&self.headers);
        let scope = Scope {
            request: Attributes {
                method: "POST",
                host: "models.example.com",
                scheme: "https",
                path: &self.path,
                query: self.query.as_deref(),
                headers: Some(&headers),
                unset: self.unset,
            },
            identity: self.identity.as_ref().map(|base| Object { base: Some(base), extra: &extra }),
            metadata: &metadata,
            filters: &self.filters,
        };
        let json = |value: Val<'_>| value.to_json();
        [expression.eval(&scope).map(json), expression.eval_general(&scope).map(json)]
    }

    fn eval(&self, source: &str) -> Result<Value, EvalError> {
        let expression = Expression::compile(source).unwrap();
        let [fast, general] = self.both(&expression);
        assert_eq!(fast, general, "{source}");
        fast
    }
}

fn fails_to_compile(source: &str) -> CompileError {
    match Expression::compile(source) {
        Ok(_) => panic!("`{source}` compiles"),
        Err(error) => error,
    }
}

#[test]
fn the_forms_that_everyone_writes_run_directly() {
    for source in [
        "auth.identity.userid",
        "auth.identity.tier == \"free\"",
        "'free' == auth.identity.tier",
        "auth.identity[\"tier\"] == 'free'",
        "auth.metadata.matchedTier[\"tier\"]",
        "auth.identity.user.username.split(\":\")[3]\n",
        "request.path.split(\"/\")[1]",
        "{ \"groups\": auth.identity.user.groups }",
    ] {
        assert!(Expression::compile(source).unwrap().direct().is_some(), "{source}");
    }
    for source in ["request.headers[\"x-team\"]", "has(auth.identity.tier)", "auth.identity.tier != 'free'"] {
        // `request.headers` is a path, but its value is the interpreter's.
        let world = World::new(json!({"tier": "premium"}));
        let _ = world.eval(source);
    }
}

#[test]
fn values_of_the_seed_policies() {
    let mut world = World::new(json!({
        "user": {"username": "system:serviceaccount:maas-default-gateway-tier-free:alice", "groups": ["a", "b"]}
    }));
    world.metadata.push(("matchedTier".into(), json!({"tier": "free"})));
    world.extra.push(("userid".into(), json!("alice")));
    for (source, value) in [
        ("auth.identity.user.username.split(\":\")[3]", json!("alice")),
        ("auth.identity.userid", json!("alice")),
        ("auth.metadata.matchedTier[\"tier\"]", json!("free")),
        ("request.path.split(\"/\")[1]", json!("llm")),
        ("request.path.split(\"/\")[2]", json!("qwen3")),
        ("{ \"groups\": auth.identity.user.groups }", json!({"groups": ["a", "b"]})),
        ("auth.identity.user.groups.join(\",\").split(\",\").exists(g, g == \"b\")", json!(true)),
        ("!request.path.endsWith(\"/v1/models\")", json!(true)),
        ("request.host.lowerAscii().replace(\"models\", \"m\")", json!("m.example.com")),
    ] {
        assert_eq!(world.eval(source), Ok(value), "{source}");
    }
}

#[test]
fn a_missing_key_is_told_from_a_failure() {
    let world = World::new(json!({"tier": "free", "none": null, "list": [1], "number": 3}));
    for source in [
        "auth.identity.absent",
        "auth.identity.absent == \"free\"",
        "auth.metadata.absent.tier",
        "request.query",
        "request.path.split(\"/\")[99]",
        "request.headers[\"absent\"]",
    ] {
        assert!(matches!(world.eval(source), Err(EvalError::Missing(_))), "{source}: {:?}", world.eval(source));
    }
    for source in [
        "auth.identity.tier.x",
        "auth.identity.none.x == \"a\"",
        "auth.identity.list.x",
        "1 / 0",
        "auth.identity.number.split(\",\")[0]",
    ] {
        assert!(matches!(world.eval(source), Err(EvalError::Failed(_))), "{source}: {:?}", world.eval(source));
    }
    let nobody = World { identity: None, ..World::new(json!({})) };
    assert!(matches!(nobody.eval("auth.identity.tier == \"free\""), Err(EvalError::Missing(_))));
}

/// Compared with a real Envoy by `tests/it/attributes.rs`.
#[test]
fn what_a_request_does_not_have_is_empty_to_limits_and_absent_to_rules() {
    let query = "request.query";
    for (sent, as_limits_see_it, as_rules_see_it) in
        [(None, Some(""), None), (Some(""), Some(""), None), (Some("a=b"), Some("a=b"), Some("a=b"))]
    {
        for (unset, seen) in [(Unset::Empty, as_limits_see_it), (Unset::Absent, as_rules_see_it)] {
            let world = World { query: sent.map(str::to_owned), unset, ..World::new(json!({})) };
            let missing = || EvalError::Missing("query".to_owned());
            assert_eq!(world.eval(query), seen.map(Value::from).ok_or_else(missing), "{sent:?} {unset:?}");
            for source in ["has(request.query)", r#""query" in request"#] {
                assert_eq!(world.eval(source), Ok(json!(seen.is_some())), "{source} {sent:?} {unset:?}");
            }
        }
    }
    let limits = World { unset: Unset::Empty, ..World::new(json!({})) };
    assert_eq!(limits.eval(r#"!request.query.contains("dry_run=true")"#), Ok(json!(true)));
    assert_eq!(limits.eval(r#"request.query.split("&")[0]"#), Ok(json!("")));
    assert_eq!(limits.eval(r#"request.headers["host"]"#), Ok(json!("models.example.com")));
    assert!(
        matches!(limits.eval(r#"request.headers["absent"]"#), Err(EvalError::Missing(_))),
        "a header is no attribute"
    );
    let rules = World::new(json!({}));
    assert!(matches!(rules.eval(r#"request.headers["host"]"#), Err(EvalError::Missing(_))));
}

#[test]
fn nothing_equals_a_text_but_that_text() {
    let world = World::new(json!({"none": null, "list": ["free"], "number": 3, "map": {"a": "free"}, "yes": true}));
    for name in ["none", "list", "number", "map", "yes"] {
        assert_eq!(world.eval(&format!("auth.identity.{name} == \"free\"")), Ok(json!(false)), "{name}");
    }
}

/// Found by the fuzz target `cel`: the reason of a refusal goes to the log, where no token belongs.
#[test]
fn no_error_repeats_a_header() {
    let mut world = World::new(json!({"tier": "free"}));
    world.headers.insert("authorization".to_owned(), "Bearer s3cret".to_owned());
    for source in [
        "auth.identity[request.headers[\"authorization\"]]",
        "{\"a\": true}[request.headers[\"authorization\"].trim()]",
        "[1][request.headers[\"authorization\"]]",
    ] {
        let error = world.eval(source).unwrap_err();
        assert!(!error.to_string().contains("s3cret"), "{source}: {error}");
    }
    let predicate = Expression::compile_predicate("request.headers[\"authorization\"]").unwrap();
    let headers = Headers::Map(&world.headers);
    let request = Attributes { headers: Some(&headers), ..Attributes::default() };
    let scope = Scope { request, ..Scope::default() };
    let error = predicate.eval_bool(&scope).unwrap_err();
    assert_eq!(error.to_string(), "`request.headers[\"authorization\"]` yields no boolean");
}

#[test]
fn a_variable_outside_its_macro_is_a_failure_and_not_a_missing_key() {
    let world = World::new(json!({"tier": "free"}));
    let source = "[\"free\"].exists(tier, tier == auth.identity.tier) && tier == \"free\"";
    assert!(matches!(world.eval(source), Err(EvalError::Failed(_))), "{:?}", world.eval(source));
}

#[test]
fn unknown_names_do_not_compile() {
    for (source, message, remedy) in [
        ("auth.identity.tier.splitt(\",\")", "`splitt`", Some("`split`")),
        ("foo(1)", "`foo`", None),
        ("atuh.identity.tier == \"free\"", "`atuh`", Some("`auth`")),
        ("foo == bar", "`bar`", Some("`\"bar\"`")),
        ("request.headers.x-team == \"red\"", "`team`", Some("write `request.headers[\"x-team\"]`")),
        ("\"a\" == auth.metadata.tier-of-caller.tier", "`caller`", None),
        ("auth.identity.claims.my-own-tier != \"\"", "`own`", Some("write `auth.identity.claims[\"my-own-tier\"]`")),
        ("auth.identity.tier == pro", "`pro`", Some("write a text in quotes: `\"pro\"`")),
        ("auth.identity.tier in [free, \"pro\"]", "`free`", Some("`\"free\"`")),
        ("auth.identity.flag == True", "`True`", Some("did you mean `true`?")),
        ("context.request.http.path == \"/\"", "`context`", Some("`request.path`")),
        ("source.address == \"10.0.0.1\"", "`source`, which is not supported", Some("`auth.identity`")),
        ("requestBodyJSON(\"/model\") == \"granite\"", "`requestBodyJSON`, which is not supported", Some("HTTPRoute")),
        (
            "request.pathh == \"/\"",
            "asks for `request.pathh`, which no request has",
            Some("did you mean `request.path`?"),
        ),
        ("has(request.header)", "`request.header`", Some("did you mean `request.headers`?")),
        ("request[\"pathh\"] == \"/\"", "`request.pathh`", Some("`request.path`")),
        ("\"pathh\" in request", "`request.pathh`", Some("`request.path`")),
        ("request.?pathh.orValue(\"\") == \"\"", "`request.pathh`", Some("`request.path`")),
        ("request.zone == \"eu\"", "`request.zone`", Some("there are method, host")),
        ("request.auth.claims.sub == \"ann\"", "`request.auth`, which is not supported", Some("`auth.identity`")),
        ("request.time.getHours() == 3", "`getHours`", None),
        ("request.time == 3", "`request.time`, which is not supported", None),
        ("request.http.headers[\"a\"] == \"\"", "`request.http`", Some("leave `http` out")),
        ("request.path.first == \"a\"", "`first` in `request.path`, which is a text", Some("`request.path == ")),
        ("\"admin\" in request.headers[\"x-groups\"]", "`admin` in", Some("`request.headers[\"x-groups\"].contains(")),
        ("request.headers[\"X-Team\"] == \"red\"", "the header `X-Team`", Some("write `x-team`")),
        ("has(request.headers.X_team)", "the header `X_team`", Some("write `x_team`")),
        ("\"X-Team\" in request.headers", "the header `X-Team`", Some("write `x-team`")),
        ("request.headers.exists(h, h == \"X-Team\")", "the header `X-Team`", Some("write `x-team`")),
        ("[\"x-a\", \"X-B\"].exists(h, h in request.headers)", "the header `X-B`", Some("write `x-b`")),
        ("[\"X-A\"].all(h, request.headers[h] == \"\")", "the header `X-A`", Some("write `x-a`")),
    ] {
        let error = fails_to_compile(source);
        assert!(error.message.contains(message), "{source}: {error}");
        match remedy {
            Some(remedy) => assert!(error.remedy.unwrap().contains(remedy), "{source}"),
            None if message.ends_with("supported") => assert!(error.remedy.is_some(), "{source}"),
            None => assert_eq!(error.remedy, None, "{source}"),
        }
    }
    for source in
        ["request.headers.x_team", "request.headers.exists(h, h.lowerAscii() == \"x-team\")", "auth.tenant.X-1"]
    {
        assert!(Expression::compile(source).is_ok(), "{source}");
    }
    assert!(Expression::compile("[1, 2].all(x, x > 0) && [1].map(y, y + 1).size() == 1").is_ok(), "locals are known");
}

#[test]
fn errors_say_where_in_the_expression() {
    let error = fails_to_compile("auth.identity. == 3");
    assert!(error.message.contains("at 1:16 of the expression"), "{error}");
    assert_eq!(fails_to_compile("  ").message, "is empty");
}

#[test]
fn signs_of_other_languages_are_told_from_others() {
    const TIER: &str = "auth.identity.tier";
    for (source, remedy) in [
        (format!("{TIER} = \"free\""), "compare with `==`"),
        (format!("{TIER}=\"free\""), "compare with `==`"),
        (format!("{TIER} === \"free\""), "compare with `==`, not `===`"),
        (format!("{TIER} == \"a=b\" & {TIER} != \"\""), "write `&&`"),
        (format!("{TIER} == \"a&b\" | {TIER} != \"\""), "write `||`"),
        (format!("{TIER} <> \"free\""), "write `!=`"),
        (format!("{TIER} =~ \"fr.*\""), "write `matches`, as in `request.path.matches(\"^/a\")`"),
        (format!("{TIER} == \"a\" and {TIER} == \"b\""), "write `&&` for `and`"),
        (format!("{TIER} == \"a and b\" OR {TIER} == 'c'"), "write `||` for `or`"),
        (format!("not {TIER} == \"a\""), "write `!` for `not`"),
        (format!("{TIER} is \"a\""), "write `==` for `is`"),
        (format!("{TIER} == \u{201c}free\u{201d}"), "write quotes as `\"` or `'`"),
        (format!("{TIER} == \"free"), "close the quotes"),
        (format!("{TIER} == \"free\";"), "leave out the `;`"),
    ] {
        assert_eq!(fails_to_compile(&source).remedy.as_deref(), Some(remedy), "{source}");
    }
    assert_eq!(fails_to_compile("auth.identity. == 3").remedy, None);
    for source in ["auth.identity.tier == 'free'", "auth.identity.n <= 3 && auth.identity.n >= 1 || !(1 != 2)"] {
        assert!(Expression::compile(source).is_ok(), "{source}");
    }
}

#[test]
fn predicates_that_can_never_be_boolean_do_not_compile() {
    for source in [
        "\"free\"",
        "1",
        "null",
        "[true]",
        "{\"a\": true}",
        "auth.identity.a + 1",
        "size(auth.identity.l)",
        "true ? 1 : 2",
    ] {
        assert!(Expression::compile_predicate(source).is_err(), "{source}");
    }
    for source in [
        "true",
        "auth.identity.flag",
        "auth.identity.a == 1",
        "\"a\" in auth.identity.l",
        "has(auth.identity.a)",
        "[1].exists_one(x, x == 1)",
        "[1].all(x, x > 0)",
    ] {
        assert!(Expression::compile_predicate(source).is_ok(), "{source}");
    }
}

#[test]
fn bombs_are_refused_before_they_are_parsed() {
    for (what, source, phrase) in [
        ("nesting", format!("{}1{}", "(".repeat(50), ")".repeat(50)), "nests 50 brackets deep"),
        ("terms", vec!["auth"; 450].join("+"), "has 449 operators"),
        ("negations", format!("{}true", "!".repeat(3_000)), "has 3000 operators"),
        ("length", format!("\"{}\"", "a".repeat(100_000)), "bytes long"),
        ("selections", format!("auth{}", ".a".repeat(1_000)), "has 1000 operators"),
        ("conditionals", format!("{}1", "true ? 1 : ".repeat(500)), "has 1000 operators"),
        ("lists", format!("{}{}", "[".repeat(200), "]".repeat(200)), "nests 200 brackets deep"),
        ("depth", vec!["1"; 100].join("+"), "levels deep"),
        // Found by the fuzz target `cel`: short, flat enough, and without an end in sight once evaluated.
        ("nested macros", format!("{}1{}", "request.path.split('').map(a, ".repeat(8), ")".repeat(8)), SLOW),
        ("doubled texts", format!("['a']{}", ".map(x, x + x)".repeat(20)), LARGE),
        ("multiplied texts", format!("'aaaaaaaa'{}", ".replace('a', 'aaaaaaaa')".repeat(20)), LARGE),
    ] {
        let error = fails_to_compile(&source);
        assert!(error.message.contains(phrase), "{what}: {error}");
    }
}

/// Of expressions that take too long, and of those that make too much.
const SLOW: &str = "could keep a request waiting";
const LARGE: &str = "could make more than 16 MiB";

/// What people write, over lists too: none of it is taken for a bomb.
const ORDINARY: &[&str] = &[
    "auth.identity.user.groups.exists(g, g.matches(\"^tier-[a-z]+$\"))",
    "auth.identity.user.groups.filter(g, g.startsWith(\"tier-\")).map(g, g.substring(5))",
    "auth.identity.user.groups.exists(g, [\"a\", \"b\", \"c\", \"d\", \"e\", \"f\", \"g\", \"h\"].exists(x, x == g))",
    "auth.identity.user.groups.exists(g, g in [\"a\", \"b\", \"c\", \"d\", \"e\", \"f\", \"g\", \"h\"])",
    "request.headers.exists(h, h.startsWith(\"x-team-\"))",
    "request.path.split(\"/\").filter(p, p != \"\").size() > 2",
    "\"tenant:\" + auth.identity.userid + \"/\" + request.headers[\"x-team\"]",
    "request.path.replace(\"/v1/\", \"/\").lowerAscii().split(\"/\")[1]",
    "auth.identity.user.groups.map(g, \"group:\" + g).join(\",\")",
    "\"%s of %s\".format([auth.identity.userid, auth.identity.tier])",
    "request.headers.exists(h, h.lowerAscii() == 'x-mark' && request.headers[h] == 'true')",
    "request.headers.exists(h, h.startsWith(\"x-\") && request.headers[h] != \"\")",
    "[\"a\", \"b\"].exists(h, h in request.headers && request.headers[h] == \"x\")",
    "request.headers.all(h, request.headers[h].size() < 8000 && !request.headers[h].matches(\"[<>]\"))",
    "request.headers.exists_one(h, request.headers[h].lowerAscii().contains(\"team\"))",
    "request.headers.filter(h, h.startsWith(\"x-\")).map(h, h + \"=\" + request.headers[h]).join(\",\")",
    "request.headers.map(h, request.headers[h].trim()).size() > 3",
    "request.headers.exists(h, request.headers[?h].orValue(\"\") == auth.identity.tier)",
    "auth.identity.user.groups.exists(g, g == request.headers[\"x-team\"] || g == auth.identity.tier)",
    "request.headers[\"x-groups\"].split(\",\").exists(g, g in [\"red\", \"blue\"])",
];

/// As much work as is accepted: every value that is looked up is as large, or as many, as it can be.
const HARDEST: &[&str] = &[
    "auth.identity.user.groups.all(g, request.headers[\"x-large\"].contains(g) == false)",
    "auth.identity.user.groups.all(g, [1, 2, 3, 4].all(n, !request.headers[\"x-large\"].contains(\"aa\")))",
    "auth.identity.user.groups.all(g, [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20].all(n, has(auth.identity.tier)))",
    "auth.identity.user.groups.all(g, g in auth.identity.user.groups && !(request.headers[\"x-large\"] in auth.identity.user.groups))",
    "request.headers[\"x-large\"].split(\"\").all(c, c != request.method && c in [\"a\", \"v\"])",
];

#[test]
fn what_could_keep_a_request_waiting_or_grow_without_a_bound_is_refused() {
    const GROUPS: &str = "auth.identity.user.groups";
    let sum = |of: &str, times: usize| vec![of; times].join(" + ");
    let tests = "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20].all(n, has(auth.identity.tier))";
    for (what, source, phrase) in [
        ("three loops", format!("{GROUPS}.all(a, {GROUPS}.all(b, {GROUPS}.all(c, a + b == c)))"), SLOW),
        (
            "two loops over everything",
            format!("{GROUPS}.all(a, {GROUPS}.all(b, a.matches(\"x\") == b.matches(\"y\")))"),
            SLOW,
        ),
        (
            "every pair of headers",
            "request.headers.all(a, request.headers.all(b, request.headers[a] != b))".to_owned(),
            SLOW,
        ),
        (
            "a header for each group, changed",
            format!("{GROUPS}.map(g, request.headers[g].lowerAscii()).size() > 0"),
            LARGE,
        ),
        ("an identity for each group", format!("{GROUPS}.all(g, auth.?identity.?tier.orValue(\"\") != g)"), LARGE),
        ("a split for each header", "request.headers.all(h, request.path.split(\"/\").size() > 1)".to_owned(), SLOW),
        ("a sum of lists", format!("({}).all(g, {tests})", sum(GROUPS, 50)), SLOW),
        (
            "a sum of lists that callers send",
            format!("({}).all(g, g != \"a\")", sum("request.headers[\"x\"].split(\",\")", 20)),
            SLOW,
        ),
        (
            "a computed replacement",
            "request.path.replace(\"a\", request.path)".to_owned(),
            "replaces by something computed",
        ),
        ("a large replacement", format!("request.path.replace(\"a\", \"{}\")", "b".repeat(500)), LARGE),
        ("a copy of everything for each", format!("{GROUPS}.map(g, request.path + g)"), LARGE),
        (
            "a computed pattern",
            "request.path.matches(request.headers[\"x\"])".to_owned(),
            "expression that is computed",
        ),
        ("a large pattern", "request.path.matches(\"(a{1000}){1000}\")".to_owned(), "size limit"),
        ("no pattern", "request.path.matches(\"(\")".to_owned(), "unclosed group"),
        ("a computed format", "request.path.format([1.0])".to_owned(), "formats by a text that is computed"),
        ("a long format", "\"%.999999999f\".format([1.0])".to_owned(), "more than 999 digits"),
    ] {
        let error = fails_to_compile(&source);
        assert!(error.message.contains(phrase), "{what}: {error}");
    }
    for source in ORDINARY {
        assert!(Expression::compile(source).is_ok(), "{source}: {}", Expression::compile(source).unwrap_err());
    }
}

/// For the largest request that expressions may see; a larger one is undecided at once.
#[test]
fn the_largest_request_is_answered_in_bounded_time() {
    let mut world = World::new(json!({
        "userid": "jland", "tier": "free",
        "user": {"groups": (0..1024).map(|n| format!("group-{n:04}-of-forty-bytes-like-most-others")).collect::<Vec<_>>()},
    }));
    world.path = format!("/{}", "a/".repeat(8_000));
    world.headers = (0..700).map(|n| (format!("x-header-{n}"), "value".repeat(4))).collect();
    let mut compiled: Vec<Expression> = ORDINARY.iter().map(|source| Expression::compile(source).unwrap()).collect();
    compiled.push(Expression::compile("request.path.split(\"\").map(c, c.upperAscii()).size() > 1").unwrap());
    let started = std::time::Instant::now();
    for expression in &compiled {
        let result = world.both(expression);
        assert!(!result.iter().any(|value| value.as_ref().is_err_and(|error| error.to_string().contains("more than"))));
    }
    world.path = "/llm".to_owned();
    world.headers = HashMap::from([("x-large".to_owned(), "v".repeat(63 * 1024))]);
    for source in HARDEST {
        let result = world.eval(source);
        assert_eq!(result, Ok(json!(true)), "{source}");
    }
    // In a debug build, on a loaded machine.
    assert!(started.elapsed() < std::time::Duration::from_secs(30), "{:?}", started.elapsed());
    let larger = [
        (
            "headers",
            World {
                headers: (0..10_000).map(|n| (format!("x-{n}"), "v".to_owned())).collect(),
                ..World::new(json!({}))
            },
        ),
        ("path", World { path: "a".repeat(1 << 17), ..World::new(json!({})) }),
    ];
    let size = Expression::compile("request.headers.size() + request.path.size()").unwrap();
    for (what, world) in larger {
        let [_, general] = world.both(&size);
        assert_eq!(general.unwrap_err().to_string(), "the request holds more than an expression may see", "{what}");
    }
}

#[test]
fn the_largest_accepted_expressions_evaluate_on_half_a_workers_stack() {
    let sources = [
        format!("{}1{}", "(".repeat(MAX_NESTING), ")".repeat(MAX_NESTING)),
        vec!["1"; MAX_DEPTH - 1].join(" + "),
        format!("auth.identity{}", ".a".repeat(MAX_DEPTH - 4)),
    ];
    let compiled: Vec<Result<Expression, String>> = crate::source::on_large_stack(|| {
        sources.iter().map(|source| Expression::compile(source).map_err(|error| format!("{source}: {error}"))).collect()
    })
    .unwrap();
    let evaluate = move || {
        for expression in compiled {
            let _ = World::new(json!({})).both(&expression.unwrap());
        }
    };
    std::thread::Builder::new().stack_size(crate::listen::STACK / 2).spawn(evaluate).unwrap().join().unwrap();
}

#[test]
fn literals_compared_with_a_path_are_found() {
    let find = |source| Expression::compile(source).unwrap().literals_compared_with("auth.identity.tier");
    assert_eq!(find("auth.identity.tier == \"free\" && auth.identity.userid == \"x\""), ["free"]);
    assert_eq!(find("auth.identity.tier in [\"a\", \"b\"]"), ["a", "b"]);
    assert_eq!(find("auth.identity.userid == \"x\""), Vec::<String>::new());
}

#[test]
fn uses_tell_how_paths_are_looked_at() {
    let uses = |source: &str| {
        let uses = Expression::compile(source).unwrap().uses();
        let mut shown: Vec<String> = uses.paths.iter().map(|used| format!("{:?}: {:?}", used.path, used.how)).collect();
        shown.sort();
        (shown.join("; ").replace("Path { root: Identity, fields: ", "").replace(" }", ""), uses.opaque)
    };
    for (source, expected, opaque) in [
        ("true", "", false),
        (r#"auth.identity.tier == "a""#, r#"["tier"]: Compared(["a"])"#, false),
        (r#""a" != auth.identity["tier"]"#, r#"["tier"]: Compared(["a"])"#, false),
        (r#"auth.identity.tier in ["a", "b"]"#, r#"["tier"]: Compared(["a", "b"])"#, false),
        (r#"auth.identity.tier in ["a", 1]"#, r#"["tier"]: Read"#, false),
        (r#""a" in auth.identity.groups"#, r#"["groups"]: Read"#, false),
        ("auth.identity.level == 1", r#"["level"]: Read"#, false),
        ("auth.identity.a == auth.identity.b", r#"["a"]: Read; ["b"]: Read"#, false),
        ("has(auth.identity.user.name)", r#"["user", "name"]: Tested"#, false),
        (
            r#"!(auth.identity.a.startsWith("x") && auth.identity.b == "y")"#,
            r#"["a"]: Read; ["b"]: Compared(["y"])"#,
            false,
        ),
        (r#"auth.identity.groups.exists(g, g == "a")"#, r#"["groups"]: Read"#, false),
        (r#""tier" in auth.identity"#, "", true),
        ("size(auth.identity) > 1", "", true),
    ] {
        assert_eq!(uses(source), (expected.to_owned(), opaque), "{source}");
    }
}

fn leaves() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3_i64..3).prop_map(Value::from),
        Just(json!(1.5)),
        "[ab:/]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::hash_map("[abc]", inner, 0..3).prop_map(|map| json!(map)),
        ]
    })
}

fn worlds() -> impl Strategy<Value = World> {
    let objects = || prop::collection::hash_map("[abc]", leaves(), 0..4).prop_map(|map| json!(map));
    let named = || prop::collection::vec(("[abc]", leaves()), 0..2);
    let query = prop::option::of("[ab/:]{0,3}");
    let unset = prop_oneof![Just(Unset::Absent), Just(Unset::Empty)];
    let parts = (prop::option::of(objects()), named(), named(), named(), "/[ab/:]{0,6}", query, unset);
    parts.prop_map(|(identity, extra, metadata, filters, path, query, unset)| {
        let arc = |list: Vec<(String, Value)>| -> Vec<(Arc<str>, Value)> {
            let mut seen = std::collections::HashSet::new();
            list.into_iter().filter(|(name, _)| seen.insert(name.clone())).map(|(n, v)| (n.into(), v)).collect()
        };
        let filters = arc(filters).into_iter().map(|(name, value)| (name, Properties::Value(value))).collect();
        let (extra, metadata) = (arc(extra), arc(metadata));
        World { identity, extra, metadata, filters, path, query, headers: HashMap::new(), unset }
    })
}

fn paths() -> impl Strategy<Value = String> {
    let fields = prop::collection::vec(
        prop_oneof!["[abc]".prop_map(|f| format!(".{f}")), "[abc]".prop_map(|f| format!("[\"{f}\"]"))],
        0..4,
    );
    // What is a text has no fields.
    let texts = prop_oneof![Just("request.path"), Just("request.method"), Just("request.query"), Just("request")];
    let roots =
        prop_oneof![Just("auth.identity"), Just("auth.metadata"), Just("auth"), Just("auth.a"), Just("auth.b"),];
    prop_oneof![
        texts.prop_map(str::to_owned),
        (roots, fields).prop_map(|(root, fields)| format!("{root}{}", fields.concat()))
    ]
}

fn expressions() -> impl Strategy<Value = String> {
    prop_oneof![
        paths(),
        (paths(), "[ab]{0,2}").prop_map(|(path, text)| format!("{path} == \"{text}\"")),
        (paths(), "[ab]{0,2}").prop_map(|(path, text)| format!("\"{text}\" == {path}")),
        (paths(), "[:/a]{0,1}", 0_usize..4).prop_map(|(path, by, at)| format!("{path}.split(\"{by}\")[{at}]")),
        (paths(), "[ab]").prop_map(|(path, key)| format!("{{\"{key}\": {path}}}")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// The direct way yields what the interpreter yields: absent roots and leaves, null, numbers and lists included.
    #[test]
    fn direct_access_equals_the_interpreter(world in worlds(), source in expressions()) {
        let expression = Expression::compile(&source).unwrap();
        let [fast, general] = world.both(&expression);
        prop_assert_eq!(fast, general, "{}", source);
    }
}

#[test]
fn an_expression_names_what_it_looks_at() {
    use super::Reference::{Attribute, Auth, Header, Headers, Member, Property};
    let property = |name: &str| Property("identity".to_owned(), name.to_owned());
    let identity = || Member("identity".to_owned());
    let header = |name: &str| Header(name.to_owned());
    for (source, expected) in [
        (r#"auth.identity.tier == "free""#, vec![property("tier")]),
        (r#"auth.identity["tier"] in ["free"]"#, vec![property("tier")]),
        (r#"has(auth.identity.tier) && auth.identity.user.name != """#, vec![property("tier"), property("user")]),
        (r#""tier" in auth.identity"#, vec![property("tier")]),
        (r#""a" in auth.identity.groups"#, vec![property("groups")]),
        (r#"auth.identity.groups.exists(g, g == "a")"#, vec![property("groups")]),
        (r#"auth.identity.groups_str.split(",")[0] == """#, vec![property("groups_str")]),
        ("auth.identity == {}", vec![identity()]),
        (r#"auth.identity[request.path] == """#, vec![identity(), Attribute("path")]),
        ("auth.identity.exists(name, true)", vec![identity()]),
        (r#"auth.?identity.?tier.orValue("") == "free""#, vec![property("tier")]),
        (
            r#"auth.tenant.name == "a" && "b" in auth.region"#,
            vec![Property("tenant".to_owned(), "name".to_owned()), Property("region".to_owned(), "b".to_owned())],
        ),
        (r#"auth.tenant == "a" || "tenant" in auth"#, vec![Member("tenant".to_owned())]),
        (r#"size(auth) > 2"#, vec![Auth]),
        (r#"request.headers["x-one"] == """#, vec![header("x-one")]),
        (r#""x-one" in request.headers"#, vec![header("x-one")]),
        ("size(request.headers) > 1", vec![Headers]),
        (r#"request.headers[auth.identity.h] == """#, vec![property("h"), Headers]),
        (r#"request.path.split("/")[1] + request.query == """#, vec![Attribute("path"), Attribute("query")]),
        (
            r#"{"a": auth.identity.a}.a == (true ? request.host : request.scheme)"#,
            vec![property("a"), Attribute("host"), Attribute("scheme")],
        ),
        ("true", vec![]),
    ] {
        let references = Expression::compile(source).unwrap().references();
        assert_eq!(
            references.into_iter().collect::<std::collections::BTreeSet<_>>(),
            expected.into_iter().collect(),
            "{source}"
        );
    }
}

/// Whether a predicate can hold without the header `x`, with `x: 1`, and with another value.
#[test]
fn a_predicate_may_hold_as_far_as_one_header_tells() {
    for (source, without, one, other) in [
        (r#"request.headers["x"] != "1""#, false, false, true),
        (r#"request.headers["x"] == "1""#, false, true, false),
        (r#""1" == request.headers.x"#, false, true, false),
        (r#"!(request.headers["x"] == "1")"#, false, false, true),
        (r#"request.headers["x"] in ["1", "2"]"#, false, true, false),
        (r#"request.headers["x"].startsWith("a")"#, false, true, true),
        (r#"size(request.headers["x"]) > 1"#, false, true, true),
        (r#""x" in request.headers"#, false, true, true),
        ("has(request.headers.x)", false, true, true),
        (r#"!("x" in request.headers)"#, true, false, false),
        (r#"!("x" in request.headers) || request.headers["x"] != "1""#, true, false, true),
        (r#""x" in request.headers && request.headers["x"] == "1""#, false, true, false),
        (r#"has(request.headers.x) ? request.headers.x == "1" : false"#, false, true, false),
        (r#"auth.identity.tier == "free" && request.headers["x"] != "1""#, false, false, true),
        (r#"auth.identity.tier == "free" || request.headers["x"] != "1""#, true, true, true),
        // It is false where the tier is another one, so this may hold.
        (r#"!(auth.identity.tier == "free" && request.headers["x"] != "1")"#, true, true, true),
        (r#"request.headers[?"x"].orValue("1") == "1""#, true, true, false),
        (r#"request.headers["y"] == "1""#, true, true, true),
        (r#"request.headers.exists(h, h == "x")"#, true, true, true),
    ] {
        let predicate = Expression::compile_predicate(source).unwrap();
        let may = [None, Some("1"), Some("other")].map(|sent| predicate.may_hold("x", sent));
        assert_eq!(may, [without, one, other], "{source}");
    }
}

proptest! {
    /// What holds of a request may hold of its header.
    #[test]
    fn what_holds_may_hold(
        atoms in prop::collection::vec(0_usize..6, 3),
        operators in prop::collection::vec(any::<(bool, bool)>(), 3),
        sent in prop::option::of(prop_oneof![Just("1"), Just("2")]),
        tier in prop::option::of(prop_oneof![Just("free"), Just("premium")]),
    ) {
        const ATOMS: [&str; 6] = [
            r#"request.headers["x"] != "1""#,
            r#"request.headers["x"] == "2""#,
            r#""x" in request.headers"#,
            "has(request.headers.x)",
            r#"auth.identity.tier == "free""#,
            r#"request.headers["y"] == "1""#,
        ];
        let mut source = "true".to_owned();
        for (atom, (and, not)) in atoms.iter().zip(operators) {
            let (operator, sign) = (if and { "&&" } else { "||" }, if not { "!" } else { "" });
            source = format!("{sign}({source} {operator} {})", ATOMS[*atom]);
        }
        let expression = Expression::compile_predicate(&source).unwrap();
        let mut world = World::new(tier.map_or(json!({}), |tier| json!({ "tier": tier })));
        world.headers.extend(sent.map(|text| ("x".to_owned(), text.to_owned())));
        let holds = world.both(&expression)[1] == Ok(json!(true));
        prop_assert!(!holds || expression.may_hold("x", sent), "{}", source);
    }
}
