//! The call to a tier service: `POST <url>` with `{"groups": […]}`, as maas-api answers it.
//!
//! hyper-util's client, which tonic brings anyway: it keeps connections alive, follows no redirects, and hands the status
//! over as it came.

use std::error::Error;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::http::uri::Scheme;
use hyper::{Request, StatusCode, Uri, header};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Builder, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Deserialize;
use tokio::sync::OnceCell;

/// An answer is two short texts.
const MAX_BODY: usize = 64 * 1024;
/// Of a tier's name and of its display name, in bytes. A name goes into metadata, metrics and the log.
const MAX_TEXT: usize = 253;
/// Of what is told about an answer that is none, in characters.
const MAX_FAULT: usize = 200;
/// How long a connection is kept that nobody uses: less than what servers usually grant, so that it is seldom closed under
/// a call.
const IDLE: Duration = Duration::from_secs(30);

/// What a service says of a caller.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TierAnswer {
    Tier {
        name: String,
        display_name: String,
    },
    /// 404: the caller's groups belong to no tier.
    None,
}

/// Why nothing is known. For operators; the caller reads none of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookupFailure {
    #[error("no answer within {0:?}")]
    Late(Duration),
    #[error("{0} calls are in flight already")]
    Busy(usize),
    #[error("{0}")]
    Call(String),
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("its answer is over {MAX_BODY} bytes")]
    Length,
    #[error("its answer is no JSON object with a `tier` that is a text: {0}")]
    Body(String),
    #[error("its `{0}` is empty, over {MAX_TEXT} bytes, or holds control characters")]
    Text(&'static str),
}

/// Calls services. Connections are shared, and kept.
#[derive(Debug)]
pub(super) struct LookupClient {
    plain: Client<HttpConnector, Full<Bytes>>,
    /// Made at the first call by https: reading the system's certificates takes milliseconds.
    secure: OnceCell<Client<HttpsConnector<HttpConnector>, Full<Bytes>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    tier: String,
    display_name: Option<String>,
}

// === impl LookupClient ===

impl LookupClient {
    pub(super) fn new() -> Self {
        LookupClient { plain: client().build(tcp()), secure: OnceCell::new() }
    }

    /// Asks `url`. What takes too long is the caller's to break off.
    pub(super) async fn ask(&self, url: Uri, body: Bytes) -> Result<TierAnswer, LookupFailure> {
        let failed = |error: &dyn Error| LookupFailure::Call(causes(error));
        let secure = url.scheme() == Some(&Scheme::HTTPS);
        let mut request = Request::post(url).header(header::CONTENT_TYPE, "application/json");
        request = request.header(header::ACCEPT, "application/json");
        let request = request.body(Full::new(body)).map_err(|error| failed(&error))?;
        let response = match secure {
            false => self.plain.request(request).await,
            true => self.secure.get_or_try_init(connect).await?.request(request).await,
        };
        let response = response.map_err(|error| failed(&error))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(TierAnswer::None),
            status => return Err(LookupFailure::Status(status)),
        }
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => LookupFailure::Length,
            false => failed(&*error),
        })?;
        read(&body.to_bytes())
    }
}

async fn connect() -> Result<Client<HttpsConnector<HttpConnector>, Full<Bytes>>, LookupFailure> {
    let config = tokio::task::spawn_blocking(tls).await;
    let config = config.map_err(|error| LookupFailure::Call(error.to_string()))?;
    let connector = HttpsConnectorBuilder::new().with_tls_config(config?).https_only().enable_http1();
    Ok(client().build(connector.wrap_connector(tcp())))
}

fn client() -> Builder {
    let mut client = Client::builder(TokioExecutor::new());
    client.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE).http1_max_buf_size(MAX_BODY);
    client
}

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp
}

/// The system's certificates, or those of `SSL_CERT_FILE`.
fn tls() -> Result<rustls::ClientConfig, LookupFailure> {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| LookupFailure::Call(causes(&error)))?;
    match config.clone().with_native_roots() {
        Ok(config) => Ok(config.with_no_client_auth()),
        Err(error) => {
            tracing::warn!(%error, "no certificate is trusted, so no tier service can be called by https");
            Ok(config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
        }
    }
}

fn read(body: &[u8]) -> Result<TierAnswer, LookupFailure> {
    // serde repeats texts that it did not expect.
    let fault = |error: serde_json::Error| LookupFailure::Body(error.to_string().chars().take(MAX_FAULT).collect());
    let Body { tier, display_name } = serde_json::from_slice(body).map_err(fault)?;
    let usable = |text: &str| !text.is_empty() && text.len() <= MAX_TEXT && !text.chars().any(char::is_control);
    let display_name = display_name.unwrap_or_else(|| tier.clone());
    match (usable(&tier), usable(&display_name)) {
        (true, true) => Ok(TierAnswer::Tier { name: tier, display_name }),
        (false, _) => Err(LookupFailure::Text("tier")),
        (true, false) => Err(LookupFailure::Text("displayName")),
    }
}

/// An error with what caused it.
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
