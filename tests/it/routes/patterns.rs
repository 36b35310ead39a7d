//! Regular expressions, read by tiergate and by the RE2 of a real Envoy.

use serde_json::{Value, json};

use super::generate::{Random, Sent, World, object};
use super::translate::Controller;
use super::{Comparison, Envoy, ask, policy};
use crate::support::soak;

/// What a pattern is made of, with what the two syntaxes are known to read differently.
const ATOMS: [&str; 44] = [
    "a",
    "b",
    "A",
    "1",
    "_",
    "-",
    ",",
    " ",
    "k",
    "s",
    ".",
    "\\d",
    "\\D",
    "\\w",
    "\\W",
    "\\s",
    "\\S",
    "\\b",
    "\\B",
    "^",
    "$",
    "\\A",
    "\\z",
    "\\.",
    "\\-",
    "\\_",
    "\\x41",
    "\\x{61}",
    "\\t",
    "\\v",
    "[ab]",
    "[^a]",
    "[a-c1-3]",
    "[\\d-]",
    "[^\\s]",
    "[\\W_]",
    "[]a]",
    "[^]a]",
    "[[:alpha:]]",
    "[[:^space:]x]",
    "[a-b-c]",
    "[\\]\\\\]",
    "",
    "}",
];

/// What tiergate has to refuse: Envoy reads it as something else, or not at all.
const REFUSED: [&str; 40] = [
    "\\<a",
    "a\\>",
    "\\b{start}a",
    "\\pL",
    "\\p{Greek}",
    "[\\pL]",
    "(?x)a b",
    "(?u)a",
    "(?R)a$",
    "[a&&b]",
    "[a--b]",
    "[a~~b]",
    "[[a]b]",
    "[a[b]]",
    "a**",
    "a*+",
    "a{2}{3}",
    "a{,3}",
    "a{1001}",
    "(a{100}){11}",
    "\\u0061",
    "\\U00000061",
    "\\u{61}",
    "é",
    "[é]",
    "\\xe9",
    "\\x{e9}",
    "(?P<a.b>a)",
    "a)|(b",
    "(a",
    "a)",
    "[a",
    "*a",
    "a{2,1}",
    "\\",
    "\\y",
    "\\1",
    "(?=a)",
    "(?!a)",
    "(?#a)a",
];

/// What RE2 takes, and we would rather refuse than read.
const REFUSED_BY_US_ALONE: [&str; 6] = ["\\C", "\\Qa.b\\E", "a{b}", "{a}", "\\07", "[[]"];

fn pattern(random: &mut Random, depth: usize) -> String {
    let mut text = String::new();
    for _ in 0..1 + random.below(3) {
        let one = match random.below(if depth == 0 { 1 } else { 5 }) {
            1 => format!("({})", pattern(random, depth - 1)),
            2 => format!("(?:{}|{})", pattern(random, depth - 1), pattern(random, depth - 1)),
            3 => format!("(?{}:{})", random.pick(&["i", "s", "m", "U", "-i", "i-s"]), pattern(random, depth - 1)),
            4 => format!("{}|{}", random.pick(&ATOMS), random.pick(&ATOMS)),
            _ => random.pick(&ATOMS).to_owned(),
        };
        text += &one;
        if random.percent(30) && !one.is_empty() {
            text += random.pick(&["*", "+", "?", "*?", "+?", "??", "{2}", "{1,2}", "{0,1}", "{2,}"]);
        }
        if random.percent(3) {
            text += random.pick(&["(?i)", "(?s)", "(?U)", "(?-i)"]);
        }
    }
    text
}

fn value(random: &mut Random) -> String {
    const LETTERS: [&str; 18] =
        ["a", "b", "c", "A", "B", "1", "2", "_", "-", ",", " ", "k", "K", "s", ".", "]", "}", "\t"];
    (0..random.below(6)).map(|_| random.pick(&LETTERS)).collect()
}

/// A route for each pattern, at a host of its own.
fn routes(patterns: &[String]) -> Vec<Value> {
    let route = |(at, pattern): (usize, &String)| {
        let header = json!({"name": "x-value", "type": "RegularExpression", "value": pattern});
        let spec = json!({
            "parentRefs": [{"name": "gw", "namespace": "ns"}],
            "hostnames": [format!("h{at}.example.com")],
            "rules": [{"matches": [{"headers": [header]}]}],
        });
        object("HTTPRoute", ("ns", &format!("r{at}")), spec)
    };
    patterns.iter().enumerate().map(route).collect()
}

fn world(patterns: &[String]) -> World {
    let listener = json!({"name": "http", "port": 80, "protocol": "HTTP"});
    let gateway = object("Gateway", ("ns", "gw"), json!({"gatewayClassName": "any", "listeners": [listener]}));
    World { gateway, routes: routes(patterns), requests: Vec::new() }
}

#[tokio::test]
async fn patterns_match_what_envoy_matches() {
    let (seed, wanted, values) = soak((7, 400, 25), (8, 4_000, 50));
    let mut random = Random::new(seed);
    let mut patterns: Vec<String> = Vec::new();
    while patterns.len() < wanted {
        let one = pattern(&mut random, 2);
        // An empty one is no pattern to the API; one that we refuse is never asked about.
        if !one.is_empty() && policy(&world(std::slice::from_ref(&one)), Controller::Istio).is_ok() {
            patterns.push(one);
        }
    }
    let world = world(&patterns);
    let policy = policy(&world, Controller::Istio).unwrap();
    let envoy = Envoy::start(&[Controller::Istio.virtual_hosts(&world.gateway, &world.routes, 80)]).await;
    let mut all = Comparison::default();
    for (at, pattern) in patterns.iter().enumerate() {
        let texts: Vec<String> = (0..values).map(|_| value(&mut random)).collect();
        let sent = |text: &String| Sent {
            method: "GET",
            host: format!("h{at}.example.com"),
            target: "/".to_owned(),
            headers: vec![("x-value", text.clone().into_bytes())],
        };
        let requests: Vec<Sent> = texts.iter().map(sent).collect();
        for (sent, expected) in requests.iter().zip(ask(envoy.listeners[0], &requests).await) {
            all.compare(&policy, &world, 80, sent, expected.as_ref(), pattern);
        }
    }
    all.report("patterns");
}

#[test]
fn a_pattern_that_envoy_would_read_differently_is_refused() {
    for pattern in REFUSED.iter().chain(&REFUSED_BY_US_ALONE) {
        let refused = policy(&world(&[(*pattern).to_owned()]), Controller::Istio);
        let Err(problems) = refused else { panic!("`{pattern}` is read") };
        assert!(problems.len() == 1 && problems[0].contains(&format!("`{pattern}`")), "{problems:?}");
    }
}

/// What only we refuse is refused for simplicity's sake; the list says what that costs.
#[tokio::test]
async fn envoy_takes_what_we_alone_refuse() {
    let patterns = REFUSED_BY_US_ALONE.map(str::to_owned);
    Envoy::start(&[Controller::Istio.virtual_hosts(&world(&patterns).gateway, &routes(&patterns), 80)]).await;
}
