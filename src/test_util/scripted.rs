//! An API server that answers as a script says, one answer for each request, and nothing after the last.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::apiserver::{ApiMetrics, ApiServer, Budget};

pub(crate) enum Answer {
    Json(u16, Value),
    /// The events of a watch, which then ends as the server ends one.
    Events(Vec<Value>),
    /// A part of a body, and the end of the connection.
    Cut(&'static str),
    /// A watch in which nothing happens.
    Silence,
}

#[derive(Clone)]
pub(crate) struct Scripted {
    pub(crate) url: String,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    pub(crate) async fn start(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Scripted { url, answers: Arc::new(Mutex::new(answers.into())), asked: Arc::default() };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = serving.clone();
                tokio::spawn(async move { server.serve(stream).await });
            }
        });
        server
    }

    /// One request of each connection, so that every end is one.
    async fn serve(&self, mut stream: TcpStream) {
        let (mut head, mut byte) = (Vec::new(), [0; 1]);
        while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).await.is_ok() {
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let Some(path) = head.split(' ').nth(1) else { return };
        self.asked.lock().push(path.to_owned());
        let answer = self.answers.lock().pop_front().unwrap_or(Answer::Silence);
        let head = |code: u16, length: &str| {
            format!("HTTP/1.1 {code} -\r\ncontent-type: application/json\r\nconnection: close\r\n{length}\r\n")
        };
        let silent = matches!(answer, Answer::Silence);
        let text = match answer {
            Answer::Json(code, value) => {
                let body = value.to_string();
                format!("{}{body}", head(code, &format!("content-length: {}\r\n", body.len())))
            }
            Answer::Events(events) => {
                let lines: String = events.iter().map(|event| format!("{event}\n")).collect();
                format!("{}{lines}", head(200, ""))
            }
            Answer::Cut(part) => format!("{}{part}", head(200, "content-length: 100000\r\n")),
            Answer::Silence => head(200, ""),
        };
        // The client may be gone.
        let _ = stream.write_all(text.as_bytes()).await;
        if silent {
            // Until the client leaves; a body may be on its way.
            while stream.read(&mut byte).await.is_ok_and(|read| read > 0) {}
        }
    }

    /// Its client.
    pub(crate) fn api_server(&self) -> ApiServer {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [{"name": "u", "user": {}}],
            "clusters": [{"name": "c", "cluster": {"server": self.url}}], "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        let path = std::env::temp_dir().join(format!("tiergate-test-{}", uuid::Uuid::new_v4()));
        std::fs::write(&path, config.to_string()).unwrap();
        let api_server = ApiServer::new(Some(&path), Budget::USUAL, ApiMetrics::default()).unwrap();
        std::fs::remove_file(&path).unwrap();
        api_server
    }

    /// What was asked for, when it is this many requests.
    pub(crate) async fn asked(&self, count: usize) -> Vec<String> {
        for _ in 0..3_000 {
            let asked = self.asked.lock().clone();
            if asked.len() >= count {
                return asked;
            }
            // Requests are made by another task, and nothing tells of them.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{count} requests: {:?}", self.asked.lock());
    }
}
