//! The kubeconfig changes while it is in use.

use std::fs;

use serde_json::json;

use super::{REVIEW, World, ok, problems_of, refused, rules};
use crate::cluster::{SHARED, delete};
use crate::support::{await_page, await_ready};

#[tokio::test]
async fn credentials_that_change_are_in_use_without_a_restart_and_bad_ones_are_told() {
    let world = World::generous(&SHARED, "rotate").await;
    let kubeconfig = world.kubeconfig(&SHARED, "tiergate", rules()).await;
    let other = fs::read_to_string(world.kubeconfig(&SHARED, "other", rules()).await).unwrap();
    let tiergate = world.start(&SHARED, &kubeconfig, &[REVIEW]);
    await_ready(&tiergate).await;
    let (qwen, place) = (world.path("llm", "qwen3"), kubeconfig.display().to_string());
    let mut premium = world.caller(&tiergate, "premium", "jland-78028f6d").await;
    assert_eq!(premium.asks(&qwen).await, ok());
    for (bad, why) in [
        ("clusters: [".to_owned(), "is not a kubeconfig"),
        (other.replace(SHARED.server(), "https://127.0.0.1:1"), "names another API server"),
        (other.replace("\"token\":\"", "\"token\":\"x"), "does not accept the credentials"),
    ] {
        fs::write(&kubeconfig, bad).unwrap();
        await_page(tiergate.http, "/problems", |_, page| page.contains(why)).await;
        let problems = problems_of(&tiergate, &place).await;
        let codes: Vec<_> = problems.iter().map(|problem| problem["code"].as_str().unwrap()).collect();
        assert_eq!(codes, ["setting-unreadable"]);
        // What was read first is in use: a new token is reviewed with it.
        let mut free = world.caller(&tiergate, "free", "alice-12345678").await;
        assert_eq!(free.asks(&world.path("llm", "granite")).await, ok(), "{why}");
    }
    fs::write(&kubeconfig, other).unwrap();
    await_page(tiergate.http, "/problems", |_, page| !page.contains("setting-unreadable")).await;
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tiergate", "namespace": "rotate-tiergate"},
    });
    delete(&world.client, &account).await;
    world.change("LLMInferenceService", "qwen3", |model| model["metadata"]["annotations"] = json!({})).await;
    premium.until(&qwen, &refused(403, "TG-ACCESS-DENIED")).await;
    let mut free = world.caller(&tiergate, "free", "bob-2b9f1c07").await;
    assert_eq!(free.asks(&world.path("llm", "granite")).await, ok());
    // Each watch begins anew by itself, so that one may stand while another does not yet.
    let is_other = |user: &str| user == "system:serviceaccount:rotate-other:tiergate";
    for (verb, resource) in [("watch", "httproutes"), ("create", "tokenreviews")] {
        SHARED.until_called(is_other, verb, resource).await;
    }
}
