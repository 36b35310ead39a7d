use super::*;

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
