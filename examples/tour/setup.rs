//! Starts the model, tiergate and Envoy, and waits until each is ready.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::accounts::Tokens;
use crate::client::Request;
use crate::processes::{Processes, install};
use crate::source::{Cluster, Folder, Parts, Source};
use crate::{Args, Result};

/// What the rows talk to.
pub struct Gate {
    pub envoy: SocketAddr,
    pub tiergate: SocketAddr,
    /// Who sums usage logs.
    pub binary: PathBuf,
    /// What tiergate charged, and what the model says that it sent.
    pub usage_log: PathBuf,
    pub account: PathBuf,
    /// Of who may do everything on the cluster, if there is one.
    pub kubeconfig: Option<PathBuf>,
    /// How tiergate is started, and where it logs when it is started again.
    serve: Command,
    log: PathBuf,
}

/// Where everybody listens, each port free a moment ago.
struct Addresses {
    envoy: SocketAddr,
    admin: SocketAddr,
    grpc: SocketAddr,
    http: SocketAddr,
    model: SocketAddr,
}

/// The files that the tour uses. Binaries are those that were built with it.
struct Files {
    manifests: PathBuf,
    /// What the tour has beside them.
    team: PathBuf,
    envoy_config: PathBuf,
    envoy_script: PathBuf,
    kube_script: PathBuf,
    permissions: PathBuf,
    tiergate: PathBuf,
    model: PathBuf,
    logs: PathBuf,
}

pub fn start(args: &Args, processes: &Processes, scratch: &Path) -> Result<(Gate, Tokens)> {
    let files = Files::find(args)?;
    let (at, held) = Addresses::choose(args)?;
    let envoy = match &args.envoy {
        Some(path) => path.clone(),
        None => install(&files.envoy_script, &[])?,
    };
    println!("logs are in {}", files.logs.display());
    let manifests = files.gather(scratch)?;
    let source = if args.kube {
        Source::Cluster(start_cluster(&files, &manifests, scratch, processes)?)
    } else {
        Source::Folder(Folder::open(&files.tiergate, &manifests, scratch)?)
    };
    println!("minting tokens");
    let tokens = Tokens::mint(&source, &files.tiergate, scratch)?;
    drop(held);
    println!("starting the model on {}, tiergate on {} and {}, Envoy on {}", at.model, at.grpc, at.http, at.envoy);

    let mut model = Command::new(&files.model);
    let (usage_log, account) = (scratch.join("usage.log"), scratch.join("account"));
    model.args(["--listen", &at.model.to_string()]).arg("--account").arg(&account);
    processes.start("model", &model, &files.logs.join("model.log"))?;

    let mut tiergate = Command::new(&files.tiergate);
    tiergate.arg("serve").args(source.arguments());
    tiergate.args(["--listen-grpc", &at.grpc.to_string(), "--listen-http", &at.http.to_string()]);
    // It has no page here that the tour does not tell.
    tiergate.args(["--listen-admin", "off"]);
    tiergate.args(["--grant-from-annotation", "--verbose-refusals"]);
    // Each call has its line at once: nobody corrects an estimate here.
    tiergate.args(["--settle-grace", "0s"]).arg("--usage-log").arg(&usage_log);
    // What limits have counted outlives the process.
    tiergate.arg("--state").arg(scratch.join("state"));
    // Ctrl-C ends all of it; nothing is left that could notice.
    tiergate.args(["--drain-delay", "0s"]);
    processes.start("tiergate", &tiergate, &files.logs.join("tiergate.log"))?;

    let config = files.logs.join("envoy.yaml");
    fs::write(&config, at.written_into(&read(&files.envoy_config)?)?)?;
    let mut command = Command::new(envoy);
    // Hot restart shares memory by a number that another Envoy on this machine may use as well.
    command.args(["--disable-hot-restart", "--concurrency", "2", "--log-level", "warning", "-c"]).arg(config);
    processes.start("envoy", &command, &files.logs.join("envoy.log"))?;

    processes.await_ready("the model", || answers_ok(at.model, "/v1/models"))?;
    processes.await_ready("tiergate", || answers_ok(at.http, "/readyz"))?;
    processes.await_ready("Envoy", || answers_ok(at.admin, "/ready"))?;
    let (binary, kubeconfig) = (files.tiergate, source.kubeconfig());
    let log = files.logs.join("tiergate-again.log");
    Ok((
        Gate { envoy: at.envoy, tiergate: at.http, binary, usage_log, account, kubeconfig, serve: tiergate, log },
        tokens,
    ))
}

fn start_cluster(files: &Files, manifests: &Path, scratch: &Path, processes: &Processes) -> Result<Cluster> {
    let binaries = install(&files.kube_script, &["etcd", "kube-apiserver"])?;
    let Files { permissions, logs, .. } = files;
    Cluster::start(&Parts { binaries: &binaries, manifests, permissions, scratch, logs }, processes)
}

fn read(file: &Path) -> Result<String> {
    Ok(fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?)
}

fn answers_ok(address: SocketAddr, path: &str) -> bool {
    Request::get(path).send(address).is_ok_and(|response| response.status == 200)
}

// === impl Gate ===

impl Gate {
    /// Ends tiergate, starts it anew, and waits until Envoy reaches it.
    pub fn restart(&self, processes: &Processes) -> Result<()> {
        processes.end("tiergate")?;
        processes.start("tiergate", &self.serve, &self.log)?;
        processes.await_ready("tiergate", || answers_ok(self.tiergate, "/readyz"))?;
        // Nobody, who is refused.
        let is_reached = || Request::get("/v1/limits").send(self.envoy).is_ok_and(|response| response.status == 401);
        processes.await_ready("Envoy", is_reached)
    }
}

// === impl Addresses ===

impl Addresses {
    /// Also what holds them until the servers start, so that no two of them, or of a cluster's, are the same free port.
    fn choose(args: &Args) -> Result<(Self, Vec<TcpListener>)> {
        let mut held = Vec::new();
        let mut choose = |what: &str, flag: &str, wanted: SocketAddr| -> Result<SocketAddr> {
            let listener = TcpListener::bind(wanted).map_err(|error| {
                format!("{wanted}, where {what} is to listen: {error}; choose another with `{flag} 127.0.0.1:PORT` (make run ARGS=…)")
            })?;
            let chosen = listener.local_addr()?;
            held.push(listener);
            Ok(chosen)
        };
        let chosen = Self {
            envoy: choose("Envoy", "--listen", args.listen)?,
            admin: choose("Envoy's admin interface", "--listen-admin", args.listen_admin)?,
            grpc: choose("tiergate", "--listen-grpc", args.listen_grpc)?,
            http: choose("tiergate's HTTP side", "--listen-http", args.listen_http)?,
            model: choose("the sample model", "--listen-model", args.listen_model)?,
        };
        Ok((chosen, held))
    }

    /// The shipped configuration with these addresses in place of its own.
    fn written_into(&self, config: &str) -> Result<String> {
        let shipped = [(10000, self.envoy), (9901, self.admin), (50051, self.grpc), (8000, self.model)];
        let shipped = shipped.map(|(port, address)| (socket_address("127.0.0.1", port), address));
        if let Some((missing, _)) = shipped.iter().find(|(text, _)| config.matches(text.as_str()).count() != 1) {
            return Err(format!("envoy/tiergate.yaml should have one `{missing}`").into());
        }
        // Line by line: a second pass over the text could find a port that the first has put there.
        let line = |line: &str| match shipped.iter().find(|(text, _)| line.contains(text.as_str())) {
            Some((text, address)) => {
                line.replace(text.as_str(), &socket_address(&address.ip().to_string(), address.port()))
            }
            None => line.to_owned(),
        };
        Ok(config.lines().map(|text| line(text) + "\n").collect())
    }
}

fn socket_address(ip: &str, port: u16) -> String {
    format!("{{address: {ip}, port_value: {port}}}")
}

// === impl Files ===

impl Files {
    fn find(args: &Args) -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let examples = std::env::current_exe()?.parent().ok_or("no folder of examples")?.to_owned();
        let built = examples.parent().ok_or("no folder of binaries")?;
        let logs = built.parent().unwrap_or(built).join(if args.kube { "tour-kube" } else { "tour" });
        let files = Self {
            manifests: root.join("examples/manifests"),
            team: root.join("examples/tour/team.yaml"),
            envoy_config: root.join("envoy/tiergate.yaml"),
            envoy_script: root.join("scripts/envoy.sh"),
            kube_script: root.join("scripts/kube.sh"),
            permissions: root.join("deploy/base"),
            tiergate: built.join("tiergate"),
            model: examples.join("model"),
            logs,
        };
        for binary in [&files.tiergate, &files.model] {
            if !binary.is_file() {
                let missing = binary.display();
                return Err(format!("{missing} is not built: `make run` builds everything").into());
            }
        }
        fs::create_dir_all(&files.logs)?;
        Ok(files)
    }
    /// A folder of all manifests that the tour has.
    fn gather(&self, scratch: &Path) -> Result<PathBuf> {
        let folder = scratch.join("of-the-tour");
        fs::create_dir(&folder)?;
        let entries = fs::read_dir(&self.manifests)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        for file in entries.iter().chain([&self.team]) {
            let name = file.file_name().ok_or("a manifest without a name")?;
            fs::copy(file, folder.join(name)).map_err(|error| format!("{}: {error}", file.display()))?;
        }
        Ok(folder)
    }
}
