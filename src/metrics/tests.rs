use super::*;
use crate::limit::Nanos;
use crate::test_util::{Call, compile_files, demo, gate, options, settings, token};

/// The demo, with the premium tier called `name`.
fn policy(name: &str) -> Policy {
    let renamed = |(file, text): (String, String)| (file, text.replace("premium", name));
    compile_files(&demo().into_iter().map(renamed).collect::<Vec<_>>(), &options())
}

/// The page without its numbers.
fn series(metrics: &Metrics) -> Vec<String> {
    let page = metrics.page(0, 0);
    page.lines().map(|line| line.rsplit_once(' ').map_or(line, |(series, _)| series).to_owned()).collect()
}

#[tokio::test]
async fn a_tier_that_is_renamed_a_thousand_times_has_the_series_of_one() {
    let (metrics, gate) = (Metrics::new(), gate(Policy::default(), settings()));
    let usage = Usage { total: Some(5), input: Some(2), output: Some(3), cached: Some(1), reasoning: Some(1) };
    let settled = |tier: &str| metrics.reported(Settlement::Settled(5), &usage, &Arc::from(tier));
    let mut sizes = Vec::new();
    let mut in_flight = None;
    for number in 0..1_000 {
        let name = format!("tier-{number:03}");
        gate.policies.publish(policy(&name));
        metrics.published(&gate.policies.current());
        // What was decided by the snapshot before comes late, and so does a report of long ago.
        if let Some(late) = in_flight.take() {
            metrics.decided(&late, Duration::ZERO);
        }
        settled("tier-000");
        let call = Call::chat("qwen3").bearer(&token(&name, "jland-78028f6d"));
        let decision = call.on(&gate, Nanos(0)).await;
        assert_eq!(decision.evidence.tier.as_deref(), Some(&*name), "{:?}", decision.outcome.err());
        metrics.decided(&decision, Duration::ZERO);
        settled(&name);
        in_flight = Some(decision);
        sizes.push(series(&metrics).len());
    }
    assert!(series(&metrics).contains(&r#"tiergate_usage_tokens_total{tier="tier-999",usage="total"}"#.to_owned()));
    // At first there is no tier before.
    sizes.drain(..2);
    sizes.dedup();
    assert_eq!(sizes.len(), 1, "{sizes:?}");
}
