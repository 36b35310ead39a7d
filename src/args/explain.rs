//! The flags of `tiergate explain`.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};

use super::value::{file, limits_path, manifests, namespaced, url};
use super::{DEFAULT_ISSUER, PolicyArgs};
use crate::gate::{Fallback, LimitsPath, TierUnknown};

#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Exit code: 0 if the request is let through, or the code is explained, 1 if it is refused or cannot be decided, 2 if there is nothing to explain."
)]
pub struct Explain {
    /// The folder of manifests (*.yaml, *.yml, *.json)
    #[arg(env = "TIERGATE_MANIFESTS", value_name = "DIR", value_parser = manifests, required_unless_present = "code")]
    pub manifests: Option<PathBuf>,
    /// Say instead what a reason code means, such as TG-LIMIT-TOKENS, and who has to do what; without a code, list all
    #[arg(long, env = "TIERGATE_EXPLAIN_CODE", value_name = "CODE", num_args = 0..=1, value_parser = NonEmptyStringValueParser::new())]
    pub code: Option<Option<String>>,
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// The request, such as 'POST /llm/qwen3/v1/chat/completions'
    #[arg(long, env = "TIERGATE_REQUEST", value_parser = NonEmptyStringValueParser::new(), value_name = "METHOD PATH", help_heading = "Request")]
    pub request: Option<String>,
    /// The request as a line for curl, in quotes; `-` reads it from standard input
    #[arg(
        long,
        env = "TIERGATE_CURL", value_parser = NonEmptyStringValueParser::new(),
        value_name = "LINE",
        hide_env_values = true,
        allow_hyphen_values = true,
        help_heading = "Request"
    )]
    pub curl: Option<String>,
    /// Its path, with the query
    #[arg(long, env = "TIERGATE_PATH", value_parser = NonEmptyStringValueParser::new(), value_name = "PATH", help_heading = "Request")]
    pub path: Option<String>,
    /// Its method [default: POST]
    #[arg(long, env = "TIERGATE_METHOD", value_parser = NonEmptyStringValueParser::new(), value_name = "METHOD", help_heading = "Request")]
    pub method: Option<String>,
    /// Its host [default: localhost]
    #[arg(long, env = "TIERGATE_HOST", value_parser = NonEmptyStringValueParser::new(), value_name = "HOST", help_heading = "Request")]
    pub host: Option<String>,
    /// A header of it; several are allowed
    #[arg(long, env = "TIERGATE_HEADER", value_parser = NonEmptyStringValueParser::new(), value_name = "NAME: VALUE", hide_env_values = true, help_heading = "Request")]
    pub header: Vec<String>,
    /// The Gateway that it comes to, as namespace/name [default: the only one]
    #[arg(long, env = "TIERGATE_GATEWAY", value_parser = namespaced, help_heading = "Request")]
    pub gateway: Option<String>,
    /// The Gateway's listener, where several serve the host: Envoy's context_extensions.listener
    #[arg(long, env = "TIERGATE_LISTENER", value_parser = NonEmptyStringValueParser::new(), value_name = "NAME", help_heading = "Request")]
    pub listener: Option<String>,
    /// The model, as namespace/name, where Envoy's context_extensions.model names it
    #[arg(long, env = "TIERGATE_MODEL", value_parser = NonEmptyStringValueParser::new(), value_name = "MODEL", help_heading = "Request")]
    pub model: Option<String>,
    /// Who asks: system:serviceaccount:NAMESPACE:NAME or a user, as kubectl's --as takes it; taken on trust
    #[arg(long = "as", env = "TIERGATE_AS", value_parser = NonEmptyStringValueParser::new(), value_name = "USER", help_heading = "Caller")]
    pub as_user: Option<String>,
    /// A group of the one who asks, beside those that the API server gives; several are allowed
    #[arg(
        long,
        env = "TIERGATE_AS_GROUP", value_parser = NonEmptyStringValueParser::new(),
        value_name = "GROUP",
        value_delimiter = ',',
        requires = "as_user",
        help_heading = "Caller"
    )]
    pub as_group: Vec<String>,
    /// With --as, an audience of the token that they would have; several are allowed [default: every one that a policy wants]
    #[arg(long, env = "TIERGATE_AUDIENCE", value_parser = NonEmptyStringValueParser::new(), value_name = "AUDIENCE", value_delimiter = ',', help_heading = "Caller")]
    pub audience: Vec<String>,
    /// The bearer token that is sent; never printed
    #[arg(long, env = "TIERGATE_TOKEN", value_parser = NonEmptyStringValueParser::new(), value_name = "TOKEN", hide_env_values = true, help_heading = "Caller")]
    pub token: Option<String>,
    /// The JSON Web Key Set that tokens are verified by; without it the token's claims are believed
    #[arg(long, env = "TIERGATE_JWKS", value_name = "FILE", value_parser = file, help_heading = "Caller")]
    pub jwks: Option<PathBuf>,
    /// The issuer of tokens that are verified
    #[arg(long, env = "TIERGATE_ISSUER", value_name = "URL", default_value = DEFAULT_ISSUER, value_parser = url, help_heading = "Caller")]
    pub issuer: String,
    /// What happens on a route that has no AuthPolicy
    #[arg(long, env = "TIERGATE_WITHOUT_POLICY", value_enum, default_value = "refuse")]
    pub without_policy: Fallback,
    /// What happens to a caller whom no limit matches
    #[arg(long, env = "TIERGATE_WITHOUT_LIMIT", value_enum, default_value = "allow")]
    pub without_limit: Fallback,
    /// Where a GET tells callers their limits; `off` for nowhere
    #[arg(long, env = "TIERGATE_LIMITS_PATH", value_name = "PATH", default_value = "/v1/limits", value_parser = limits_path)]
    pub limits_path: LimitsPath,
    /// What happens to a caller whose tier is no longer configured, or whose groups belong to no tier
    #[arg(long, env = "TIERGATE_TIER_UNKNOWN", value_enum, default_value = "next")]
    pub tier_unknown: TierUnknown,
    /// How the explanation is printed
    #[arg(long, env = "TIERGATE_EXPLAIN_FORMAT", value_enum, default_value = "text")]
    pub format: TraceFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TraceFormat {
    Text,
    Json,
}
