//! One Check: decoding it, deciding it warm, answering it, and the whole of it over a gRPC connection.
//!
//! The request is one that Envoy 1.40 sent (`tests/data/check.bin`, 2.2 kB, 24 headers); the policy is the tour's, with
//! its limits raised so that they are taken and never reached. "Warm" means that the identity is remembered. Not in
//! here: Envoy itself, verifying a token (see `identity`), and the network between machines.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench that cannot be set up has to stop"
)]

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use prost::Message;
use tiergate::clock::Clock;
use tiergate::gate::Gate;
use tiergate::listen::ext_authz::to_request;
use tiergate::listen::rate_limit::RateLimit;
use tiergate::listen::{Services, Workers, bind};
use tiergate::metrics::PortMetrics;
use tiergate::respond::{Style, check_response};

mod support;

use self::support::{LARGE, SMALL, captured, ext_authz, gate, gate_at, now};

fn check(c: &mut Criterion) {
    let bytes = captured();
    let request = CheckRequest::decode(bytes.as_slice()).expect("a CheckRequest");
    let gate = gate(&request);
    let clock = Clock::start();
    let http = to_request(&request).expect("HTTP attributes");
    let admitted = now(gate.check(&http, clock.now()));
    assert!(admitted.outcome.is_ok(), "{:?}", admitted.outcome);
    let authz = ext_authz(&gate, clock);

    let mut group = c.benchmark_group("check");
    group.bench_function("prost decodes the request", |b| {
        b.iter(|| CheckRequest::decode(black_box(bytes.as_slice())).map(|request| request.attributes.is_some()));
    });
    group.bench_function("warm decision, with evidence", |b| {
        b.iter(|| now(gate.check(black_box(&http), clock.now())).outcome.is_ok());
    });
    let decision = now(gate.check(&http, clock.now()));
    group.bench_function("answer of a decision", |b| {
        b.iter(|| check_response(black_box(&decision), Some(&http.headers), Style::default()).status.is_some());
    });
    let response: CheckResponse = check_response(&decision, Some(&http.headers), Style::default());
    group.bench_function("prost encodes the answer", |b| b.iter(|| black_box(&response).encode_to_vec().len()));
    group.bench_function("decided, answered and counted", |b| {
        b.iter(|| now(authz.decide(black_box(&request))).status.is_some());
    });
    // A refusal is another row.
    assert!(now(gate.check(&http, clock.now())).outcome.is_ok(), "the limits are never reached");
    for (name, scale) in [("warm decision, ten models", SMALL), ("warm decision, a thousand models", LARGE)] {
        let gate = gate_at(&request, scale);
        group.bench_function(name, |b| b.iter(|| now(gate.check(black_box(&http), clock.now())).outcome.is_ok()));
    }
    group.finish();
}

/// A served gate, and what keeps it alive.
fn serve(runtime: &tokio::runtime::Runtime, gate: &Arc<Gate>) -> (SocketAddr, tokio::sync::watch::Sender<bool>) {
    let clock = Clock::start();
    let (health, _) = tonic_health::server::health_reporter();
    let rate_limit = RateLimit::new(Arc::clone(gate), Arc::default(), Arc::default(), clock, Style::default());
    let services = Services { ext_authz: Arc::new(ext_authz(gate, clock)), rate_limit: Arc::new(rate_limit), health };
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let workers = Workers::start(1, &services, &stopped).expect("a worker");
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    let address = listener.local_addr().expect("an address");
    let acceptor = move || Workers::acceptor(listener, PortMetrics::default()).expect("a listener");
    runtime.spawn(async move { workers.accept(&mut acceptor()).await });
    (address, stop)
}

fn grpc(c: &mut Criterion) {
    let request = CheckRequest::decode(captured().as_slice()).expect("a CheckRequest");
    let gate = gate(&request);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let (address, stop) = serve(&runtime, &gate);
    let client = runtime.block_on(AuthorizationClient::connect(format!("http://{address}"))).expect("a connection");

    let mut group = c.benchmark_group("grpc");
    group.sample_size(20);
    let call = |client: &AuthorizationClient<tonic::transport::Channel>| {
        let (mut client, request) = (client.clone(), request.clone());
        async move { client.check(request).await.expect("an answer").into_inner() }
    };
    group.bench_function("Check, one at a time", |b| b.iter(|| runtime.block_on(call(&client))));
    const FLIGHT: usize = 64;
    group.throughput(Throughput::Elements(FLIGHT as u64));
    group.bench_function("Check, 64 in flight", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let mut calls = tokio::task::JoinSet::new();
                for _ in 0..FLIGHT {
                    calls.spawn(call(&client));
                }
                calls.join_all().await.len()
            })
        });
    });
    group.finish();
    let _ = stop.send(true);
}

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

criterion_group!(benches, check, grpc);
criterion_main!(benches);
