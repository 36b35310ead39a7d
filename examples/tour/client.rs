//! An HTTP/1.1 client that sends a path exactly as it is given: a library would tidy up `//` and `%2F` first.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(10);

pub struct Request {
    pub method: &'static str,
    pub path: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
    /// The client leaves after so many events of a stream.
    pub leaves_after: Option<usize>,
}

pub struct Response {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: String,
}

// === impl Request ===

impl Request {
    pub fn get(path: &str) -> Self {
        Self { method: "GET", path: path.to_owned(), headers: Vec::new(), body: String::new(), leaves_after: None }
    }

    pub fn send(&self, address: SocketAddr) -> io::Result<Response> {
        let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.write_all(self.text(address).as_bytes())?;
        let mut answer = Vec::new();
        match self.leaves_after {
            None => _ = stream.read_to_end(&mut answer)?,
            Some(events) => read_events(&mut stream, events, &mut answer)?,
        }
        Response::parse(&answer).ok_or_else(|| io::Error::other("the answer is not HTTP"))
    }

    fn text(&self, address: SocketAddr) -> String {
        let Self { method, path, body, .. } = self;
        let headers: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        // The other end closes, so an answer is whatever came until then.
        let length = body.len();
        format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
        )
    }
}

/// Reads until so many events are there.
fn read_events(stream: &mut TcpStream, events: usize, answer: &mut Vec<u8>) -> io::Result<()> {
    let mut some = [0; 4096];
    while answer.windows(6).filter(|window| window == b"data: ").count() < events {
        match stream.read(&mut some)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => answer.extend_from_slice(some.get(..read).unwrap_or_default()),
        }
    }
    Ok(())
}

// === impl Response ===

impl Response {
    fn parse(answer: &[u8]) -> Option<Self> {
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = std::str::from_utf8(answer.get(..end)?).ok()?;
        let body = answer.get(end + 4..)?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        let body = if chunked { join_chunks(body) } else { body.to_vec() };
        Some(Self { status, headers, body: String::from_utf8_lossy(&body).into_owned() })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// tiergate's code of a refusal: where a budget is used up, `error.code` is OpenAI's.
    pub fn code(&self) -> Option<String> {
        self.text_at("/error/reason").or_else(|| self.text_at("/error/code"))
    }

    /// `error.detail` of a refusal, which tiergate adds under `--verbose-refusals`.
    pub fn detail(&self) -> Option<String> {
        self.text_at("/error/detail")
    }

    /// What the model said.
    pub fn content(&self) -> Option<String> {
        self.text_at("/choices/0/message/content")
    }

    fn text_at(&self, pointer: &str) -> Option<String> {
        let body: Value = serde_json::from_str(&self.body).ok()?;
        body.pointer(pointer)?.as_str().map(str::to_owned)
    }
}

/// What came of the chunks: all of them, unless the client left before.
fn join_chunks(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some((chunk, others)) = next_chunk(rest) {
        body.extend_from_slice(chunk);
        rest = others;
    }
    body
}

fn next_chunk(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = rest.windows(2).position(|window| window == b"\r\n")?;
    let size = std::str::from_utf8(rest.get(..end)?).ok()?;
    let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok().filter(|size| *size > 0)?;
    let start = end + 2;
    Some((rest.get(start..start + size)?, rest.get(start + size + 2..)?))
}
