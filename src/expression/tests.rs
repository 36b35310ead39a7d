mod cost;
mod names;
mod reference;
mod token_cost;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::request::{Headers, Unset};

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
    // Several filters may have one name.
    let filters = prop::collection::vec(("[ab]", leaves()), 0..4);
    let parts = (prop::option::of(objects()), named(), named(), filters, "/[ab/:]{0,6}", query, unset);
    parts.prop_map(|(identity, extra, metadata, filters, path, query, unset)| {
        let arc = |list: Vec<(String, Value)>| -> Vec<(Arc<str>, Value)> {
            let mut seen = std::collections::HashSet::new();
            list.into_iter().filter(|(name, _)| seen.insert(name.clone())).map(|(n, v)| (n.into(), v)).collect()
        };
        let filters = filters.into_iter().map(|(name, value)| (name.into(), Properties::Value(value))).collect();
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
