//! Behind a real Envoy, with the configuration that is shipped.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use crate::support::{
    Connection, Folder, PATIENCE, Process, Tiergate, await_page, example, free_port, generous_manifests, get, root,
    token,
};

/// Envoy in front of a model and tiergate.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    processes: Vec<Process>,
    folder: Folder,
}

impl Gateway {
    /// A counter or gauge of Envoy's.
    pub(crate) async fn stat(&self, name: &str) -> u64 {
        let page = get(self.admin, "/stats").await.body;
        let values = page.lines().filter_map(|line| line.split_once(": "));
        let found = values.into_iter().find(|(found, _)| *found == name);
        found.unwrap_or_else(|| panic!("Envoy counts `{name}`")).1.parse().unwrap()
    }

    /// The most memory that Envoy ever had, in KiB.
    pub(crate) fn peak_memory(&self) -> u64 {
        self.processes[0].status("VmHWM:")
    }

    /// The CPU time that Envoy has had.
    pub(crate) fn cpu(&self) -> Duration {
        self.processes[0].cpu()
    }

    /// What the sample model says that its answers were: a line for each, in their order.
    pub(crate) fn account(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.folder.0.join("account")).unwrap_or_default();
        text.split_inclusive('\n').map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

pub(crate) fn envoy() -> PathBuf {
    if let Some(path) = std::env::var_os("TIERGATE_ENVOY") {
        return path.into();
    }
    installed(&[])
}

fn installed(version: &[&str]) -> PathBuf {
    let output = Command::new(root("scripts/envoy.sh")).args(version).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "scripts/envoy.sh installs Envoy");
    String::from_utf8(output.stdout).unwrap().lines().last().unwrap().into()
}

/// One of another version, whose digest is in `scripts/envoy.sh`.
pub(crate) fn older(version: &str) -> PathBuf {
    installed(&[version])
}

pub(crate) async fn gateway(grpc: SocketAddr) -> Gateway {
    gateway_of(&[grpc.port()]).await
}

/// With a tiergate at each of these ports.
pub(crate) async fn gateway_of(tiergates: &[u16]) -> Gateway {
    gateway_by(&shipped("envoy/tiergate.yaml"), tiergates).await
}

pub(crate) fn shipped(file: &str) -> String {
    std::fs::read_to_string(root(file)).unwrap()
}

/// As `config` says, but for the ports.
pub(crate) async fn gateway_by(config: &str, tiergates: &[u16]) -> Gateway {
    gateway_with(config, tiergates, &[]).await
}

/// Before a sample model with these flags.
pub(crate) async fn gateway_with(config: &str, tiergates: &[u16], flags: &[&str]) -> Gateway {
    gateway_on(&envoy(), config, tiergates, flags).await
}

/// By this Envoy.
pub(crate) async fn gateway_on(envoy: &Path, config: &str, tiergates: &[u16], flags: &[&str]) -> Gateway {
    let model = free_port();
    let mut command = Command::new(example("model"));
    command.args(["--listen", &format!("127.0.0.1:{model}")]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut gateway = gateway_on_before(envoy, config, tiergates, model).await;
    command.args(flags).arg("--account").arg(gateway.folder.0.join("account"));
    gateway.processes.push(Process(command.spawn().unwrap()));
    let _ = Connection::open(SocketAddr::from(([127, 0, 0, 1], model))).await;
    gateway
}

/// Before a model that somebody else starts.
pub(crate) async fn gateway_before(config: &str, tiergates: &[u16], model: u16) -> Gateway {
    gateway_on_before(&envoy(), config, tiergates, model).await
}

async fn gateway_on_before(envoy: &Path, config: &str, tiergates: &[u16], model: u16) -> Gateway {
    let [listen, admin] = std::array::from_fn(|_| free_port());
    let mut config = config.to_owned();
    let endpoint = config.lines().find(|line| line.contains("port_value: 50051")).expect("an endpoint").to_owned();
    let endpoints = tiergates.iter().map(|port| endpoint.replace("port_value: 50051", &format!("port_value:  {port}")));
    config = config.replace(&endpoint, &endpoints.collect::<Vec<_>>().join("\n"));
    for (shipped, ours) in [(10000, listen), (9901, admin), (8000, model)] {
        let from = format!("port_value: {shipped}");
        assert!(config.contains(&from), "the shipped configuration uses port {shipped}");
        config = config.replace(&from, &format!("port_value:  {ours}"));
    }
    // What is tried here is what is answered, on machines that have more to do: not whether it came in a quarter of a second.
    assert!(config.contains("0.25s"), "the shipped configuration has a deadline");
    config = config.replace("0.25s", "5s");
    let folder = Folder::new();
    let (process, admin) = start_on(envoy, &config, &["--concurrency", "2"], &folder).await;
    let address = SocketAddr::from(([127, 0, 0, 1], listen));
    Gateway { address, admin, processes: vec![process], folder }
}

/// An Envoy with this configuration, once its listeners are up, and its admin port. What it has to write is in `folder`.
pub(crate) async fn start(config: &str, flags: &[&str], folder: &Folder) -> (Process, SocketAddr) {
    start_on(&envoy(), config, flags, folder).await
}

async fn start_on(envoy: &Path, config: &str, flags: &[&str], folder: &Folder) -> (Process, SocketAddr) {
    // It goes by the ending, and reads thousands of routes of JSON sooner.
    let file = folder.file(if config.starts_with('{') { "envoy.json" } else { "envoy.yaml" }, config);
    let told = folder.0.join("admin");
    let mut command = Command::new(envoy);
    command.args(["--disable-hot-restart", "--log-level", "error"]).args(flags);
    let mut process = Process(command.arg("-c").arg(file).arg("--admin-address-path").arg(&told).spawn().unwrap());
    let started = Instant::now();
    let admin: SocketAddr = loop {
        assert!(process.0.try_wait().unwrap().is_none(), "Envoy refuses {config}");
        assert!(started.elapsed() < PATIENCE, "Envoy starts");
        match std::fs::read_to_string(&told).unwrap_or_default().trim().parse() {
            Ok(address) => break address,
            // Nothing tells when another process has written.
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    // It says 503 until its listeners are up.
    await_page(admin, "/ready", |status, _| status == 200).await;
    (process, admin)
}

pub(crate) const BODY: &str = r#"{"messages":[{"role":"user","content":"one two three"}],"max_tokens":5}"#;

fn headers(token: &str) -> [(&'static str, String); 2] {
    [("authorization", format!("Bearer {token}")), ("content-type", "application/json".to_owned())]
}

pub(crate) async fn chat(connection: &mut Connection, path: &str, token: &str) -> crate::support::Answer {
    let headers = headers(token);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    connection.send("POST", path, &headers, BODY).await
}

#[test]
fn the_shipped_configurations_are_valid() {
    for file in ["envoy/tiergate.yaml", "envoy/report-by-call.yaml", "envoy/classic.yaml", "envoy/lua.yaml"] {
        let mut command = Command::new(envoy());
        command.args(["--mode", "validate", "--log-level", "warning", "-c"]).arg(root(file));
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{file}: {text}");
        assert!(!text.to_lowercase().contains("deprecated"), "{file}: {text}");
    }
}

/// A thousand requests at once are a thousand connections to the model, and Envoy waits a second for each.
#[tokio::test]
async fn the_model_keeps_a_burst_of_connections_until_it_has_its_turn() {
    let port = free_port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut command = Command::new(example("model"));
    let command = command.args(["--listen", &address.to_string()]).stdout(Stdio::null());
    let process = Process(command.spawn().unwrap());
    drop(Connection::open(address).await);
    let signal = |name: &str| {
        let sent = Command::new("kill").args(["-s", name, &process.0.id().to_string()]).status().unwrap();
        assert!(sent.success());
    };
    signal("STOP");
    let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(900));
    let connections: Vec<_> = (0..500).map_while(|_| connect().ok()).collect();
    signal("CONT");
    assert_eq!(connections.len(), 500);
}

/// The tour, on ports of its own.
pub(crate) fn tour(flags: &[&str]) -> Command {
    let mut command = Command::new(example("tour"));
    command.args(flags).env("TIERGATE_ENVOY", envoy());
    for flag in ["--listen", "--listen-admin", "--listen-grpc", "--listen-http", "--listen-model"] {
        command.args([flag, "127.0.0.1:0"]);
    }
    command
}

/// What `make run ONCE=1` prints: every row as it should be. Once, because two of them would write to the same logs.
pub(crate) static TOUR: LazyLock<String> = LazyLock::new(|| printed(tour(&["--once"])));

pub(crate) fn printed(mut tour: Command) -> String {
    let output = tour.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn the_tour_is_as_it_should_be() {
    assert!(TOUR.contains("44 rows, 0 not as they should be"), "{}", *TOUR);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_connections_and_20_000_requests_get_nothing_but_200() {
    const CONNECTIONS: usize = 64;
    const REQUESTS: usize = 20_000;
    let manifests = generous_manifests();
    let tiergate = Tiergate::start(&manifests.0, &["--log", "warn,tiergate=info"]);
    let gateway = gateway(tiergate.grpc).await;
    let token = token("maas-default-gateway-tier-premium", "jland-78028f6d", &manifests.0);
    let before = tiergate.metric("tiergate_decisions_total", "allowed").await;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..CONNECTIONS {
        let (token, address) = (token.clone(), gateway.address);
        tasks.spawn(async move {
            let mut connection = Connection::open(address).await;
            let share = REQUESTS / CONNECTIONS + usize::from(number < REQUESTS % CONNECTIONS);
            for at in 0..share {
                let answer = chat(&mut connection, "/llm/qwen3/v1/chat/completions", &token).await;
                assert_eq!(answer.status, 200, "{}", answer.body);
                if at % 50 == 0 {
                    let junk = chat(&mut connection, "/llm/qwen3/v1/chat/completions", "garbage").await;
                    assert_eq!(junk.status, 401, "{}", junk.body);
                }
            }
            share
        });
    }
    let sent: usize = tasks.join_all().await.into_iter().sum();
    assert_eq!(sent, REQUESTS);
    let after = tiergate.metric("tiergate_decisions_total", "allowed").await;
    assert_eq!(after - before, REQUESTS as u64);
    assert_eq!(tiergate.metric("tiergate_identities", "").await, 1);
    let undecided = tiergate.metric("tiergate_decisions_total", "undecided").await;
    assert_eq!(undecided, 0);
}

#[tokio::test]
async fn a_dead_tiergate_is_503_and_nothing_passes() {
    let manifests = generous_manifests();
    let tiergate = Tiergate::start(&manifests.0, &[]);
    let gateway = gateway(tiergate.grpc).await;
    let token = token("maas-default-gateway-tier-premium", "jland-78028f6d", &manifests.0);
    let mut connection = Connection::open(gateway.address).await;
    assert_eq!(chat(&mut connection, "/llm/qwen3/v1/chat/completions", &token).await.status, 200);
    drop(tiergate);
    let refused = chat(&mut connection, "/llm/qwen3/v1/chat/completions", &token).await;
    assert_eq!(refused.status, 503, "{}", refused.body);
}

#[tokio::test]
async fn limits_are_told_on_200_and_on_429_and_nothing_is_appended() {
    let tiergate = Tiergate::start(&root("examples/manifests"), &[]);
    let gateway = gateway(tiergate.grpc).await;
    let token = token("maas-default-gateway-tier-free", "alice-12345678", &root("examples/manifests"));
    let mut connection = Connection::open(gateway.address).await;
    for left in (0..5).rev() {
        let answer = chat(&mut connection, "/llm/granite/v1/chat/completions", &token).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("5"));
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some(left.to_string().as_str()));
        assert_eq!(answer.header("x-ratelimit-remaining"), answer.header("x-ratelimit-remaining-requests"));
        assert_eq!(answer.header("x-ratelimit-limit-tokens"), Some("100"));
        crate::classic::settled(&tiergate, 5 - left).await;
    }
    let refused = chat(&mut connection, "/llm/granite/v1/chat/completions", &token).await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("x-ratelimit-limit"), Some("5"));
    assert_eq!(refused.header("x-ratelimit-remaining"), Some("0"));
    assert_eq!(refused.header("x-ext-auth-reason"), Some("TG-LIMIT-REQUESTS"));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=24).contains(&wait), "{wait}");
    let error = &refused.json()["error"];
    assert_eq!((error["code"].as_str(), error["tier"].as_str()), (Some("TG-LIMIT-REQUESTS"), Some("free")));
    assert_eq!(error["model"], "llm/granite");
    assert!(error["detail"].is_null(), "operators' detail is not for callers");
}

/// A limit that is used up for long is final for OpenAI's clients, in both setups; one that comes back soon is not.
#[tokio::test]
async fn a_limit_that_is_used_up_for_long_tells_clients_not_to_try_again() {
    let manifests = root("examples/manifests");
    let token = token("maas-default-gateway-tier-free", "alice-12345678", &manifests);
    for (file, flags) in [("envoy/tiergate.yaml", &[][..]), ("envoy/classic.yaml", &["--enforce-limits", "rls"])] {
        for (hint, is_final) in [("1s", true), ("24s", false)] {
            let tiergate = Tiergate::start(&manifests, &[flags, &["--retry-hint", hint]].concat());
            let gateway = gateway_by(&shipped(file), &[tiergate.grpc.port()]).await;
            let mut connection = Connection::open(gateway.address).await;
            for call in 1..=5 {
                let answer = chat(&mut connection, "/llm/granite/v1/chat/completions", &token).await;
                assert_eq!(answer.status, 200, "{}", answer.body);
                // It leaves its tokens: the limit of requests is what refuses.
                crate::classic::settled(&tiergate, call).await;
            }
            let refused = chat(&mut connection, "/llm/granite/v1/chat/completions", &token).await;
            let reason = refused.header("x-ext-auth-reason");
            assert_eq!((refused.status, reason), (429, Some("TG-LIMIT-REQUESTS")), "{file} {hint}");
            assert!(refused.header("retry-after").is_some());
            assert_eq!(refused.header("x-should-retry"), is_final.then_some("false"), "{file} {hint}");
            let error = &refused.json()["error"];
            let (kind, code) = match is_final {
                true => ("insufficient_quota", "insufficient_quota"),
                false => ("rate_limit_error", "TG-LIMIT-REQUESTS"),
            };
            assert_eq!((error["type"].as_str(), error["code"].as_str()), (Some(kind), Some(code)), "{file} {hint}");
            assert_eq!(error["reason"].as_str(), is_final.then_some("TG-LIMIT-REQUESTS"), "{file} {hint}");
        }
    }
}

/// A stream without usage is a stream that nobody counts, whatever its body is called.
#[tokio::test]
async fn a_stream_under_another_content_type_is_counted_or_refused() {
    let manifests = generous_manifests();
    let tiergate = Tiergate::start(&manifests.0, &[]);
    let gateway = gateway(tiergate.grpc).await;
    let token = token("maas-default-gateway-tier-premium", "jland-78028f6d", &manifests.0);
    let bearer = format!("Bearer {token}");
    let body = BODY.replacen('{', "{\"stream\":true,", 1);
    for kind in
        ["multipart/form-data; boundary=x", "audio/json", "application/grpc", "image/x", "application/octet-stream"]
    {
        let mut connection = Connection::open(gateway.address).await;
        let headers = [("authorization", bearer.as_str()), ("content-type", kind)];
        let answer = connection.send("POST", "/llm/qwen3/v1/chat/completions", &headers, &body).await;
        if kind == "application/grpc" {
            // To gRPC, Envoy says it in its own way: 200, and the refusal in `grpc-status`.
            assert!(answer.body.is_empty() && answer.header("grpc-status").is_some_and(|status| status != "0"));
            continue;
        }
        assert_eq!(answer.status, 400, "{kind}: {}", answer.body);
        assert_eq!(answer.json()["error"]["code"], "TG-BODY-UNREADABLE", "{kind}");
    }
}

/// What the linter calls clean, Envoy takes.
#[test]
fn envoy_takes_every_configuration_that_the_linter_has_nothing_to_say_about() {
    let envoy = envoy();
    let folders = std::fs::read_dir(root("tests/data/lint")).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> =
        folders.map(|folder| folder.join("good/envoy/envoy.yaml")).filter(|file| file.exists()).collect();
    assert!(files.len() > 10, "{files:?}");
    for file in files {
        let mut command = Command::new(&envoy);
        let command = command.args(["--mode", "validate", "--disable-hot-restart", "--log-level", "error", "-c"]);
        let output = command.arg(&file).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {errors}", file.display());
    }
}
