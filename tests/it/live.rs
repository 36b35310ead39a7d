//! Edits under load: what changes, when, and that nothing else does.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::auth::v3::CheckResponse;
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::google::protobuf::value::Kind;
use tonic::transport::Channel;

use crate::envoy::{chat, gateway};
use crate::reload::{copy, replace};
use crate::support::{Answer, Connection, Folder, Tiergate, get, root, soak, token};
use crate::wire::{check_request, http, outcome, own, text};

const QWEN: &str = "/llm/qwen3/v1/chat/completions";
const GRANITE: &str = "/llm/granite/v1/chat/completions";
const PHI: &str = "/lab/phi/v1/chat/completions";
/// The goal is a second; a loaded machine gets five times as long.
const LIVE: Duration = Duration::from_secs(5);

/// The tour's manifests with limits a million times as high: none is reached, and each tier's is still its own.
fn high() -> Folder {
    let folder = copy();
    let text = fs::read_to_string(folder.0.join("limits.yaml")).unwrap();
    folder.file("limits.yaml", &text.replace(", window:", "000000, window:"));
    folder
}

fn premium() -> String {
    token("maas-default-gateway-tier-premium", "jland-78028f6d", &root("examples/manifests"))
}

/// Status, and the request limit that the answer tells.
fn seen(answer: &Answer) -> (u16, String) {
    (answer.status, answer.header("x-ratelimit-limit-requests").unwrap_or_default().to_owned())
}

/// Asks until the answer is `expected`, and says how long that took.
async fn until(connection: &mut Connection, path: &str, token: &str, expected: (u16, &str)) -> Duration {
    let started = Instant::now();
    loop {
        let answer = chat(connection, path, token).await;
        let (status, limit) = seen(&answer);
        if (status, limit.as_str()) == expected {
            return started.elapsed();
        }
        assert!(started.elapsed() < LIVE, "{path} is still {status} {limit}, not {expected:?}: {}", answer.body);
    }
}

/// An edit, and what a premium caller of `path` sees before and after it.
struct Edit {
    what: &'static str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
    path: &'static str,
    before: (u16, &'static str),
    after: (u16, &'static str),
}

const PREMIUM: (u16, &str) = (200, "20000000");

const EDITS: [Edit; 4] = [
    Edit {
        // Everybody is in the free tier's group, so all fall into it.
        what: "tier level",
        file: "tiers.yaml",
        from: "level: 1\n",
        to: "level: 100\n",
        path: QWEN,
        before: PREMIUM,
        after: (200, "5000000"),
    },
    Edit {
        what: "annotation",
        file: "models.yaml",
        from: "[\"premium\",\"enterprise\"]",
        to: "[\"enterprise\"]",
        path: QWEN,
        before: PREMIUM,
        after: (403, ""),
    },
    Edit {
        what: "RoleBinding",
        file: "lab.yaml",
        from: "gateway-tier-enterprise",
        to: "gateway-tier-premium",
        path: PHI,
        before: (403, ""),
        after: PREMIUM,
    },
    Edit {
        what: "limit",
        file: "limits.yaml",
        from: "limit: 20000000,",
        to: "limit: 7000000,",
        path: GRANITE,
        before: PREMIUM,
        after: (200, "7000000"),
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_of_any_kind_is_live_within_a_second() {
    let folder = high();
    let tiergate = Tiergate::start(&folder.0, &["--log", "warn,tiergate=info"]);
    let gateway = gateway(tiergate.grpc).await;
    let (token, mut connection) = (premium(), Connection::open(gateway.address).await);
    let mut taken: HashMap<&str, Vec<Duration>> = HashMap::new();
    for _ in 0..soak(1, 25) {
        for Edit { what, file, from, to, path, before, after } in EDITS {
            until(&mut connection, path, &token, before).await;
            replace(&folder.0, file, from, to);
            taken.entry(what).or_default().push(until(&mut connection, path, &token, after).await);
            replace(&folder.0, file, to, from);
            taken.entry(what).or_default().push(until(&mut connection, path, &token, before).await);
        }
    }
    for Edit { what, file, .. } in EDITS {
        let times = taken.get_mut(what).unwrap();
        times.sort_unstable();
        println!(
            "live after an edit of {what} ({file}): median {:?}, longest {:?} of {} (goal 1 s)",
            times[times.len() / 2],
            times[times.len() - 1],
            times.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_broken_stays_as_it_was_while_another_edit_is_live() {
    let folder = high();
    let tiergate = Tiergate::start(&folder.0, &[]);
    let gateway = gateway(tiergate.grpc).await;
    let (token, mut connection) = (premium(), Connection::open(gateway.address).await);
    until(&mut connection, QWEN, &token, (200, "20000000")).await;
    // Break A, a limit, and change it in the same stroke.
    replace(&folder.0, "limits.yaml", "limit: 20000000, window: 2m", "limit: 8000000, window: 2 fortnights");
    let told = tiergate.await_log("duration");
    assert_eq!(told["level"], "ERROR");
    assert!(told["object"].as_str().unwrap().contains("gateway-rate-limits"), "{told}");
    assert!(told["place"].as_str().unwrap().contains("limits.yaml:"), "{told}");
    // Edit B, an annotation.
    replace(&folder.0, "models.yaml", "[\"premium\",\"enterprise\"]", "[\"enterprise\"]");
    until(&mut connection, QWEN, &token, (403, "")).await;
    until(&mut connection, GRANITE, &token, (200, "20000000")).await;
    assert_eq!(tiergate.metric("tiergate_policy_objects_in_error", "").await, 1);
    assert_eq!(tiergate.metric("tiergate_policy_problems", "severity=\"error\"").await, 1);
    let problems = get(tiergate.http, "/problems").await.json();
    let problem = &problems["problems"][0];
    assert_eq!(problem["object"]["name"], "gateway-rate-limits", "{problems}");
    assert!(problem["field"].as_str().unwrap().ends_with("rates[0].window"), "{problems}");
    assert!(problem["in_force"].as_str().unwrap().starts_with("its last good version, since "), "{problem}");
    let gone = &problems["problems"][1];
    assert_eq!((&gone["code"], &gone["object"]["name"]), (&"object-gone".into(), &"qwen3".into()), "{gone}");
    // `check` shows the same list, but for what was there before.
    let check = std::process::Command::new(crate::support::TIERGATE)
        .args(["check", "--grant-from-annotation", "--output", "json"])
        .arg(&folder.0)
        .output()
        .unwrap();
    assert_eq!(check.status.code(), Some(1));
    let checked: serde_json::Value = serde_json::from_slice(&check.stdout).unwrap();
    let mut problem = problem.clone();
    problem["in_force"] = "nothing of it; what it is for is shut (503)".into();
    assert_eq!(checked["problems"], serde_json::json!([problem]));
    // Mend A.
    replace(&folder.0, "limits.yaml", "window: 2 fortnights", "window: 2m");
    until(&mut connection, GRANITE, &token, (200, "8000000")).await;
    assert_eq!(tiergate.metric("tiergate_policy_objects_in_error", "").await, 0);
}

/// An edition of the two objects whose agreement an answer shows: a property that the AuthPolicy declares, and a limit.
fn edition(folder: &Path, files: &[(String, String)], number: u64) {
    for (name, text) in files {
        let text = match name.as_str() {
            "auth-policy.yaml" => format!("{text}                edition:\n                  value: \"{number}\"\n"),
            _ => text.replace("limit: 20000000,", &format!("limit: {},", 20_000_000 + number)),
        };
        write(folder, "both.yaml", &text, name == "auth-policy.yaml");
    }
    rename(folder, "both.yaml");
}

/// Writes beside the folder's files, under a name that is not read.
pub(crate) fn write(folder: &Path, name: &str, text: &str, anew: bool) {
    let path = folder.join(format!(".{name}"));
    let before = if anew { String::new() } else { fs::read_to_string(&path).unwrap() + "---\n" };
    fs::write(path, before + text).unwrap();
}

/// A file is replaced whole, as careful editors and `kubectl` do it.
pub(crate) fn rename(folder: &Path, name: &str) {
    fs::rename(folder.join(format!(".{name}")), folder.join(name)).unwrap();
}

/// Generation, edition and limit of an answer.
pub(crate) fn told(response: &CheckResponse) -> (u64, u64, u64) {
    let Some(Kind::NumberValue(generation)) = own(response).fields["generation"].kind else { panic!("{response:?}") };
    let identity = &response.dynamic_metadata.as_ref().unwrap().fields["identity"];
    let Some(Kind::StructValue(identity)) = &identity.kind else { panic!("{response:?}") };
    let Some(HttpResponse::OkResponse(ok)) = &response.http_response else { panic!("{response:?}") };
    let headers = ok.response_headers_to_add.iter().filter_map(|option| option.header.as_ref());
    let limit = headers.into_iter().find(|header| header.key == "x-ratelimit-limit-requests").unwrap();
    (generation as u64, text(identity, "edition").parse().unwrap(), limit.value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_and_bad_edits_under_load_give_no_5xx_and_no_answer_of_two_generations() {
    const EACH: Duration = Duration::from_millis(20); // of ten callers: 500 requests a second
    let folder = high();
    let read = |name: &str| (name.to_owned(), fs::read_to_string(folder.0.join(name)).unwrap());
    let files = [read("auth-policy.yaml"), read("limits.yaml")];
    for (name, _) in &files {
        fs::remove_file(folder.0.join(name)).unwrap();
    }
    edition(&folder.0, &files, 0);
    let tiers = read("tiers.yaml").1;
    let tiergate = Tiergate::start(&folder.0, &["--log", "warn,tiergate=info"]);
    let gateway = gateway(tiergate.grpc).await;
    let (token, stop) = (premium(), Arc::new(AtomicBool::new(false)));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let channel = Channel::from_shared(format!("http://{}", tiergate.grpc)).unwrap().connect().await.unwrap();
        let (stop, authorization) = (Arc::clone(&stop), format!("Bearer {token}"));
        callers.spawn(async move {
            let (mut client, mut seen) = (AuthorizationClient::new(channel), Vec::new());
            let mut pace = tokio::time::interval(EACH);
            while !stop.load(Ordering::Relaxed) {
                pace.tick().await;
                let request = check_request(http(QWEN, Some(&authorization)));
                let response = client.check(request).await.unwrap().into_inner();
                assert_eq!(outcome(&response), (200, ""));
                seen.push(told(&response));
            }
            seen
        });
    }
    for _ in 0..2 {
        let (stop, token, address) = (Arc::clone(&stop), token.clone(), gateway.address);
        callers.spawn(async move {
            let (mut connection, mut pace) = (Connection::open(address).await, tokio::time::interval(EACH));
            while !stop.load(Ordering::Relaxed) {
                pace.tick().await;
                let answer = chat(&mut connection, QWEN, &token).await;
                assert_eq!(answer.status, 200, "{}", answer.body);
            }
            Vec::new()
        });
    }
    let (edits, started) = (soak(40, 1_000), Instant::now());
    for number in 1..=edits {
        match number % 4 {
            // Bad: not YAML at all, or an object in error. What is good stays, and the rest of the folder swaps.
            2 => {
                write(&folder.0, "both.yaml", "kind: [", true);
                rename(&folder.0, "both.yaml");
            }
            3 => {
                edition(&folder.0, &files, number);
                write(&folder.0, "tiers.yaml", &tiers.replace("level: 10", &format!("levle: {number}")), true);
                rename(&folder.0, "tiers.yaml");
            }
            0 => {
                write(&folder.0, "tiers.yaml", &tiers, true);
                rename(&folder.0, "tiers.yaml");
            }
            _ => edition(&folder.0, &files, number),
        }
        tiergate.await_log("policy published");
    }
    stop.store(true, Ordering::Relaxed);
    let seen: Vec<_> = callers.join_all().await.into_iter().flatten().collect();
    let mut editions: HashMap<u64, u64> = HashMap::new();
    for (generation, edition, limit) in &seen {
        assert_eq!(*limit, 20_000_000 + edition, "an answer of two generations");
        assert_eq!(editions.entry(*generation).or_insert(*edition), edition, "generation {generation}");
    }
    let newest = tiergate.metric("tiergate_policy_generation", "").await;
    assert!(newest > edits && editions.len() as u64 > edits / 2, "{newest} generations, {} seen", editions.len());
    assert_eq!(tiergate.metric("tiergate_decisions_total", "undecided").await, 0);
    println!(
        "{edits} edits in {:?}: {} answers of {} generations, no 5xx, none of two generations",
        started.elapsed(),
        seen.len(),
        editions.len()
    );
}
