//! What is asked in a way that nobody could count is refused, through the configurations that are shipped.

use crate::envoy::{gateway_by, shipped};
use crate::support::{Connection, Tiergate, generous_manifests};
use crate::wire::premium;

const JSON: &str = "application/json";
const UPLOAD: &str = "multipart/form-data; boundary=x";

/// The path below the model's prefix, the content type, the body, and whether it goes on to the model.
const ASKED: &[(&str, &str, &str, bool)] = &[
    // Values of `stream`.
    ("/v1/chat/completions", JSON, r#"{"messages":[],"stream":true}"#, true),
    ("/v1/chat/completions", JSON, r#"{"messages":[],"stream":false}"#, true),
    ("/v1/chat/completions", JSON, r#"{"messages":[],"stream":null}"#, true),
    ("/v1/chat/completions", JSON, r#"{"messages":[]}"#, true),
    ("/v1/chat/completions", JSON, r#"{"messages":[],"stream":1}"#, false),
    ("/v1/chat/completions", JSON, r#"{"messages":[],"stream":0}"#, false),
    ("/v1/chat/completions", JSON, r#"{"messages":[],"stream":2}"#, false),
    ("/v1/chat/completions", JSON, r#"{"messages":[],"stream":0.5}"#, false),
    ("/v1/chat/completions", JSON, r#"{"messages":[],"stream":"true"}"#, false),
    ("/v1/chat/completions", JSON, r#"{"messages":[],"stream":"enabled"}"#, false),
    ("/v1/chat/completions", JSON, r#"{"messages":[],"stream":""}"#, false),
    ("/v1/messages", JSON, r#"{"messages":[],"stream":"yes"}"#, false),
    // What is streamed under another name, or twice.
    ("/v1/chat/completions", "text/plain", r#"{"messages":[],"stream":true}"#, false),
    ("/v1/chat/completions", JSON, r#"{"messages":[],"stream":true,"stream":true}"#, false),
    ("/v1/chat/completions", UPLOAD, r#"{"messages":[],"stream":true}"#, false),
    // Uploads, where uploads go and nowhere below.
    ("/v1/audio/transcriptions", UPLOAD, "--x", true),
    ("/v1/audio/translations", "audio/wav", "x", true),
    ("/v1/images/edits", UPLOAD, "--x", true),
    ("/v1/images/variations", "image/png", "x", true),
    ("/v1/files", UPLOAD, "--x", true),
    ("/v1/uploads", UPLOAD, "--x", true),
    ("/v1/uploads/upload_1/parts", UPLOAD, "--x", true),
    ("/v1/files?purpose=batch", UPLOAD, "--x", true),
    ("/v1/files/v1/chat/completions", UPLOAD, r#"{"stream":true}"#, false),
    ("/v1/audio/transcriptions/x", UPLOAD, "--x", false),
    ("/v1/audio/speech", UPLOAD, "--x", false),
    ("/v1/uploads/a/b/parts", UPLOAD, "--x", false),
    ("/v1/images", UPLOAD, "--x", false),
    ("/x/v1/files", UPLOAD, "--x", false),
    ("/v1/files", "application/octet-stream", "x", false),
];

#[tokio::test]
async fn what_nobody_could_count_is_refused_and_uploads_are_not() {
    let manifests = generous_manifests();
    let bearer = format!("Bearer {}", premium());
    for (file, flags) in crate::dialects::SETUPS {
        let tiergate = Tiergate::start(&manifests.0, flags);
        let gateway = gateway_by(&shipped(file), &[tiergate.grpc.port()]).await;
        let mut others = Vec::new();
        for (path, kind, body, passes) in ASKED {
            let headers = [("authorization", bearer.as_str()), ("content-type", kind)];
            let mut connection = Connection::open(gateway.address).await;
            let answer = connection.send("POST", &format!("/llm/qwen3{path}"), &headers, body).await;
            // The sample model has no uploads, which it says in its own words.
            let refused = answer.status == 400 && answer.json()["error"]["code"] == "TG-BODY-UNREADABLE";
            if refused == *passes {
                others.push((path, kind, body, answer.status, answer.body));
            }
        }
        assert!(others.is_empty(), "{file}: {others:#?}");
    }
}
