//! The usage log: what a serving process writes of its callers' calls, and what `tiergate usage` makes of it.

use std::path::Path;

use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::clock::header;
use crate::support::{self, Folder, KEYS, PATIENCE, Tiergate, get, root, tiergate};
use crate::wire::{channel, check, check_request, demo, descriptor, http, own, premium, report, text};

/// One call that is let through: its reservation.
async fn reserve(channel: &Channel) -> String {
    let good = format!("Bearer {}", premium());
    let response = check(channel, check_request(http("/llm/qwen3/v1/chat/completions", Some(&good)))).await;
    text(own(&response), "reservation").to_owned()
}

/// One call that is let through, and reported as these numbers.
async fn call(channel: &Channel, numbers: &[(&str, u64)]) {
    let reservation = reserve(channel).await;
    let numbers = numbers.iter().map(|(name, number)| descriptor(&reservation, Some(name), Some(*number)));
    let descriptors = std::iter::once(descriptor(&reservation, None, Some(0))).chain(numbers).collect();
    RateLimitServiceClient::new(channel.clone()).should_rate_limit(report(descriptors)).await.unwrap();
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A process that writes its usage log there.
fn writing(path: &Path, flags: &[&str]) -> Tiergate {
    demo(&[&["--usage-log", path.to_str().unwrap(), "--drain-delay", "0s"], flags].concat())
}

async fn stop(tiergate: Tiergate) {
    tiergate.signal("TERM");
    assert!(tiergate.ended().await.0.success());
}

/// Waits until so many lines are in the file.
async fn written(tiergate: &Tiergate, count: u64) {
    let started = std::time::Instant::now();
    while tiergate.metric("tiergate_usage_log_lines_total", "written").await < count {
        assert!(started.elapsed() < PATIENCE, "the lines are written");
    }
}

#[tokio::test]
async fn each_settled_call_has_a_line_when_the_process_has_ended() {
    let folder = Folder::new();
    let path = folder.0.join("usage.log");
    // Longer than the test takes, on a machine that stalls too.
    let tiergate = writing(&path, &["--settle-grace", "10m"]);
    let channel = channel(&tiergate).await;
    call(&channel, &[("total", 60), ("input", 20), ("output", 40), ("cached", 5), ("status", 200)]).await;
    call(&channel, &[("bytes", 400), ("status", 200)]).await;
    call(&channel, &[("status", 503)]).await;
    drop(channel);
    stop(tiergate).await;
    let mut lines = lines(&path);
    let taken = |line: &mut Value, name: &str| line.as_object_mut().unwrap().remove(name).unwrap();
    for line in &mut lines {
        assert!(taken(line, "time").as_str().unwrap().ends_with('Z'));
        assert!(taken(line, "duration_ms").as_u64().unwrap() < 60_000);
        assert_eq!(taken(line, "decision").as_str().unwrap().len(), "c34c06e0-00000016".len());
        let user = taken(line, "user");
        assert!(
            user.as_str().unwrap().starts_with("system:serviceaccount:maas-default-gateway-tier-premium:"),
            "{user}"
        );
        assert_ne!(taken(line, "route"), "");
    }
    let estimate = taken(&mut lines[2], "total").as_i64().unwrap();
    assert!(estimate > 0, "no answer is free");
    let limit = "openshift-ingress/gateway-token-rate-limits/premium-user-tokens";
    assert_eq!(taken(&mut lines[2], "charged"), json!({limit: estimate}));
    let common = |more: Value| {
        let mut line = json!({
            "tier": "premium", "namespace": "llm", "model": "qwen3", "channel": "rate_limit",
        });
        line.as_object_mut().unwrap().append(&mut more.as_object().unwrap().clone());
        line
    };
    let expected = [
        common(json!({
            "input": 20, "output": 40, "cached": 5, "total": 60, "charged": {limit: 60}, "quality": "final", "status": 200
        })),
        common(json!({"total": 0, "charged": {limit: 0}, "quality": "final", "status": 503})),
        // It has waited for a better report until the end.
        common(json!({"quality": "estimate", "status": 200})),
    ];
    assert_eq!(lines, expected);
}

/// Each by its own cost: of an answer whose usage is known, of one that is estimated, and of one that nobody reports.
#[tokio::test]
async fn limits_of_different_costs_are_charged_differently() {
    let [total, plain, paid] = charges_by_cost(&[]).await;
    assert!(0 < total && total <= plain && plain < paid, "in tokens, without the margin: {total} {plain} {paid}");
}

/// Likewise where a second call takes from the limits, and Check holds nothing.
#[tokio::test]
async fn limits_of_different_costs_are_charged_differently_behind_two_calls() {
    assert_eq!(charges_by_cost(&["--enforce-limits", "rls"]).await, [0; 3]);
}

/// What the call costs that nobody reported: all together, by a limit without a cost, and by one with a cost.
async fn charges_by_cost(flags: &[&str]) -> [u64; 3] {
    let manifests = Folder::new();
    let paid = "    paid: {rates: [{limit: 1000000, window: 1h}], counters: [{expression: auth.identity.userid}]}\n";
    let cost = "tiergate.io/cost.paid: 'usage.input + (model.name == \"qwen3\" ? 3 : 1) * usage.output'";
    for entry in std::fs::read_dir(root("examples/manifests")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let name = "  name: gateway-token-rate-limits\n";
        let text = text.replace(name, &format!("{name}  annotations: {{{cost}}}\n"));
        let text = text.replace("    premium-user-tokens:\n", &format!("{paid}    premium-user-tokens:\n"));
        manifests.file(path.file_name().unwrap().to_str().unwrap(), &text);
    }
    let folder = Folder::new();
    let path = folder.0.join("usage.log");
    let logging = ["--usage-log", path.to_str().unwrap(), "--drain-delay", "0s", "--settle-grace", "10m"];
    let tiergate = Tiergate::start(&manifests.0, &[&logging, flags].concat());
    let channel = channel(&tiergate).await;
    call(&channel, &[("total", 60), ("input", 20), ("output", 40), ("status", 200)]).await;
    call(&channel, &[("bytes", 400), ("request_bytes", 40), ("status", 200)]).await;
    let of = |limit: &str| format!("limit=\"{limit}\"");
    let [plain, paid] = [of("premium-user-tokens"), of("paid")];
    let counted = [
        tiergate.metric("tiergate_limit_tokens_total", &plain).await,
        tiergate.metric("tiergate_limit_tokens_total", &paid).await,
    ];
    reserve(&channel).await;
    drop(channel);
    stop(tiergate).await;
    let lines = lines(&path);
    let qualities: Vec<_> = lines.iter().map(|line| line["quality"].as_str().unwrap()).collect();
    assert_eq!(qualities, ["final", "estimate", "unsettled"]);
    let charged = |line: &Value, limit: &str| {
        line["charged"][format!("openshift-ingress/gateway-token-rate-limits/{limit}")].as_u64()
    };
    assert_eq!(charged(&lines[0], "premium-user-tokens"), Some(60));
    assert_eq!(charged(&lines[0], "paid"), Some(20 + 3 * 40));
    let total = lines[1]["total"].as_u64().unwrap();
    assert_eq!(charged(&lines[1], "premium-user-tokens"), Some(total));
    let paid = charged(&lines[1], "paid").unwrap();
    assert!(total < paid && paid <= 3 * total, "{paid} of {total}");
    assert_eq!(counted, [60 + total, 140 + paid]);
    let [plain, paid] = ["premium-user-tokens", "paid"].map(|limit| charged(&lines[2], limit).unwrap());
    [lines[2]["total"].as_u64().unwrap(), plain, paid]
}

/// As logrotate does it, with and without a signal; and by a second process on the same file.
#[tokio::test]
async fn a_usage_log_that_is_moved_away_is_begun_anew_and_rotated_by_its_size() {
    let folder = Folder::new();
    let [path, first, second] = ["usage.log", "usage.log.1", "usage.log.2"].map(|name| folder.0.join(name));
    let tiergate = writing(&path, &[]);
    let connection = channel(&tiergate).await;
    call(&connection, &[("total", 1)]).await;
    written(&tiergate, 1).await;
    std::fs::rename(&path, &first).unwrap();
    call(&connection, &[("total", 2)]).await;
    written(&tiergate, 2).await;
    std::fs::rename(&path, &second).unwrap();
    tiergate.signal("HUP");
    let started = std::time::Instant::now();
    while !path.exists() {
        assert!(started.elapsed() < PATIENCE, "a signal has it opened");
        tokio::task::yield_now().await;
    }
    let total = |path: &Path| lines(path).iter().map(|line| line["total"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!([&first, &second, &path].map(|path| total(path)), [vec![1], vec![2], vec![]]);
    drop(connection);
    stop(tiergate).await;
    let small = writing(&path, &["--usage-log-max-size", "1", "--usage-log-keep", "2"]);
    let connection = channel(&small).await;
    for total in 3..7 {
        call(&connection, &[("total", total)]).await;
        written(&small, total - 2).await;
    }
    drop(connection);
    stop(small).await;
    let mut rotated: Vec<_> = std::fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().path()).collect();
    rotated.retain(|path| path.to_str().unwrap().ends_with('Z'));
    rotated.sort();
    assert_eq!(rotated.iter().map(|path| total(path)).collect::<Vec<_>>(), [[4], [5]]);
    assert_eq!(total(&path), [6]);
}

#[tokio::test]
async fn a_full_disk_is_told_and_stops_nothing() {
    let tiergate = writing(Path::new("/dev/full"), &[]);
    let connection = channel(&tiergate).await;
    call(&connection, &[("total", 1)]).await;
    let told = tiergate.await_log("--usage-log: the file is in trouble");
    assert!(told["error"].as_str().unwrap().contains("No space left"), "{told}");
    assert_eq!((told["level"].as_str(), told["file"].as_str()), (Some("ERROR"), Some("/dev/full")));
    assert_eq!(tiergate.metric("tiergate_usage_log_failing", "").await, 1);
    // It serves on, and ends when it is to.
    call(&connection, &[("total", 1)]).await;
    assert_eq!(tiergate.metric("tiergate_usage_reports_total", "settled").await, 2);
    drop(connection);
    tiergate.signal("TERM");
    let (status, log) = tiergate.ended().await;
    assert!(status.success());
    let lost = log.iter().find(|line| line["message"] == "--usage-log: the process ends, and lines are lost");
    assert_eq!(lost.unwrap()["lines"], 2);
}

/// Calls that nobody reports, and a report of one after that.
#[tokio::test]
async fn a_call_that_nobody_reports_has_a_line_after_the_call_time() {
    let folder = Folder::new();
    let path = folder.0.join("usage.log");
    let tiergate = writing(&path, &["--max-call-time", "1s"]);
    let connection = channel(&tiergate).await;
    let calls = [reserve(&connection).await, reserve(&connection).await];
    written(&tiergate, 2).await;
    let late = report(vec![descriptor(&calls[1], Some("total"), Some(60))]);
    RateLimitServiceClient::new(connection.clone()).should_rate_limit(late).await.unwrap();
    written(&tiergate, 3).await;
    assert_eq!(tiergate.metric("tiergate_usage_unsettled_total", "").await, 2);
    let lines = lines(&path);
    let [first, second] = [0, 1].map(|at: usize| lines[at]["total"].as_i64().unwrap());
    assert!(first > 60 && second > 60, "{lines:?}");
    let part = |line: &Value| ["quality", "total", "corrects", "channel"].map(|name| line[name].clone());
    let unsettled = |held: i64| [json!("unsettled"), json!(held), Value::Null, json!("")];
    let correction = lines[2]["total"].as_i64().unwrap();
    assert!([60 - first, 60 - second].contains(&correction), "{lines:?}");
    let corrected = [json!("final"), json!(correction), json!("unsettled"), json!("rate_limit")];
    assert_eq!(lines.iter().map(part).collect::<Vec<_>>(), [unsettled(first), unsettled(second), corrected]);
    let sums = support::run(support::tiergate(&["usage", "--by", "tier", "--format", "csv"]).arg(&path)).1;
    assert!(sums.contains(&format!("premium,2,0,1,0,0,0,0,{}\n", first + second + correction)), "{sums}");
    drop(connection);
    stop(tiergate).await;
}

/// Its report comes to another process, of the same secret.
#[tokio::test]
async fn a_call_that_is_open_when_the_process_ends_has_a_line_that_no_other_process_corrects() {
    let folder = Folder::new();
    let [path, other] = ["usage.log", "other.log"].map(|name| folder.0.join(name));
    let key = folder.file("key", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n");
    let flags = ["--key-file", key.to_str().unwrap()];
    let tiergate = writing(&path, &flags);
    let connection = channel(&tiergate).await;
    call(&connection, &[("total", 60)]).await;
    let reservation = reserve(&connection).await;
    drop(connection);
    stop(tiergate).await;
    let lines = lines(&path);
    let part = |line: &Value| ["quality", "corrects", "channel"].map(|name| line[name].clone());
    let expected = [[json!("final"), Value::Null, json!("rate_limit")], [json!("unsettled"), Value::Null, json!("")]];
    assert_eq!(lines.iter().map(part).collect::<Vec<_>>(), expected);
    let total = lines[1]["total"].as_i64().unwrap();
    assert!(total > 0, "{lines:?}");
    let limit = "openshift-ingress/gateway-token-rate-limits/premium-user-tokens";
    assert_eq!(lines[1]["charged"], json!({limit: total}));
    let tiergate = writing(&other, &flags);
    let connection = channel(&tiergate).await;
    let late = report(vec![descriptor(&reservation, Some("total"), Some(60))]);
    RateLimitServiceClient::new(connection.clone()).should_rate_limit(late).await.unwrap();
    assert_eq!(tiergate.metric("tiergate_usage_reports_total", "unknown").await, 1);
    drop(connection);
    stop(tiergate).await;
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "");
}

/// Sequence 51, by a process: what was sealed before is settled while the old secret stands second, and no account begins anew.
#[tokio::test]
async fn a_secret_is_changed_while_calls_are_out_and_limits_count_on() {
    let folder = Folder::new();
    let [old, new] = ["AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="];
    let key = folder.file("key", &format!("{old}\n"));
    let tiergate = demo(&["--key-file", key.to_str().unwrap()]);
    let change = |text: &str, told: &str| {
        std::fs::write(&key, text).unwrap();
        tiergate.await_log(told);
    };
    let connection = channel(&tiergate).await;
    let settle = async |reservation: &str| {
        let report = report(vec![descriptor(reservation, Some("total"), Some(60))]);
        RateLimitServiceClient::new(connection.clone()).should_rate_limit(report).await.unwrap();
        let reports = async |result: &str| tiergate.metric("tiergate_usage_reports_total", result).await;
        (reports("settled").await, reports("unknown").await)
    };
    let [first, second] = [reserve(&connection).await, reserve(&connection).await];
    change(&format!("{new}\n{old}\n"), "read again, and in use");
    let third = reserve(&connection).await;
    assert_eq!(settle(&first).await, (1, 0));
    for (bad, why) in
        [(format!("{new}\n{new}"), "both lines are the same"), (format!("{new}\nQUFB"), "line 2: it is 3 bytes")]
    {
        change(&bad, why);
        let problems = get(tiergate.http, "/problems").await.body;
        assert!(problems.contains("setting-unreadable") && !problems.contains("QUFB"), "{problems}");
    }
    assert_eq!(settle(&third).await, (2, 0), "the last good ones stay in use");
    change(new, "read again, and in use");
    assert_eq!(settle(&second).await, (2, 1));
    change(old, "the secret before is gone");
    let good = format!("Bearer {}", premium());
    let checked = check(&connection, check_request(http("/llm/qwen3/v1/chat/completions", Some(&good)))).await;
    assert_eq!(header(&checked, "x-ratelimit-remaining-requests"), 16, "three of 20 were taken before, and this one");
    drop(connection);
    stop(tiergate).await;
}

#[test]
fn a_usage_log_that_cannot_be_opened_ends_the_start() {
    let (manifests, jwks) = (root("examples/manifests"), KEYS.0.join("jwks.json"));
    let words = ["serve", "--manifests", manifests.to_str().unwrap(), "--jwks", jwks.to_str().unwrap()];
    let (code, log) = support::run(tiergate(&words).args(["--usage-log", "/nonexistent/usage.log"]));
    assert_eq!(code, Some(64), "{log}");
    assert!(log.contains("--usage-log: `/nonexistent/usage.log` cannot be opened: No such file or directory"), "{log}");
}

/// What a bill is made of: the numbers that models said, whatever was written when, and what a reader cannot read beside it.
#[tokio::test]
async fn a_usage_log_is_summed_while_it_is_written() {
    let folder = Folder::new();
    let path = folder.0.join("usage.log");
    let tiergate = writing(&path, &["--usage-log-max-size", "1KiB"]);
    let connection = channel(&tiergate).await;
    for number in 1..=10 {
        call(&connection, &[("input", number), ("output", 100), ("reasoning", 7), ("status", 200)]).await;
    }
    written(&tiergate, 10).await;
    let usage =
        |words: &[&str]| support::run(support::tiergate(&["usage"]).args(words).env("TIERGATE_USAGE_LOG", &path));
    let expected = "\
tier     calls  estimated  unsettled  input  output  cached  reasoning  total
premium     10          0          0     55    1000       0         70   1055
(all)       10          0          0     55    1000       0         70   1055
";
    assert_eq!(usage(&["--by", "tier"]), (Some(0), expected.to_owned()));
    let files = std::fs::read_dir(&folder.0).unwrap().count();
    assert!(files > 2, "it was rotated meanwhile: {files}");
    // A piece without an end, as a crash leaves it.
    drop(connection);
    stop(tiergate).await;
    let cut = std::fs::read_to_string(&path).unwrap() + "{\"time\":\"2026-";
    std::fs::write(&path, &cut).unwrap();
    let (code, printed) = usage(&["--by", "tier", "--format", "csv"]);
    let told = format!("usage.log:{}: not read: it is cut off", cut.lines().count());
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.contains("premium,10,0,0,55,1000,0,70,1055\n") && printed.contains(&told), "{printed}");
    // And the next process.
    let again = writing(&path, &[]);
    let connection = channel(&again).await;
    call(&connection, &[("total", 5)]).await;
    written(&again, 1).await;
    assert!(usage(&["--by", "tier", "--format", "csv"]).1.contains("premium,11,0,0,55,1000,0,70,1060\n"));
}

#[test]
fn what_is_compressed_is_read_from_standard_input() {
    let folder = Folder::new();
    let line = r#"{"time":"2026-11-29T01:30:12.125Z","decision":"","user":"ann","tier":"free","namespace":"llm","model":"qwen3","route":"","total":60,"charged":{},"quality":"final","channel":"rate_limit"}"#;
    let path = folder.file("usage.log", &format!("{line}\n"));
    let file = std::fs::File::open(path).unwrap();
    let (code, printed) = support::run(tiergate(&["usage", "-", "--by", "user,day", "--format", "csv"]).stdin(file));
    let expected =
        "user,day,calls,estimated,unsettled,input,output,cached,reasoning,total\nann,2026-11-29,1,0,0,0,0,0,0,60\n";
    assert_eq!((code, &*printed), (Some(0), expected));
}

/// The example of docs/usage.md is what the command prints.
#[test]
fn the_documented_sums_are_those_of_the_documented_lines() {
    let page = std::fs::read_to_string(root("docs/usage.md")).unwrap();
    let blocks: Vec<String> = page.split("\n\n").filter(|block| block.starts_with("    ")).map(unindented).collect();
    let [lines, command, sums, ..] = blocks.as_slice() else { panic!("{blocks:?}") };
    let folder = Folder::new();
    folder.file("usage.log", lines);
    let words: Vec<&str> = command.split_whitespace().skip(1).collect();
    assert_eq!(support::run(tiergate(&words).current_dir(&folder.0)), (Some(0), sums.clone()));
}

fn unindented(block: &str) -> String {
    block.lines().map(|line| format!("{}\n", line.trim_start())).collect()
}
