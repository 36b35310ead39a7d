//! Flags and their variables: a wrong value is an error that says whose it is, and what a serving process was told is told by it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use clap::CommandFactory;
use tiergate::args::Cli;

use crate::reload::copy;
use crate::support::{self, Folder, KEYS, Tiergate, await_page, await_ready, get, root, tiergate};

/// A variable of `serve`, a bad value, and what is said to be right.
const BAD: [(&str, &str, &str); 54] = [
    ("TIERGATE_MANIFESTS", "/nonexistent", "has to be a folder"),
    ("TIERGATE_KUBERNETES", "yes", "[possible values: true, false]"),
    ("TIERGATE_KUBECONFIG", "/nonexistent", "has to be a file"),
    ("TIERGATE_NO_STATUS", "1", "[possible values: true, false]"),
    ("TIERGATE_JWKS", "/", "has to be a file"),
    ("TIERGATE_ISSUER", "kubernetes.default.svc", "has to be a URL"),
    ("TIERGATE_IDENTITY", "lokal", "[possible values: review, local]"),
    ("TIERGATE_REVIEW_FOREIGN", "True", "[possible values: true, false]"),
    ("TIERGATE_ACCESS", "none", "[possible values: rbac, review, both]"),
    ("TIERGATE_STALE_FOR", "5", "has to be a duration"),
    ("TIERGATE_KUBE_API_QPS", "0", "has to be a whole number, 1 at least"),
    ("TIERGATE_KUBE_API_BURST", "-1", "has to be a whole number, 1 at least"),
    ("TIERGATE_LISTEN_GRPC", "localhost", "has to be an address and a port"),
    ("TIERGATE_LISTEN_HTTP", "8080", "has to be an address and a port"),
    ("TIERGATE_LISTEN_ADMIN", "false", "has to be an address such as 127.0.0.1:8081, or off"),
    ("TIERGATE_GATEWAY", "no-slash", "has to be namespace/name"),
    ("TIERGATE_TIER_MAPPING", "Maas/mapping", "has to be namespace/name"),
    ("TIERGATE_INSTANCE", "my_instance", "has to be a name"),
    ("TIERGATE_GRANT_FROM_ANNOTATION", "on", "[possible values: true, false]"),
    ("TIERGATE_WITHOUT_POLICY", "deny", "[possible values: allow, refuse]"),
    ("TIERGATE_WITHOUT_LIMIT", "Refuse", "[possible values: allow, refuse]"),
    ("TIERGATE_MAX_ACCOUNTS", "0", "has to be a whole number, 1 at least"),
    ("TIERGATE_WITHOUT_ROOM", "true", "[possible values: allow, refuse]"),
    ("TIERGATE_UNCOUNTED", "no", "[possible values: allow, refuse]"),
    ("TIERGATE_MAX_ANSWER_TOKENS", "1M", "has to be a whole number, 1 at least"),
    ("TIERGATE_MAX_DEBT_WINDOWS", "0", "has to be a whole number, 1 at least"),
    ("TIERGATE_TOKEN_ADMISSION", "reserved", "[possible values: reserve, positive]"),
    ("TIERGATE_RESERVATION_FRACTION", "0", "has to be a number above 0 and up to 1"),
    ("TIERGATE_RESERVATION_MARGIN", "NaN", "has to be a number from 0 to 100"),
    ("TIERGATE_MAX_CALL_TIME", "15", "has to be a duration"),
    ("TIERGATE_SETTLE_WITHIN", "25h", "has to be a duration up to 24h"),
    ("TIERGATE_USAGE_LOG", "/", "has to be a file"),
    ("TIERGATE_USAGE_LOG_MAX_SIZE", "100MB", "has to be a number of bytes such as"),
    ("TIERGATE_USAGE_LOG_MAX_AGE", "0s", "has to be a duration"),
    ("TIERGATE_USAGE_LOG_KEEP", "-1", "has to be a whole number, or 0"),
    ("TIERGATE_SETTLE_GRACE", "5", "has to be a duration"),
    ("TIERGATE_MAX_OPEN_CALLS", "0", "has to be a whole number, 1 at least"),
    ("TIERGATE_STATE", "/", "has to be a file"),
    ("TIERGATE_STATE_DISCARD", "yes", "[possible values: true, false]"),
    ("TIERGATE_KEY_FILE", "/nonexistent", "has to be a file"),
    ("TIERGATE_ENFORCE_LIMITS", "none", "[possible values: check, rls]"),
    ("TIERGATE_LIMITS_PATH", "v1/limits", "has to be a path such as /v1/limits, or off"),
    ("TIERGATE_SHADOW", "disabled", "[possible values: true, false]"),
    ("TIERGATE_COMPAT", "kuadrant", "[possible values: kuadrant-wasm]"),
    ("TIERGATE_TIER_UNKNOWN", "allow", "[possible values: refuse, next]"),
    ("TIERGATE_VERBOSE_REFUSALS", "0", "[possible values: true, false]"),
    ("TIERGATE_RETRY_HINT", "60", "has to be a duration"),
    ("TIERGATE_IDENTITY_TTL", "0s", "has to be a duration"),
    ("TIERGATE_MAX_IDENTITIES", "1e6", "has to be a whole number, 1 at least"),
    ("TIERGATE_WORKERS", "0", "has to be a whole number, 1 at least"),
    ("TIERGATE_DRAIN_DELAY", "2", "has to be a duration"),
    ("TIERGATE_DRAIN_TIMEOUT", "25 s", "has to be a duration"),
    ("TIERGATE_LOG", "verbose", "has to be a level"),
    ("TIERGATE_LOG_FORMAT", "yaml", "[possible values: json, text]"),
];

fn run(words: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    support::run(tiergate(words).envs(variables.iter().copied()))
}

/// What `serve` says of its settings and manifests. The keys are none, so it ends then.
fn start_of_a_log(manifests: &Path, flags: &[&str], variables: &[(&str, &str)]) -> String {
    let words = ["serve", "--manifests", manifests.to_str().unwrap(), "--jwks", "/dev/null"];
    let (code, log) = run(&[&words, flags].concat(), variables);
    assert_eq!(code, Some(64), "{log}");
    log
}

/// The variables of a command, and whether each is that of a switch.
fn variables(command: &clap::Command) -> Vec<(String, bool)> {
    let variable = |arg: &clap::Arg| Some((arg.get_env()?.to_str()?.to_owned(), !arg.get_action().takes_values()));
    command.get_arguments().filter_map(variable).collect()
}

/// Every command that can be run, with the words that run it.
fn commands(command: &clap::Command, words: &[&str]) -> Vec<(Vec<String>, clap::Command)> {
    let of = |sub: &clap::Command| commands(sub, &[words, &[sub.get_name()]].concat());
    let subcommands: Vec<_> = command.get_subcommands().flat_map(of).collect();
    match subcommands.is_empty() {
        true => vec![(words.iter().map(|word| (*word).to_owned()).collect(), command.clone())],
        false => subcommands,
    }
}

#[test]
fn a_bad_value_of_each_variable_of_serve_is_an_error_that_names_it() {
    let cli = Cli::command();
    for (name, _) in variables(cli.find_subcommand("serve").unwrap()) {
        let row = BAD.iter().find(|(known, ..)| *known == name);
        let (_, value, expected) = row.unwrap_or_else(|| panic!("no bad value of {name} is tried"));
        let (code, printed) = run(&["serve"], &[(&name, value)]);
        assert_eq!(code, Some(2), "{name}={value}: {printed}");
        for text in [&name, *value, expected] {
            assert!(printed.contains(text), "{name}={value} does not say `{text}`: {printed}");
        }
    }
}

/// Unset is one thing, and empty a slip: what was left empty may have been meant to refuse.
#[test]
fn an_empty_variable_is_an_error_of_every_command() {
    for (words, command) in commands(&Cli::command(), &[]) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        for (name, _) in variables(&command) {
            let (code, printed) = run(&words, &[(&name, "")]);
            assert!(code == Some(2) && printed.contains(&name), "{words:?} {name}: {code:?} {printed}");
        }
    }
}

#[test]
fn a_path_that_is_not_there_is_an_error_of_every_command_that_names_its_variable() {
    let rows: [(&[&str], &str); 10] = [
        (&["serve"], "TIERGATE_MANIFESTS"),
        (&["serve"], "TIERGATE_KEY_FILE"),
        (&["serve"], "TIERGATE_JWKS"),
        (&["check"], "TIERGATE_MANIFESTS"),
        (&["check"], "TIERGATE_ENVOY_CONFIG"),
        (&["explain"], "TIERGATE_MANIFESTS"),
        (&["explain"], "TIERGATE_JWKS"),
        (&["usage"], "TIERGATE_USAGE_LOG"),
        (&["token", "create"], "TIERGATE_MANIFESTS"),
        (&["token", "create"], "TIERGATE_SIGNING_KEY"),
    ];
    for (words, name) in rows {
        let (code, printed) = run(words, &[(name, "/nonexistent")]);
        let told = ["/nonexistent", "No such file", name].iter().all(|text| printed.contains(text));
        assert!(code == Some(2) && told, "{words:?} {name}: {code:?} {printed}");
    }
}

#[test]
fn a_switch_is_true_false_or_an_error_in_every_command() {
    for (words, command) in commands(&Cli::command(), &[]) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        for (name, _) in variables(&command).into_iter().filter(|(_, is_switch)| *is_switch) {
            for value in ["disabled", "0", "1", "no", "yes", "off", "on", "n", "TRUE", "False", " true", "false "] {
                let (code, printed) = run(&words, &[(&name, value)]);
                let told = printed.contains(&name) && printed.contains(value) && printed.contains("true, false");
                assert!(code == Some(2) && told, "{words:?} {name}={value}: {code:?} {printed}");
            }
        }
    }
    // What is right is taken: with it, something else is missing.
    let serve = |value: &str| run(&["serve"], &[("TIERGATE_SHADOW", value)]).1;
    assert!(["true", "false"].into_iter().all(|value| serve(value).contains("give one source")), "{}", serve("false"));
}

#[test]
fn a_value_of_the_command_line_is_not_said_to_be_a_variable() {
    let (code, printed) = run(&["serve", "--workers", "0"], &[]);
    assert!(code == Some(2) && printed.contains("--workers") && !printed.contains("TIERGATE_"), "{printed}");
    // And goes before it.
    let (_, printed) = run(&["serve", "--workers", "1"], &[("TIERGATE_WORKERS", "0")]);
    assert!(printed.contains("give one source"), "{printed}");
}

#[test]
fn a_variable_that_nobody_reads_is_named() {
    let folder = root("examples/manifests");
    let variables = [("TIERGATE_DENY_WARNINGSS", "true"), ("TIERGATE_SERVICE_HOST", "10.0.0.1")];
    let (code, printed) = run(&["check", folder.to_str().unwrap(), "--grant-from-annotation"], &variables);
    assert_eq!(code, Some(0), "{printed}");
    assert!(
        printed.contains("TIERGATE_DENY_WARNINGSS is not known")
            && printed.contains("did you mean TIERGATE_DENY_WARNINGS?"),
        "{printed}"
    );
    assert!(!printed.contains("TIERGATE_SERVICE_HOST"), "{printed}");
    let log = start_of_a_log(&folder, &[], &[("TIERGATE_SHADOWW", "false")]);
    assert!(log.contains("TIERGATE_SHADOWW is not known, and has no effect; did you mean TIERGATE_SHADOW?"), "{log}");
}

/// What it holds is not told.
#[test]
fn a_secret_is_32_bytes_which_others_should_not_read() {
    let (folder, manifests, jwks) = (Folder::new(), root("examples/manifests"), KEYS.0.join("jwks.json"));
    let short = folder.file("short", "c2hvcnQ=\n");
    let serve = ["serve", "--manifests", manifests.to_str().unwrap(), "--jwks", jwks.to_str().unwrap()];
    let (code, log) = run(&[&serve[..], &["--key-file", short.to_str().unwrap()]].concat(), &[]);
    assert_eq!(code, Some(64), "{log}");
    assert!(log.contains("32 random bytes in Base64") && log.contains("line 1: it is 5 bytes"), "{log}");
    assert!(!log.contains("c2hvcnQ"), "{log}");
    let secret = folder.file("secret", "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=\n");
    let told = |flags: &[&str], what: &str| {
        let tiergate = Tiergate::start(&manifests, flags);
        tiergate.told.iter().any(|line| line["message"].as_str().is_some_and(|text| text.contains(what)))
    };
    let (random, open) = ("made at random, and does not survive a restart", "can read the secret");
    assert!(told(&[], random) && !told(&[], open));
    for (mode, is_open) in [(0o600, false), (0o440, false), (0o644, true)] {
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(mode)).unwrap();
        let flags = ["--key-file", secret.to_str().unwrap()];
        assert!(!told(&flags, random) && told(&flags, open) == is_open, "{mode:o}");
    }
}

/// Nobody has to remember that everything is let through.
#[tokio::test]
async fn shadow_is_told_by_log_page_and_gauge() {
    let manifests = root("examples/manifests");
    let log = start_of_a_log(&manifests, &["--shadow"], &[]);
    assert!(log.contains("--shadow: every request is let through"), "{log}");
    assert!(!start_of_a_log(&manifests, &[], &[("TIERGATE_SHADOW", "false")]).contains("--shadow"));
    let tiergate = Tiergate::start(&manifests, &["--shadow"]);
    assert_eq!(tiergate.metric("tiergate_shadow", "").await, 1);
    let ready = await_ready(&tiergate).await;
    assert!(ready.contains("in shadow: every request is let through"), "{ready}");
    let tiergate = Tiergate::start(&manifests, &[]);
    assert_eq!(tiergate.metric("tiergate_shadow", "").await, 0);
    let ready = await_ready(&tiergate).await;
    assert!(!ready.contains("shadow"), "{ready}");
}

#[tokio::test]
async fn a_gateway_that_is_not_there_is_told_until_it_comes() {
    let folder = copy();
    let log = start_of_a_log(&folder.0, &["--gateway", "edge/later"], &[]);
    assert!(log.contains("gateway-unknown") && log.contains("no Gateway edge/later is there"), "{log}");
    let tiergate = Tiergate::start(&folder.0, &["--gateway", "edge/later"]);
    let findings = || tiergate.metric("tiergate_policy_findings", "gateway-unknown");
    assert_eq!(findings().await, 1);
    let problems = get(tiergate.http, "/problems").await.json();
    let of_gateway =
        |problem: &&serde_json::Value| problem["code"] == "gateway-unknown" && problem["severity"] == "error";
    assert_eq!(problems["problems"].as_array().unwrap().iter().filter(of_gateway).count(), 1);
    folder.file("later.yaml", "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: later, namespace: edge}\nspec: {gatewayClassName: x, listeners: [{name: http, port: 80, protocol: HTTP}]}\n");
    await_page(tiergate.http, "/problems", |_, page| !page.contains("gateway-unknown")).await;
    let page = get(tiergate.http, "/metrics").await.body;
    assert!(!page.contains("gateway-unknown"), "{page}");
}
