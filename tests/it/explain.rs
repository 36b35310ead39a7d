//! Why a request is answered as it is: over a folder, and asked of a serving process.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use envoy_types::pb::envoy::service::auth::v3::CheckResponse;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use serde_json::{Value, json};

use crate::support::{Connection, KEYS, PATIENCE, TIERGATE, Tiergate, get, root, token};
use crate::wire::{channel, check, check_request, demo, http, outcome, premium};

const QWEN: &str = "/llm/qwen3/v1/chat/completions";

fn explain(flags: &[&str]) -> Command {
    let mut command = Command::new(TIERGATE);
    command.arg("explain").arg(root("examples/manifests")).arg("--grant-from-annotation").args(flags);
    command
}

/// Exit code and standard output, with nothing on standard error.
fn told(output: &Output) -> (Option<i32>, String) {
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    (output.status.code(), String::from_utf8(output.stdout.clone()).unwrap())
}

fn free() -> String {
    token("maas-default-gateway-tier-free", "alice-12345678", &root("examples/manifests"))
}

/// Name and result of each step.
fn steps(trace: &Value) -> Vec<(&str, &str)> {
    let steps = trace["steps"].as_array().unwrap().iter();
    steps.map(|step| (step["name"].as_str().unwrap(), step["result"].as_str().unwrap())).collect()
}

/// The error object of a refusal.
fn body(response: &CheckResponse) -> Value {
    let Some(HttpResponse::DeniedResponse(denied)) = &response.http_response else { panic!("{response:?}") };
    serde_json::from_str::<Value>(&denied.body).unwrap()["error"].clone()
}

#[test]
fn reason_codes_are_explained_without_a_folder() {
    let explain = |words: &[&str]| Command::new(TIERGATE).arg("explain").args(words).output().unwrap();
    let (code, text) = told(&explain(&["--code", "TG-LIMIT-TOKENS"]));
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("TG-LIMIT-TOKENS: The caller has used up a limit of tokens.\n\nHTTP 429."), "{text}");
    assert!(text.contains("- Caller: wait") && text.ends_with("or raise the limit.\n"), "{text}");
    let (code, text) = told(&explain(&["--code", "TG-UNAVAILABLE-CHECK"]));
    assert!(code == Some(0) && text.contains("Envoy"), "Envoy's own are explained too: {text}");
    let (code, all) = told(&explain(&["--code"]));
    let lines = all.lines().filter(|line| line.starts_with("  TG-")).count();
    assert!(code == Some(0) && lines == 36 && all.contains("\n429: "), "{all}");
    let help = told(&explain(&["--help"])).1;
    assert!(help.contains("--code [<CODE>]") && help.contains("TIERGATE_EXPLAIN_CODE"), "{help}");
}

#[test]
fn an_unknown_reason_code_is_refused_with_what_was_probably_meant() {
    for (typed, answer) in [
        ("TG-LIMIT-TOKEN", "did you mean `TG-LIMIT-TOKENS`?"),
        ("token-expired", "did you mean `TG-TOKEN-EXPIRED`?"),
        ("xyzzy", "`xyzzy` is not a reason code; `tiergate explain --code` lists them"),
    ] {
        let output = Command::new(TIERGATE).args(["explain", "--code", typed]).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && error.contains(answer), "{typed}: {error}");
    }
}

#[test]
fn a_secret_that_was_sent_is_not_repeated() {
    let path = "/llm/sk-canary0123456789abcdef/v1;password=canary";
    for format in ["text", "json"] {
        let output = explain(&["--path", path, "--host", "https://me:canary@x", "--format", format]).output().unwrap();
        let (code, text) = told(&output);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("/llm/(a secret)/v1;password=(a secret)") && !text.contains("canary"), "{text}");
    }
    let line = format!("curl --sk-canary0123456789abcdef http://models{QWEN}");
    let output = explain(&["--curl", &line]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("`--(a secret)`") && !error.contains("canary"), "{error}");
}

#[test]
fn a_curl_line_is_explained_over_a_folder_and_the_exit_code_says_the_answer() {
    let line = |token: &str| {
        format!(
            "curl -sS -H \"Authorization: Bearer {token}\" https://models.example.com{QWEN} -d '{{\"model\": \"qwen3\"}}'"
        )
    };
    let allowed = line(&premium());
    let (code, text) = told(&explain(&["--curl", &allowed]).output().unwrap());
    assert_eq!(code, Some(0), "{text}");
    for expected in [
        "POST /llm/qwen3/v1/chat/completions at models.example.com\n",
        "the token's claims are believed",
        "examples/manifests/auth-policy.yaml:28:9]",
        "premium, by group system:serviceaccounts:maas-default-gateway-tier-premium",
        "granted by annotation of LLMInferenceService llm/qwen3",
        "20 requests per 2m, 19 left after this one",
        "nothing was used before it",
        "answer    passed      allowed",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    // The same line from standard input, verified, as JSON.
    let jwks = KEYS.0.join("jwks.json");
    let mut command = explain(&["--curl", "-", "--format", "json", "--jwks"]);
    let mut process =
        command.arg(&jwks).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    process.stdin.take().unwrap().write_all(line(&free()).as_bytes()).unwrap();
    let (code, json) = told(&process.wait_with_output().unwrap());
    let trace: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (code, &trace["status"], &trace["code"]),
        (Some(1), &json!(403), &json!("TG-ACCESS-DENIED")),
        "{trace:#}"
    );
    let passed = |name| (name, "passed");
    let mut expected: Vec<_> = ["route", "policy", "identity", "tier"].map(passed).to_vec();
    expected.extend([("access", "refused"), ("limits", "not-reached"), ("answer", "refused")]);
    assert_eq!(steps(&trace), expected);
    assert!(json.contains("the token was reviewed for this request"), "{json}");
    assert!(
        trace["changes"][0].as_str().unwrap().contains("kubectl create rolebinding qwen3-post-access -n llm"),
        "{json}"
    );
}

#[test]
fn a_caller_may_be_named_as_kubectl_names_them() {
    let account = "system:serviceaccount:maas-default-gateway-tier-premium:jland-78028f6d";
    let request = format!("POST {QWEN}");
    let run = |flags: &[&str]| told(&explain(&["--request", &request]).args(flags).output().unwrap());
    for (flags, code, expected) in [
        (&["--as", account][..], 0, "taken on trust: --as, with every audience that a policy wants"),
        (
            &["--as", account, "--audience", "vault"],
            1,
            "the token is for vault, the policy wants maas-default-gateway-sa",
        ),
        (&["--as", "system:serviceaccount:maas-default-gateway-tier-premium:gone"], 1, "TG-TOKEN-SUBJECT-GONE"),
        (&["--as", "jane", "--as-group", "premium-users"], 1, "groups system:authenticated, premium-users"),
        (&["--as", account, "--model", "llm/granite"], 0, "model llm/granite"),
        (&["--as", account, "--gateway", "a/b"], 1, "no Gateway `a/b` is configured"),
        (&["--as", account, "--method", "GET"], 0, "GET /llm/qwen3"),
        (&[], 1, "TG-TOKEN-MISSING"),
        (&["--header", "Authorization: Basic YTpi"], 1, "holds no bearer token"),
        (&["--token", "a b"], 1, "holds characters that no token has"),
    ] {
        let (got, text) = run(flags);
        assert_eq!(got, Some(code), "{flags:?}: {text}");
        assert!(text.contains(expected), "{expected}\n{text}");
    }
}

#[test]
fn a_question_about_limits_is_explained_as_one() {
    let run = |flags: &[&str]| told(&explain(&["--request", "GET /v1/limits"]).args(flags).output().unwrap());
    let (code, text) = run(&["--as", "system:serviceaccount:maas-default-gateway-tier-free:alice-12345678"]);
    assert_eq!(code, Some(0), "{text}");
    for expected in [
        "no HTTPRoute has the path: the policies of the Gateway itself apply",
        "access    passed      not asked where no model is named",
        "answer    passed      tiergate answers",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    assert!(run(&[]).1.contains("TG-TOKEN-MISSING"));
    let (_, off) = run(&["--limits-path", "off"]);
    assert!(off.contains("TG-ROUTE-UNKNOWN"), "{off}");
}

#[test]
fn a_token_whose_time_is_over_is_refused_though_nobody_verifies_it() {
    let manifests = root("examples/manifests");
    let mut command = Command::new(TIERGATE);
    command.args(["token", "create", "jland-78028f6d", "-n", "maas-default-gateway-tier-premium", "--duration", "1s"]);
    command.arg("--signing-key").arg(KEYS.0.join("signing-key.pem")).arg("--manifests").arg(manifests);
    let token = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let started = std::time::Instant::now();
    loop {
        let (code, text) = told(&explain(&["--path", QWEN, "--token", token.trim()]).output().unwrap());
        if text.contains("TG-TOKEN-EXPIRED") {
            assert_eq!(code, Some(1));
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{text}");
        // Only time lets a token expire: a second, and five of leeway.
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

#[test]
fn what_cannot_be_explained_is_said_with_exit_code_2_and_without_the_token() {
    let secret = "sk-canary";
    let bearer = format!("curl -H 'Authorization: Bearer {secret}' http://h/llm/qwen3/v1");
    for (flags, expected) in [
        (&[][..], "no request to explain: give --request"),
        (&["--request", "POST"], "has to be a method and a path"),
        (&["--request", "POST /a b"], "has to be a method and a path"),
        (&["--request", "POST /a", "--path", "/a"], "exclude each other"),
        (&["--path", QWEN, "--token", secret], "without --jwks nothing is known of its caller"),
        (&["--curl", &bearer], "without --jwks nothing is known of its caller"),
        (&["--curl", "curl -H 'Authorization: Bearer $TOKEN' http://h/llm/qwen3/v1"], "no shell has filled in"),
        (&["--curl", &bearer, "--as", "jane"], "--as, --token and an Authorization header exclude each other"),
        (&["--curl", "curl --oauth2-bearer=sk-canary http://h"], "curl's option `--oauth2-bearer` is not known"),
        (
            &["--path", QWEN, "--as", "system:serviceaccount:nobody"],
            "--as has to be system:serviceaccount:<namespace>:<name>",
        ),
        (
            &["--path", QWEN, "--jwks", "/nonexistent.json", "--token", secret],
            "'/nonexistent.json' for '--jwks <FILE>': has to be a file",
        ),
        (&["--path", QWEN, "--header", secret], "--header has to be `Name: value`"),
        (&["--path", QWEN, "--as-group", "a"], "--as <USER>"),
    ] {
        let output = explain(flags).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {text}");
        assert!(text.contains(expected) && !text.contains(secret), "{flags:?}: {text}");
    }
    let output = Command::new(TIERGATE).args(["explain", "/nonexistent", "--path", "/a"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("'/nonexistent' for '[DIR]': has to be a folder or file"),
        "{output:?}"
    );
}

#[tokio::test]
async fn a_refusal_is_explained_by_its_id_as_the_folder_explains_it() {
    let tiergate = demo(&[]);
    let channel = channel(&tiergate).await;
    let bearer = format!("Bearer {}", free());
    let response = check(&channel, check_request(http(QWEN, Some(&bearer)))).await;
    assert_eq!(outcome(&response), (403, "TG-ACCESS-DENIED"));
    let error = body(&response);
    assert_eq!(error["model"], "llm/qwen3");
    let id = error["decision_id"].as_str().unwrap().to_owned();
    let page = format!("/explain/{id}");
    let asked = [("accept", "application/json")];
    let live = Connection::of_pages(tiergate.admin).await.send("GET", &page, &asked, "").await;
    assert_eq!((live.status, live.header("content-type")), (200, Some("application/json")), "{}", live.body);
    let live = live.json();
    assert_eq!((&live["decision_id"], &live["request"]["path"]), (&json!(id), &json!(QWEN)));
    let jwks = KEYS.0.join("jwks.json");
    let mut command = explain(&["--path", QWEN, "--host", "models", "--format", "json", "--token", &free(), "--jwks"]);
    let (_, folder) = told(&command.arg(jwks).output().unwrap());
    let folder: Value = serde_json::from_str(&folder).unwrap();
    for part in ["steps", "changes", "status", "code", "request", "decision"] {
        assert_eq!(live[part], folder[part], "{part}");
    }
    let text = get(tiergate.admin, &page).await;
    assert_eq!(text.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(text.body.starts_with(&format!("POST {QWEN} at models\ndecision {id} at 2")), "{}", text.body);
    // A request that is let through is not kept.
    let good = check(&channel, check_request(http(QWEN, Some(&format!("Bearer {}", premium()))))).await;
    assert_eq!(outcome(&good), (200, ""));
    let listed = get(tiergate.admin, "/explain").await.body;
    assert_eq!(listed.lines().count(), 1, "{listed}");
    assert!(listed.contains(&format!("{id} TG-ACCESS-DENIED system:serviceaccount:")), "{listed}");
    // Only these pages are there, and nowhere else.
    assert_eq!(get(tiergate.http, &page).await.status, 404);
    assert_eq!(get(tiergate.admin, "/metrics").await.status, 404);
}

#[tokio::test]
async fn the_last_1024_are_kept_and_what_is_not_is_said_so() {
    const KEPT: usize = 1024;
    let tiergate = demo(&["--log", "warn,tiergate=info,tiergate::decision=off"]);
    let channel = channel(&tiergate).await;
    assert_eq!(get(tiergate.admin, "/explain").await.body, "nothing was refused, and nothing was left undecided\n");
    let mut ids = Vec::new();
    for _ in 0..KEPT + 3 {
        let response = check(&channel, check_request(http(QWEN, None))).await;
        ids.push(body(&response)["decision_id"].as_str().unwrap().to_owned());
    }
    let listed = get(tiergate.admin, "/explain?format=json").await.json();
    let listed: Vec<&str> =
        listed["decisions"].as_array().unwrap().iter().map(|entry| entry["decision_id"].as_str().unwrap()).collect();
    let newest_first: Vec<&str> = ids.iter().skip(3).rev().map(String::as_str).collect();
    assert_eq!(listed, newest_first);
    let ask = async |id: &str| {
        let answer = get(tiergate.admin, &format!("/explain/{id}")).await;
        (answer.status, answer.body)
    };
    assert_eq!(ask(&ids[3]).await.0, 200);
    let (process, number) = ids[0].split_once('-').unwrap();
    let other = format!("{:08x}-{number}", u32::from_str_radix(process, 16).unwrap() ^ 1);
    for (id, why) in [
        (ids[2].as_str(), "is not kept, or let its request through"),
        (&other, "is of another process"),
        ("nonsense", "is not a decision id"),
        (&ids[3].to_uppercase().replace("0", "00"), "is not a decision id"),
    ] {
        let (status, body) = ask(id).await;
        assert_eq!(status, 404, "{id}: {body}");
        assert!(body.contains(why) && body.contains("the last 1024 requests"), "{id}: {body}");
    }
}

#[tokio::test]
async fn the_admin_port_is_on_loopback_and_can_be_off() {
    let help = Command::new(TIERGATE).args(["serve", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let flag = help.split("--listen-admin").nth(1).unwrap();
    assert!(flag.split("--gateway").next().unwrap().contains("[default: 127.0.0.1:8081]"), "{flag}");
    let tiergate = demo(&[]);
    assert!(tiergate.admin.ip().is_loopback() && ![tiergate.http, tiergate.grpc].contains(&tiergate.admin));
    let wrong = Command::new(TIERGATE).args(["serve", "--listen-admin", "of"]).output().unwrap();
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("an address such as 127.0.0.1:8081, or off"), "{wrong:?}");
    // A stop lets the page be read to its end, as the other pages.
    let Tiergate { admin, .. } = tiergate;
    let mut connection = Connection::of_pages(admin).await;
    tiergate.signal("TERM");
    assert_eq!(connection.send("GET", "/explain", &[], "").await.status, 200);
    assert!(tiergate.ended().await.0.success());
}

/// A page of another site can have its own name lead to 127.0.0.1, and read what is answered under it.
#[tokio::test]
async fn the_admin_port_answers_no_name_but_loopbacks() {
    let tiergate = demo(&[]);
    let ask = async |host: &str| {
        let mut connection = Connection::open(tiergate.admin).await;
        connection.write(format!("GET /explain HTTP/1.1\r\n{host}\r\n\r\n").as_bytes()).await;
        connection.answer().await
    };
    let port = tiergate.admin.port();
    // As curl, a browser and kubectl port-forward ask.
    for host in [format!("localhost:{port}"), "localhost".into(), format!("127.0.0.1:{port}"), "[::1]:8081".into()] {
        assert_eq!(ask(&format!("host: {host}")).await.status, 200, "{host}");
    }
    for host in
        ["host: rebound.example", "host: rebound.example:8081", "host: localhost.rebound.example", "x-host: localhost"]
    {
        let answer = ask(host).await;
        assert_eq!(answer.status, 421, "{host}");
        assert!(answer.body.contains("ask it as localhost") && !answer.body.contains("rebound"), "{}", answer.body);
    }
    // The other port is asked by the names of pods and services.
    assert_eq!(Connection::open(tiergate.http).await.send("GET", "/metrics", &[], "").await.status, 200);
}
