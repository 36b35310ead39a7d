//! HTTP for people, probes and scrapers: read-only, and the tier lookup of maas-api.

mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::gate::Gate;
use crate::metrics::{Metrics, PageFormat};
use crate::policy::Tiers;

pub use self::server::{in_time, serve};

/// What the pages show.
#[derive(Clone, Debug)]
pub struct Pages {
    pub gate: Arc<Gate>,
    pub metrics: Arc<Metrics>,
    /// Whether the workers answer.
    pub serving: Arc<AtomicBool>,
    /// Whether a stop was asked for: it serves on for a moment, and is not to be sent anything new.
    pub stopping: Arc<AtomicBool>,
}

/// A list of groups is small; the limit keeps a caller from filling the memory.
const MAX_BODY: usize = 1024 * 1024;

/// The routes.
pub fn router(pages: Pages) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/problems", get(problems))
        .route("/v1/tiers/lookup", post(lookup))
        .layer(axum::extract::DefaultBodyLimit::max(MAX_BODY))
        .layer(axum::middleware::from_fn(server::in_time))
        .with_state(pages)
}

async fn readyz(State(pages): State<Pages>) -> Response {
    let policy = pages.gate.policies.current();
    if let Some(why) = &policy.unready {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("no configuration: {why}\n")).into_response();
    }
    if !pages.gate.policies.are_followed() {
        return (StatusCode::SERVICE_UNAVAILABLE, "changes of the configuration are not followed: see the log\n")
            .into_response();
    }
    if pages.stopping.load(Ordering::Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response();
    }
    if !pages.serving.load(Ordering::Relaxed) {
        return (StatusCode::SERVICE_UNAVAILABLE, "the workers do not answer\n").into_response();
    }
    let shadow = if pages.gate.is_shadow() { ", in shadow: every request is let through" } else { "" };
    format!("ok, generation {}{shadow}\n", policy.generation).into_response()
}

async fn metrics(State(pages): State<Pages>, headers: HeaderMap) -> Response {
    let accept = headers.get_all(header::ACCEPT).into_iter();
    let format = PageFormat::of(accept.filter_map(|value| value.to_str().ok()));
    let page = pages.metrics.page(format, pages.gate.limits.accounts(), pages.gate.identities.len());
    ([(header::CONTENT_TYPE, format.content_type()), (header::VARY, "accept")], page).into_response()
}

/// The same list as `tiergate check`, after what only a serving process can have.
async fn problems(State(pages): State<Pages>) -> Response {
    let (policy, faults) = (pages.gate.policies.current(), pages.gate.policies.faults());
    let problems: Vec<_> = faults.iter().chain(&policy.problems).collect();
    axum::Json(json!({ "generation": policy.generation, "problems": problems })).into_response()
}

#[derive(Deserialize)]
struct GroupsBody {
    groups: Vec<String>,
}

/// `POST /v1/tiers/lookup`, as maas-api answers it.
async fn lookup(State(pages): State<Pages>, body: Bytes) -> Response {
    let bad = |why: &str| answer(StatusCode::BAD_REQUEST, "bad_request", &format!("invalid request body: {why}"));
    let request = match serde_json::from_slice::<GroupsBody>(&body) {
        Ok(request) if request.groups.is_empty() => return bad("groups is required"),
        Ok(request) => request,
        // serde's words would repeat what was sent.
        Err(error) if error.is_data() => {
            let (line, column) = (error.line(), error.column());
            return bad(&format!("groups must be a list of strings, at line {line} column {column}"));
        }
        Err(error) => return bad(&error.to_string()),
    };
    let failed = |why: &str| {
        answer(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", &format!("failed to lookup tier: {why}"))
    };
    match &pages.gate.policies.current().tiers {
        Tiers::Missing => failed("tier mapping not found, provide configuration in tier-to-group-mapping"),
        Tiers::Invalid(fault) => failed(fault),
        Tiers::Known(table) => match table.of(request.groups.iter().map(String::as_str)) {
            Some(tier) => axum::Json(&tier.answer).into_response(),
            None => {
                let message = format!("group groups [{}] not found in any tier", request.groups.join(" "));
                answer(StatusCode::NOT_FOUND, "not_found", &message)
            }
        },
    }
}

fn answer(status: StatusCode, error: &str, message: &str) -> Response {
    let body: Value = json!({ "error": error, "message": message });
    (status, axum::Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;
    use crate::test_util::{gate, settings};

    #[tokio::test]
    async fn a_process_that_follows_no_changes_is_not_ready() {
        let gate = Arc::new(gate(Policy::default(), settings()));
        let [serving, stopping] = [true, false].map(|flag| Arc::new(AtomicBool::new(flag)));
        let pages = Pages { gate: Arc::clone(&gate), metrics: Arc::new(Metrics::new()), serving, stopping };
        assert_eq!(readyz(State(pages.clone())).await.status(), StatusCode::OK);
        gate.policies.end();
        assert_eq!(readyz(State(pages)).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
