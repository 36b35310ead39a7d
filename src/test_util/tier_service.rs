//! A tier service on loopback that answers as a test says: well, badly, late, or not at all. `tests/it` uses it too.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// What the service does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Says {
    /// Answers, and keeps the connection.
    Answer(u16, String),
    /// Writes these bytes, and closes.
    Raw(Vec<u8>),
    /// Reads, and never answers.
    Nothing,
}

/// The service. It ends with the runtime of the test.
#[derive(Clone)]
pub(crate) struct TierService {
    pub(crate) address: SocketAddr,
    says: Arc<Mutex<Says>>,
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    /// Answers wait while it is set.
    held: watch::Sender<bool>,
}

impl Says {
    pub(crate) fn tier(name: &str) -> Self {
        Says::Answer(200, format!("{{\"tier\":\"{name}\",\"displayName\":\"{name} plan\"}}"))
    }

    /// An answer that ends `missing` bytes before its end.
    pub(crate) fn cut(missing: usize) -> Self {
        let mut bytes = answer(200, "{\"tier\":\"gold\"}");
        bytes.truncate(bytes.len() - missing);
        Says::Raw(bytes)
    }
}

impl TierService {
    pub(crate) async fn start(says: Says) -> Self {
        Self::start_at(0, says).await
    }

    pub(crate) async fn start_at(port: u16, says: Says) -> Self {
        Self::listen(port, says, None).await
    }

    pub(crate) async fn start_tls(says: Says, tls: TlsAcceptor) -> Self {
        Self::listen(0, says, Some(tls)).await
    }

    async fn listen(port: u16, says: Says, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let service = TierService {
            address: listener.local_addr().unwrap(),
            says: Arc::new(Mutex::new(says)),
            requests: Arc::default(),
            connections: Arc::default(),
            held: watch::Sender::new(false),
        };
        let accepting = service.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepting.connections.fetch_add(1, Ordering::SeqCst);
                let (service, tls) = (accepting.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => service.serve(stream).await,
                        Some(tls) => service.serve(tls.accept(stream).await.ok()?).await,
                    }
                });
            }
        });
        service
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1/tiers/lookup", self.address)
    }

    pub(crate) fn says(&self, says: Says) {
        *self.says.lock() = says;
    }

    /// From now on answers wait, or go.
    pub(crate) fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// How many requests there were.
    pub(crate) fn calls(&self) -> usize {
        self.requests.lock().len()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Request line and headers, and the body, of the last request.
    pub(crate) fn last(&self) -> String {
        self.requests.lock().last().cloned().unwrap_or_default()
    }

    async fn serve(self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Option<()> {
        let mut buffer = Vec::new();
        loop {
            let request = request(&mut stream, &mut buffer).await?;
            self.requests.lock().push(request);
            self.held.subscribe().wait_for(|held| !held).await.ok()?;
            let says = self.says.lock().clone();
            match says {
                Says::Answer(status, body) => stream.write_all(&answer(status, &body)).await.ok()?,
                Says::Raw(bytes) => return stream.write_all(&bytes).await.ok(),
                Says::Nothing => std::future::pending().await,
            }
        }
    }
}

fn answer(status: u16, body: &str) -> Vec<u8> {
    let kind = if body.starts_with('<') { "text/html" } else { "application/json" };
    format!("HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// The next request of the connection, whole.
async fn request(stream: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        let text = String::from_utf8_lossy(buffer).into_owned();
        if let Some((head, rest)) = text.split_once("\r\n\r\n") {
            let lower = head.to_ascii_lowercase();
            let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if let Some(body) = rest.get(..length.unwrap_or(0)) {
                buffer.drain(..head.len() + 4 + body.len());
                return Some(format!("{head}\r\n\r\n{body}"));
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}
