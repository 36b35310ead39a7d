//! Which rule a request belongs to, beside what a real Envoy selects from the configuration that Istio and Envoy Gateway
//! make of the same objects: thousands of generated requests.

pub(crate) mod generate;
mod patterns;
mod translate;

use std::collections::HashMap;
use std::net::SocketAddr;

use serde::Deserialize;
use serde_json::{Value, json};
use tiergate::denial::Code;
use tiergate::lint::compile;
use tiergate::manifest::Manifests;
use tiergate::policy::{Options, Policy};
use tiergate::problem::Finding;
use tiergate::request::{Headers, OperatorModel, Request};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use self::generate::{PORTS, Sent, World};
use self::translate::{Controller, Told, covers, hostname};
use crate::envoy::start;
use crate::support::{Folder, PATIENCE, Process, get, soak};

/// An Envoy with a listener for each list of virtual hosts.
struct Envoy {
    listeners: Vec<SocketAddr>,
    _process: Process,
    _folder: Folder,
}

/// What was selected.
#[derive(Debug, Deserialize)]
struct Selected(
    /// `namespace/name rule`
    String,
    /// The listener.
    String,
    Told,
);

impl Envoy {
    async fn start(virtual_hosts: &[Value]) -> Self {
        let folder = Folder::new();
        let listeners: Vec<Value> = virtual_hosts.iter().enumerate().map(|(at, hosts)| listener(at, hosts)).collect();
        let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": 0}});
        // The bound of RE2's programs is Istio's: Envoy's own is too small for `(?i)`.
        let layer = json!({"name": "static", "static_layer": {"re2.max_program_size.error_level": 32768}});
        let config = json!({
            "admin": {"address": address},
            "layered_runtime": {"layers": [layer]},
            "static_resources": {"listeners": listeners},
        });
        let (process, admin) = start(&config.to_string(), &["--concurrency", "1"], &folder).await;
        let known = get(admin, "/listeners?format=json").await.json();
        let port = |name: &str| {
            let mut statuses = known["listener_statuses"].as_array().unwrap().iter();
            let status = statuses.find(|status| status["name"] == name).unwrap();
            u16::try_from(status["local_address"]["socket_address"]["port_value"].as_u64().unwrap()).unwrap()
        };
        let listeners = (0..virtual_hosts.len()).map(|at| SocketAddr::from(([127, 0, 0, 1], port(&at.to_string()))));
        Envoy { listeners: listeners.collect(), _process: process, _folder: folder }
    }
}

fn listener(at: usize, virtual_hosts: &Value) -> Value {
    json!({
        "name": at.to_string(),
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "it",
                "normalize_path": true,
                "route_config": {"ignore_port_in_host_matching": true, "virtual_hosts": virtual_hosts},
                "http_filters": [{
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
                }],
            },
        }]}],
    })
}

/// What Envoy selects for each request.
async fn ask(listener: SocketAddr, requests: &[Sent]) -> Vec<Option<Selected>> {
    let mut stream = BufReader::new(TcpStream::connect(listener).await.unwrap());
    let mut selected = Vec::new();
    for request in requests {
        stream.write_all(&request.bytes()).await.unwrap();
        let answer = tokio::time::timeout(PATIENCE, answer(&mut stream, request)).await;
        selected.push(answer.unwrap_or_else(|_| panic!("no answer to {request:?}")));
    }
    selected
}

async fn answer(stream: &mut BufReader<TcpStream>, request: &Sent) -> Option<Selected> {
    let (mut status, mut selected, mut length) = (0, None, 0);
    loop {
        let mut line = String::new();
        assert!(stream.read_line(&mut line).await.unwrap() > 0, "closed after {request:?}");
        match line.trim_end().split_once(": ") {
            _ if line == "\r\n" => break,
            None => status = line.split(' ').nth(1).unwrap().parse().unwrap(),
            Some(("x-selected", text)) => selected = Some(serde_json::from_str(text).unwrap()),
            Some(("content-length", text)) if request.method != "HEAD" => length = text.parse().unwrap(),
            Some(_) => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    assert_eq!(status, if selected.is_some() { 200 } else { 404 }, "{request:?}");
    selected
}

/// What tiergate selects, of a request to a listener's name or port; `Err` if it refuses to.
fn select(
    policy: &Policy,
    sent: &Sent,
    headers: Headers<'_>,
    to: (Option<&str>, Option<u16>),
) -> Result<Option<String>, Code> {
    let (path, query) = Request::split_path(&sent.target);
    let request = Request {
        method: sent.method,
        host: &sent.host,
        scheme: "http",
        path,
        query,
        headers,
        gateway: None,
        listener: to.0,
        port: to.1,
        peer: None,
        sni: None,
        model: OperatorModel::Unset,
        body: None,
    };
    match policy.route(None, &request) {
        Ok(plan) => Ok(Some(format!("{} {}", plan.name, plan.rule))),
        Err(denial) if denial.code == Code::RouteUnknown => Ok(None),
        Err(denial) => Err(denial.code),
    }
}

/// The listener of `port` to whose name the host belongs, and to no other: the most specific.
fn listener_of<'w>(world: &'w World, port: u16, host: &str) -> Option<&'w str> {
    let host = host.to_ascii_lowercase();
    let host = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => &host,
    };
    let listeners = world.gateway["spec"]["listeners"].as_array().unwrap().iter();
    let fit = listeners.filter(|listener| listener["port"] == port && covers(&hostname(listener), host));
    let specific = |listener: &&Value| (!hostname(listener).starts_with('*'), hostname(listener).len());
    fit.max_by_key(specific).map(|listener| listener["name"].as_str().unwrap())
}

/// The headers as Envoy sends them without `encode_raw_headers`: joined, and what is not UTF-8 replaced.
fn joined(sent: &Sent) -> HashMap<String, String> {
    let mut map: HashMap<String, String> = HashMap::new();
    for (name, value) in sent.headers() {
        let value: String = match str::from_utf8(value) {
            Ok(text) => text.to_owned(),
            Err(_) => value.iter().map(|byte| if byte.is_ascii() { char::from(*byte) } else { '!' }).collect(),
        };
        let joined = map.entry(name.to_ascii_lowercase());
        joined.and_modify(|joined| *joined += &format!(",{value}")).or_insert(value);
    }
    map
}

/// Requests that were compared.
#[derive(Default)]
struct Comparison {
    compared: usize,
    with_route: usize,
    /// Refused by tiergate, with raw headers and with joined ones.
    unclear: [usize; 2],
    /// Served by Envoy from a listener to which the host does not belong.
    strayed: usize,
    /// Not decided by tiergate, because controllers isolate listeners in different ways.
    undecided: usize,
    differences: Vec<String>,
}

#[tokio::test]
async fn tiergate_selects_what_envoy_selects() {
    let (first, worlds, requests) = soak((1, 24, 150), (1_000, 400, 300));
    let first = std::env::var("TIERGATE_SEED").map_or(first, |seed| seed.parse().unwrap());
    let worlds: Vec<(u64, World)> = (first..first + worlds).map(|seed| (seed, World::new(seed, requests))).collect();
    let controllers = [Controller::Istio, Controller::EnvoyGateway];
    let pairs = || worlds.iter().flat_map(|world| controllers.map(|controller| (world, controller)));
    let hosts = |((_, world), controller): (&(u64, World), Controller)| {
        PORTS.map(|port| controller.virtual_hosts(&world.gateway, &world.routes, port))
    };
    let envoy = Envoy::start(&pairs().flat_map(hosts).collect::<Vec<_>>()).await;
    let mut all = Comparison::default();
    for (((seed, world), controller), listeners) in pairs().zip(envoy.listeners.chunks(PORTS.len())) {
        let policy = policy(world, controller).unwrap();
        let of = format!("TIERGATE_SEED={seed}, {controller:?}");
        let selected = [ask(listeners[0], &world.requests).await, ask(listeners[1], &world.requests).await];
        for (at, sent) in world.requests.iter().enumerate() {
            let expected = [selected[0][at].as_ref(), selected[1][at].as_ref()];
            for (port, expected) in PORTS.into_iter().zip(expected).filter(|(port, _)| world.listens(*port)) {
                all.compare(&policy, world, port, sent, expected, &of);
            }
            all.compare_without_port(&policy, sent, expected, &of);
        }
    }
    assert!(all.strayed > 0, "no request strays from its listener");
    all.report("routes");
}

impl Comparison {
    #[expect(clippy::too_many_arguments, reason = "what was asked, what came of it, and where")]
    fn compare(
        &mut self,
        policy: &Policy,
        world: &World,
        port: u16,
        sent: &Sent,
        expected: Option<&Selected>,
        of: &str,
    ) {
        let listener = listener_of(world, port, &sent.host);
        // The Gateway API isolates listeners, and Envoy's virtual hosts do not where the right one has no such host. To what
        // strays like that, tiergate says no.
        let strays = expected.is_some_and(|selected| Some(&*selected.1) != listener);
        let by_age = expected.is_some_and(|selected| selected.2 == Told::ByAge);
        if expected.is_some_and(|selected| selected.2 == Told::Not) {
            return;
        }
        self.compared += 1;
        self.with_route += usize::from(expected.is_some());
        self.strayed += usize::from(strays);
        let mut names: Vec<String> = sent.headers().map(|(name, _)| name.to_ascii_lowercase()).collect();
        names.sort_unstable();
        let repeated = names.windows(2).any(|two| two[0] == two[1]);
        let map = joined(sent);
        let opaque = sent.headers().any(|(_, value)| !value.is_ascii());
        let doubtful = |value: &String| value.contains([',', '!']);
        let selected = expected.map(|selected| selected.0.clone());
        let of_port = ((None, Some(port)), selected.clone().filter(|_| !strays));
        // Who names the listener in Envoy's configuration names it there, in the virtual host that Envoy takes.
        let named = expected.map(|taken| ((Some(&*taken.1), None), selected));
        let cases = [of_port].into_iter().chain(named);
        for (to, expected) in cases {
            let forms = [
                (Headers::List(sent.headers().collect()), repeated || opaque),
                (Headers::Map(&map), repeated || opaque || map.values().any(doubtful)),
            ];
            for (at, (headers, may_refuse)) in forms.into_iter().enumerate() {
                match select(policy, sent, headers, to) {
                    Err(Code::RequestInvalid) if may_refuse => self.unclear[at] += 1,
                    // Controllers differ about the listener, and Envoy says no, or should; or ages decide.
                    Err(Code::UnavailableGateway) if expected.is_none() || by_age => self.undecided += 1,
                    selected if selected == Ok(expected.clone()) => {}
                    selected => {
                        let what = format!("{sent:?} to {to:?}: Envoy {expected:?}, tiergate {selected:?}");
                        self.differences.push(format!("{of}: {what}"));
                    }
                }
            }
        }
    }

    /// Nobody says which listener it came to: what is decided has to be right for both.
    fn compare_without_port(&mut self, policy: &Policy, sent: &Sent, expected: [Option<&Selected>; 2], of: &str) {
        let [Some(one), Some(other)] = expected else { return };
        if one.0 == other.0 || [one.2, other.2] != [Told::ByObjects; 2] {
            return;
        }
        let selected = select(policy, sent, Headers::List(sent.headers().collect()), (None, None));
        if matches!(selected, Ok(Some(_))) {
            let what = format!("{sent:?} to some port: Envoy {} or {}, tiergate {selected:?}", one.0, other.0);
            self.differences.push(format!("{of}: {what}"));
        }
    }

    fn report(self, what: &str) {
        let Comparison { compared, with_route, unclear: [raw, joined], strayed, undecided, differences } = self;
        println!(
            "{what}: {compared} requests, {with_route} with a route; refused {raw} with raw headers, {joined} with joined \
             ones, {undecided} undecided; {strayed} from a listener of another host; {} differences",
            differences.len()
        );
        let first = differences.iter().take(20).map(String::as_str).collect::<Vec<_>>();
        assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), first.join("\n"));
        assert!((compared / 10..compared).contains(&with_route), "{with_route} of {compared} requests had a route");
        assert!(raw <= joined && joined * 5 < compared, "{joined} of {compared} requests were refused");
    }
}

fn auth_policy(route: &Value) -> Value {
    json!({
        "apiVersion": "kuadrant.io/v1",
        "kind": "AuthPolicy",
        "metadata": route["metadata"],
        "spec": {
            "targetRef": {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": route["metadata"]["name"]},
            "rules": {"authentication": {"service-accounts": {"kubernetesTokenReview": {"audiences": ["any"]}}}},
        },
    })
}

/// The policy of a world, or the errors in it.
fn policy(world: &World, controller: Controller) -> Result<Policy, Vec<String>> {
    let mut gateway = world.gateway.clone();
    if controller == Controller::EnvoyGateway {
        gateway["metadata"]["annotations"] = json!({"tiergate.io/route-order": "envoy-gateway"});
    }
    // Each route has policies of its own: which one is found makes a difference.
    let policies: Vec<Value> = world.routes.iter().map(auth_policy).collect();
    let objects = [&gateway].into_iter().chain(&world.routes).chain(&policies);
    let text: Vec<String> = objects.map(ToString::to_string).collect();
    let manifests = Manifests::read([("world.yaml", text.join("\n---\n").as_str())]);
    let policy = compile(manifests, &Options::default());
    // Some of the random routes attach to nothing, which is said, and shuts no other.
    let errors = policy.problems.iter().filter(|p| p.is_error() && p.code != Finding::RouteUnattached);
    let errors: Vec<String> = errors.map(ToString::to_string).collect();
    if errors.is_empty() { Ok(policy) } else { Err(errors) }
}
