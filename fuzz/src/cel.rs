//! Expressions, and costs of limits. The input is the source, and after lines `%%%%` the path and `auth.identity` as JSON.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tiergate::expression::{EvalError, Expression, Object, Scope, TokenCost, Used, Val};
use tiergate::request::{Attributes, Headers, Unset};
use tiergate::source::on_large_stack;

use super::world::SECRET;

/// Generous: a sanitizer on a busy machine is slow, and an expression without a bound takes for ever.
const BOUND: Duration = Duration::from_secs(10);

/// What compiles has a value or an error soon, the direct form the same as the interpreter, and no error repeats a header.
pub fn cel(data: &[u8]) -> &'static str {
    let Ok(text) = str::from_utf8(data) else { return "not text" };
    let mut parts = text.split("\n%%%%\n");
    let source = parts.next().unwrap_or_default();
    let path = parts.next().unwrap_or("/llm/qwen3/v1/chat");
    let identity: Value = parts.next().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_else(|| {
        json!({"tier": "free", "userid": "alice", "user": {"username": "a:b:c:alice", "groups": ["g1", "g2"]}, "none": null})
    });
    // What is long takes long in every expression.
    if text.len() > source.len() + 100 {
        return "too long";
    }
    let is_cost = check_cost(source);
    let compiled = on_large_stack(|| (Expression::compile(source), Expression::compile_predicate(source).is_ok()));
    let (compiled, is_predicate) = compiled.expect("compiling does not panic");
    let expression = match compiled {
        Ok(expression) => expression,
        Err(error) => {
            assert!(!error.message.is_empty() && !is_predicate);
            return if is_cost { "cost" } else { "does not compile" };
        }
    };
    let tier = json!({"tier": "free"});
    let metadata = [(Arc::from("matchedTier"), Val::Json(Cow::Borrowed(&tier)))];
    let secret = format!("{SECRET}in-a-header");
    let headers: HashMap<String, String> =
        [("authorization", &*secret), ("x-team", "red,blue")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let headers = Headers::Map(&headers);
    let extra = [(Arc::from("laid-over"), Val::Text("free".into()))];
    let scope = Scope {
        request: Attributes {
            method: "POST",
            host: "models.example.com",
            scheme: "https",
            path,
            query: Some("a=b"),
            headers: Some(&headers),
            unset: Unset::Empty,
        },
        identity: Some(Object { base: Some(&identity), extra: &extra }),
        metadata: &metadata,
        filters: &[],
    };
    let started = Instant::now();
    let value = expression.eval(&scope).map(|value| value.to_json());
    let holds = expression.eval_bool(&scope);
    let took = started.elapsed();
    assert!(took < BOUND, "evaluating took {took:?}");
    for error in [value.as_ref().err(), holds.as_ref().err()].into_iter().flatten() {
        let (EvalError::Missing(why) | EvalError::Failed(why)) = error;
        assert!(!why.contains(&*secret), "{why}");
    }
    assert_eq!(holds.ok(), value.as_ref().ok().and_then(Value::as_bool));
    // A conditional is told by either branch.
    if let (Ok(Value::Bool(_)), false, false) = (&value, is_predicate, source.contains('?')) {
        panic!("yields {value:?}, and is refused as a predicate");
    }
    if expression.direct().is_none() {
        return "general";
    }
    assert_eq!(value, expression.eval_general(&scope).map(|value| value.to_json()));
    "direct"
}

/// Whether it is a cost. Then that is a number or an error soon, whatever an answer used, and no error repeats the name of a model,
/// which a caller may choose.
fn check_cost(source: &str) -> bool {
    let cost = match on_large_stack(|| TokenCost::compile(source)).expect("compiling does not panic") {
        Ok(cost) => cost,
        Err(error) => {
            assert!(!error.message.is_empty());
            return false;
        }
    };
    let secret = format!("{SECRET}of-a-model");
    let model = format!("llm/{secret}");
    let (all, prompt) = (u64::MAX, Used::new(u64::MAX, 0));
    let huge = Used { input: all, output: all, cached: all, reasoning: all, total: all };
    for used in [Used::default(), Used::new(1000, 60), Used::new(2_000_000, 2_000_000), prompt, huge] {
        let started = Instant::now();
        let told = cost.tokens(&used, &model);
        let took = started.elapsed();
        assert!(took < BOUND, "evaluating took {took:?}");
        if let Err(error) = told {
            let why = error.to_string();
            assert!(!why.is_empty() && !why.contains(&*secret), "{why}");
        }
    }
    true
}
