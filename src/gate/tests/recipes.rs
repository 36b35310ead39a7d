//! The recipes of `docs/recipes.md`, as they stand there: each is played with the manifest that they stand on.

use super::reserve::total;
use super::*;
use crate::limit::Standing;
use crate::respond::{Style, check_response};
use crate::test_util::{ES256, claims};
use crate::usage::{Channel, Reports, UsageMetrics};

/// A gate by one recipe.
struct Kitchen {
    gate: Gate,
    reports: Reports,
}

/// The page's blocks of YAML, each with the heading that it stands under.
fn blocks() -> Vec<(String, String)> {
    let page = include_str!("../../../docs/recipes.md");
    let mut found: Vec<(String, String)> = Vec::new();
    for section in page.split("\n## ").skip(1) {
        let (heading, text) = section.split_once('\n').unwrap();
        let blocks = text.split("```yaml\n").skip(1).map(|block| block.split_once("```").unwrap().0);
        found.extend(blocks.map(|block| (heading.to_owned(), block.to_owned())));
    }
    found
}

// === impl Kitchen ===

impl Kitchen {
    /// By the recipe under this heading, which the linter finds nothing wrong with.
    fn by(heading: &str) -> Self {
        let blocks = blocks();
        let block = |wanted: &str| blocks.iter().find(|(heading, _)| heading == wanted).unwrap().1.as_str();
        let policy = compile_text(&[block("What they stand on"), "---\n", block(heading)].concat());
        let problems: Vec<String> = policy.problems.iter().map(ToString::to_string).collect();
        assert_eq!(problems, <[String; 0]>::default());
        let gate = gate(policy, settings());
        let reports = gate.reports(UsageMetrics::default());
        Kitchen { gate, reports }
    }

    async fn decide(&self, who: &str, model: &str, second: f64) -> Decision {
        let (team, name) = who.split_once('/').unwrap();
        let token = ES256.sign(&claims(team, name));
        Call::chat(model).bearer(&token).on(&self.gate, Nanos::from(Duration::from_secs_f64(second))).await
    }

    /// The limit that refuses, by its name; empty if none does. What is let in costs so many tokens.
    async fn costs(&self, who: &str, model: &str, tokens: u64, second: f64) -> String {
        let decision = self.decide(who, model, second).await;
        match &decision.outcome {
            Ok(grant) => {
                let now = Nanos::from(Duration::from_secs_f64(second));
                let report = total(tokens);
                let charged = self.reports.take(&grant.reservation, &report, Channel::RateLimit, now).await;
                assert_eq!(charged.settlement, Settlement::Settled(tokens));
                String::new()
            }
            Err(denial) => {
                assert!([Code::LimitRequests, Code::LimitTokens].contains(&denial.code), "{denial:?}");
                decision.evidence.refusing().unwrap().1.name.rsplit('/').next().unwrap().to_owned()
            }
        }
    }

    /// How many of `times` requests are let in, and which limits refuse the others.
    async fn ask(&self, who: &str, model: &str, times: u32, second: f64) -> (u32, String) {
        let (mut passed, mut refusing) = (0, Vec::new());
        for _ in 0..times {
            match self.costs(who, model, 10, second).await {
                by if by.is_empty() => passed += 1,
                by if !refusing.contains(&by) => refusing.push(by),
                _ => {}
            }
        }
        (passed, refusing.join(" "))
    }

    /// What is left of each limit, by its name and window, before the request that asks takes its part.
    async fn left(&self, who: &str, model: &str, second: f64) -> Vec<(String, u64)> {
        let decision = self.decide(who, model, second).await;
        let left = |standing: Standing| standing.remaining() + standing.held();
        let limits = decision.evidence.limits.iter();
        limits.map(|limit| (limit.name.rsplit('/').next().unwrap().to_owned(), left(limit.standing.unwrap()))).collect()
    }
}

fn left(limits: &[(&str, u64)]) -> Vec<(String, u64)> {
    limits.iter().map(|(name, left)| ((*name).to_owned(), *left)).collect()
}

const ADA: &str = "team-red/ada";
const BEN: &str = "team-red/ben";
const CLEO: &str = "team-blue/cleo";

#[test]
fn every_recipe_is_played() {
    let headings: Vec<String> = blocks().into_iter().map(|(heading, _)| heading).collect();
    let tests = include_str!("recipes.rs");
    assert_eq!(headings.len(), 7, "{headings:?}");
    for heading in &headings[1..] {
        assert!(tests.contains(&format!("Kitchen::by(\"{heading}\")")), "{heading}");
    }
}

#[tokio::test]
async fn a_call_needs_its_users_and_its_teams_tokens() {
    let kitchen = Kitchen::by("A user's and a team's token limit");
    assert_eq!(kitchen.costs(ADA, "qwen3", 100_000, 0.0).await, "");
    assert_eq!(kitchen.costs(ADA, "granite", 10, 0.0).await, "user");
    // What a user's limit refuses costs the team nothing.
    assert_eq!(kitchen.left(BEN, "qwen3", 0.0).await, left(&[("user", 100_000), ("team", 50_000)]));
    assert_eq!(kitchen.costs(BEN, "qwen3", 60_000, 0.0).await, "");
    assert_eq!(kitchen.costs(BEN, "qwen3", 10, 0.0).await, "team");
    assert_eq!(kitchen.left(BEN, "qwen3", 0.0).await, left(&[("user", 40_000), ("team", 0)]));
    assert_eq!(kitchen.costs(CLEO, "qwen3", 100_000, 0.0).await, "", "another team");
}

#[tokio::test]
async fn a_model_has_a_limit_beside_that_of_each_user() {
    let kitchen = Kitchen::by("A model's own limit beside each user's");
    assert_eq!(kitchen.costs(ADA, "qwen3", 150_000, 0.0).await, "");
    assert_eq!(kitchen.costs(BEN, "qwen3", 150_000, 0.0).await, "");
    assert_eq!(kitchen.costs(CLEO, "qwen3", 10, 0.0).await, "model", "everybody's is used up");
    assert_eq!(kitchen.costs(ADA, "granite", 50_000, 0.0).await, "", "the other model has none of its own");
    assert_eq!(kitchen.costs(ADA, "granite", 10, 0.0).await, "user", "a user's counts over both");
    let mut limits = kitchen.left(CLEO, "qwen3", 0.0).await;
    limits.sort();
    assert_eq!(limits, left(&[("model", 0), ("user", 200_000)]));
}

#[tokio::test]
async fn no_route_gets_past_the_ceiling_of_its_gateway() {
    let kitchen = Kitchen::by("A ceiling for a whole gateway");
    assert_eq!(kitchen.ask(ADA, "granite", 70, 0.0).await, (60, "user".to_owned()));
    // Ten of hers were refused, and cost the ceiling nothing.
    assert_eq!(kitchen.ask(CLEO, "qwen3", 50, 0.0).await, (40, "ceiling".to_owned()));
    assert_eq!(kitchen.ask(BEN, "granite", 1, 0.0).await, (0, "ceiling".to_owned()), "beside the route's own limit");
    assert_eq!(
        kitchen.ask(BEN, "granite", 1, 0.01).await,
        (1, String::new()),
        "one is back each hundredth of a second"
    );
}

#[tokio::test]
async fn a_tier_shares_a_limit_and_each_user_has_a_burst_and_a_long_run_in_it() {
    let kitchen = Kitchen::by("A tier's limit with each user's in it, burst and sustained");
    let five = |passed| (passed, "user".to_owned());
    assert_eq!(kitchen.ask(ADA, "qwen3", 8, 0.0).await, five(5), "the burst");
    assert_eq!(kitchen.ask(ADA, "qwen3", 8, 10.0).await, five(5), "the burst is whole again");
    // 15 at once, and one each 4 seconds.
    let mut passed = 10;
    for turn in 2..60 {
        passed += kitchen.ask(ADA, "qwen3", 8, f64::from(turn) * 10.0).await.0;
    }
    assert!((15 * 10 - 5..=15 * 11).contains(&passed), "{passed} in ten minutes");
    assert_eq!(kitchen.ask(CLEO, "qwen3", 50, 0.0).await, (50, String::new()), "another tier");
    let kitchen = Kitchen::by("A tier's limit with each user's in it, burst and sustained");
    for _ in 0..8 {
        kitchen.ask(ADA, "qwen3", 1, 0.0).await;
    }
    let limits = kitchen.left(BEN, "qwen3", 0.0).await;
    assert_eq!(
        limits,
        left(&[("tier", 35), ("user", 5), ("user", 15)]),
        "three that were refused cost the tier nothing"
    );
}

#[tokio::test]
async fn each_model_has_its_tokens_whatever_its_namespace() {
    let kitchen = Kitchen::by("The same token limit for every model");
    assert_eq!(kitchen.costs(ADA, "qwen3", 300_000, 0.0).await, "");
    assert_eq!(kitchen.costs(CLEO, "qwen3", 10, 0.0).await, "model", "all callers share it");
    assert_eq!(kitchen.costs(ADA, "granite", 10, 0.0).await, "");
    let of_lab = Call::path("/lab/qwen3/v1/chat/completions").bearer(&ES256.sign(&claims("team-red", "ada")));
    assert_eq!(code(&of_lab, &kitchen.gate).await, None);
}

#[tokio::test]
async fn a_team_has_a_budget_of_a_month_and_a_rate_a_minute() {
    const DAY: f64 = 24.0 * 3600.0;
    let kitchen = Kitchen::by("A month's budget of a team, beside a rate a minute");
    assert_eq!(kitchen.ask(ADA, "qwen3", 130, 0.0).await, (120, "minute".to_owned()));
    assert_eq!(kitchen.ask(BEN, "granite", 1, 0.0).await, (0, "minute".to_owned()), "the team's");
    // The first call is on the first of January 1970; the month ends an hour before that of UTC.
    for day in 1..=9 {
        assert_eq!(kitchen.costs(BEN, "granite", 1_111_000, f64::from(day) * DAY).await, "");
    }
    assert_eq!(kitchen.costs(ADA, "granite", 10, 20.0 * DAY).await, "month");
    let decision = kitchen.decide(BEN, "qwen3", 20.0 * DAY).await;
    let answer = format!("{:?}", check_response(&decision, None, Style::default()));
    assert!(answer.contains("x-should-retry") && answer.contains("insufficient_quota"), "{answer}");
    assert_eq!(kitchen.costs(CLEO, "qwen3", 10, 20.0 * DAY).await, "", "another team");
    // The clock of this gate began with 1970, which in Berlin was an hour old then.
    let february = 31.0 * DAY - 3_600.0;
    assert_eq!(kitchen.costs(ADA, "granite", 10, february - 1.0).await, "month");
    assert_eq!(kitchen.costs(ADA, "granite", 10, february).await, "", "the next month");
}
