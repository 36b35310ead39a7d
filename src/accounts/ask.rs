//! One question to the admin port: HTTP/1.1 on a connection of its own.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde_json::Value;

/// How long each step may take: as long as the port itself takes for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest answer that is read: a page of accounts with all their limits.
const MOST: u64 = 64 * 1024 * 1024;
/// What is before a body is shorter.
const HEAD: u64 = 16 * 1024;

/// Whom to ask.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    /// Host and port, as they are written.
    authority: &'a str,
}

/// What was answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Null for what is not JSON.
    pub(super) body: Value,
}

/// Why an answer cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// It is none of the admin port.
    Another,
    /// So many bytes of its body are there, of those that it says it has.
    Part { got: usize, length: u64 },
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("no answer from http://{authority}: {error}; is tiergate running, with --listen-admin there?")]
    NoAnswer { authority: String, error: io::Error },
    #[error("what answers at http://{0} is not tiergate's admin port: see --admin")]
    Another(String),
    #[error(
        "the answer of http://{authority} was cut off after {got} of {length} bytes: ask again; see the log of tiergate if it happens again"
    )]
    CutOff { authority: String, got: usize, length: u64 },
    #[error(
        "the answer of http://{authority} has {length} bytes, more than {MOST} that are read: ask for fewer accounts, with --most"
    )]
    TooLong { authority: String, length: u64 },
    #[error("`{0}` is not where a process can be asked: http://HOST:PORT")]
    Url(String),
}

// === impl Ask ===

impl<'a> Ask<'a> {
    pub(super) fn new(url: &'a str) -> Result<Self, AskError> {
        let authority = url.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
        authority.map(|authority| Ask { authority }).ok_or_else(|| AskError::Url(url.to_owned()))
    }

    pub(super) fn get(&self, path: &str) -> Result<Answer, AskError> {
        self.answer(&format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.authority), "")
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Answer, AskError> {
        let (host, body) = (self.authority, body.to_string());
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        self.answer(&head, &body)
    }

    fn answer(&self, head: &str, body: &str) -> Result<Answer, AskError> {
        let authority = || self.authority.to_owned();
        let answer = self.exchange(head, body).map_err(|error| AskError::NoAnswer { authority: authority(), error })?;
        match Answer::parse(&answer) {
            Ok(answer) => Ok(answer),
            Err(Unread::Another) => Err(AskError::Another(authority())),
            Err(Unread::Part { length, .. }) if length > MOST => {
                Err(AskError::TooLong { authority: authority(), length })
            }
            Err(Unread::Part { got, length }) => Err(AskError::CutOff { authority: authority(), got, length }),
        }
    }

    /// The whole answer: the other end closes.
    fn exchange(&self, head: &str, body: &str) -> io::Result<Vec<u8>> {
        let mut stream = self.connect()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(HEAD + MOST).read_to_end(&mut answer)?;
        Ok(answer)
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in self.authority.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

// === impl Answer ===

impl Answer {
    pub(super) fn parse(answer: &[u8]) -> Result<Self, Unread> {
        let (status, length, body) = split(answer).ok_or(Unread::Another)?;
        if let Some(length) = length.filter(|length| *length > body.len() as u64) {
            return Err(Unread::Part { got: body.len(), length });
        }
        let body = serde_json::from_slice(body).unwrap_or(Value::Null);
        // A page that is none of these is somebody else's, or not there.
        (status != 200 || body.is_object()).then_some(Answer { status, body }).ok_or(Unread::Another)
    }
}

/// Status, what the head says of the body's length, and the body; `None` for what is no answer of HTTP/1.1.
fn split(answer: &[u8]) -> Option<(u16, Option<u64>, &[u8])> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, body) = (str::from_utf8(answer.get(..end)?).ok()?, answer.get(end + 4..)?);
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let mut headers = head.lines().filter_map(|line| line.split_once(':'));
    let length = headers.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    Some((status, length.and_then(|(_, length)| length.trim().parse().ok()), body))
}
