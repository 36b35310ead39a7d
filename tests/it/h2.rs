//! HTTP/2 by hand: what no library would send.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tonic::codegen::Bytes;
use tonic::codegen::http::Request;

use crate::support::{Connection, PATIENCE};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// The largest frame that a peer takes without having said so.
const MAX_FRAME: usize = 16 * 1024;

pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A header's name and value.
pub(crate) type Field<'a> = (&'a [u8], &'a [u8]);

/// How a stream ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Answer(u16, String),
    Reset(u32),
    GoAway(u32),
    Closed,
}

/// A connection with prior knowledge.
pub(crate) struct H2 {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl H2 {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::over(Connection::open(address).await.stream).await
    }

    pub(crate) async fn over(stream: TcpStream) -> Self {
        let mut connection = H2 { stream, buffer: Vec::new() };
        connection.write(PREFACE).await;
        connection.write(&frame(SETTINGS, 0, 0, &[])).await;
        connection
    }

    /// Whether it was written: a peer that closed is an answer too.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> bool {
        let written = tokio::time::timeout(PATIENCE, self.stream.write_all(bytes)).await;
        written.expect("the peer reads, or closes").is_ok()
    }

    /// The next frame; `None` when the peer closed.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        tokio::time::timeout(PATIENCE, self.read()).await.expect("a frame, or an end, in time")
    }

    async fn read(&mut self) -> Option<Frame> {
        loop {
            if let Some(head) = self.buffer.get(..9) {
                let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                let (kind, flags) = (head[3], head[4]);
                let stream = number(&head[5..]);
                if self.buffer.len() >= 9 + length {
                    let payload = self.buffer.drain(..9 + length).skip(9).collect();
                    return Some(Frame { kind, flags, stream, payload });
                }
            }
            if !self.stream.read_buf(&mut self.buffer).await.is_ok_and(|read| read > 0) {
                return None;
            }
        }
    }

    /// Sends a request whole, and waits for its end.
    pub(crate) async fn ask(&mut self, stream: u32, fields: &[Field<'_>], body: &str) -> End {
        let mut bytes = headers(stream, body.is_empty(), fields);
        if !body.is_empty() {
            bytes.extend(frame(DATA, END_STREAM, stream, body.as_bytes()));
        }
        self.write(&bytes).await;
        self.end(stream).await
    }

    /// Waits until `stream` or the connection ends.
    pub(crate) async fn end(&mut self, stream: u32) -> End {
        let (mut status, mut body) = (0, Vec::new());
        while let Some(frame) = self.next().await {
            match frame.kind {
                GOAWAY => return End::GoAway(number(&frame.payload[4..])),
                RST_STREAM if frame.stream == stream => return End::Reset(number(&frame.payload)),
                HEADERS if frame.stream == stream && status == 0 => status = status_of(&frame.payload),
                DATA if frame.stream == stream => body.extend_from_slice(&frame.payload),
                _ => {}
            }
            if frame.stream == stream && matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0 {
                return End::Answer(status, String::from_utf8_lossy(&body).into_owned());
            }
        }
        End::Closed
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap()) & 0x7fff_ffff
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// HEADERS, and CONTINUATION for what does not fit.
pub(crate) fn headers(stream: u32, end: bool, fields: &[Field<'_>]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.extend(literal(name, value));
    }
    let mut bytes = Vec::new();
    let mut chunks = block.chunks(MAX_FRAME).peekable();
    let mut kind = HEADERS;
    while let Some(chunk) = chunks.next() {
        let last = if chunks.peek().is_none() { END_HEADERS } else { 0 };
        let end = if kind == HEADERS && end { END_STREAM } else { 0 };
        bytes.extend(frame(kind, last | end, stream, chunk));
        kind = CONTINUATION;
    }
    bytes
}

/// A field of HPACK, neither indexed nor compressed (RFC 7541, section 6.2.2), so that its bytes go as they are.
pub(crate) fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        // An integer with a prefix of seven bits: section 5.1.
        let mut rest = text.len();
        if rest < 127 {
            bytes.push(rest as u8);
        } else {
            bytes.push(127);
            rest -= 127;
            while rest >= 128 {
                bytes.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            bytes.push(rest as u8);
        }
        bytes.extend(text);
    }
    bytes
}

/// The status, which is the first field of an answer. Each connection of these tests asks once or looks at it once, so the
/// dynamic table is never needed.
fn status_of(block: &[u8]) -> u16 {
    // The table may be resized first.
    let at = block.iter().position(|byte| byte >> 5 != 1).unwrap();
    match block[at] {
        indexed @ 0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
        0x48 | 0x08 | 0x18 => {
            let length = usize::from(block[at + 1] & 0x7f);
            let text = &block[at + 2..at + 2 + length];
            let digits = if block[at + 1] & 0x80 == 0 { text.to_vec() } else { huffman_digits(text) };
            String::from_utf8(digits).unwrap().parse().unwrap()
        }
        other => panic!("an answer that starts with {other:#x}"),
    }
}

/// Of the Huffman code only the digits: 0-2 have five bits, 3-9 six.
fn huffman_digits(bytes: &[u8]) -> Vec<u8> {
    let mut bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
    let mut digits = Vec::new();
    loop {
        let mut code = 0;
        for _ in 0..5 {
            match bits.next() {
                Some(bit) => code = code << 1 | bit,
                None => return digits,
            }
        }
        if code > 2 {
            let Some(bit) = bits.next() else { return digits };
            code = (code << 1 | bit) - 0x19 + 3;
        }
        digits.push(b'0' + code);
        if digits.len() == 3 {
            return digits;
        }
    }
}

/// A connection to `address` from an address of ours: all of 127.0.0.0/8 is.
pub(crate) async fn connect_from(ours: IpAddr, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((ours, 0).into()).unwrap();
    socket.connect(address).await.unwrap()
}

/// The head of a call.
pub(crate) fn head(path: &str, metadata: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::post(format!("http://tiergate/{path}")).header("content-type", "application/grpc");
    for (name, value) in metadata {
        request = request.header(*name, *value);
    }
    request.header("te", "trailers").body(()).unwrap()
}

/// How a call ended: its HTTP status and `grpc-status`, or why there is none.
pub(crate) type Called = Result<(u16, Option<u16>), ::h2::Error>;

/// A call whose message comes in these pieces; without the last it never ends.
pub(crate) async fn call(
    address: SocketAddr,
    path: &str,
    metadata: &[(&str, &str)],
    pieces: &[&[u8]],
    whole: bool,
) -> Called {
    let (mut sender, connection) = ::h2::client::handshake(Connection::open(address).await.stream).await?;
    let driver = tokio::spawn(connection);
    let called = async {
        let (answer, mut message) = sender.send_request(head(path, metadata), false)?;
        for (at, piece) in pieces.iter().enumerate() {
            message.send_data(Bytes::copy_from_slice(piece), whole && at + 1 == pieces.len())?;
            tokio::task::yield_now().await;
        }
        answered(answer).await
    };
    let ended = tokio::time::timeout(PATIENCE, called).await.expect("a call ends");
    driver.abort();
    ended
}

/// Waits for the end of a call.
pub(crate) async fn answered(answer: ::h2::client::ResponseFuture) -> Called {
    let (head, mut body) = answer.await?.into_parts();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    let status = head.headers.get("grpc-status").or(trailers.get("grpc-status"));
    Ok((head.status.as_u16(), status.map(|status| status.to_str().unwrap().parse().unwrap())))
}

/// A message of gRPC: not compressed, with its length in front.
pub(crate) fn grpc_message(message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    bytes.extend(message);
    bytes
}

/// Waits for the connection's end; `true` if the peer said GOAWAY with this code.
pub(crate) async fn sent_away(mut connection: H2, code: u32) -> bool {
    while let Some(frame) = connection.next().await {
        if frame.kind == GOAWAY && number(&frame.payload[4..]) == code {
            return true;
        }
    }
    false
}

/// Longer than any of the server's bounds that a test waits for, and shorter than what it must not take.
pub(crate) const BOUND: Duration = Duration::from_secs(30);
