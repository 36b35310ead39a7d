use serde_json::json;

use super::*;

fn facts(entries: &[(&str, &str)]) -> Facts {
    let mut facts = Facts::default();
    for (key, value) in entries {
        facts.tell(key, value).unwrap();
    }
    facts
}

fn fault(entries: &[(&str, &str)]) -> String {
    let mut facts = Facts::default();
    entries.iter().find_map(|(key, value)| facts.tell(key, value).err()).expect("a fault")
}

/// The entry that is said to be missing.
fn missing(facts: &Facts, reference: &Reference) -> Option<String> {
    facts.check(reference, "policy a/b").err().map(|denial| {
        assert_eq!(denial.code, Code::RequestInvalid);
        denial.message.into_owned()
    })
}

#[test]
fn a_request_is_what_its_entries_say() {
    let told = facts(&[
        ("request.method", "POST"),
        ("request.host", "models.example.com"),
        ("request.path", "/llm/qwen3?a=b"),
        ("request.headers.X-One", "1"),
        ("request.headers", r#"{"x-two": "2", "x-three": null}"#),
        ("tiergate.gateway", "a/b"),
        ("somebody.elses", "entry"),
    ]);
    let request = told.request().unwrap();
    assert_eq!((request.method, request.host, request.path), ("POST", "models.example.com", "/llm/qwen3"));
    assert_eq!((request.query, request.gateway), (Some("a=b"), Some("a/b")));
    let headers =
        ["x-one", "x-two", "x-three"].map(|name| request.headers.joined(name).map(|value| value.into_owned()));
    assert_eq!(headers, [Some("1".to_owned()), Some("2".to_owned()), None]);
}

#[test]
fn without_method_host_or_path_there_is_no_request() {
    const ALL: [(&str, &str); 3] = [("request.method", "GET"), ("request.host", "h"), ("request.path", "/")];
    for (at, (name, _)) in ALL.iter().enumerate() {
        let mut rest = ALL.to_vec();
        rest.remove(at);
        let denial = facts(&rest).request().unwrap_err();
        assert_eq!(denial.message, format!("the descriptor has no entry `{name}`"));
    }
}

#[test]
fn what_is_not_told_is_not_taken_for_absent() {
    let property = |name: &str| Reference::Property("identity".to_owned(), name.to_owned());
    let identity = Reference::Member("identity".to_owned());
    let tenant = Reference::Property("tenant".to_owned(), "name".to_owned());
    let header = |name: &str| Reference::Header(name.to_owned());
    let no = |name: &str| Some(format!("the descriptor has no entry `{name}`"));
    let nothing = Facts::default();
    assert_eq!(missing(&nothing, &property("tier")), no("auth.identity.tier"));
    assert_eq!(missing(&nothing, &identity), no("auth.identity"));
    assert_eq!(missing(&nothing, &header("x-one")), no("request.headers.x-one"));
    assert_eq!(missing(&nothing, &Reference::Attribute("scheme")), no("request.scheme"));
    let parts = facts(&[("auth.identity.tier", "free"), ("request.headers.x-one", ""), ("request.scheme", "http")]);
    assert_eq!(missing(&parts, &property("tier")), None);
    assert_eq!(missing(&parts, &property("userid")), no("auth.identity.userid"));
    assert_eq!(missing(&parts, &identity), no("auth.identity"), "there may be other properties");
    assert_eq!(missing(&parts, &header("x-one")), None);
    assert_eq!(missing(&parts, &header("x-two")), no("request.headers.x-two"));
    assert_eq!(missing(&parts, &Reference::Attribute("scheme")), None);
    let whole = facts(&[("auth.identity", r#"{"tier": "free"}"#), ("request.headers", r#"{"x-two": null}"#)]);
    assert_eq!(missing(&whole, &property("userid")), None, "it is known that there is none");
    assert_eq!(missing(&whole, &identity), None);
    assert_eq!(missing(&whole, &header("x-two")), None, "it is known that it was not sent");
    assert_eq!(missing(&whole, &header("x-one")), no("request.headers.x-one"));
    assert!(missing(&whole, &Reference::Headers).is_some(), "no entry can tell all headers");
    for reference in [&tenant, &Reference::Member("tenant".to_owned()), &Reference::Auth] {
        assert_eq!(missing(&whole, reference), no("auth"), "{reference:?}");
    }
    let others = facts(&[("auth.identity", "{}"), ("auth", r#"{"region": "eu"}"#)]);
    assert_eq!(missing(&others, &tenant), None, "it is known that there is no such filter");
    assert_eq!(missing(&others, &Reference::Auth), None);
    let nobody = facts(&[("auth.identity", "null")]);
    assert_eq!((missing(&nobody, &property("tier")), nobody.identity()), (None, None));
}

#[test]
fn an_identity_that_is_told_whole_keeps_its_types() {
    let whole = facts(&[("auth.identity", r#"{"groups": ["a"], "level": 3}"#)]);
    assert_eq!(whole.identity(), Some(&json!({"groups": ["a"], "level": 3})));
    let parts = facts(&[("auth.identity.level", "3"), ("auth.identity.level", "3")]);
    assert_eq!(parts.identity(), Some(&json!({"level": "3"})));
}

#[test]
fn entries_that_contradict_each_other_or_themselves_are_refused() {
    for entries in [
        &[("request.method", "GET"), ("request.method", "POST")][..],
        &[("auth.identity.tier", "free"), ("auth.identity.tier", "premium")],
        &[("auth.identity.tier", "free"), ("auth.identity", r#"{"tier": "free"}"#)],
        &[("auth.identity", r#"{"tier": "free"}"#), ("auth.identity.tier", "free")],
        &[("auth.identity", "{}"), ("auth.identity", "null")],
        &[("auth.identity", "not told")],
        &[("auth.identity", "")],
        &[("auth.identity", "[]")],
        &[("auth.identity", "\"alice\"")],
        &[("auth", "not told")],
        &[("auth", r#"{"identity": {}}"#)],
        &[("auth", r#"{"tenant": {"name": "a"}}"#), ("auth", "{}")],
        &[("request.headers", "not told")],
        &[("request.headers", r#"{"x-one": 1}"#)],
        &[("request.headers", r#"{"x-one": "1"}"#), ("request.headers.x-one", "2")],
        &[("request.headers", r#"{"x-one": null}"#), ("request.headers.X-One", "2")],
        &[("request.headers.x-one", "2"), ("request.headers", r#"{"x-one": null}"#)],
    ] {
        assert!(fault(entries).starts_with("entr"), "{entries:?}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let many: Map<String, Value> = (0..1000).map(|number| (format!("x-{number}"), Value::Null)).collect();
    assert!(fault(&[("auth.identity", &deep)]).contains("JSON object"));
    assert!(fault(&[("request.headers", &Value::Object(many).to_string())]).contains("more than 256"));
}
