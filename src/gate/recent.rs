//! What was not let through of late, for whoever asks why.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;

use super::{Decision, Evidence};
use crate::denial::{Code, Denial};
use crate::printable::masked;
use crate::request::Request;

/// What a request was, as far as it is kept: no header, no query, no secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RequestLine {
    pub method: Box<str>,
    pub host: Box<str>,
    /// Without the query.
    pub path: Box<str>,
}

/// A request that was refused, or could not be decided; or would have been, but for something in shadow.
#[derive(Debug)]
pub struct Record {
    pub time: Timestamp,
    /// `None` for what was not even a request.
    pub request_line: Option<RequestLine>,
    pub evidence: Evidence,
    /// `None` if only something in shadow would have refused it.
    pub denial: Option<Denial>,
}

/// The last [`Recent::KEPT`] records. Each holds what its decision rests on, and no snapshot of the policy.
#[derive(Debug, Default)]
pub struct Recent {
    records: Mutex<VecDeque<Arc<Record>>>,
}

/// Longest method, host and path that are kept, in bytes.
const METHOD: usize = 32;
const HOST: usize = 256;
const PATH: usize = 512;

// === impl RequestLine ===

impl RequestLine {
    #[must_use]
    pub fn of(request: &Request<'_>) -> Self {
        // Some clients put their token into the path. What is cut off is looked at first: half a secret is not known for one.
        let kept = |text, longest| start(&masked(text), longest).into();
        RequestLine {
            method: kept(request.method, METHOD),
            host: kept(request.host, HOST),
            path: kept(request.path, PATH),
        }
    }
}

/// The first bytes of `text`, at most `longest`, whole characters.
#[must_use]
pub fn start(text: &str, longest: usize) -> &str {
    text.get(..text.floor_char_boundary(longest)).unwrap_or_default()
}

// === impl Record ===

impl Record {
    /// The code of what was said, or would have been.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        let shadowed = self.evidence.shadowed.first().map(|shadowed| &shadowed.denial);
        self.denial.as_ref().or(shadowed).map(|denial| denial.code)
    }
}

// === impl Recent ===

impl Recent {
    /// How many are kept.
    pub const KEPT: usize = 1024;

    /// Keeps `decision`, unless it let the request through and nothing in shadow would not have.
    pub fn record(&self, request: Option<&Request<'_>>, decision: Decision) {
        let Decision { outcome, mut evidence } = decision;
        let mut denial = outcome.err();
        if denial.is_none() && evidence.shadowed.is_empty() {
            return;
        }
        // What the policy says in its own words may repeat what was sent.
        let shadowed = evidence.shadowed.iter_mut().map(|shadowed| &mut shadowed.denial);
        denial.iter_mut().chain(shadowed).for_each(|denial| denial.deny_with = None);
        evidence.stage_times = None;
        let request_line = request.map(RequestLine::of);
        let record = Arc::new(Record { time: Timestamp::now(), request_line, evidence, denial });
        let mut records = self.records.lock();
        let oldest = if records.len() < Self::KEPT { None } else { records.pop_front() };
        records.push_back(record);
        // What takes longer is done without the lock.
        drop(records);
        drop(oldest);
    }

    /// The decision `id`.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<Arc<Record>> {
        self.records.lock().iter().find(|record| record.evidence.id == id).map(Arc::clone)
    }

    /// All that are kept, the newest first.
    #[must_use]
    pub fn newest_first(&self) -> Vec<Arc<Record>> {
        self.records.lock().iter().rev().map(Arc::clone).collect()
    }
}

#[cfg(test)]
mod tests;
