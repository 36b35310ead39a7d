//! Accounts of a serving process: on its admin port, and by `tiergate limits`.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Answer, Connection, Folder, Tiergate, get, root, run, tiergate, token};
use crate::wire::{channel, check, check_request, demo, http, outcome};

const GRANITE: &str = "/llm/granite/v1/chat/completions";
const ALICE: &str = "alice-12345678";
const REQUESTS: &str = "openshift-ingress/gateway-rate-limits/free";

/// Calls as this free user, and says how each was answered.
async fn call(tiergate: &Tiergate, user: &str, times: usize) -> Vec<i32> {
    let channel = channel(tiergate).await;
    let token = token("maas-default-gateway-tier-free", user, &root("examples/manifests"));
    let mut answers = Vec::new();
    for _ in 0..times {
        let request = check_request(http(GRANITE, Some(&format!("Bearer {token}"))));
        answers.push(outcome(&check(&channel, request).await).0);
    }
    answers
}

/// `tiergate limits` with these words.
fn limits(process: &Tiergate, words: &[&str]) -> (Option<i32>, String) {
    run(&mut command(process, words))
}

fn command(process: &Tiergate, words: &[&str]) -> Command {
    let mut command = tiergate(&[&["limits"], words].concat());
    command.env("TIERGATE_ADMIN", format!("http://{}", process.admin)).env("USER", "olga");
    command
}

fn as_json(process: &Tiergate, words: &[&str]) -> Value {
    let (code, printed) = limits(process, &[words, &["--output", "json"]].concat());
    assert_eq!(code, Some(0), "{words:?}: {printed}");
    serde_json::from_str(&printed).unwrap()
}

/// Name, used and left of each limit.
fn stands(account: &Value) -> Vec<(String, u64, u64)> {
    let limits = account["limits"].as_array().unwrap().iter();
    let of = |limit: &Value, field: &str| limit[field].as_u64().unwrap();
    limits.map(|limit| (limit["name"].as_str().unwrap().to_owned(), of(limit, "used"), of(limit, "left"))).collect()
}

async fn post(process: &Tiergate, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    Connection::of_pages(process.admin).await.send("POST", path, headers, body).await
}

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn an_operator_sees_accounts_and_gives_back_what_was_used() {
    // As notices are silenced.
    let tiergate = demo(&["--token-admission", "positive", "--log", "info,tiergate::limit=off"]);
    assert_eq!(limits(&tiergate, &["list"]), (Some(0), "no account\n".to_owned()));
    assert_eq!(call(&tiergate, ALICE, 6).await, [200, 200, 200, 200, 200, 429]);
    assert_eq!(call(&tiergate, "bob-2b9f1c07", 1).await, [200]);
    let (code, listed) = limits(&tiergate, &["list"]);
    assert!(code == Some(0) && listed.lines().count() == 3, "{listed}");
    assert!(listed.lines().any(|line| line.starts_with(ALICE) && line.contains(REQUESTS)), "{listed}");
    let shown = as_json(&tiergate, &["show", ALICE]);
    assert_eq!(stands(&shown), [(REQUESTS.to_owned(), 5, 0)]);
    assert_eq!(as_json(&tiergate, &["show", "--id", shown["account"].as_str().unwrap()])["values"], json!([ALICE]));
    assert_eq!(as_json(&tiergate, &["list", "alice"])["accounts"].as_array().unwrap().len(), 1);
    // Two are given back, and then all.
    let grant = ["grant", ALICE, "--limit", REQUESTS, "--hits", "2", "--reason", "an outage of ours"];
    let granted = as_json(&tiergate, &grant);
    assert_eq!((&granted["changed"][0]["given_back"], &granted["changed"][0]["after"]["left"]), (&json!(2), &json!(2)));
    let line = tiergate.await_log("a limit was changed by hand");
    for (field, expected) in [
        ("action", json!("grant")),
        ("by", json!("olga")),
        ("reason", json!("an outage of ours")),
        ("account.name", json!(ALICE)),
        ("limit", json!(REQUESTS)),
        ("counts", json!("requests")),
        ("level", json!("WARN")),
        ("target", json!("tiergate::accounts")),
        ("used.before", json!(5)),
        ("used.after", json!(3)),
    ] {
        assert_eq!(line[field], expected, "{field}: {line}");
    }
    assert_eq!(call(&tiergate, ALICE, 3).await, [200, 200, 429]);
    let (code, printed) = limits(&tiergate, &["reset", ALICE, "--reason", "a new month", "--by", "anna"]);
    assert!(code == Some(0) && printed.contains("given back") && printed.contains(REQUESTS), "{printed}");
    let line = tiergate.await_log("a limit was changed by hand");
    assert_eq!((&line["action"], &line["by"], &line["used.after"]), (&json!("reset"), &json!("anna"), &json!(0)));
    assert_eq!(call(&tiergate, ALICE, 6).await, [200, 200, 200, 200, 200, 429]);
    for action in ["grant", "reset"] {
        assert_eq!(tiergate.metric("tiergate_limit_changes_total", action).await, 1, "{action}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_no_and_what_cannot_be_asked_is_an_error() {
    let tiergate = demo(&[]);
    call(&tiergate, ALICE, 1).await;
    let reason = ["--reason", "x"];
    for (words, code, expected) in [
        (&["show", "nobody"][..], 1, "there is no such account"),
        (&["reset", "nobody", "--reason", "x"], 1, "there is no such account"),
        (&["reset", ALICE, "--limit", "no/such/limit", "--reason", "x"], 1, "has used nothing of the limit"),
        (&["grant", ALICE, "--hits", "1", "--reason", "x"], 2, "--limit <NAME>"),
        (&["reset", ALICE, "--counts", "tokens", "--reason", "x"], 2, "--limit <NAME>"),
        (
            &["reset", ALICE, "--limit", REQUESTS, "--counts", "tokens", "--reason", "x"],
            1,
            "has used nothing of the limit",
        ),
        (
            &["grant", ALICE, "--limit", REQUESTS, "--hits", "0", "--reason", "x"],
            2,
            "has to be a whole number, 1 at least",
        ),
        (&["grant", ALICE, "--limit", REQUESTS, "--reason", "x"], 2, "--hits"),
        (&["reset", ALICE], 2, "--reason"),
        (&["reset", "--reason", "x"], 2, "<VALUE"),
        (&["reset", ALICE, "--reason", "  "], 2, "`reason` is empty"),
        (&["list", "--most", "1001"], 2, "`most` has to be a number from 1 to 1000"),
        (&["list", "--admin", "127.0.0.1:8081"], 2, "has to be a URL such as http://127.0.0.1:8081"),
        (&["list", "--admin", "http://127.0.0.1:1"], 2, "is tiergate running, with --listen-admin there?"),
        (&["show", ALICE, "--id", "00000000000000000000000000000000"], 2, "cannot be used with"),
    ] {
        let (got, printed) = limits(&tiergate, words);
        assert!(got == Some(code) && printed.contains(expected), "{words:?}: {got:?} {printed}");
    }
    // The port beside it is another one.
    let (code, printed) = limits(&tiergate, &["list", "--admin", &format!("http://{}", tiergate.http)]);
    assert!(code == Some(2) && printed.contains("does not take that (404)"), "{printed}");
    let nobody = run(command(&tiergate, &[&["reset", ALICE], &reason[..]].concat()).env_remove("USER"));
    assert!(nobody.0 == Some(2) && nobody.1.contains("say who you are with --by"), "{nobody:?}");
    let help = limits(&tiergate, &["--help"]).1;
    assert!(["list", "show", "reset", "grant"].iter().all(|word| help.contains(word)), "{help}");
}

#[tokio::test]
async fn a_browser_and_what_is_not_json_change_nothing() {
    let tiergate = demo(&["--token-admission", "positive"]);
    call(&tiergate, ALICE, 3).await;
    let body = json!({"values": [ALICE], "reason": "x", "by": "y"}).to_string();
    let text = ("content-type", "text/plain");
    let form = ("content-type", "application/x-www-form-urlencoded");
    for (headers, status) in [
        (&[JSON, ("origin", "http://evil.example")][..], 403),
        (&[JSON, ("origin", "null")], 403),
        (&[JSON, ("origin", "http://127.0.0.1:8081")], 403),
        (&[text], 415),
        (&[form], 415),
        (&[], 415),
    ] {
        for path in ["/limits/reset", "/limits/grant", "/limits/find"] {
            let answer = post(&tiergate, path, headers, &body).await;
            assert_eq!(answer.status, status, "{path} {headers:?}: {}", answer.body);
        }
    }
    let refused = [
        ("/limits/reset", json!({"values": [ALICE], "reason": "x"})),
        ("/limits/reset", json!({"values": [ALICE], "reason": "", "by": "y"})),
        ("/limits/reset", json!({"values": [ALICE], "reason": "x", "by": "y".repeat(257)})),
        ("/limits/reset", json!({"values": [ALICE], "reason": "x", "by": "y", "hits": 1})),
        ("/limits/reset", json!({"values": [ALICE], "reason": "x", "by": "y", "limits": "z"})),
        ("/limits/reset", json!({"values": [], "reason": "x", "by": "y"})),
        ("/limits/reset", json!({"reason": "x", "by": "y"})),
        ("/limits/reset", json!({"account": "1", "reason": "x", "by": "y"})),
        ("/limits/grant", json!({"values": [ALICE], "reason": "x", "by": "y"})),
        ("/limits/grant", json!({"values": [ALICE], "reason": "x", "by": "y", "hits": 1})),
        ("/limits/grant", json!({"values": [ALICE], "limit": REQUESTS, "reason": "x", "by": "y", "hits": 0})),
        ("/limits/grant", json!({"values": [ALICE], "limit": REQUESTS, "reason": "x", "by": "y", "hits": -1})),
        ("/limits/reset", json!({"values": [ALICE], "limit": REQUESTS, "counts": "token", "reason": "x", "by": "y"})),
        ("/limits/find", json!([])),
    ];
    for (path, body) in refused {
        let answer = post(&tiergate, path, &[JSON], &body.to_string()).await;
        assert!(answer.status == 400 && answer.json()["error"].is_string(), "{path} {body}: {}", answer.body);
    }
    assert_eq!(post(&tiergate, "/limits/reset", &[JSON], "{").await.status, 400);
    assert_eq!(get(tiergate.admin, "/limits/reset").await.status, 405);
    assert_eq!(get(tiergate.admin, "/limits/1").await.status, 400);
    assert_eq!(get(tiergate.http, "/limits").await.status, 404);
    for path in ["/limits", "/explain", "/explain/1"] {
        for (header, status) in [(("origin", "null"), 403), (("sec-fetch-site", "cross-site"), 403)] {
            let answer = Connection::of_pages(tiergate.admin).await.send("GET", path, &[header], "").await;
            assert_eq!(answer.status, status, "{path} {header:?}: {}", answer.body);
        }
    }
    let typed = ("sec-fetch-site", "none");
    assert_eq!(Connection::of_pages(tiergate.admin).await.send("GET", "/limits", &[typed], "").await.status, 200);
    let foreign = Connection::open(tiergate.admin).await.send("GET", "/limits", &[], "").await;
    assert_eq!(foreign.status, 421, "asked by the name of another host");
    assert_eq!(stands(&as_json(&tiergate, &["show", ALICE]))[0], (REQUESTS.to_owned(), 3, 2));
    assert_eq!(tiergate.metric("tiergate_limit_changes_total", "").await, 0);
}

/// The state file has no names.
#[tokio::test]
async fn an_account_that_outlives_a_restart_has_its_name_again_with_its_next_call() {
    let folder = Folder::new();
    let secret = folder.file("secret", "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=\n");
    let state = folder.0.join("state");
    let [state, secret] = [&state, &secret].map(|path| path.to_str().unwrap());
    let flags = ["--state", state, "--key-file", secret, "--token-admission", "positive", "--drain-delay", "0s"];
    let before = demo(&flags);
    assert_eq!(call(&before, ALICE, 2).await, [200, 200]);
    before.signal("TERM");
    assert!(before.ended().await.0.success());
    let after = demo(&flags);
    let listed = as_json(&after, &["list"]);
    assert_eq!((&listed["accounts"][0]["values"], stands(&listed["accounts"][0])[0].1), (&Value::Null, 2));
    assert_eq!(as_json(&after, &["list", ALICE])["accounts"].as_array().unwrap().len(), 1, "by all of its name");
    assert_eq!(call(&after, ALICE, 1).await, [200]);
    assert_eq!(as_json(&after, &["list", "alice"])["accounts"][0]["values"], json!([ALICE]));
}

/// By whatever a header may hold, and by more than a line can.
#[tokio::test]
async fn names_that_are_odd_are_shown_safely_and_found_exactly() {
    let folder = Folder::new();
    folder.file(
        "all.yaml",
        r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw, namespace: ns}
spec: {gatewayClassName: x, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: ns}
spec: {parentRefs: [{name: gw}]}
---
apiVersion: kuadrant.io/v1
kind: AuthPolicy
metadata: {name: auth, namespace: ns}
spec:
  targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: gw}
  rules: {authentication: {anybody: {anonymous: {}}}}
---
apiVersion: kuadrant.io/v1
kind: RateLimitPolicy
metadata: {name: limits, namespace: ns}
spec:
  targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: gw}
  limits:
    pair:
      rates: [{limit: 3, window: 1h}]
      counters: [{expression: 'request.headers["x-team"]'}, {expression: 'request.headers["x-user"]'}]
"#,
    );
    let tiergate = Tiergate::start(&folder.0, &[]);
    let channel = channel(&tiergate).await;
    let long = "x".repeat(8 * 1024);
    for user in ["a:b/{c}", "a\n\u{1b}[2J\u{202e}b", "", &long] {
        let mut request = http("/x", None);
        request
            .headers
            .extend([("x-team", "red"), ("x-user", user)].map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(outcome(&check(&channel, check_request(request)).await).0, 200, "{user:?}");
        let shown = as_json(&tiergate, &["show", "red", user]);
        assert_eq!(stands(&shown), [("ns/limits/pair".to_owned(), 1, 2)], "{user:?}");
        assert_eq!(shown.get("cut").is_some(), user.len() > 256);
        let (code, printed) = limits(&tiergate, &["show", "red", user]);
        assert!(code == Some(0) && !printed.contains(['\u{1b}', '\u{202e}']), "{printed:?}");
        let (code, printed) = limits(&tiergate, &["reset", "red", user, "--reason", "a\u{1b}[2Jb\nc"]);
        assert!(code == Some(0), "{printed}");
        let line = tiergate.await_log("a limit was changed by hand");
        assert_eq!(line["reason"], json!("a\\u{1b}[2Jb\\nc"));
        assert_eq!(stands(&as_json(&tiergate, &["show", "red", user]))[0].1, 0);
    }
    let (code, listed) = limits(&tiergate, &["list", "red"]);
    assert!(code == Some(0) && listed.lines().count() == 5 && !listed.contains(['\u{1b}', '\u{202e}']), "{listed:?}");
    let huge = "y".repeat(64 * 1024);
    assert_eq!(limits(&tiergate, &["show", "red", &huge]).0, Some(1));
    // Pages.
    let mut seen = Vec::new();
    let mut page = as_json(&tiergate, &["list", "--most", "3"]);
    loop {
        seen.extend(page["accounts"].as_array().unwrap().iter().map(|account| account["account"].to_string()));
        let Some(next) = page["next"].as_str() else { break };
        page = as_json(&tiergate, &["list", "--most", "3", "--after", next]);
    }
    seen.dedup();
    assert_eq!(seen.len(), 4);
}
