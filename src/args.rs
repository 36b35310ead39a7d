//! Flags and environment variables, as they are typed.

mod explain;
mod limits;
mod usage;
mod value;
mod variable;

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::explain::{Explain, TraceFormat};
pub use self::limits::{
    AdminArgs, ChangeArgs, GrantAccount, Limits, LimitsOutput, ListAccounts, ResetAccount, ShowAccount, WhichAccount,
};
pub use self::usage::{By, Usage, UsageFormat, UsageLogArgs};
pub use self::value::log_directives;
pub use self::variable::{UnknownVariable, unknown_variables};

use self::value::{
    address, address_or_off, appended, directives, duration, duration_or_none, file, folder, instance, limits_path,
    manifests, margin, namespaced, number, part, up_to_a_day, url,
};
use self::variable::name_variable;
use crate::access::AccessMode;
use crate::apiserver::Budget;
use crate::gate::{EnforceLimits, Fallback, LimitsPath, Reserving, TierUnknown};
use crate::identity::IdentityMode;
use crate::limit::Memory;
use crate::policy::Options;
use crate::respond::Compat;
use crate::rules::TokenAdmission;
use crate::usage::{Bounds, Forecasts};

/// Decides, for an Envoy or Istio gateway, who may call which model and how much.
///
/// One call of Envoy's ext_authz authenticates the caller's Kubernetes token, finds the subscription tier, checks access
/// to the model named in the path, takes the request limits and admits against the token limits. The usage of the
/// answer comes back in Envoy's access log, or as a rate-limit report.
#[derive(Debug, Parser)]
#[command(version, about, long_about)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer a gateway's ext_authz and rate-limit calls, and take its access log
    Serve(Box<Serve>),
    /// Check manifests, and print every problem with its place and remedy
    Check(Check),
    /// Say why a request would be answered as it is: what each stage sees, from which object, and what would change it; or
    /// what a reason code means
    Explain(Box<Explain>),
    /// Sum what `serve --usage-log` wrote, by user, tier, model and time
    Usage(Usage),
    /// Look at the accounts of a serving process: what callers used of their limits; reset them, or give something back
    #[command(subcommand)]
    Limits(Limits),
    /// Make signing keys and ServiceAccount tokens, where no API server does
    #[command(subcommand)]
    Token(Token),
}

/// Where the policy comes from, and how it is read.
#[derive(Clone, Debug, Args)]
pub struct PolicyArgs {
    /// The ConfigMap that maps groups to tiers, as namespace/name
    #[arg(long, env = "TIERGATE_TIER_MAPPING", default_value = "maas-api/tier-to-group-mapping", value_parser = namespaced)]
    pub tier_mapping: String,
    /// The instance whose `<instance>-tier-<tier>` namespaces belong to the tiers [default: the Gateway's name]
    #[arg(long, env = "TIERGATE_INSTANCE", value_parser = instance)]
    pub instance: Option<String>,
    /// Grant models to the tiers of their annotation, without RoleBindings
    #[arg(long, env = "TIERGATE_GRANT_FROM_ANNOTATION")]
    pub grant_from_annotation: bool,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = SERVE_EXIT)]
pub struct Serve {
    /// The folder of manifests (*.yaml, *.yml, *.json)
    #[arg(long, env = "TIERGATE_MANIFESTS", value_name = "DIR", value_parser = folder)]
    pub manifests: Option<PathBuf>,
    /// Watch a cluster instead of a folder: the same objects, and their changes at once
    #[arg(long, env = "TIERGATE_KUBERNETES")]
    pub kubernetes: bool,
    /// How the cluster is reached [default: the cluster that this runs in, else KUBECONFIG, else ~/.kube/config]
    #[arg(long, env = "TIERGATE_KUBECONFIG", value_name = "FILE", value_parser = file)]
    pub kubeconfig: Option<PathBuf>,
    /// Write no conditions into the status of policies, and no Events
    #[arg(long, env = "TIERGATE_NO_STATUS")]
    pub no_status: bool,
    #[command(flatten)]
    pub authority: AuthorityArgs,
    /// Where Envoy's gRPC calls are answered
    #[arg(long, env = "TIERGATE_LISTEN_GRPC", value_name = "ADDR", default_value = "127.0.0.1:50051", value_parser = address)]
    pub listen_grpc: SocketAddr,
    /// Where /livez, /readyz, /metrics, /problems and /v1/tiers/lookup are answered
    #[arg(long, env = "TIERGATE_LISTEN_HTTP", value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = address)]
    pub listen_http: SocketAddr,
    /// Where /explain and /limits are answered, which name callers, and limits are changed; `off` for nowhere
    #[arg(long, env = "TIERGATE_LISTEN_ADMIN", value_name = "ADDR", default_value = "127.0.0.1:8081", value_parser = address_or_off)]
    pub listen_admin: Admin,
    /// The Gateway of requests, as namespace/name, where Envoy's context_extensions do not name it
    #[arg(long, env = "TIERGATE_GATEWAY", value_parser = namespaced)]
    pub gateway: Option<String>,
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// What happens on a route that has no AuthPolicy
    #[arg(long, env = "TIERGATE_WITHOUT_POLICY", value_enum, default_value = "refuse")]
    pub without_policy: Fallback,
    /// What happens to a caller whom no limit matches
    #[arg(long, env = "TIERGATE_WITHOUT_LIMIT", value_enum, default_value = "allow")]
    pub without_limit: Fallback,
    /// How many callers' accounts are kept at most; a live one is never forgotten
    #[arg(long, env = "TIERGATE_MAX_ACCOUNTS", value_name = "N", default_value_t = ACCOUNTS, value_parser = number::<NonZeroUsize>)]
    pub max_accounts: NonZeroUsize,
    /// What happens to a new caller when there is no room for another account
    #[arg(long, env = "TIERGATE_WITHOUT_ROOM", value_enum, default_value = "refuse")]
    pub without_room: Fallback,
    /// What happens to a call that has a token limit, on a path of which no shipped Envoy configuration reads what the answer
    /// cost (audio, images, …): its answer is charged by its bytes, or it is refused with 400
    #[arg(long, env = "TIERGATE_UNCOUNTED", value_enum, default_value = "allow")]
    pub uncounted: Fallback,
    /// The most tokens that one answer counts for its caller, whatever its usage report says; the cost of a limit prices no more
    #[arg(long, env = "TIERGATE_MAX_ANSWER_TOKENS", value_name = "N", default_value_t = ANSWER, value_parser = number::<NonZeroU64>)]
    pub max_answer_tokens: NonZeroU64,
    /// After how many windows of its limit a debt of tokens is over, however large it was [default: it is paid by time alone]
    #[arg(long, env = "TIERGATE_MAX_DEBT_WINDOWS", value_name = "N", value_parser = number::<NonZeroU32>)]
    pub max_debt_windows: Option<NonZeroU32>,
    /// When a token limit lets a call through whose policy does not say it (`tiergate.io/token-admission`)
    #[arg(long, env = "TIERGATE_TOKEN_ADMISSION", value_enum, default_value = "reserve")]
    pub token_admission: TokenAdmission,
    /// The part of a token limit that a call has to find there, however much it is expected to cost: a limit smaller than
    /// one answer lets one call through at a time
    #[arg(long, env = "TIERGATE_RESERVATION_FRACTION", value_name = "PART", default_value_t = Reserving::FRACTION, value_parser = part)]
    pub reservation_fraction: f64,
    /// What is added to what a call is expected to cost, in usual errors of that: more refuses more calls that would have
    /// fit, less lets more through that do not
    #[arg(long, env = "TIERGATE_RESERVATION_MARGIN", value_name = "N", default_value_t = Forecasts::MARGIN, value_parser = margin)]
    pub reservation_margin: f32,
    /// After this time a call whose usage nobody reported is counted as unsettled; what it holds stays charged
    #[arg(long, env = "TIERGATE_MAX_CALL_TIME", value_name = "DURATION", default_value = "15m", value_parser = duration)]
    pub max_call_time: Duration,
    /// A usage report that comes later than this after its Check is not taken
    #[arg(long, env = "TIERGATE_SETTLE_WITHIN", value_name = "DURATION", default_value = "2h", value_parser = up_to_a_day)]
    pub settle_within: Duration,
    #[command(flatten)]
    pub usage_log: UsageLogArgs,
    /// Keep in this file what limits have counted, which calls are settled, and what was learned of models and callers: each second, and at
    /// the end. A process that is killed loses at most a second and the time of a save. It is made where it is not there, and is for one process
    #[arg(long, env = "TIERGATE_STATE", value_name = "FILE", value_parser = appended)]
    pub state: Option<PathBuf>,
    /// Move a state file that cannot be used (it is cut off, of something else, or of a newer version) to `FILE.discarded-<time>`, and begin an
    /// empty one; without this nothing starts. One that can be used is used
    #[arg(long, env = "TIERGATE_STATE_DISCARD", requires = "state")]
    pub state_discard: bool,
    /// Make the keys of reservations and of callers' accounts from the secret in this file: 32 random bytes in Base64, as
    /// `openssl rand -base64 32` writes them. A second line is another secret, whose reservations are read as well, while the one takes
    /// the place of the other [default: a secret made at random, which no other process has]
    #[arg(long, env = "TIERGATE_KEY_FILE", value_name = "FILE", value_parser = file)]
    pub key_file: Option<PathBuf>,
    /// Which call takes from the limits: where it is ShouldRateLimit (rls), Check takes nothing, and a gateway that does not
    /// make the second call, as envoy/classic.yaml does, enforces no limit
    #[arg(long, env = "TIERGATE_ENFORCE_LIMITS", value_enum, default_value = "check")]
    pub enforce_limits: EnforceLimits,
    /// Where a GET tells callers their limits and what is left of them: at this path, and at /NAMESPACE/MODEL with this path
    /// behind it; `off` for nowhere
    #[arg(long, env = "TIERGATE_LIMITS_PATH", value_name = "PATH", default_value = "/v1/limits", value_parser = limits_path)]
    pub limits_path: LimitsPath,
    /// Answer so that something else than Envoy's ext_authz filter can take it
    #[arg(long, env = "TIERGATE_COMPAT", value_enum, value_name = "WHAT")]
    pub compat: Option<Compat>,
    /// Let every request through, change nothing of it, and record what would have been said: in the log, the metadata and
    /// tiergate_would_have_refused_total. Beside the system that decides today, it shows what a change to tiergate would do
    #[arg(long, env = "TIERGATE_SHADOW")]
    pub shadow: bool,
    /// What happens to a caller whose tier is no longer configured, or whose groups belong to no tier: the next tier that
    /// their groups give, if any, and what the policy says; or a refusal at once
    #[arg(long, env = "TIERGATE_TIER_UNKNOWN", value_enum, default_value = "next")]
    pub tier_unknown: TierUnknown,
    /// Tell callers what is meant for operators: which RoleBinding is missing, which limit refused
    #[arg(long, env = "TIERGATE_VERBOSE_REFUSALS")]
    pub verbose_refusals: bool,
    /// A 429 whose wait is longer tells clients not to try again: `x-should-retry: false`, and `insufficient_quota` as OpenAI's API
    /// says it of a budget that is used up. So does that of a limit of 0
    #[arg(long, env = "TIERGATE_RETRY_HINT", value_name = "DURATION", default_value = "60s", value_parser = duration_or_none)]
    pub retry_hint: Duration,
    /// How long an identity is remembered; never past its token's expiry
    #[arg(long, env = "TIERGATE_IDENTITY_TTL", value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub identity_ttl: Duration,
    /// How many identities are remembered, of about 3.5 kB each; of a caller who is not, the token is looked at anew
    #[arg(long, env = "TIERGATE_MAX_IDENTITIES", value_name = "N", default_value = "10000", value_parser = number::<NonZeroU32>)]
    pub max_identities: NonZeroU32,
    /// Threads that answer gRPC [default: one for each core]
    #[arg(long, env = "TIERGATE_WORKERS", value_name = "N", value_parser = number::<NonZeroUsize>)]
    pub workers: Option<NonZeroUsize>,
    /// How long a stop says "not ready" and serves on, before it closes connections: long enough for Envoy's health checks
    /// (envoy/tiergate.yaml: two a second) and Kubernetes' endpoints to notice. With --drain-timeout, less than the 30 s that
    /// Kubernetes waits. 0s where nobody watches
    #[arg(long, env = "TIERGATE_DRAIN_DELAY", value_name = "DURATION", default_value = "2s", value_parser = duration_or_none)]
    pub drain_delay: Duration,
    /// How long a stop then waits for what is in flight
    #[arg(long, env = "TIERGATE_DRAIN_TIMEOUT", value_name = "DURATION", default_value = "25s", value_parser = duration)]
    pub drain_timeout: Duration,
    #[command(flatten)]
    pub log: LogArgs,
}

/// What scripts need to know.
const SERVE_EXIT: &str = "\
Exit code: 0 after SIGTERM or SIGINT; 1 if a second signal ended it at once; 2 for wrong usage; 64 if it cannot start: a port is in \
use, or what a flag names cannot be used.

SIGHUP has all files read again that flags name; each is read again by itself when it changes.";

/// Whose word it is who calls, and what they may do: that of keys, or of an API server.
#[derive(Clone, Debug, Args)]
pub struct AuthorityArgs {
    /// Verify callers' tokens with this JSON Web Key Set (RS256, ES256), and ask no API server; without it callers' tokens are reviewed
    /// by the API server of --kubeconfig
    #[arg(long, env = "TIERGATE_JWKS", value_name = "FILE", value_parser = file, conflicts_with_all = ["identity", "review_foreign"])]
    pub jwks: Option<PathBuf>,
    /// The issuer of callers' tokens, with --jwks; an API server says itself who issues its tokens
    #[arg(long, env = "TIERGATE_ISSUER", value_name = "URL", default_value = DEFAULT_ISSUER, value_parser = url)]
    pub issuer: String,
    /// Whose word it is that a token of the cluster is good
    #[arg(long, env = "TIERGATE_IDENTITY", value_enum, default_value = "review")]
    pub identity: IdentityMode,
    /// Review tokens too that the cluster has not signed: opaque ones, and those of other issuers that the API server trusts. Whatever
    /// callers send then costs calls, up to 20 a second for each address
    #[arg(long, env = "TIERGATE_REVIEW_FOREIGN")]
    pub review_foreign: bool,
    /// Who says whether a caller may call a model
    #[arg(long, env = "TIERGATE_ACCESS", value_enum, default_value = "rbac")]
    pub access: AccessMode,
    /// How long callers are answered from what is known while the API server is away; never past a token's expiry. 0s for not at all
    #[arg(long, env = "TIERGATE_STALE_FOR", value_name = "DURATION", default_value = "5m", value_parser = duration_or_none)]
    pub stale_for: Duration,
    /// How many calls a second requests may cost the API server
    #[arg(long, env = "TIERGATE_KUBE_API_QPS", value_name = "N", default_value_t = Budget::USUAL.qps, value_parser = number::<NonZeroU32>)]
    pub kube_api_qps: NonZeroU32,
    /// And how many at once, after a pause
    #[arg(long, env = "TIERGATE_KUBE_API_BURST", value_name = "N", default_value_t = Budget::USUAL.burst, value_parser = number::<NonZeroU32>)]
    pub kube_api_burst: NonZeroU32,
}

/// The address of the admin port, if there is to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admin(pub Option<SocketAddr>);

#[derive(Clone, Debug, Args)]
pub struct LogArgs {
    /// What is logged: a level, or directives such as tiergate=debug; or @FILE for what stands in a file, which is read again
    /// whenever it changes
    #[arg(long, env = "TIERGATE_LOG", default_value = "info", value_parser = directives)]
    pub log: String,
    /// How it is logged
    #[arg(long, env = "TIERGATE_LOG_FORMAT", value_enum, default_value = "json")]
    pub log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Json,
    Text,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = CHECK_EXIT)]
pub struct Check {
    /// Folders of manifests (*.yaml, *.yml, *.json) and files, taken together; `-` is standard input
    #[arg(env = "TIERGATE_MANIFESTS", value_name = "PATH", value_parser = manifests, required_unless_present_any = ["envoy", "explain"])]
    pub manifests: Vec<PathBuf>,
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// The Gateway that you pass to `serve --gateway`, as namespace/name; an error if it is not in the manifests
    #[arg(long, env = "TIERGATE_GATEWAY", value_parser = namespaced)]
    pub gateway: Option<String>,
    /// An Envoy configuration in front of tiergate, to be checked too (YAML or JSON); several are allowed
    #[arg(long, env = "TIERGATE_ENVOY_CONFIG", value_name = "FILE", value_delimiter = ',', value_parser = file)]
    pub envoy: Vec<PathBuf>,
    /// How problems are printed; github: as annotations of a GitHub workflow
    #[arg(long, alias = "output", short_alias = 'o', env = "TIERGATE_FORMAT", value_enum, default_value = "text")]
    pub format: Format,
    /// Fail on warnings too
    #[arg(long, env = "TIERGATE_DENY_WARNINGS")]
    pub deny_warnings: bool,
    /// Explain a finding by its code, such as tier-unknown; without a code, list all
    #[arg(long, env = "TIERGATE_EXPLAIN", value_name = "CODE", num_args = 0..=1, value_parser = NonEmptyStringValueParser::new())]
    pub explain: Option<Option<String>>,
}

/// What scripts need to know.
const CHECK_EXIT: &str = "\
Exit code: 0 if there is no error, and under --deny-warnings no warning either; 1 if there is, such as a \
file of manifests that cannot be read; 2 if nothing could be checked: wrong usage, a path that is not there, a file of \
--envoy that cannot be read.

A warning that is meant to be so is left out by the annotation `tiergate.io/ignore: CODE[,CODE]` on its object.";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
    Github,
}

#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a signing key and its JWKS: DIR/signing-key.pem and DIR/jwks.json
    Keys(Keys),
    /// Mint a token for a ServiceAccount, as `kubectl create token` does
    Create(Create),
}

/// What scripts need to know.
const TOKEN_EXIT: &str = "\
Exit code: 0 if it is done; 2 for wrong usage; 64 if it cannot be done: a key is there already, an account is not, a file \
cannot be read or written.";

#[derive(Clone, Debug, Args)]
#[command(after_help = TOKEN_EXIT)]
pub struct Keys {
    /// The folder, made if it is not there
    #[arg(env = "TIERGATE_KEYS", value_name = "DIR")]
    pub dir: PathBuf,
    /// The algorithm that the key signs with
    #[arg(long, env = "TIERGATE_ALGORITHM", value_enum, default_value = "es256")]
    pub algorithm: KeyAlgorithm,
    /// Replace a key that is there: tokens that it signed are refused from then on
    #[arg(long, env = "TIERGATE_FORCE")]
    pub force: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KeyAlgorithm {
    Es256,
    Rs256,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = TOKEN_EXIT)]
pub struct Create {
    /// The ServiceAccount
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Its namespace
    #[arg(long, short, env = "TIERGATE_NAMESPACE", default_value = "default", value_parser = NonEmptyStringValueParser::new())]
    pub namespace: String,
    /// An audience of the token; several are allowed [default: the issuer]
    #[arg(long, env = "TIERGATE_AUDIENCE", value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
    pub audience: Vec<String>,
    /// How long the token is valid
    #[arg(long, env = "TIERGATE_DURATION", default_value = "1h", value_parser = duration)]
    pub duration: Duration,
    /// The key, as `tiergate token keys` makes it
    #[arg(long, env = "TIERGATE_SIGNING_KEY", value_name = "FILE", value_parser = file)]
    pub signing_key: PathBuf,
    /// The folder that holds the ServiceAccount
    #[arg(long, env = "TIERGATE_MANIFESTS", value_name = "DIR", value_parser = manifests)]
    pub manifests: PathBuf,
    /// The issuer of the token
    #[arg(long, env = "TIERGATE_ISSUER", value_name = "URL", default_value = DEFAULT_ISSUER, value_parser = url)]
    pub issuer: String,
}

const ANSWER: NonZeroU64 = NonZeroU64::MIN.saturating_add(Bounds::ANSWER - 1);
const ACCOUNTS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(Memory::ACCOUNTS - 1);

/// The issuer of most clusters.
pub const DEFAULT_ISSUER: &str = "https://kubernetes.default.svc";

// === impl Command ===

impl Command {
    /// What this process's arguments and variables ask for. Where they are wrong, or ask for help, it says so and exits.
    #[must_use]
    pub fn of_process() -> Self {
        let value_of = |name: &OsStr| std::env::var(name).ok();
        Cli::try_parse().unwrap_or_else(|error| name_variable(error, value_of).exit()).command
    }
}

// === impl PolicyArgs ===

impl From<PolicyArgs> for Options {
    fn from(args: PolicyArgs) -> Self {
        Options {
            tier_mapping: args.tier_mapping,
            instance: args.instance,
            grant_from_annotation: args.grant_from_annotation,
            ..Options::default()
        }
    }
}
