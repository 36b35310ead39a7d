//! Who calls: a bearer token becomes a user name, uid and groups, and is remembered.

mod authority;
mod cluster;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use quick_cache::Weighter;
use serde_json::Value;
use tokio::time::Instant;

pub(crate) use self::authority::unix_seconds;
pub use self::authority::{Authority, AuthorityError, Claims, KubernetesClaims, OPENSHIFT, ObjectClaims, believe};
pub use self::cluster::{ClusterReview, IdentityMode};

use crate::apiserver::{Flights, PATIENCE};
use crate::clock::Nanos;
use crate::denial::{Class, Code, Denial};
use crate::hash::{self, KeyedHasher, Remembered, remember_by_weight};
use crate::policy::Policy;
use crate::request::BearerToken;
use crate::rules::AuthRules;

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
    /// When the token was reviewed.
    pub reviewed: Nanos,
    /// How long it may be remembered without another review.
    pub keep: Duration,
    /// When the token expires.
    pub expires: Nanos,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccountRef {
    pub namespace: String,
    pub name: String,
    pub uid: String,
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

/// A token to review, and what for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub token: BearerToken<'a>,
    /// Of the policy that asks.
    pub rules: &'a AuthRules,
    /// Of the request: an audience, where the policy names none.
    pub host: &'a str,
    /// The address of the caller.
    pub peer: Option<&'a str>,
}

/// Reviews tokens, and remembers the answers.
#[derive(Debug)]
pub struct Identities {
    reviewer: Reviewer,
    remember: Remember,
    key: KeyedHasher,
    memory: Arc<Memory>,
    flights: Flights<Arc<Identity>>,
}

/// Whose word it is who a token is of.
#[derive(Debug)]
enum Reviewer {
    Keys(ArcSwap<Keys>),
    Cluster(Arc<ClusterReview>),
}

/// The keys of a JSON Web Key Set that is read from a file.
#[derive(Debug)]
struct Keys {
    authority: Authority,
    /// Of the hashes of tokens: what other keys said of a token, and be it at this moment, is remembered under another hash.
    salt: u128,
}

#[derive(Debug)]
struct Memory {
    /// quick_cache rather than a plain map: bounded. Its hits cost as much as dashmap's.
    known: Remembered<Arc<Identity>, Bytes>,
    /// A cache of its own, so that a flood of junk tokens moves no identity out.
    failed: Remembered<(Denial, Nanos)>,
}

/// What is known about a token.
#[derive(Clone, Debug)]
pub enum Review {
    Known(Arc<Identity>),
    /// It should have been reviewed anew, and that is not possible now.
    Stale(Arc<Identity>),
    Refused(Denial),
}

/// Weighs an identity by what it takes.
#[derive(Clone, Debug)]
struct Bytes;

/// Enough for a second of junk; each entry is small.
const FAILURES: usize = 10_000;
/// How long the API server is not asked again about a token that it refused, and about one of which it could not be asked.
const REJECTED: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_secs(1);

// === impl Identities ===

impl Identities {
    /// Tokens that `authority` verifies.
    ///
    /// # Panics
    ///
    /// The operating system has no randomness: nothing could be kept apart safely.
    #[must_use]
    pub fn new(authority: Authority, remember: Remember) -> Self {
        Self::of(Reviewer::Keys(ArcSwap::from_pointee(Keys { authority, salt: 0 })), remember)
    }

    /// Tokens that the API server reviews.
    ///
    /// # Panics
    ///
    /// The operating system has no randomness: nothing could be kept apart safely.
    #[must_use]
    pub fn of_cluster(review: ClusterReview, remember: Remember) -> Self {
        Self::of(Reviewer::Cluster(Arc::new(review)), remember)
    }

    fn of(reviewer: Reviewer, remember: Remember) -> Self {
        let usual = usize::try_from(remember.bytes / USUAL).unwrap_or(usize::MAX);
        let known = remember_by_weight(usual, remember.bytes, Bytes);
        let failed = hash::remember(FAILURES);
        let memory = Arc::new(Memory { known, failed });
        Identities { reviewer, remember, key: KeyedHasher::random(), memory, flights: Flights::new() }
    }

    /// Goes by the keys of `authority` from now on, where tokens are verified by keys: what is remembered was said by others.
    pub fn replace_keys(&self, authority: Authority) {
        let Reviewer::Keys(keys) = &self.reviewer else { return };
        // Any other than before: each is the hash of the one before, and an attacker knows none of them.
        let salt = self.key.hash(&keys.load().salt.to_string());
        keys.store(Arc::new(Keys { authority, salt }));
        self.memory.known.clear();
        self.memory.failed.clear();
    }

    /// What is remembered about a token, for as long as its policy says. Answers at once.
    #[must_use]
    pub fn recall(&self, asked: &Asked<'_>, now: Nanos) -> Option<Review> {
        let key = self.key(asked);
        match self.memory.known.get(&key) {
            Some(identity) if identity.is_fresh(asked.rules, now) => Some(Review::Known(identity)),
            known => self.failure(key, known, now),
        }
    }

    /// Why `token` is not to be reviewed again yet, and what is said meanwhile.
    fn failure(&self, key: u128, known: Option<Arc<Identity>>, now: Nanos) -> Option<Review> {
        let (denial, _) = self.memory.failed.get(&key).filter(|(_, until)| *until > now)?;
        Some(self.fall_back(denial, known, now))
    }

    /// What is said where a review came to no end: what was known before, for a while.
    fn fall_back(&self, denial: Denial, known: Option<Arc<Identity>>, now: Nanos) -> Review {
        let undecided = denial.code.class() == Class::Undecided;
        match known.filter(|identity| undecided && identity.is_usable(self.remember.stale, now)) {
            Some(identity) => Review::Stale(identity),
            None => Review::Refused(denial),
        }
    }

    /// Reviews a token, once however many requests wait for it, and remembers the answer. Waits until `until`.
    pub async fn review(&self, asked: &Asked<'_>, policy: &Policy, now: Nanos, until: Instant) -> Review {
        let key = self.key(asked);
        let known = self.memory.known.get(&key);
        // Another request may have found out meanwhile.
        if let Some(review) = self.failure(key, known.clone(), now) {
            return review;
        }
        let until = match &known {
            Some(identity) if identity.is_usable(self.remember.stale, now) => until.min(Instant::now() + PATIENCE),
            _ => until,
        };
        let reviewed = match &self.reviewer {
            Reviewer::Keys(keys) => self.verify(&keys.load().authority, key, asked, now),
            Reviewer::Cluster(cluster) => self.ask(cluster, key, (asked, policy), now, until).await,
        };
        match reviewed {
            Ok(identity) => Review::Known(identity),
            Err(denial) => self.fall_back(denial, known, now),
        }
    }

    fn verify(&self, authority: &Authority, key: u128, asked: &Asked<'_>, now: Nanos) -> Result<Arc<Identity>, Denial> {
        match authority.review(&asked.token, now) {
            Ok(identity) => Ok(self.memory.learn(key, Identity { keep: self.remember.identities, ..identity })),
            Err(denial) => Err(self.memory.refuse(key, denial, now, self.remember.failures)),
        }
    }

    async fn ask(
        &self,
        cluster: &Arc<ClusterReview>,
        key: u128,
        (asked, policy): (&Asked<'_>, &Policy),
        now: Nanos,
        until: Instant,
    ) -> Result<Arc<Identity>, Denial> {
        let keep = self.remember.identities;
        let question = match cluster.look(asked, policy, now, until).await {
            Err(denial) => return Err(self.memory.refuse(key, denial, now, self.remember.failures)),
            Ok(cluster::Look::Trusted(identity)) => {
                return Ok(self.memory.learn(key, Identity { keep, ..*identity }));
            }
            Ok(cluster::Look::Ask(question)) => question,
        };
        let (memory, cluster) = (Arc::clone(&self.memory), Arc::clone(cluster));
        let server = cluster.server.clone();
        let recall = || self.memory.known.get(&key).filter(|identity| identity.is_fresh(asked.rules, now));
        let ask = || async move {
            match cluster.review(question, now).await {
                Ok(identity) => Ok(memory.learn(key, Identity { keep: identity.keep.min(keep), ..identity })),
                Err(denial) => Err(memory.refuse(key, denial, now, REJECTED)),
            }
        };
        self.flights.join(key, (&server, until), recall, ask).await
    }

    /// Whether a ServiceAccount that is not watched is known all the same, because the API server has reviewed its token.
    #[must_use]
    pub fn vouched_for(&self) -> bool {
        matches!(self.reviewer, Reviewer::Cluster(_))
    }

    /// Of the whole token; and of what its policy asks for, where the answer depends on that.
    fn key(&self, asked: &Asked<'_>) -> u128 {
        let token = self.hash(&asked.token);
        match &self.reviewer {
            Reviewer::Cluster(cluster) if cluster.foreign => {
                token ^ self.key.hash_list(asked.rules.audiences(asked.host))
            }
            Reviewer::Cluster(_) | Reviewer::Keys(_) => token,
        }
    }

    fn hash(&self, token: &BearerToken<'_>) -> u128 {
        let token = self.key.hash(token.secret());
        match &self.reviewer {
            Reviewer::Keys(keys) => token ^ keys.load().salt,
            Reviewer::Cluster(_) => token,
        }
    }

    /// How many identities are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.memory.known.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.memory.known.is_empty()
    }

    /// Remembers `identity` for `token` without a review: for benches, whose tokens are of a foreign issuer, and for explanations.
    #[doc(hidden)]
    pub fn insert(&self, token: &BearerToken<'_>, identity: Identity) {
        self.memory.known.insert(self.hash(token), Arc::new(identity));
    }

    /// Remembers that `token` is refused, without a review: for explanations.
    #[doc(hidden)]
    pub fn insert_refused(&self, token: &BearerToken<'_>, denial: Denial) {
        self.memory.failed.insert(self.hash(token), (denial, Nanos(u64::MAX)));
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

// === impl Memory ===

impl Memory {
    fn learn(&self, key: u128, identity: Identity) -> Arc<Identity> {
        let identity = Arc::new(identity);
        self.known.insert(key, Arc::clone(&identity));
        self.failed.remove(&key);
        identity
    }

    /// Remembers a refusal for as long as `failures` says, unless it is for this moment or this policy alone; and for a moment that it could
    /// not be told.
    fn refuse(&self, key: u128, denial: Denial, now: Nanos, failures: Duration) -> Denial {
        let keep = match denial.code {
            Code::TokenNotYet | Code::TokenAudience | Code::TokenSubjectGone | Code::UnavailableDeadline => {
                return denial;
            }
            code if code.class() == Class::Undecided => PAUSE,
            _ => {
                self.known.remove(&key);
                failures
            }
        };
        self.failed.insert(key, (denial.clone(), now.saturating_add(keep)));
        denial
    }
}

// === impl Identity ===

impl Identity {
    fn is_fresh(&self, rules: &AuthRules, now: Nanos) -> bool {
        let keep = rules.identity_ttl().map_or(self.keep, |ttl| ttl.min(self.keep));
        now < self.expires && now < self.reviewed.saturating_add(keep)
    }

    /// Whether it may be used for want of a newer one.
    fn is_usable(&self, stale: Duration, now: Nanos) -> bool {
        now < self.expires && now < self.reviewed.saturating_add(self.keep).saturating_add(stale) && !stale.is_zero()
    }
}

/// What the identity of a ServiceAccount takes, in bytes.
const USUAL: u64 = 3_500;
/// What of that is not of its lists and texts: the struct, the three maps of the object, the cache's own entry. Measured by
/// `make soak`.
const FIXED: u64 = 2_800;
/// What an element of a list takes beside its text.
const ELEMENT: usize = 32;

// === impl Bytes ===

impl Weighter<u128, Arc<Identity>> for Bytes {
    fn weight(&self, _: &u128, identity: &Arc<Identity>) -> u64 {
        let lists = identity.groups.iter().chain(&identity.audiences).map(|text| ELEMENT + text.len());
        let texts = identity.user.len() + identity.uid.len() + lists.sum::<usize>();
        // Each is there twice: the object holds it too.
        FIXED + 2 * texts as u64
    }
}

/// The time, for people (RFC 3339).
#[must_use]
pub fn timestamp() -> String {
    jiff::Timestamp::now().to_string()
}
