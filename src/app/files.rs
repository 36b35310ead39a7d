//! The files that flags name, and what becomes of each when it changes.

use std::path::Path;
use std::sync::Arc;

use super::{Refilter, keys, log_filter};
use crate::apiserver::{KubernetesError, connection};
use crate::args::Serve;
use crate::gate::Gate;
use crate::source::{NamedFile, Source};

/// The files, as they are before they are read for the first time.
pub(super) struct Files {
    jwks: Option<NamedFile>,
    kubeconfig: Option<NamedFile>,
    log: Option<NamedFile>,
}

// === impl Files ===

impl Files {
    pub(super) fn seen(args: &Serve) -> Self {
        let alone = |path: &Path| vec![path.to_owned()];
        let jwks = args.authority.jwks.as_deref().and_then(|path| NamedFile::new(path, alone));
        let kubeconfig = connection::file(args.kubeconfig.as_deref());
        let kubeconfig = kubeconfig.and_then(|path| NamedFile::new(&path, connection::files));
        let log = args.log.log.strip_prefix('@').and_then(|path| NamedFile::new(Path::new(path), alone));
        Files { jwks, kubeconfig, log }
    }

    /// The files, with what takes over each of them.
    pub(super) fn taken(self, args: &Serve, gate: &Arc<Gate>, source: &Source, refilter: Refilter) -> Vec<NamedFile> {
        let (in_gate, issuer) = (Arc::clone(gate), args.authority.issuer.clone());
        let jwks = self.jwks.map(|file| {
            let path = file.path.clone();
            file.taken_by(move || {
                in_gate.identities.replace_keys(keys(&path, &issuer).map_err(|error| error.to_string())?);
                Ok(())
            })
        });
        let log = self.log.map(|file| {
            let log = args.log.log.clone();
            file.taken_by(move || {
                let filter = log_filter(&log).map_err(|error| error.to_string())?;
                refilter(filter).map_err(|error| error.to_string())
            })
        });
        let kubeconfig = self.kubeconfig.and_then(|file| kubeconfig(file, args, gate, source));
        [jwks, kubeconfig, log].into_iter().flatten().collect()
    }
}

/// The file of the way to the API server, if anybody goes there.
fn kubeconfig(file: NamedFile, args: &Serve, gate: &Gate, source: &Source) -> Option<NamedFile> {
    let watched = match source {
        Source::Kubernetes(cluster) => Some(cluster.reconnect()),
        Source::Folder(_) => None,
    };
    let server = gate.access.as_ref().map(|access| access.server().clone());
    if watched.is_none() && server.is_none() {
        return None;
    }
    let kubeconfig = args.kubeconfig.clone();
    Some(file.taken_by(move || {
        let kubeconfig = kubeconfig.as_deref();
        let again = || {
            watched.as_ref().map_or(Ok(()), |watched| watched.by(kubeconfig))?;
            server.as_ref().map_or(Ok(()), |server| server.reconnect(kubeconfig))
        };
        again().map_err(|error: KubernetesError| error.without_contents())
    }))
}
