//! Cases through a real Envoy, with a model behind it that says what it received.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use axum::Router;
use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::response::{AppendHeaders, IntoResponse, Json, Response};
use serde_json::{Value, json};

use super::Setup;
use super::sent::{Got, Sent};
use super::table::Table;
use crate::classic::settled;
use crate::envoy::{Gateway, gateway_before, shipped};
use crate::support::{Answer, Connection, Folder, Tiergate};

/// Envoy before a tiergate.
pub(super) struct BehindEnvoy {
    tiergate: Tiergate,
    gateway: Gateway,
    /// One for all, as long as nobody closes it.
    connection: Option<Connection>,
    /// Answers of the model, each of which is reported.
    answered: u64,
    _folder: Folder,
}

// === impl BehindEnvoy ===

impl BehindEnvoy {
    pub(super) async fn start(table: &Table, setup: Setup) -> Self {
        let folder = table.folder();
        let flags = table.flags();
        let flags: Vec<&str> = flags.iter().map(String::as_str).chain(setup.flags().iter().copied()).collect();
        let tiergate = Tiergate::start_plainly(&folder.0, &flags);
        let model = model().await.port();
        let gateway = gateway_before(&shipped(setup.configuration()), &[tiergate.grpc.port()], model).await;
        BehindEnvoy { tiergate, gateway, connection: None, answered: 0, _folder: folder }
    }

    pub(super) async fn ask(&mut self, sent: &Sent) -> Got {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(self.gateway.address).await,
        };
        let mut request = format!("{} {} HTTP/1.1\r\nhost: {}\r\n", sent.method, sent.path, sent.host);
        for (name, value) in &sent.headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str(&format!("content-length: {}\r\n\r\n{}", sent.body.len(), sent.body));
        connection.write(request.as_bytes()).await;
        let got = Got::from(connection.answer().await);
        if got.header("connection") != Some("close") {
            self.connection = Some(connection);
        }
        if got.status == 200 {
            // What the answer cost is charged before the next case.
            self.answered += 1;
            settled(&self.tiergate, self.answered).await;
        }
        got
    }
}

/// A model that answers everything, says which headers came, and answers with the one that `x-answer-with` asks for.
async fn model() -> SocketAddr {
    async fn answer(headers: HeaderMap, body: Bytes) -> Response {
        let seen: BTreeMap<_, _> =
            headers.iter().map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes()))).collect();
        let request: Value = serde_json::from_slice(&body).unwrap_or_default();
        let usage = request["max_tokens"].as_u64().map(|completion| json!({ "total_tokens": completion + 3 }));
        let wanted = seen.get("x-answer-with").and_then(|header| header.split_once('='));
        let wanted = wanted.map(|(name, value)| [(name.to_owned(), value.to_owned())]).into_iter().flatten();
        let body = Json(json!({ "seen": seen, "usage": usage }));
        (AppendHeaders(wanted.collect::<Vec<_>>()), body).into_response()
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    address
}

// === impl Got ===

impl From<Answer> for Got {
    fn from(answer: Answer) -> Self {
        let lines = answer.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        Got {
            status: answer.status,
            headers: lines.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect(),
            seen: serde_json::from_value(body["seen"].clone()).unwrap(),
            body,
        }
    }
}
