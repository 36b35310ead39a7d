//! Who asks, as the command line says it: a token, or a name to take on trust.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::json;

use super::error::ExplainError;
use super::sent::Sent;
use crate::args::Explain;
use crate::clock::Nanos;
use crate::denial::Code;
use crate::gate::Gate;
use crate::identity::{Claims, Identity, KubernetesClaims, OPENSHIFT, ObjectClaims, believe, unix_seconds};
use crate::policy::{Policy, derived_uid};
use crate::rules::Reviewer;

/// Stands for the token that a caller named by `--as` would have.
const PLACEHOLDER: &str = "taken-on-trust";
/// How long the claims of such a caller would be valid, in seconds.
const VALID: u64 = 3600;
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
/// The group of everybody who has an identity.
const AUTHENTICATED: &str = "system:authenticated";

/// Lets `gate` know who sends `sent`; why the caller is believed to be that, where no review says so.
///
/// # Errors
///
/// Two things say who asks, or the token says nothing that could be believed.
pub(super) fn introduce(args: &Explain, gate: &Gate, sent: &mut Sent) -> Result<Option<String>, ExplainError> {
    // A token that no shell has filled in tells nothing, and whoever names the caller knows it.
    if args.as_user.is_some() || args.token.is_some() {
        drop_unknown_token(sent);
    }
    let has_header = sent.headers.iter().any(|(name, _)| name == "authorization");
    let mut named = [args.as_user.is_some(), args.token.is_some(), has_header].into_iter().filter(|named| *named);
    if named.next().is_some() && named.next().is_some() {
        return Err(ExplainError::TwoCallers);
    }
    if let Some(user) = &args.as_user {
        return by_name(args, user, gate, sent);
    }
    if let Some(token) = &args.token {
        authorize(sent, token.trim().strip_prefix("Bearer ").unwrap_or(token.trim()));
    }
    // What cannot be a token is for the gate to refuse.
    let Ok(token) = sent.request().bearer() else { return Ok(None) };
    if token.secret().contains('$') {
        return Err(ExplainError::NotExpanded);
    }
    if args.jwks.is_some() {
        return Ok(None);
    }
    match believe(&token, Nanos(0)) {
        Ok(identity) => gate.identities.insert(&token, identity),
        Err(_) if token.secret().starts_with(OPENSHIFT) => return Err(ExplainError::OpenShift),
        Err(denial) if denial.code == Code::TokenMalformed => return Err(ExplainError::Opaque),
        Err(denial) => gate.identities.insert_refused(&token, denial),
    }
    Ok(Some("the token's claims are believed: nobody has checked its signature and issuer without --jwks".to_owned()))
}

fn drop_unknown_token(sent: &mut Sent) {
    let is_unknown = |(name, value): &(String, String)| name == "authorization" && value.contains('$');
    if sent.headers.iter().any(is_unknown) {
        sent.headers.retain(|header| !is_unknown(header));
        sent.unknown.push("the token of the line is not known: the caller is who the flags say".to_owned());
    }
}

fn authorize(sent: &mut Sent, token: &str) {
    sent.headers.push(("authorization".to_owned(), format!("Bearer {token}")));
}

/// Lets `gate` take a caller on trust.
fn by_name(args: &Explain, user: &str, gate: &Gate, sent: &mut Sent) -> Result<Option<String>, ExplainError> {
    authorize(sent, PLACEHOLDER);
    let identity = named_by_flags(args, user, &gate.policies.current(), &sent.host)?;
    let Some(token) = sent.request().bearer().ok() else { return Ok(None) };
    gate.identities.insert(&token, identity);
    let audiences = if args.audience.is_empty() { ", with every audience that a policy wants" } else { "" };
    Ok(Some(format!("taken on trust: --as{audiences}")))
}

/// The caller that `--as` names, with the groups that the API server gives such users.
fn named_by_flags(args: &Explain, user: &str, policy: &Policy, host: &str) -> Result<Identity, ExplainError> {
    let audiences = if args.audience.is_empty() { wanted_audiences(policy, host) } else { args.audience.clone() };
    let mut identity = match user.strip_prefix(SERVICE_ACCOUNT) {
        Some(account) => service_account(user, account, policy, audiences)?,
        None => person(user, audiences),
    };
    for group in &args.as_group {
        if !identity.groups.contains(group) {
            identity.groups.push(group.clone());
        }
    }
    if let Some(user) = identity.object.get_mut("user").and_then(|user| user.as_object_mut()) {
        user.insert("groups".to_owned(), json!(identity.groups));
    }
    if let Some(object) = identity.object.as_object_mut() {
        object.insert("audiences".to_owned(), json!(identity.audiences));
    }
    Ok(identity)
}

/// A ServiceAccount, of whose name `account` is the end.
fn service_account(
    user: &str,
    account: &str,
    policy: &Policy,
    audiences: Vec<String>,
) -> Result<Identity, ExplainError> {
    let (namespace, name) = account.split_once(':').ok_or(ExplainError::NoAccount)?;
    let uid = policy.accounts.uid(namespace, name).map(str::to_owned);
    let uid = uid.unwrap_or_else(|| derived_uid(namespace, name));
    let claims = Claims {
        iss: String::new(),
        sub: user.to_owned(),
        aud: audiences,
        exp: unix_seconds().saturating_add(VALID),
        nbf: None,
        iat: None,
        jti: None,
        kubernetes: Some(KubernetesClaims {
            namespace: namespace.to_owned(),
            serviceaccount: ObjectClaims { name: name.to_owned(), uid },
            ..KubernetesClaims::default()
        }),
    };
    claims.identity(Nanos(0)).map_err(|_| ExplainError::NoAccount)
}

fn person(user: &str, audiences: Vec<String>) -> Identity {
    Identity {
        user: user.into(),
        uid: String::new(),
        groups: vec![AUTHENTICATED.to_owned()],
        audiences,
        scoped: false,
        service_account: None,
        object: json!({ "authenticated": true, "user": { "username": user, "uid": "", "extra": {} } }),
        keep: Duration::MAX,
        expires: Nanos(u64::MAX),
    }
}

/// Every audience that some policy wants of requests for `host`.
fn wanted_audiences(policy: &Policy, host: &str) -> Vec<String> {
    let rules = policy.plans().filter_map(|plan| plan.auth.active()).map(|auth| &auth.rules);
    let mut audiences: Vec<String> =
        rules.flat_map(|rules| rules.audiences(&Reviewer::Kubernetes, host)).map(Cow::into_owned).collect();
    audiences.sort_unstable();
    audiences.dedup();
    audiences
}
