use std::sync::Arc;

use super::*;
use crate::limit::Nanos;
use crate::manifest::{Place, TierSpec};
use crate::policy::{Policy, Tiers};
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
        metrics.published(&only(&name), &[]);
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

#[tokio::test]
async fn a_service_that_answers_a_thousand_tiers_makes_series_of_those_that_limits_are_for() {
    let (metrics, gate) = (Metrics::new(), gate(compile_files(&demo(), &options()), settings()));
    let mut without = demo();
    without.retain(|(name, _)| !name.ends_with("tiers.yaml"));
    metrics.published(&compile_files(&without, &options()), &[]);
    let usage = Usage { total: Some(5), ..Usage::default() };
    let mut decision = Call::chat("qwen3").bearer(&token("premium", "jland-78028f6d")).on(&gate, Nanos(0)).await;
    assert!(decision.outcome.is_ok() && decision.evidence.limits.len() == 2);
    decision.evidence.tier_source = Some(TierSource::Asked);
    for tier in (0..1_000).map(|number| format!("tier-{number}")).chain(["premium".to_owned()]) {
        decision.evidence.tier = Some(Arc::from(&*tier));
        metrics.decided(&decision, Duration::ZERO);
        metrics.reported(Settlement::Settled(5), &usage, &Arc::from(&*tier));
    }
    let mut of_tiers = series(&metrics);
    of_tiers.retain(|series| series.contains("tier="));
    of_tiers.sort();
    let limits = |tier: &str, kind: &str| {
        format!("tiergate_limit_decisions_total{{tier=\"{tier}\",kind=\"{kind}\",verdict=\"fits\"}}")
    };
    let tokens = |tier: &str| format!("tiergate_usage_tokens_total{{tier=\"{tier}\",usage=\"total\"}}");
    let expected = [
        limits("", "requests"),
        limits("", "tokens"),
        limits("premium", "requests"),
        limits("premium", "tokens"),
        tokens(""),
        tokens("premium"),
    ];
    assert_eq!(of_tiers, expected);
    let page = metrics.page(0, 0);
    assert!(page.contains("tiergate_tier_lookups_total{result=\"asked\"} 1001"), "{page}");
}

#[test]
fn findings_have_series_as_long_as_they_are_there() {
    let metrics = Metrics::new();
    let findings = || {
        let page = metrics.page(0, 0);
        let lines = page.lines().filter(|line| line.starts_with("tiergate_policy_findings{"));
        let mut lines: Vec<String> = lines.map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let world = |text: &str| compile_files(&[("a.yaml".to_owned(), text.to_owned())], &options());
    assert_eq!(findings(), <[String; 0]>::default());
    metrics.published(
        &world(
            "{apiVersion: v1, kind: ServiceAccount, metadata: {name: 1}, extra: 1}\n---\n\
         {apiVersion: v1, kind: ServiceAccount, metadata: {name: a}, extra: 1}\n---\n\
         {apiVersion: v1, kind: ServiceAccount, metadata: {name: b}, extra: 1}\n",
        ),
        &[],
    );
    assert_eq!(
        findings(),
        [
            r#"tiergate_policy_findings{code="field-unknown",severity="warning"} 2"#,
            r#"tiergate_policy_findings{code="type-wrong",severity="error"} 1"#,
        ]
    );
    metrics.published(&world("{apiVersion: v1, kind: ServiceAccount, metadata: {name: b}, extra: 1}"), &[]);
    assert_eq!(findings(), [r#"tiergate_policy_findings{code="field-unknown",severity="warning"} 1"#]);
    metrics.published(&Policy::default(), &[]);
    assert_eq!(findings(), <[String; 0]>::default());
}
