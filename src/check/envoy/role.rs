//! What filters ask tiergate, and what says so.

/// What a filter asks tiergate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FilterRole {
    Check,
    /// Whether the limits let a request through.
    Limits,
    Report,
}

pub(super) const ROLES: [FilterRole; 3] = [FilterRole::Check, FilterRole::Limits, FilterRole::Report];

/// Where the service of a rate-limit filter is named.
pub(super) const CLUSTER_NAME: [&str; 4] = ["rate_limit_service", "grpc_service", "envoy_grpc", "cluster_name"];
/// The domain of usage reports.
pub(super) const REPORT: &str = "tiergate.report";
/// The domain of questions about the limits.
pub(super) const DOMAIN: &str = "tiergate";
