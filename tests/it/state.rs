//! The state file: a process that goes on where the one before it ended, however that was.

mod million;
mod streams;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::auth::v3::CheckResponse;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::support::{self, Folder, KEYS, PATIENCE, Tiergate, root, soak, tiergate, token};
use crate::wire::{channel, check, check_request, descriptor, http, outcome, own, report, text, try_check};

const QWEN: &str = "/llm/qwen3/v1/chat/completions";
const LIMIT: u64 = 1_000_000;

/// The tour's manifests, with a limit of requests whose every hit can be counted, and more tokens than a test takes.
fn countable() -> Folder {
    let folder = Folder::new();
    for entry in std::fs::read_dir(root("examples/manifests")).unwrap() {
        let path = entry.unwrap().path();
        let name = "  name: gateway-rate-limits\n";
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.replace(name, &format!("{name}  annotations: {{tiergate.io/algorithm: fixed-window}}\n"));
        let text = text.replace("{limit: 20, window: 2m}", &format!("{{limit: {LIMIT}, window: 24h}}"));
        let text = text.replace("{limit: 50000, window: 1m}", "{limit: 1000000000, window: 24h}");
        folder.file(path.file_name().unwrap().to_str().unwrap(), &text);
    }
    folder
}

fn premium(manifests: &Path) -> String {
    format!("Bearer {}", token("maas-default-gateway-tier-premium", "jland-78028f6d", manifests))
}

fn start(manifests: &Folder, state: &Path, flags: &[&str]) -> Tiergate {
    let state = ["--state", state.to_str().unwrap(), "--drain-delay", "0s"];
    Tiergate::start(&manifests.0, &[&state, flags].concat())
}

fn left(response: &CheckResponse) -> u64 {
    let Some(HttpResponse::OkResponse(ok)) = &response.http_response else { panic!("{response:?}") };
    let mut headers = ok.response_headers_to_add.iter().filter_map(|option| option.header.as_ref());
    headers.find(|header| header.key == "x-ratelimit-remaining-requests").unwrap().value.parse().unwrap()
}

/// What a call took, and its reservation.
async fn call(channel: &Channel, token: &str) -> (u64, String) {
    let response = check(channel, check_request(http(QWEN, Some(token)))).await;
    assert_eq!(outcome(&response).0, 200);
    (left(&response), text(own(&response), "reservation").to_owned())
}

async fn settle(channel: &Channel, reservation: &str, tokens: u64) {
    let descriptors =
        vec![descriptor(reservation, None, Some(0)), descriptor(reservation, Some("total"), Some(tokens))];
    RateLimitServiceClient::new(channel.clone()).should_rate_limit(report(descriptors)).await.unwrap();
}

/// Waits until all that was asked until now is saved.
async fn saved(tiergate: &Tiergate) {
    let saves = || tiergate.metric("tiergate_state_save_duration_seconds_count", "");
    let (started, before) = (Instant::now(), saves().await);
    while saves().await == before {
        assert!(started.elapsed() < PATIENCE, "it is saved");
        // A page is asked for; it does not tell.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Killed or stopped: what was used stays used, and what was reserved is settled once.
#[tokio::test]
async fn counts_and_reservations_go_on_in_the_next_process() {
    let (manifests, folder) = (countable(), Folder::new());
    let (state, token) = (folder.0.join("state"), premium(&manifests.0));
    let (mut used, mut open, mut done) = (0, Vec::<String>::new(), String::new());
    for signal in ["KILL", "TERM", "KILL"] {
        let tiergate = start(&manifests, &state, &[]);
        let connection = channel(&tiergate).await;
        for reservation in std::mem::take(&mut open) {
            for _ in 0..2 {
                settle(&connection, &reservation, 7).await;
            }
        }
        settle(&connection, &done, 7).await;
        let reports = async |result: &str| tiergate.metric("tiergate_usage_reports_total", result).await;
        let expected = if used == 0 { [0, 0, 1] } else { [2, 3, 0] };
        assert_eq!([reports("settled").await, reports("duplicate").await, reports("unknown").await], expected);
        for _ in 0..3 {
            let (left, reservation) = call(&connection, &token).await;
            used += 1;
            assert_eq!(left, LIMIT - used, "{signal}");
            open.push(reservation);
        }
        done = open.pop().unwrap();
        settle(&connection, &done, 7).await;
        if signal == "KILL" {
            saved(&tiergate).await;
        }
        drop(connection);
        tiergate.signal(signal);
        let (status, log) = tiergate.ended().await;
        assert_eq!(status.success(), signal == "TERM", "{log:?}");
        let mode = std::fs::metadata(&state).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "it has secrets");
    }
}

/// What one connection saw: when each call was let through, and the reservations that nobody has reported.
#[derive(Default)]
struct Seen {
    calls: Vec<Instant>,
    open: Vec<String>,
}

/// Calls one after another, until nobody answers.
async fn ask(channel: Channel, token: String, enough: Arc<AtomicBool>) -> Seen {
    let mut seen = Seen::default();
    while !enough.load(Ordering::Relaxed) {
        let Ok(response) = try_check(&channel, check_request(http(QWEN, Some(&token)))).await else { break };
        seen.calls.push(Instant::now());
        let reservation = text(own(&response), "reservation").to_owned();
        if seen.calls.len() % 16 == 0 {
            seen.open.push(reservation);
            continue;
        }
        let reported = report(vec![descriptor(&reservation, Some("total"), Some(3))]);
        if RateLimitServiceClient::new(channel.clone()).should_rate_limit(reported).await.is_err() {
            break;
        }
    }
    seen
}

/// Sequences 46 and 47 with the real process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_killed_under_load_has_lost_at_most_a_second() {
    const CONNECTIONS: usize = 8;
    /// A second and the time of a save; of a loaded machine too, where the thread that saves waits for its turn as all do.
    const LONGEST: Duration = Duration::from_secs(3);
    let (manifests, folder) = (countable(), Folder::new());
    let (state, token) = (folder.0.join("state"), premium(&manifests.0));
    let mut random = u64::from(std::process::id()) | 1;
    let mut next = Some(start(&manifests, &state, &[]));
    let mut worst = Duration::ZERO;
    for round in 0..soak(3, 50) {
        let tiergate = next.take().unwrap();
        let connection = channel(&tiergate).await;
        let before = LIMIT - call(&connection, &token).await.0;
        let (enough, mut load) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        for _ in 0..CONNECTIONS {
            load.spawn(ask(channel(&tiergate).await, token.clone(), Arc::clone(&enough)));
        }
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Any moment of a second's work is as good as another; and it is long enough that a process that saves nothing would lose more.
        let load_lasts = LONGEST + Duration::from_millis(1_200 + (random >> 33) % 1_500);
        tokio::time::sleep(load_lasts).await;
        let killed = Instant::now();
        tiergate.signal("KILL");
        tiergate.ended().await;
        enough.store(true, Ordering::Relaxed);
        let (mut calls, mut open) = (Vec::new(), Vec::new());
        for seen in load.join_all().await {
            calls.extend(seen.calls);
            open.extend(seen.open);
        }
        calls.sort_unstable();
        let started = Instant::now();
        let tiergate = next.insert(start(&manifests, &state, &[]));
        let took = started.elapsed();
        let connection = channel(tiergate).await;
        let after = LIMIT - call(&connection, &token).await.0 - 1;
        let kept = usize::try_from(after - before).unwrap();
        let lost = calls.len().saturating_sub(kept);
        let since = calls.get(kept).map_or(Duration::ZERO, |first| killed.saturating_duration_since(*first));
        worst = worst.max(since);
        println!("kill {round}: {} calls, {lost} lost, of the last {since:?}; open again after {took:?}", calls.len());
        assert!(since < LONGEST, "{since:?}");
        assert!(calls.len() + CONNECTIONS >= kept, "nothing is counted twice: {kept} of {}", calls.len());
        // What is still being answered is settled by the new process, and charged in full where its hold was lost.
        for reservation in &open {
            for _ in 0..2 {
                settle(&connection, reservation, 3).await;
            }
        }
        let reports = async |result: &str| tiergate.metric("tiergate_usage_reports_total", result).await;
        let all = open.len() as u64;
        assert_eq!([reports("settled").await, reports("duplicate").await, reports("unknown").await], [all, all, 0]);
        let charged = tiergate.metric("tiergate_usage_tokens_total", "usage=\"total\"").await;
        assert_eq!(charged, 3 * all);
    }
    println!("at most {worst:?} lost");
}

/// How a start with this state file ends: its code, and what it says.
fn started(manifests: &Folder, state: &Path, flags: &[&str]) -> (Option<i32>, String) {
    let jwks = KEYS.0.join("jwks.json");
    let words = ["serve", "--manifests", manifests.0.to_str().unwrap(), "--jwks", jwks.to_str().unwrap()];
    support::run(tiergate(&words).arg("--state").arg(state).args(flags))
}

fn aside(folder: &Folder) -> Vec<PathBuf> {
    let names = std::fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().path());
    names.filter(|path| path.to_str().unwrap().contains(".discarded-")).collect()
}

/// Sequence 48: of something else, or cut off. What is there is not overwritten, and can be moved aside.
#[tokio::test]
async fn a_file_that_cannot_be_used_is_left_alone_and_the_start_says_what_to_do() {
    let (manifests, folder) = (countable(), Folder::new());
    let state = folder.0.join("state");
    let tiergate = start(&manifests, &state, &[]);
    let connection = channel(&tiergate).await;
    call(&connection, &premium(&manifests.0)).await;
    drop(connection);
    tiergate.signal("TERM");
    assert!(tiergate.ended().await.0.success());
    let good = std::fs::read(&state).unwrap();
    for (what, bytes) in [
        ("text", b"not a state file\n".to_vec()),
        ("zeros", vec![0; 100_000]),
        ("cut in half", good[..good.len() / 2].to_vec()),
        ("cut to its head", good[..300].to_vec()),
        ("overwritten in the middle", {
            let mut bytes = good.clone();
            let middle = bytes.len() / 2;
            bytes[middle..].iter_mut().step_by(64).for_each(|byte| *byte ^= 0xff);
            bytes[4096..8192].fill(0xa5);
            bytes
        }),
    ] {
        std::fs::write(&state, &bytes).unwrap();
        std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o640)).unwrap();
        let (code, told) = started(&manifests, &state, &[]);
        assert_eq!(code, Some(64), "{what}: {told}");
        let name = state.to_str().unwrap();
        assert!(told.contains(name) && told.contains("--state-discard"), "{what}: {told}");
        // Nothing is made of it. A database looks into its own, and may say in its first page that it did.
        let after = std::fs::read(&state).unwrap();
        assert_eq!(after.len(), bytes.len(), "{what}");
        assert!(after.iter().skip(4096).eq(bytes.iter().skip(4096)), "{what}");
        assert_eq!(std::fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o640, "{what}");
        let tiergate = start(&manifests, &state, &["--state-discard"]);
        assert_eq!(aside(&folder).len(), 1, "{what}");
        let connection = channel(&tiergate).await;
        assert_eq!(call(&connection, &premium(&manifests.0)).await.0, LIMIT - 1, "{what}: it begins anew");
        drop(connection);
        tiergate.signal("TERM");
        assert!(tiergate.ended().await.0.success());
        std::fs::remove_file(&aside(&folder)[0]).unwrap();
    }
    // One that is good is used.
    std::fs::write(&state, &good).unwrap();
    let tiergate = start(&manifests, &state, &["--state-discard"]);
    assert_eq!(call(&channel(&tiergate).await, &premium(&manifests.0)).await.0, LIMIT - 2);
    assert_eq!(aside(&folder).len(), 0);
}

/// Sequence 49.
#[tokio::test]
async fn a_second_process_waits_for_the_first_and_then_says_who_has_the_file() {
    let (manifests, folder) = (countable(), Folder::new());
    let state = folder.0.join("state");
    let first = start(&manifests, &state, &[]);
    let begun = Instant::now();
    let (code, told) = started(&manifests, &state, &[]);
    assert_eq!(code, Some(64), "{told}");
    assert!(begun.elapsed() >= Duration::from_secs(10), "it waits");
    let pid = first.process.0.id();
    assert!(told.contains(&format!("is in use by another process (pid {pid})")), "{told}");
    // One that leaves meanwhile leaves it to the next.
    let waiting = std::thread::spawn({
        let (manifests, state) = (manifests.0.clone(), state.clone());
        move || {
            let state = ["--state", state.to_str().unwrap()];
            Tiergate::start(&manifests, &state)
        }
    });
    // The second tells in its log alone that it waits, and that is read when it is ready.
    tokio::time::sleep(Duration::from_millis(300)).await;
    first.signal("TERM");
    assert!(first.ended().await.0.success());
    let second = tokio::task::spawn_blocking(|| waiting.join().unwrap()).await.unwrap();
    assert_ne!(second.process.0.id(), pid);
}

/// Sequence 50: a disk that is full is one on which no file grows any more.
#[tokio::test]
async fn a_full_disk_is_told_and_stops_nothing_and_all_is_saved_when_there_is_room() {
    let (manifests, folder) = (countable(), Folder::new());
    let (state, token) = (folder.0.join("state"), premium(&manifests.0));
    let mut limited = Command::new("sh");
    // A shell ignores the signal for what it becomes: else the process would end.
    limited.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", support::TIERGATE]);
    let flags = ["--state", state.to_str().unwrap(), "--drain-delay", "0s"];
    let tiergate = Tiergate::start_as(limited, &manifests.0, &flags);
    let connection = channel(&tiergate).await;
    call(&connection, &token).await;
    saved(&tiergate).await;
    let pid = tiergate.process.0.id().to_string();
    let bound = |size: &str| {
        let status = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={size}")]).status().unwrap();
        assert!(status.success());
    };
    bound("4096:unlimited");
    call(&connection, &token).await;
    let told = tiergate.await_log("limits are kept in memory alone");
    assert!(told["error"].as_str().unwrap().contains(state.to_str().unwrap()), "{told}");
    assert_eq!(told["level"], "ERROR");
    assert_eq!(tiergate.metric("tiergate_state_failing", "").await, 1);
    assert!(tiergate.metric("tiergate_state_errors_total", "").await > 0);
    assert_eq!(call(&connection, &token).await.0, LIMIT - 3, "it serves on");
    bound("unlimited");
    tiergate.await_log("the file is written again");
    assert_eq!(tiergate.metric("tiergate_state_failing", "").await, 0);
    tiergate.signal("KILL");
    tiergate.ended().await;
    let again = start(&manifests, &state, &[]);
    assert_eq!(call(&channel(&again).await, &token).await.0, LIMIT - 4, "all of it was saved");
}

#[test]
fn a_state_file_that_cannot_be_made_or_opened_ends_the_start() {
    let (manifests, folder) = (countable(), Folder::new());
    let (code, told) = started(&manifests, Path::new("/nonexistent/state"), &[]);
    assert_eq!(code, Some(64), "{told}");
    assert!(told.contains("--state: `/nonexistent/state`") && told.contains("No such file or directory"), "{told}");
    let (code, told) = started(&manifests, &folder.0, &[]);
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("has to be a file"), "{told}");
    // Where nothing can be written.
    let (code, told) = started(&manifests, Path::new("/proc/state"), &[]);
    assert_eq!(code, Some(64), "{told}");
}

/// What an account is called is not in the file; its next request tells it.
#[tokio::test]
async fn an_account_of_before_has_its_name_again_with_its_next_request() {
    let (manifests, folder) = (countable(), Folder::new());
    let (state, token) = (folder.0.join("state"), premium(&manifests.0));
    for (before, calls) in [("", 1), ("(forgotten)", 2)] {
        let tiergate = start(&manifests, &state, &[]);
        let admin = format!("http://{}", tiergate.admin);
        let list = || support::run(support::tiergate(&["limits", "list", "--admin"]).arg(&admin)).1;
        assert!(list().contains(before) && !list().contains("jland-78028f6d"), "{}", list());
        let connection = channel(&tiergate).await;
        assert_eq!(call(&connection, &token).await.0, LIMIT - calls);
        assert!(list().contains("jland-78028f6d") && !list().contains("(forgotten)"), "{}", list());
        drop(connection);
        tiergate.signal("TERM");
        assert!(tiergate.ended().await.0.success());
    }
}
