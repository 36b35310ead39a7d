//! The serving process: builds what it needs, starts its tasks, and drains on a signal.

use std::collections::HashSet;
use std::hash::Hash;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};

use crate::access::{AccessMode, AccessReviews};
use crate::apiserver::{ApiMetrics, ApiServer, Budget, KubernetesError};
use crate::args::{self, LogArgs, LogFormat, Serve};
use crate::gate::{Gate, Settings};
use crate::identity::{Authority, AuthorityError, ClusterReview, Identities, Remember};
use crate::limit::{Clock, Limits, Memory};
use crate::listen::admin::{self, AdminPages};
use crate::listen::ext_authz::ExtAuthz;
use crate::listen::http::{self, Pages};
use crate::listen::rate_limit::RateLimit;
use crate::listen::{Services, Workers, bind};
use crate::manifest::Problem;
use crate::metrics::Metrics;
use crate::policy::{Options, Policies, Policy};
use crate::respond::Style;
use crate::source::{Folder, FolderError, Kubernetes, Source};

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
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("--log: {0}")]
    Log(#[from] tracing_subscriber::filter::ParseError),
}

/// Serves until a signal says stop, and drains: whether it did, and was not stopped by a second signal.
///
/// # Errors
///
/// Something that it needs is not there.
pub fn serve(args: &Serve) -> Result<bool, StartError> {
    let _flushed_at_the_end = start_logging(&args.log)?;
    tell_settings(args);
    crate::process::prepare();
    let clock = Clock::start();
    let metrics = Arc::new(Metrics::new());
    metrics.in_shadow(args.shadow);
    let mut source = source(args, clock)?;
    let policy = source.first()?;
    let mut told = Told::default();
    told.tell(&policy);
    let gate = Arc::new(gate(args, policy, clock, &metrics.api)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(run(args, gate, (source, told), clock, metrics));
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
}

/// The gate that `args` ask for.
///
/// # Errors
///
/// The keys of callers' tokens cannot be read, or the API server's kubeconfig cannot be used.
pub fn gate(args: &Serve, policy: Policy, clock: Clock, metrics: &ApiMetrics) -> Result<Gate, StartError> {
    let policies = Arc::new(Policies::new(policy));
    let limits = Arc::new(Limits::Memory(Memory::bounded(args.max_accounts.get())));
    let settings = Settings {
        gateway: args.gateway.clone(),
        without_policy: args.without_policy,
        without_limit: args.without_limit,
        without_room: args.without_room,
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
    Ok(gate)
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
    (source, told): (Source, Told),
    clock: Clock,
    metrics: Arc<Metrics>,
) -> Result<bool, StartError> {
    let mut signals = StopSignals::install()?;
    metrics.published(&gate.policies.current());
    watch(source, told, Arc::clone(&gate), Arc::clone(&metrics))?;
    let (health, _) = tonic_health::server::health_reporter();
    set_health(&health, false).await;
    let style = Style { verbose_refusals: args.verbose_refusals, shadow: args.shadow, compat: args.compat };
    let services = Services {
        ext_authz: Arc::new(ExtAuthz { gate: Arc::clone(&gate), metrics: Arc::clone(&metrics), clock, style }),
        rate_limit: Arc::new(RateLimit::new(Arc::clone(&gate), Arc::clone(&metrics), clock, style)),
        health: health.clone(),
    };
    let (grpc, http) = (bind(args.listen_grpc)?, bind(args.listen_http)?);
    let admin = args.listen_admin.0.map(bind).transpose()?;
    let grpc_address = grpc.local_addr()?;
    let (stop, stopped) = watch::channel(false);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = Workers::start(args.workers.map_or(cores, NonZeroUsize::get), &services, &stopped)?;
    let mut acceptor = Workers::acceptor(grpc)?;
    let (serving, stopping) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
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
        served.spawn(http::serve(admin, admin::router(pages), closed.clone()));
    }
    served.spawn(http::serve(http, http::router(pages), closed));
    tokio::select! {
        () = workers.accept(&mut acceptor) => {}
        () = probe(&workers, &gate, &health, &serving) => {}
        () = sweep(&gate.limits, clock) => {}
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

/// Publishes what the source becomes, from a thread that ends with the process.
fn watch(source: Source, mut told: Told, gate: Arc<Gate>, metrics: Arc<Metrics>) -> io::Result<()> {
    let followed = Followed { gate: Arc::clone(&gate), metrics: Arc::clone(&metrics) };
    let changed = move |loaded: Result<Policy, FolderError>| {
        metrics.reloaded(loaded.is_ok());
        match loaded {
            Ok(policy) => {
                told.tell(&policy);
                gate.policies.publish(policy);
                let policy = gate.policies.current();
                metrics.published(&policy);
                let (generation, objects) = (policy.generation, policy.objects);
                match &policy.unready {
                    None => tracing::info!(policy.generation = generation, objects, "policy published"),
                    Some(why) => {
                        tracing::warn!(policy.generation = generation, objects, why, "policy published: not ready")
                    }
                }
            }
            Err(error) => tracing::error!(%error, "the source is not read; the policy stays as it is"),
        }
    };
    let watch = move || {
        if let Err(error) = source.watch(changed) {
            tracing::error!(%error, "the folder is not watched");
        }
    };
    followed.during(watch).map(drop)
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
    loop {
        let alive = workers.alive(PATIENCE).await;
        serving.store(alive, Ordering::Relaxed);
        set_health(health, alive && gate.policies.are_followed() && gate.policies.current().unready.is_none()).await;
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

/// The problems of the last policy.
#[derive(Default)]
struct Told(HashSet<Problem>);

impl Told {
    /// Logs the problems that the last policy did not have, and those that have ended: a cluster changes often.
    fn tell(&mut self, policy: &Policy) {
        let new = policy.problems.iter().filter(|problem| !self.0.contains(problem));
        new.for_each(log_problem);
        {
            let now: HashSet<_> = policy.problems.iter().map(what).collect();
            self.0.iter().filter(|problem| !now.contains(&what(problem))).for_each(log_end);
        }
        self.0 = policy.problems.iter().cloned().collect();
    }
}

/// What a problem is, wherever it stands: lines move with every edit.
fn what(problem: &Problem) -> impl Eq + Hash {
    let file = problem.object.is_none().then_some(&problem.place.file);
    (problem.code, &problem.object, file, &problem.field, &problem.message)
}

fn log_end(problem: &Problem) {
    let (code, place, field) = (problem.code.as_str(), problem.place.to_string(), problem.field.as_str());
    let object = problem.object.as_ref().map(ToString::to_string);
    tracing::info!(code, place, object, field, "no longer so: {}", problem.message);
}

fn log_problem(problem: &Problem) {
    let (code, place) = (problem.code.as_str(), problem.place.to_string());
    let remedy = problem.remedy.as_deref();
    let object = problem.object.as_ref().map(ToString::to_string);
    let (object, field) = (object.as_deref(), problem.field.as_str());
    let in_force = problem.in_force.as_ref().map(ToString::to_string);
    if problem.is_error() {
        tracing::error!(code, place, object, field, remedy, in_force, "{}", problem.message);
    } else {
        tracing::warn!(code, place, object, field, remedy, in_force, "{}", problem.message);
    }
}

/// Lines wait for the writer in a bounded queue, and are dropped when it is full: whoever reads the log too slowly, or not
/// at all, must not make requests wait.
const LOG_LINES: usize = 16_384;

/// The client of the API server, among the targets of the log.
const KUBE: &str = "kube_client";

fn start_logging(args: &LogArgs) -> Result<WorkerGuard, tracing_subscriber::filter::ParseError> {
    let mut filter = tracing_subscriber::EnvFilter::try_new(&args.log)?;
    // It tells every failure as often as it is tried; what is wrong with a watch is said once, by us.
    if !args.log.contains(KUBE) {
        filter = filter.add_directive(format!("{KUBE}=off").parse()?);
    }
    let queue = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LOG_LINES);
    let (writer, guard) = queue.finish(io::stderr());
    // A closed stderr is no reason to fail, and there is nobody to tell.
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).log_internal_errors(false);
    match args.log_format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text => builder.with_ansi(false).init(),
    }
    Ok(guard)
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
