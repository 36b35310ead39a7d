//! The serving process: builds what it needs, starts its tasks, and drains on a signal.

mod files;
mod publisher;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use self::files::Files;
use self::publisher::{Publisher, Told};

use crate::access::{AccessMode, AccessReviews};
use crate::apiserver::{ApiMetrics, ApiServer, Budget, KubernetesError};
use crate::args::{self, LogArgs, LogFormat, Serve, log_directives};
use crate::clock::Clock;
use crate::gate::{EnforceLimits, Gate, Settings};
use crate::hash::{Secret, SecretError, is_open_to_others};
use crate::identity::{Authority, AuthorityError, ClusterReview, Identities, Remember};
use crate::limit::{Limits, Memory};
use crate::listen::admin::{self, AdminPages};
use crate::listen::ext_authz::ExtAuthz;
use crate::listen::http::{self, Pages};
use crate::listen::rate_limit::RateLimit;
use crate::listen::refusals::Refusals;
use crate::listen::{Services, Workers, bind};
use crate::metrics::{Metrics, Port};
use crate::policy::{Options, Policies, Policy};
use crate::respond::Style;
use crate::source::{Folder, FolderError, Kubernetes, NamedFile, Nudge, Nudges, Source};
use crate::usage::Bounds;

/// How often the workers are asked whether they answer, and how long they have for it.
const PROBE: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(1);
/// How often some of the idle accounts are forgotten: all are looked at about once a minute.
const SWEEP: Duration = Duration::from_secs(1);

/// The signals that say stop. Their handlers are installed once: a signal that comes early, or while the first one is
/// followed, is not lost.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

/// That the source is followed. It does not say so any more when it is dropped, be it by a panic.
struct Followed {
    gate: Arc<Gate>,
    metrics: Arc<Metrics>,
}

/// Why the process does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    #[error("give one source of the policy: --manifests DIR or --kubernetes")]
    OneSource,
    #[error("callers' tokens are verified with the keys of --jwks FILE, or by an API server: {0}")]
    NoAuthority(KubernetesError),
    #[error("cannot read `{}`: {error}", path.display())]
    Jwks { path: PathBuf, error: io::Error },
    #[error("`{}` {error}", path.display())]
    Authority { path: PathBuf, error: AuthorityError },
    #[error("--key-file: `{}` {error}", path.display())]
    KeyFile { path: PathBuf, error: SecretError },
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("--log: {0}")]
    Log(#[from] tracing_subscriber::filter::ParseError),
    #[error("--log: {0}")]
    LogFile(String),
}

/// Serves until a signal says stop, and drains: whether it did, and was not stopped by a second signal.
///
/// # Errors
///
/// Something that it needs is not there.
pub fn serve(args: &Serve) -> Result<bool, StartError> {
    let (_flushed_at_the_end, lines_dropped, refilter) = start_logging(&args.log)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Before anything is waited for: without a handler it would end the process.
    let hangup = {
        let _inside = runtime.enter();
        signal(SignalKind::hangup())?
    };
    tell_settings(args);
    crate::process::prepare();
    let clock = Clock::start();
    let metrics = Arc::new(Metrics::new());
    metrics.in_shadow(args.shadow);
    let files = Files::seen(args);
    metrics.in_log(lines_dropped);
    let mut source = source(args, clock)?;
    let policy = source.first()?;
    let mut told = Told::default();
    told.tell(&policy.problems);
    let gate = Arc::new(gate(args, policy, clock, &metrics.api)?);
    let files = files.taken(args, &gate, &source, refilter);
    let publisher = Publisher::new(told, Arc::clone(&gate), Arc::clone(&metrics));
    let followed = Followed { gate: Arc::clone(&gate), metrics: Arc::clone(&metrics) };
    let nudges = watch(source, files, publisher, followed)?;
    runtime.spawn(reload(hangup, nudges));
    let refusals = Arc::new(Refusals::default());
    let ended = runtime.block_on(run(args, gate, clock, (metrics, &refusals)));
    refusals.close();
    // Whatever still runs had its time; the threads end with the process.
    runtime.shutdown_background();
    ended
}

/// Logs what of the settings is likely to be a slip, or must not be forgotten.
fn tell_settings(args: &Serve) {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    args::unknown(names).iter().for_each(|variable| tracing::warn!("{variable}"));
    if args.shadow {
        tracing::warn!("--shadow: every request is let through, whatever the policies say");
    }
    if args.enforce_limits == EnforceLimits::Rls {
        tell_trust(args.listen_grpc);
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

/// The gate that `args` ask for.
///
/// # Errors
///
/// The keys of callers' tokens or the file of the secret cannot be read, or the API server's kubeconfig cannot be used.
pub fn gate(args: &Serve, policy: Policy, clock: Clock, metrics: &ApiMetrics) -> Result<Gate, StartError> {
    let policies = Arc::new(Policies::new(policy));
    let limits = Arc::new(Limits::in_memory(Memory::bounded(args.max_accounts.get())).since(clock.began()));
    let settings = Settings {
        gateway: args.gateway.clone(),
        without_policy: args.without_policy,
        without_limit: args.without_limit,
        without_room: args.without_room,
        uncounted: args.uncounted,
        bounds: Bounds { answer: args.max_answer_tokens.get(), debt_windows: args.max_debt_windows.get() },
        enforce_limits: args.enforce_limits,
        shadow: args.shadow,
        tier_unknown: args.tier_unknown,
        stale_for: args.authority.stale_for,
    };
    let authority = &args.authority;
    let remember = Remember {
        identities: args.identity_ttl,
        stale: authority.stale_for,
        bytes: Remember::bytes_for(args.max_identities.get()),
        ..Remember::default()
    };
    let server = || {
        let budget = Budget { qps: authority.kube_api_qps, burst: authority.kube_api_burst };
        ApiServer::new(args.kubeconfig.as_deref(), budget, metrics.clone())
    };
    let (identities, access) = match &authority.jwks {
        Some(path) => {
            let identities = Identities::new(keys(path, &authority.issuer)?, remember);
            // RBAC here is the last word, unless somebody else is asked for.
            let access = (authority.access != AccessMode::Rbac).then(server).transpose()?;
            (identities, access)
        }
        None => {
            let server = server().map_err(StartError::NoAuthority)?;
            let review = ClusterReview::new(
                server.clone(),
                authority.identity,
                authority.review_foreign,
                authority.stale_for,
                clock,
            );
            (Identities::of_cluster(review, remember), Some(server))
        }
    };
    let access = access.map(|server| AccessReviews::new(server, authority.access, authority.stale_for));
    let mut gate = Gate::new(policies, identities, limits, settings);
    gate.access = access;
    match &args.key_file {
        Some(path) => Ok(gate.with_secret(&secret(path)?)),
        None => {
            let remedy = "--key-file gives one that lasts";
            tracing::info!(
                remedy,
                "the key of reservations and accounts is made at random, and does not survive a restart"
            );
            Ok(gate)
        }
    }
}

/// The secret of `--key-file`. Who can read it can make reservations; a mounted Secret is open to others by default, though, and
/// nobody else may be there to read it: so it is said, and not refused.
fn secret(path: &Path) -> Result<Secret, StartError> {
    let secret = Secret::read(path).map_err(|error| StartError::KeyFile { path: path.to_owned(), error })?;
    if is_open_to_others(path) {
        let remedy = "chmod o-r, or defaultMode: 0440 of a mounted Secret";
        tracing::warn!(file = %path.display(), remedy, "--key-file: every user of this machine can read the secret");
    }
    Ok(secret)
}

fn keys(path: &Path, issuer: &str) -> Result<Authority, StartError> {
    let jwks = std::fs::read_to_string(path).map_err(|error| StartError::Jwks { path: path.to_owned(), error })?;
    Authority::from_jwks(&jwks, issuer).map_err(|error| StartError::Authority { path: path.to_owned(), error })
}

fn source(args: &Serve, clock: Clock) -> Result<Source, StartError> {
    let options = Options { gateway: args.gateway.clone(), ..args.policy.clone().into() };
    match (&args.manifests, args.kubernetes) {
        (Some(folder), false) => Ok(Source::Folder(Box::new(Folder::new(folder, options)))),
        (None, true) => {
            let cluster = Kubernetes::connect(args.kubeconfig.as_deref(), options, !args.no_status, clock)?;
            Ok(Source::Kubernetes(Box::new(cluster)))
        }
        _ => Err(StartError::OneSource),
    }
}

async fn run(
    args: &Serve,
    gate: Arc<Gate>,
    clock: Clock,
    (metrics, refusals): (Arc<Metrics>, &Arc<Refusals>),
) -> Result<bool, StartError> {
    let mut signals = StopSignals::install()?;
    let (health, _) = tonic_health::server::health_reporter();
    set_health(&health, false).await;
    let style = Style { verbose_refusals: args.verbose_refusals, shadow: args.shadow, compat: args.compat };
    let services = Services {
        ext_authz: Arc::new(ExtAuthz {
            gate: Arc::clone(&gate),
            metrics: Arc::clone(&metrics),
            refusals: Arc::clone(refusals),
            clock,
            style,
        }),
        rate_limit: Arc::new(RateLimit::new(
            Arc::clone(&gate),
            Arc::clone(&metrics),
            Arc::clone(refusals),
            clock,
            style,
        )),
        health: health.clone(),
    };
    let (grpc, http) = (bind(args.listen_grpc)?, bind(args.listen_http)?);
    let admin = args.listen_admin.0.map(bind).transpose()?;
    let grpc_address = grpc.local_addr()?;
    let (stop, stopped) = watch::channel(false);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = Workers::start(args.workers.map_or(cores, NonZeroUsize::get), &services, &stopped)?;
    let mut acceptor = Workers::acceptor(grpc, metrics.ports.clone())?;
    let (serving, stopping) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let ports = metrics.ports.clone();
    let pages =
        Pages { gate: Arc::clone(&gate), metrics, serving: Arc::clone(&serving), stopping: Arc::clone(&stopping) };
    tracing::info!(
        listen.grpc = %grpc_address, listen.http = %http.local_addr()?,
        listen.admin = admin.as_ref().and_then(|admin| admin.local_addr().ok()).map(tracing::field::display),
        policy.generation = gate.policies.current().generation, "serving"
    );
    // The pages answer until all else has stopped: probes ask while requests are drained.
    let (close, closed) = watch::channel(false);
    let mut served = tokio::task::JoinSet::new();
    if let Some(admin) = admin {
        let pages = AdminPages { gate: Arc::clone(&gate) };
        let router = admin::router(pages, admin.local_addr()?);
        served.spawn(http::serve(admin, Port::Admin, router, ports.clone(), closed.clone()));
    }
    served.spawn(http::serve(http, Port::Http, http::router(pages), ports, closed));
    tokio::select! {
        () = workers.accept(&mut acceptor) => {}
        () = probe(&workers, &gate, &health, &serving) => {}
        () = sweep(&gate.limits, clock) => {}
        () = refusals.fold() => {}
        signal = signals.next() => tracing::info!(signal, "stopping"),
    }
    stopping.store(true, Ordering::Relaxed);
    set_health(&health, false).await;
    let drained = async {
        // Gateways need a moment to notice; whom they still send is served.
        let _ = tokio::time::timeout(args.drain_delay, workers.accept(&mut acceptor)).await;
        drop(acceptor);
        // The receivers live in the workers; when none is left, there is nothing to stop.
        let _ = stop.send(true);
        drain(workers, args.drain_timeout).await;
    };
    tokio::select! {
        () = drained => {}
        signal = signals.next() => {
            tracing::warn!(signal, "stopping at once");
            return Ok(false);
        }
    }
    let _ = close.send(true);
    // Whoever is still reading a page has no claim on the process.
    let _ = tokio::time::timeout(PATIENCE, served.join_all()).await;
    Ok(true)
}

/// Publishes what the source and the files become, from threads that end with the process; whom to ask for a look.
fn watch(source: Source, files: Vec<NamedFile>, publisher: Publisher, followed: Followed) -> io::Result<[Nudge; 2]> {
    let of_source = Arc::new(Mutex::new(publisher));
    let of_files = Arc::clone(&of_source);
    let (changes, others) = (Nudges::default(), Nudges::default());
    let nudges = [changes.nudge(), others.nudge()];
    let watch = move || source.watch(changes, |loaded| of_source.lock().source(loaded));
    followed.during(watch)?;
    if !files.is_empty() {
        let watch = move || NamedFile::watch(files, others, |path, taken| of_files.lock().file(path, taken));
        std::thread::Builder::new().name("files".to_owned()).spawn(watch)?;
    }
    Ok(nudges)
}

/// Has everything that is read from files read again, whenever a signal asks for it.
async fn reload(mut hangup: Signal, nudges: [Nudge; 2]) {
    while hangup.recv().await.is_some() {
        tracing::info!(signal = "SIGHUP", "files are read again");
        nudges.iter().for_each(Nudge::look);
    }
}

/// Waits for the workers, but not for ever: a stream that never ends must not keep the process.
async fn drain(workers: Workers, patience: Duration) {
    let joined = tokio::task::spawn_blocking(|| workers.join());
    match tokio::time::timeout(patience, joined).await {
        Ok(_) => tracing::info!("stopped"),
        Err(_) => tracing::warn!("requests were still in flight after --drain-timeout"),
    }
}

/// Asks the workers, over and over, whether they answer.
async fn probe(workers: &Workers, gate: &Gate, health: &HealthReporter, serving: &AtomicBool) {
    let mut said = false;
    loop {
        let alive = workers.alive(PATIENCE).await;
        serving.store(alive, Ordering::Relaxed);
        let healthy = alive && gate.policies.are_followed() && gate.policies.current().unready.is_none();
        // Whoever watches health is told every time that it is said.
        if healthy != said {
            set_health(health, healthy).await;
            said = healthy;
        }
        tokio::time::sleep(PROBE).await;
    }
}

/// Forgets idle accounts, some at a time.
async fn sweep(limits: &Limits, clock: Clock) {
    for turn in 0.. {
        tokio::time::sleep(SWEEP).await;
        limits.sweep(turn, clock.now());
    }
}

async fn set_health(health: &HealthReporter, serving: bool) {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in ["", "envoy.service.auth.v3.Authorization", "envoy.service.ratelimit.v3.RateLimitService"] {
        health.set_service_status(service, status).await;
    }
}

/// Lines wait for the writer in a bounded queue, and are dropped when it is full: whoever reads the log too slowly, or not
/// at all, must not make requests wait.
const LOG_LINES: usize = 16_384;

/// The client of the API server, among the targets of the log.
const KUBE: &str = "kube_client";

/// Changes what is logged.
type Refilter = Box<dyn Fn(EnvFilter) -> Result<(), tracing_subscriber::reload::Error> + Send>;

/// What `--log` lets through.
fn log_filter(log: &str) -> Result<EnvFilter, StartError> {
    let directives = log_directives(log).map_err(StartError::LogFile)?;
    let filter = EnvFilter::try_new(&directives)?;
    // It tells every failure as often as it is tried; what is wrong with a watch is said once, by us.
    match directives.contains(KUBE) {
        true => Ok(filter),
        false => Ok(filter.add_directive(format!("{KUBE}=off").parse()?)),
    }
}

fn start_logging(args: &LogArgs) -> Result<(WorkerGuard, ErrorCounter, Refilter), StartError> {
    let filter = log_filter(&args.log)?;
    let queue = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LOG_LINES);
    let (writer, guard) = queue.finish(io::stderr());
    let dropped = writer.error_counter();
    // A closed stderr is no reason to fail, and there is nobody to tell.
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).log_internal_errors(false);
    let refilter: Refilter = match args.log_format {
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            Box::new(move |filter| handle.reload(filter))
        }
        LogFormat::Text => {
            let builder = builder.with_ansi(false).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            Box::new(move |filter| handle.reload(filter))
        }
    };
    Ok((guard, dropped, refilter))
}

// === impl Followed ===

impl Followed {
    /// Starts the thread that follows the source.
    fn during(self, follow: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
        let thread = std::thread::Builder::new().name("source".to_owned());
        thread.spawn(move || {
            let _followed = self;
            follow();
        })
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.gate.policies.end();
        self.metrics.reloaded(false);
        tracing::error!("the source is not followed any more; the policy stays as it is, and a change needs a restart");
    }
}

// === impl StopSignals ===

impl StopSignals {
    fn install() -> io::Result<Self> {
        Ok(StopSignals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util::{gate, settings};

    /// Readiness goes by it.
    #[test]
    fn a_source_that_panics_is_not_followed_any_more() {
        let gate = Arc::new(gate(Policy::default(), settings()));
        assert!(gate.policies.are_followed());
        let followed = Followed { gate: Arc::clone(&gate), metrics: Arc::new(Metrics::new()) };
        let thread = followed.during(|| panic!("as a reader that has a fault")).unwrap();
        thread.join().unwrap_err();
        assert!(!gate.policies.are_followed());
    }
}
