//! `tiergate explain`: decides one request over a folder, as `serve` would, and explains it; or explains a reason code.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::error::ExplainError;
use super::sent::Sent;
use super::{Case, Trace, caller, curl, reasons};
use crate::args::{Explain, TraceFormat};
use crate::clock::Nanos;
use crate::gate::{DecisionSettings, EnforceLimits, Fallback, Gate, RequestLine, Reserving};
use crate::identity::{Authority, Identities, Remember};
use crate::limit::{Limits, Memory};
use crate::policy::{Policies, Policy};
use crate::printable::masked;
use crate::source::Folder;
use crate::usage::Bounds;

/// Prints why the request is answered as it is; `true` if it is let through. Or prints what a reason code means.
///
/// # Errors
///
/// There is no such code, the folder cannot be read, or it is not clear what is asked and by whom.
pub fn run(args: &Explain, out: &mut impl Write) -> Result<bool, ExplainError> {
    match &args.code {
        Some(code) => reasons::print(code.as_deref(), out).map(|()| true),
        None => request(args, out),
    }
}

fn request(args: &Explain, out: &mut impl Write) -> Result<bool, ExplainError> {
    let manifests = args.manifests.as_deref().ok_or(ExplainError::NoFolder)?;
    let mut sent = sent_by(args)?;
    let policy = Folder::new(manifests, args.policy.clone().into()).load()?.unwrap_or_default();
    let mut gate = gate(args, Arc::new(Policies::new(policy)))?;
    gate.tells_keys = true;
    let believed = caller::introduce(args, &gate, &mut sent)?;
    let request = sent.request();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let decision = runtime.block_on(gate.check(&request, Nanos(0)));
    let policy = gate.policies.current();
    let line = RequestLine::of(&request);
    let case = Case::new(Some(&line), &decision.evidence, decision.outcome.as_ref().err(), &policy);
    let shown = decision.outcome.as_ref().is_ok_and(|grant| grant.shown.is_some());
    let mut trace = Trace::of(&Case { believed: believed.as_deref(), first: true, shown, ..case });
    trace.notes.extend(sent.unknown.iter().map(|unknown| masked(unknown).into_owned()));
    trace.notes.extend(errors_of(&policy, manifests));
    let printed = match args.format {
        TraceFormat::Text => write!(out, "{trace}"),
        TraceFormat::Json => writeln!(out, "{}", serde_json::to_string_pretty(&trace).map_err(io::Error::from)?),
    };
    // A closed pipe, as of `| head`, is no reason to fail: the exit code says what was decided.
    drop(printed);
    Ok(decision.outcome.is_ok())
}

/// A note that the folder has errors.
fn errors_of(policy: &Policy, folder: &Path) -> Option<String> {
    let errors = policy.problems.iter().filter(|problem| problem.is_error()).count();
    let plural = if errors == 1 { "" } else { "s" };
    let folder = folder.display();
    (errors > 0).then(|| format!("the folder has {errors} error{plural}: see tiergate check {folder}"))
}

/// A gate as `serve` has it, to which nobody has come yet.
fn gate(args: &Explain, policies: Arc<Policies>) -> Result<Gate, ExplainError> {
    let authority = match &args.jwks {
        None => Authority::without_keys(),
        Some(path) => {
            let jwks =
                std::fs::read_to_string(path).map_err(|error| ExplainError::Jwks { path: path.clone(), error })?;
            let authority = Authority::from_jwks(&jwks, &args.issuer);
            authority.map_err(|error| ExplainError::Authority { path: path.clone(), error })?
        }
    };
    let settings = DecisionSettings {
        gateway: args.gateway.clone(),
        without_policy: args.without_policy,
        without_limit: args.without_limit,
        without_room: Fallback::Refuse,
        uncounted: Fallback::Allow,
        bounds: Bounds::default(),
        reserving: Reserving::default(),
        tier_unknown: args.tier_unknown,
        stale_for: Duration::ZERO,
        shadow: false,
        limits_path: args.limits_path.clone(),
        // Whichever call takes from the limits: here is one that does both.
        enforce_limits: EnforceLimits::Check,
    };
    let limits = Arc::new(Limits::in_memory(Memory::default()));
    Ok(Gate::new(policies, Identities::new(authority, Remember::default()), limits, settings))
}

/// The request that `args` name.
fn sent_by(args: &Explain) -> Result<Sent, ExplainError> {
    const METHOD: &str = "POST";
    let method = args.method.as_deref();
    let mut sent = match (&args.curl, &args.request, &args.path) {
        (None, None, None) => return Err(ExplainError::NoRequest),
        (Some(line), None, None) if line == "-" => {
            let mut line = String::new();
            io::stdin().read_to_string(&mut line).map_err(ExplainError::Stdin)?;
            curl::parse(&line)?
        }
        (Some(line), None, None) => curl::parse(line)?,
        (None, Some(request), None) => match request.split_whitespace().collect::<Vec<_>>().as_slice() {
            [path] if path.contains('/') => named(METHOD, path)?,
            [method, path] => named(method, path)?,
            _ => return Err(ExplainError::NotARequest),
        },
        (None, None, Some(path)) => Sent::new(METHOD, path),
        _ => return Err(ExplainError::TwoRequests),
    };
    if let Some(method) = method {
        sent.method = method.to_owned();
    }
    if let Some(host) = &args.host {
        sent.host = host.clone();
    }
    for header in &args.header {
        let (name, value) = header.split_once(':').ok_or(ExplainError::NotAHeader)?;
        match name.trim().to_ascii_lowercase() {
            name if name == "host" => sent.host = value.trim().to_owned(),
            name => sent.headers.push((name, value.trim().to_owned())),
        }
    }
    sent.gateway = args.gateway.clone();
    sent.listener = args.listener.clone();
    sent.model = args.model.clone();
    Ok(sent)
}

/// A path, or a whole URL.
fn named(method: &str, target: &str) -> Result<Sent, ExplainError> {
    if !method.bytes().all(|b| b.is_ascii_alphabetic()) {
        return Err(ExplainError::NotARequest);
    }
    let sent = if target.contains("://") { Sent::of_url(target) } else { Sent::new(method, target) };
    Ok(Sent { method: method.to_owned(), ..sent })
}
