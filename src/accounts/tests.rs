use std::io::Read as _;
use std::net::TcpListener;

use super::*;

fn printed(print: fn(&Value, &mut Vec<u8>) -> io::Result<()>, found: &Value) -> String {
    let mut out = Vec::new();
    print(found, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn names_do_nothing_to_the_terminal() {
    let limit = json!({"name": "a/b/c", "limit": 5, "used": 3, "left": 2, "reset_seconds": 72});
    let account = json!({"account": "0f", "values": ["a\u{1b}[2J\nb", "x".repeat(90)], "cut": true, "limits": [limit]});
    let text = printed(print::accounts, &json!({"accounts": [account], "next": "0f"}));
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[1].starts_with("a\\u{1b}[2J\\nb, xxx") && lines[1].contains("…  a/b/c     3     2   5"), "{text}");
    assert_eq!((lines.len(), lines[3]), (4, "there may be more: --after 0f"), "{text}");
}

#[test]
fn what_is_not_known_is_said_so() {
    let account = json!({"account": "0f", "values": null, "limits": []});
    let text = printed(print::accounts, &json!({"accounts": [account], "next": null}));
    assert!(text.contains("(forgotten)  -"), "{text}");
    assert_eq!(printed(print::accounts, &json!({"accounts": []})), "no account\n");
    let never = json!({"name": "a/b/c", "limit": 0, "used": 0, "left": 0, "reset_seconds": 0, "retry_after_seconds": null,
                       "window_seconds": 60, "route": "ns/r", "shadow": true, "algorithm": "token-bucket"});
    let text =
        printed(print::account, &json!({"account": "0f", "values": ["a/b/c"], "shared": true, "limits": [never]}));
    assert!(
        text.contains("(everybody) a/b/c") && text.contains("a/b/c on ns/r (shadow)") && text.ends_with("never\n"),
        "{text}"
    );
}

#[test]
fn a_search_is_sent_as_it_is_meant() {
    let (admin, output) = (String::new(), LimitsOutput::Table);
    let list = ListAccounts {
        search: Some("a:/{}\n%ü &".to_owned()),
        after: None,
        most: std::num::NonZeroUsize::MIN,
        admin: AdminArgs { admin, output },
    };
    assert_eq!(path(&list), "/limits?most=1&search=a%3A%2F%7B%7D%0A%25%C3%BC%20%26");
}

/// What a port that answers with `answer` is told to be.
fn told(answer: &'static [u8]) -> String {
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", port.local_addr().unwrap());
    let answers = std::thread::spawn(move || {
        let (mut stream, _) = port.accept().unwrap();
        // The question is read whole, so that the answer is not lost with it.
        let mut question = Vec::new();
        let mut byte = [0];
        while !question.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
            question.extend(byte);
        }
        stream.write_all(answer).unwrap();
    });
    let asked = Ask::new(&url).unwrap().get("/limits").map(|answer| answer.status);
    answers.join().unwrap();
    asked.map_or_else(|error| error.to_string().replace(&url, "URL"), |status| status.to_string())
}

#[test]
fn an_answer_that_is_not_whole_is_told_as_that() {
    for (answer, expected) in [
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"[..], "200"),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", "200"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{\"accounts\":",
            "the answer of URL was cut off after 12 of 20 bytes",
        ),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 67108865\r\n\r\n{",
            "the answer of URL has 67108865 bytes, more than 67108864",
        ),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", "what answers at URL is not tiergate's admin port"),
        (b"SSH-2.0-x\r\n", "what answers at URL is not tiergate's admin port"),
    ] {
        let told = told(answer);
        assert!(told.starts_with(expected), "{told}");
    }
}
