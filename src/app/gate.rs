//! The gate of the process, with everyone whom it asks.

use std::path::Path;
use std::sync::Arc;

use super::StartError;
use super::state::Lasting;
use crate::access::AccessReviews;
use crate::apiserver::{ApiMetrics, ApiServer, KubernetesError};
use crate::clock::Clock;
use crate::gate::Gate;
use crate::hash::{Secrets, is_open_to_others};
use crate::identity::{Authority, ClusterReview, Identities};
use crate::limit::{Limits, Memory};
use crate::policy::{Policies, Policy};
use crate::settings::{AuthoritySettings, GateSettings, KeysFile};
use crate::state::{self, Beginning, Opened, Shared};

/// The gate that `settings` ask for, which decides by `policy` at first.
///
/// # Errors
///
/// The keys of callers' tokens or the file of the secret cannot be read, or the API server's kubeconfig cannot be used.
pub fn gate(settings: &GateSettings, policy: Policy, clock: Clock, metrics: &ApiMetrics) -> Result<Gate, StartError> {
    let limits = Limits::in_memory(Memory::bounded(settings.accounts)).since(clock.began());
    let gate = around(limits, settings, policy, clock, metrics)?;
    match &settings.key_file {
        Some(path) => {
            let secrets = secrets(path)?;
            let gate = gate.with_secret(&secrets.first);
            gate.sealer.adopt(&secrets);
            Ok(gate)
        }
        None => {
            let remedy = "--key-file gives one that lasts, and --state a file that keeps one";
            tracing::info!(
                remedy,
                "the key of reservations and accounts is made at random, and does not survive a restart"
            );
            Ok(gate)
        }
    }
}

/// Likewise, with what the state file of `options` keeps of the processes before.
///
/// # Errors
///
/// As of [`gate`]; or the state file cannot be used.
pub(super) fn lasting_gate(
    settings: &GateSettings,
    policy: Policy,
    clock: Clock,
    metrics: &ApiMetrics,
    options: &state::Options,
) -> Result<(Gate, Lasting), StartError> {
    let given = settings.key_file.as_deref().map(secrets).transpose()?;
    let in_force = policy.cells_in_force();
    let memory = Memory::bounded(settings.accounts);
    let mut opened = Opened::open(options, Beginning { memory, clock, in_force: &in_force })?;
    let limits = Limits::in_memory(std::mem::take(&mut opened.memory)).since(opened.began);
    let gate = around(limits, settings, policy, clock, metrics)?
        .with_secret(&opened.secret(given.as_ref().map(|secrets| secrets.first.clone())));
    if let Some(secrets) = &given {
        gate.sealer.adopt(secrets);
        gate.sealer.keep(&opened.kept());
    }
    let keys = opened.account_key(gate.account_key());
    let gate = gate.with_account_key(keys);
    let (limits, sealer, forecasts) = (Arc::clone(&gate.limits), Arc::clone(&gate.sealer), Arc::clone(&gate.forecasts));
    let shared = Shared { limits, sealer, forecasts };
    opened.begin(&shared)?;
    Ok((gate, Lasting { opened, shared }))
}

/// The gate around `limits`, with everyone whom it asks.
fn around(
    limits: Limits,
    settings: &GateSettings,
    policy: Policy,
    clock: Clock,
    metrics: &ApiMetrics,
) -> Result<Gate, StartError> {
    let (policies, limits) = (Arc::new(Policies::new(policy)), Arc::new(limits));
    let (identities, server) = match &settings.authority {
        AuthoritySettings::Keys(file) => {
            let identities = Identities::new(keys(file)?, settings.remember);
            (identities, settings.access.map(|_| server(settings, metrics)).transpose()?)
        }
        AuthoritySettings::Cluster { mode, foreign } => {
            let server = server(settings, metrics).map_err(StartError::NoAuthority)?;
            let review = ClusterReview::new(server.clone(), *mode, *foreign, settings.decisions.stale_for, clock);
            (Identities::of_cluster(review, settings.remember), Some(server))
        }
    };
    let mut gate = Gate::new(policies, identities, limits, settings.decisions.clone());
    let reviews = settings.access.zip(server);
    gate.access = reviews.map(|(mode, server)| AccessReviews::new(server, mode, settings.decisions.stale_for));
    Ok(gate)
}

/// The secrets that stand in `--key-file` now. Who can read it can make reservations; a mounted Secret is open to others by default,
/// though, and nobody else may be there to read it: so it is said, and not refused.
///
/// # Errors
///
/// It cannot be read, or holds no secrets.
pub(super) fn secrets(path: &Path) -> Result<Secrets, StartError> {
    let secrets = Secrets::read(path).map_err(|error| StartError::KeyFile { path: path.to_owned(), error })?;
    if is_open_to_others(path) {
        let remedy = "chmod o-r, or defaultMode: 0440 of a mounted Secret";
        tracing::warn!(file = %path.display(), remedy, "--key-file: every user of this machine can read the secret");
    }
    Ok(secrets)
}

/// The keys that stand in `file` now.
///
/// # Errors
///
/// It cannot be read, or is no JSON Web Key Set.
pub(super) fn keys(file: &KeysFile) -> Result<Authority, StartError> {
    let KeysFile { path, issuer } = file;
    let jwks = std::fs::read_to_string(path).map_err(|error| StartError::Jwks { path: path.clone(), error })?;
    Authority::from_jwks(&jwks, issuer).map_err(|error| StartError::Authority { path: path.clone(), error })
}

fn server(settings: &GateSettings, metrics: &ApiMetrics) -> Result<ApiServer, KubernetesError> {
    ApiServer::new(settings.server.kubeconfig.as_deref(), settings.server.budget, metrics.clone())
}
