//! What `serve` goes by: its arguments, resolved and checked once.
//!
//! `args` has flags as they are typed; here is what they mean together. Nothing below reads arguments again.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use crate::access::AccessMode;
use crate::apiserver::Budget;
use crate::args::{AuthorityArgs, Serve, UsageLogArgs};
use crate::gate::{self, EnforceLimits, Reserving};
use crate::identity::{IdentityMode, Remember};
use crate::policy::Options;
use crate::respond::Style;
use crate::state;
use crate::usage::{Bounds, ledger};

/// Everything that a serving process goes by.
#[derive(Clone, Debug)]
pub struct Settings {
    pub source: SourceSettings,
    /// How the objects of the source are read.
    pub options: Options,
    pub gate: GateSettings,
    pub style: Style,
    pub listen: ListenSettings,
    pub drain: DrainSettings,
    /// The usage log, if there is to be one.
    pub ledger: Option<ledger::Options>,
    /// The state file, if there is to be one.
    pub state: Option<state::Options>,
}

/// Where the policy comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceSettings {
    /// A folder of manifests.
    Folder(PathBuf),
    /// A cluster that is watched; with `statuses`, its objects are told about themselves.
    Kubernetes { kubeconfig: Option<PathBuf>, statuses: bool },
}

/// What the gate is made of.
#[derive(Clone, Debug)]
pub struct GateSettings {
    /// What its decisions go by.
    pub decisions: gate::DecisionSettings,
    pub authority: AuthoritySettings,
    /// Who else than RBAC in process says who may call what, if anybody does: then an API server is asked.
    pub access: Option<AccessMode>,
    pub server: ServerSettings,
    pub remember: Remember,
    /// How many callers' accounts are kept at most.
    pub accounts: usize,
    /// Where the secret stands that the keys of reservations and accounts are derived from.
    pub key_file: Option<PathBuf>,
}

/// Whose word it is who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthoritySettings {
    /// That of the keys of a JSON Web Key Set.
    Keys(KeysFile),
    /// That of the API server: with `foreign` also of tokens that it has not signed.
    Cluster { mode: IdentityMode, foreign: bool },
}

/// A JSON Web Key Set, and who issues the tokens that its keys sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysFile {
    pub path: PathBuf,
    pub issuer: String,
}

/// The API server that requests ask, should they ask one.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// `None` for the cluster that this runs in, or the default kubeconfig.
    pub kubeconfig: Option<PathBuf>,
    pub budget: Budget,
}

/// Where and by how many threads calls are answered.
#[derive(Clone, Debug)]
pub struct ListenSettings {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    /// `None` for nowhere.
    pub admin: Option<SocketAddr>,
    /// Threads that answer gRPC, at least 1.
    pub workers: usize,
}

/// How a stop goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainSettings {
    /// How long it says "not ready" and serves on.
    pub delay: Duration,
    /// How long it then waits for what is in flight.
    pub timeout: Duration,
}

/// Why arguments do not go together.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("give one source of the policy: --manifests DIR or --kubernetes")]
    OneSource,
}

// === impl Settings ===

impl Settings {
    /// What `args` mean. Nothing is read or asked for it but the number of cores.
    ///
    /// # Errors
    ///
    /// They do not go together; the message names the flags.
    pub fn resolve(args: &Serve) -> Result<Self, SettingsError> {
        Ok(Settings {
            source: SourceSettings::resolve(args)?,
            options: Options {
                gateway: args.gateway.clone(),
                call_time: args.max_call_time,
                ..args.policy.clone().into()
            },
            gate: args.into(),
            style: args.into(),
            listen: args.into(),
            drain: DrainSettings { delay: args.drain_delay, timeout: args.drain_timeout },
            ledger: usage_log(&args.usage_log),
            state: args.state.clone().map(|path| state::Options { path, discard: args.state_discard }),
        })
    }

    /// Logs what of them must not be forgotten.
    pub fn tell(&self) {
        if self.gate.decisions.shadow {
            tracing::warn!("--shadow: every request is let through, whatever the policies say");
        }
        if self.gate.decisions.enforce_limits == EnforceLimits::Rls {
            tell_trust(self.listen.grpc);
        }
    }
}

/// Check knows who calls, and the second call only repeats it: nothing tells the gateway's word from another's.
fn tell_trust(address: SocketAddr) {
    const WHO: &str =
        "--enforce-limits rls: whoever reaches the gRPC port is believed, and can spend any caller's limits";
    if address.ip().to_canonical().is_loopback() {
        tracing::info!(listen.grpc = %address, remedy = "keep it on loopback", "{WHO}");
    } else {
        let remedy =
            "let only the gateway reach it: on loopback, by a NetworkPolicy as in deploy/base, or by a mesh's mTLS";
        tracing::warn!(listen.grpc = %address, remedy, "{WHO}");
    }
}

// === impl Style ===

impl From<&Serve> for Style {
    fn from(args: &Serve) -> Self {
        let Serve { verbose_refusals, shadow, compat, retry_hint, .. } = *args;
        Style { verbose_refusals, shadow, compat, retry_hint }
    }
}

// === impl SourceSettings ===

impl SourceSettings {
    fn resolve(args: &Serve) -> Result<Self, SettingsError> {
        match (&args.manifests, args.kubernetes) {
            (Some(folder), false) => Ok(SourceSettings::Folder(folder.clone())),
            (None, true) => {
                Ok(SourceSettings::Kubernetes { kubeconfig: args.kubeconfig.clone(), statuses: !args.no_status })
            }
            _ => Err(SettingsError::OneSource),
        }
    }
}

// === impl GateSettings ===

impl From<&Serve> for GateSettings {
    fn from(args: &Serve) -> Self {
        let AuthorityArgs { access, stale_for, kube_api_qps, kube_api_burst, .. } = args.authority;
        let authority = AuthoritySettings::from(&args.authority);
        // With keys, RBAC in process is the last word, unless somebody else is asked for.
        let is_last_word = matches!(authority, AuthoritySettings::Keys(_)) && access == AccessMode::Rbac;
        GateSettings {
            decisions: decisions(args),
            authority,
            access: (!is_last_word).then_some(access),
            server: ServerSettings {
                kubeconfig: args.kubeconfig.clone(),
                budget: Budget { qps: kube_api_qps, burst: kube_api_burst },
            },
            remember: Remember {
                identities: args.identity_ttl,
                stale: stale_for,
                bytes: Remember::bytes_for(args.max_identities.get()),
                ..Remember::default()
            },
            accounts: args.max_accounts.get(),
            key_file: args.key_file.clone(),
        }
    }
}

fn decisions(args: &Serve) -> gate::DecisionSettings {
    gate::DecisionSettings {
        gateway: args.gateway.clone(),
        without_policy: args.without_policy,
        without_limit: args.without_limit,
        without_room: args.without_room,
        uncounted: args.uncounted,
        bounds: Bounds {
            answer: args.max_answer_tokens.get(),
            debt_windows: args.max_debt_windows.map_or(Bounds::DEBT_WINDOWS, NonZeroU32::get),
            call_time: args.max_call_time,
            settle_within: args.settle_within,
        },
        reserving: Reserving {
            admission: args.token_admission,
            fraction: args.reservation_fraction,
            margin: args.reservation_margin,
            names: args.usage_log.usage_log.is_some(),
        },
        enforce_limits: args.enforce_limits,
        shadow: args.shadow,
        limits_path: args.limits_path.clone(),
        tier_unknown: args.tier_unknown,
        stale_for: args.authority.stale_for,
    }
}

fn usage_log(args: &UsageLogArgs) -> Option<ledger::Options> {
    Some(ledger::Options {
        path: args.usage_log.clone()?,
        max_size: args.usage_log_max_size,
        max_age: args.usage_log_max_age,
        keep: args.usage_log_keep,
        waits: ledger::Waits { grace: args.settle_grace, open: args.max_open_calls.get() },
    })
}

// === impl AuthoritySettings ===

impl From<&AuthorityArgs> for AuthoritySettings {
    fn from(args: &AuthorityArgs) -> Self {
        match &args.jwks {
            Some(path) => AuthoritySettings::Keys(KeysFile { path: path.clone(), issuer: args.issuer.clone() }),
            None => AuthoritySettings::Cluster { mode: args.identity, foreign: args.review_foreign },
        }
    }
}

// === impl ListenSettings ===

impl From<&Serve> for ListenSettings {
    fn from(args: &Serve) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        ListenSettings {
            grpc: args.listen_grpc,
            http: args.listen_http,
            admin: args.listen_admin.0,
            workers: args.workers.map_or(cores, NonZeroUsize::get),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn serve(flags: &[&str]) -> Serve {
        let words = ["tiergate", "serve"].into_iter().chain(flags.iter().copied());
        let Command::Serve(args) = Cli::try_parse_from(words).unwrap().command else { panic!("it serves") };
        *args
    }

    #[test]
    fn there_is_one_source() {
        let source = |flags: &[&str]| SourceSettings::resolve(&serve(flags));
        assert_eq!(source(&["--manifests", "src"]), Ok(SourceSettings::Folder("src".into())));
        let cluster = |statuses| Ok(SourceSettings::Kubernetes { kubeconfig: None, statuses });
        assert_eq!(source(&["--kubernetes"]), cluster(true));
        assert_eq!(source(&["--kubernetes", "--no-status"]), cluster(false));
        for flags in [&[][..], &["--kubernetes", "--manifests", "src"]] {
            assert_eq!(source(flags), Err(SettingsError::OneSource), "{flags:?}");
        }
    }

    /// Without a word of it no API server has to be there.
    #[test]
    fn an_api_server_is_asked_where_keys_and_rbac_are_not_enough() {
        let access = |flags: &[&str]| GateSettings::from(&serve(flags)).access;
        assert_eq!(access(&["--jwks", "Cargo.toml"]), None);
        assert_eq!(access(&["--jwks", "Cargo.toml", "--access", "both"]), Some(AccessMode::Both));
        assert_eq!(access(&[]), Some(AccessMode::Rbac));
    }
}
