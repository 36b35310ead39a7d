//! `--shadow`, behind a real Envoy: everything passes, and what would have been said is told.

use crate::envoy::{chat, gateway};
use crate::support::{Connection, Tiergate, root, token};

#[tokio::test]
async fn in_shadow_everything_passes_and_is_recorded() {
    let manifests = root("examples/manifests");
    // Calls follow each other sooner than their reports come: they hold nothing here.
    let tiergate = Tiergate::start(&manifests, &["--shadow", "--token-admission=positive"]);
    let gateway = gateway(tiergate.grpc).await;
    let free = token("maas-default-gateway-tier-free", "alice-12345678", &manifests);
    let mut connection = Connection::open(gateway.address).await;
    let qwen = "/llm/qwen3/v1/chat/completions";
    for (path, token, code) in [
        (qwen, "junk", "TG-TOKEN-MALFORMED"),
        (qwen, free.as_str(), "TG-ACCESS-DENIED"),
        ("/llm//qwen3/v1/chat/completions", free.as_str(), "TG-PATH-NOT-CANONICAL"),
    ] {
        let answer = chat(&mut connection, path, token).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        assert!(!answer.head.contains("x-ratelimit"), "{}", answer.head);
        let line = tiergate.await_log("would have been refused");
        assert_eq!((line["code"].as_str(), line["level"].as_str()), (Some(code), Some("INFO")), "{line}");
        let labels = format!("by=\"process\",reason=\"{code}\"");
        assert_eq!(tiergate.metric("tiergate_would_have_refused_total", &labels).await, 1);
    }
    for _ in 0..6 {
        assert_eq!(chat(&mut connection, "/llm/granite/v1/chat/completions", &free).await.status, 200);
    }
    assert_eq!(tiergate.metric("tiergate_would_have_refused_total", "TG-LIMIT-REQUESTS").await, 1);
    assert_eq!(tiergate.metric("tiergate_decisions_total", "refused").await, 0);
}
