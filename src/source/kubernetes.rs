//! A cluster as the source of the policy: watched, read by the same readers as a folder, and compiled by the same compiler.
//!
//! One thread owns all that was read, and the watches that feed it; nothing of it is on the path of a request. What is
//! watched is what policies need. ServiceAccounts are watched in all namespaces, their headers alone, and kept where the
//! namespace is a tier's: the API server cannot select by a part of a name, and one watch for each tier's namespace would need
//! another one of all namespaces, and a connection each. Of an LLMInferenceService too the header says everything. Namespaces are
//! watched once a listener takes routes by their labels.

mod event;
mod heartbeat;
mod status;
mod store;
mod watch;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::watch as latest;
use tokio::time::{Instant, timeout_at};

use self::event::{ClusterEvent, Outlet};
use self::heartbeat::heartbeat;
use self::status::{News, Writer};
use self::store::ObjectStore;
use self::watch::Watch;
use super::{FolderError, on_large_stack};
use crate::apiserver::{KubernetesError, connection};
use crate::clock::Clock;
use crate::identity::Namespaces;
use crate::lint::compile;
use crate::manifest::KINDS;
use crate::policy::{Options, Policy};

/// A change is compiled when nothing else has changed for this long: one `kubectl apply` is many changes.
const QUIET: Duration = Duration::from_millis(50);
/// And at the latest this long after the first one.
const LATEST: Duration = Duration::from_millis(500);
/// Events on their way to the store. Watches wait when it is behind.
const BACKLOG: usize = 1024;

/// A cluster, with what was read from it.
pub struct Kubernetes {
    runtime: Runtime,
    /// With the credentials that were read last.
    clients: latest::Sender<Client>,
    server: String,
    options: Options,
    watches: Vec<Arc<Watch>>,
    /// Watched once their labels are asked for.
    namespaces: Option<Arc<Watch>>,
    store: ObjectStore,
    /// Whether objects are told about themselves.
    statuses: bool,
}

/// What follows the cluster: tasks that begin anew whenever there are new credentials, and tell what they see.
struct Followers {
    runtime: Handle,
    clients: latest::Receiver<Client>,
    events: Sender<ClusterEvent>,
}

/// The way for new credentials to a cluster that is watched.
#[derive(Clone)]
pub struct Reconnect {
    runtime: Handle,
    clients: latest::Sender<Client>,
    server: String,
}

// === impl Kubernetes ===

impl Kubernetes {
    /// Connects to the API server of `kubeconfig`; without one to that of the cluster that this runs in, or of the default
    /// kubeconfig. It is waited for while it does not answer. With `statuses`, objects are told about themselves.
    ///
    /// # Errors
    ///
    /// The kubeconfig cannot be used, or the server does not accept its credentials.
    pub fn connect(
        kubeconfig: Option<&Path>,
        options: Options,
        statuses: bool,
        clock: Clock,
    ) -> Result<Self, KubernetesError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (client, server) = runtime.block_on(async {
            let config = connection::config(kubeconfig).await?;
            let server = connection::name(&config);
            Ok::<_, KubernetesError>((connection::connect(config).await?, server))
        })?;
        let watches = KINDS.iter().map(|kind| Arc::new(Watch::of(kind, &options)));
        let (mut namespaces, watches): (Vec<_>, Vec<_>) = watches.partition(|watch| watch.kind.name == "Namespace");
        let (namespaces, store) = (namespaces.pop(), ObjectStore::new(&server, &watches, clock));
        let clients = latest::Sender::new(client);
        Ok(Kubernetes { runtime, clients, server, options, watches, namespaces, store, statuses })
    }

    #[must_use]
    pub fn reconnect(&self) -> Reconnect {
        let (runtime, clients) = (self.runtime.handle().clone(), self.clients.clone());
        Reconnect { runtime, clients, server: self.server.clone() }
    }

    /// What there is before anything was read.
    #[must_use]
    pub fn unread(&self) -> Policy {
        Policy { unready: self.store.unready(), ..Policy::default() }
    }

    /// Watches the cluster for ever, and passes on what it becomes.
    pub fn watch(mut self, mut changed: impl FnMut(Result<Policy, FolderError>)) {
        let (events, seen) = channel(BACKLOG);
        let (tell, news) = latest::channel(News::default());
        let (runtime, clients) = (self.runtime.handle().clone(), self.clients.subscribe());
        let followers = Followers { runtime, clients, events };
        if self.statuses {
            followers.write(news);
        }
        self.watches.iter().enumerate().for_each(|(at, watch)| followers.watch(at, Arc::clone(watch)));
        followers.beat();
        let mut ready = false;
        let own = own(&mut self.store, seen, |store| {
            let policy = snapshot(store, &self.options, |store| {
                if let Some(watch) = self.namespaces.take_if(|_| store.asks_for_labels()) {
                    // At the start they are waited for; later, what depends on them is shut meanwhile, and nothing else.
                    followers.watch(store.add(&watch, !ready), watch);
                }
            });
            if let Ok(policy) = policy.as_ref()
                && policy.unready.is_none()
            {
                ready = true;
                tell.send_replace(News::of(policy, |object| store.about(object)));
            }
            changed(policy);
        });
        self.runtime.block_on(own);
    }
}

// === impl Followers ===

impl Followers {
    /// Follows one kind of object, as the watch with the number `at` in the store.
    fn watch(&self, at: usize, watch: Arc<Watch>) {
        let events = self.events.clone();
        let outlet = Outlet { at, events };
        self.spawn(move |client| {
            let (watch, outlet) = (Arc::clone(&watch), outlet.clone());
            async move { watch.follow(&client, &outlet).await }
        });
    }

    /// Asks whether the server is there.
    fn beat(&self) {
        let events = self.events.clone();
        self.spawn(move |client| {
            let events = events.clone();
            async move { heartbeat(&client, &events).await }
        });
    }

    /// Tells objects about themselves.
    fn write(&self, news: latest::Receiver<News>) {
        self.spawn(move |client| Writer::new(client).run(news.clone()));
    }

    fn spawn<W: Future<Output = ()> + Send + 'static>(&self, work: impl Fn(Client) -> W + Send + 'static) {
        self.runtime.spawn(with_each(self.clients.clone(), work));
    }
}

// === impl Reconnect ===

impl Reconnect {
    /// Watches the cluster with the credentials of `kubeconfig` as they are now: every watch begins anew, and nothing of what was
    /// read is lost. Waits for the server, for seconds.
    ///
    /// # Errors
    ///
    /// They cannot be used, and those from before stay in use.
    pub fn by(&self, kubeconfig: Option<&Path>) -> Result<(), KubernetesError> {
        let client = self.runtime.block_on(connection::again(kubeconfig, &self.server))?;
        self.clients.send_replace(client);
        Ok(())
    }
}

/// Does `work` with the latest client, from the beginning whenever there is another.
async fn with_each<W: Future<Output = ()>>(mut clients: latest::Receiver<Client>, work: impl Fn(Client) -> W) {
    loop {
        let client = clients.borrow_and_update().clone();
        tokio::select! {
            () = work(client) => return,
            // Its sender lives as long as this does.
            changed = clients.changed() => if changed.is_err() { return },
        }
    }
}

/// Takes over events, and calls `changed` when they pause, until there are none any more. While that compiles, watches wait.
async fn own(store: &mut ObjectStore, mut events: Receiver<ClusterEvent>, mut changed: impl FnMut(&mut ObjectStore)) {
    while let Some(event) = events.recv().await {
        if !store.take(event) {
            continue;
        }
        let latest = Instant::now() + LATEST;
        let mut quiet = Instant::now() + QUIET;
        while Instant::now() < latest {
            match timeout_at(quiet.min(latest), events.recv()).await {
                // Of what changes nothing there may be any number.
                Ok(Some(event)) => {
                    if store.take(event) {
                        quiet = Instant::now() + QUIET;
                    }
                }
                Ok(None) => return,
                Err(_) => break,
            }
        }
        changed(store);
    }
}

/// What the cluster is now. `look` sees first what else has to be watched; both read objects, on a large stack.
fn snapshot(
    store: &mut ObjectStore,
    options: &Options,
    look: impl FnOnce(&mut ObjectStore) + Send,
) -> Result<Policy, FolderError> {
    on_large_stack(|| {
        look(store);
        if let Some(why) = store.unready() {
            return Policy { unready: Some(why), problems: store.problems(), ..Policy::default() };
        }
        let manifests = store.read();
        let parts = manifests.parts();
        let mut policy = compile(manifests, options);
        store.departures.follow(parts, &[], &mut policy, std::time::Instant::now());
        policy.rbac.unread = store.unread_rbac();
        policy.rbac.changes = store.rbac_changes();
        policy.outdated = store.outdated();
        policy.accounts.watched = Namespaces::Tiers(options.instance.clone());
        policy.problems.splice(0..0, store.problems());
        policy
    })
}
