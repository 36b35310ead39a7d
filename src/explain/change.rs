//! What would change the answer.

use super::steps::{matched, object, rough_span};
use super::{Case, CurrentRoute, shape};
use crate::denial::{Code, Denial};
use crate::gate::{LimitEvidence, Refused};
use crate::limit::Span;
use crate::policy::Tiers;
use crate::printable::shell_word;
use crate::problem::{Finding, ObjectName, Origin, Problem};
use crate::request::{PathFault, check_canonical};
use crate::rules::{Authorization, Reviewer};
use crate::spelling::did_you_mean;

/// The annotation that grants a model to tiers.
const ANNOTATION: &str = crate::manifest::TIERS_ANNOTATION;

/// What would change the answer, the likeliest first.
pub(super) fn all(case: &Case<'_>, found: Option<&CurrentRoute<'_>>) -> Vec<String> {
    let Some(denial) = case.denial else { return when_allowed(case) };
    match denial.code {
        Code::RequestInvalid => request(case),
        Code::RequestUncounted => vec![denial.code.remedy().to_owned()],
        Code::PathNotCanonical => path(case),
        Code::RouteUnknown => nearest(case),
        Code::RouteNoPolicy => vec![
            "attach an AuthPolicy to the route, its listener or its Gateway (spec.targetRef)".to_owned(),
            "or serve with --without-policy allow, which lets everybody use every such route".to_owned(),
        ],
        Code::TokenMissing
        | Code::TokenMalformed
        | Code::TokenExpired
        | Code::TokenNotYet
        | Code::TokenAudience
        | Code::TokenIssuer
        | Code::TokenSignature
        | Code::TokenSubjectGone
        | Code::TokenRejected => token(case, found, denial.code),
        Code::AccessDenied => grant(case),
        Code::AccessRule => rule(denial, found),
        Code::TierNone => tiers(case, found),
        Code::TierGone => [back(case)].into_iter().chain(tiers(case, found)).collect(),
        Code::LimitNone => vec![
            "add a limit whose `when` holds for this caller".to_owned(),
            "or serve with --without-limit allow".to_owned(),
        ],
        Code::LimitRequests | Code::LimitTokens => limit(case, found),
        Code::PolicyInvalid => in_error(case, found),
        Code::PolicyTiers => mapping(case),
        Code::PolicyExpression | Code::PolicyModel => expression(case),
        Code::UnavailableConfiguration
        | Code::UnavailableGateway
        | Code::UnavailableDeadline
        | Code::UnavailableAccounts
        | Code::UnavailableTiers
        | Code::UnavailableApiServer
        | Code::UnavailableStale
        | Code::UnavailableInternal => unavailable(case, found, denial.code),
    }
}

fn problems<'c>(case: &Case<'c>, wanted: impl Fn(&Problem) -> bool) -> impl Iterator<Item = String> {
    let all = case.policy.problems.iter();
    all.filter(move |problem| wanted(problem)).map(ToString::to_string)
}

/// The problems of what keeps the route shut.
fn in_error(case: &Case<'_>, found: Option<&CurrentRoute<'_>>) -> Vec<String> {
    let broken: Vec<&ObjectName> = found.into_iter().flat_map(CurrentRoute::broken).collect();
    if broken.is_empty() {
        return vec!["nothing: it is not in error any more".to_owned()];
    }
    let of_broken = |problem: &Problem| problem.object.as_ref().is_some_and(|object| broken.contains(&object));
    let shuts = |problem: &Problem| problem.is_error() || problem.code == Finding::NamespaceUnknown;
    let of_broken: Vec<String> = problems(case, |problem| shuts(problem) && of_broken(problem)).collect();
    // An object without a name has problems without an object.
    let nameless = |problem: &Problem| problem.is_error() && problem.object.is_none();
    if of_broken.is_empty() { problems(case, nameless).collect() } else { of_broken }
}

fn when_allowed(case: &Case<'_>) -> Vec<String> {
    // As many as hold what this one does; a limit that holds nothing is used up by no number of them.
    let more = |limit: &LimitEvidence| {
        let standing = limit.standing.as_ref()?;
        standing.remaining().checked_div(standing.held())
    };
    let limits = case.evidence.limits.iter();
    let tightest = limits.filter_map(|limit| Some((more(limit)?, limit))).min_by_key(|(n, _)| *n);
    let told = |(left, limit): (u64, &LimitEvidence)| match left {
        0 => format!("the next such request at once is refused by limit {}", limit.name),
        left => format!("{left} more such requests at once use up limit {}", limit.name),
    };
    tightest.map(told).into_iter().collect()
}

// === the request ===

fn request(case: &Case<'_>) -> Vec<String> {
    let upper = case.request_line.map(|asked| asked.method.to_ascii_uppercase());
    vec![match upper.filter(|upper| case.request_line.is_some_and(|asked| *asked.method != **upper)) {
        Some(upper) => format!("send the method as {upper}"),
        None => "send each of these headers once, and no host but the one of the URL".to_owned(),
    }]
}

fn path(case: &Case<'_>) -> Vec<String> {
    let Some(asked) = case.request_line else { return Vec::new() };
    match check_canonical(&asked.path) {
        Err(PathFault::EmptySegment | PathFault::DotSegment | PathFault::NotAbsolute) => {
            vec![format!("send {}", canonical(&asked.path))]
        }
        Err(PathFault::Character | PathFault::Encoding) => {
            let escapes = "escapes of `.`, `/`, `\\`, `%`, `;`, `#`, `?` and control characters";
            vec![format!("send a path in UTF-8, without `;`, `#`, `\\`, and {escapes}")]
        }
        Ok(()) => {
            let generic = || "send a path that starts with /<namespace>/<model>, as the policy reads it".to_owned();
            vec![
                shape::send(&shape::meant(case)).unwrap_or_else(generic),
                "or name the model in context_extensions.model of the route".to_owned(),
            ]
        }
    }
}

/// `path` without empty and dot segments.
fn canonical(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    format!("/{}", segments.join("/"))
}

fn nearest(case: &Case<'_>) -> Vec<String> {
    let Some(asked) = case.request_line else { return Vec::new() };
    let Some(nearest) = case.policy.nearest(&asked.method, &asked.host, &asked.path) else {
        return vec!["add an HTTPRoute: none is attached to a Gateway".to_owned()];
    };
    let place = object("HTTPRoute", &nearest.route).and_then(|object| case.place(&object));
    let place = place.map(|place| format!(" ({place})")).unwrap_or_default();
    let nearest = format!("the nearest is HTTPRoute {}{place}, which {}", nearest.route, nearest.what);
    shape::send(&shape::meant(case)).into_iter().chain([nearest]).collect()
}

// === the caller ===

/// Of a code about the token.
fn token(case: &Case<'_>, found: Option<&CurrentRoute<'_>>, code: Code) -> Vec<String> {
    let foreign = || case.is_of_cluster().then(review_foreign);
    let make = token_command(case, found);
    match code {
        Code::TokenMalformed => [format!("send `Authorization: Bearer <token>`; make one with: {make}")]
            .into_iter()
            .chain(foreign())
            .collect(),
        Code::TokenNotYet => vec![code.remedy().to_owned()],
        Code::TokenAudience => vec![
            format!("make a token for the audience that is wanted: {make}"),
            "or name the token's audience in the policy's kubernetesTokenReview".to_owned(),
        ],
        Code::TokenIssuer | Code::TokenSignature if case.is_of_cluster() => {
            vec![format!("use a token of this cluster: {make}"), review_foreign()]
        }
        Code::TokenIssuer => vec!["use a token of the issuer that --issuer names, or set --issuer".to_owned()],
        Code::TokenSignature => vec!["use a token that a key of --jwks signed, or add the key to --jwks".to_owned()],
        Code::TokenSubjectGone => account(case),
        Code::TokenRejected => vec![format!("use a ServiceAccount's token: {make}")],
        // Missing, or expired.
        _ => vec![format!("send `Authorization: Bearer <token>`; make one with: {make}")],
    }
}

/// How a token that the policy accepts is made.
fn token_command(case: &Case<'_>, found: Option<&CurrentRoute<'_>>) -> String {
    let account = case.identity().and_then(|identity| identity.service_account.as_ref());
    let (namespace, name) = account.map_or(("<namespace>", "<serviceaccount>"), |it| (&it.namespace, &it.name));
    // A policy without audiences wants one for the host.
    let host = case.request_line.map_or("<host>", |asked| &asked.host);
    let auth = found.and_then(CurrentRoute::auth);
    let audience = auth.and_then(|auth| auth.rules.audiences(&Reviewer::Kubernetes, host).next());
    let audience = audience.map(|audience| format!(" --audience={}", shell_word(&audience))).unwrap_or_default();
    format!("kubectl create token {name} -n {namespace}{audience}")
}

fn account(case: &Case<'_>) -> Vec<String> {
    let Some(account) = case.identity().and_then(|identity| identity.service_account.as_ref()) else {
        return Vec::new();
    };
    let (namespace, name) = (&account.namespace, &account.name);
    if case.policy.accounts.uid(namespace, name).is_some() {
        return vec![format!(
            "make a new token, of the account as it is now: kubectl create token {name} -n {namespace}"
        )];
    }
    let mut changes =
        vec![format!("create the account, and a new token: kubectl create serviceaccount {name} -n {namespace}")];
    let others = case.policy.accounts.uids.get(namespace).into_iter().flat_map(|accounts| accounts.keys());
    if let Some(meant) = did_you_mean(name, others.map(String::as_str)) {
        changes.push(format!("or use the account that is there: did you mean {namespace}/{meant}?"));
    }
    changes
}

fn review_foreign() -> String {
    "or serve with --review-foreign: the API server then reviews tokens that the cluster has not signed, and those of \
     OpenShift (`sha256~…`)"
        .to_owned()
}

/// What would let the one in who was asked about, by the question that was answered with no.
fn grant(case: &Case<'_>) -> Vec<String> {
    let Some(refused) = case.evidence.permit.refused.as_deref() else { return Vec::new() };
    let Refused { namespace, name, .. } = refused;
    let model = ObjectName::new("LLMInferenceService", namespace, name);
    let place = case.place(&model).filter(|_| refused.is_model);
    let mut changes: Vec<String> = Vec::new();
    if refused.is_model && place.is_none() && !case.policy.models.is_empty() {
        changes.push(shape::send(&shape::meant(case)).unwrap_or_else(|| missing_model(case, &model)));
    }
    let Some([role, binding]) = refused.commands() else {
        changes.push(
            "name verb and resource in the policy's resourceAttributes: nothing grants what has no name".to_owned(),
        );
        return changes;
    };
    let asked = case.evidence.user.as_deref().is_some_and(|user| *user != *refused.user);
    let asked = if asked { format!(", to {}, whom the policy asks about", refused.user) } else { String::new() };
    changes.push(format!("grant it{asked}:\n{role}\n{binding}"));
    if let (Some(place), Some(tier), "post") = (place, &case.evidence.tier, refused.verb.as_str()) {
        changes.push(format!(
            "or add \"{tier}\" to the annotation {ANNOTATION} of {model} ({place}), where a controller or \
             --grant-from-annotation grants by it"
        ));
    }
    changes
}

fn missing_model(case: &Case<'_>, model: &ObjectName) -> String {
    let models = case.policy.places.keys().filter(|object| object.kind == model.kind);
    let paths: Vec<String> = models.map(ObjectName::path).collect();
    let meant = did_you_mean(&model.path(), paths.iter().map(String::as_str));
    let meant = meant.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
    let see = match case.is_of_cluster() {
        true => format!(" (kubectl get llminferenceservices.serving.kserve.io -n {})", model.namespace),
        false => String::new(),
    };
    format!("ask for a model that is there: there is no {model}{see}{meant}")
}

fn rule(denial: &Denial, found: Option<&CurrentRoute<'_>>) -> Vec<String> {
    let rules = found.and_then(CurrentRoute::auth).map(|auth| auth.rules.authorization.as_slice()).unwrap_or_default();
    let detail = denial.detail.as_deref().unwrap_or_default();
    let named = rules
        .iter()
        .filter(|rule| matches!(rule.what, Authorization::Patterns(_)) && detail.contains(&format!("`{}`", rule.name)));
    named.map(|rule| format!("a request for which authorization `{}` holds ({})", rule.name, rule.place)).collect()
}

fn tiers(case: &Case<'_>, found: Option<&CurrentRoute<'_>>) -> Vec<String> {
    let Some(Tiers::Known(table)) = found.and_then(CurrentRoute::auth).map(|auth| &auth.tiers) else {
        return Vec::new();
    };
    if table.tiers().is_empty() {
        return vec!["list tiers in the tier mapping: there are none".to_owned()];
    }
    let groups = |tier: &crate::tier::Tier| {
        let groups = table.groups(&tier.name).join(", ");
        let place = tier.place.as_ref().map(|place| format!(" ({place})")).unwrap_or_default();
        format!("put the caller into a group of tier {}: {groups}{place}", tier.name)
    };
    let own = case.identity().map(|identity| identity.groups.join(", ")).filter(|groups| !groups.is_empty());
    let add = own.map(|groups| format!("or list one of the caller's groups in a tier: {groups}"));
    table.tiers().iter().map(groups).chain(add).collect()
}

/// Of a tier that is gone.
fn back(case: &Case<'_>) -> String {
    let gone = case.evidence.tier_gone.as_deref().unwrap_or("<tier>");
    format!("configure tier `{gone}` again, or move the account to the namespace of a tier that is there")
}

// === limits ===

fn limit(case: &Case<'_>, found: Option<&CurrentRoute<'_>>) -> Vec<String> {
    let Some((wait, refusing)) = case.evidence.refusing() else { return Vec::new() };
    let limit = matched(found, refusing);
    let place = limit.map(|limit| format!(" ({})", limit.place)).unwrap_or_default();
    let raise = format!("raise limit {}{place}", refusing.name);
    match wait {
        Some(wait) => {
            let about = if matches!(refusing.span, Span::Running) { "about " } else { "" };
            vec![format!("wait: the same request passes {about}{} later", rough_span(wait)), format!("or {raise}")]
        }
        None => vec![raise],
    }
}

// === what could not be decided ===

/// Of a code that says that nobody could tell.
fn unavailable(case: &Case<'_>, found: Option<&CurrentRoute<'_>>, code: Code) -> Vec<String> {
    match code {
        Code::UnavailableConfiguration => {
            let what = if case.is_of_cluster() { "what cannot be read" } else { "the folder" };
            let unready = case.policy.unready.iter().map(|why| format!("mend {what}: {why}"));
            unready.chain(problems(case, |problem| problem.is_error())).collect()
        }
        Code::UnavailableGateway => {
            let of_gateway = |problem: &Problem| {
                problem.code == Finding::GatewayUnknown || problem.is_error() && is_of_kind(problem, "Gateway")
            };
            problems(case, of_gateway).chain([code.remedy().to_owned()]).collect()
        }
        Code::UnavailableTiers => {
            let lookup = found.and_then(CurrentRoute::auth).and_then(|auth| auth.rules.metadata.first());
            let url = lookup.map_or("the tier service", |lookup| &*lookup.what.endpoint.url);
            let place = if case.is_of_cluster() { "cluster" } else { "folder" };
            vec![
                format!("see that {url} answers, and in time"),
                format!("or put the tier mapping into the {place}: see --tier-mapping"),
            ]
        }
        Code::UnavailableApiServer => {
            vec![code.remedy().to_owned(), "see tiergate_api_calls_total, and --kube-api-qps".to_owned()]
        }
        Code::UnavailableStale => {
            let cluster = |problem: &Problem| problem.is_error() && problem.code.origin() == Origin::Cluster;
            problems(case, cluster).chain(["or allow more time: --stale-for".to_owned()]).collect()
        }
        // Nothing of the request or the policy says more: deadline, accounts, internal.
        _ => vec![code.remedy().to_owned()],
    }
}

fn is_of_kind(problem: &Problem, kind: &str) -> bool {
    problem.object.as_ref().is_some_and(|object| &*object.kind == kind)
}

fn mapping(case: &Case<'_>) -> Vec<String> {
    let problems = problems(case, |problem| problem.is_error() && is_of_kind(problem, "ConfigMap"));
    problems.chain(["add the tier mapping, or name its ConfigMap in --tier-mapping".to_owned()]).collect()
}

fn expression(case: &Case<'_>) -> Vec<String> {
    let policy = case.evidence.policy.as_ref();
    let place = policy.and_then(|policy| Some(format!(" of {policy} ({})", case.place(policy)?)));
    vec![format!("mend the expression or the model's name{}", place.unwrap_or_default())]
}
