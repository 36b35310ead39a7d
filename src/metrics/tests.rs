use std::sync::Arc;

use super::*;
use crate::limit::Nanos;
use crate::manifest::{Place, TierSpec};
use crate::policy::Policy;
use crate::test_util::{Call, compile_files, demo, gate, options, settings, token};
use crate::tier::TierTable;

/// The page without its numbers.
fn series(metrics: &Metrics) -> Vec<String> {
    let page = metrics.page(0, 0);
    page.lines().map(|line| line.rsplit_once(' ').map_or(line, |(series, _)| series).to_owned()).collect()
}

/// A snapshot that knows one tier.
fn only(name: &str) -> Policy {
    let place = Place { file: Arc::from("tiers.yaml"), line: 1, column: 1 };
    let spec = TierSpec { name: name.to_owned(), display_name: None, level: 1, groups: Vec::new(), place };
    Policy { tiers: Tiers::Known(Arc::new(TierTable::new(&[spec], []))), ..Policy::default() }
}

#[tokio::test]
async fn a_tier_that_is_renamed_a_thousand_times_has_the_series_of_one() {
    let (metrics, gate) = (Metrics::new(), gate(compile_files(&demo(), &options()), settings()));
    let usage = Usage { total: Some(5), input: Some(2), output: Some(3), cached: Some(1), reasoning: Some(1) };
    let settled = |tier: &str| metrics.reported(Settlement::Settled(5), &usage, &Arc::from(tier));
    let call = Call::chat("qwen3").bearer(&token("premium", "jland-78028f6d"));
    let mut decision = call.on(&gate, Nanos(0)).await;
    assert!(decision.outcome.is_ok() && decision.evidence.limits.len() == 2);
    let mut sizes = Vec::new();
    for number in 0..1_000 {
        let name = format!("tier-{number:03}");
        metrics.published(&only(&name));
        // What was decided by the snapshot before is counted late, and a report may be of long ago.
        metrics.decided(&decision, Duration::ZERO);
        settled("tier-000");
        decision.evidence.tier = Some(Arc::from(&*name));
        metrics.decided(&decision, Duration::ZERO);
        settled(&name);
        sizes.push(series(&metrics).len());
    }
    let last = r#"tiergate_usage_tokens_total{tier="tier-999",usage="total"}"#.to_owned();
    assert!(series(&metrics).contains(&last), "{:?}", series(&metrics));
    // A report of a tier that is gone comes first in the second turn.
    sizes.remove(0);
    sizes.dedup();
    assert_eq!(sizes.len(), 1, "{sizes:?}");
}
