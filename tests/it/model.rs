//! The sample model: what it says and does on request, and what it writes down. Others are measured by it.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::support::{Connection, Folder, PATIENCE, Process, example, free_port};

/// Path, body without its last brace, and what its answer ends with when it is streamed.
const DIALECTS: [(&str, &str, &str); 9] = [
    ("/v1/chat/completions", r#"{"messages":[{"content":"a b c"}],"max_tokens":20"#, "data: [DONE]\n\n"),
    ("/v1/completions", r#"{"prompt":"a b c","max_tokens":20"#, "data: [DONE]\n\n"),
    ("/v1/messages", r#"{"messages":[{"content":"a b c"}],"max_tokens":20"#, "{\"type\":\"message_stop\"}\n\n"),
    ("/v1/responses", r#"{"input":"a b c","max_output_tokens":20"#, "\"type\":\"response.completed\"}\n\n"),
    (
        "/v1beta/models/m:streamGenerateContent?alt=sse",
        r#"{"contents":[{"parts":[{"text":"a b c"}]}],"generationConfig":{"maxOutputTokens":20}"#,
        "}}\n\n",
    ),
    (
        "/v1beta/models/m:streamGenerateContent",
        r#"{"contents":[{"parts":[{"text":"a b c"}]}],"generationConfig":{"maxOutputTokens":20}"#,
        "}}]",
    ),
    ("/api/chat", r#"{"messages":[{"content":"a b c"}],"options":{"num_predict":20}"#, "}\n"),
    ("/api/generate", r#"{"prompt":"a b c","options":{"num_predict":20}"#, "}\n"),
    // Nothing of it is streamed.
    ("/v1/embeddings", r#"{"input":"a b c""#, ""),
];
const CHAT: &str = "/v1/chat/completions";

/// A model that keeps account.
struct Model {
    address: SocketAddr,
    _process: Process,
    folder: Folder,
}

/// An answer as it came: its status, the lines of its head, and the chunks of its body.
struct Raw {
    status: u16,
    head: String,
    chunks: Vec<Vec<u8>>,
    /// Whether it ended as a body ends.
    ended: bool,
}

impl Model {
    async fn start() -> Self {
        let folder = Folder::new();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut command = Command::new(example("model"));
        command.args(["--listen", &address.to_string(), "--account"]).arg(folder.0.join("account"));
        let process = Process(command.stdout(Stdio::null()).spawn().unwrap());
        drop(Connection::open(address).await);
        Model { address, _process: process, folder }
    }

    fn account(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.0.join("account")).unwrap_or_default();
        text.split_inclusive('\n').map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Its account, once it has so many lines.
    async fn accounts(&self, lines: usize) -> Vec<Value> {
        let started = Instant::now();
        while self.account().len() < lines {
            assert!(started.elapsed() < PATIENCE, "the account has {lines} lines: {:?}", self.account());
            // Nothing tells when another process has written.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.account()
    }

    /// Sends a request with this id.
    async fn ask(&self, path: &str, id: &str, body: &str) -> Connection {
        let mut connection = Connection::open(self.address).await;
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-request-id: {id}\r\n");
        connection.write((head + &format!("content-length: {length}\r\n\r\n{body}")).as_bytes()).await;
        connection
    }

    /// A chat that streams, asks for its usage, and wants it sent so.
    async fn stream(&self, manner: Value) -> Raw {
        let (_, body, _) = DIALECTS[0];
        let options = r#""stream":true,"stream_options":{"include_usage":true}"#;
        let body = format!("{body},{options},\"sample\":{manner}}}");
        Raw::read(self.ask(CHAT, "", &body).await).await
    }
}

impl Raw {
    async fn read(mut connection: Connection) -> Self {
        let mut bytes = Vec::new();
        let read = connection.stream.read_to_end(&mut bytes);
        // It ends when the model closes, in whatever way.
        let _ = tokio::time::timeout(PATIENCE, read).await.expect("it ends");
        Raw::of(&bytes)
    }

    fn of(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let (mut rest, mut chunks, mut ended) = (&bytes[end..], Vec::new(), false);
        if !head.contains("transfer-encoding: chunked") {
            return Raw { status, head, chunks: vec![rest.to_vec()], ended: true };
        }
        while let Some(at) = rest.windows(2).position(|window| window == b"\r\n") {
            let size = usize::from_str_radix(str::from_utf8(&rest[..at]).unwrap(), 16).unwrap();
            ended = size == 0;
            if ended || rest.len() < at + 2 + size + 2 {
                break;
            }
            chunks.push(rest[at + 2..at + 2 + size].to_vec());
            rest = &rest[at + 2 + size + 2..];
        }
        Raw { status, head, chunks, ended }
    }

    fn text(&self) -> String {
        String::from_utf8(self.chunks.concat()).unwrap()
    }

    /// What the events have for data, read as a client reads it.
    fn events(&self) -> Vec<String> {
        let text = self.text().replace("\r\n", "\n").replace('\r', "\n");
        let data =
            |line: &str| line.strip_prefix("data:").map(|data| data.strip_prefix(' ').unwrap_or(data).to_owned());
        let events = text.split("\n\n").map(|event| event.lines().filter_map(data).collect::<Vec<_>>().join("\n"));
        events.filter(|event| !event.is_empty()).collect()
    }
}

/// Whether a text has a number of tokens, in the words of any API.
fn tells_usage(text: &str) -> bool {
    ["_tokens\":", "TokenCount\":", "eval_count\":"].iter().any(|name| text.contains(name))
}

#[tokio::test]
async fn every_dialect_tells_what_the_account_says_whole_and_streamed() {
    let model = Model::start().await;
    let mut lines = 0;
    for (path, body, end) in DIALECTS {
        for stream in [false, true] {
            let is_streamed = (stream && !end.is_empty()) || path.contains("streamGenerate");
            let option = match path {
                CHAT | "/v1/completions" if stream => r#","stream":true,"stream_options":{"include_usage":true}"#,
                _ if stream => r#","stream":true"#,
                _ => r#","stream":false"#,
            };
            let manner = r#","sample":{"cached":2,"reasoning":7,"text":"one two three"}"#;
            let answer = Raw::read(model.ask(path, "id-7", &format!("{body}{option}{manner}}}")).await).await;
            lines += 1;
            let line = model.accounts(lines).await.pop().unwrap();
            let text = answer.text();
            assert_eq!((answer.status, answer.ended, tells_usage(&text)), (200, true, true), "{path}: {text}");
            if is_streamed {
                assert!(text.ends_with(end), "{path}: {text}");
            }
            let output = if path == "/v1/embeddings" { 0 } else { 20 };
            assert_eq!(line["x-request-id"], "id-7");
            assert_eq!(
                [&line["input"], &line["output"], &line["cached"], &line["reasoning"]],
                [3, output, 2, output.min(7)],
                "{path}: {line}"
            );
            assert_eq!(
                (&line["ended"], &line["stream"], &line["status"]),
                (&json!(true), &json!(is_streamed), &json!(200))
            );
            assert_eq!(line["bytes"], text.len(), "{path}");
        }
    }
}

#[tokio::test]
async fn usage_is_told_never_or_all_the_time() {
    let model = Model::start().await;
    for (path, body, end) in DIALECTS {
        let stream = if end.is_empty() { "" } else { r#","stream":true"# };
        let ask = async |manner: &str| {
            let body = format!("{body}{stream},\"sample\":{{\"text\":\"one two three\",{manner}}}}}");
            Raw::read(model.ask(path, "", &body).await).await.text()
        };
        let never = ask(r#""usage":"never""#).await;
        assert!(!tells_usage(&never), "{path}: {never}");
        let always = ask(r#""usage":"always""#).await;
        // Ollama tells it at the end alone; a third and two thirds of 20 are what was said so far.
        let so_far = [":6,", ":6}", ":13,", ":13}"].iter().filter(|number| always.contains(*number)).count();
        let expected = if path.starts_with("/api") || end.is_empty() { 0 } else { 2 };
        assert!(tells_usage(&always) && so_far >= expected, "{path}: {always}");
    }
    let without = model.stream(json!({"no_done": true})).await;
    assert!(without.ended && !without.text().contains("[DONE]"), "{}", without.text());
}

#[tokio::test]
async fn an_answer_may_be_shorter_than_it_may_be_and_no_longer() {
    let model = Model::start().await;
    for (at, (output, tokens)) in [(7, 7), (20, 20), (21, 20)].into_iter().enumerate() {
        let answer = model.stream(json!({ "output": output })).await;
        assert!(answer.text().contains(&format!(r#""total_tokens":{}"#, 3 + tokens)), "{}", answer.text());
        assert_eq!(model.accounts(at + 1).await.pop().unwrap()["output"], tokens);
    }
}

#[tokio::test]
async fn an_error_costs_nothing_or_what_it_says() {
    let model = Model::start().await;
    for (at, (status, usage, cost)) in
        [(400, "usual", 0), (503, "usual", 0), (500, "always", 20)].into_iter().enumerate()
    {
        let answer = model.stream(json!({"status": status, "usage": usage})).await;
        assert_eq!((answer.status, tells_usage(&answer.text())), (status, cost > 0), "{}", answer.text());
        assert!(answer.text().starts_with(r#"{"error":"#), "{}", answer.text());
        let line = model.accounts(at + 1).await.pop().unwrap();
        assert_eq!((&line["status"], &line["output"]), (&json!(status), &json!(cost)), "{line}");
        assert_eq!(line["input"], if cost > 0 { 3 } else { 0 }, "{line}");
    }
    let refused = model.stream(json!({"stauts": 500})).await;
    assert!(refused.status == 400 && refused.text().contains("stauts"), "{}", refused.text());
    assert_eq!(model.account().len(), 3, "what is refused is no answer");
}

#[tokio::test]
async fn what_hangs_or_breaks_is_accounted_as_far_as_it_came() {
    let model = Model::start().await;
    let text = json!("one two three four five");
    // Of five words two were sent: 8 tokens of 20.
    let broken = model.stream(json!({"text": text, "break_after": 2})).await;
    assert!(!broken.ended && broken.events().len() == 2, "{}", broken.text());
    let body = |manner: Value| format!(r#"{},"stream":true,"sample":{manner}}}"#, DIALECTS[0].1);
    let mut connection = model.ask(CHAT, "", &body(json!({"text": text, "hang_after": 2}))).await;
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains("two ") {
        assert!(connection.stream.read_buf(&mut read).await.unwrap() > 0);
    }
    assert_eq!(model.account().len(), 1, "nothing is over while it hangs");
    drop(connection);
    let lines = model.accounts(2).await;
    for line in &lines {
        assert_eq!((&line["output"], &line["ended"]), (&json!(8), &json!(false)), "{line}");
    }
    // Not even a status.
    let mut connection = model.ask(CHAT, "", &body(json!({"hang_after": 0}))).await;
    let silence = tokio::time::timeout(Duration::from_millis(100), connection.stream.read_buf(&mut read)).await;
    assert!(silence.is_err(), "it says nothing");
    drop(connection);
    let line = model.accounts(3).await.pop().unwrap();
    assert_eq!((&line["output"], &line["bytes"]), (&json!(0), &json!(0)), "{line}");
}

#[tokio::test]
async fn a_stream_keeps_the_pace_that_it_is_asked_for() {
    let model = Model::start().await;
    let started = Instant::now();
    let answer = model.stream(json!({"text": "one two three", "pause_ms": 30})).await;
    // Three words, the end, the usage and `[DONE]`.
    assert_eq!(answer.events().len(), 6);
    assert!(started.elapsed() >= Duration::from_millis(5 * 30), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_body_is_cut_anywhere() {
    let model = Model::start().await;
    let whole = model.stream(json!({"text": "é ü 漢"})).await;
    for cut in [1, 2, 7] {
        let answer = model.stream(json!({"text": "é ü 漢", "cut": cut})).await;
        let ends = answer.chunks.iter().filter(|chunk| chunk.len() > cut).count();
        assert_eq!((answer.text(), ends), (whole.text(), 0), "no chunk is longer");
        let is_digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
        let cuts_letters = answer.chunks.iter().any(|chunk| str::from_utf8(chunk).is_err());
        let cuts_numbers = answer.chunks.windows(2).any(|two| is_digit(two[0].last()) && is_digit(two[1].first()));
        // Longer pieces may miss them all.
        assert!(cut > 1 || (cuts_letters && cuts_numbers), "a letter and a number are cut");
    }
}

#[tokio::test]
async fn events_say_the_same_however_they_are_written() {
    let model = Model::start().await;
    let usual = model.stream(json!({"text": "one two"})).await;
    let read = |answer: &Raw| {
        let events = answer.events().into_iter().filter(|event| event != "[DONE]");
        events.map(|event| serde_json::from_str::<Value>(&event).unwrap()).collect::<Vec<_>>()
    };
    for (name, value, shows) in [
        ("line_end", json!("crlf"), "}\r\n\r\ndata"),
        ("line_end", json!("cr"), "}\r\rdata"),
        ("comments", json!(true), "\n\n: a comment"),
        ("data_lines", json!(true), ",\ndata: \""),
        ("reversed", json!(true), "data: {\"usage\" : "),
        ("escaped", json!(true), "\"\\u0075\\u0073\\u0061\\u0067\\u0065\" : "),
    ] {
        let answer = model.stream(json!({"text": "one two", name: value})).await;
        assert!(answer.text().contains(shows), "{name}: {:?}", answer.text());
        assert_eq!(read(&answer).len(), 4, "{name}");
        // They may have begun in different seconds.
        let same = read(&answer).into_iter().zip(read(&usual)).all(|(mut one, mut other)| {
            (one["created"], other["created"]) = (json!(0), json!(0));
            one == other
        });
        assert!(same, "{name}: {}", answer.text());
    }
    let long = model.stream(json!({"padding": 100_000})).await;
    assert!(long.events()[0].len() > 100_000 && long.events()[1].len() < 1_000);
    assert!(long.head.contains("text/event-stream"), "{}", long.head);
}
