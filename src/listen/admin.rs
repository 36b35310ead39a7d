//! The admin port: what tells about callers, and what changes state. It is on loopback unless told otherwise.
//!
//! Loopback alone keeps nobody out who can make a browser of this host ask: a page's own name can be made to lead to 127.0.0.1
//! (DNS rebinding), and then the page reads what is answered. Its requests have that name as their host. Or the page asks by a name of
//! loopback, over and over, and does without the answers. Browsers say so of such a request, in headers that no page can set.

mod limits;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;

use super::http::in_time;
use crate::clock::Clock;
use crate::denial::Code;
use crate::explain::Trace;
use crate::gate::{Gate, Recent, Record};
use crate::metrics::Metrics;
use crate::printable::printable_line;
use crate::process::decision_id;
use crate::respond::parse_decision_id;

/// What the pages show.
#[derive(Clone, Debug)]
pub struct AdminPages {
    pub gate: Arc<Gate>,
    pub metrics: Arc<Metrics>,
    pub clock: Clock,
}

/// The routes, for a listener at `address`. On loopback only requests to a name of loopback are answered; whoever listens
/// elsewhere is asked by names that are not known here.
pub fn router(pages: AdminPages, address: SocketAddr) -> Router {
    let router = Router::new()
        .route("/explain", get(list))
        .route("/explain/{id}", get(explain))
        .merge(limits::routes())
        .layer(axum::middleware::from_fn(of_no_page))
        .layer(axum::middleware::from_fn(in_time))
        .with_state(pages);
    match address.ip().to_canonical().is_loopback() {
        true => router.layer(axum::middleware::from_fn(of_loopback)),
        false => router,
    }
}

/// Answers only what was asked of a name of loopback.
async fn of_loopback(request: Request, next: Next) -> Result<Response, Infallible> {
    if asks_loopback(&request) {
        return Ok(next.run(request).await);
    }
    // The name is not repeated: it may be anything.
    let why = "this port is on loopback: ask it as localhost, 127.0.0.1 or [::1], with or without its port\n";
    Ok((StatusCode::MISDIRECTED_REQUEST, why).into_response())
}

/// Answers nothing that a page has a browser ask: this port has no pages that would.
async fn of_no_page(request: Request, next: Next) -> Result<Response, Infallible> {
    if !is_of_page(request.headers()) {
        return Ok(next.run(request).await);
    }
    let why = "a browser asks, for a page: this port is for programs, and for an address that is typed into a browser";
    Ok((StatusCode::FORBIDDEN, axum::Json(json!({ "error": why }))).into_response())
}

/// Whether a page has a browser ask. `Origin` comes with what can be read or changes something, `Sec-Fetch-Site` with all else; that is
/// `none` for an address that somebody typed.
///
/// Source: <https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header>
fn is_of_page(headers: &HeaderMap) -> bool {
    let mut sites = headers.get_all("sec-fetch-site").iter();
    headers.contains_key(header::ORIGIN) || sites.any(|site| site != "same-origin" && site != "none")
}

/// Where a request names its host twice, in its line and in a header, both have to be of loopback.
fn asks_loopback(request: &Request) -> bool {
    let headers = request.headers().get_all(header::HOST).iter();
    let headers = headers.map(|host| Authority::try_from(host.as_bytes()).ok());
    let hosts: Vec<_> = headers.chain(request.uri().authority().cloned().map(Some)).collect();
    !hosts.is_empty() && hosts.iter().all(|host| host.as_ref().is_some_and(is_loopback))
}

fn is_loopback(host: &Authority) -> bool {
    if host.as_str().contains('@') {
        return false;
    }
    let name = host.host();
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What was not let through of late, the newest first.
async fn list(State(pages): State<AdminPages>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let records = pages.gate.recent.newest_first();
    if wants_json(query.as_deref(), &headers) {
        let entries: Vec<_> = records.iter().map(|record| entry(record)).collect();
        return axum::Json(json!({ "decisions": entries, "kept": Recent::KEPT })).into_response();
    }
    let mut text: String = records.iter().map(|record| line(record)).collect();
    if text.is_empty() {
        text.push_str("nothing was refused, and nothing was left undecided\n");
    }
    text.into_response()
}

async fn explain(
    State(pages): State<AdminPages>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let json = wants_json(query.as_deref(), &headers);
    let missing = |why: String| {
        let why = format!(
            "{why}; the last {} requests that were refused or undecided are kept, and listed at /explain",
            Recent::KEPT
        );
        let body =
            if json { axum::Json(json!({ "error": why })).into_response() } else { format!("{why}\n").into_response() };
        (StatusCode::NOT_FOUND, body).into_response()
    };
    let number = match parse_decision_id(&id) {
        Ok(number) => number,
        // What was asked for is not repeated: it may be anything.
        Err(error) => return missing(format!("what was asked for {error}")),
    };
    let Some(record) = pages.gate.recent.get(number) else {
        return missing(format!("decision {id} is not kept, or let its request through"));
    };
    let trace = Trace::of_record(&record, &pages.gate.policies.current());
    if json { axum::Json(trace).into_response() } else { trace.to_string().into_response() }
}

fn line(record: &Record) -> String {
    let (id, code) = (decision_id(record.evidence.id), record.code().map_or("-", Code::as_str));
    let shadow = if record.denial.is_none() { " (shadow)" } else { "" };
    let what = record.request_line.as_ref().map_or_else(String::new, |line| format!("{} {}", line.method, line.path));
    let user = record.evidence.user.as_deref().unwrap_or("-");
    // What clients sent must not talk to the reader's terminal, and is one line.
    let line = format!("{} {id} {code}{shadow} {user} {what}", record.time);
    format!("{}\n", printable_line(&line))
}

fn entry(record: &Record) -> serde_json::Value {
    json!({
        "decision_id": decision_id(record.evidence.id),
        "time": record.time.to_string(),
        "code": record.code().map(Code::as_str),
        "shadow": record.denial.is_none(),
        "user": record.evidence.user.as_deref(),
        "request": record.request_line,
    })
}

/// Whether JSON is wanted, and not text for people.
fn wants_json(query: Option<&str>, headers: &HeaderMap) -> bool {
    let mut pairs = query.into_iter().flat_map(|query| query.split('&'));
    match pairs.find_map(|pair| pair.strip_prefix("format=")) {
        Some(format) => format == "json",
        None => {
            let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
            accept.is_some_and(|accept| accept.contains("application/json"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::denial::Denial;
    use crate::gate::Evidence;

    #[test]
    fn only_names_of_loopback_are_asked() {
        let asks = |line: &str, hosts: &[&str]| {
            let mut request = axum::http::Request::get(line);
            for host in hosts {
                request = request.header(header::HOST, *host);
            }
            asks_loopback(&request.body(axum::body::Body::empty()).unwrap())
        };
        for host in ["localhost", "LocalHost:8081", "127.0.0.1", "127.0.0.1:1", "127.9.8.7:8081", "[::1]", "[::1]:8081"]
        {
            assert!(asks("/explain", &[host]), "{host}");
            assert!(asks(&format!("http://{host}/explain"), &[host]), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:8081",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "localhost@evil.example",
            "evil.example@localhost",
            "128.0.0.1",
            "0.0.0.0",
            "[::]",
            "[::ffff:10.0.0.1]",
            "localhost evil",
            "localhost,evil",
            ":8081",
        ] {
            assert!(!asks("/explain", &[host]), "{host}");
        }
        assert!(!asks("/explain", &[]), "no name");
        assert!(!asks("/explain", &["localhost", "evil.example"]), "one of two");
        assert!(!asks("http://evil.example/explain", &["localhost"]), "the line");
        assert!(!asks("http://localhost/explain", &["evil.example"]), "the header");
    }

    #[test]
    fn what_a_page_has_a_browser_ask_is_known() {
        let of_page = |headers: &[(&'static str, &'static str)]| {
            let headers = headers.iter().map(|(name, value)| {
                (axum::http::HeaderName::from_static(name), axum::http::HeaderValue::from_static(value))
            });
            is_of_page(&headers.collect())
        };
        for page in [
            &[("origin", "http://evil.example")][..],
            &[("origin", "null")],
            &[("origin", "http://127.0.0.1:8081"), ("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "")],
        ] {
            assert!(of_page(page), "{page:?}");
        }
        for other in [&[][..], &[("sec-fetch-site", "none")], &[("sec-fetch-site", "same-origin")]] {
            assert!(!of_page(other), "{other:?}");
        }
    }

    #[test]
    fn what_a_caller_is_called_does_not_talk_to_the_terminal() {
        let evidence = Evidence { user: Some("a\u{1b}[2J\u{202e}b\nc".into()), ..Evidence::new(1, 1) };
        let denial = Some(Denial::new(Code::AccessDenied, "no"));
        let record = Record { time: jiff::Timestamp::UNIX_EPOCH, request_line: None, evidence, denial };
        let line = line(&record);
        assert!(line.ends_with(" a\\u{1b}[2J\\u{202e}b\\nc \n"), "{line:?}");
    }
}
