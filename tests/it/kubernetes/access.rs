//! Who says what a caller may do: RBAC in process, the API server, or both.

use std::time::{Duration, Instant};

use clap::Parser as _;
use kube::Client;
use serde_json::{Value, json};
use tiergate::access::AccessSource;
use tiergate::args::{Cli, Command};
use tiergate::cache::AnswerSource;
use tiergate::clock::{Clock, Nanos};
use tiergate::denial::Code;
use tiergate::identity::{Identity, ServiceAccountRef};
use tiergate::listen::ext_authz::to_request;
use tiergate::metrics::Metrics;
use tiergate::request::BearerToken;
use tiergate::settings::GateSettings;
use tiergate::source::Folder;

use super::review::reviews;
use super::{Caller, REVIEW, World, ok, refused, rules};
use crate::cluster::{Cluster, SHARED, apply_object, request, token};
use crate::support::{PATIENCE, Tiergate, get, root};
use crate::wire::{check_request, http};

#[tokio::test]
async fn under_access_review_the_api_server_is_asked_once_for_each_user_and_model() {
    let world = World::generous(&SHARED, "asked").await;
    let tiergate = world.tiergate(&SHARED, &[REVIEW, "--access", "review"]).await;
    let mut ivan = world.caller(&tiergate, "enterprise", "ivan-e85d40b9").await;
    let phi = world.path("lab", "phi");
    settled(&SHARED, &world, &mut ivan, &phi).await;
    let (_, before) = reviews(&SHARED, &world);
    assert!(before > 0);
    // Of what is not there nothing is asked, even if it has a route.
    let mut route = world.object("HTTPRoute", "phi-route");
    route["metadata"]["name"] = json!("phantom-route");
    route["spec"]["rules"][0]["matches"][0]["path"]["value"] = json!(format!("/{}-lab/phantom", world.name));
    apply_object(&world.client, &route).await;
    ivan.until(&world.path("lab", "phantom"), &refused(403, "TG-ACCESS-DENIED")).await;
    assert_eq!(reviews(&SHARED, &world).1, before);

    // What is remembered goes with the binding.
    world.delete("RoleBinding", "model-post-access-tier-binding").await;
    let took = ivan.until(&phi, &refused(403, "TG-ACCESS-DENIED")).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    world.apply_all().await;
    ivan.until(&phi, &ok()).await;
}

/// Asks until an answer costs no call: changes of RBAC have some asked anew, and other tests make changes.
pub(super) async fn settled(cluster: &Cluster, world: &World, caller: &mut Caller, path: &str) {
    let (started, mut before) = (Instant::now(), None);
    loop {
        caller.asks(path).await;
        let now = reviews(cluster, world);
        if before == Some(now) {
            return;
        }
        before = Some(now);
        assert!(started.elapsed() < PATIENCE, "what the API server says is remembered");
        // Only time makes a change an old one.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What an annotation grants here, the API server knows nothing of.
#[tokio::test]
async fn a_disagreement_is_counted_and_logged_and_the_api_server_is_right() {
    let world = World::generous(&SHARED, "both").await;
    let tiergate = world.tiergate(&SHARED, &[REVIEW, "--access", "both"]).await;
    let mut premium = world.caller(&tiergate, "premium", "jland-78028f6d").await;
    assert_eq!(premium.asks(&world.path("llm", "qwen3")).await, refused(403, "TG-ACCESS-DENIED"));
    let mut ivan = world.caller(&tiergate, "enterprise", "ivan-e85d40b9").await;
    assert_eq!(ivan.asks(&world.path("lab", "phi")).await, ok());
    assert_eq!(metric(&tiergate, "tiergate_access_disagreements_total").await, 1.0);
    let logged = tiergate.logged();
    let told: Vec<_> = logged.iter().filter(|line| line["rbac"] == true && line["review"] == false).collect();
    assert_eq!(told.len(), 1, "{logged:#?}");
    assert_eq!((&told[0]["level"], &told[0]["name"]), (&json!("WARN"), &json!("qwen3")));
}

async fn metric(tiergate: &Tiergate, name: &str) -> f64 {
    let page = get(tiergate.http, "/metrics").await.body;
    let line = page.lines().find(|line| line.split([' ', '{']).next() == Some(name));
    line.unwrap_or_else(|| panic!("{name} in {page}")).rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn the_signature_is_enough_where_it_can_be() {
    let world = World::generous(&SHARED, "local").await;
    let tiergate = world.tiergate(&SHARED, &[REVIEW, "--identity", "local"]).await;
    let granite = world.path("llm", "granite");
    for _ in 0..5 {
        let mut free = world.caller(&tiergate, "free", "alice-12345678").await;
        assert_eq!(free.asks(&granite).await, ok());
    }
    assert_eq!(reviews(&SHARED, &world).0, 0);

    // Whether the Secret that a token lives with is there, only the API server knows.
    let namespace = format!("{}-tier-free", world.name);
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "life", "namespace": namespace}});
    apply_object(&world.client, &secret).await;
    let bound = token_bound_to(&world.client, &namespace, "alice-12345678", &world.audience(), "life").await;
    let mut free = Caller::with(&tiergate, &bound).await;
    assert_eq!(free.asks(&granite).await, ok());
    assert_eq!(reviews(&SHARED, &world).0, 1);
    crate::cluster::delete(&world.client, &secret).await;
}

async fn token_bound_to(client: &Client, namespace: &str, name: &str, audience: &str, secret: &str) -> String {
    let of = format!("/api/v1/namespaces/{namespace}/secrets/{secret}");
    let found: Value = client.request(request("GET", &of, None)).await.unwrap();
    let bound = json!({"apiVersion": "v1", "kind": "Secret", "name": secret, "uid": found["metadata"]["uid"]});
    let spec = json!({"audiences": [audience], "expirationSeconds": 3600, "boundObjectRef": bound});
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
    let answer: Value = client.request(request("POST", &path, Some(body))).await.unwrap();
    answer["status"]["token"].as_str().unwrap().to_owned()
}

/// Of a namespace that is not a tier's, nothing is known here: the API server vouches for its ServiceAccounts.
#[tokio::test]
async fn a_service_account_that_is_not_watched_is_the_api_servers_to_know() {
    let world = World::generous(&SHARED, "beside").await;
    let namespace = format!("{}-beside", world.name);
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot", "namespace": namespace}});
    apply_object(&world.client, &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}))
        .await;
    apply_object(&world.client, &account).await;
    let token = token(&world.client, &namespace, "robot", &[&world.audience()]).await;
    for (flags, identity) in [(&[REVIEW][..], true), (&[REVIEW, "--identity", "local"], true), (&[], false)] {
        let tiergate = world.tiergate(&SHARED, flags).await;
        let before = reviews(&SHARED, &world).0;
        let mut robot = Caller::with(&tiergate, &token).await;
        let (status, code) = robot.asks(&world.path("llm", "granite")).await;
        match identity {
            // It is somebody, without a tier or a grant.
            true => assert_eq!((status, reviews(&SHARED, &world).0), (403, before + 1), "{code}"),
            false => assert_eq!((status, &*code), (401, "TG-TOKEN-SUBJECT-GONE")),
        }
    }
}

/// An authorizer may go by what a token is restricted to, and RBAC does not.
#[tokio::test]
async fn rbac_in_process_allows_nobody_of_whom_it_does_not_know_all() {
    let world = World::generous(&SHARED, "scoped").await;
    let kubeconfig = world.kubeconfig(&SHARED, "tiergate", rules()).await;
    let manifests = root("examples/manifests");
    let flags =
        ["tiergate", "serve", "--manifests", manifests.to_str().unwrap(), "--kubeconfig", kubeconfig.to_str().unwrap()];
    let Command::Serve(args) = Cli::try_parse_from(flags).unwrap().command else { panic!("it serves") };
    let policy = Folder::new(&manifests, args.policy.clone().into()).load().unwrap().unwrap();
    let (clock, metrics) = (Clock::start(), Metrics::new());
    let gate = tiergate::app::gate(&GateSettings::from(&*args), policy, clock, &metrics.api).unwrap();
    for (token, scoped, expected) in [("plain", false, None), ("scoped", true, Some(Code::AccessDenied))] {
        let account = ServiceAccountRef {
            namespace: "maas-default-gateway-tier-enterprise".to_owned(),
            name: "ivan-e85d40b9".to_owned(),
            uid: String::new(),
        };
        let uid = gate.policies.current().accounts.uid(&account.namespace, &account.name).unwrap().to_owned();
        let extra = if scoped { json!({"scopes.example.com/of": ["models"]}) } else { json!({}) };
        let (user, groups) = (account.user(), account.groups());
        let identity = Identity {
            object: json!({"authenticated": true, "user": {"username": user, "uid": uid, "groups": groups, "extra": extra}}),
            user: user.into(),
            groups,
            uid: uid.clone(),
            audiences: vec!["maas-default-gateway-sa".to_owned()],
            scoped,
            service_account: Some(ServiceAccountRef { uid, ..account }),
            keep: Duration::from_secs(600),
            expires: Nanos(u64::MAX),
        };
        gate.identities.insert(&BearerToken::new(token), identity);
        let check = check_request(http("/lab/phi/v1/chat/completions", Some(&format!("Bearer {token}"))));
        let decision = gate.check(&to_request(&check).unwrap(), clock.now()).await;
        assert_eq!(decision.outcome.err().map(|denial| denial.code), expected, "{token}");
        let source = if scoped { AccessSource::Review(AnswerSource::Fetched) } else { AccessSource::Rbac };
        assert_eq!(decision.evidence.access.source, Some(source));
    }
    assert_eq!(reviews(&SHARED, &world), (0, 1));
}
