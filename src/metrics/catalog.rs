//! Every family of metrics: what it means, and what to alert on. `docs/metrics.md` is made from it, and a test compares.

use crate::family::{Description, MetricKind};

const OUTCOME: (&str, &str) = ("outcome", "`allowed`, `refused`, `undecided` (it could not be told: 503)");
const ANSWERED: (&str, &str) = (
    "outcome",
    "`allowed`, `shown` (the caller asked for their [limits](limits.md#what-is-left-get-v1limits), and tiergate answered), `refused`, `undecided` (it could not be told: 503)",
);
const TIER: (&str, &str) = (
    "tier",
    "a tier of the mapping, or that limits name where the mapping is not tiergate's; empty for any other and for none",
);
const MODEL: (&str, &str) =
    ("model", "the name of an LLMInferenceService; `other` for any other, empty where none was asked for");
const NAMESPACE: (&str, &str) = ("namespace", "that of the LLMInferenceService; else empty");
const USAGE: (&str, &str) = (
    "usage",
    "`total`, `input`, `output`, `cached`, `reasoning`; `estimated`, of answers that said no usage; `corrected`, estimated ones that a later report took the place of",
);
const CHANNEL: (&str, &str) =
    ("channel", "`access_log` (Envoy's access log), `rate_limit` (a call in the domain `tiergate.report`)");
const LIMIT: (&str, &str) = ("limit", "its name in the policy; `other` for those beyond 1,000");
const POLICY: (&str, &str) = ("policy", "`namespace/name`");
const VERDICT: (&str, &str) = ("verdict", "`exceeds`, `fits`");
const PERCENT: (&str, &str) = ("percent", "the part, from 1 to 100");
const KIND: (&str, &str) = ("kind", "`requests`, `tokens`");
const PORT: (&str, &str) = ("port", "`admin`, `grpc`, `http`");
const CALL: (&str, &str) = ("call", "`keys`, `subject_access_review`, `token_review`");

const fn counter(
    name: &'static str,
    unit: &'static str,
    labels: &'static [(&'static str, &'static str)],
    meaning: &'static str,
    alert: &'static str,
) -> Description {
    Description { name, kind: MetricKind::Counter, unit, labels, meaning, alert }
}

const fn gauge(
    name: &'static str,
    unit: &'static str,
    labels: &'static [(&'static str, &'static str)],
    meaning: &'static str,
    alert: &'static str,
) -> Description {
    Description { name, kind: MetricKind::Gauge, unit, labels, meaning, alert }
}

const fn histogram(
    name: &'static str,
    labels: &'static [(&'static str, &'static str)],
    meaning: &'static str,
    alert: &'static str,
) -> Description {
    Description { name, kind: MetricKind::Histogram, unit: "seconds", labels, meaning, alert }
}

/// All families, by subject.
pub const FAMILIES: &[Description] = &[
    counter(
        "tiergate_decisions",
        "requests",
        &[
            ANSWERED,
            ("reason", "the [code](reasons.md) of the refusal, such as `TG-LIMIT-TOKENS`; empty if allowed or shown"),
        ],
        "Decided requests, by outcome and reason code",
        "a rate of `undecided` above 0: callers get 503, and the code says what is away; a jump of `TG-ACCESS-DENIED` or of `TG-TOKEN-…` after a change",
    ),
    histogram(
        "tiergate_decision_duration_seconds",
        &[],
        "Time to decide a request",
        "the 99th percentile near 0.15, where requests that wait for the API server or the tier service are given up as undecided",
    ),
    histogram(
        "tiergate_stage_duration_seconds",
        &[("stage", "`access`, `admission`, `facts`, `identity`, `limits`, `route`")],
        "Time of each stage, of one request in 16",
        "nothing: it says which stage takes the time",
    ),
    counter(
        "tiergate_tier_decisions",
        "requests",
        &[OUTCOME, TIER],
        "Decided requests, by the tier that was enforced",
        "the share of `refused` of a tier that pays",
    ),
    counter(
        "tiergate_model_decisions",
        "requests",
        &[MODEL, NAMESPACE, OUTCOME],
        "Decided requests, by the model that was asked for",
        "a rate of `other`: callers ask for models that there are not",
    ),
    counter(
        "tiergate_would_have_refused",
        "requests",
        &[("by", "what is in shadow: `policy`, `process`"), ("reason", "as in `tiergate_decisions`")],
        "Requests that would have been refused, or undecided, were it not for --shadow or a policy's annotation",
        "nothing: look at it before shadow ends",
    ),
    counter(
        "tiergate_limit_changes",
        "changes",
        &[("action", "`grant`, `reset`")],
        "Accounts that somebody changed by hand, on the admin port or by `tiergate limits`; the log has who and why",
        "more than your runbook explains",
    ),
    gauge(
        "tiergate_shadow",
        "0 or 1",
        &[],
        "Whether every request is let through (--shadow)",
        "1 for longer than the trial takes: nothing is enforced",
    ),
    counter(
        "tiergate_identity_lookups",
        "requests",
        &[(
            "source",
            "`fetched` (reviewed for the request), `hit`, `stale` (past its time, since the API server is away)",
        )],
        "Look-ups of a token's identity, by where it came from",
        "the share of `hit` falls: tokens live shortly, or --max-identities is too small",
    ),
    counter(
        "tiergate_access_decisions",
        "requests",
        &[(
            "source",
            "`rbac` (in process); of the API server `fetched` (asked for the request), `hit`, `stale` (past its time)",
        )],
        "Access that was asked for, by who has said",
        "`stale` above 0: the API server is away",
    ),
    counter(
        "tiergate_access_disagreements",
        "requests",
        &[],
        "Access of which RBAC in process and the API server say different things (--access both)",
        "above 0: another authorizer decides too, or a watch is behind; the log names them",
    ),
    counter(
        "tiergate_stale_decisions",
        "requests",
        &[],
        "Decisions that rest on what was known, since the API server is away",
        "above 0 for minutes: after --stale-for such requests are undecided",
    ),
    counter(
        "tiergate_tier_lookups",
        "requests",
        &[("source", "`fetched` (asked for the request), `hit`, `stale` (past its time; a new answer is fetched)")],
        "Tiers that a service knows, by where they came from",
        "the share of `stale` rises: the tier service is slow or away",
    ),
    counter(
        "tiergate_requests_of_gone_tier",
        "requests",
        &[],
        "Requests whose caller's namespace is of a tier that is no longer configured",
        "above 0: a tier was renamed or removed while it had users",
    ),
    counter(
        "tiergate_requests_without_limit",
        "requests",
        &[],
        "Requests whose caller matched no limit",
        "above 0, where every tier is meant to have one",
    ),
    counter(
        "tiergate_requests_without_room",
        "requests",
        &[],
        "Requests for whose account there was no room",
        "above 0: raise --max-accounts",
    ),
    counter(
        "tiergate_limit_decisions",
        "rates of limits",
        &[KIND, TIER, VERDICT],
        "What limits said, by the tier that was enforced",
        "the share of `exceeds` of a tier: its limit is too low, or somebody runs wild",
    ),
    counter(
        "tiergate_limit_checks",
        "rates of limits",
        &[KIND, LIMIT, POLICY, VERDICT],
        "What each limit said; those in shadow too, which refuse nothing",
        "`exceeds` of a limit that is meant never to be reached",
    ),
    counter(
        "tiergate_limit_tokens",
        "tokens",
        &[LIMIT, POLICY],
        "Tokens charged to each token limit, in the unit of its cost, as reports come. A correction upwards is added, one downwards is not subtracted. Calls that nobody reported are not counted. The usage log (--usage-log) has exact sums",
        "nothing: it says which limit the use goes against",
    ),
    counter(
        "tiergate_limit_reached",
        "times that it was reached",
        &[KIND, LIMIT, PERCENT, POLICY],
        "A part of a limit was used that `tiergate.io/notify.<limit>` names, of one account; by a request or the usage report of its answer",
        "`percent=\"100\"` of a limit that is meant never to be used up",
    ),
    gauge(
        "tiergate_limit_accounts",
        "accounts",
        &[],
        "Accounts that limits keep",
        "near --max-accounts: new callers will be undecided",
    ),
    gauge("tiergate_identities", "identities", &[], "Identities that are remembered", "nothing: see --max-identities"),
    counter(
        "tiergate_usage_reports",
        "reports",
        &[
            CHANNEL,
            (
                "result",
                "`conflicting` (a second one that says another number), `duplicate`, `estimated` (charged by its bytes, or by what was counted so far), `late` (after --settle-within), `no_usage` (free), `refused` (unreadable), `settled`, `unknown` (of another process, or forged)",
            ),
        ],
        "Usage reports, by what they came over and what became of them",
        "far fewer `settled` than allowed requests: the gateway does not report, and token limits charge nothing; the share of `estimated`: answers carry no usage; `refused` above 0",
    ),
    histogram(
        "tiergate_usage_settlement_delay_seconds",
        &[],
        "Time from the decision to the first report that settles its call; buckets from 0.1 s to 2 h",
        "its rise without one of the time of answers: reports are late, and what was held too much comes back later",
    ),
    counter(
        "tiergate_access_log_passed",
        "entries",
        &[(
            "entry",
            "`interim` (of a request that is not over), `tcp` (of a connection), `unreserved` (of a request that Check refused, or was not asked about)",
        )],
        "Entries of Envoy's access log that are no usage report",
        "nothing: a log has many of them",
    ),
    counter(
        "tiergate_usage_corrections",
        "reports",
        &[(
            "what",
            "`answer` (more than --max-answer-tokens), `cost` (the cost of a limit has no value, or none that an answer can cost: docs/limits.md says what is charged), `debt` (more than --max-debt-windows), `lease` (the call ran longer than --max-call-time: it was not counted any more among those that run), `number` (one that is none; the others count)",
        )],
        "What usage reports said and was not taken as it was said",
        "above 0: a model or the gateway reports what cannot be, or a cost is wrong",
    ),
    gauge(
        "tiergate_usage_reports_awaited",
        "reservations",
        &[],
        "Admitted requests of the last --max-call-time that no usage report has come for: the holds that are outstanding",
        "as many as were admitted: the gateway does not report",
    ),
    counter(
        "tiergate_usage_unsettled",
        "reservations",
        &[],
        "Admitted requests that no usage report has come for in --max-call-time, calls of a model and others; what they held stays charged",
        "above 0: reports are lost",
    ),
    counter(
        "tiergate_channel_tokens",
        "tokens",
        &[CHANNEL, USAGE],
        "Tokens reported, by what the report came over. If an estimate comes over one channel and a better report over the other, `corrected` counts under the other",
        "(E - C) / (E - C + T) is high, where E, C and T are `estimated`, `corrected` and `total`, each summed over all channels: answers carry no usage, or a reader cannot read it",
    ),
    counter(
        "tiergate_usage_tokens",
        "tokens",
        &[TIER, USAGE],
        "Tokens reported, by the tier that was enforced",
        "nothing: it is what tiers use",
    ),
    counter(
        "tiergate_model_tokens",
        "tokens",
        &[MODEL, NAMESPACE, USAGE],
        "Tokens reported, by the model that was asked for",
        "nothing: it is what models are used for",
    ),
    counter(
        "tiergate_usage_log_lines",
        "lines",
        &[("result", "`dropped` (no room to wait), `failed` (the file could not be written until the end), `written`")],
        "Lines of the usage log (--usage-log), by what became of them",
        "`dropped` or `failed` above 0: calls are missing in the log, though they were charged to their limits",
    ),
    counter(
        "tiergate_usage_log_forgotten",
        "calls",
        &[],
        "Calls that there was no room to remember while no report had come (--max-open-calls); those that nobody reports have no line",
        "above 0: reports are lost, or more calls run at once than expected",
    ),
    gauge(
        "tiergate_usage_log_failing",
        "0 or 1",
        &[],
        "Whether the usage log could not be written when that was last tried",
        "1 for a minute: lines wait, and are dropped when there is no room; the log says why",
    ),
    gauge("tiergate_state_bytes", "bytes", &[], "Size of the state file (--state)", "the disk it is on is nearly full"),
    histogram(
        "tiergate_state_save_duration_seconds",
        &[],
        "Time of a save of the state file, from the copy of what changed to the disk's word; buckets from 1 ms to 5 s. No decision waits for it",
        "the 99th percentile above 1: the disk is slow, and a crash loses more than the last second",
    ),
    gauge(
        "tiergate_state_last_save_timestamp_seconds",
        "seconds since 1970",
        &[],
        "When the state file was saved last. A process that has nothing to save saves nothing",
        "nothing: see `tiergate_state_failing`",
    ),
    counter(
        "tiergate_state_errors",
        "saves",
        &[],
        "Saves of the state file that failed; each is tried again, with all that changed, one to ten seconds later",
        "above 0: the log says why",
    ),
    gauge(
        "tiergate_state_failing",
        "0 or 1",
        &[],
        "Whether the state file could not be written when that was last tried",
        "1 for a minute: limits are kept in memory alone, and a restart would lose what changes",
    ),
    gauge(
        "tiergate_policy_generation",
        "number",
        &[],
        "Number of the policy snapshot in use",
        "replicas of one folder that differ for long in `changes()` of it",
    ),
    gauge(
        "tiergate_policy_last_reload_successful",
        "0 or 1",
        &[],
        "Whether the folder could be read the last time",
        "0: changes are not seen",
    ),
    gauge("tiergate_policy_objects", "objects", &[], "Objects read into the policy", "a sudden fall"),
    gauge(
        "tiergate_policy_objects_in_error",
        "objects",
        &[],
        "Objects that are in error",
        "above 0: their targets answer 503, or rest on a last good version",
    ),
    gauge(
        "tiergate_policy_objects_last_good",
        "objects",
        &[],
        "Objects, and files that flags name, of which a last good version is in force, since they are in error",
        "above 0: what is written is not what is enforced",
    ),
    gauge(
        "tiergate_policy_problems",
        "problems",
        &[("severity", "`error`, `warning`")],
        "Problems of the configuration, by severity",
        "`error` above 0; /problems lists them",
    ),
    gauge(
        "tiergate_policy_findings",
        "problems",
        &[("code", "as in docs/check.md; only what was found has a series"), ("severity", "`error`, `warning`")],
        "Problems of the configuration, by code and severity",
        "a code that must not be, such as `policy-open`",
    ),
    counter(
        "tiergate_api_calls",
        "calls",
        &[CALL, ("result", "`ok`, or why there is no answer, such as `late`, `forbidden`, `budget`")],
        "Calls of the API server, by result",
        "the share that is not `ok`; `forbidden`: a permission is missing; `budget`: raise --kube-api-qps",
    ),
    histogram(
        "tiergate_api_call_duration_seconds",
        &[CALL],
        "Time of calls of the API server",
        "the 99th percentile near 0.15, which is as long as a request waits",
    ),
    gauge(
        "tiergate_api_breaker_open",
        "0 or 1",
        &[],
        "Whether the API server failed, and is not asked for a while",
        "1 for more than some seconds",
    ),
    counter(
        "tiergate_connections_refused",
        "connections",
        &[PORT, ("reason", "`address` (as many of it as may be), `full`, `system` (no file is left), `worker`")],
        "Connections that were closed as they came, by port and reason",
        "above 0: an attack, or more gateways than expected; `system`: raise the limit of open files",
    ),
    counter(
        "tiergate_connections_displaced",
        "connections",
        &[PORT],
        "Connections that were closed since others needed their places, by port",
        "a rate above 0: see `tiergate_connections_refused`",
    ),
    counter(
        "tiergate_unfinished_calls_refused",
        "calls",
        &[],
        "Calls refused since messages that are not whole took too much memory",
        "above 0: somebody sends messages that never end",
    ),
    counter(
        "tiergate_log_lines_dropped",
        "lines",
        &[],
        "Lines of the log that were dropped, since whoever reads it is too slow",
        "above 0",
    ),
    counter(
        "tiergate_clock_steps",
        "steps",
        &[],
        "Steps of the wall clock by a second or more: forward, once the time of limits has followed, or back",
        "above 0",
    ),
    gauge(
        "tiergate_build_info",
        "1",
        &[("version", "of tiergate")],
        "Which tiergate this is",
        "replicas that differ for long",
    ),
    counter("process_cpu_seconds", "seconds", &[], "Time that the process was on a CPU", "near the container's limit"),
    gauge("process_max_fds", "files", &[], "Files and connections that may be open", "see `process_open_fds`"),
    gauge("process_open_fds", "files", &[], "Files and connections that are open", "near `process_max_fds`"),
    gauge("process_resident_memory_bytes", "bytes", &[], "Memory in use", "near the container's limit"),
    gauge(
        "process_start_time_seconds",
        "seconds",
        &[],
        "When the process started, since 1970",
        "`changes()` of it: restarts",
    ),
    gauge("process_virtual_memory_bytes", "bytes", &[], "Memory that is mapped, used or not", "nothing"),
];

#[cfg(test)]
mod tests;
