//! Why there is nothing to explain.

use std::io;
use std::path::PathBuf;

use super::curl::CurlError;
use crate::identity::AuthorityError;
use crate::source::FolderError;

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
