//! What each stage saw and decided.

use std::sync::Arc;
use std::time::Duration;

use super::{Case, CurrentRoute, TraceFinding, TraceResult, TraceStage, TraceStep};
use crate::access::AccessSource;
use crate::cache::AnswerSource;
use crate::denial::{Class, Code, Denial};
use crate::gate::{LimitEvidence, Refused};
use crate::identity::Identity;
use crate::limit;
use crate::policy::{Attached, AuthPlan, Limit, LimitSet, Overridden, Tiers, in_words};
use crate::problem::{ObjectName, Place};
use crate::respond;
use crate::rules::{Authorization, LimitKind, Rule};

/// Limits that do not match, and what is overridden, are listed up to this many.
const LISTED: usize = 8;

/// All steps, in their order.
pub(super) fn all(case: &Case<'_>, found: Option<&CurrentRoute<'_>>) -> Vec<TraceStep> {
    let auth = found.and_then(CurrentRoute::auth);
    let mut steps = vec![
        step(case, TraceStage::Route, "route", || route(case, found)),
        step(case, TraceStage::Policy, "policy", || policy(case, found)),
    ];
    let unasked = unasked(case, auth);
    for (stage, name) in
        [(TraceStage::Identity, "identity"), (TraceStage::Tier, "tier"), (TraceStage::Access, "access")]
    {
        steps.push(match unasked {
            Some(why) if case.result(stage) == TraceResult::Passed => {
                TraceStep { name, result: TraceResult::Skipped, findings: vec![why.into()] }
            }
            _ if case.policy_would() => {
                TraceStep { name, result: TraceResult::Shadow, findings: seen_in_shadow(case, stage, auth) }
            }
            _ => step(case, stage, name, || match stage {
                TraceStage::Identity => identity(case, auth),
                TraceStage::Tier => tier(case, auth),
                _ => access(case, auth),
            }),
        });
    }
    steps.push(step(case, TraceStage::Limits, "limits", || limits(case, found)));
    steps.extend(shadow(case));
    steps.push(answer(case));
    steps
}

/// What a policy in shadow saw before it would have refused.
fn seen_in_shadow(case: &Case<'_>, stage: TraceStage, auth: Option<&AuthPlan>) -> Vec<TraceFinding> {
    match stage {
        TraceStage::Identity => identity(case, auth),
        TraceStage::Tier if case.evidence.tier.is_some() => tier(case, auth),
        TraceStage::Access if case.evidence.permit.model.is_some() => access(case, auth),
        _ => Vec::new(),
    }
}

/// What policies and limits in shadow would have said.
fn shadow(case: &Case<'_>) -> Option<TraceStep> {
    let by_some =
        case.evidence.shadowed.iter().filter_map(|shadowed| Some((shadowed.by.as_deref()?, &shadowed.denial)));
    let told = by_some.map(|(by, denial)| {
        let (status, code) = (respond::status(denial.code).0, denial.code.as_str());
        TraceFinding::from(format!("{by} would have said {status} {code}: {}", words(denial)))
    });
    let findings: Vec<TraceFinding> = told.collect();
    (!findings.is_empty()).then_some(TraceStep { name: "shadow", result: TraceResult::Shadow, findings })
}

fn step(
    case: &Case<'_>,
    stage: TraceStage,
    name: &'static str,
    findings: impl FnOnce() -> Vec<TraceFinding>,
) -> TraceStep {
    let result = case.result(stage);
    let mut findings = if result == TraceResult::NotReached { Vec::new() } else { findings() };
    if case.stopped() == Some(stage)
        && let Some(denial) = case.denial
    {
        findings.push(words(denial).into());
    }
    TraceStep { name, result, findings }
}

/// A refusal in words, with what is meant for operators.
fn words(denial: &Denial) -> String {
    let detail = denial.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
    format!("{}{detail}", denial.message)
}

/// Why nobody was asked who they are.
fn unasked(case: &Case<'_>, auth: Option<&AuthPlan>) -> Option<&'static str> {
    match (&case.evidence.policy, auth) {
        (Some(_), _) if case.evidence.policy_skipped => Some("the policy leaves this request alone"),
        (Some(_), _) => None,
        (None, Some(_)) => Some("this call asks about the limits alone; Check asked the rest"),
        (None, None) => Some("no policy asks"),
    }
}

// === route ===

fn route(case: &Case<'_>, found: Option<&CurrentRoute<'_>>) -> Vec<TraceFinding> {
    let (Some(route), rule) = (&case.evidence.route, &case.evidence.rule) else { return Vec::new() };
    let Some(name) = object("HTTPRoute", route) else { return Vec::new() };
    let rule = rule.as_deref().filter(|rule| !rule.is_empty()).map(|rule| format!(", {rule}")).unwrap_or_default();
    let mut findings = match found.is_some_and(CurrentRoute::is_gateway) {
        true => vec!["no HTTPRoute has the path: the policies of the Gateway itself apply".into()],
        false => vec![case.finding(format!("{name}{rule}"), &name)],
    };
    match found {
        Some(found) => findings.extend(found.at.iter().map(|(gateway, listener)| {
            let names: Vec<&str> = listener.names.iter().map(|name| &**name).collect();
            let place = object("Gateway", &gateway.name).and_then(|object| case.place(&object));
            TraceFinding::new(format!("on Gateway {}, listener {}", gateway.name, names.join(" or ")), place)
        })),
        None => findings.push("it is not in the policy any more".into()),
    }
    findings
}

/// `namespace/name` as the name of an object.
pub(super) fn object(kind: &str, path: &str) -> Option<ObjectName> {
    let (namespace, name) = path.split_once('/')?;
    Some(ObjectName::new(kind, namespace, name))
}

// === policy ===

fn policy(case: &Case<'_>, found: Option<&CurrentRoute<'_>>) -> Vec<TraceFinding> {
    let stopped = case.stopped() == Some(TraceStage::Policy);
    let Some(policy) = &case.evidence.policy else {
        let Some(found) = found else { return Vec::new() };
        return match &found.plan.auth {
            Attached::Broken(name) => vec![case.finding(format!("{name}, which is in error"), name)],
            Attached::Active(auth) => vec![case.finding(auth.policy.to_string(), &auth.policy)],
            Attached::None if stopped => vec!["no AuthPolicy is for this route, its listener or its Gateway".into()],
            Attached::None => vec!["no AuthPolicy is for this route; --without-policy allow lets it pass".into()],
        };
    };
    let mut findings = vec![case.finding(policy.to_string(), policy)];
    let Some(auth) = found.and_then(CurrentRoute::auth) else { return findings };
    for origin in origins(auth).iter().filter(|origin| **origin != policy) {
        findings.push(case.finding(format!("with rules of {origin}"), origin));
    }
    if let Some(trial) = &auth.trial {
        findings.push(case.finding(format!("in shadow beside it: {}", trial.policy), &trial.policy));
    }
    findings.extend(overridden(case, found, |kind| kind == "AuthPolicy"));
    if case.evidence.policy_skipped {
        let place = auth.rules.when.as_ref().map(|when| when.place.clone());
        findings.push(TraceFinding::new("its `when` does not hold, so it has nothing to say", place));
    }
    findings
}

/// What gives way here of the policies of some kinds.
fn overridden(case: &Case<'_>, found: Option<&CurrentRoute<'_>>, of_kind: fn(&str) -> bool) -> Vec<TraceFinding> {
    let all = found.into_iter().flat_map(|found| &found.plan.overridden).flat_map(|all| &**all);
    let all = all.filter(|told| of_kind(&told.policy.kind));
    let all: Vec<&Overridden> = all.collect();
    let mut findings: Vec<TraceFinding> = all
        .iter()
        .take(LISTED)
        .map(|told| {
            let what = told.part.as_ref().map(|part| format!("{part} of ")).unwrap_or_default();
            case.finding(format!("{what}{} is overridden by {}", told.policy, in_words(&told.by)), &told.policy)
        })
        .collect();
    if all.len() > LISTED {
        findings.push(format!("and {} others are overridden", all.len() - LISTED).into());
    }
    findings
}

/// The policies that the rules are written in.
fn origins(auth: &AuthPlan) -> Vec<&Arc<ObjectName>> {
    let rules = &auth.rules;
    fn of<T>(rules: &[Arc<Rule<T>>]) -> impl Iterator<Item = &Arc<ObjectName>> {
        rules.iter().map(|rule| &rule.origin)
    }
    let all = of(&rules.authentication).chain(of(&rules.metadata)).chain(of(&rules.authorization));
    let mut origins: Vec<_> = all.chain(of(&rules.filters)).chain(of(&rules.headers)).collect();
    origins.sort_unstable();
    origins.dedup();
    origins
}

// === identity ===

fn identity(case: &Case<'_>, auth: Option<&AuthPlan>) -> Vec<TraceFinding> {
    let evidence = case.evidence;
    let mut findings = case.identity().map(described).unwrap_or_default();
    let source = match evidence.identity_source {
        Some(AnswerSource::Fetched) => Some("the token was reviewed for this request"),
        Some(AnswerSource::Hit) => Some("remembered from an earlier review"),
        Some(AnswerSource::Stale) => {
            Some("remembered from an earlier review, past its time: the API server could not be asked")
        }
        None => None,
    };
    findings.extend(case.believed.or(source).map(TraceFinding::from));
    let rules = auth.map(|auth| auth.rules.authentication.as_slice()).unwrap_or_default();
    match &evidence.authentication {
        Some(name) => {
            let place = rules.iter().find(|rule| rule.name == *name).map(|rule| rule.place.clone());
            findings.push(TraceFinding::new(format!("accepted by authentication `{name}`"), place));
        }
        None if case.stopped() == Some(TraceStage::Identity) || case.policy_would() => {
            findings.extend(rules.iter().map(|rule| {
                let wants = rule.what.method.wants();
                TraceFinding::new(format!("authentication `{}` wants {wants}", rule.name), Some(rule.place.clone()))
            }))
        }
        None => findings.push("the policy asks nobody who they are".into()),
    }
    findings
}

/// How an answer of somebody else was come by.
fn how(source: AnswerSource) -> &'static str {
    match source {
        AnswerSource::Fetched => "asked for this request",
        AnswerSource::Hit => "remembered",
        AnswerSource::Stale => "remembered, and past its time",
    }
}

fn described(identity: &Identity) -> Vec<TraceFinding> {
    vec![
        format!("user {}, uid {}", identity.user, or_none(&identity.uid)).into(),
        format!("groups {}", or_none(&identity.groups.join(", "))).into(),
        format!("audiences {}", or_none(&identity.audiences.join(", "))).into(),
    ]
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "(none)" } else { text }
}

// === tier ===

fn tier(case: &Case<'_>, auth: Option<&AuthPlan>) -> Vec<TraceFinding> {
    let Some(auth) = auth else { return Vec::new() };
    let Some(lookup) = auth.rules.metadata.first() else {
        return vec!["the policy asks for no tier".into()];
    };
    let asked = TraceFinding::new(format!("asked for by metadata `{}`", lookup.name), Some(lookup.place.clone()));
    let Some(name) = &case.evidence.tier else {
        if case.stopped() == Some(TraceStage::Tier) {
            return vec![asked];
        }
        let groups: Vec<&str> = groups(case).collect();
        return vec![format!("none: no tier lists any of the groups {}", or_none(&groups.join(", "))).into(), asked];
    };
    if let Some(source) = case.evidence.tier_source {
        return vec![format!("{name}, as {} says: {}", lookup.what.endpoint.url, how(source)).into(), asked];
    }
    let Some(given) = given(case, &auth.tiers, name) else {
        return vec![format!("{name}, which the tier mapping does not have any more").into(), asked];
    };
    let gone = case.evidence.tier_gone.iter().map(|gone| {
        TraceFinding::from(format!("its namespace is named for tier `{gone}`, which is not configured any more"))
    });
    [given, asked].into_iter().chain(gone).collect()
}

fn groups<'c>(case: &'c Case<'_>) -> impl Iterator<Item = &'c str> {
    case.identity().into_iter().flat_map(|identity| identity.groups.iter().map(String::as_str))
}

/// What of the tier mapping gives the tier `name`, if that has it.
fn given(case: &Case<'_>, tiers: &Tiers, name: &str) -> Option<TraceFinding> {
    let Tiers::Known(table) = tiers else { return None };
    let tier = table.tiers().iter().find(|tier| *tier.name == *name)?;
    let from = match table.giving(name, groups(case)) {
        Some(group) if group.ends_with(&format!("-tier-{name}")) && group.starts_with("system:serviceaccounts:") => {
            format!("{name}, by group {group}: the ServiceAccounts of the tier's own namespace")
        }
        Some(group) => format!("{name}, by group {group}"),
        None => format!("{name}, by groups that the look-up names"),
    };
    Some(TraceFinding::new(format!("{from} (level {})", tier.level), tier.place.clone()))
}

// === access ===

fn access(case: &Case<'_>, auth: Option<&AuthPlan>) -> Vec<TraceFinding> {
    let mut findings = permitted(case);
    let rules = auth.map(|auth| auth.rules.authorization.as_slice()).unwrap_or_default();
    if case.stopped() == Some(TraceStage::Access) {
        let refused = case.evidence.permit.refused.as_deref();
        findings.extend(rules.iter().map(|rule| asking(rule, refused)));
        return findings;
    }
    let patterns = rules.iter().filter(|rule| matches!(rule.what, Authorization::Patterns(_)) && !case.policy_would());
    findings.extend(patterns.map(|rule| {
        TraceFinding::new(format!("authorization `{}` does not stand in the way", rule.name), Some(rule.place.clone()))
    }));
    if case.shown && case.evidence.permit.model.is_none() {
        return vec!["not asked where no model is named".into()];
    }
    if findings.is_empty() {
        findings.push("the policy checks no access".into());
    }
    findings
}

/// The model, and who says that the caller may call it.
fn permitted(case: &Case<'_>) -> Vec<TraceFinding> {
    let permit = &case.evidence.permit;
    let mut findings = Vec::new();
    if let Some(model) = &permit.model {
        let is_model = permit.refused.as_ref().is_none_or(|refused| refused.is_model);
        let object = object("LLMInferenceService", model).filter(|_| is_model);
        let place = object.and_then(|object| case.place(&object));
        findings.push(TraceFinding::new(format!("{} {model}", if is_model { "model" } else { "object" }), place));
    }
    if let Some(grantor) = &permit.grantor {
        findings.push(TraceFinding::new(format!("granted by {grantor}"), grantor_place(case, &grantor.name)));
    }
    if let Some(AccessSource::Review(source)) = case.evidence.access.source {
        findings.push(format!("says the API server ({})", how(source)).into());
    }
    findings
}

/// A rule, and what it asked if it is the one that refused.
fn asking(rule: &Rule<Authorization>, refused: Option<&Refused>) -> TraceFinding {
    let what = match refused.filter(|refused| *refused.rule == *rule.name) {
        Some(Refused { user, verb, resource, namespace, name, .. }) => {
            format!(" for `{verb}` on {resource} {namespace}/{name}, for {user}")
        }
        None => String::new(),
    };
    TraceFinding::new(format!("authorization `{}` asks{what}", rule.name), Some(rule.place.clone()))
}

/// Where a binding, or an annotated model, is written: `RoleBinding llm/x`, `annotation of LLMInferenceService llm/x`.
fn grantor_place(case: &Case<'_>, name: &str) -> Option<Place> {
    let (kind, name) = name.strip_prefix("annotation of ").unwrap_or(name).split_once(' ')?;
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    case.place(&ObjectName::new(kind, namespace, name))
}

// === limits ===

fn limits(case: &Case<'_>, found: Option<&CurrentRoute<'_>>) -> Vec<TraceFinding> {
    let evidence = case.evidence;
    let in_error = case.denial.is_some_and(|denial| denial.code == Code::PolicyInvalid);
    if let Some(broken) = found.filter(|_| in_error).and_then(|found| found.broken().next()) {
        return vec![case.finding(format!("{broken}, which is in error"), broken)];
    }
    let admitted = case.let_through;
    let counted = |limit: &LimitEvidence| matched(found, limit).map(|limit| key(case, limit));
    let told = |limit: &LimitEvidence| [Some(one_limit(case, found, limit, admitted)), counted(limit)];
    let mut findings: Vec<TraceFinding> = evidence.limits.iter().flat_map(told).flatten().collect();
    if evidence.unlimited {
        findings.extend(unmatched(found));
    }
    findings.extend(evidence.shadow_limits.iter().flat_map(|limit| {
        let TraceFinding { text, place } = one_limit(case, found, limit, admitted);
        [Some(TraceFinding { text: format!("in shadow: {text}"), place }), counted(limit)].into_iter().flatten()
    }));
    if case.first && !findings.is_empty() && !evidence.unlimited {
        findings.push("this is taken for the caller's first request: nothing was used before it".into());
    }
    findings.extend(overridden(case, found, |kind| kind != "AuthPolicy"));
    findings
}

fn one_limit(case: &Case<'_>, found: Option<&CurrentRoute<'_>>, of: &LimitEvidence, admitted: bool) -> TraceFinding {
    let (kind, what) = match of.kind {
        LimitKind::Requests => ("RateLimitPolicy", "requests"),
        LimitKind::Tokens => ("TokenRateLimitPolicy", "tokens"),
    };
    let place = matched(found, of).map(|limit| limit.place.clone());
    let Some(standing) = &of.standing else {
        let asked =
            if case.evidence.accounts_full { "there is no room to count it" } else { "a second call takes from it" };
        return TraceFinding::new(format!("{kind} {}: {asked}", of.name), place);
    };
    // When a call ends that runs is a guess, and until when its place is kept at most is not when it is free.
    let runs = matches!(of.span, limit::Span::Running);
    let about = if runs { "about " } else { "" };
    let verdict = match standing.verdict {
        limit::Verdict::Exceeds(Some(wait)) => format!("EXCEEDED, lets this through in {about}{}", rough_span(wait)),
        limit::Verdict::Exceeds(None) => "EXCEEDED, lets nothing through, ever".to_owned(),
        limit::Verdict::Fits => "fits".to_owned(),
    };
    let left = match (of.kind, standing.held()) {
        (LimitKind::Requests, _) if admitted => "left after this one".to_owned(),
        (LimitKind::Tokens, held @ 1..) if admitted => format!("left while this one holds {held}"),
        _ => "left".to_owned(),
    };
    let (number, span_of) = (standing.limit(), limit_span(of.span));
    let full = if runs { String::new() } else { format!(", full in {}", rough_span(standing.reset())) };
    let state = format!("{number} {what} {span_of}, {} {left}{full}: {verdict}", standing.remaining());
    TraceFinding::new(format!("{kind} {}: {state}", of.name), place)
}

/// What the number of a limit is for.
fn limit_span(of: limit::Span) -> String {
    match of {
        limit::Span::Lasting(window) => format!("per {}", span(window)),
        of => of.to_string(),
    }
}

/// What a limit counts under.
fn key(case: &Case<'_>, limit: &Limit) -> TraceFinding {
    let known = case.evidence.keys.as_ref().and_then(|keys| keys.get(&(limit.kind, Arc::clone(&limit.name))));
    let counters = limit.counters.iter().enumerate().map(|(at, counter)| match known.and_then(|key| key.get(at)) {
        Some(value) => format!("{} = {value}", counter.source()),
        None => counter.source().to_owned(),
    });
    let counters: Vec<String> = counters.collect();
    let under = match counters.as_slice() {
        [] => "  one count for all callers".to_owned(),
        counters => format!("  counted under {}", counters.join(", ")),
    };
    let route = if limit.per_route { ", for each route by itself" } else { "" };
    let cost = limit.cost.as_ref().map(|cost| format!("; an answer counts `{}`", cost.source())).unwrap_or_default();
    format!("{under}{route}{cost}").into()
}

/// The limit, in the policy as it is now.
pub(super) fn matched<'p>(found: Option<&CurrentRoute<'p>>, of: &LimitEvidence) -> Option<&'p Limit> {
    let in_shadow = |set: &'p LimitSet| set.shadow.iter().flat_map(|shadow| shadow.limits.limits());
    sets(found)
        .flat_map(|set| set.limits().iter().chain(in_shadow(set)))
        .find(|limit| limit.name == of.name && limit.kind == of.kind)
}

/// The limits that apply to the route.
fn sets<'p>(found: Option<&CurrentRoute<'p>>) -> impl Iterator<Item = &'p LimitSet> {
    found.into_iter().flat_map(|found| &found.plan.limits).filter_map(Attached::active).map(|limits| &**limits)
}

/// Limits of the route that did not match, and what they ask for.
fn unmatched(found: Option<&CurrentRoute<'_>>) -> Vec<TraceFinding> {
    let limits: Vec<&Limit> = sets(found).flat_map(|set| set.limits()).collect();
    if limits.is_empty() {
        return vec!["no limit is for this route".into()];
    }
    let mut findings = vec![format!("none of {} limits matches", limits.len()).into()];
    findings.extend(limits.iter().take(LISTED).map(|limit| {
        let wants: Vec<&str> = limit.when.iter().map(|expression| expression.source()).collect();
        TraceFinding::new(format!("{} wants {}", limit.name, wants.join(" and ")), Some(limit.place.clone()))
    }));
    if limits.len() > LISTED {
        findings.push(format!("and {} others", limits.len() - LISTED).into());
    }
    findings
}

/// A duration for people: the largest units that say it exactly, else seconds.
pub(super) fn span(duration: Duration) -> String {
    let (seconds, rest) = (duration.as_secs(), duration.subsec_nanos());
    match seconds {
        0 if rest == 0 => "0s".to_owned(),
        _ if rest > 0 => format!("{:.1}s", duration.as_secs_f64()),
        _ if seconds.is_multiple_of(3600) => format!("{}h", seconds / 3600),
        _ if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        _ => format!("{seconds}s"),
    }
}

/// A duration for people who wait: of days not more than these and hours, the last one begun.
pub(super) fn rough_span(duration: Duration) -> String {
    let hours = duration.as_secs().div_ceil(3600);
    match (hours / 24, hours % 24) {
        (..2, _) => span(duration),
        (days, 0) => format!("{days}d"),
        (days, hours) => format!("{days}d {hours}h"),
    }
}

// === answer ===

const SHOWN: &str = "tiergate answers: what the caller's limits are, and what is left of them; nothing is taken";

fn answer(case: &Case<'_>) -> TraceStep {
    let Some(denial) = case.denial else {
        return TraceStep {
            name: "answer",
            result: TraceResult::Passed,
            findings: vec![if case.shown { SHOWN } else { "allowed: the model answers" }.into()],
        };
    };
    if case.let_through {
        let (status, code) = (respond::status(denial.code).0, denial.code.as_str());
        let shadowed =
            format!("allowed: --shadow lets everything through; without it {status} {code}: {}", denial.message);
        return TraceStep { name: "answer", result: TraceResult::Shadow, findings: vec![shadowed.into()] };
    }
    let status = respond::status_of(denial);
    let mut findings = vec![TraceFinding::from(format!("{status} {}: {}", denial.code.as_str(), denial.message))];
    if denial.deny_with.is_some() {
        findings.push("said in the policy's own words".into());
    }
    if let Some(wait) = denial.retry_after.filter(|_| denial.code.class() == Class::Limited) {
        findings.push(format!("Retry-After: {}", respond::whole_seconds(wait)).into());
    }
    TraceStep { name: "answer", result: TraceResult::of(denial), findings }
}
