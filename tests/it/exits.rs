//! Exit codes: what `docs/process.md` and `--help` say of them is what happens.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use crate::support::{Folder, KEYS, TIERGATE, Tiergate, free_port, root};

/// Commands with their codes.
type Codes = BTreeSet<(String, i32)>;

fn documented() -> Codes {
    let text = std::fs::read_to_string(root("docs/process.md")).unwrap();
    let (_, table) = text.split_once("## Exit codes").unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        Some((cells.get(1)?.strip_prefix('`')?.strip_suffix('`')?.to_owned(), cells.get(2)?.parse().ok()?))
    };
    table.lines().filter_map(row).collect()
}

/// The codes of a command's help.
fn helped(words: &[&str]) -> BTreeSet<i32> {
    let output = Command::new(TIERGATE).args(words).arg("--help").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    let (_, text) = text.split_once("Exit code: ").unwrap_or_else(|| panic!("{words:?} says nothing of its exit code"));
    // Lines are wrapped, and a paragraph ends with an empty one.
    let paragraph = text.split("\n\n").next().unwrap().replace('\n', " ");
    let number = |part: &str| part.split_whitespace().next()?.parse().ok();
    paragraph.split([';', ',']).filter_map(number).collect()
}

/// The runs that end by themselves: words, and what they exit with.
fn runs(folder: &Folder, in_use: &str) -> Vec<(Vec<String>, i32)> {
    let path = |name: &str| root(name).display().to_string();
    let (good, bad) = (path("examples/manifests"), path("tests/data/lint/tier-unknown/bad"));
    let broken = folder.file("broken.yaml", "a: [1\n").display().to_string();
    let empty = folder.0.join("empty");
    std::fs::create_dir(&empty).unwrap();
    let empty = empty.display().to_string();
    let [jwks, key] = ["jwks.json", "signing-key.pem"].map(|name| KEYS.0.join(name).display().to_string());
    let (fresh, listen) = (folder.0.join("fresh").display().to_string(), format!("127.0.0.1:{}", free_port()));
    let alice = "system:serviceaccount:maas-default-gateway-tier-free:alice-12345678";
    let ask = |model: &str| format!("POST /llm/{model}/v1/chat/completions");
    let (granite, qwen) = (ask("granite"), ask("qwen3"));
    let serve = |manifests: &str, jwks: &str, grpc: &str| {
        let words = ["serve", "--manifests", manifests, "--jwks", jwks, "--listen-grpc", grpc];
        [&words[..], &["--listen-http", "127.0.0.1:0", "--listen-admin", "off"]].concat().join("\n")
    };
    let explain =
        |request: &str| ["explain", &good, "--grant-from-annotation", "--request", request, "--as", alice].join("\n");
    let create = |name: &str| {
        let namespace = "maas-default-gateway-tier-free";
        ["token", "create", name, "-n", namespace, "--signing-key", &key, "--manifests", &good].join("\n")
    };
    let log = |name: &str, text: &str| folder.file(name, text).display().to_string();
    let (usage, cut) = (log("usage.log", ""), log("cut.log", "{\"time\":\n"));
    let runs = [
        ("serve\n--no-such-flag".to_owned(), 2),
        (serve("/nonexistent", &jwks, &listen), 2),
        (serve(&good, &jwks, in_use), 64),
        (serve(&empty, &jwks, &listen), 64),
        (serve(&good, &broken, &listen), 64),
        (format!("check\n{good}\n--grant-from-annotation"), 0),
        (format!("check\n{bad}"), 0),
        (format!("check\n{bad}\n--deny-warnings"), 1),
        (format!("check\n{broken}"), 1),
        ("check\n/nonexistent".to_owned(), 2),
        (format!("check\n{empty}"), 2),
        ("check\n--no-such-flag".to_owned(), 2),
        (explain(&granite), 0),
        (explain(&qwen), 1),
        ("explain\n--code\nTG-LIMIT-TOKENS".to_owned(), 0),
        (explain("POST"), 2),
        ("explain\n--code\nTG-LIMIT".to_owned(), 2),
        (explain(&granite).replace(&good, "/nonexistent"), 2),
        ("explain\n--no-such-flag".to_owned(), 2),
        (format!("token\nkeys\n{fresh}"), 0),
        (format!("token\nkeys\n{fresh}"), 64),
        ("token\nkeys".to_owned(), 2),
        (format!("usage\n{usage}"), 0),
        (format!("usage\n{cut}"), 1),
        (format!("usage\n{empty}"), 2),
        ("usage".to_owned(), 2),
        (create("alice-12345678"), 0),
        (create("nobody"), 64),
    ];
    runs.map(|(words, code)| (words.lines().map(str::to_owned).collect(), code)).into()
}

/// How a serving process ends that is told to, once or twice.
async fn stopped(signals: usize) -> i32 {
    let tiergate =
        Tiergate::start(&root("examples/manifests"), &["--drain-delay", if signals == 1 { "0s" } else { "60s" }]);
    tiergate.signal("TERM");
    if signals == 2 {
        tiergate.await_log("stopping");
        tiergate.signal("TERM");
    }
    tiergate.ended().await.0.code().unwrap()
}

/// The codes of `limits`, asked of a process that serves and of none.
fn of_limits(serving: &Tiergate) -> [i32; 3] {
    let runs =
        [(&["list"][..], serving.admin.port()), (&["show", "nobody"], serving.admin.port()), (&["list"], free_port())];
    runs.map(|(words, port)| {
        let mut command = Command::new(TIERGATE);
        let output = command.arg("limits").args(words).args(["--admin", &format!("http://127.0.0.1:{port}")]).output();
        output.unwrap().status.code().unwrap()
    })
}

#[tokio::test]
async fn every_command_exits_as_it_is_documented() {
    let (folder, taken) = (Folder::new(), TcpListener::bind("127.0.0.1:0").unwrap());
    let mut seen = Codes::new();
    for (words, code) in runs(&folder, &taken.local_addr().unwrap().to_string()) {
        let mut command = Command::new(TIERGATE);
        let output = command.args(&words).stdin(Stdio::null()).output().unwrap();
        let printed = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {printed}");
        seen.insert((words[0].clone(), code));
    }
    for code in of_limits(&Tiergate::start(&root("examples/manifests"), &[])) {
        seen.insert(("limits".to_owned(), code));
    }
    seen.insert(("serve".to_owned(), stopped(1).await));
    seen.insert(("serve".to_owned(), stopped(2).await));
    assert_eq!(seen, documented());
    let limits = ["list", "show", "reset", "grant"].map(|command| vec!["limits", command]);
    let others = [&["serve"][..], &["check"], &["explain"], &["usage"], &["token", "keys"], &["token", "create"]];
    for words in others.iter().map(|words| words.to_vec()).chain(limits) {
        let of_command: BTreeSet<i32> =
            seen.iter().filter(|(name, _)| name == words[0]).map(|(_, code)| *code).collect();
        assert_eq!(helped(&words), of_command, "{words:?}");
    }
}
