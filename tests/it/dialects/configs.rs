//! The shipped configurations with their text changed: other readers and channels than they have, and where those lead.

use std::path::Path;

use crate::envoy::shipped;

/// Reports by an access log, with Envoy's own readers.
pub(super) const BY_LOG: &str = "envoy/tiergate.yaml";
/// The same by a call.
pub(super) const BY_CALL: &str = "envoy/report-by-call.yaml";
/// By an access log, with Lua for a reader.
pub(super) const LUA: &str = "envoy/lua.yaml";

/// Where access logs are listed, and what stands behind them.
const LOGS: &str = "                access_log:\n";
const AFTER_LOGS: &str = "                use_remote_address:";
/// The filter that reports by a call, and how the one behind it begins.
const CALL: &str = "                  # Next, so that whatever Check reserved is reported";
const NEXT: &str = "\n                  # ";
/// The last line of the filter before it.
const CHECK: &str = "                      charge_cluster_response_stats: false # a 429 of the gateway is not an error of the model's cluster\n";
/// One of the numbers that it reports, and what it has to report besides where Lua reads.
const STATUS: &str = r#"                        - apply_on_stream_done: true
                          hits_addend: {format: "%RESPONSE_CODE%"}
"#;
const LUA_NUMBERS: [&str; 2] = ["chunks", "ended"];

/// What reports come over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    Call,
    Log,
}

/// The part of a configuration from the beginning of one line on to another.
pub(super) fn part(config: &str, from: &str, to: &str) -> String {
    let (_, rest) = config.split_once(from).unwrap_or_else(|| panic!("{from}"));
    let (inside, _) = rest.split_once(to).unwrap_or_else(|| panic!("{to}"));
    [from, inside].concat()
}

/// With other text in the place of one that stands there once.
fn replaced(config: &str, from: &str, to: &str) -> String {
    assert_eq!(config.matches(from).count(), 1, "{from}");
    config.replacen(from, to, 1)
}

/// Without the filter that reports by a call.
pub(super) fn without_call(config: &str) -> String {
    let call = part(config, CALL, NEXT) + "\n";
    replaced(config, &call, "")
}

/// Without any access log.
pub(super) fn without_log(config: &str) -> String {
    replaced(config, &part(config, LOGS, AFTER_LOGS), "")
}

/// With the access log that reports beside what is there.
pub(super) fn with_log(config: &str) -> String {
    let log = part(&shipped(BY_LOG), LOGS, AFTER_LOGS);
    replaced(config, AFTER_LOGS, &(log + AFTER_LOGS))
}

/// [`LUA`] with the filter of [`BY_CALL`] in place of its access log, as `envoy/README.md` says.
pub(super) fn lua_by_call() -> String {
    let number = |name: &str| {
        format!(
            r#"                        - apply_on_stream_done: true
                          hits_addend: {{format: "%DYNAMIC_METADATA(tiergate.usage:{name})%"}}
                          actions: [*reservation, {{generic_key: {{descriptor_key: tiergate.usage, descriptor_value: {name}}}}}]
"#
        )
    };
    let call = part(&shipped(BY_CALL), CALL, NEXT) + "\n";
    let call = replaced(&call, STATUS, &(LUA_NUMBERS.map(number).concat() + STATUS));
    replaced(&without_log(&shipped(LUA)), CHECK, &(CHECK.to_owned() + &call))
}

/// With Envoy 1.40's own reader in place of those of [`BY_LOG`].
pub(super) fn with_ai_protocol_manager() -> String {
    let config = shipped(BY_LOG);
    let readers = part(
        &config,
        "                  # The answer's usage, from JSON",
        "                  - name: envoy.filters.http.router",
    );
    let manager = r#"                  - name: envoy.filters.http.ai_protocol_manager
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ai_protocol_manager.v3.AiProtocolManager
                      response_handling: {token_usage: {include_unconfigured_routes: true}}
"#;
    replaced(&config, &readers, manager)
}

/// With bodies in Check, as `settings` say. No shipped configuration has them.
pub(super) fn sending_bodies(config: &str, settings: &str) -> String {
    const FAILURE: &str = "                      failure_mode_allow: false\n";
    replaced(config, FAILURE, &format!("{FAILURE}                      with_request_body: {{{settings}}}\n"))
}

/// With a log of its own of every request: a line of JSON with the fields of `format`, which Envoy writes when it is asked to open its
/// logs anew.
pub(super) fn telling(config: &str, file: &Path, format: &str) -> String {
    let log = format!(
        r#"                  - name: told
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
                      path: {}
                      log_format: {{json_format: {{{format}}}}}
"#,
        file.display()
    );
    match config.contains(LOGS) {
        true => replaced(config, LOGS, &(LOGS.to_owned() + &log)),
        false => replaced(config, AFTER_LOGS, &(LOGS.to_owned() + &log + AFTER_LOGS)),
    }
}

/// With a cluster of its own, at that port, for what reports over this channel.
pub(super) fn reporting_to(config: &str, channel: Channel, port: u16) -> String {
    let service = match channel {
        Channel::Call => "grpc_service: {envoy_grpc: {cluster_name: tiergate}, timeout: 2s",
        Channel::Log => "grpc_service: {envoy_grpc: {cluster_name: tiergate}}\n                        buffer",
    };
    let model = "    - name: model\n";
    let cluster = part(config, "    - name: tiergate\n", model);
    let cluster = replaced(&cluster, "- name: tiergate\n", "- name: reports\n");
    let cluster = replaced(&cluster, "cluster_name: tiergate\n", "cluster_name: reports\n");
    let cluster = replaced(&cluster, "port_value: 50051", &format!("port_value:  {port}"));
    let config = replaced(config, service, &service.replace("tiergate", "reports"));
    replaced(&config, model, &(cluster + model))
}
