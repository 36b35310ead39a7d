use std::collections::HashSet;

use futures_util::future::join_all;
use serde_json::json;

use super::*;
use crate::test_util::tier_service::{Says, TierService};

/// Long enough for a loaded machine; nothing waits this long when all is well.
const LONG: Duration = Duration::from_secs(30);

/// A service, and who asks it.
struct World {
    service: TierService,
    services: TierServices,
    endpoint: Arc<Endpoint>,
}

impl World {
    async fn new(says: Says) -> Self {
        let service = TierService::start(says).await;
        // A call may take as long as the one who waits for it, so that a loaded machine fails no test.
        let endpoint = Endpoint { timeout: LONG, ..Endpoint::new(&service.url(), None, None).unwrap() };
        World { service, services: TierServices::patient(LONG), endpoint: Arc::new(endpoint) }
    }

    fn request(&self, user: &str) -> LookupRequest {
        self.services.request(&self.endpoint, user, json!({ "groups": ["gold-users"] }).to_string())
    }

    /// What a request of `user` after `seconds` is told, as the gate asks.
    async fn tier(&self, user: &str, seconds: u64) -> Result<String, Code> {
        let (request, now) = (self.request(user), at(seconds));
        let lookup = match self.services.recall(&request, now) {
            Some((lookup, AnswerSource::Stale)) => {
                self.services.refresh(&request, now);
                lookup
            }
            Some((lookup, _)) => lookup,
            None => self.services.ask(&request, now).await.0,
        };
        match lookup {
            Lookup::Tier(tier) => Ok(tier.name.to_string()),
            Lookup::NoTier => Ok("none".to_owned()),
            Lookup::Undecided(denial) => Err(denial.code),
        }
    }

    /// Waits until no call is in flight.
    async fn quiet(&self, user: &str) {
        self.services.0.cache.settled(&self.request(user), Instant::now() + LONG).await;
    }

    /// Waits until the service has had `calls` requests.
    async fn called(&self, calls: usize) {
        let reached = async {
            while self.service.calls() < calls {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, reached).await.unwrap();
        assert_eq!(self.service.calls(), calls);
    }
}

fn at(seconds: u64) -> Nanos {
    Nanos::from(Duration::from_secs(1_000 + seconds))
}

fn ok(tier: &str) -> Result<String, Code> {
    Ok(tier.to_owned())
}

const UNDECIDED: Result<String, Code> = Err(Code::UnavailableTiers);

#[tokio::test]
async fn fifty_requests_of_a_cold_user_make_one_call() {
    let world = World::new(Says::tier("gold")).await;
    world.service.hold(true);
    let asking = join_all((0..50).map(|_| world.tier("alice", 0)));
    let release = async {
        world.called(1).await;
        world.service.hold(false);
    };
    let (told, ()) = tokio::join!(asking, release);
    assert_eq!(told, vec![ok("gold"); 50]);
    assert_eq!(world.service.calls(), 1);
    let request = world.service.last();
    assert!(request.starts_with("POST /v1/tiers/lookup HTTP/1.1\r\n"), "{request}");
    assert!(request.to_ascii_lowercase().contains("content-type: application/json\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\n{\"groups\":[\"gold-users\"]}"), "{request}");
}

#[tokio::test]
async fn an_answer_is_what_the_mapping_would_say() {
    let world = World::new(Says::tier("gold")).await;
    let tier = Tier::new("gold", 0, "gold plan");
    assert_eq!(world.services.ask(&world.request("alice"), at(0)).await.0, Lookup::Tier(Arc::new(tier)));
    world.service.says(Says::Answer(200, "{\"tier\":\"free\",\"more\":[1]}".to_owned()));
    let tier = Tier::new("free", 0, "free");
    assert_eq!(world.services.ask(&world.request("bob"), at(0)).await.0, Lookup::Tier(Arc::new(tier)));
}

#[tokio::test]
async fn an_answer_is_of_one_user_one_body_and_one_url_for_300_s() {
    let world = World::new(Says::tier("gold")).await;
    for seconds in [0, 1, 299] {
        assert_eq!(world.tier("alice", seconds).await, ok("gold"));
    }
    assert_eq!(world.service.calls(), 1);
    assert_eq!(world.tier("bob", 0).await, ok("gold"));
    assert_eq!(world.service.calls(), 2);
    let moved = world.services.request(&world.endpoint, "alice", json!({ "groups": [] }).to_string());
    assert_eq!(world.services.recall(&moved, at(0)), None);
    let other = Arc::new(Endpoint::new(&format!("{}/", world.endpoint.url), None, None).unwrap());
    let other = world.services.request(&other, "alice", json!({ "groups": ["gold-users"] }).to_string());
    assert_eq!(world.services.recall(&other, at(0)), None);
    assert_eq!(world.service.connections(), 1, "the connection is kept");
}

#[tokio::test]
async fn a_policy_that_remembers_for_less_asks_sooner() {
    let mut world = World::new(Says::tier("gold")).await;
    world.endpoint = Arc::new(Endpoint { ttl: Duration::from_secs(10), ..Endpoint::clone(&world.endpoint) });
    assert_eq!(world.tier("alice", 0).await, ok("gold"));
    assert_eq!(world.tier("alice", 9).await, ok("gold"));
    assert_eq!(world.service.calls(), 1);
    world.service.says(Says::tier("free"));
    assert_eq!(world.tier("alice", 20).await, ok("free"), "older than twice its time");
    world.endpoint = Arc::new(Endpoint { ttl: Duration::ZERO, ..Endpoint::clone(&world.endpoint) });
    assert_eq!(world.tier("alice", 20).await, ok("free"));
    assert_eq!(world.service.calls(), 3);
}

#[tokio::test]
async fn an_answer_past_its_time_is_served_while_a_new_one_is_fetched() {
    let world = World::new(Says::tier("gold")).await;
    assert_eq!(world.tier("alice", 0).await, ok("gold"));
    world.service.says(Says::tier("free"));
    world.service.hold(true);
    for _ in 0..3 {
        assert_eq!(world.tier("alice", 300).await, ok("gold"), "nobody waits");
    }
    world.called(2).await;
    assert_eq!(world.tier("alice", 301).await, ok("gold"));
    world.service.hold(false);
    world.quiet("alice").await;
    assert_eq!(world.tier("alice", 301).await, ok("free"));
    assert_eq!(world.service.calls(), 2, "one call for all of them");
}

#[tokio::test]
async fn a_failed_refresh_keeps_the_answer_for_twice_its_time() {
    let world = World::new(Says::tier("gold")).await;
    assert_eq!(world.tier("alice", 0).await, ok("gold"));
    world.service.says(Says::Answer(500, String::new()));
    for (seconds, calls) in [(300, 2), (300, 2), (301, 3), (599, 4)] {
        assert_eq!(world.tier("alice", seconds).await, ok("gold"));
        world.quiet("alice").await;
        assert_eq!(world.service.calls(), calls, "{seconds} s: a failing service is asked once a second");
    }
    assert_eq!(world.tier("alice", 600).await, UNDECIDED);
    world.service.says(Says::tier("free"));
    assert_eq!(world.tier("alice", 601).await, ok("free"));
}

#[tokio::test]
async fn a_service_that_knows_no_tier_is_asked_again_after_ten_seconds() {
    let world = World::new(Says::Answer(404, "{\"error\":\"not_found\"}".to_owned())).await;
    assert_eq!(world.tier("alice", 0).await, ok("none"));
    world.service.says(Says::tier("gold"));
    assert_eq!(world.tier("alice", 9).await, ok("none"));
    assert_eq!(world.tier("alice", 10).await, ok("gold"));
    world.service.says(Says::Answer(404, String::new()));
    assert_eq!(world.tier("alice", 310).await, ok("gold"), "stale");
    world.quiet("alice").await;
    assert_eq!(world.tier("alice", 310).await, ok("none"), "that there is none is an answer too");
}

#[tokio::test]
async fn what_is_no_answer_is_undecided_and_never_kept() {
    let json = |body: &str| Says::Answer(200, body.to_owned());
    let text = |length: usize| json(&format!("{{\"tier\":\"{}\"}}", "a".repeat(length)));
    let cases = [
        (Says::Answer(500, "{\"tier\":\"gold\"}".to_owned()), "500"),
        (Says::Answer(403, "{\"tier\":\"gold\"}".to_owned()), "403"),
        (Says::Answer(204, String::new()), "204"),
        (Says::Raw(b"HTTP/1.1 302 Found\r\nlocation: /v1/tiers/lookup\r\ncontent-length: 0\r\n\r\n".to_vec()), "302"),
        (json("<html>sign in</html>"), "no JSON"),
        (json(""), "no JSON"),
        (json("{\"error\":\"internal_error\",\"message\":\"no\"}"), "missing field `tier`"),
        (json("{\"tier\":7}"), "invalid type"),
        (json("{\"tier\":null}"), "invalid type"),
        (json("[\"gold\"]"), "`tier`"),
        (json("{\"tier\":\"\"}"), "`tier` is empty"),
        (json("{\"tier\":\"a\\u0000b\"}"), "control characters"),
        (text(254), "over 253 bytes"),
        (json("{\"tier\":\"gold\",\"displayName\":\"\"}"), "`displayName` is empty"),
        (json(&format!("{{\"tier\":\"gold\",\"more\":\"{}\"}}", "a".repeat(10 << 20))), "over 65536 bytes"),
        (json(&"[".repeat(60_000)), "no JSON"),
        (json(&format!("\"{}\"", "a".repeat(60_000))), "invalid type: string"),
        (Says::cut(1), "before message length reached"),
        (Says::cut(30), "before message completed"),
        (Says::Raw(Vec::new()), "before message completed"),
        (Says::Raw(b"\x16\x03\x01 no HTTP".to_vec()), "invalid HTTP"),
    ];
    let world = World::new(Says::Nothing).await;
    let mut seconds = 0;
    for (says, reason) in cases {
        world.service.says(says.clone());
        let Lookup::Undecided(denial) = world.services.ask(&world.request("alice"), at(seconds)).await.0 else {
            panic!("{says:?}");
        };
        assert_eq!(denial.code, Code::UnavailableTiers);
        assert_eq!(denial.message, "the caller's tier cannot be told");
        let detail = denial.detail.unwrap();
        assert!(detail.starts_with(&format!("tier lookup at {}: ", world.service.url())), "{detail}");
        assert!(detail.len() < 500, "{detail}");
        assert!(detail.contains(reason) && !detail.contains("gold"), "{detail}");
        // Well again, and right as soon as it is asked.
        world.service.says(Says::tier("free"));
        assert_eq!(world.tier("alice", seconds).await, UNDECIDED, "a failing service is asked once a second");
        assert_eq!(world.tier("alice", seconds + 1).await, ok("free"), "{detail}");
        seconds += 1_000;
    }
}

#[tokio::test]
async fn a_service_that_is_not_there_is_undecided() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let services = TierServices::patient(LONG);
    let endpoint = Arc::new(Endpoint::new(&format!("http://{nobody}/"), None, None).unwrap());
    let request = services.request(&endpoint, "alice", String::new());
    let Lookup::Undecided(denial) = services.ask(&request, at(0)).await.0 else { panic!() };
    assert!(denial.detail.unwrap().contains("Connection refused"));
}

#[tokio::test]
async fn a_slow_answer_is_there_for_the_next_request() {
    let mut world = World::new(Says::tier("gold")).await;
    world.service.hold(true);
    world.services = TierServices::new();
    let started = std::time::Instant::now();
    assert_eq!(world.tier("alice", 0).await, UNDECIDED);
    assert!(started.elapsed() >= PATIENCE);
    world.service.hold(false);
    world.quiet("alice").await;
    assert_eq!(world.tier("alice", 0).await, ok("gold"));
    assert_eq!(world.service.calls(), 1);
}

#[tokio::test]
async fn a_call_ends_with_the_timeout_of_the_policy() {
    let mut world = World::new(Says::Nothing).await;
    let timeout = Some(Duration::from_millis(20));
    world.endpoint = Arc::new(Endpoint::new(&world.service.url(), None, timeout).unwrap());
    let Lookup::Undecided(denial) = world.services.ask(&world.request("alice"), at(0)).await.0 else { panic!() };
    assert!(denial.detail.unwrap().ends_with("no answer within 20ms"));
}

#[tokio::test]
async fn a_caller_who_leaves_takes_no_call_along() {
    let world = World::new(Says::tier("gold")).await;
    world.service.hold(true);
    tokio::select! {
        told = world.tier("alice", 0) => panic!("{told:?}"),
        () = world.called(1) => {}
    }
    world.service.hold(false);
    assert_eq!(world.tier("alice", 0).await, ok("gold"));
    assert_eq!(world.service.calls(), 1);
}

#[tokio::test]
async fn a_call_whose_worker_has_stopped_is_made_again() {
    let world = World::new(Says::tier("gold")).await;
    world.service.hold(true);
    let (services, request) = (world.services.clone(), world.request("alice"));
    let worker = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // It is polled until it waits, and ends with the runtime.
        runtime.block_on(async { tokio::time::timeout(PATIENCE, services.ask(&request, at(0))).await.is_err() })
    });
    assert!(worker.join().unwrap());
    world.service.hold(false);
    assert_eq!(world.tier("alice", 0).await, ok("gold"));
}

#[tokio::test]
async fn calls_in_flight_are_bounded() {
    let mut world = World::new(Says::tier("gold")).await;
    world.service.hold(true);
    world.services = TierServices::patient(Duration::from_millis(500));
    let users: Vec<String> = (0..CALLS + 10).map(|number| format!("user-{number}")).collect();
    let told = join_all(users.iter().map(|user| reason(&world, user))).await;
    assert_eq!(world.service.calls(), CALLS);
    let reasons: HashSet<_> = told.into_iter().collect();
    assert!(reasons.iter().any(|reason| reason.ends_with("64 calls are in flight already")), "{reasons:?}");
    world.service.hold(false);
    // Another service has calls of its own, and this one is well again.
    assert_eq!(world.tier("somebody", 2).await, ok("gold"));
}

#[test]
fn an_address_is_an_http_url_without_credentials() {
    let told = |url: &str| Endpoint::new(url, None, None).map(|endpoint| endpoint.url.to_string());
    let https = "https://maas-api.maas-api.svc.cluster.local:8443/v1/tiers/lookup";
    assert_eq!(told(https), Ok(https.to_owned()));
    for (url, why) in [
        ("", "is no URL"),
        ("/v1/tiers/lookup", "is no http or https URL"),
        ("ftp://a/", "is no http or https URL"),
        ("http://", "is no URL"),
        ("http:// a/", "is no URL"),
        ("http://:80/", "is no http or https URL"),
        ("http://user:word@a/", "holds credentials"),
        ("http://a/{context.request.http.path}", "has a placeholder"),
    ] {
        assert_eq!(told(url), Err(why), "{url}");
    }
    let seconds = Duration::from_secs;
    let bounds = |ttl, timeout| {
        let endpoint = Endpoint::new("http://a", ttl, timeout).unwrap();
        (endpoint.ttl, endpoint.timeout)
    };
    assert_eq!(bounds(None, None), (seconds(300), seconds(1)));
    assert_eq!(bounds(Some(seconds(3_600)), Some(seconds(5))), (seconds(300), seconds(1)));
    assert_eq!(bounds(Some(seconds(7)), Some(Duration::from_millis(80))), (seconds(7), Duration::from_millis(80)));
    assert_eq!(bounds(Some(seconds(0)), Some(seconds(0))), (seconds(0), seconds(1)));
}

async fn reason(world: &World, user: &str) -> String {
    match world.services.ask(&world.request(user), at(0)).await.0 {
        Lookup::Undecided(denial) => denial.detail.unwrap(),
        lookup => panic!("{lookup:?}"),
    }
}
