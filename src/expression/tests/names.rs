use super::*;

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
fn a_query_that_is_looked_for_in_the_path_does_not_compile() {
    for (source, text) in [
        (r#"request.path == "/a?b=1""#, "/a?b=1"),
        (r#""/a?b=1" != request.path"#, "/a?b=1"),
        (r#"request.url_path == "/a?""#, "/a?"),
        (r#"request["path"].contains("?b=1")"#, "?b=1"),
        (r#"request.path.startsWith("/a?")"#, "/a?"),
        (r#"!request.path.endsWith("?b=1")"#, "?b=1"),
        (r#"request.path.indexOf("?b") >= 0"#, "?b"),
        (r#"request.path.split("?")[1] == "b=1""#, "?"),
        (r#"request.path.split("?").size() > 1"#, "?"),
        (r#"request.path in ["/a", "/a?b"]"#, "/a?b"),
        (r#"["/a", "/a?b"].exists(p, request.path == p)"#, "/a?b"),
        (r#"["?b", "c"].exists(p, request.path.lowerAscii().contains(p))"#, "?b"),
        (r#"request.path == "/a?user=" + auth.identity.userid"#, "/a?user="),
        (r#"request.?path.orValue("").contains("?b")"#, "?b"),
        (r#"request.path.matches("^/a\\?b=1")"#, r"^/a\?b=1"),
        (r#"request.path.matches("[?]b|c[?]")"#, "[?]b|c[?]"),
        (r#"request.method == "GET" && (true ? request.path.contains("?b") : false)"#, "?b"),
    ] {
        let error = fails_to_compile(source);
        assert!(error.message.contains(&format!("looks for `{text}` in `request.")), "{source}: {error}");
        assert!(error.remedy.unwrap().contains("`request.query"), "{source}");
    }
    let remedy = fails_to_compile(r#"request.path.endsWith("/a?b=1")"#).remedy.unwrap();
    assert!(remedy.contains(r#"`request.query.contains("b=1")`"#), "{remedy}");
    for source in [
        r#"request.path.split("?")[0] == "/a""#,
        r#"request.path.matches("^/a(\\?.*)?$")"#,
        r#"request.path.matches("^/a(/|\\?|$)")"#,
        r#"request.path.matches("^/a?b")"#,
        r#"request.path.matches("^/[^?]+$")"#,
        r#"request.path + "?" + request.query == "/a?b""#,
        r#"request.headers["referer"].contains("?b")"#,
        r#"request.query == "?""#,
        r#"["?"].exists(p, request.query == p) || request.path == "p""#,
    ] {
        let compiled = Expression::compile(source);
        assert!(compiled.is_ok(), "{source}: {}", compiled.unwrap_err());
    }
}
