//! What the limits say, to a gateway that asks for that alone.
//!
//! Source: `envoy/service/ratelimit/v3/rls.proto`. Such a gateway has no answers but yes and 429; everything else is an error,
//! and the gateway has to be told to refuse on one (`failure_mode_deny`).

use envoy_types::pb::envoy::config::core::v3::HeaderValueOption;
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitResponse;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code as Verdict;
use tonic::Status;

use super::{Style, denied, limit_headers, metadata, status};
use crate::gate::Decision;
use crate::rules::LimitKind;

/// The answer to the gateway: headers, body and metadata are those of Check.
///
/// # Errors
///
/// Nothing could be decided, or nobody should have asked. The text is for the gateway's log.
pub fn rate_limit_response(decision: &Decision, style: Style) -> Result<RateLimitResponse, Status> {
    let evidence = &decision.evidence;
    let (verdict, headers, body) = match &decision.outcome {
        Ok(_) if style.shadow => (Verdict::Ok, Vec::new(), String::new()),
        Ok(_) => {
            let headers = limit_headers(evidence, evidence.most_restrictive(LimitKind::Requests));
            (Verdict::Ok, headers, String::new())
        }
        Err(denial) => match status(denial.code) {
            (429, ..) => {
                let denied = denied(denial, evidence, style);
                (Verdict::OverLimit, denied.headers, denied.body)
            }
            (_, code, _) => {
                let detail = denial.detail.as_deref().map(|detail| format!(" ({detail})")).unwrap_or_default();
                return Err(Status::new(code, format!("{}: {}{detail}", denial.code.as_str(), denial.message)));
            }
        },
    };
    // These are added, whatever is there: the protocol has no other way. `envoy/classic.yaml` removes a model's own.
    let plain = |option: HeaderValueOption| option.header.unwrap_or_default();
    Ok(RateLimitResponse {
        overall_code: verdict as i32,
        response_headers_to_add: headers.into_iter().map(plain).collect(),
        raw_body: body.into_bytes(),
        dynamic_metadata: Some(metadata(decision)),
        ..RateLimitResponse::default()
    })
}
