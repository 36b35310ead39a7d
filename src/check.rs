//! `tiergate check`: every problem of a folder, and of the Envoy configuration before it, at once.

pub mod envoy;
mod print;
mod sharing;

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use self::envoy::Beside;
use self::print::Summary;
use self::sharing::Sharing;
use crate::args::Check;
use crate::policy::{Attached, GatewayPlan, Options, Policy};
use crate::problem::Finding;
use crate::rules::LimitKind;
use crate::source::{Folder, FolderError, on_large_stack};

/// Why nothing could be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("cannot read `{}`: {error}", path.display())]
    Envoy { path: PathBuf, error: io::Error },
    #[error("`{code}` is not the code of a finding{}", meant.map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default())]
    Code { code: String, meant: Option<&'static str> },
}

/// Prints the problems of a folder; `true` if none is an error, or a warning where those are denied. Or explains a finding.
///
/// # Errors
///
/// The folder or a file cannot be read, or there is no such finding.
pub fn run(args: Check, out: &mut impl Write) -> Result<bool, CheckError> {
    if let Some(code) = args.explain {
        let printed = match code {
            None => print::list(out),
            Some(code) => {
                print::explanation(Finding::named(&code).map_err(|meant| CheckError::Code { code, meant })?, out)
            }
        };
        drop(printed);
        return Ok(true);
    }
    let options = Options { gateway: args.gateway, ..args.policy.into() };
    let policy = match args.manifests.is_empty() {
        true => Policy::default(),
        // What was never read before has changed.
        false => Folder::of(args.manifests, options).load()?.unwrap_or_default(),
    };
    let beside = Beside { token_limits: limits_tokens(&policy) };
    let limits = Sharing::of(&policy);
    let mut problems = policy.problems;
    for path in args.envoy {
        let text = fs::read_to_string(&path).map_err(|error| CheckError::Envoy { path: path.clone(), error })?;
        problems.extend(on_large_stack(|| envoy::problems(&path.display().to_string(), &text, beside))?);
    }
    let summary = Summary { read: policy.objects, ignored: &policy.ignored, limits: &limits };
    // A closed pipe, as of `| head`, is no reason to fail: the exit code says what was found.
    drop(print::problems(args.format, &problems, summary, out));
    Ok(!problems.iter().any(|problem| args.deny_warnings || problem.is_error()))
}

/// Whether a token limit applies anywhere.
fn limits_tokens(policy: &Policy) -> bool {
    let plans = policy.gateways.iter().flat_map(GatewayPlan::plans);
    plans.flat_map(|plan| &plan.limits).any(|limits| match limits {
        Attached::Active(set) => set.all().any(|limit| limit.kind == LimitKind::Tokens),
        Attached::None | Attached::Broken(_) => false,
    })
}

#[cfg(test)]
mod tests;
