//! What an API server can answer, and what is made of it.

mod silence;

use std::sync::Arc;
use std::time::Duration;

use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, channel};

use super::event::{About, ClusterEvent, Outlet, Update, WatchFault, WatchedObject};
use super::store::ObjectStore;
use super::watch::Watch;
use crate::clock::Clock;
use crate::lint::compile;
use crate::manifest::{KINDS, Kind, Manifests, ModelGrant};
use crate::policy::Options;
use crate::problem::Severity;
use crate::request::{Headers, OperatorModel, Request};
use crate::test_util::scripted::{Answer, Scripted};

fn kind(name: &str) -> &'static Kind {
    KINDS.iter().find(|kind| kind.name == name).unwrap()
}

fn watches(names: &[&str]) -> Vec<Arc<Watch>> {
    names.iter().map(|name| Arc::new(Watch::of(kind(name), &Options::default()))).collect()
}

/// What a watch of `name` sees of a server that answers as the script says.
async fn follow(name: &str, answers: Vec<Answer>) -> (Receiver<ClusterEvent>, Scripted) {
    let server = Scripted::start(answers).await;
    let client = Client::try_from(Config::new(server.url.parse().unwrap())).unwrap();
    let (send, updates) = channel(64);
    let watch = Watch::of(kind(name), &Options::default());
    tokio::spawn(async move { watch.follow(&client, &Outlet { at: 0, events: send }).await });
    (updates, server)
}

/// The next update, in words.
async fn next(updates: &mut Receiver<ClusterEvent>) -> String {
    let event = tokio::time::timeout(Duration::from_secs(30), updates.recv()).await.expect("an update in time");
    let names =
        |objects: &[WatchedObject]| objects.iter().map(|object| object.key.1.as_str()).collect::<Vec<_>>().join(" ");
    let update = match event.unwrap() {
        ClusterEvent::Watch { update, .. } => update,
        ClusterEvent::Heartbeat(answer) => return format!("server {answer:?}"),
    };
    match update {
        Update::Listed(objects) => format!("listed {}", names(&objects)),
        Update::Changed(object) => format!("changed {}", object.key.1),
        Update::Deleted(key) => format!("deleted {}", key.1),
        Update::Watching => "watching".to_owned(),
        Update::Failed(WatchFault::Unreachable(why)) => format!("unreachable: {why}"),
        Update::Failed(fault) => format!("{fault:?}"),
    }
}

async fn sees(updates: &mut Receiver<ClusterEvent>, expected: &[&str]) {
    for expected in expected {
        let seen = next(updates).await;
        assert!(seen.starts_with(expected), "{seen} instead of {expected}");
    }
}

fn object(kind: &str, name: &str, version: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": kind,
        "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"), "resourceVersion": version.to_string()},
        "spec": {"version": version},
    })
}

fn list(names: &[&str], version: u32, token: &str) -> Answer {
    let items: Vec<Value> = names.iter().map(|name| object("HTTPRoute", name, version)).collect();
    let metadata = json!({"resourceVersion": version.to_string(), "continue": token});
    Answer::Json(200, json!({"apiVersion": "v1", "kind": "HTTPRouteList", "metadata": metadata, "items": items}))
}

fn event(kind: &str, name: &str, version: u32) -> Value {
    json!({"type": kind, "object": object("HTTPRoute", name, version)})
}

fn status(code: u16, message: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "message": message, "reason": ""})
}

#[tokio::test]
async fn pages_of_a_list_are_one_list_and_a_watch_goes_on_from_it() {
    let bookmark = json!({"type": "BOOKMARK", "object": {"apiVersion": "v1", "kind": "HTTPRoute", "metadata": {"resourceVersion": "20"}}});
    let events = vec![event("ADDED", "c", 11), event("MODIFIED", "a", 12), event("DELETED", "b", 13), bookmark];
    let (mut updates, server) = follow(
        "HTTPRoute",
        vec![list(&["a"], 9, "more"), list(&["b"], 10, ""), Answer::Events(events), Answer::Silence],
    )
    .await;
    sees(&mut updates, &["listed a b", "watching", "changed c", "changed a", "deleted b"]).await;
    let asked = server.asked(4).await;
    assert!(
        asked[0].starts_with("/apis/gateway.networking.k8s.io/v1/httproutes?") && asked[0].contains("limit=500"),
        "{asked:?}"
    );
    assert!(asked[1].contains("continue=more"), "{asked:?}");
    assert!(asked[2].contains("watch=true") && asked[2].contains("resourceVersion=10"), "{asked:?}");
    assert!(asked[3].contains("resourceVersion=20"), "from the bookmark on: {asked:?}");
}

#[tokio::test]
async fn a_watch_that_is_too_old_is_listed_anew() {
    let gone = json!({"type": "ERROR", "object": status(410, "too old resource version")});
    for too_old in [Answer::Events(vec![gone]), Answer::Json(410, status(410, "too old"))] {
        let answers = vec![list(&["a", "b"], 9, ""), too_old, list(&["b"], 30, ""), Answer::Silence];
        let (mut updates, server) = follow("HTTPRoute", answers).await;
        assert_eq!(next(&mut updates).await, "listed a b");
        let mut seen = next(&mut updates).await;
        if seen == "watching" {
            seen = next(&mut updates).await;
        }
        assert_eq!(seen, "listed b");
        assert!(server.asked(4).await[3].contains("resourceVersion=30"));
    }
}

#[tokio::test]
async fn watches_that_are_ended_at_once_are_not_opened_without_pause() {
    let ended = (0..9).map(|_| Answer::Events(Vec::new()));
    let (mut updates, _) = follow("HTTPRoute", [list(&[], 9, "")].into_iter().chain(ended).collect()).await;
    sees(&mut updates, &["listed ", "watching"]).await;
    let first = std::time::Instant::now();
    sees(&mut updates, &["watching", "watching", "watching"]).await;
    assert!(first.elapsed() > Duration::from_millis(600), "{:?}", first.elapsed());
}

#[tokio::test]
async fn answers_that_are_none_are_asked_for_again() {
    let answers = vec![
        Answer::Json(500, status(500, "etcd is away")),
        Answer::Json(429, status(429, "too many")),
        Answer::Cut(r#"{"apiVersion": "v1", "kind": "HTTPRouteList", "metad"#),
        Answer::Json(200, json!(["no list"])),
        list(&["a"], 9, ""),
        Answer::Cut(r#"{"type": "ADDED", "object": {"apiVer"#),
        Answer::Json(503, status(503, "starting")),
        Answer::Events(vec![event("ADDED", "b", 10)]),
        Answer::Silence,
    ];
    let (mut updates, server) = follow("HTTPRoute", answers).await;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|update: &String| update != "changed b") {
        seen.push(next(&mut updates).await);
    }
    let failures = seen.iter().filter(|update| update.starts_with("unreachable")).count();
    let others: Vec<&str> =
        seen.iter().map(String::as_str).filter(|update| !update.starts_with("unreachable")).collect();
    assert!(failures >= 3, "{seen:?}");
    assert_eq!(others.first(), Some(&"listed a"), "{seen:?}");
    assert_eq!(
        others.iter().filter(|update| update.starts_with("listed")).count(),
        1,
        "it goes on from what was seen: {seen:?}"
    );
    assert!(server.asked(9).await[7].contains("resourceVersion=9"));
}

#[tokio::test]
async fn the_version_that_is_served_is_watched_and_a_refusal_is_told() {
    let answers = vec![Answer::Json(404, status(404, "no such version")), list(&["a"], 9, ""), Answer::Silence];
    let (mut updates, server) = follow("TokenRateLimitPolicy", answers).await;
    assert_eq!(next(&mut updates).await, "listed a");
    assert!(server.asked(2).await[1].starts_with("/apis/kuadrant.io/v1alpha1/tokenratelimitpolicies?"));

    // Once is not enough: a server that starts refuses everybody.
    let refusals = (0..9).map(|_| Answer::Json(403, status(403, "roles is forbidden")));
    let (mut updates, _) = follow("Role", refusals.collect()).await;
    let mut seen = next(&mut updates).await;
    assert_eq!(seen, "unreachable: it answers 403: roles is forbidden");
    while seen.starts_with("unreachable") {
        seen = next(&mut updates).await;
    }
    assert_eq!(seen, "Forbidden(\"roles is forbidden\")");
    let (mut updates, _) = follow("Role", vec![Answer::Json(401, status(401, "Unauthorized"))]).await;
    assert_eq!(next(&mut updates).await, "Unauthenticated(\"Unauthorized\")");
}

// === the store ===

fn changed(kind: &str, name: &str, spec: Value) -> WatchedObject {
    let mut value = object(kind, name, 1);
    value["spec"] = spec;
    value["apiVersion"] = "gateway.networking.k8s.io/v1".into();
    let about = About { version: "v1", uid: String::new(), generation: 1 };
    WatchedObject { key: ("ns".to_owned(), name.to_owned()), about, value }
}

fn gateway(name: &str, port: u32) -> WatchedObject {
    changed("Gateway", name, json!({"listeners": [{"name": "http", "port": port}]}))
}

#[test]
fn a_new_list_is_in_force_at_once_and_the_old_one_until_then() {
    let mut store = ObjectStore::new("https://server", &watches(&["Gateway"]), Clock::start());
    let names = |store: &mut ObjectStore| -> Vec<String> {
        store.read().gateways.iter().map(|gateway| gateway.meta.name().to_string()).collect()
    };
    assert!(store.unready().unwrap().contains("gateways.gateway.networking.k8s.io"));
    assert!(store.apply(0, Update::Listed(vec![gateway("a", 80), gateway("b", 80)])));
    assert!(store.apply(0, Update::Changed(gateway("c", 80))));
    assert!(store.apply(0, Update::Deleted(("ns".to_owned(), "a".to_owned()))));
    assert_eq!((names(&mut store), store.unready()), (vec!["b".to_owned(), "c".to_owned()], None));
    // What is the same is no change, and neither is what was not there.
    assert!(!store.apply(0, Update::Changed(gateway("c", 80))));
    assert!(!store.apply(0, Update::Listed(vec![gateway("b", 80), gateway("c", 80)])));
    assert!(!store.apply(0, Update::Deleted(("ns".to_owned(), "a".to_owned()))));
    assert!(store.apply(0, Update::Listed(vec![gateway("c", 81)])));
    assert_eq!(names(&mut store), ["c"]);
    // An object in error keeps what it said last, also over a new list.
    assert!(store.apply(0, Update::Listed(vec![changed("Gateway", "c", json!({"listeners": "none"}))])));
    let read = store.read();
    assert_eq!((read.gateways[0].broken, read.gateways[0].listeners[0].port), (false, Some(81)));
    assert_eq!(
        read.problems[0].to_string().lines().next().unwrap(),
        "error[type-wrong]: Gateway ns/c: spec.listeners: is a string"
    );
}

#[test]
fn rules_do_not_go_because_a_server_says_once_that_it_does_not_know_them() {
    let mut store = ObjectStore::new("https://server", &watches(&["Gateway", "AuthPolicy"]), Clock::start());
    store.apply(0, Update::Listed(vec![gateway("a", 80)]));
    let missing = |again| Update::Failed(WatchFault::Missing { again });
    // One that was never there is not waited for.
    assert!(store.apply(1, missing(false)));
    assert_eq!(store.unready(), None);
    assert!(!store.apply(1, missing(true)));
    assert!(store.apply(0, missing(false)));
    assert_eq!(store.objects(), 1);
    let severities: Vec<Severity> = store.problems().iter().map(|problem| problem.severity).collect();
    assert_eq!(severities, [Severity::Error, Severity::Warning]);
    assert!(store.apply(0, missing(true)));
    assert_eq!(store.objects(), 0);
    assert!(store.problems().iter().all(|problem| problem.severity == Severity::Warning));
}

#[test]
fn a_server_that_is_away_is_one_problem_until_it_is_back() {
    let mut store = ObjectStore::new("https://server", &watches(&["Gateway", "Role", "RoleBinding"]), Clock::start());
    let away = |why: &str| Update::Failed(WatchFault::Unreachable(why.to_owned()));
    for at in 0..3 {
        assert!(store.apply(at, away("refused")));
        assert!(!store.apply(at, away("reset")), "the first reason stays");
    }
    let problems = store.problems();
    assert_eq!(problems.len(), 1);
    let text = problems[0].to_string();
    assert!(
        text.starts_with("https://server: error[cluster-unreachable]: refused\n")
            && text.contains("see whether the API server answers"),
        "{text}"
    );
    assert!(store.unready().unwrap().contains("roles.rbac.authorization.k8s.io (refused)"));
    for at in 0..3 {
        assert!(store.apply(at, Update::Listed(Vec::new())));
        assert!(store.apply(at, Update::Watching));
    }
    assert_eq!((store.problems(), store.unready()), (Vec::new(), None));
}

/// A server that hangs keeps its watches open.
#[test]
fn a_silence_dates_what_is_known_until_it_ends() {
    let mut store = ObjectStore::new("https://server", &watches(&["Gateway", "Role"]), Clock::start());
    for at in 0..2 {
        store.apply(at, Update::Listed(Vec::new()));
    }
    let heartbeat = |answer: Result<(), &str>| ClusterEvent::Heartbeat(answer.map_err(str::to_owned));
    assert!(!store.take(heartbeat(Ok(()))));
    assert_eq!(store.outdated(), None);
    assert!(store.take(heartbeat(Err("no answer"))));
    assert!(!store.take(heartbeat(Err("another reason"))), "the first reason stays");
    let outdated = store.outdated().unwrap();
    assert_eq!(&*outdated.why, "https://server: no answer");
    assert_eq!(store.problems().len(), 1);
    // A watch that ends meanwhile changes nothing of when the last word was heard.
    store.apply(0, Update::Failed(WatchFault::Unreachable("reset".to_owned())));
    assert_eq!(store.outdated().unwrap().since, outdated.since);
    assert!(store.take(heartbeat(Ok(()))));
    assert_eq!(&*store.outdated().unwrap().why, "gateways.gateway.networking.k8s.io (reset) not watched");
    assert!(store.apply(0, Update::Watching));
    assert_eq!((store.outdated(), store.problems()), (None, Vec::new()));
}

/// Or what the API server said about access would be asked anew when that is least wanted.
#[test]
fn only_what_changes_is_a_change_of_rbac_and_only_of_its_namespace() {
    let role = |name: &str, verb: &str| {
        changed("Role", name, json!({"rules": [{"apiGroups": ["g"], "resources": ["r"], "verbs": [verb]}]}))
    };
    let cluster_role = |verb: &str| WatchedObject { key: (String::new(), "a".to_owned()), ..role("a", verb) };
    let listed = || Update::Listed(vec![role("a", "get"), role("b", "get")]);
    let missing = || Update::Failed(WatchFault::Missing { again: true });
    let mut store = ObjectStore::new("https://server", &watches(&["Role", "Gateway", "ClusterRole"]), Clock::start());
    for (what, at, update, concerned) in [
        ("the first list", 0, listed(), [false, false, false]),
        ("the first list of another kind", 2, Update::Listed(vec![cluster_role("get")]), [false, false, false]),
        ("a watch that fails", 0, Update::Failed(WatchFault::Unreachable("reset".to_owned())), [false, false, false]),
        ("the same list", 0, listed(), [false, false, false]),
        ("the watch again", 0, Update::Watching, [false, false, false]),
        ("what was known already", 0, Update::Changed(role("a", "get")), [false, false, false]),
        ("a Gateway", 1, Update::Listed(vec![changed("Gateway", "g", json!({}))]), [false, false, false]),
        ("a Gateway that changes", 1, Update::Changed(changed("Gateway", "g", json!({"a": 1}))), [false, false, false]),
        ("a Role that changes", 0, Update::Changed(role("a", "post")), [true, false, false]),
        ("a new Role", 0, Update::Changed(role("c", "post")), [true, false, false]),
        ("a Role that goes", 0, Update::Deleted(("ns".to_owned(), "c".to_owned())), [true, false, false]),
        ("what is not there goes", 0, Update::Deleted(("ns".to_owned(), "c".to_owned())), [false, false, false]),
        ("a list without one", 0, Update::Listed(vec![role("a", "post")]), [true, false, false]),
        ("a ClusterRole that changes", 2, Update::Changed(cluster_role("post")), [true, true, true]),
        ("no Role is defined", 0, missing(), [true, false, false]),
        ("no ClusterRole is defined", 2, missing(), [true, true, true]),
    ] {
        let of = |store: &ObjectStore| ["ns", "other", ""].map(|namespace| store.rbac_changes().concerning(namespace));
        let before = of(&store);
        store.apply(at, update);
        let after = of(&store);
        assert_eq!([0, 1, 2].map(|at| before[at] != after[at]), concerned, "{what}");
    }
}

#[test]
fn what_may_not_be_read_opens_nothing() {
    let kinds = [
        "Gateway",
        "HTTPRoute",
        "AuthPolicy",
        "RateLimitPolicy",
        "TokenRateLimitPolicy",
        "ServiceAccount",
        "Role",
        "ConfigMap",
    ];
    let forbidden = || Update::Failed(WatchFault::Forbidden("no".to_owned()));
    for (at, name) in kinds.iter().enumerate() {
        let mut store = ObjectStore::new("https://server", &watches(&kinds), Clock::start());
        for other in (0..kinds.len()).filter(|other| *other != at) {
            store.apply(other, Update::Listed(Vec::new()));
        }
        assert!(store.unready().is_some(), "{name} is waited for");
        store.apply(at, forbidden());
        let needed = !matches!(*name, "Role" | "ConfigMap");
        assert_eq!(store.unready().is_some(), needed, "{name}");
        assert_eq!(store.unread_rbac(), (*name == "Role").then(|| "roles".to_owned()));
        // What was read once stays.
        store.apply(at, Update::Listed(Vec::new()));
        store.apply(at, forbidden());
        assert_eq!((store.unready(), store.unread_rbac()), (None, None));
        assert_eq!(store.problems().len(), 1, "{name}");
    }
    let mut store = ObjectStore::new("https://server", &watches(&["ConfigMap"]), Clock::start());
    store.apply(0, forbidden());
    let rule = "add to the Role in namespace maas-api of tiergate's ServiceAccount: {apiGroups: [\"\"], resources: [\"configmaps\"], \
         resourceNames: [\"tier-to-group-mapping\"], verbs: [\"list\", \"watch\"]}";
    assert_eq!(store.problems()[0].remedy.as_deref(), Some(rule));
}

/// The tour's objects, as a cluster would have them, say what its folder says.
#[test]
fn a_cluster_and_a_folder_make_the_same_policy() {
    let (mut text, mut from_objects) = (String::new(), Manifests::default());
    for entry in std::fs::read_dir("examples/manifests").unwrap() {
        text.push_str(&format!("---\n{}\n", std::fs::read_to_string(entry.unwrap().path()).unwrap()));
    }
    for object in serde_saphyr::from_multiple::<Value>(&text).unwrap() {
        from_objects.append(&Manifests::of_object(&object));
    }
    let folder = compile(Manifests::read([("all.yaml", text.as_str())]), &Options::default());
    let cluster = compile(from_objects, &Options::default());
    assert_eq!((cluster.objects, cluster.problems.len()), (folder.objects, folder.problems.len()));
    assert_eq!(cluster.accounts.uids, folder.accounts.uids);
    let plans = |policy: &crate::policy::Policy| -> Vec<String> {
        let listeners = policy.gateways.iter().flat_map(|gateway| &gateway.listeners);
        let mut plans: Vec<String> = listeners
            .flat_map(|listener| listener.routes.plans())
            .map(|plan| format!("{} {}", plan.name, plan.limits.len()))
            .collect();
        plans.sort();
        plans
    };
    assert_eq!(plans(&cluster), plans(&folder));
    assert!(!plans(&cluster).is_empty());
}

/// Gateway API: of two routes with the same match the older one gets the request, then the first by namespace and name.
#[test]
fn the_older_of_two_routes_gets_the_request() {
    let route = |name: &str, created: &str| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": name, "namespace": "ns", "creationTimestamp": created},
            "spec": {"parentRefs": [{"name": "g"}], "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/a"}}]}]},
        })
    };
    let gateway = changed("Gateway", "g", json!({"listeners": [{"name": "http", "port": 80}]})).value;
    for (first, second, winner) in [
        (("a", "2026-01-02T00:00:00Z"), ("b", "2026-01-01T23:59:59Z"), "ns/b"),
        (("a", "2026-01-01T00:00:00Z"), ("b", "2026-01-01T23:59:59Z"), "ns/a"),
        (("b", "2026-01-01T00:00:00Z"), ("a", "2026-01-01T00:00:00Z"), "ns/a"),
    ] {
        let mut manifests = Manifests::default();
        for object in [&gateway, &route(first.0, first.1), &route(second.0, second.1)] {
            manifests.append(&Manifests::of_object(object));
        }
        let policy = compile(manifests, &Options::default());
        let request = Request {
            method: "POST",
            host: "h",
            scheme: "http",
            path: "/a/b",
            query: None,
            headers: Headers::List(Vec::new()),
            gateway: None,
            listener: None,
            port: None,
            peer: None,
            sni: None,
            model: OperatorModel::Unset,
            body: None,
        };
        let found = policy.route(None, &request).unwrap();
        assert_eq!(&*found.name, winner);
    }
}

#[test]
fn the_header_of_a_model_and_of_a_user_says_everything() {
    let model = json!({
        "apiVersion": "serving.kserve.io/v1alpha1", "kind": "LLMInferenceService",
        "metadata": {"name": "m", "namespace": "llm", "annotations": {"alpha.maas.opendatahub.io/tiers": "[]"}},
    });
    let read = Manifests::of_object(&model);
    assert_eq!((read.models[0].grant.clone(), read.problems), (ModelGrant::AllTiers, Vec::new()));
    let user = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "u", "namespace": "i-tier-t", "uid": "1"}});
    let read = Manifests::of_object(&user);
    assert_eq!((read.service_accounts[0].meta.uid.as_deref(), read.problems), (Some("1"), Vec::new()));
}
