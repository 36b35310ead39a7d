//! Who calls: a bearer token becomes a user name, uid and groups, and is remembered.

mod authority;

#[cfg(test)]
mod tests;

use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{UnitWeighter, Weighter};
use serde_json::Value;

pub(crate) use self::authority::unix_seconds;
pub use self::authority::{Authority, AuthorityError, Claims, KubernetesClaims, ObjectClaims, believe};

use crate::gate::{Code, Denial};
use crate::hash::{KeyedHasher, Prehashed};
use crate::limit::Nanos;
use crate::request::BearerToken;

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
    /// `auth.identity` of an AuthPolicy: the status of a TokenReview.
    pub object: Value,
    /// When the token was reviewed.
    pub reviewed: Nanos,
    /// When to review the token again: never past its expiry.
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
    /// What remembered identities may take, in bytes. One of a ServiceAccount takes about 3,500; a review again takes
    /// microseconds, so there need not be room for all.
    pub bytes: u64,
}

/// Reviews tokens, and remembers the answers.
#[derive(Debug)]
pub struct Identities {
    authority: Authority,
    remember: Remember,
    key: KeyedHasher,
    /// quick_cache rather than a plain map: bounded, and it keeps one review for all who wait for it. Its hits cost as
    /// much as dashmap's.
    known: Remembered<Arc<Identity>, Bytes>,
    /// A cache of its own, so that a flood of junk tokens moves no identity out.
    failed: Remembered<(Denial, Nanos), UnitWeighter>,
}

/// What is known about a token.
#[derive(Clone, Debug)]
pub enum Review {
    Known(Arc<Identity>),
    Refused(Denial),
}

type Unhashed = BuildHasherDefault<Prehashed>;
type Remembered<T, W> = Cache<u128, T, W, Unhashed, DefaultLifecycle<u128, T>>;

/// Weighs an identity by what it takes.
#[derive(Clone, Debug)]
struct Bytes;

/// Enough for a second of junk; each entry is small.
const FAILURES: usize = 10_000;

// === impl Identities ===

impl Identities {
    /// # Panics
    ///
    /// The operating system has no randomness: nothing could be kept apart safely.
    #[must_use]
    pub fn new(authority: Authority, remember: Remember) -> Self {
        let usual = usize::try_from(remember.bytes / USUAL).unwrap_or(usize::MAX);
        let known = cache(usual, remember.bytes, Bytes);
        let failed = cache(FAILURES, FAILURES as u64, UnitWeighter);
        Identities { authority, remember, key: KeyedHasher::random(), known, failed }
    }

    /// What is remembered about `token`, at most for as long as `ttl` says. Answers at once.
    #[must_use]
    pub fn recall(&self, token: &BearerToken<'_>, now: Nanos, ttl: Option<Duration>) -> Option<Review> {
        let key = self.hash(token);
        if let Some(identity) = self.known.get(&key) {
            let fresh = ttl.is_none_or(|ttl| identity.reviewed.saturating_add(ttl) > now);
            if fresh && identity.expires > now {
                return Some(Review::Known(identity));
            }
            self.known.remove(&key);
        }
        let (denial, until) = self.failed.get(&key)?;
        (until > now).then_some(Review::Refused(denial))
    }

    /// Reviews `token`, once however many requests wait for it, and remembers the answer.
    pub async fn review(&self, token: &BearerToken<'_>, now: Nanos) -> Review {
        let key = self.hash(token);
        let review = async {
            // Another request may have waited for the same, and failed.
            if let Some((denial, _)) = self.failed.get(&key).filter(|(_, until)| *until > now) {
                return Err(denial);
            }
            let identity = self.authority.review(token, now)?;
            let latest = now.saturating_add(self.remember.identities);
            Ok::<_, Denial>(Arc::new(Identity { expires: identity.expires.min(latest), ..identity }))
        };
        match self.known.get_or_insert_async(&key, review).await {
            Ok(identity) => Review::Known(identity),
            Err(denial) => {
                // A token that is not valid yet may be so in a moment.
                if denial.code == Code::TokenNotYet {
                    return Review::Refused(denial);
                }
                self.failed.insert(key, (denial.clone(), now.saturating_add(self.remember.failures)));
                Review::Refused(denial)
            }
        }
    }

    /// Of the whole token.
    fn hash(&self, token: &BearerToken<'_>) -> u128 {
        self.key.hash(token.secret())
    }

    /// How many identities are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Remembers `identity` for `token` without a review: for benches, whose tokens are of a foreign issuer, and for explanations.
    #[doc(hidden)]
    pub fn insert(&self, token: &BearerToken<'_>, identity: Identity) {
        self.known.insert(self.hash(token), Arc::new(identity));
    }

    /// Remembers that `token` is refused, without a review: for explanations.
    #[doc(hidden)]
    pub fn insert_refused(&self, token: &BearerToken<'_>, denial: Denial) {
        self.failed.insert(self.hash(token), (denial, Nanos(u64::MAX)));
    }
}

impl Default for Remember {
    fn default() -> Self {
        Remember { identities: Duration::from_secs(600), failures: Duration::from_secs(10), bytes: 32 << 20 }
    }
}

fn cache<T: Clone, W: Weighter<u128, T> + Clone>(items: usize, weight: u64, weighter: W) -> Remembered<T, W> {
    Cache::with(items, weight, weighter, Unhashed::default(), DefaultLifecycle::default())
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
