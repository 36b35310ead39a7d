//! `tiergate explain`: decides one request over a folder, as `serve` would, and explains it; or explains a reason code.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::curl::{self, CurlError};
use super::{Case, Trace, caller, reasons};
use crate::args::{Explain, TraceFormat};
use crate::clock::Nanos;
use crate::gate::{DecisionSettings, EnforceLimits, Fallback, Gate, RequestLine};
use crate::identity::{Authority, AuthorityError, Identities, Remember};
use crate::limit::{Limits, Memory};
use crate::policy::{Policies, Policy};
use crate::printable::masked;
use crate::request::{Headers, OperatorModel, Request};
use crate::source::{Folder, FolderError};
use crate::usage::Bounds;

/// Why there is nothing to explain. No message repeats a token.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    #[error(
        "`{code}` is not a reason code; {}",
        meant.map_or("`tiergate explain --code` lists them".to_owned(), |meant| format!("did you mean `{meant}`?"))
    )]
    Code { code: String, meant: Option<&'static str> },
    #[error("no folder of manifests to explain the request by: give its path")]
    NoFolder,
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(
        "no request to explain: give --request 'POST /llm/qwen3/v1/chat/completions', or --path, or a whole line in \
         --curl 'curl …' (--curl - reads it from standard input)"
    )]
    NoRequest,
    #[error("the request is given twice: --curl, --request and --path exclude each other")]
    TwoRequests,
    #[error("--request has to be a method and a path, such as 'POST /llm/qwen3/v1/chat/completions'")]
    NotARequest,
    #[error("--header has to be `Name: value`")]
    NotAHeader,
    #[error("--curl: {0}")]
    Curl(#[from] CurlError),
    #[error("cannot read the curl line from standard input: {0}")]
    Stdin(io::Error),
    #[error("two things say who asks: --as, --token and an Authorization header exclude each other")]
    TwoCallers,
    #[error(
        "the token is not in the line: it is a variable or a command that no shell has filled in; put its value there, put the \
         whole line into double quotes, or name the caller in --as"
    )]
    NotExpanded,
    #[error(
        "the token is an OpenShift token (`sha256~…`), which only the API server can review, as `serve --kubernetes \
         --review-foreign` has it; name the caller in --as, as `oc whoami` prints it, with --as-group"
    )]
    OpenShift,
    #[error(
        "the token is not a JSON Web Token of a ServiceAccount, so without --jwks nothing is known of its caller; name the \
         caller in --as, or verify the token with --jwks"
    )]
    Opaque,
    #[error(
        "--as has to be system:serviceaccount:<namespace>:<name> or the name of a user, as `kubectl auth whoami` prints it"
    )]
    NoAccount,
    #[error("cannot read `{}`: {error}", path.display())]
    Jwks { path: PathBuf, error: io::Error },
    #[error("`{}` {error}", path.display())]
    Authority { path: PathBuf, error: AuthorityError },
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A request as a client sends it.
#[derive(Clone, PartialEq, Eq)]
pub struct Sent {
    pub method: String,
    pub scheme: String,
    pub host: String,
    /// With the query.
    pub path: String,
    /// By lower-case name.
    pub headers: Vec<(String, String)>,
    pub gateway: Option<String>,
    pub listener: Option<String>,
    pub model: Option<String>,
    /// What of it is not known, and what was taken in its place.
    pub unknown: Vec<String>,
}

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
    let mut sent = Sent::of_args(args)?;
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
    let mut trace = Trace::of(&Case { believed: believed.as_deref(), first: true, ..case });
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
        tier_unknown: args.tier_unknown,
        stale_for: Duration::ZERO,
        shadow: false,
        // Whichever call takes from the limits: here is one that does both.
        enforce_limits: EnforceLimits::Check,
    };
    let limits = Arc::new(Limits::in_memory(Memory::default()));
    Ok(Gate::new(policies, Identities::new(authority, Remember::default()), limits, settings))
}

// === impl Sent ===

impl Sent {
    fn new(method: &str, path: &str) -> Self {
        Sent {
            method: method.to_owned(),
            scheme: "http".to_owned(),
            host: "localhost".to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            gateway: None,
            listener: None,
            model: None,
            unknown: Vec::new(),
        }
    }

    /// A request for `url`, whose path stays as it is.
    pub(super) fn of_url(url: &str) -> Self {
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (credentials, host) =
            authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let default_port = if scheme == "https" { ":443" } else { ":80" };
        let slash = if path.starts_with('/') { "" } else { "/" };
        let mut sent = Sent::new("GET", &format!("{slash}{path}"));
        sent.scheme = scheme.to_owned();
        sent.host = host.strip_suffix(default_port).unwrap_or(host).to_owned();
        if credentials.is_some() {
            sent.headers.push(("authorization".to_owned(), "Basic (credentials)".to_owned()));
        }
        sent
    }

    fn of_args(args: &Explain) -> Result<Self, ExplainError> {
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
                [path] if path.contains('/') => Sent::named(METHOD, path)?,
                [method, path] => Sent::named(method, path)?,
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
    fn named(method: &str, target: &str) -> Result<Self, ExplainError> {
        if !method.bytes().all(|b| b.is_ascii_alphabetic()) {
            return Err(ExplainError::NotARequest);
        }
        let sent = if target.contains("://") { Sent::of_url(target) } else { Sent::new(method, target) };
        Ok(Sent { method: method.to_owned(), ..sent })
    }

    pub(super) fn request(&self) -> Request<'_> {
        let (path, query) = Request::split_path(&self.path);
        let headers = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        Request {
            method: &self.method,
            host: &self.host,
            scheme: &self.scheme,
            path,
            query,
            headers: Headers::List(headers.collect()),
            gateway: self.gateway.as_deref(),
            listener: self.listener.as_deref(),
            port: None,
            peer: None,
            sni: None,
            model: self.model.as_deref().map_or(OperatorModel::Unset, OperatorModel::Named),
        }
    }
}

/// Without the values of headers, which may be tokens.
impl std::fmt::Debug for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.request().fmt(f)
    }
}
