//! The files that flags name, and what becomes of each when it changes.

use std::path::Path;
use std::sync::Arc;

use super::gate::{keys, secrets};
use crate::apiserver::{KubernetesError, connection};
use crate::gate::Gate;
use crate::settings::{AuthoritySettings, GateSettings, KeysFile};
use crate::source::{NamedFile, Source};
use crate::telemetry::LogFilter;

/// The files, as they are before they are read for the first time.
pub(super) struct NamedFiles {
    jwks: Option<(NamedFile, KeysFile)>,
    kubeconfig: Option<NamedFile>,
    log: Option<(NamedFile, LogFilter)>,
    secrets: Option<NamedFile>,
}

// === impl NamedFiles ===

impl NamedFiles {
    pub(super) fn seen(settings: &GateSettings, log: &LogFilter) -> Self {
        let alone = |path: &Path| NamedFile::new(path, |path| vec![path.to_owned()]);
        let jwks = match &settings.authority {
            AuthoritySettings::Keys(keys) => alone(&keys.path).map(|file| (file, keys.clone())),
            AuthoritySettings::Cluster { .. } => None,
        };
        let kubeconfig = connection::file(settings.server.kubeconfig.as_deref());
        let kubeconfig = kubeconfig.and_then(|path| NamedFile::new(&path, connection::files));
        let log = log.file().and_then(alone).map(|file| (file, log.clone()));
        let secrets = settings.key_file.as_deref().and_then(alone);
        NamedFiles { jwks, kubeconfig, log, secrets }
    }

    /// The files, with what takes over each of them.
    pub(super) fn taken(self, settings: &GateSettings, gate: &Arc<Gate>, source: &Source) -> Vec<NamedFile> {
        let in_gate = Arc::clone(gate);
        let jwks = self.jwks.map(|(file, of)| {
            file.taken_by(move || {
                in_gate.identities.replace_keys(keys(&of).map_err(|error| error.to_string())?);
                Ok(())
            })
        });
        let log = self.log.map(|(file, filter)| file.taken_by(move || filter.reload()));
        let kubeconfig = self.kubeconfig.and_then(|file| kubeconfig(file, settings, gate, source));
        let secrets = self.secrets.map(|file| adopted_by(file, gate));
        [jwks, kubeconfig, log, secrets].into_iter().flatten().collect()
    }
}

/// The file of the secrets that `gate` seals and opens with. What accounts are called stays as it is: under other names all of them
/// would begin anew.
fn adopted_by(file: NamedFile, gate: &Gate) -> NamedFile {
    let (path, sealer) = (file.path.clone(), Arc::clone(&gate.sealer));
    file.taken_by(move || {
        let opens_what_was_sealed = sealer.adopt(&secrets(&path).map_err(|error| error.to_string())?);
        if !opens_what_was_sealed {
            let remedy = "keep the old secret as the second line for as long as --settle-within";
            tracing::warn!(remedy, "--key-file: the secret before is gone; reports of what it sealed are not taken");
        }
        Ok(())
    })
}

/// The file of the way to the API server, if anybody goes there.
fn kubeconfig(file: NamedFile, settings: &GateSettings, gate: &Gate, source: &Source) -> Option<NamedFile> {
    let watched = match source {
        Source::Kubernetes(cluster) => Some(cluster.reconnect()),
        Source::Folder(_) => None,
    };
    let server = gate.access.as_ref().map(|access| access.server().clone());
    if watched.is_none() && server.is_none() {
        return None;
    }
    let kubeconfig = settings.server.kubeconfig.clone();
    Some(file.taken_by(move || {
        let kubeconfig = kubeconfig.as_deref();
        let again = || {
            watched.as_ref().map_or(Ok(()), |watched| watched.by(kubeconfig))?;
            server.as_ref().map_or(Ok(()), |server| server.reconnect(kubeconfig))
        };
        again().map_err(|error: KubernetesError| error.without_contents())
    }))
}
