//! The API server as the authority: TokenReview and SubjectAccessReview, as few as can be.

use super::access::settled;
use super::{REVIEW, World, ok, refused};
use crate::cluster::{Cluster, SHARED};
use crate::support::get;

/// How many calls of each kind requests have cost.
pub(super) fn reviews(cluster: &Cluster, world: &World) -> (usize, usize) {
    let calls = cluster.calls(|user| user == world.account());
    let of = |resource: &str| calls.iter().filter(|(_, other)| other == resource).count();
    (of("tokenreviews"), of("subjectaccessreviews"))
}

#[tokio::test]
async fn a_token_is_reviewed_once_and_a_refusal_is_the_api_servers() {
    let world = World::generous(&SHARED, "once").await;
    let tiergate = world.tiergate(&SHARED, &[REVIEW]).await;
    let mut free = world.caller(&tiergate, "free", "alice-12345678").await;
    let mut premium = world.caller(&tiergate, "premium", "jland-78028f6d").await;
    for _ in 0..10 {
        assert_eq!(free.asks(&world.path("llm", "granite")).await, ok());
        assert_eq!(premium.asks(&world.path("llm", "qwen3")).await, ok());
    }
    assert_eq!(reviews(&SHARED, &world), (2, 0));

    let draft = world.path("llm", "draft");
    assert_eq!(free.asks(&draft).await, refused(403, "TG-ACCESS-DENIED"));
    settled(&SHARED, &world, &mut free, &draft).await;
    let (tokens, asked) = reviews(&SHARED, &world);
    assert_eq!(tokens, 2);
    assert!(asked > 0, "RBAC in process may allow, and not refuse");
    let page = get(tiergate.http, "/metrics").await.body;
    assert!(page.contains("tiergate_api_calls_total{call=\"token_review\",result=\"ok\"} 2"), "{page}");
}
