//! An external tier service: well, badly, late, or not at all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::auth::v3::CheckResponse;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use futures_util::future::join_all;
use tonic::transport::Channel;

use super::{GRANITE, bearer, open};
use crate::reload::replace;
use crate::support::{Folder, POSITIVE, TIERGATE, Tiergate, free_port};
use crate::tier_service::{Says, TierService};
use crate::wire::{channel, check, check_request, http, outcome, own, text};

const UNDECIDED: (i32, &str) = (503, "TG-UNAVAILABLE-TIERS");

/// A folder without a mapping, whose policy asks at `port`.
fn asking(port: u16) -> Folder {
    let folder = open();
    std::fs::remove_file(folder.0.join("tiers.yaml")).unwrap();
    let here = format!("http://127.0.0.1:{port}/");
    replace(&folder.0, "auth-policy.yaml", "http://maas-api.maas-api.svc.cluster.local:8080/", &here);
    folder
}

/// Adds users of the free tier's namespace.
fn users(folder: &Folder, names: &[String]) {
    let account = |name: &String| {
        format!(
            "---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, namespace: maas-default-gateway-tier-free}}\n"
        )
    };
    folder.file("more-users.yaml", &names.iter().map(account).collect::<String>());
}

async fn ask(channel: &Channel, authorization: &str) -> CheckResponse {
    check(channel, check_request(http(GRANITE, Some(authorization)))).await
}

/// The tier that was enforced, and where it came from.
fn told(response: &CheckResponse) -> (String, String) {
    assert_eq!(outcome(response), (200, ""));
    (text(own(response), "tier").to_owned(), text(own(response), "tier_source").to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_requests_of_a_cold_user_at_once_are_one_call() {
    let service = TierService::start(Says::tier("enterprise")).await;
    let folder = asking(service.address.port());
    replace(&folder.0, "limits.yaml", "limit: 50,", "limit: 1000,");
    let tiergate = Tiergate::start(&folder.0, &["--workers", "2", POSITIVE[0]]);
    // Connections are spread over the workers.
    let channels = [channel(&tiergate).await, channel(&tiergate).await];
    let authorization = bearer(&folder, "free", "alice-12345678");
    let started = Instant::now();
    let answers = join_all((0..50).map(|number| ask(&channels[number % 2], &authorization))).await;
    let taken = started.elapsed();
    assert_eq!(service.calls(), 1);
    for answer in &answers {
        // A request waits for 100 ms, which a loaded machine may need.
        let late = taken >= Duration::from_millis(100) && outcome(answer) == UNDECIDED;
        assert!(late || told(answer).0 == "enterprise", "{:?}", own(answer));
    }
    let asked = tiergate.metric("tiergate_tier_lookups_total", "fetched").await;
    let remembered = tiergate.metric("tiergate_tier_lookups_total", "hit").await;
    println!("50 requests of a cold user at once, with an external tier service: 1 call for {asked}, {taken:?}");
    assert_eq!(asked + remembered, 50, "some came after the answer, or all waited for it");
    assert!(asked > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_answer_is_undecided_and_the_next_is_right_when_the_service_is_well_again() {
    let json = |status: u16, body: &str| Says::Answer(status, body.to_owned());
    let cases = [
        json(500, "{\"tier\":\"enterprise\"}"),
        json(200, "<html>sign in</html>"),
        json(200, "{\"error\":\"internal_error\",\"message\":\"failed\"}"),
        json(200, "{\"tier\":{\"name\":\"enterprise\"}}"),
        json(200, &format!("{{\"tier\":\"enterprise\",\"more\":\"{}\"}}", "a".repeat(10 << 20))),
        json(302, ""),
        Says::cut(1),
        Says::cut(40),
        Says::Raw(Vec::new()),
        Says::Nothing,
    ];
    let names: Vec<String> = (0..cases.len()).map(|number| format!("cold-{number}")).collect();
    let service = TierService::start(Says::Nothing).await;
    let folder = asking(service.address.port());
    users(&folder, &names);
    let tiergate = Tiergate::start(&folder.0, POSITIVE);
    let channel = channel(&tiergate).await;
    let users: Vec<String> = names.iter().map(|name| bearer(&folder, "free", name)).collect();
    for (says, user) in cases.iter().zip(&users) {
        service.says(says.clone());
        let started = Instant::now();
        let answer = ask(&channel, user).await;
        assert_eq!(outcome(&answer), UNDECIDED, "{says:?}");
        // A tenth of a second, and the rest for a loaded machine.
        assert!(started.elapsed() < Duration::from_secs(3), "{says:?}: {:?}", started.elapsed());
        let Some(HttpResponse::DeniedResponse(denied)) = &answer.http_response else { panic!("{answer:?}") };
        let headers = denied.headers.iter().filter_map(|option| option.header.as_ref());
        let retry_after = headers.into_iter().find(|header| header.key == "retry-after").unwrap();
        assert_eq!(retry_after.value, "1");
        assert!(!denied.body.contains("127.0.0.1"), "{}", denied.body);
        assert!(text(own(&answer), "detail").contains("/v1/tiers/lookup: "), "{:?}", own(&answer));
    }
    assert_eq!(tiergate.metric("tiergate_limit_accounts", "").await, 0, "nothing was taken from a limit");
    service.says(Says::tier("premium"));
    let well = Instant::now();
    for user in &users {
        let answer = loop {
            let answer = ask(&channel, user).await;
            if outcome(&answer) != UNDECIDED {
                break answer;
            }
            // As `Retry-After` says: there is no other call for a second.
            assert!(well.elapsed() < Duration::from_secs(10), "{:?}", own(&answer));
        };
        assert_eq!(told(&answer), ("premium".to_owned(), "fetched".to_owned()));
    }
    assert_eq!(service.calls(), 2 * cases.len(), "one call for each, and one when it was well again");
    println!("a tier service that was bad in {} ways: right again after {:?}", cases.len(), well.elapsed());
}

#[tokio::test]
async fn a_service_that_is_not_there_is_asked_when_it_is() {
    let port = free_port();
    let folder = asking(port);
    let tiergate = Tiergate::start(&folder.0, POSITIVE);
    let channel = channel(&tiergate).await;
    let user = bearer(&folder, "free", "alice-12345678");
    let answer = ask(&channel, &user).await;
    assert_eq!(outcome(&answer), UNDECIDED);
    assert!(text(own(&answer), "detail").contains("Connection refused"), "{:?}", own(&answer));
    assert_eq!(tiergate.await_log("the tier service fails")["level"], "WARN");
    let service = TierService::start_at(port, Says::tier("premium")).await;
    let well = Instant::now();
    while outcome(&ask(&channel, &user).await) == UNDECIDED {
        assert!(well.elapsed() < Duration::from_secs(10));
    }
    assert_eq!(told(&ask(&channel, &user).await), ("premium".to_owned(), "hit".to_owned()));
    assert_eq!(service.calls(), 1);
    tiergate.await_log("the tier service is well again");
}

#[tokio::test]
async fn a_service_by_https_is_asked_if_its_certificate_is_trusted() {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, pem) = (certified.cert.der().clone(), certified.cert.pem());
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    let service = TierService::start_tls(Says::tier("premium"), Arc::new(config).into()).await;
    let folder = asking(service.address.port());
    replace(&folder.0, "auth-policy.yaml", "http://127.0.0.1:", "https://localhost:");
    let trusted = folder.file("trusted.pem", &pem);
    let strange = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let strange = folder.file("strange.pem", &strange.cert.pem());
    let mut calls = 0;
    for (certificates, trusted) in [(trusted, true), (strange, false)] {
        let mut command = std::process::Command::new(TIERGATE);
        command.env("SSL_CERT_FILE", certificates);
        let tiergate = Tiergate::start_as(command, &folder.0, POSITIVE);
        let channel = channel(&tiergate).await;
        let user = bearer(&folder, "free", "alice-12345678");
        // The first call reads certificates, which a loaded machine may take long for.
        let started = Instant::now();
        loop {
            let answer = ask(&channel, &user).await;
            let decided = if trusted {
                outcome(&answer) == (200, "")
            } else {
                assert_eq!(outcome(&answer), UNDECIDED);
                text(own(&answer), "detail").contains("invalid peer certificate")
            };
            if decided {
                break;
            }
            assert!(started.elapsed() < Duration::from_secs(10), "{:?}", own(&answer));
        }
        calls = if trusted { service.calls() } else { calls };
    }
    assert_eq!(service.calls(), calls, "who is not trusted is told nothing");
}

#[tokio::test]
async fn who_has_no_tier_is_refused_by_name() {
    let service = TierService::start(Says::Answer(404, "{\"error\":\"not_found\"}".to_owned())).await;
    let folder = asking(service.address.port());
    for flags in [&[][..], &["--tier-unknown", "refuse"]] {
        let tiergate = Tiergate::start(&folder.0, &[POSITIVE, flags].concat());
        let channel = channel(&tiergate).await;
        let user = bearer(&folder, "free", "alice-12345678");
        for source in ["fetched", "hit"] {
            let answer = ask(&channel, &user).await;
            assert_eq!(outcome(&answer), (403, "TG-TIER-NONE"));
            assert_eq!(text(own(&answer), "tier_source"), source);
        }
    }
    assert_eq!(service.calls(), 2);
}

#[tokio::test]
async fn an_answer_past_its_time_is_served_while_a_new_one_is_fetched() {
    let service = TierService::start(Says::tier("premium")).await;
    let folder = asking(service.address.port());
    replace(&folder.0, "auth-policy.yaml", "ttl: 300", "ttl: 2");
    // Fast enough to be there within the two seconds more that a stale answer is served.
    replace(&folder.0, "limits.yaml", "limit: 20,", "limit: 1000000,");
    let tiergate = Tiergate::start(&folder.0, POSITIVE);
    let channel = channel(&tiergate).await;
    let user = bearer(&folder, "free", "alice-12345678");
    assert_eq!(told(&ask(&channel, &user).await), ("premium".to_owned(), "fetched".to_owned()));
    service.says(Says::tier("enterprise"));
    service.hold(true);
    let (started, mut stale) = (Instant::now(), 0);
    while started.elapsed() < Duration::from_secs(30) {
        match (told(&ask(&channel, &user).await), stale) {
            ((tier, source), 0) if source == "hit" => assert_eq!(tier, "premium"),
            ((tier, source), 0..3) if source == "stale" => {
                assert_eq!(tier, "premium", "nobody waits for the call");
                stale += 1;
            }
            ((tier, source), 3) if source == "stale" => {
                assert_eq!(tier, "premium");
                service.hold(false);
            }
            ((tier, source), _) => {
                assert_eq!((tier.as_str(), source.as_str(), stale), ("enterprise", "hit", 3));
                assert_eq!(service.calls(), 2);
                return;
            }
        }
    }
    panic!("no new answer");
}
