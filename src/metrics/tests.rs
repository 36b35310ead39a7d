use std::collections::BTreeSet;
use std::sync::Arc;

use smallvec::smallvec;

use super::*;
use crate::clock::{Micros, Nanos};
use crate::family::{Description, MetricKind};
use crate::limit::{CellId, Instance};
use crate::manifest::TierSpec;
use crate::policy::{Policy, Tiers};
use crate::problem::Place;
use crate::rules::LimitKind;
use crate::test_util::{Call, compile_files, demo, gate, options, settings, token};
use crate::tier::TierTable;
use crate::usage::{Channel, Charged, Forecast, ModelId, Reservation, Sealer, Settlement, Terms, Usage};

/// The page without its numbers.
fn series(metrics: &Metrics) -> Vec<String> {
    let page = metrics.page(PageFormat::Text, 0, 0);
    page.lines().map(|line| line.rsplit_once(' ').map_or(line, |(series, _)| series).to_owned()).collect()
}

/// The series of a family that are not 0, with their numbers.
fn counted(metrics: &Metrics, family: &str) -> Vec<String> {
    let page = metrics.page(PageFormat::Text, 0, 0);
    let lines = page.lines().filter(|line| line.starts_with(family) && !line.ends_with(" 0"));
    lines.filter_map(|line| line.strip_prefix(family)).map(str::to_owned).collect()
}

/// A snapshot that knows one tier.
fn only(name: &str) -> Policy {
    let place = Place { file: Arc::from("tiers.yaml"), line: 1, column: 1 };
    let spec = TierSpec { name: name.to_owned(), display_name: None, level: 1, groups: Vec::new(), place };
    Policy { tiers: Tiers::Known(Arc::new(TierTable::new(&[spec], []))), ..Policy::default() }
}

/// A reservation of this tier, whose usage goes to no limit.
fn of_tier(tier: &str) -> Reservation {
    Reservation {
        minted: Micros(0),
        instance: Instance(0),
        route: 0,
        serial: 0,
        is_call: true,
        is_priced: false,
        decision: None,
        tier: Arc::from(tier),
        model: ModelId::NONE,
        model_name: Arc::default(),
        user: Arc::default(),
        route_name: Arc::default(),
        forecast: Forecast::default(),
        holds: smallvec![],
    }
}

/// Five tokens, that each of up to two limits was charged.
fn five() -> Charged {
    Charged { charges: smallvec![5; 2], ..Settlement::Settled(5).into() }
}

/// The families that there are on this system.
fn families() -> impl Iterator<Item = &'static Description> {
    FAMILIES.iter().filter(|family| cfg!(target_os = "linux") || !family.name.starts_with("process_"))
}

const USAGE: Usage = Usage { total: Some(5), input: Some(2), output: Some(3), cached: Some(1), reasoning: Some(1) };

#[test]
fn every_family_is_there_from_the_start_as_it_is_described_and_in_order() {
    for format in [PageFormat::OpenMetrics, PageFormat::Text] {
        let page = Metrics::new().page(format, 0, 0);
        let mut told = BTreeSet::new();
        for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').unwrap();
            assert!(told.insert((name.to_owned(), kind)), "{name} twice");
        }
        let described = |family: &Description| match format {
            PageFormat::OpenMetrics => (family.name.to_owned(), family.kind.as_str()),
            PageFormat::Text => (family.series(), family.kind.as_str()),
        };
        assert_eq!(told, families().map(described).collect(), "{format:?}");
        for (family, name) in families().map(|family| (family, described(family).0)) {
            assert!(page.contains(&format!("# HELP {name} {}.\n", family.meaning)), "{name}");
        }
    }
    let page = Metrics::new().page(PageFormat::OpenMetrics, 0, 0);
    assert!(page.ends_with("# EOF\n") && page.contains("# UNIT tiergate_stage_duration_seconds seconds\n"), "{page}");
}

#[test]
fn labels_are_those_that_are_described_and_sorted() {
    let metrics = Metrics::new();
    metrics.published(&compile_files(&demo(), &options()), &[]);
    let mut seen = BTreeSet::new();
    for line in series(&metrics).iter().filter(|line| !line.starts_with('#')) {
        let (name, labels) = line.split_once('{').unwrap_or((line, "}"));
        let family = FAMILIES.iter().find(|family| match family.kind {
            MetricKind::Histogram => name.strip_prefix(family.name).is_some_and(|rest| rest.starts_with('_')),
            MetricKind::Counter | MetricKind::Gauge => name == family.series(),
        });
        let family = family.unwrap_or_else(|| panic!("{name} is not described"));
        let labels = labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('='));
        let labels: Vec<&str> = labels.map(|(label, _)| label).filter(|label| *label != "le").collect();
        assert_eq!(labels, family.labels.iter().map(|(label, _)| *label).collect::<Vec<_>>(), "{line}");
        seen.insert(family.name);
    }
    let empty: Vec<&str> = families().map(|family| family.name).filter(|name| !seen.contains(name)).collect();
    // These have series when there is something to tell.
    let expected = [
        "tiergate_would_have_refused",
        "tiergate_limit_reached",
        "tiergate_policy_findings",
        "tiergate_api_calls",
        "tiergate_api_call_duration_seconds",
    ];
    assert_eq!(empty, expected);
}

#[test]
fn the_order_of_series_stays() {
    let page = |turns: &[usize]| {
        let metrics = Metrics::new();
        for turn in turns {
            let labels = ShadowLabels { by: "policy", reason: Code::ALL[*turn].as_str() };
            metrics.shadowed.get(&labels).inc();
        }
        metrics.published(&compile_files(&demo(), &options()), &[]);
        series(&metrics)
    };
    assert_eq!(page(&[0, 1, 2, 3, 4, 5]), page(&[5, 3, 1, 4, 2, 0]));
}

#[tokio::test]
async fn a_tier_that_is_renamed_a_thousand_times_has_the_series_of_one() {
    let (metrics, gate) = (Metrics::new(), gate(compile_files(&demo(), &options()), settings()));
    let settled = |tier: &str| {
        metrics.usage.reported(Channel::RateLimit, &Settlement::Settled(5).into(), &USAGE, Some(&of_tier(tier)))
    };
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
    decision.evidence.tier_source = Some(AnswerSource::Fetched);
    for tier in (0..1_000).map(|number| format!("tier-{number}")).chain(["premium".to_owned()]) {
        decision.evidence.tier = Some(Arc::from(&*tier));
        metrics.decided(&decision, Duration::ZERO);
        metrics.usage.reported(Channel::RateLimit, &Settlement::Settled(5).into(), &usage, Some(&of_tier(&tier)));
    }
    let limits =
        |tier: &str, kind: &str, count: u32| format!("{{kind=\"{kind}\",tier=\"{tier}\",verdict=\"fits\"}} {count}");
    let expected = [
        limits("", "requests", 1_000),
        limits("premium", "requests", 1),
        limits("", "tokens", 1_000),
        limits("premium", "tokens", 1),
    ];
    assert_eq!(counted(&metrics, "tiergate_limit_decisions_total"), expected);
    let expected = [r#"{tier="",usage="total"} 5000"#, r#"{tier="premium",usage="total"} 5"#];
    assert_eq!(counted(&metrics, "tiergate_usage_tokens_total"), expected);
    let expected = [r#"{outcome="allowed",tier=""} 1000"#, r#"{outcome="allowed",tier="premium"} 1"#];
    assert_eq!(counted(&metrics, "tiergate_tier_decisions_total"), expected);
    assert_eq!(counted(&metrics, "tiergate_tier_lookups_total{source=\"fetched\"}"), [" 1001"]);
}

#[tokio::test]
async fn decisions_and_tokens_are_told_by_model_and_by_limit() {
    let (metrics, gate) = (Metrics::new(), gate(compile_files(&demo(), &options()), settings()));
    metrics.published(&gate.policies.current(), &[]);
    let bearer = token("premium", "jland-78028f6d");
    let mut reservations = Vec::new();
    for (model, times) in [("llm/qwen3", 2), ("llm/nobodys", 3)] {
        for _ in 0..times {
            let mut call = Call::chat("qwen3").bearer(&bearer);
            call.model = Some(model.to_owned());
            let decision = call.on(&gate, Nanos(0)).await;
            metrics.decided(&decision, Duration::ZERO);
            reservations.extend(decision.outcome.map(|grant| grant.reservation));
        }
    }
    metrics.decided(&Call::chat("qwen3").on(&gate, Nanos(0)).await, Duration::ZERO);
    assert_eq!(reservations.len(), 2);
    for sealed in &reservations {
        metrics.usage.reported(Channel::RateLimit, &five(), &USAGE, gate.sealer.open(sealed).as_ref());
    }
    let model = |model: &str, namespace: &str, outcome: &str, count: u32| {
        format!("{{model=\"{model}\",namespace=\"{namespace}\",outcome=\"{outcome}\"}} {count}")
    };
    let expected = [model("", "", "refused", 1), model("other", "", "refused", 3), model("qwen3", "llm", "allowed", 2)];
    assert_eq!(counted(&metrics, "tiergate_model_decisions_total"), expected);
    let tokens = counted(&metrics, "tiergate_model_tokens_total");
    assert!(
        tokens.contains(&r#"{model="qwen3",namespace="llm",usage="total"} 10"#.to_owned()) && tokens.len() == 5,
        "{tokens:?}"
    );
    let checks = counted(&metrics, "tiergate_limit_checks_total");
    assert_eq!(checks.len(), 2, "{checks:?}");
    assert!(
        checks.iter().all(|check| check.contains("premium") && check.ends_with("verdict=\"fits\"} 2")),
        "{checks:?}"
    );
    let charged = counted(&metrics, "tiergate_limit_tokens_total");
    assert!(charged.len() == 1 && charged[0].contains("premium") && charged[0].ends_with(" 10"), "{charged:?}");
    // What is gone has no series, and what comes late for it is among the others.
    metrics.published(&Policy::default(), &[]);
    metrics.usage.reported(Channel::RateLimit, &five(), &USAGE, gate.sealer.open(&reservations[0]).as_ref());
    assert_eq!(counted(&metrics, "tiergate_limit_tokens_total"), [r#"{limit="other",policy=""} 5"#]);
    assert_eq!(counted(&metrics, "tiergate_model_tokens_total{model=\"qwen3\""), <[String; 0]>::default());
    let other = counted(&metrics, "tiergate_model_tokens_total{model=\"other\",namespace=\"\",usage=\"total\"}");
    assert_eq!(other, [" 5"]);
}

/// One account has a cell for each route, and its tokens are those of one limit.
#[test]
fn the_tokens_of_a_limit_that_counts_for_each_route_are_told_by_its_name() {
    let metrics = Metrics::new();
    let scoped = |(name, text): (String, String)| {
        let text = text.replace(
            "kind: TokenRateLimitPolicy\nmetadata:\n",
            "kind: TokenRateLimitPolicy\nmetadata:\n  annotations: {tiergate.io/counter-scope: route}\n",
        );
        (name, text)
    };
    let files: Vec<_> = demo().into_iter().map(scoped).collect();
    assert_ne!(files, demo(), "there is one to annotate");
    let policy = compile_files(&files, &options());
    metrics.published(&policy, &[]);
    let cells: BTreeSet<CellId> = policy
        .gateways
        .iter()
        .flat_map(|gateway| gateway.listeners.iter().flat_map(|listener| listener.routes.plans()))
        .flat_map(|plan| plan.limits.iter().map(move |limits| (plan.hash, limits)))
        .filter_map(|(hash, limits)| match limits {
            crate::policy::Attached::Active(set) => Some((hash, set)),
            _ => None,
        })
        .flat_map(|(hash, set)| set.all().map(move |limit| (hash, limit)))
        .filter(|(_, limit)| limit.kind == LimitKind::Tokens && limit.name.ends_with("/premium-user-tokens"))
        .flat_map(|(hash, limit)| limit.cells(hash).map(|(cell, _)| cell))
        .collect();
    assert!(!cells.is_empty(), "the limit is there");
    let account = crate::limit::AccountKey(1);
    for cell in &cells {
        let of = crate::limit::Hold { account, cell: *cell, held: 0, mark: Micros(0) };
        let holds = smallvec![crate::usage::Hold { kind: LimitKind::Tokens, shadow: false, of }];
        metrics.usage.reported(Channel::RateLimit, &five(), &USAGE, Some(&Reservation { holds, ..of_tier("") }));
    }
    let charged = counted(&metrics, "tiergate_limit_tokens_total");
    assert!(charged.len() == 1 && charged[0].ends_with(&format!("}} {}", 5 * cells.len())), "{charged:?}");
}

#[tokio::test]
async fn nothing_that_ten_thousand_callers_send_makes_a_series() {
    let (metrics, gate) = (Metrics::new(), gate(compile_files(&demo(), &options()), settings()));
    metrics.published(&gate.policies.current(), &[]);
    let call = Call::chat("qwen3").bearer(&token("premium", "jland-78028f6d"));
    let mut decision = call.on(&gate, Nanos(0)).await;
    let before = series(&metrics).len();
    let sealer = Sealer::random();
    for number in 0..10_000 {
        let evidence = &mut decision.evidence;
        evidence.user = Some(Arc::from(format!("user-{number}")));
        evidence.tier = Some(Arc::from(format!("tier-{number}")));
        evidence.permit.model = Some(format!("llm/model-{number}"));
        evidence.limits.iter_mut().for_each(|limit| limit.name = Arc::from(format!("a/b/limit-{number}")));
        metrics.decided(&decision, Duration::ZERO);
        let model = ModelId::of(&format!("llm/model-{number}"));
        let terms = Terms { tier: "gone", model, ..Terms::default() };
        metrics.usage.reported(
            Channel::RateLimit,
            &Settlement::Settled(1).into(),
            &USAGE,
            sealer.open(&sealer.seal(&terms, Micros(0))).as_ref(),
        );
        let refused = Call::path(&format!("/path-{number}/x")).on(&gate, Nanos(0)).await;
        metrics.decided(&refused, Duration::ZERO);
    }
    assert_eq!(series(&metrics).len(), before);
    assert!(counted(&metrics, "tiergate_model_decisions_total").len() >= 2, "they were counted");
}

#[test]
fn models_beyond_a_bound_have_one_series_and_those_that_were_first_keep_theirs() {
    let metrics = Metrics::new();
    let with = |names: std::ops::Range<usize>| {
        let models = names.map(|number| format!("m{number:05}")).collect();
        Policy { models: std::iter::once(("llm".to_owned(), models)).collect(), ..Policy::default() }
    };
    let models = || {
        let lines =
            series(&metrics).into_iter().filter(|line| line.starts_with("tiergate_model_decisions_total{model=\"m"));
        lines.filter(|line| line.contains("allowed")).collect::<Vec<_>>()
    };
    metrics.published(&with(500..1_500), &[]);
    let first = models();
    assert_eq!(first.len(), 1_000);
    metrics.published(&with(0..3_000), &[]);
    assert_eq!(models(), first);
}

#[test]
fn findings_have_series_as_long_as_they_are_there() {
    let metrics = Metrics::new();
    let findings = || {
        let page = metrics.page(PageFormat::Text, 0, 0);
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
