//! The path rule, and the model that a path names. The input is what Envoy sends as `path`.

use std::collections::HashMap;

use tiergate::clock::Nanos;
use tiergate::denial::Code;
use tiergate::request::{Headers, OperatorModel, Request, check_canonical, is_dns1123_label, is_dns1123_subdomain};

use super::world::{CALLERS, GATE, run};

/// An accepted path has one reading; what is let through is let through to the model that this reading names.
pub fn path(data: &[u8]) -> &'static str {
    let Ok(sent) = str::from_utf8(data) else { return "not text" };
    let (path, query) = Request::split_path(sent);
    assert_eq!(query.map_or(path.to_owned(), |query| format!("{path}?{query}")), sent, "nothing is lost or made up");
    let verdict = check_canonical(path);
    assert_eq!(verdict.is_ok(), has_one_reading(path), "{path:?}: {verdict:?}");
    if verdict.is_ok() {
        assert_decodes_to_itself(path);
    }
    for segment in path.split('/') {
        assert!(!is_dns1123_label(segment) || is_dns1123_subdomain(segment), "{segment:?}");
        let outside = |b: u8| !(b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
        assert!(!is_dns1123_subdomain(segment) || !segment.bytes().any(outside), "{segment:?}");
    }
    for caller in CALLERS {
        let headers = HashMap::from([("authorization".to_owned(), format!("Bearer {}", caller.token))]);
        let request = Request {
            method: "POST",
            host: "127.0.0.1:10000",
            scheme: "http",
            path,
            query,
            headers: Headers::Map(&headers),
            gateway: None,
            listener: None,
            port: None,
            peer: None,
            sni: None,
            model: OperatorModel::Unset,
            body: None,
        };
        let decision = run(GATE.check(&request, Nanos(0)));
        match (decision.outcome, verdict.is_ok()) {
            (Ok(_), true) => {
                let model = model_of(path).expect("two segments");
                assert!(caller.may.contains(&&*model), "{} may not call {model}", caller.token);
                assert_eq!(decision.evidence.permit.model.as_deref(), Some(&*model), "{path:?}");
            }
            (Ok(_), false) => panic!("{path:?} is not canonical, and passes"),
            (Err(denial), false) => assert_eq!(denial.code, Code::PathNotCanonical, "{path:?}"),
            (Err(_), true) => {}
        }
    }
    if verdict.is_ok() { "canonical" } else { "refused" }
}

/// `namespace/name`, as the tour's policy derives it.
pub(super) fn model_of(path: &str) -> Option<String> {
    let mut segments = path.split('/').skip(1);
    Some(format!("{}/{}", segments.next()?, segments.next()?))
}

/// The rule once more, as it is written in prose.
pub(super) fn has_one_reading(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    let escapes_are_whole = lower.split('%').skip(1).all(|rest| {
        let digits = rest.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    let divides = |c: char| c == ';' || c == '#' || c == '\\' || c.is_ascii_control();
    let escapes_divide = (0..128).map(char::from).filter(|c| divides(*c) || "%./?".contains(*c));
    let Some(inside) = path.strip_prefix('/') else { return false };
    let inside = inside.strip_suffix('/').unwrap_or(inside);
    let no_empty_or_dots = path == "/" || inside.split('/').all(|segment| !["", ".", ".."].contains(&segment));
    escapes_are_whole
        && no_empty_or_dots
        && !escapes_divide.map(|c| format!("%{:02x}", u32::from(c))).any(|escape| lower.contains(&escape))
        && String::from_utf8(decode(path.as_bytes())).is_ok()
        && !path.contains(divides)
}

/// A backend that decodes the path sees as many segments, in the same places.
fn assert_decodes_to_itself(path: &str) {
    let decoded = decode(path.as_bytes());
    let (sent, read): (Vec<_>, Vec<_>) = (path.split('/').collect(), decoded.split(|b| *b == b'/').collect());
    assert_eq!(sent.len(), read.len(), "{path:?}");
    for (sent, read) in sent.iter().zip(read) {
        assert_eq!(decode(sent.as_bytes()), read, "{path:?}");
        assert!(read != b"." && read != b"..", "{path:?}");
        let text = str::from_utf8(read).unwrap_or_else(|_| panic!("{path:?}"));
        assert!(!text.contains(|c: char| "\\;#?".contains(c) || c.is_ascii_control()), "{path:?}");
        // Decoding again changes nothing more.
        assert_eq!(decode(read), read, "{path:?}");
    }
}

fn decode(bytes: &[u8]) -> Vec<u8> {
    let (mut decoded, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).and_then(|digits| str::from_utf8(digits).ok());
        match digits.filter(|d| bytes[at] == b'%' && !d.starts_with('+')).map(|d| u8::from_str_radix(d, 16)) {
            Some(Ok(byte)) => {
                decoded.push(byte);
                at += 3;
            }
            _ => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    decoded
}
