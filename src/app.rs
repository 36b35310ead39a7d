//! The serving process: builds what it needs, starts its tasks, and drains when it is told to stop.

mod files;
mod follow;
mod gate;
mod health;
mod ports;
mod publisher;
mod shutdown;
mod state;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

pub use self::gate::gate;
pub use self::shutdown::Shutdown;

use self::files::NamedFiles;
use self::follow::{Followed, Following};
use self::gate::lasting_gate;
use self::health::{Health, PATIENCE};
use self::ports::{Grpc, PageServers, Sockets};
use self::publisher::{ProblemLog, Publisher};
use self::state::{Lasting, Saving};
use crate::apiserver::KubernetesError;
use crate::args::{Serve, unknown_variables};
use crate::clock::{Clock, Follower, Stepped};
use crate::gate::Gate;
use crate::hash::SecretError;
use crate::identity::AuthorityError;
use crate::limit::Limits;
use crate::listen::Services;
use crate::listen::ext_authz::ExtAuthz;
use crate::listen::http::Pages;
use crate::listen::rate_limit::RateLimit;
use crate::listen::refusals::Refusals;
use crate::metrics::Metrics;
use crate::respond::Style;
use crate::settings::{DrainSettings, ListenSettings, Settings, SettingsError, SourceSettings};
use crate::source::{Folder, FolderError, Kubernetes, Source};
use crate::state::StateError;
use crate::telemetry::{LogError, Telemetry};
use crate::usage::ledger::LedgerError;
use crate::usage::{Ledger, Reports};

/// How often some of the idle accounts are forgotten: all are looked at about once a minute.
const SWEEP: Duration = Duration::from_secs(1);

/// A process that has everything, and does not serve yet.
pub struct App {
    gate: Arc<Gate>,
    metrics: Arc<Metrics>,
    refusals: Arc<Refusals>,
    clock: Clock,
    style: Style,
    listen: ListenSettings,
    drain: DrainSettings,
    following: Following,
    hangup: Signal,
    ledger: Option<Arc<Ledger>>,
    state: Option<Saving>,
}

/// Why the process does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    #[error("callers' tokens are verified with the keys of --jwks FILE, or by an API server: {0}")]
    NoAuthority(KubernetesError),
    #[error("cannot read `{}`: {error}", path.display())]
    Jwks { path: PathBuf, error: io::Error },
    #[error("`{}` {error}", path.display())]
    Authority { path: PathBuf, error: AuthorityError },
    #[error(transparent)]
    UsageLog(#[from] LedgerError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("--key-file: `{}` {error}", path.display())]
    KeyFile { path: PathBuf, error: SecretError },
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Serves until a signal says stop, and drains: whether it did, and was not stopped by a second signal.
///
/// # Errors
///
/// Something that it needs is not there.
pub fn serve(args: &Serve) -> Result<bool, StartError> {
    // Its last lines are written when this returns.
    let telemetry = Telemetry::start(&args.log)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Before the settings are looked at: a misspelt variable may be why one is missing.
    unknown_variables().iter().for_each(|variable| tracing::warn!("{variable}"));
    let app = {
        let _inside = runtime.enter();
        App::build(Settings::resolve(args)?, &telemetry)?
    };
    let ended = runtime.block_on(async { app.run(Shutdown::on_signals()?).await });
    // Whatever still runs had its time; the threads end with the process.
    runtime.shutdown_background();
    ended
}

// === impl App ===

impl App {
    /// Makes everything that `settings` ask for. To be called within a runtime, and not by one of its tasks: it waits for
    /// files and, for seconds, for an API server.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or an API server does not let us in.
    pub fn build(settings: Settings, telemetry: &Telemetry) -> Result<Self, StartError> {
        // Before anything is waited for: without a handler it would end the process.
        let hangup = signal(SignalKind::hangup())?;
        settings.tell();
        crate::process::prepare();
        let clock = Clock::start();
        let metrics = Arc::clone(&telemetry.metrics);
        metrics.in_shadow(settings.gate.decisions.shadow);
        let files = NamedFiles::seen(&settings.gate, &telemetry.filter);
        let mut source = source(&settings, clock)?;
        let policy = source.first()?;
        let mut log = ProblemLog::default();
        log.update(&policy.problems);
        let (gate, lasting) = match &settings.state {
            None => (gate(&settings.gate, policy, clock, &metrics.api)?, None),
            Some(options) => {
                let (gate, lasting) = lasting_gate(&settings.gate, policy, clock, &metrics.api, options)?;
                (gate, Some(lasting))
            }
        };
        let gate = Arc::new(gate);
        let start = |lasting: Lasting| lasting.start(&gate, clock, metrics.state.clone());
        let state = lasting.map(start).transpose()?;
        let ledger =
            settings.ledger.map(|options| Ledger::open(options, metrics.ledger.clone())).transpose()?.map(Arc::new);
        let following = Following {
            files: files.taken(&settings.gate, &gate, &source),
            publisher: Publisher::new(log, Arc::clone(&gate), Arc::clone(&metrics)),
            followed: Followed { gate: Arc::clone(&gate), metrics: Arc::clone(&metrics) },
            source,
        };
        let Settings { style, listen, drain, .. } = settings;
        let refusals = Arc::default();
        Ok(App { gate, metrics, refusals, clock, style, listen, drain, following, hangup, ledger, state })
    }

    /// Serves until `shutdown` says stop, and drains: whether it did, and was not stopped by a second word.
    ///
    /// # Errors
    ///
    /// A port is in use, or the operating system gives no thread.
    pub async fn run(mut self, shutdown: Shutdown) -> Result<bool, StartError> {
        let (refusals, clock, rate_limit) = (Arc::clone(&self.refusals), self.clock, Arc::new(self.rate_limit()));
        let state = self.state.take();
        let usage = Arc::clone(&rate_limit.usage);
        let ended = self.serve(rate_limit, shutdown).await;
        refusals.close();
        // Nobody is answered any more who could wait for it, but after a second signal or --drain-timeout.
        let _ = usage.end(clock.now(), PATIENCE);
        if let Some(state) = state {
            state.end();
        }
        ended
    }

    async fn serve(self, rate_limit: Arc<RateLimit>, mut shutdown: Shutdown) -> Result<bool, StartError> {
        let health = Health::new().await;
        let usage = Arc::clone(&rate_limit.usage);
        let (services, pages) = (self.services(rate_limit, &health), self.pages(&health));
        let App { gate, metrics, refusals, clock, listen, drain, following, hangup, ledger, .. } = self;
        tokio::spawn(following.start()?.at_each(hangup, ledger));
        let Sockets { grpc, http, admin } = Sockets::bind(&listen)?;
        let mut answering = Grpc::start(grpc.listener, &services, listen.workers)?;
        tracing::info!(
            listen.grpc = %grpc.address, listen.http = %http.address,
            listen.admin = admin.as_ref().map(|admin| tracing::field::display(admin.address)),
            policy.generation = gate.policies.current().generation, "serving"
        );
        let pages = PageServers::start(http.listener, admin, pages, clock);
        tokio::select! {
            () = answering.workers.accept(&mut answering.acceptor) => {}
            () = health.probe(&answering.workers, &gate) => {}
            () = sweep(&gate.limits, clock) => {}
            () = count_silent(&usage, clock) => {}
            () = follow_wall_clock(&gate.limits, clock, &metrics) => {}
            () = refusals.fold() => {}
            signal = shutdown.next() => tracing::info!(signal, "stopping"),
        }
        health.stop().await;
        tokio::select! {
            () = answering.drain(drain) => {}
            signal = shutdown.next() => {
                tracing::warn!(signal, "stopping at once");
                return Ok(false);
            }
        }
        pages.close().await;
        Ok(true)
    }

    fn rate_limit(&mut self) -> RateLimit {
        let inherited = self.state.as_mut().map(|state| std::mem::take(&mut state.unsettled));
        let App { gate, metrics, refusals, clock, style, ledger, .. } = self;
        let (gate, metrics, refusals) = (Arc::clone(gate), Arc::clone(metrics), Arc::clone(refusals));
        let rate_limit = RateLimit::new(gate, metrics, refusals, *clock, *style);
        match ledger {
            Some(ledger) => rate_limit.written_by(Arc::clone(ledger), inherited),
            None => rate_limit,
        }
    }

    fn services(&self, rate_limit: Arc<RateLimit>, health: &Health) -> Services {
        let App { gate, metrics, refusals, clock, style, .. } = self;
        let (gate, metrics, refusals) = (Arc::clone(gate), Arc::clone(metrics), Arc::clone(refusals));
        let (clock, style) = (*clock, *style);
        Services {
            ext_authz: Arc::new(ExtAuthz { gate, metrics, refusals, clock, style }),
            rate_limit,
            health: health.reporter.clone(),
        }
    }

    fn pages(&self, health: &Health) -> Pages {
        Pages {
            gate: Arc::clone(&self.gate),
            metrics: Arc::clone(&self.metrics),
            serving: Arc::clone(&health.serving),
            stopping: Arc::clone(&health.stopping),
        }
    }
}

/// The source that `settings` name.
///
/// # Errors
///
/// The kubeconfig cannot be used, or the server does not accept its credentials.
fn source(settings: &Settings, clock: Clock) -> Result<Source, StartError> {
    let options = settings.options.clone();
    Ok(match &settings.source {
        SourceSettings::Folder(folder) => Source::Folder(Box::new(Folder::new(folder, options))),
        SourceSettings::Kubernetes { kubeconfig, statuses } => {
            Source::Kubernetes(Box::new(Kubernetes::connect(kubeconfig.as_deref(), options, *statuses, clock)?))
        }
    })
}

/// Counts what no usage report has come for, each second.
async fn count_silent(usage: &Reports, clock: Clock) {
    let mut each = tokio::time::interval(Duration::from_secs(1));
    loop {
        each.tick().await;
        usage.count_silent(clock.now());
    }
}

/// Has the limits' time go after the wall clock.
async fn follow_wall_clock(limits: &Limits, clock: Clock, metrics: &Metrics) {
    let mut follower = Follower::new(limits.pace());
    let mut each = tokio::time::interval(Duration::from_secs(1));
    loop {
        each.tick().await;
        let (pace, stepped) = follower.look(clock.now(), Clock::wall());
        limits.go_by(pace);
        match stepped {
            None => continue,
            Some(Stepped::Forward(by)) => {
                tracing::warn!(?by, "the wall clock was set forward, and the limits' time with it");
            }
            Some(Stepped::Back(by)) => {
                let line = "the wall clock was set back: the limits' time goes at half its speed until it is true";
                tracing::warn!(?by, "{line}");
            }
        }
        metrics.clock_steps.inc();
    }
}

/// Forgets idle accounts, some at a time.
async fn sweep(limits: &Limits, clock: Clock) {
    for turn in 0.. {
        tokio::time::sleep(SWEEP).await;
        limits.sweep(turn, clock.now());
    }
}
