//! What the API server says about access (SubjectAccessReview), where RBAC in process is not the last word.
//!
//! An answer is remembered for seconds. A change of RBAC that concerns it has it asked anew: see [`Changes`].

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReviewSpec as Spec, SubjectAccessReviewStatus,
};
use serde::Deserialize;
use tokio::time::Instant;

use super::changes::{Changes, Concerns};
use super::{Grantor, Query};
use crate::apiserver::{ApiServer, Caller, Flights, PATIENCE};
use crate::clock::Nanos;
use crate::denial::{Class, Code, Denial};
use crate::hash::{KeyedHasher, Remembered, remember};
use crate::identity::Identity;

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
    /// How new an answer has to be.
    concerns: Concerns,
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

    /// Whom they ask.
    #[must_use]
    pub fn server(&self) -> &ApiServer {
        &self.server
    }

    /// What to ask about `query`, after these `changes` of RBAC. What `identity` has beside name and groups goes with it, if the query is
    /// about that user.
    ///
    /// # Errors
    ///
    /// It has something that cannot be written down. Without it, the question would be another one.
    pub fn question(
        &self,
        query: &Query<'_>,
        identity: Option<&Identity>,
        changes: &Changes,
    ) -> Result<Question, Denial> {
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
        let (caller, concerns) = (self.keys.hash_list([query.user]), changes.concerning(query.namespace));
        Ok(Question { spec: Arc::new(spec), caller, key, concerns })
    }

    /// What is remembered. Answers at once.
    #[must_use]
    pub fn recall(&self, question: &Question, now: Nanos) -> Option<(Verdict, AccessSource)> {
        match self.fresh(question, now) {
            Some(answer) => Some((answer.verdict(), AccessSource::Remembered)),
            None => {
                let (denial, _) = self.memory.failed.get(&question.key).filter(|(_, until)| *until > now)?;
                Some(self.fall_back(question, denial, now))
            }
        }
    }

    /// Asks, once however many requests wait for it, and remembers the answer. Waits until `until`.
    pub async fn ask(&self, question: &Question, now: Nanos, until: Instant) -> (Verdict, AccessSource) {
        let until = match self.standing(question, now) {
            Some(_) => until.min(Instant::now() + PATIENCE),
            None => until,
        };
        // Whoever has seen a change does not wait for what was asked before it.
        let key = question.key ^ u128::from(question.concerns.last().0);
        let recall = || self.fresh(question, now);
        let (server, memory, question_asked) = (self.server.clone(), Arc::clone(&self.memory), question.clone());
        let ask = || async move {
            let Question { spec, caller, key, .. } = question_asked;
            match server.review_access((*spec).clone(), caller).await {
                Ok(status) => {
                    let answer = Arc::new(Answer::of(status, now));
                    memory.learn(key, &answer);
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

    /// The last answer, if nothing has to be asked.
    fn fresh(&self, question: &Question, now: Nanos) -> Option<Arc<Answer>> {
        let answer = self.memory.known.get(&question.key)?;
        (now < question.concerns.holds(answer.asked, self.stale).fresh).then_some(answer)
    }

    /// The last answer, if it stands as long as there is no other.
    fn standing(&self, question: &Question, now: Nanos) -> Option<Arc<Answer>> {
        let answer = self.memory.known.get(&question.key)?;
        (now < question.concerns.holds(answer.asked, self.stale).stands).then_some(answer)
    }

    /// What is said where the question came to no end: what was known before, for a while.
    fn fall_back(&self, question: &Question, denial: Denial, now: Nanos) -> (Verdict, AccessSource) {
        debug_assert_eq!(denial.code.class(), Class::Undecided);
        match self.standing(question, now) {
            Some(answer) => (answer.verdict(), AccessSource::Stale),
            None => (Verdict::Undecided(denial), AccessSource::Asked),
        }
    }
}

// === impl Memory ===

impl Memory {
    fn learn(&self, key: u128, answer: &Arc<Answer>) {
        // One that took long may have been overtaken.
        if self.known.get(&key).is_none_or(|known| known.asked <= answer.asked) {
            self.known.insert(key, Arc::clone(answer));
        }
        self.failed.remove(&key);
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
