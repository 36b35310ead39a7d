//! The API server goes away, and comes back; kinds that it does not know, and comes to know.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{World, ok, problems_of, refused, rules};
use crate::cluster::{CRDS, Cluster, apply, apply_object, delete, objects};
use crate::support::{PATIENCE, await_page, await_ready, get, soak};

/// Decides requests for as long as the server is away: all of them as before.
async fn asks_for(callers: &mut [(super::Caller, String, (i32, String))], time: Duration) -> usize {
    let (started, mut asked) = (Instant::now(), 0);
    while started.elapsed() < time {
        for (caller, path, expected) in callers.iter_mut() {
            assert_eq!(caller.asks(path).await, *expected);
            asked += 1;
        }
        // Some time has to pass without the server.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    asked
}

#[tokio::test]
async fn decisions_go_on_while_the_api_server_is_away_and_changes_are_live_after_it() {
    let cluster = Cluster::start();
    let admin = cluster.client().await;
    apply(&admin, CRDS).await;
    let world = World::generous(&cluster, "away").await;
    let tiergate = world.tiergate(&cluster, &[]).await;
    let (qwen, draft) = (world.path("llm", "qwen3"), world.path("llm", "draft"));
    let denied = refused(403, "TG-ACCESS-DENIED");
    let premium = world.caller(&tiergate, "premium", "jland-78028f6d").await;
    let free = world.caller(&tiergate, "free", "alice-12345678").await;
    let mut callers = [(premium, qwen.clone(), ok()), (free, draft, denied.clone())];
    let away = soak(Duration::from_secs(4), Duration::from_secs(30));

    // It hangs.
    cluster.signal_api_server("STOP");
    let hung = asks_for(&mut callers, away).await;
    assert_eq!(get(tiergate.http, "/readyz").await.status, 200);
    cluster.signal_api_server("CONT");
    world.change("LLMInferenceService", "qwen3", |model| model["metadata"]["annotations"] = json!({})).await;
    let [(premium, ..), _] = &mut callers;
    let after_hanging = premium.until(&qwen, &denied).await;
    world.apply_all().await;
    premium.until(&qwen, &ok()).await;

    // It dies, and something changes before it is watched again.
    cluster.kill_api_server();
    let dead = asks_for(&mut callers, away).await;
    await_page(tiergate.http, "/problems", |_, page| page.contains("what was read last stays in force")).await;
    assert_eq!(get(tiergate.http, "/readyz").await.status, 200);
    cluster.restart_api_server();
    let started = Instant::now();
    world.change("LLMInferenceService", "qwen3", |model| model["metadata"]["annotations"] = json!({})).await;
    world.delete("ServiceAccount", "alice-12345678").await;
    let [(premium, ..), (free, draft, _)] = &mut callers;
    premium.until(&qwen, &denied).await;
    free.until(draft, &refused(401, "TG-TOKEN-SUBJECT-GONE")).await;
    let after_death = started.elapsed();
    assert!(after_hanging.max(after_death) < Duration::from_secs(15), "{after_hanging:?}, {after_death:?}");
    await_page(tiergate.http, "/problems", |_, page| !page.contains("what was read last stays in force")).await;
    let logged = tiergate.logged();
    let is_told = |line: &&serde_json::Value| line["level"] == "ERROR" || line["level"] == "WARN";
    // Neither the refusals nor the grants that were taken away on purpose.
    let of_outage = |line: &&serde_json::Value| line["target"] != "tiergate::decision" && line["code"] != "object-gone";
    let told: Vec<_> = logged.iter().filter(is_told).filter(of_outage).collect();
    assert!(told.len() <= 3, "told once, however often it is tried: {told:#?}");
    println!(
        "{hung} and {dead} requests in {away:?} each without the API server; changes live {after_hanging:.0?} after it went on, {after_death:.0?} \
         after it was there again"
    );
}

#[tokio::test]
async fn an_api_server_that_is_not_there_yet_is_waited_for() {
    let cluster = Cluster::start();
    let admin = cluster.client().await;
    apply(&admin, CRDS).await;
    let world = World::generous(&cluster, "late").await;
    let kubeconfig = world.kubeconfig(&cluster, "tiergate", rules()).await;
    cluster.kill_api_server();
    let tiergate = world.start(&cluster, &kubeconfig, &[]);
    let page = await_page(tiergate.http, "/readyz", |_, page| page.contains("Connection refused")).await;
    assert!(page.contains("gateways.gateway.networking.k8s.io"), "{page}");
    cluster.restart_api_server();
    await_ready(&tiergate).await;
    let mut premium = world.caller(&tiergate, "premium", "jland-78028f6d").await;
    assert_eq!(premium.asks(&world.path("llm", "qwen3")).await, ok());
}

#[tokio::test]
async fn a_kind_that_the_cluster_does_not_know_is_noticed_when_it_comes() {
    let cluster = Cluster::start();
    let admin = cluster.client().await;
    let crds = objects(CRDS);
    let (late, early): (Vec<_>, Vec<_>) = crds.into_iter().partition(|crd| {
        crd["spec"]["names"]["kind"] == "RateLimitPolicy" || crd["spec"]["names"]["kind"] == "AuthPolicy"
    });
    for crd in &early {
        apply_object(&admin, crd).await;
    }
    let mut world = World { name: "unknown".to_owned(), client: admin.clone(), objects: super::tour("unknown") };
    let of_late = |object: &serde_json::Value| object["kind"] == "RateLimitPolicy" || object["kind"] == "AuthPolicy";
    let later: Vec<_> = world.objects.iter().filter(|object| of_late(object)).cloned().collect();
    world.objects.retain(|object| !of_late(object));
    world.apply_all().await;
    let tiergate = world.tiergate(&cluster, &[]).await;
    let mut free = world.caller(&tiergate, "free", "alice-12345678").await;
    let granite = world.path("llm", "granite");
    assert_eq!(free.asks(&granite).await, refused(403, "TG-ROUTE-NO-POLICY"));
    for resource in ["authpolicies.kuadrant.io", "ratelimitpolicies.kuadrant.io"] {
        let problems = problems_of(&tiergate, resource).await;
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0]["severity"], "warning");
    }
    for crd in &late {
        apply_object(&admin, crd).await;
    }
    for object in &later {
        apply_object(&admin, object).await;
    }
    let noticed = free.until(&granite, &ok()).await;
    // Both are looked for by themselves.
    await_page(tiergate.http, "/problems", |_, page| !page.contains("ratelimitpolicies.kuadrant.io")).await;
    let started = Instant::now();
    while free.asks(&granite).await == ok() {
        assert!(started.elapsed() < PATIENCE, "the limit is in force");
    }
    assert_eq!(free.asks(&granite).await, refused(429, "TG-LIMIT-REQUESTS"));
    println!("kinds that were not known are noticed after {noticed:.1?}");
    // And when it goes, with its objects.
    for crd in &late {
        delete(&admin, crd).await;
    }
    free.until(&granite, &refused(403, "TG-ROUTE-NO-POLICY")).await;
}

/// A version that is not known here is told; a policy of it could be a limit, so nothing is let through.
#[tokio::test]
async fn a_policy_kind_of_a_newer_version_keeps_the_gate_shut() {
    let cluster = Cluster::start();
    let admin = cluster.client().await;
    for mut crd in objects(CRDS) {
        if crd["spec"]["names"]["kind"] == "RateLimitPolicy" {
            crd["spec"]["versions"][0]["name"] = json!("v9");
        }
        apply_object(&admin, &crd).await;
    }
    let mut world = World { name: "newer".to_owned(), client: admin, objects: super::tour("newer") };
    world.objects.retain(|object| object["kind"] != "RateLimitPolicy");
    world.apply_all().await;
    let kubeconfig = world.kubeconfig(&cluster, "tiergate", rules()).await;
    let tiergate = world.start(&cluster, &kubeconfig, &[]);
    let page = await_page(tiergate.http, "/readyz", |_, page| page.contains("only of")).await;
    assert!(
        page.contains("not read yet from https://127.0.0.1:")
            && page.ends_with("ratelimitpolicies.kuadrant.io (only of kuadrant.io/v9)\n"),
        "{page}"
    );
    let mut free = world.caller(&tiergate, "free", "alice-12345678").await;
    assert_eq!(free.asks(&world.path("llm", "granite")).await, refused(503, "TG-UNAVAILABLE-CONFIGURATION"));
}
