//! The wall clock, set forth and back while tiergate serves.
//!
//! Limits, and how long an identity is remembered, run on the monotonic clock, which nobody sets. A token's own times
//! (`nbf`, `exp`) are judged by the wall clock, once, when the token is reviewed: whatever the clock says later, it is
//! remembered for up to --identity-ttl. Hence a token that was minted before a step back is "not valid yet" wherever it is
//! not remembered, as it is to the API server.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::auth::v3::CheckResponse;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use tonic::transport::Channel;

use crate::support::{Folder, KEYS, POSITIVE, TIERGATE, Tiergate, root, soak};
use crate::wire::{channel, check, check_request, http, outcome};

const GRANITE: &str = "/llm/granite/v1/chat/completions";
const FREE: (&str, &str) = ("maas-default-gateway-tier-free", "alice-12345678");
const PREMIUM: (&str, &str) = ("maas-default-gateway-tier-premium", "jland-78028f6d");
const HOUR: i64 = 3600;

fn faketime() -> PathBuf {
    if let Some(path) = std::env::var_os("TIERGATE_FAKETIME") {
        return path.into();
    }
    let output = Command::new(root("scripts/faketime.sh")).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "scripts/faketime.sh installs libfaketime");
    String::from_utf8(output.stdout).unwrap().lines().last().unwrap().into()
}

/// A wall clock for processes, which goes as the true one does but for an offset.
struct WallClock {
    folder: Folder,
    library: PathBuf,
}

impl WallClock {
    fn new() -> Self {
        let clock = WallClock { folder: Folder::new(), library: faketime() };
        clock.set(0);
        clock
    }

    /// Seconds before or after the true time. At once: each reading of the time reads the file.
    fn set(&self, offset: i64) {
        // A rename, so that nobody reads half a number.
        let whole = self.folder.file("next", &format!("{offset:+}\n"));
        std::fs::rename(whole, self.folder.0.join("offset")).unwrap();
    }

    /// tiergate under this clock.
    fn tiergate(&self) -> Command {
        let mut command = Command::new(TIERGATE);
        command.env("LD_PRELOAD", &self.library).env("FAKETIME_TIMESTAMP_FILE", self.folder.0.join("offset"));
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        command
    }

    /// A new token, whose times are of this clock.
    fn token(&self, (namespace, name): (&str, &str), duration: &str) -> String {
        let mut command = self.tiergate();
        command.args(["token", "create", name, "-n", namespace, "--audience", "maas-default-gateway-sa"]);
        command.args(["--duration", duration, "--signing-key"]).arg(KEYS.0.join("signing-key.pem"));
        let output = command.arg("--manifests").arg(root("examples/manifests")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        format!("Bearer {}", String::from_utf8(output.stdout).unwrap().trim())
    }
}

/// tiergate under a wall clock.
struct World {
    clock: WallClock,
    channel: Channel,
    _tiergate: Tiergate,
}

impl World {
    async fn start(manifests: &Path) -> Self {
        let clock = WallClock::new();
        let tiergate = Tiergate::start_as(clock.tiergate(), manifests, POSITIVE);
        World { channel: channel(&tiergate).await, clock, _tiergate: tiergate }
    }

    async fn ask(&self, bearer: Option<&str>) -> CheckResponse {
        check(&self.channel, check_request(http(GRANITE, bearer))).await
    }

    async fn outcome(&self, bearer: &str) -> (i32, String) {
        let response = self.ask(Some(bearer)).await;
        let (status, code) = outcome(&response);
        (status, code.to_owned())
    }

    /// Sets the wall clock, and sees that tiergate goes by it.
    async fn set(&self, offset: i64) {
        self.clock.set(offset);
        let refused = self.ask(None).await;
        let Some(HttpResponse::DeniedResponse(denied)) = &refused.http_response else { panic!("{refused:?}") };
        let body: serde_json::Value = serde_json::from_str(&denied.body).unwrap();
        let time: jiff::Timestamp = body["error"]["time"].as_str().unwrap().parse().unwrap();
        let off = time.as_second() - jiff::Timestamp::now().as_second();
        assert!((off - offset).abs() < 60, "the clock is set by {offset} s, and tiergate's is off by {off}");
    }
}

/// A header of the answer, as a number.
pub(crate) fn header(response: &CheckResponse, name: &str) -> u64 {
    let headers = match response.http_response.as_ref().unwrap() {
        HttpResponse::DeniedResponse(denied) => &denied.headers,
        HttpResponse::OkResponse(ok) => &ok.response_headers_to_add,
        HttpResponse::ErrorResponse(error) => panic!("{error:?}"),
    };
    let found = headers.iter().filter_map(|option| option.header.as_ref()).find(|header| header.key == name);
    found.unwrap_or_else(|| panic!("no {name}: {headers:?}")).value.parse().unwrap()
}

/// Sequence 26: a day forth, back, and a day behind the truth. `refill`: how long one of the premium tier's 20 takes to come back.
async fn limits_go_on(manifests: &Path, refill: Duration) {
    let world = World::start(manifests).await;
    // Valid under each of the clocks to come.
    world.clock.set(-25 * HOUR);
    let (used_up, remembered) = (world.clock.token(FREE, "72h"), world.clock.token(PREMIUM, "72h"));
    world.set(0).await;
    let started = Instant::now();
    for _ in 0..5 {
        assert_eq!(world.outcome(&used_up).await.0, 200);
    }
    let refused = world.ask(Some(&used_up)).await;
    assert_eq!(outcome(&refused), (429, "TG-LIMIT-REQUESTS"));
    let mut wait = header(&refused, "retry-after");
    assert_eq!(world.outcome(&remembered).await.0, 200);
    let mut taken = 1;
    for offset in [24 * HOUR, 0, -24 * HOUR, 0] {
        world.set(offset).await;
        let refused = world.ask(Some(&used_up)).await;
        assert_eq!(outcome(&refused), (429, "TG-LIMIT-REQUESTS"), "no reset at {offset}");
        let longer = header(&refused, "retry-after");
        assert!((1..=wait).contains(&longer), "at {offset} it is to wait {longer} s, and before {wait} s");
        wait = longer;
        // A caller with something left: by the token that is remembered, and by one that was never seen.
        for token in [&remembered, &world.clock.token(PREMIUM, "1h")] {
            let allowed = world.ask(Some(token)).await;
            assert_eq!(outcome(&allowed), (200, ""), "no lock-out at {offset}");
            taken += 1;
            let came_back = started.elapsed().as_secs() / refill.as_secs() + 1;
            let left = header(&allowed, "x-ratelimit-remaining-requests");
            assert!(
                (20 - taken..20 - taken + came_back).contains(&left),
                "{left} left at {offset} after {taken} of 20"
            );
        }
    }
}

#[tokio::test]
async fn a_clock_that_is_set_neither_resets_nor_locks_a_bucket() {
    limits_go_on(&root("examples/manifests"), Duration::from_secs(6)).await;
}

#[tokio::test]
async fn a_clock_that_is_set_neither_resets_nor_locks_a_window() {
    let manifests = Folder::new();
    for entry in std::fs::read_dir(root("examples/manifests")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let name = "  name: gateway-rate-limits\n";
        let windows = text.replace(name, &format!("{name}  annotations: {{tiergate.io/algorithm: fixed-window}}\n"));
        assert_eq!(windows == text, !path.ends_with("limits.yaml"));
        manifests.file(path.file_name().unwrap().to_str().unwrap(), &windows);
    }
    // All of a window comes back at its end, and not before.
    limits_go_on(&manifests.0, Duration::from_secs(120)).await;
}

/// What the wall clock does decide.
#[tokio::test]
async fn a_tokens_own_times_are_judged_when_it_is_reviewed() {
    let world = World::start(&root("examples/manifests")).await;
    let mint = || world.clock.token(PREMIUM, "30m");
    let (remembered, unseen) = (mint(), mint());
    world.set(0).await;
    assert_eq!(world.outcome(&remembered).await.0, 200);
    world.set(-HOUR).await;
    assert_eq!(world.outcome(&remembered).await.0, 200, "it was reviewed before");
    assert_eq!(world.outcome(&unseen).await, (401, "TG-TOKEN-NOT-YET".to_owned()));
    world.set(0).await;
    assert_eq!(world.outcome(&unseen).await.0, 200, "\"not yet\" is not remembered");
    world.set(HOUR).await;
    assert_eq!(world.outcome(&remembered).await.0, 200, "it was reviewed before");
    world.set(0).await;
    let unseen = mint();
    world.set(HOUR).await;
    assert_eq!(world.outcome(&unseen).await, (401, "TG-TOKEN-EXPIRED".to_owned()));
    world.set(0).await;
    // An expired token is refused for ten seconds without another look, which only time can end.
    let bound = Instant::now() + soak(Duration::ZERO, Duration::from_secs(20));
    while Instant::now() < bound {
        if world.outcome(&unseen).await.0 == 200 {
            return;
        }
        // Only time makes a refused token forgotten, and nothing tells when.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(world.outcome(&mint()).await.0, 200, "a new one is not refused with it");
    assert_eq!(soak(0, 1), 0, "the refusal is forgotten after ten seconds");
}
