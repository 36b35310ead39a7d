//! What expressions see of a request, beside what they see in a real Envoy: what is empty there, and what is absent.

use std::path::Path;
use std::time::Instant;

use envoy_types::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use envoy_types::pb::google::rpc::Status as RpcStatus;
use serde_json::{Map, Value, json};
use tiergate::expression::{EvalError, Expression, Scope};
use tiergate::listen::ext_authz::to_request;
use tiergate::request::{Attributes, Unset};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::envoy::start;
use crate::support::{Connection, Folder, PATIENCE, free_port};

/// What each request starts with, and its headers. They come to a Check.
const REQUESTS: [(&str, &[&str]); 13] = [
    ("GET /a HTTP/1.1", &["host: models.example.com"]),
    ("POST /a? HTTP/1.1", &["host: models.example.com", "content-length: 0"]),
    ("GET /a?b=c&dry_run=true HTTP/1.1", &["host: models.example.com"]),
    ("GET /a?b?c HTTP/1.1", &["host: models.example.com"]),
    ("GET /?/..//%2f;x HTTP/1.1", &["host: models.example.com"]),
    ("GET / HTTP/1.1", &["Host: Models.Example.com:8443", "X: 1"]),
    ("GET /a/b%20c/ HTTP/1.1", &["host: models.example.com", "x: 1", "X: 2", "x:"]),
    ("GET /a HTTP/1.1", &["host: models.example.com", "x:", "user-agent: u", "referer: r"]),
    ("GET /a HTTP/1.1", &["host: models.example.com", "cookie: a=1", "cookie: b=2"]),
    ("GET http://other.example.com/a?x HTTP/1.1", &["host: models.example.com"]),
    ("DELETE /a HTTP/1.1", &["host:"]),
    ("GET /a HTTP/1.0", &["host: models.example.com"]),
    ("PATCH /a HTTP/1.1", &["host: models.example.com", "accept: */*", "accept: text/html"]),
];

/// And these beside each attribute by itself.
const EXPRESSIONS: [&str; 11] = [
    "request.query == ''",
    "!request.query.contains('dry_run=true')",
    "request.host.startsWith('models')",
    "request.headers['x']",
    "request.headers['x'] == ''",
    "'x' in request.headers",
    "request.headers['absent']",
    "request.headers['host']",
    "request.headers[':authority']",
    "request.headers['cookie']",
    "request.headers['accept']",
];

/// Lets everything pass, and passes on what it was asked.
struct Asked(UnboundedSender<CheckRequest>);

#[tonic::async_trait]
impl Authorization for Asked {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        self.0.send(request.into_inner()).unwrap();
        Ok(Response::new(CheckResponse { status: Some(RpcStatus::default()), ..CheckResponse::default() }))
    }
}

async fn authorization() -> (u16, UnboundedReceiver<CheckRequest>) {
    let (sender, receiver) = unbounded_channel();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tonic::transport::Server::builder().add_service(AuthorizationServer::new(Asked(sender)));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (port, receiver)
}

fn expressions() -> Vec<String> {
    let attributes =
        Attributes::NAMES.iter().flat_map(|name| [format!("request.{name}"), format!("has(request.{name})")]);
    attributes.chain(EXPRESSIONS.map(str::to_owned)).collect()
}

fn config(ports: [u16; 3], log: &Path, encode_raw_headers: bool) -> Value {
    let address = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let [listen, admin, authorization] = ports;
    let typed = |name: &str, kind: &str, mut config: Value| {
        config["@type"] = format!("type.googleapis.com/envoy.extensions.{kind}").into();
        json!({"name": name, "typed_config": config})
    };
    let asked: Map<String, Value> =
        expressions().into_iter().map(|source| (source.clone(), format!("%CEL({source})%").into())).collect();
    let manager = json!({
        "stat_prefix": "it",
        "normalize_path": true,
        "http_protocol_options": {"accept_http_10": true},
        "access_log": [typed("log", "access_loggers.file.v3.FileAccessLog", json!({
            "path": log, "log_format": {"json_format": asked},
        }))],
        "route_config": {"virtual_hosts": [{
            "name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
        }]},
        "http_filters": [
            typed("envoy.filters.http.ext_authz", "filters.http.ext_authz.v3.ExtAuthz", json!({
                "transport_api_version": "V3",
                "encode_raw_headers": encode_raw_headers,
                "grpc_service": {"envoy_grpc": {"cluster_name": "authorization"}, "timeout": "10s"},
            })),
            typed("envoy.filters.http.router", "filters.http.router.v3.Router", json!({})),
        ],
    });
    let http2 = json!({
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    });
    let kind = "filters.network.http_connection_manager.v3.HttpConnectionManager";
    json!({
        "admin": {"address": address(admin)},
        "static_resources": {
            "listeners": [{
                "address": address(listen),
                "filter_chains": [{"filters": [typed("envoy.filters.network.http_connection_manager", kind, manager)]}],
            }],
            "clusters": [{
                "name": "authorization",
                "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
                "load_assignment": {"cluster_name": "authorization", "endpoints": [
                    {"lb_endpoints": [{"endpoint": {"address": address(authorization)}}]},
                ]},
            }],
        },
    })
}

/// The line of the request's number.
async fn logged(log: &Path, number: usize) -> Value {
    let started = Instant::now();
    loop {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        if let Some(line) = text.split_inclusive('\n').nth(number).filter(|line| line.ends_with('\n')) {
            return serde_json::from_str(line).unwrap();
        }
        assert!(started.elapsed() < PATIENCE, "Envoy logs");
        tokio::task::yield_now().await;
    }
}

/// What `source` yields here for a limit, as Envoy logs it.
fn seen(source: &str, scope: &Scope<'_>) -> Value {
    match Expression::compile(source).unwrap().eval(scope).map(|value| value.to_json()) {
        Ok(Value::String(text)) => text.into(),
        Ok(value) => value.to_string().into(),
        Err(EvalError::Missing(_)) => Value::Null,
        Err(error) => panic!("{source}: {error}"),
    }
}

async fn compare(encode_raw_headers: bool) {
    let folder = Folder::new();
    let log = folder.0.join("log");
    let (authorization, mut asked) = authorization().await;
    let [listen, admin] = std::array::from_fn(|_| free_port());
    let config = config([listen, admin, authorization], &log, encode_raw_headers);
    let flags = ["--concurrency", "1", "--file-flush-interval-msec", "5"];
    let _envoy = start(&config.to_string(), &flags, &folder).await;
    let send = async |line: &str, headers: &[&str]| {
        let mut connection = Connection::open(([127, 0, 0, 1], listen).into()).await;
        connection.write(format!("{line}\r\n{}\r\n\r\n", headers.join("\r\n")).as_bytes()).await;
        connection.answer().await.status
    };
    let mut faults = Vec::new();
    for (number, (line, headers)) in REQUESTS.into_iter().enumerate() {
        assert_eq!(send(line, headers).await, 200, "{line}");
        let check = asked.recv().await.unwrap();
        let request = to_request(&check).unwrap();
        let scope = Scope { request: request.attributes(Unset::Empty), ..Scope::default() };
        let mut theirs = logged(&log, number).await;
        // Ours has no query.
        let path = theirs["request.path"].as_str().unwrap().split('?').next().unwrap().to_owned();
        theirs["request.path"] = path.into();
        for source in expressions() {
            let ours = seen(&source, &scope);
            if ours != theirs[&source] {
                faults.push(format!("{line} {headers:?}: `{source}` is {ours}, in Envoy {}", theirs[&source]));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    // What has no method, host or path never comes so far, and no `#` does.
    for (line, headers) in [("GET /a HTTP/1.0", &["x: 1"]), ("GET /a#b HTTP/1.1", &["host: h"])] {
        assert_eq!(send(line, headers).await, 400, "{line}");
    }
    assert!(asked.try_recv().is_err());
}

#[tokio::test]
async fn limits_see_of_a_request_what_envoy_sees() {
    compare(true).await;
}

#[tokio::test]
async fn and_where_envoy_joins_its_headers() {
    compare(false).await;
}
