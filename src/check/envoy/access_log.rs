//! Access logs that tell tiergate of each request at its end, in place of a filter that reports.

use super::filter::cluster;
use super::read::{ConfigValue, is_type};
use super::{Beside, EnvoyFile};
use crate::problem::Finding;

/// An access log over gRPC.
#[derive(Debug)]
pub(super) struct Log<'a> {
    /// Its entry in a list of logs.
    entry: ConfigValue<'a>,
    common: ConfigValue<'a>,
    pub(super) cluster: String,
}

/// tiergate takes no longer message: what was gathered, the entry that filled it, and the node.
const MESSAGE: i64 = 1024 * 1024;
/// Of a message, what is not gathered.
const REST: i64 = 256 * 1024;

/// The access logs of a connection manager that lead to tiergate.
pub(super) fn logs<'a>(manager: &ConfigValue<'a>, file: &EnvoyFile<'a>) -> Vec<Log<'a>> {
    let logs = manager.list("access_log").into_iter().filter_map(Log::of);
    logs.filter(|log| file.is_ours(&log.cluster)).collect()
}

/// Whether a connection manager has an access log that leads to a cluster of such a name.
pub(super) fn leads_to(manager: &ConfigValue<'_>, is_named: fn(&str) -> bool) -> bool {
    manager.list("access_log").into_iter().filter_map(Log::of).any(|log| is_named(&log.cluster))
}

// === impl Log ===

impl<'a> Log<'a> {
    fn of(entry: ConfigValue<'a>) -> Option<Self> {
        let config = entry.get("typed_config")?;
        let common = config.get("common_config")?;
        let cluster = cluster(&common.get("grpc_service")?)?;
        is_type(&config, ".access_loggers.grpc.v3.HttpGrpcAccessLogConfig").then_some(Log { entry, common, cluster })
    }

    pub(super) fn check(&self, file: &EnvoyFile<'a>, beside: Beside) {
        if let Some(at) = self.entry.get("filter").filter(|_| beside.token_limits) {
            let message = "tells a part of the requests only: of the others what was expected stays charged";
            at.warn(Finding::EnvoyReportMissing, message, "remove `filter`");
        }
        let gathered = self.common.number("buffer_size_bytes").is_some_and(|bytes| bytes > MESSAGE - REST);
        if let Some(at) = self.common.get("buffer_size_bytes").filter(|_| gathered) {
            let message = "gathers more than tiergate takes in one message (1 MiB), and all of it is lost";
            at.warn(Finding::EnvoyReportUnread, message, "set `buffer_size_bytes: 4096`");
        }
        if beside.token_limits && !file.facts.reads_usage() {
            let message = "tells no tokens, since no filter of this file reads them from answers";
            let remedy = "add the filters of envoy/tiergate.yaml that read `usage` from answers";
            self.entry.warn(Finding::EnvoyReportMissing, message, remedy);
        }
    }
}
