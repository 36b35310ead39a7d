//! One entry of an access log, read as a report: the reservation that Check left, the usage that filters read, and what became of the
//! request.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::data::accesslog::v3::{
    AccessLogCommon, AccessLogType, HttpAccessLogEntry, HttpResponseProperties, ResponseFlags,
};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use prost::Message;

use crate::usage::{MAX_HITS, Passed, Report, Usage};

/// What an entry is.
#[derive(Debug, PartialEq)]
pub(super) enum Entry<'e> {
    Passed(Passed),
    /// The request is not over; Envoy says so as often as its `access_log_flush_interval` has it.
    Running {
        sealed: &'e str,
    },
    Report {
        sealed: &'e str,
        report: Report,
        /// The first number that is none, if there is one.
        wrong: Option<String>,
    },
}

/// `envoy.data.ai.v3.TokenUsage` of Envoy 1.40, which the filter `ai_protocol_manager` writes at the end of an answer. What was cached is
/// part of the input, and reasoning of the output.
#[derive(Clone, Copy, PartialEq, Message)]
struct TokenUsage {
    #[prost(message, optional, tag = "3")]
    input: Option<u64>,
    #[prost(message, optional, tag = "4")]
    output: Option<u64>,
    #[prost(message, optional, tag = "5")]
    total: Option<u64>,
    #[prost(message, optional, tag = "6")]
    of_input: Option<Part>,
    #[prost(message, optional, tag = "7")]
    of_output: Option<Part>,
    #[prost(message, optional, tag = "8")]
    provider_total: Option<u64>,
    #[prost(int32, tag = "9")]
    status: i32,
}

/// The first number of a TokenUsage's details: cached tokens of the input, reasoning tokens of the output.
#[derive(Clone, Copy, PartialEq, Message)]
struct Part {
    #[prost(message, optional, tag = "1")]
    tokens: Option<u64>,
}

/// Where Check's answer left the reservation.
const CHECK: &str = "envoy.filters.http.ext_authz";
/// Where the shipped readers write what they read of an answer, and of its request.
const USAGE: &str = "tiergate.usage";
const REQUEST: &str = "tiergate.request";
/// The number of a report that a key of [`USAGE`] is.
const NUMBERS: [(&str, &str); 9] = [
    ("total", "total"),
    ("total_of_response", "total"),
    ("total_of_gemini", "total"),
    ("total_of_bedrock", "total"),
    ("input", "input"),
    ("output", "output"),
    ("cached", "cached"),
    ("reasoning", "reasoning"),
    ("ended", "ended"),
];
/// Where `ai_protocol_manager` writes a [`TokenUsage`].
const TOKEN_USAGE: &str = "envoy.ai.token_usage";
/// Its status where a part of the usage was lost.
const PARTIAL: i32 = 2;
/// What Envoy says of an answer that a model sent.
const BY_MODEL: &str = "via_upstream";

// === impl Entry ===

impl<'e> Entry<'e> {
    pub(super) fn of(entry: &'e HttpAccessLogEntry) -> Self {
        let Some(common) = &entry.common_properties else { return Entry::Passed(Passed::Unreserved) };
        let metadata = common.metadata.as_ref();
        if !is_of_the_end(common) {
            let sealed = metadata.and_then(reservation).filter(|_| is_periodic(common));
            return sealed.map_or(Entry::Passed(Passed::Interim), |sealed| Entry::Running { sealed });
        }
        let Some((metadata, sealed)) = metadata.and_then(|metadata| Some((metadata, reservation(metadata)?))) else {
            return Entry::Passed(Passed::Unreserved);
        };
        let (mut report, mut wrong) = (Report::default(), None);
        report.read(metadata, &mut wrong);
        report.follow(entry, common);
        Entry::Report { sealed, report, wrong }
    }
}

/// Old Envoys do not say; they had entries in between too, and marked those.
fn is_of_the_end(common: &AccessLogCommon) -> bool {
    #[expect(deprecated, reason = "older Envoys have nothing else")]
    let is_interim = common.intermediate_log_entry;
    match AccessLogType::try_from(common.access_log_type) {
        Ok(AccessLogType::DownstreamEnd) => true,
        Ok(AccessLogType::NotSet) => !is_interim,
        _ => false,
    }
}

fn is_periodic(common: &AccessLogCommon) -> bool {
    AccessLogType::try_from(common.access_log_type) == Ok(AccessLogType::DownstreamPeriodic)
}

fn reservation(metadata: &Metadata) -> Option<&str> {
    let ours = metadata.filter_metadata.get(CHECK)?.fields.get("tiergate")?;
    let Some(Kind::StructValue(Struct { fields })) = &ours.kind else { return None };
    match &fields.get("reservation")?.kind {
        Some(Kind::StringValue(sealed)) if !sealed.is_empty() => Some(sealed),
        _ => None,
    }
}

// === what an entry says ===

impl Report {
    /// Takes the usage that filters have read.
    fn read(&mut self, metadata: &Metadata, wrong: &mut Option<String>) {
        let of = |namespace: &str| metadata.filter_metadata.get(namespace).map(|found| &found.fields);
        let mut note = |fields: Option<&HashMap<String, Value>>, key: &str, name: &str| match fields
            .and_then(|fields| fields.get(key))
            .map(number)
        {
            Some(Number::Is(number)) => self.note(name, number),
            Some(Number::Wrong) => {
                wrong.get_or_insert_with(|| format!("`{key}` has to be 0 to {MAX_HITS}"));
            }
            Some(Number::None) | None => {}
        };
        NUMBERS.iter().for_each(|(key, name)| note(of(USAGE), key, name));
        note(of(REQUEST), "streams", "stream");
        let Some(typed) = metadata.typed_filter_metadata.get(TOKEN_USAGE) else { return };
        match TokenUsage::decode(&*typed.value) {
            Ok(usage) => self.take_over(&usage),
            Err(error) => {
                wrong.get_or_insert_with(|| format!("`{TOKEN_USAGE}`: {error}"));
            }
        }
    }

    fn take_over(&mut self, said: &TokenUsage) {
        let numbers = [
            ("total", said.provider_total.max(said.total)),
            ("input", said.input),
            ("output", said.output),
            ("cached", said.of_input.and_then(|part| part.tokens)),
            ("reasoning", said.of_output.and_then(|part| part.tokens)),
        ];
        for (name, number) in numbers {
            if let Some(number) = number {
                self.note(name, number.min(MAX_HITS));
            }
        }
        if said.status == PARTIAL {
            self.ended.get_or_insert(false);
        }
    }

    /// Takes what became of the request.
    fn follow(&mut self, entry: &HttpAccessLogEntry, common: &AccessLogCommon) {
        let response = entry.response.as_ref();
        // Envoy says no status where there was none.
        let status = response.and_then(|response| response.response_code.as_ref()).map_or(0, |code| code.value);
        self.status = Some(status.into());
        self.bytes = Some(response.map_or(0, |response| response.response_body_bytes));
        self.request_bytes = entry.request.as_ref().map(|request| request.request_body_bytes);
        // A reader that saw the end knows better than who was cut off behind it.
        if common.response_flags.as_ref().is_some_and(is_cut_off) {
            self.ended.get_or_insert(false);
        }
        self.unsent = self.usage == Usage::default() && is_unsent(common, response);
    }
}

/// Whether an answer, or its request, ended before its end.
fn is_cut_off(flags: &ResponseFlags) -> bool {
    flags.downstream_connection_termination
        || flags.downstream_remote_reset
        || flags.downstream_protocol_error
        || flags.upstream_remote_reset
        || flags.upstream_connection_termination
        || flags.upstream_protocol_error
        || flags.upstream_request_timeout
        || flags.upstream_max_stream_duration_reached
        || flags.stream_idle_timeout
        || flags.duration_timeout
        || flags.local_reset
        || flags.overload_manager
}

/// Whether nothing of the request came to a model. In doubt it did: Envoy tells of the last try alone.
fn is_unsent(common: &AccessLogCommon, response: Option<&HttpResponseProperties>) -> bool {
    let is_tried = common.time_to_first_upstream_tx_byte.is_some() || common.time_to_first_upstream_rx_byte.is_some();
    let is_answered = response.is_some_and(|response| response.response_code_details == BY_MODEL);
    !is_tried && !is_answered && common.upstream_wire_bytes_sent == 0 && common.upstream_request_attempt_count <= 1
}

/// What a value is as a number of a report.
enum Number {
    Is(u64),
    /// Something, and no number of tokens.
    Wrong,
    None,
}

/// A part of a token is one, and more than a report may carry is as much as it may. Texts are read too: models write some numbers so.
fn number(value: &Value) -> Number {
    let number = match &value.kind {
        Some(Kind::NumberValue(number)) => *number,
        Some(Kind::StringValue(text)) => text.parse().unwrap_or(f64::NAN),
        Some(Kind::BoolValue(is)) => f64::from(*is),
        Some(Kind::NullValue(_)) | None => return Number::None,
        Some(Kind::StructValue(_) | Kind::ListValue(_)) => f64::NAN,
    };
    if number.is_finite() && number >= 0.0 {
        // A float that is too large becomes the largest number.
        Number::Is((number.ceil() as u64).min(MAX_HITS))
    } else {
        Number::Wrong
    }
}

#[cfg(test)]
mod tests;
