//! Who calls: a bearer token becomes a user name, uid and groups, and is remembered.

mod accounts;
mod audience;
mod authority;
mod cluster;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::Value;
use tokio::time::Instant;

pub use self::accounts::{Namespaces, ServiceAccountRef, ServiceAccounts};
pub use self::audience::other_audience;
pub(crate) use self::authority::unix_seconds;
pub use self::authority::{Authority, AuthorityError, Claims, KubernetesClaims, OPENSHIFT, ObjectClaims, believe};
pub use self::cluster::{ClusterReview, IdentityMode};

use crate::apiserver::{IN_FLIGHT, PATIENCE, unanswered};
use crate::cache::{Answer, Cache, CacheKey, Capacity, Config, Failure, Staleness};
use crate::clock::Nanos;
use crate::denial::{Class, Code, Denial};
use crate::hash::KeyedHasher;
use crate::request::BearerToken;
use crate::rules::{AuthRules, Reviewer};

/// A reviewed user.
#[derive(Debug)]
pub struct Identity {
    pub user: Arc<str>,
    pub uid: String,
    pub groups: Vec<String>,
    /// The audiences that the token is for.
    pub audiences: Vec<String>,
    /// The ServiceAccount behind the user.
    pub service_account: Option<ServiceAccountRef>,
    /// Whether authorizers other than RBAC could go by something that the identity has: anything in `extra` but what the API server
    /// itself puts there.
    pub scoped: bool,
    /// `auth.identity` of an AuthPolicy: the status of a TokenReview.
    pub object: Value,
    /// How long it may be remembered without another review.
    pub keep: Duration,
    /// When the token expires.
    pub expires: Nanos,
}

/// How long what is remembered.
#[derive(Clone, Copy, Debug)]
pub struct Remember {
    /// At most this long, and never past a token's expiry.
    pub identities: Duration,
    /// How long a refused token is refused without another look.
    pub failures: Duration,
    /// How much longer an identity is used where it cannot be reviewed anew.
    pub stale: Duration,
    /// What remembered identities may take, in bytes. One of a ServiceAccount takes about 3,500; a review again takes
    /// microseconds, so there need not be room for all.
    pub bytes: u64,
}

/// What a caller shows: a token to review, by whom, and what for.
#[derive(Clone, Copy, Debug)]
pub struct Credentials<'a> {
    pub token: BearerToken<'a>,
    /// Of the rule that asks.
    pub reviewer: &'a Reviewer,
    /// Of the policy that asks.
    pub rules: &'a AuthRules,
    /// Of the request: an audience, where the policy names none.
    pub host: &'a str,
    /// The address of the caller.
    pub peer: Option<&'a str>,
}

/// Reviews tokens, each by the reviewer that is asked for, and remembers the answers.
#[derive(Debug)]
pub struct Identities {
    kubernetes: Kubernetes,
    remember: Remember,
    hasher: KeyedHasher,
    cache: Cache<Arc<Identity>>,
}

/// Whose word it is who a token of the cluster is of ([`Reviewer::Kubernetes`]).
#[derive(Debug)]
enum Kubernetes {
    Keys(ArcSwap<FileKeys>),
    Cluster(Arc<ClusterReview>),
}

/// The keys of a JSON Web Key Set that is read from a file.
#[derive(Debug)]
struct FileKeys {
    authority: Authority,
    /// Of the hashes of tokens: what other keys said of a token, and be it at this moment, is remembered under another hash.
    salt: u128,
}

/// What an identity is remembered by, and how long it is good for who asks.
struct IdentityKey<'a> {
    hash: u128,
    /// Of the policy that asks: it may want identities that are newer.
    rules: &'a AuthRules,
    /// As in [`Remember`].
    stale: Duration,
}

/// Enough for a second of junk; each entry is small.
const FAILURES: usize = 10_000;
/// How long the API server is not asked again about a token that it refused, and about one of which it could not be asked.
const REJECTED: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_secs(1);
/// How long an identity is good even where nothing may be remembered: for the decision that asked, which is at one time from its
/// beginning to its end, and for those that began before.
const ONE_DECISION: Duration = Duration::from_nanos(1);

// === impl Identities ===

impl Identities {
    /// Tokens that `authority` verifies.
    ///
    /// # Panics
    ///
    /// The operating system has no randomness: nothing could be kept apart safely.
    #[must_use]
    pub fn new(authority: Authority, remember: Remember) -> Self {
        Self::of(Kubernetes::Keys(ArcSwap::from_pointee(FileKeys { authority, salt: 0 })), remember)
    }

    /// Tokens that the API server reviews.
    ///
    /// # Panics
    ///
    /// The operating system has no randomness: nothing could be kept apart safely.
    #[must_use]
    pub fn of_cluster(review: ClusterReview, remember: Remember) -> Self {
        Self::of(Kubernetes::Cluster(Arc::new(review)), remember)
    }

    fn of(kubernetes: Kubernetes, remember: Remember) -> Self {
        let usual = usize::try_from(remember.bytes / USUAL).unwrap_or(usize::MAX);
        let cache = Cache::new(Config {
            capacity: Capacity::weight(usual, remember.bytes, |identity: &Arc<Identity>| identity.bytes()),
            failures: FAILURES,
            fetches: IN_FLIGHT,
            staleness: Staleness::IfError { patience: PATIENCE },
            runtime: match &kubernetes {
                Kubernetes::Keys(_) => None,
                Kubernetes::Cluster(cluster) => Some(cluster.server.runtime().clone()),
            },
        });
        Identities { kubernetes, remember, hasher: KeyedHasher::random(), cache }
    }

    /// Goes by the keys of `authority` from now on, where tokens are verified by keys: what is remembered was said by others.
    pub fn replace_keys(&self, authority: Authority) {
        let Kubernetes::Keys(keys) = &self.kubernetes else { return };
        // Any other than before: each is the hash of the one before, and an attacker knows none of them.
        let salt = self.hasher.hash(&keys.load().salt.to_string());
        keys.store(Arc::new(FileKeys { authority, salt }));
        self.cache.clear();
    }

    /// What is remembered about a token, for as long as its policy says. Answers at once.
    #[must_use]
    pub fn recall(&self, credentials: &Credentials<'_>, now: Nanos) -> Option<Answer<Arc<Identity>>> {
        self.cache.get(&self.key(credentials), now)
    }

    /// Reviews a token, once however many requests wait for it, and remembers the answer. Waits until `until`.
    pub async fn review(
        &self,
        credentials: &Credentials<'_>,
        accounts: &ServiceAccounts,
        now: Nanos,
        until: Instant,
    ) -> Answer<Arc<Identity>> {
        let key = self.key(credentials);
        // Another request may have found out meanwhile.
        if let Some(answer) = self.cache.get(&key, now) {
            return answer;
        }
        let reviewed = match (credentials.reviewer, &self.kubernetes) {
            (Reviewer::Kubernetes, Kubernetes::Keys(keys)) => keys.load().authority.review(&credentials.token, now),
            (Reviewer::Kubernetes, Kubernetes::Cluster(cluster)) => {
                let until = self.cache.wait_until(&key, now, until);
                match cluster.look(credentials, accounts, now, until).await {
                    Ok(cluster::LocalCheck::Ask(review)) => {
                        let answer = self.cache.fetch(&key, now, until, || self.fetch(cluster, review, now)).await;
                        return answer.unwrap_or_else(|why| Answer::fetched(Err(unanswered(why))));
                    }
                    Ok(cluster::LocalCheck::Trusted(identity)) => Ok(*identity),
                    Err(denial) => Err(denial),
                }
            }
        };
        self.settle(&key, reviewed, now)
    }

    /// Remembers what was found out without a call.
    fn settle(&self, key: &IdentityKey<'_>, reviewed: Result<Identity, Denial>, now: Nanos) -> Answer<Arc<Identity>> {
        let (keep, failures) = (self.remember.identities, self.remember.failures);
        let reviewed = reviewed.map(|identity| identity.kept(keep)).map_err(|denial| failure(denial, failures));
        self.cache.settle(key, reviewed, now)
    }

    /// A review by the API server, to be made.
    fn fetch(
        &self,
        cluster: &Arc<ClusterReview>,
        review: cluster::TokenReview,
        now: Nanos,
    ) -> impl Future<Output = Result<Arc<Identity>, Failure>> + Send + use<> {
        let (cluster, keep) = (Arc::clone(cluster), self.remember.identities);
        async move {
            let reviewed = cluster.review(review, now).await;
            reviewed.map(|identity| identity.kept(keep)).map_err(|denial| failure(denial, REJECTED))
        }
    }

    /// Whether a ServiceAccount that is not watched is known all the same, because the API server has reviewed its token.
    #[must_use]
    pub fn vouched_for(&self, reviewer: &Reviewer) -> bool {
        match reviewer {
            Reviewer::Kubernetes => matches!(self.kubernetes, Kubernetes::Cluster(_)),
        }
    }

    fn key<'a>(&self, credentials: &Credentials<'a>) -> IdentityKey<'a> {
        IdentityKey { hash: self.hash(credentials), rules: credentials.rules, stale: self.remember.stale }
    }

    /// Of the whole token, and of who reviews it; and of what its policy asks for, where the answer depends on that.
    fn hash(&self, credentials: &Credentials<'_>) -> u128 {
        match (credentials.reviewer, &self.kubernetes) {
            (Reviewer::Kubernetes, Kubernetes::Cluster(cluster)) if cluster.foreign => {
                self.hash_token(&credentials.token) ^ self.hasher.hash_list(credentials.wanted())
            }
            (Reviewer::Kubernetes, Kubernetes::Cluster(_) | Kubernetes::Keys(_)) => self.hash_token(&credentials.token),
        }
    }

    /// Of a token that is the cluster's to review.
    fn hash_token(&self, token: &BearerToken<'_>) -> u128 {
        let token = self.hasher.hash(token.secret());
        match &self.kubernetes {
            Kubernetes::Keys(keys) => token ^ keys.load().salt,
            Kubernetes::Cluster(_) => token,
        }
    }

    /// How many identities are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cache.len() == 0
    }

    /// Remembers `identity` for `token` without a review: for benches, whose tokens are of a foreign issuer, and for explanations.
    #[doc(hidden)]
    pub fn insert(&self, token: &BearerToken<'_>, identity: Identity) {
        self.cache.insert(self.hash_token(token), Arc::new(identity), Nanos::default());
    }

    /// Remembers that `token` is refused, without a review: for explanations.
    #[doc(hidden)]
    pub fn insert_refused(&self, token: &BearerToken<'_>, denial: Denial) {
        let failure = Failure { denial, keep: Some(Duration::MAX) };
        self.cache.insert_failure(self.hash_token(token), failure, Nanos::default());
    }
}

impl Remember {
    /// What `identities` of ServiceAccounts take.
    #[must_use]
    pub fn bytes_for(identities: u32) -> u64 {
        u64::from(identities) * USUAL
    }
}

impl Default for Remember {
    fn default() -> Self {
        Remember {
            identities: Duration::from_secs(600),
            failures: Duration::from_secs(10),
            stale: Duration::ZERO,
            bytes: 32 << 20,
        }
    }
}

// === impl IdentityKey ===

impl CacheKey for IdentityKey<'_> {
    type Value = Arc<Identity>;

    fn hash(&self) -> u128 {
        self.hash
    }

    fn fresh_until(&self, identity: &Arc<Identity>, reviewed: Nanos) -> Nanos {
        let keep = self.rules.identity_ttl().map_or(identity.keep, |ttl| ttl.max(ONE_DECISION).min(identity.keep));
        reviewed.saturating_add(keep).min(identity.expires)
    }

    fn stale_until(&self, identity: &Arc<Identity>, reviewed: Nanos) -> Nanos {
        if self.stale.is_zero() {
            return Nanos::default();
        }
        reviewed.saturating_add(identity.keep).saturating_add(self.stale).min(identity.expires)
    }
}

/// Why there is no identity. A refusal is remembered for `refused`, unless it is for this moment or for this policy
/// alone; that it could not be told, for [`PAUSE`].
fn failure(denial: Denial, refused: Duration) -> Failure {
    let keep = match denial.code {
        Code::TokenNotYet | Code::TokenAudience | Code::TokenSubjectGone | Code::UnavailableDeadline => None,
        code if code.class() == Class::Undecided => Some(PAUSE),
        _ => Some(refused),
    };
    Failure { denial, keep }
}

/// What the identity of a ServiceAccount takes, in bytes.
const USUAL: u64 = 3_500;
/// What of that is not of its lists and texts: the struct, the three maps of the object, the cache's own entry. Measured by
/// `make soak`.
const FIXED: u64 = 2_800;
/// What an element of a list takes beside its text.
const ELEMENT: usize = 32;

// === impl Identity ===

impl Identity {
    /// To be remembered, for `most` at most.
    fn kept(self, most: Duration) -> Arc<Self> {
        Arc::new(Identity { keep: self.keep.min(most), ..self })
    }

    /// What it takes in memory.
    fn bytes(&self) -> u64 {
        let lists = self.groups.iter().chain(&self.audiences);
        let lists: usize = lists.map(|text| ELEMENT + text.len()).sum();
        let texts = self.user.len() + self.uid.len() + lists;
        // Each is there twice: the object holds it too.
        FIXED + 2 * texts as u64
    }
}

/// The time, for people (RFC 3339).
#[must_use]
pub fn timestamp() -> String {
    jiff::Timestamp::now().to_string()
}
