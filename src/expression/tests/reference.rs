use super::*;

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

#[test]
fn an_expression_names_what_it_looks_at() {
    use crate::expression::tests::reference::Reference::{Attribute, Auth, Header, Headers, Member, Property};
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
