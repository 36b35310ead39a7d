//! What the API server says about access (SubjectAccessReview), where RBAC in process is not the last word.
//!
//! An answer is remembered for seconds, and not past a change of RBAC. The API server learns of changes as we do, by a watch, so
//! what it says within two seconds of one may be older than the change, and is not remembered.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReviewSpec as Spec, SubjectAccessReviewStatus,
};
use serde::Deserialize;
use tokio::time::Instant;

use super::{Grantor, Query};
use crate::apiserver::{ApiServer, Caller, Flights, PATIENCE};
use crate::gate::{Class, Code, Denial};
use crate::hash::{KeyedHasher, Remembered, remember};
use crate::identity::Identity;
use crate::limit::Nanos;

/// Who says whether a caller may call a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum AccessMode {
    /// RBAC, evaluated in process, may allow; where it does not, the API server is asked, if callers' tokens are reviewed by it.
    #[default]
    Rbac,
    /// The API server alone is asked: where another authorizer than RBAC may deny.
    Review,
    /// As `review`; and each disagreement with RBAC in process is counted and logged.
    Both,
}

/// Asks the API server about access, and remembers what it answers.
#[derive(Debug)]
pub struct AccessReviews {
    server: ApiServer,
    pub mode: AccessMode,
    /// How much longer an answer is used where it cannot be asked for anew.
    stale: Duration,
    keys: KeyedHasher,
    memory: Arc<Memory>,
    flights: Flights<Arc<Answer>>,
}

#[derive(Debug)]
struct Memory {
    known: Remembered<Arc<Answer>>,
    failed: Remembered<(Denial, Nanos)>,
}

/// A question to the API server.
#[derive(Clone, Debug)]
pub struct Question {
    spec: Arc<Spec>,
    caller: Caller,
    key: u128,
    /// An answer has to be this new.
    since: Nanos,
}

/// What is known of a caller's access.
#[derive(Clone, Debug)]
pub enum Verdict {
    Granted(Grantor),
    /// Nothing grants it; with what the API server says of that.
    NotGranted(Option<String>),
    /// It could not be told.
    Undecided(Denial),
}

/// Where a verdict comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessSource {
    Rbac,
    Remembered,
    /// Remembered, past its time, and it cannot be asked for anew.
    Stale,
    Asked,
}

#[derive(Clone, Debug)]
struct Answer {
    granted: Result<Grantor, Option<String>>,
    asked: Nanos,
}

/// How long an answer is remembered.
const TTL: Duration = Duration::from_secs(5);
/// The answers within this time of a change of RBAC are not.
const SETTLING: Duration = Duration::from_secs(2);
/// How long a question that failed is not asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// Answers that are remembered; each takes about 300 bytes.
const ANSWERS: usize = 50_000;
const FAILURES: usize = 10_000;

// === impl AccessReviews ===

impl AccessReviews {
    /// # Panics
    ///
    /// The operating system has no randomness: nothing could be kept apart safely.
    #[must_use]
    pub fn new(server: ApiServer, mode: AccessMode, stale: Duration) -> Self {
        let memory = Arc::new(Memory { known: remember(ANSWERS), failed: remember(FAILURES) });
        AccessReviews { server, mode, stale, keys: KeyedHasher::random(), memory, flights: Flights::new() }
    }

    /// What to ask about `query`, where RBAC has `changed` last then. What `identity` has beside name and groups goes with it, if the
    /// query is about that user.
    ///
    /// # Errors
    ///
    /// It has something that cannot be written down. Without it, the question would be another one.
    pub fn question(&self, query: &Query<'_>, identity: Option<&Identity>, changed: Nanos) -> Result<Question, Denial> {
        let unspeakable = |error: serde_json::Error| {
            Denial::new(Code::UnavailableInternal, "your access could not be looked up").detail(error.to_string())
        };
        let identity = identity.filter(|identity| *identity.user == *query.user);
        let extra = identity.and_then(|identity| identity.object.pointer("/user/extra"));
        let extra = extra.map(Option::deserialize).transpose().map_err(unspeakable)?.flatten();
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let spec = Spec {
            user: text(query.user),
            groups: Some(query.groups.iter().map(|group| (*group).to_owned()).collect()),
            uid: identity.and_then(|identity| text(&identity.uid)),
            extra,
            resource_attributes: Some(ResourceAttributes {
                verb: text(query.verb),
                group: text(query.group),
                resource: text(query.resource),
                subresource: text(query.subresource),
                namespace: text(query.namespace),
                name: text(query.name),
                ..ResourceAttributes::default()
            }),
            ..Spec::default()
        };
        // All of it: two users of one name may differ in what they have beside it.
        let key = self.keys.hash(&serde_json::to_string(&spec).map_err(unspeakable)?);
        let (caller, since) = (self.keys.hash_list([query.user]), changed.saturating_add(SETTLING));
        Ok(Question { spec: Arc::new(spec), caller, key, since })
    }

    /// What is remembered. Answers at once.
    #[must_use]
    pub fn recall(&self, question: &Question, now: Nanos) -> Option<(Verdict, AccessSource)> {
        match self.memory.known(question, now, TTL) {
            Some(answer) => Some((answer.verdict(), AccessSource::Remembered)),
            None => {
                let (denial, _) = self.memory.failed.get(&question.key).filter(|(_, until)| *until > now)?;
                Some(self.fall_back(question, denial, now))
            }
        }
    }

    /// Asks, once however many requests wait for it, and remembers the answer. Waits until `until`.
    pub async fn ask(&self, question: &Question, now: Nanos, until: Instant) -> (Verdict, AccessSource) {
        let until = match self.usable(question, now) {
            Some(_) => until.min(Instant::now() + PATIENCE),
            None => until,
        };
        // Whoever has seen a change does not wait for what was asked before it.
        let key = question.key ^ u128::from(question.since.0);
        let recall = || self.memory.known(question, now, TTL);
        let (server, memory, question_asked) = (self.server.clone(), Arc::clone(&self.memory), question.clone());
        let ask = || async move {
            let Question { spec, caller, key, .. } = question_asked;
            match server.review_access((*spec).clone(), caller).await {
                Ok(status) => {
                    let answer = Arc::new(Answer::of(status, now));
                    memory.known.insert(key, Arc::clone(&answer));
                    memory.failed.remove(&key);
                    Ok(answer)
                }
                Err(denial) => {
                    memory.failed.insert(key, (denial.clone(), now.saturating_add(PAUSE)));
                    Err(denial)
                }
            }
        };
        match self.flights.join(key, (&self.server, until), recall, ask).await {
            Ok(answer) => (answer.verdict(), AccessSource::Asked),
            Err(denial) => self.fall_back(question, denial, now),
        }
    }

    fn usable(&self, question: &Question, now: Nanos) -> Option<Arc<Answer>> {
        (!self.stale.is_zero()).then(|| self.memory.known(question, now, TTL + self.stale)).flatten()
    }

    /// What is said where the question came to no end: what was known before, for a while.
    fn fall_back(&self, question: &Question, denial: Denial, now: Nanos) -> (Verdict, AccessSource) {
        debug_assert_eq!(denial.code.class(), Class::Undecided);
        match self.usable(question, now) {
            Some(answer) => (answer.verdict(), AccessSource::Stale),
            None => (Verdict::Undecided(denial), AccessSource::Asked),
        }
    }
}

// === impl Memory ===

impl Memory {
    /// An answer that is new enough.
    fn known(&self, question: &Question, now: Nanos, ttl: Duration) -> Option<Arc<Answer>> {
        let answer = self.known.get(&question.key)?;
        (answer.asked >= question.since && now < answer.asked.saturating_add(ttl)).then_some(answer)
    }
}

// === impl Question ===

impl PartialEq for Question {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

// === impl Answer ===

impl Answer {
    fn of(status: SubjectAccessReviewStatus, asked: Nanos) -> Self {
        let reason = status.reason.filter(|reason| !reason.is_empty());
        let granted = match status.allowed && status.denied != Some(true) {
            true => Ok(Grantor { name: reason.as_deref().unwrap_or("SubjectAccessReview").into() }),
            false => Err(reason.or(status.evaluation_error)),
        };
        Answer { granted, asked }
    }

    fn verdict(&self) -> Verdict {
        match &self.granted {
            Ok(grantor) => Verdict::Granted(grantor.clone()),
            Err(why) => Verdict::NotGranted(why.clone()),
        }
    }
}

// === impl AccessSource ===

impl AccessSource {
    pub const ALL: &'static [AccessSource] =
        &[AccessSource::Rbac, AccessSource::Remembered, AccessSource::Stale, AccessSource::Asked];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            AccessSource::Rbac => "rbac",
            AccessSource::Remembered => "remembered",
            AccessSource::Stale => "stale",
            AccessSource::Asked => "asked",
        }
    }
}
