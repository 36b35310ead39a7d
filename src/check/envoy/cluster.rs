//! The cluster that leads to tiergate.

use super::read::ConfigValue;
use crate::problem::Finding;

const HTTP: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// What Envoy allows at once where nothing is said.
const DEFAULT: i64 = 1024;

pub(super) fn check(cluster: &ConfigValue<'_>) {
    if !speaks_http2(cluster) {
        let message = "speaks HTTP/1.1 to tiergate, and gRPC is HTTP/2";
        let remedy = format!("set `explicit_http_config: {{http2_protocol_options: {{}}}}` under {HTTP}");
        cluster.warn(Finding::EnvoyClusterNotHttp2, message, &remedy);
    }
    circuit_breakers(cluster);
}

fn speaks_http2(cluster: &ConfigValue<'_>) -> bool {
    let options = cluster.get("typed_extension_protocol_options").and_then(|all| all.get(HTTP));
    // With `auto_config` TLS agrees on it.
    let ways: [&[&str]; 2] = [&["explicit_http_config", "http2_protocol_options"], &["auto_config"]];
    cluster.get("http2_protocol_options").is_some()
        || options.is_some_and(|options| ways.iter().any(|way| options.at(way).is_some()))
}

fn circuit_breakers(cluster: &ConfigValue<'_>) {
    let thresholds = cluster.at(&["circuit_breakers", "thresholds"]);
    let mut thresholds = thresholds.map(|thresholds| thresholds.items()).unwrap_or_default().into_iter();
    let normal = thresholds.find(|one| one.get("priority").is_none() || one.is_one_of("priority", &[("DEFAULT", 0)]));
    let at = normal.unwrap_or_else(|| cluster.clone());
    let low: Vec<&str> = ["max_requests", "max_pending_requests"]
        .into_iter()
        .filter(|name| at.number(name).is_none_or(|number| number <= DEFAULT))
        .collect();
    if !low.is_empty() {
        let message = format!(
            "lets at most 1,024 requests ask at once ({}): a burst is answered 503 by Envoy alone",
            low.join(", ")
        );
        at.warn(Finding::EnvoyCircuitBreakers, message, &format!("set {} to 65536", low.join(" and ")));
    }
}
