//! Paths with more than one reading, as they are, through the shipped Envoy.

use crate::envoy::BODY;
use crate::h2::{End, Field, H2};
use crate::support::Connection;

use super::World;

/// The path before `?`, what HTTP/1.1 makes of it, and HTTP/2 where that differs. The caller may use `qwen3`, and `draft`
/// is for nobody. With 200 stands the model that answered; otherwise the code of the refusal, where Envoy has one.
type Row = (&'static str, (u16, &'static str), Option<(u16, &'static str)>);

const TWO_READINGS: (u16, &str) = (400, "TG-PATH-NOT-CANONICAL");
const NO_SUCH_MODEL: (u16, &str) = (404, "TG-ROUTE-UNKNOWN");
const NOT_YOURS: (u16, &str) = (403, "TG-ACCESS-DENIED");
const QWEN3: (u16, &str) = (200, "qwen3");

const PATHS: [Row; 33] = [
    // Empty segments.
    ("/llm//qwen3/v1/chat/completions", TWO_READINGS, None),
    ("//llm/qwen3/v1/chat/completions", TWO_READINGS, None),
    ("/llm/qwen3//v1/chat/completions", TWO_READINGS, None),
    // Dot segments: Envoy resolves them before it asks.
    ("/llm/qwen3/../draft/v1/chat/completions", NOT_YOURS, None),
    ("/llm/draft/../qwen3/v1/chat/completions", QWEN3, None),
    ("/../../llm/draft/v1/chat/completions", NOT_YOURS, None),
    ("/llm/qwen3/%2e%2e/draft/v1/chat/completions", NOT_YOURS, None),
    ("/llm/qwen3/..;/draft/v1/chat/completions", NOT_YOURS, None),
    ("/llm/qwen3\\..\\draft/v1/chat/completions", NOT_YOURS, None),
    // Escapes.
    ("/llm/qwen3/..%2fdraft/v1/chat/completions", TWO_READINGS, None),
    ("/llm/qwen3%2Fx/v1/chat/completions", TWO_READINGS, None),
    ("/llm/qwen3%5Cx/v1/chat/completions", TWO_READINGS, None),
    ("/llm/qwen3%252Fx/v1/chat/completions", TWO_READINGS, None),
    ("/llm/qwen3%3Fx/v1/chat/completions", TWO_READINGS, None),
    ("/llm/qwen3%23x/v1/chat/completions", TWO_READINGS, None),
    ("/llm/qwen3/v1%3bx/chat/completions", TWO_READINGS, None),
    ("/llm/qwen3/v1/chat/completions%0a", TWO_READINGS, None),
    ("/llm/qwen3/v1/chat/completions%7F", TWO_READINGS, None),
    ("/llm/qwen3%c0%af/v1/chat/completions", TWO_READINGS, None),
    ("/llm/qwen3/%e9", TWO_READINGS, None),
    ("/llm/qwen%33/v1/chat/completions", QWEN3, None),
    ("/llm/qwen3%00/v1/chat/completions", (400, ""), None),
    ("/llm/qwen3%/v1/chat/completions", TWO_READINGS, None),
    // Parameters, query and fragment.
    ("/llm/qwen3;a=b/v1/chat/completions", TWO_READINGS, None),
    ("/llm/qwen3/v1/chat/completions?x=/llm/draft", QWEN3, None),
    ("/llm/qwen3?/../draft/v1/chat/completions", (404, ""), None),
    ("/llm/qwen3/v1/chat/completions#frag", (400, ""), None),
    // Other forms of a target.
    ("*", (400, ""), None),
    ("llm/qwen3/v1/chat/completions", (400, ""), None),
    ("http://models.example.com/llm/draft/v1/chat/completions", NOT_YOURS, Some((400, ""))),
    // Characters.
    ("/LLM/QWEN3/v1/chat/completions", NO_SUCH_MODEL, None),
    ("/llm/qwen3\t/v1/chat/completions", (400, ""), None),
    ("/llm/qwen3\u{1}/v1/chat/completions", (400, ""), None),
];

/// What the body tells: the model that answered, or tiergate's code.
fn told(status: u16, body: &str) -> (u16, String) {
    let json: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let word = if status == 200 { &json["model"] } else { &json["error"]["code"] };
    let word = word.as_str().filter(|word| status == 200 || word.starts_with("TG-"));
    (status, word.unwrap_or_default().to_owned())
}

/// A path, what was told, and what was expected.
type Told = (&'static str, (u16, String), (u16, &'static str));

fn compare(rows: Vec<Told>) {
    let as_expected = |(_, told, expected): &Told| (told.0, &*told.1) == *expected;
    let others: Vec<_> = rows.into_iter().filter(|row| !as_expected(row)).collect();
    assert!(others.is_empty(), "path, answer, expected: {others:#?}");
}

pub(super) async fn paths_reach_the_model_they_name_or_none_over_http1(world: &World) {
    let (address, bearer) = (world.gateway().await, world.bearer());
    let mut rows = Vec::new();
    for (path, expected, _) in PATHS {
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let answer = Connection::open(address).await.send("POST", path, &headers, BODY).await;
        rows.push((path, told(answer.status, &answer.body), expected));
    }
    compare(rows);
}

pub(super) async fn paths_reach_the_model_they_name_or_none_over_http2(world: &World) {
    let mut rows = Vec::new();
    for (path, over_http1, over_http2) in PATHS {
        let answer = over_http2_told(world, "POST", path.as_bytes()).await;
        rows.push((path, answer, over_http2.unwrap_or(over_http1)));
    }
    compare(rows);
}

/// What HTTP/1.1 refuses by itself, and HTTP/2 passes on.
pub(super) async fn raw_bytes_of_a_path_and_methods_in_lower_case_are_refused_over_http2(world: &World) {
    let mut rows = Vec::new();
    for (name, path) in [
        ("overlong dots", b"/llm/qwen3/\xc0\xae\xc0\xae/draft".as_slice()),
        ("an overlong slash", b"/llm/qwen3\xc0\xafdraft"),
        ("Latin-1", b"/llm/qwen3/v1/\xe9"),
    ] {
        rows.push((name, over_http2_told(world, "POST", path).await, TWO_READINGS));
    }
    for method in ["post", "Post", "delete"] {
        let answer = over_http2_told(world, method, b"/llm/qwen3/v1/chat/completions").await;
        rows.push((method, answer, (400, "TG-REQUEST-INVALID")));
    }
    compare(rows);
}

async fn over_http2_told(world: &World, method: &str, path: &[u8]) -> (u16, String) {
    let bearer = world.bearer();
    let fields: [Field<'_>; 6] = [
        (b":method", method.as_bytes()),
        (b":scheme", b"http"),
        (b":authority", b"models.example.com"),
        (b":path", path),
        (b"authorization", bearer.as_bytes()),
        (b"content-type", b"application/json"),
    ];
    match H2::open(world.gateway().await).await.ask(1, &fields, BODY).await {
        End::Answer(status, body) => told(status, &body),
        // Of HTTP/2 itself: it never was a request.
        End::Reset(_) | End::GoAway(_) | End::Closed => (400, String::new()),
    }
}
