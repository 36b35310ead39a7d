use std::collections::HashMap;

use super::*;

fn request(headers: Headers<'_>) -> Request<'_> {
    Request {
        method: "POST",
        host: "models.example.com",
        scheme: "https",
        path: "/llm/qwen3/v1/chat/completions",
        query: None,
        headers,
        gateway: None,
        listener: None,
        port: None,
        peer: None,
        sni: None,
        model: OperatorModel::Unset,
        body: None,
    }
}

fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// The token, or why there is none.
fn token(headers: Headers<'_>) -> Result<String, Code> {
    let bearer = request(headers).bearer();
    bearer.map(|token| token.secret().to_owned()).map_err(|denial| denial.code)
}

/// The outcome for one `Authorization` header, which has to be the same in both forms.
fn token_of(value: &str) -> Result<String, Code> {
    let map = map(&[("authorization", value)]);
    let in_map = token(Headers::Map(&map));
    let in_list = token(Headers::List(vec![("authorization", value.as_bytes())]));
    assert_eq!(in_map, in_list, "{value:?}");
    in_map
}

// === the path rule ===

#[test]
fn canonical_paths_pass() {
    for path in [
        "/",
        "/llm",
        "/llm/",
        "/llm/qwen3/v1/chat/completions",
        "/llm/qwen3/",
        "/LLM/M1",
        "/v1.5/model.name/...",
        "/..a/a../.a/a.",
        "/a:b@c!$&'()*+,=~_-",
        // Escapes that decode to nothing which would shift a segment.
        "/llm/m%31/v1",
        "/llm/m%20x",
        "/llm/m%21%22%3a%7E",
        // UTF-8, up to the last character; no namespace or name can hold it.
        "/llm/%c2%a0%df%bf%e0%a0%80%ed%9f%bf%ee%80%80%ef%bf%bd%f0%90%80%80%f4%8f%bf%bf",
        "/llm/é%C3%a9é",
        "/llm/%c3%a9",
        "/llm/%C3%A9",
        "/llm/é",
        "/*",
    ] {
        assert_eq!(check_canonical(path), Ok(()), "{path:?}");
    }
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn paths_with_a_second_reading_are_refused() {
    use PathFault::{Character, DotSegment, EmptySegment, Encoding, NotAbsolute};
    for (path, fault) in [
        // reference/ecosystem.md 3.2: what gets past even a strict Envoy.
        ("/llm//m1/v1", EmptySegment),
        ("/llm/m1/../m2/v1", DotSegment),
        ("/llm/m1/..%2fm2/v1", Encoding),
        ("/llm/m1%2Fx/v1", Encoding),
        ("/llm/m1%5Cx/v1", Encoding),
        ("/llm/m1;a=b/v1", Character),
        ("/llm/m1/..;/m2/v1", Character),
        ("/llm/m1%252Fx", Encoding),
        ("/llm/m1%00", Encoding),
        ("*", NotAbsolute),
        // Segments.
        ("", NotAbsolute),
        ("llm/m1", NotAbsolute),
        ("http://models.example.com/llm/m1", NotAbsolute),
        (" /llm", NotAbsolute),
        ("//", EmptySegment),
        ("///", EmptySegment),
        ("//llm/m1", EmptySegment),
        ("/llm/m1//", EmptySegment),
        ("/llm///m1", EmptySegment),
        ("/.", DotSegment),
        ("/..", DotSegment),
        ("/./", DotSegment),
        ("/../", DotSegment),
        ("/llm/./m1", DotSegment),
        ("/llm/m1/.", DotSegment),
        ("/llm/m1/..", DotSegment),
        ("/llm/m1/../", DotSegment),
        ("/../../etc/passwd", DotSegment),
        // Characters.
        (";", NotAbsolute),
        ("/;", Character),
        ("/llm/m1;", Character),
        ("/llm\\m1", Character),
        ("/llm/..\\m1", Character),
        ("/llm/m1\0", Character),
        ("/llm/m1\n", Character),
        ("/llm/\rm1", Character),
        ("/llm/\tm1", Character),
        ("/llm/m1#frag", Character),
        ("/#", Character),
        ("/llm/\u{1f}m1", Character),
        ("/llm/m1\u{7f}", Character),
        // Escapes, in any case.
        ("/llm/%2e/m1", Encoding),
        ("/llm/%2E%2E/m1", Encoding),
        ("/llm/%2e%2e/m1", Encoding),
        ("/llm/.%2e/m1", Encoding),
        ("/llm/m%2e1", Encoding),
        ("/llm%2fm1", Encoding),
        ("/llm%2Fm1", Encoding),
        ("/llm%5cm1", Encoding),
        ("/llm%5Cm1", Encoding),
        ("/llm/m1%25", Encoding),
        ("/llm/m1%2500", Encoding),
        ("/llm/%00m1", Encoding),
        ("/llm/m1%3ba=b", Encoding),
        ("/llm/m1%3Ba=b", Encoding),
        ("/llm/m1%23frag", Encoding),
        ("/llm/m1%3fx", Encoding),
        ("/llm/m1%3Fx", Encoding),
        ("/llm/m1%01", Encoding),
        ("/llm/m1%09x", Encoding),
        ("/llm/m1%0d%0aX:%20y", Encoding),
        ("/llm/m1%1f", Encoding),
        ("/llm/m1%7f", Encoding),
        ("/llm/m1%7F", Encoding),
        // Not UTF-8: overlong dots and slashes, half a character, more than one, a surrogate, none at all.
        ("/llm/%c0%ae%c0%ae/m1", Encoding),
        ("/llm/m1%c0%af", Encoding),
        ("/llm/m1%C1%9C", Encoding),
        ("/llm/%e0%80%ae/m1", Encoding),
        ("/llm/%f0%80%80%af", Encoding),
        ("/llm/m1%c3", Encoding),
        ("/llm/m1%c3x", Encoding),
        ("/llm/m1%c3/%a9", Encoding),
        ("/llm/m1%c3%", Encoding),
        ("/llm/m1%c3%2e", Encoding),
        ("/llm/m1%c3%e9", Encoding),
        ("/llm/m1%a9", Encoding),
        ("/llm/m1%e2%82", Encoding),
        ("/llm/m1%ed%a0%80", Encoding),
        ("/llm/m1%f4%90%80%80", Encoding),
        ("/llm/m1%f5%80%80%80", Encoding),
        ("/llm/m1%ff", Encoding),
        // Broken ones: each decoder makes something else of them.
        ("/llm/m1%", Encoding),
        ("/llm/m1%2", Encoding),
        ("/llm/m1%zz", Encoding),
        ("/llm/m1%2g", Encoding),
        ("/llm/m1%g2", Encoding),
        ("/llm/m1% 2", Encoding),
        ("/llm/m1%%", Encoding),
        ("/llm/m1%u002f", Encoding),
        ("/llm/m1%é", Encoding),
        ("/%", Encoding),
    ] {
        assert_eq!(check_canonical(path), Err(fault), "{path:?}");
        assert!(!fault.describe().is_empty());
    }
}

#[test]
fn every_control_byte_is_refused() {
    for byte in (0..=0x1f_u8).chain([0x7f]) {
        let path = format!("/llm/a{}b", char::from(byte));
        assert_eq!(check_canonical(&path), Err(PathFault::Character), "{byte:#04x}");
    }
}

#[test]
fn query_is_cut_at_the_first_question_mark() {
    for (sent, path, query) in [
        ("/llm/m1", "/llm/m1", None),
        ("/llm/m1?", "/llm/m1", Some("")),
        ("/llm/m1?x=/llm/m2", "/llm/m1", Some("x=/llm/m2")),
        ("/llm/m1?a?b", "/llm/m1", Some("a?b")),
        ("?", "", Some("")),
        ("", "", None),
    ] {
        assert_eq!(Request::split_path(sent), (path, query), "{sent:?}");
    }
}

// === names ===

#[test]
fn labels_are_rfc_1123() {
    let (longest, too_long) = ("a".repeat(63), "a".repeat(64));
    for name in ["a", "0", "llm", "a-b", "a--b", "1st", "model-2", &longest] {
        assert!(is_dns1123_label(name), "{name:?}");
    }
    for name in [
        "", "-", "-a", "a-", "A", "aB", "a_b", "a.b", "a b", " a", "a\n", "é", "ａ", "*", "a/b", "%61", "a\0",
        &too_long,
    ] {
        assert!(!is_dns1123_label(name), "{name:?}");
    }
}

#[test]
fn subdomains_are_labels_joined_by_dots() {
    let label = "a".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
    assert_eq!(longest.len(), 253);
    for name in ["a", "qwen2.5", "model.v1-2", "a.b.c", &longest] {
        assert!(is_dns1123_subdomain(name), "{name:?}");
    }
    let too_long = format!("{longest}a");
    for name in ["", ".", "..", ".a", "a.", "a..b", "a.-b", "A.b", "a/b", "a b", &too_long] {
        assert!(!is_dns1123_subdomain(name), "{name:?}");
    }
}

// === the bearer token ===

#[test]
fn bearer_token_is_taken_in_either_form() {
    for (value, expected) in [
        ("Bearer abc", "abc"),
        ("bearer abc", "abc"),
        ("BEARER abc", "abc"),
        ("Bearer x", "x"),
        ("Bearer eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln-_", "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln-_"),
        ("Bearer a~b+c/d==", "a~b+c/d=="),
    ] {
        assert_eq!(token_of(value), Ok(expected.to_owned()), "{value:?}");
    }
}

#[test]
fn no_bearer_token_is_a_missing_one() {
    let empty = HashMap::new();
    assert_eq!(token(Headers::Map(&empty)), Err(Code::TokenMissing));
    assert_eq!(token(Headers::List(vec![])), Err(Code::TokenMissing));
    let other = map(&[("x-authorization", "Bearer abc"), ("cookie", "authorization=abc")]);
    assert_eq!(token(Headers::Map(&other)), Err(Code::TokenMissing));
    for value in [
        "",
        " ",
        "Bearer",
        "Bearer ",
        "Basic YTpi",
        "APIKEY abc",
        "abc",
        "Bearerabc",
        "Bearer\tabc",
        "NotBearer abc",
        " Bearer abc",
    ] {
        assert_eq!(token_of(value), Err(Code::TokenMissing), "{value:?}");
    }
}

#[test]
fn what_cannot_be_a_token_is_malformed() {
    for value in [
        "Bearer  ",
        "Bearer  abc",
        "Bearer abc ",
        "Bearer abc def",
        "Bearer abc\tdef",
        "Bearer abc\n",
        "Bearer \t",
        "Bearer \u{a0}",
        // Two headers that a proxy joined.
        "Bearer abc,Bearer def",
        "Bearer abc, Bearer def",
        "Bearer ,",
        "Bearer a\0b",
        "Bearer clé",
    ] {
        assert_eq!(token_of(value), Err(Code::TokenMalformed), "{value:?}");
    }
}

#[test]
fn tokens_are_bounded_in_length() {
    let sized = |bytes: usize| token_of(&format!("Bearer {}", "a".repeat(bytes)));
    for bytes in [1, 1024, 8 * 1024] {
        assert_eq!(sized(bytes), Ok("a".repeat(bytes)), "{bytes} bytes");
    }
    for bytes in [8 * 1024 + 1, 64 * 1024, 1024 * 1024] {
        assert_eq!(sized(bytes), Err(Code::TokenMalformed), "{bytes} bytes");
    }
}

#[test]
fn two_authorization_headers_are_refused() {
    let list = |pairs: &[(&'static str, &'static str)]| {
        let raw = pairs.iter().map(|(name, value)| (*name, value.as_bytes()));
        token(Headers::List(raw.collect()))
    };
    let twice = Err(Code::TokenMalformed);
    assert_eq!(list(&[("authorization", "Bearer a"), ("authorization", "Bearer b")]), twice);
    assert_eq!(list(&[("authorization", "Bearer a"), ("authorization", "Bearer a")]), twice);
    assert_eq!(list(&[("Authorization", "Bearer a"), ("authorization", "Basic x")]), twice);
    let differing = map(&[("AUTHORIZATION", "Bearer a"), ("Authorization", "Bearer b")]);
    assert_eq!(token(Headers::Map(&differing)), twice);
}

#[test]
fn authorization_that_is_not_utf8_is_malformed() {
    let raw = |value: &'static [u8]| token(Headers::List(vec![("authorization", value)]));
    assert_eq!(raw(b"Bearer a\xff"), Err(Code::TokenMalformed));
    assert_eq!(raw(b"\xff\xfe"), Err(Code::TokenMalformed));
    // What Envoy's map form makes of such bytes.
    assert_eq!(token_of("Bearer a!"), Err(Code::TokenMalformed));
}

#[test]
fn header_names_ignore_case() {
    for name in ["authorization", "Authorization", "AUTHORIZATION", "aUTHORIZATION"] {
        let map = map(&[("x-other", "1"), (name, "Bearer abc")]);
        assert_eq!(token(Headers::Map(&map)), Ok("abc".to_owned()), "{name}");
        let list = Headers::List(vec![("x-other", b"1"), (name, b"Bearer abc")]);
        assert_eq!(token(list), Ok("abc".to_owned()), "{name}");
    }
}

#[test]
fn debug_of_a_token_hides_it() {
    let token = BearerToken::new("s3cret");
    assert_eq!(format!("{token:?}"), "BearerToken(6 bytes)");
    assert_eq!(format!("{token:#?}"), "BearerToken(6 bytes)");
    assert_eq!(token.secret(), "s3cret");
}

#[test]
fn refusal_of_a_token_does_not_repeat_it() {
    for value in ["Bearer s3cret token", "s3cret", "Bearer s3cret,s3cret"] {
        let map = map(&[("authorization", value)]);
        let denial = request(Headers::Map(&map)).bearer().unwrap_err();
        assert!(!format!("{denial:?}").contains("s3cret"), "{denial:?}");
    }
}

// === headers ===

#[test]
fn lookup_tells_absent_one_several_and_opaque_apart() {
    let list =
        Headers::List(vec![("x-one", b"1"), ("X-Two", b"a"), ("x-two", b"b"), ("x-raw", b"\xff"), ("x-empty", b"")]);
    for (name, expected, values) in [
        ("x-none", HeaderLookup::Absent, &[][..]),
        ("x-one", HeaderLookup::One("1"), &[&b"1"[..]]),
        ("x-two", HeaderLookup::Several, &[b"a", b"b"]),
        ("x-raw", HeaderLookup::Opaque, &[b"\xff"]),
        ("x-empty", HeaderLookup::One(""), &[b""]),
    ] {
        assert_eq!(list.get(name), expected, "{name}");
        assert_eq!(list.values(name).as_slice(), values, "{name}");
        let text = (!values.is_empty()).then(|| String::from_utf8_lossy(&values.join(&b',')).into_owned());
        assert_eq!(list.joined(name).as_deref(), text.as_deref(), "{name}");
    }
    let names: Vec<_> = list.names().collect();
    assert_eq!(names, ["x-one", "X-Two", "x-two", "x-raw", "x-empty"]);
}

#[test]
fn both_forms_show_the_same_names_and_values() {
    let map = map(&[("a", "1"), ("b", "2,3")]);
    let (in_map, in_list) = (Headers::Map(&map), Headers::List(vec![("a", b"1"), ("b", b"2,3")]));
    let sorted = |headers: &Headers<'_>| {
        let mut pairs: Vec<_> = headers.iter().map(|(name, value)| (name.to_owned(), value.into_owned())).collect();
        pairs.sort();
        pairs
    };
    assert_eq!(sorted(&in_map), sorted(&in_list));
    assert_eq!(in_map.names().count(), 2);
    assert_eq!(in_map.values("b").as_slice(), [b"2,3"]);
}

// === methods ===

#[test]
fn a_method_with_lower_case_letters_is_refused() {
    for (method, fine) in [
        ("POST", true),
        ("GET", true),
        ("M-SEARCH", true),
        ("post", false),
        ("Post", false),
        ("POSt", false),
        ("pATCH", false),
        ("x-Y", false),
    ] {
        let request = Request { method, ..request(Headers::List(vec![])) };
        let expected = if fine { Ok(()) } else { Err(Code::RequestInvalid) };
        assert_eq!(request.check_method().map_err(|denial| denial.code), expected, "{method}");
    }
}

// === headers that have a second reading ===

#[test]
fn a_path_whose_bytes_envoy_has_replaced_is_refused() {
    let refused = Err(Code::PathNotCanonical);
    let in_list = |raw: &[u8], path| {
        let request = Request { path, ..request(Headers::List(vec![("a", b"b"), (":path", raw)])) };
        request.check_headers().map_err(|denial| denial.code)
    };
    assert_eq!(in_list(b"/llm/\xc0\xae\xc0\xae/m1", "/llm/!!!!/m1"), refused);
    assert_eq!(in_list(b"/llm/m1/\xe9", "/llm/m1/!"), refused);
    assert_eq!(in_list(b"/llm/m1?\xe9", "/llm/m1"), refused, "of the query likewise");
    assert_eq!(in_list(b"/llm/m1!", "/llm/m1!"), Ok(()));
    assert_eq!(in_list("/llm/é".as_bytes(), "/llm/é"), Ok(()));
    // Without raw headers, or without it among them (`allowed_headers`), nobody can tell.
    let left_out = |path| {
        let request = Request { path, ..request(Headers::List(vec![("a", b"b")])) };
        request.check_headers().map_err(|denial| denial.code)
    };
    assert_eq!((left_out("/llm/!!!!/m1"), left_out("/llm/m1")), (refused, Ok(())));
    let headers = map(&[(":path", "/llm/m1!")]);
    let in_map =
        |path| Request { path, ..request(Headers::Map(&headers)) }.check_headers().map_err(|denial| denial.code);
    assert_eq!((in_map("/llm/m1!"), in_map("/llm/m1")), (refused, Ok(())));
}

#[test]
fn a_host_or_identity_header_that_is_sent_twice_is_refused() {
    let ours = b"models.example.com".as_slice();
    let other = b"elsewhere.example.com".as_slice();
    let refused = Err(Code::RequestInvalid);
    for (headers, expected) in [
        (vec![("host", ours)], Ok(())),
        (vec![(":authority", b"MODELS.example.com".as_slice()), ("host", ours)], Ok(())),
        (vec![("host", ours), ("host", ours)], refused),
        (vec![("host", ours), ("Host", other)], refused),
        (vec![(":authority", ours), ("host", other)], refused),
        (vec![(":authority", ours), (":authority", ours)], refused),
        (vec![("host", other)], refused),
        (vec![("host", b"\xff".as_slice())], refused),
        (vec![("x-maas-group", b"a".as_slice()), ("x-maas-username", b"a")], Ok(())),
        (vec![("x-maas-group", b"a".as_slice()), ("X-MaaS-Group", b"b")], refused),
        (vec![("x-maas-subscription", b"a".as_slice()), ("x-maas-subscription", b"a")], refused),
        (vec![("accept", b"a".as_slice()), ("accept", b"b")], Ok(())),
    ] {
        let request = request(Headers::List(headers));
        assert_eq!(request.check_headers().map_err(|denial| denial.code), expected, "{:?}", request.headers);
    }
    let joined = map(&[("host", "models.example.com,elsewhere.example.com")]);
    assert_eq!(request(Headers::Map(&joined)).check_headers().unwrap_err().code, Code::RequestInvalid);
    let joined = Request { host: "a.example.com,b.example.com", ..request(Headers::List(vec![])) };
    assert_eq!(joined.check_headers().unwrap_err().code, Code::RequestInvalid);
    let cases = map(&[("x-maas-group", "a"), ("X-Maas-Group", "b")]);
    assert_eq!(request(Headers::Map(&cases)).check_headers().unwrap_err().code, Code::RequestInvalid);
}

#[test]
fn debug_output_names_headers_and_hides_their_values() {
    let map = map(&[("authorization", "Bearer canary-token"), ("x-api-key", "canary-token")]);
    let list = vec![("authorization", b"Bearer canary-token".as_slice())];
    for headers in [Headers::Map(&map), Headers::List(list)] {
        let shown = format!("{:?}", request(headers));
        assert!(shown.contains("authorization") && !shown.contains("canary"), "{shown}");
    }
}
