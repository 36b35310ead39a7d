use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::parse::{MAX_DEPTH, MAX_LENGTH, MAX_PARTS};
use super::value::MAX_TEXT;
use super::*;
use crate::expression::Object;
use crate::request::{Attributes, Headers, Unset};

/// A request that `scripts/record_selectors.go` has shown to Authorino v0.24.0 (gjson 1.14.0).
const DOCUMENT: &str = include_str!("../../../tests/data/selectors/document.json");
/// What Authorino's selectors yield of it, a line each.
const RECORDED: &str = include_str!("../../../tests/data/selectors/recorded.jsonl");

/// What selectors look at: a document such as Authorino's.
struct World {
    document: Value,
    metadata: Vec<(Arc<str>, Value)>,
    headers: HashMap<String, String>,
}

#[derive(Debug, PartialEq)]
struct Seen {
    value: Value,
    text: String,
    list: Vec<String>,
}

impl World {
    fn new(document: Value) -> Self {
        let members = |pointer: &str| document.pointer(pointer).and_then(Value::as_object).cloned().unwrap_or_default();
        let metadata = members("/auth/metadata").into_iter().map(|(name, value)| (name.into(), value)).collect();
        let text = |value: Value| value.as_str().unwrap().to_owned();
        let headers = members("/request/headers").into_iter().map(|(name, value)| (name, text(value))).collect();
        World { document, metadata, headers }
    }

    fn recorded() -> Self {
        World::new(serde_json::from_str(DOCUMENT).unwrap())
    }

    fn eval(&self, selector: &Selector) -> Result<Seen, EvalError> {
        let metadata: Vec<(Arc<str>, Val<'_>)> =
            self.metadata.iter().map(|(name, value)| (Arc::clone(name), Val::Json(Cow::Borrowed(value)))).collect();
        let headers = Headers::Map(&self.headers);
        let attribute = |name: &str| self.document.pointer(&format!("/request/{name}")).and_then(Value::as_str);
        let identity = self.document.pointer("/auth/identity");
        let scope = Scope {
            request: Attributes {
                method: attribute("method").unwrap_or_default(),
                host: attribute("host").unwrap_or_default(),
                scheme: attribute("scheme").unwrap_or_default(),
                path: attribute("path").unwrap_or_default(),
                query: attribute("query"),
                headers: Some(&headers),
                unset: Unset::Absent,
            },
            identity: identity.map(|identity| Object { base: Some(identity), extra: &[] }),
            metadata: &metadata,
            filters: &[],
        };
        Ok(Seen {
            value: selector.eval(&scope)?.to_json(),
            text: selector.eval_text(&scope)?.into_owned(),
            list: selector.eval_list(&scope)?.into_iter().map(Cow::into_owned).collect(),
        })
    }

    fn see(&self, text: &str) -> Seen {
        self.eval(&Selector::compile(text).unwrap_or_else(|error| panic!("{text}: {error}"))).unwrap()
    }
}

/// Go knows one kind of number.
fn numbers(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(items) => items.iter().map(numbers).collect(),
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), numbers(value))).collect(),
        other => other.clone(),
    }
}

#[test]
fn selectors_yield_what_authorino_yields() {
    let world = World::recorded();
    let mut rows = 0;
    for line in RECORDED.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let text = row["selector"].as_str().unwrap();
        let seen = world.see(text);
        let list: Vec<String> = serde_json::from_value(row["list"].clone()).unwrap();
        let recorded = Seen { value: numbers(&row["value"]), text: row["text"].as_str().unwrap().to_owned(), list };
        assert_eq!(Seen { value: numbers(&seen.value), ..seen }, recorded, "{text}");
        rows += 1;
    }
    assert!(rows > 200, "{rows} rows");
}

#[test]
fn texts_stay_whole_where_authorino_cuts_them() {
    let world = World::recorded();
    let rows = [
        ("auth.identity.quoted.@extract:{\"pos\":1}", json!("\"hi\"")),
        ("auth.identity.quoted.@replace:{\"old\":\"say \",\"new\":\"\"}", json!("\"hi\"")),
        ("auth.identity.json.@base64:encode|@base64:decode|@fromstr.role", json!("admin")),
        ("auth.identity.markup.@case:upper", json!("A<B>&C")),
        ("auth.identity.metadata.annotations.example\\.com/team.@case:lower", json!("red")),
        // No member of the JSON in the text, unless it is read.
        ("auth.identity.json.role", Value::Null),
        ("auth.identity.json.#", Value::Null),
        // `am9` is half of something.
        ("auth.identity.encoded.@replace:{\"old\":\"g\",\"new\":\"-\"}.@base64:decode", Value::Null),
        ("auth.identity.broken.@fromstr", Value::Null),
        ("request.path", json!("/llm/qwen3/v1/chat/completions")),
        ("context.request.http.path", json!("/llm/qwen3/v1/chat/completions?stream=true")),
    ];
    for (text, expected) in rows {
        assert_eq!(world.see(text).value, expected, "{text}");
    }
}

#[test]
fn strip_takes_what_is_not_printable() {
    let world = World::new(json!({"auth": {"identity": {
        "name": "\r\n\tada\u{0}\u{7f}\u{a0}\u{200b} lovelace\u{feff}", "list": ["a\n", 1, ["\u{200b}b"]], "mapping": {},
    }}}));
    assert_eq!(world.see("auth.identity.name.@strip").value, json!("ada lovelace"));
    assert_eq!(world.see("auth.identity.list.@strip").value, json!(["a", 1, ["b"]]));
    let selector = Selector::compile("auth.identity.mapping.@strip").unwrap();
    let failed = EvalError::Failed("`@strip` is asked of a mapping".to_owned());
    assert_eq!(world.eval(&selector), Err(failed));
}

#[test]
fn identity_has_what_is_laid_over_it_and_need_not_be_there() {
    let extra = [(Arc::from("userid"), Val::Text("ada".into())), (Arc::from("kind"), Val::Text("person".into()))];
    let base = json!({"kind": "user"});
    let of = |identity| Scope { identity, ..Scope::default() };
    let eval = |text: &str, scope: &Scope<'_>| Selector::compile(text).unwrap().eval(scope).unwrap().to_json();

    let scope = of(Some(Object { base: Some(&base), extra: &extra }));
    assert_eq!(eval("auth.identity.userid.@case:upper", &scope), json!("ADA"));
    assert_eq!(eval("auth.identity.kind", &scope), json!("person"));
    assert_eq!(eval("auth.identity", &scope), json!({"kind": "person", "userid": "ada"}));
    assert_eq!(eval("auth.identity.@keys", &scope), json!(["kind", "userid"]));

    let list = json!(["a", {"b": "c"}]);
    let scope = of(Some(Object { base: Some(&list), extra: &[] }));
    assert_eq!(eval("auth.identity.1.b", &scope), json!("c"));
    assert_eq!(eval("auth.identity.#", &scope), json!(2));

    let scope = of(None);
    for text in
        ["auth.identity", "auth.identity.userid", "auth.identity.userid.deeper", "request.headers.x", "request.path"]
    {
        assert_eq!(eval(text, &scope), Value::Null, "{text}");
    }
    assert_eq!(eval("{auth.identity.userid}:{request.path}", &scope), json!(":"));
}

#[test]
fn header_that_was_sent_twice_is_joined_by_a_comma() {
    let headers = Headers::List(vec![("x-team", b"red"), ("X-Team", b"blue"), ("accept", b"\xff")]);
    let request = Attributes { headers: Some(&headers), ..Attributes::default() };
    let scope = Scope { request, ..Scope::default() };
    let eval = |text: &str| Selector::compile(text).unwrap().eval(&scope).unwrap().to_json();
    assert_eq!(eval("request.headers.x-team"), json!("red,blue"));
    assert_eq!(eval("context.request.http.headers.x-team.@extract:{\"sep\":\",\",\"pos\":1}"), json!("blue"));
    assert_eq!(eval("request.headers"), json!({"accept": "\u{fffd}", "x-team": "red,blue"}));
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn what_selects_nothing_is_refused_with_a_remedy() {
    let rows = [
        ("", "is empty", None),
        (" ", "is empty", None),
        ("free", "selects nothing", Some("under `value`")),
        ("auth.identty.user", "selects nothing", Some("did you mean `auth.identity`?")),
        ("auth.authorization.x", "selects nothing", Some("begin with one of auth.identity, ")),
        ("auth", "selects nothing", Some("under `value`")),
        ("request", "selects nothing", Some("under `value`")),
        ("request.pat", "selects nothing", Some("did you mean `request.path`?")),
        ("request.id", "selects nothing", Some("begin with one of")),
        ("context.request.http.hots", "selects nothing", Some("did you mean `context.request.http.host`?")),
        ("context.request.http", "selects nothing", Some("begin with one of")),
        ("context.request.http.query", "selects nothing", Some("begin with one of")),
        ("@this", "selects nothing", Some("begin with one of")),
        ("request.headers.Authorization", "`Authorization` is not", Some("write `authorization`")),
        ("auth.identity.tier == \"free\"", "is CEL", Some("under `expression`")),
        ("auth.identity.user.groups[0]", "is CEL", Some("under `expression`")),
        ("request.path.split(\"/\")[1]", "is CEL", Some("under `expression`")),
        ("auth.identity.a && auth.identity.b", "is CEL", Some("under `expression`")),
        ("auth.identity.a || auth.identity.b", "is CEL", Some("under `expression`")),
        ("auth.identity.a ? \"x\" : \"y\"", "is CEL", Some("under `expression`")),
        ("size(auth.identity.user.groups)", "is CEL", Some("under `expression`")),
        ("{ \"groups\": auth.identity.user.groups }", "is CEL", Some("under `expression`")),
        ("[auth.identity.a,auth.identity.b]", "is CEL", Some("under `expression`")),
        ("'x'", "is CEL", Some("under `expression`")),
        ("auth.identity.te*", "has the wildcard `*`", Some("write `\\*`")),
        ("auth.identity.te?m", "has the wildcard `?`", Some("write `\\?`")),
        ("auth.identity.first name", "has white space in a name", Some("put a `\\` before it")),
        ("auth.identity..a", "has an empty part", None),
        ("auth.identity.", "has an empty part", None),
        ("auth.identity.a|", "has an empty part", None),
        ("auth.identity.a\\", "ends with a `\\`", None),
        ("auth.identity.!true", "has a `!`", Some("under `value`")),
        ("auth.identity.@upper", "uses `@upper`", Some("the modifiers are @this")),
        ("auth.identity.@tosrt", "uses `@tosrt`", Some("did you mean `@tostr`?")),
        ("auth.identity.@pretty", "`@pretty`, which is not supported", Some("remove it")),
        ("auth.identity.@join", "`@join`, which is not supported", Some("remove it")),
        ("auth.identity.a.@case", "no argument that it knows", Some("write `@case:lower` or `@case:upper`")),
        ("auth.identity.a.@case:uper", "no argument that it knows", Some("did you mean `@case:upper`?")),
        ("auth.identity.a.@case:lower.@tostr", "ends at a `|`", Some("write `@case:lower|@tostr`")),
        ("auth.identity.a.@base64:url", "no argument that it knows", Some("`@base64:encode` or `@base64:decode`")),
        ("auth.identity.a.@tostr:x", "takes none", None),
        ("auth.identity.a.@extract:{\"pos\":-1}", "whole number from 0 on", None),
        ("auth.identity.a.@extract:{\"sep\":1}", "is no text", None),
        ("auth.identity.a.@extract:{\"seo\":\",\"}", "the option `seo`", Some("did you mean `sep`?")),
        ("auth.identity.a.@extract:1", "is no mapping", Some("write `@extract:{\"sep\":…,\"pos\":…}`")),
        ("auth.identity.a.@extract:{\"pos\":1", "is not JSON", None),
        ("auth.identity.a.@extract:{}x", "has a `x` where", None),
        ("auth.identity.a.@replace", "needs an `old`", Some("@replace:{")),
        ("auth.identity.a.@flatten:{\"deep\":1}", "not true or false", None),
        ("auth.identity.#[a==\"b\"]", "`#[…]`, which gjson gave up", Some("write it as `#(…)`")),
        ("auth.identity.#(a==\"b\"", "never closed", None),
        ("auth.identity.#()", "empty query", None),
        ("auth.identity.#(a!b)", "operator that is not known", None),
        ("auth.identity.#(a==\"b)", "never closed", None),
        ("auth.identity.#(a==~true)", "`~…`", Some("`true` or `false`")),
        ("auth.identity.#a", "begins with `#`", Some("write `\\#`")),
        ("{auth.identity.a", "never closed", Some("write `\\{`")),
        ("a{}b", "empty `{}`", Some("write `\\{\\}`")),
        ("{free}", "selects nothing", Some("under `value`")),
    ];
    for (text, message, remedy) in rows {
        let error = Selector::compile(text).expect_err(text);
        assert!(error.message.contains(message), "{text}: {error}");
        match remedy {
            Some(part) => assert!(error.remedy.as_ref().is_some_and(|it| it.contains(part)), "{text}: {error:?}"),
            None => assert_eq!(error.remedy, None, "{text}"),
        }
    }
}

#[test]
fn selectors_are_bounded_in_length_parts_and_depth() {
    let long = format!("auth.identity.{}", "a".repeat(MAX_LENGTH));
    let many = format!("auth.identity{}", ".a".repeat(MAX_PARTS));
    let deep = format!("auth.identity{}.a", ".#".repeat(MAX_DEPTH + 2));
    let nested = format!("auth.identity.{}a{}", "#(".repeat(MAX_DEPTH + 2), ")".repeat(MAX_DEPTH + 2));
    let placeholders = "{auth.identity.a}".repeat(MAX_PARTS + 1);
    for (text, message) in [
        (long, "bytes long"),
        (many, "parts"),
        (deep, "in each other"),
        (nested, "in each other"),
        (placeholders, "placeholders"),
    ] {
        let error = Selector::compile(&text).unwrap_err();
        assert!(error.message.contains(message), "{error}");
    }
}

#[test]
fn modifiers_that_multiply_a_text_are_bounded() {
    let world = World::new(json!({"auth": {"identity": {"a": "\\".repeat(1000)}}}));
    let doubling = format!("auth.identity.a{}", ".@tostr".repeat(40));
    let growing = format!("auth.identity.a.@replace:{{\"old\":\"\\\\\",\"new\":\"{}\"}}", "x".repeat(4000));
    for text in [doubling, growing] {
        let selector = Selector::compile(&text).unwrap();
        let failed = format!("a selector's modifiers would make more than {MAX_TEXT} bytes");
        assert_eq!(world.eval(&selector), Err(EvalError::Failed(failed)));
    }
}

/// Parts of selectors, some of them senseless.
const PARTS: &[&str] = &[
    "auth",
    "identity",
    "metadata",
    "user",
    "groups",
    "teams",
    "name",
    "0",
    "2",
    "#",
    "#(name==\"blue\")",
    "#(>1)#",
    "#(",
    "(",
    "@case:lower",
    "@tostr",
    "@fromstr",
    "@extract:{\"pos\":1}",
    "@extract:{",
    "@values",
    "@flatten",
    "@reverse",
    "@group",
    "@keys",
    "@strip",
    "@base64:decode",
    "@",
    "\\.",
    "\\",
    "{",
    "}",
    "{auth.identity.user}",
    "*",
    "ß",
    "\u{0}",
    "~",
];

fn part() -> impl Strategy<Value = String> {
    let fixed = prop::sample::select(PARTS).prop_map(str::to_owned);
    prop_oneof![fixed, "[a-z@#(){}\\\\.|:\"=%!]{0,6}", ".{0,3}"]
}

proptest! {
    #[test]
    fn no_text_panics(parts in prop::collection::vec((part(), prop::sample::select(&[".", "|", "", ":"][..])), 0..10), rooted: bool) {
        let mut text = if rooted { "auth.identity.".to_owned() } else { String::new() };
        for (part, separator) in parts {
            text.push_str(&part);
            text.push_str(separator);
        }
        if let Ok(selector) = Selector::compile(text.trim_end_matches(['.', '|', ':'])) {
            let _ = World::recorded().eval(&selector);
        }
    }

    #[test]
    fn plain_paths_yield_what_their_steps_yield(
        names in prop::collection::vec(prop::sample::select(&["user", "username", "groups", "teams", "metadata", "nothing", "x"][..]), 1..4),
        root in prop::sample::select(&["auth.identity", "auth.metadata", "auth.metadata.matchedTier"][..]),
    ) {
        let world = World::recorded();
        let mut selector = Selector::compile(&format!("{root}.{}", names.join("."))).unwrap();
        let fast = world.eval(&selector);
        let Form::Path(path) = &mut selector.form else { panic!("a path") };
        prop_assert!(path.plain.take().is_some());
        prop_assert_eq!(fast, world.eval(&selector));
    }
}
