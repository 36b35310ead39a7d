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
use serde_json::Value;
use tokio::time::Instant;

use super::changes::{Changes, Concerns};
use super::{AccessQuery, Grantor};
use crate::apiserver::{ApiServer, CallerHash, IN_FLIGHT, PATIENCE, unanswered};
use crate::cache::{Answer, AnswerSource, Cache, CacheKey, Capacity, Config, Failure, Staleness};
use crate::clock::Nanos;
use crate::denial::{Code, Denial};
use crate::hash::KeyedHasher;

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
    hasher: KeyedHasher,
    cache: Cache<Arc<Granted>>,
}

/// What a review of a token says of a user, beside the groups (`UserInfo` of authentication.k8s.io/v1).
#[derive(Clone, Copy, Debug)]
pub struct UserInfo<'a> {
    pub username: &'a str,
    /// Empty if there is none.
    pub uid: &'a str,
    /// What authorizers other than RBAC may go by.
    pub extra: Option<&'a Value>,
}

/// A SubjectAccessReview to be made.
#[derive(Clone, Debug)]
pub struct AccessReview {
    spec: Arc<Spec>,
    caller: CallerHash,
    hash: u128,
    /// How new an answer has to be.
    concerns: Concerns,
}

/// What an answer is remembered by, and how long it is good for who asks.
struct AccessKey<'a> {
    review: &'a AccessReview,
    /// As in [`AccessReviews`].
    stale: Duration,
}

/// What is known of a caller's access.
#[derive(Clone, Debug)]
pub enum AccessDecision {
    Granted(Grantor),
    /// Nothing grants it; with what the API server says of that.
    NotGranted(Option<String>),
    /// It could not be told.
    Undecided(Denial),
}

/// Where an access decision comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessSource {
    /// RBAC, evaluated in process.
    Rbac,
    /// The API server.
    Review(AnswerSource),
}

/// What the API server answers: who grants it, or why nobody does.
type Granted = Result<Grantor, Option<String>>;

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
        let cache = Cache::new(Config {
            capacity: Capacity::entries(ANSWERS),
            failures: FAILURES,
            fetches: IN_FLIGHT,
            staleness: Staleness::IfError { patience: PATIENCE },
            runtime: Some(server.runtime().clone()),
        });
        AccessReviews { server, mode, stale, hasher: KeyedHasher::random(), cache }
    }

    /// Whom they ask.
    #[must_use]
    pub fn server(&self) -> &ApiServer {
        &self.server
    }

    /// What to ask about `query`, after these `changes` of RBAC. What `user` has beside name and groups goes with it, if the query is
    /// about that user.
    ///
    /// # Errors
    ///
    /// It has something that cannot be written down. Without it, the question would be another one.
    pub fn review(
        &self,
        query: &AccessQuery<'_>,
        user: Option<UserInfo<'_>>,
        changes: &Changes,
    ) -> Result<AccessReview, Denial> {
        let unspeakable = |error: serde_json::Error| {
            Denial::new(Code::UnavailableInternal, "your access could not be looked up").detail(error.to_string())
        };
        let user = user.filter(|user| user.username == query.user);
        let extra = user.and_then(|user| user.extra);
        let extra = extra.map(Option::deserialize).transpose().map_err(unspeakable)?.flatten();
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let spec = Spec {
            user: text(query.user),
            groups: Some(query.groups.iter().map(|group| (*group).to_owned()).collect()),
            uid: user.and_then(|user| text(user.uid)),
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
        let hash = self.hasher.hash(&serde_json::to_string(&spec).map_err(unspeakable)?);
        let (caller, concerns) = (self.hasher.hash_list([query.user]), changes.concerning(query.namespace));
        Ok(AccessReview { spec: Arc::new(spec), caller, hash, concerns })
    }

    /// What is remembered. Answers at once.
    #[must_use]
    pub fn recall(&self, review: &AccessReview, now: Nanos) -> Option<(AccessDecision, AccessSource)> {
        self.cache.get(&self.key(review), now).map(told)
    }

    /// Asks, once however many requests wait for it, and remembers the answer. Waits until `until`.
    pub async fn ask(&self, review: &AccessReview, now: Nanos, until: Instant) -> (AccessDecision, AccessSource) {
        let answer = self.cache.fetch(&self.key(review), now, until, || self.fetch(review)).await;
        told(answer.unwrap_or_else(|why| Answer::fetched(Err(unanswered(why)))))
    }

    fn key<'a>(&self, review: &'a AccessReview) -> AccessKey<'a> {
        AccessKey { review, stale: self.stale }
    }

    fn fetch(&self, review: &AccessReview) -> impl Future<Output = Result<Arc<Granted>, Failure>> + Send + use<> {
        let (server, spec, caller) = (self.server.clone(), Arc::clone(&review.spec), review.caller);
        async move {
            let status = server.review_access((*spec).clone(), caller).await;
            status.map(|status| Arc::new(granted(status))).map_err(|denial| Failure { denial, keep: Some(PAUSE) })
        }
    }
}

fn granted(status: SubjectAccessReviewStatus) -> Granted {
    let reason = status.reason.filter(|reason| !reason.is_empty());
    match status.allowed && status.denied != Some(true) {
        true => Ok(Grantor { name: reason.as_deref().unwrap_or("SubjectAccessReview").into() }),
        false => Err(reason.or(status.evaluation_error)),
    }
}

fn told(answer: Answer<Arc<Granted>>) -> (AccessDecision, AccessSource) {
    let decision = match answer.value.as_deref() {
        Ok(Ok(grantor)) => AccessDecision::Granted(grantor.clone()),
        Ok(Err(why)) => AccessDecision::NotGranted(why.clone()),
        Err(denial) => AccessDecision::Undecided(denial.clone()),
    };
    (decision, AccessSource::Review(answer.source))
}

// === impl AccessReview ===

impl PartialEq for AccessReview {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

// === impl AccessKey ===

impl CacheKey for AccessKey<'_> {
    type Value = Arc<Granted>;

    fn hash(&self) -> u128 {
        self.review.hash
    }

    /// Whoever has seen a change does not wait for what was asked before it.
    fn flight(&self) -> u128 {
        self.review.hash ^ u128::from(self.review.concerns.last().0)
    }

    fn fresh_until(&self, _: &Arc<Granted>, asked: Nanos) -> Nanos {
        self.review.concerns.holds(asked, self.stale).fresh
    }

    fn stale_until(&self, _: &Arc<Granted>, asked: Nanos) -> Nanos {
        self.review.concerns.holds(asked, self.stale).stands
    }
}

// === impl AccessSource ===

impl AccessSource {
    pub const ALL: &'static [AccessSource] = &[
        AccessSource::Rbac,
        AccessSource::Review(AnswerSource::Hit),
        AccessSource::Review(AnswerSource::Stale),
        AccessSource::Review(AnswerSource::Fetched),
    ];

    /// As metrics name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            AccessSource::Rbac => "rbac",
            AccessSource::Review(source) => source.as_str(),
        }
    }
}
