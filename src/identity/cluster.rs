//! The API server as the authority: tokens are looked at here first, so that junk costs no call, and then reviewed by it.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::TokenReviewStatus;
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use super::authority::{Signer, TokenBinding, expiry};
use super::{Authority, Credentials, Identity, ServiceAccountRef, ServiceAccounts};
use crate::apiserver::{ApiServer, CallerHash, unanswered};
use crate::cache::{Cache, CacheKey, Capacity, Config, Failure, Staleness};
use crate::clock::{Clock, Nanos};
use crate::denial::{Code, Denial};
use crate::hash::KeyedHasher;

/// Whose word it is that a token of the cluster is good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum IdentityMode {
    /// The API server's, asked once for each token (TokenReview).
    #[default]
    Review,
    /// The signature's, and that the ServiceAccount is there: no call for ServiceAccounts that are watched and whose token is not
    /// bound to a Pod, Secret or Node. All others are reviewed.
    Local,
}

/// Reviews tokens with an API server.
#[derive(Debug)]
pub struct ClusterReview {
    pub(super) server: ApiServer,
    mode: IdentityMode,
    /// Whether tokens are reviewed that the cluster has not signed.
    pub(super) foreign: bool,
    /// How much longer keys are used where they cannot be read again.
    stale: Duration,
    keys: ClusterKeys,
    hasher: KeyedHasher,
}

/// The keys of the cluster's own tokens.
#[derive(Debug)]
struct ClusterKeys {
    cache: Cache<Arc<Authority>>,
    /// Why they could not be had the last time: only changes are logged.
    fault: Arc<Mutex<Option<String>>>,
}

/// How old keys may be.
struct MaxAge {
    fresh: Duration,
    /// Where they cannot be read again.
    stale: Duration,
}

/// What a look at a token comes to.
pub(super) enum LocalCheck {
    /// No call is needed.
    Trusted(Box<Identity>),
    Ask(TokenReview),
}

/// A TokenReview to be made.
pub(super) struct TokenReview {
    token: String,
    audiences: Vec<String>,
    caller: CallerHash,
    /// When the token expires, in seconds since 1970, if it says so.
    expiry: Option<u64>,
    /// How long the answer is good, where nothing tells of its end.
    keep: Duration,
}

/// Sets of keys that are remembered; there is one.
const KEY_SETS: usize = 1;
/// A token of a key that is not known is no reason to look for new keys more often.
const KEYS_AGE: Duration = Duration::from_secs(1);
/// After this time a key that is no longer published is no longer trusted.
const KEYS_TTL: Duration = Duration::from_secs(300);
/// How long the identity of a user is remembered whose end nothing tells: a ServiceAccount that is not watched, or no ServiceAccount.
const UNWATCHED: Duration = Duration::from_secs(30);
/// Requests without a token that is good for anything are these to the API server.
const ANONYMOUS: &str = "system:anonymous";

// === impl ClusterReview ===

impl ClusterReview {
    #[must_use]
    pub fn new(server: ApiServer, mode: IdentityMode, foreign: bool, stale: Duration, clock: Clock) -> Self {
        let keys = ClusterKeys::new(&server);
        let review = ClusterReview { server, mode, foreign, stale, keys, hasher: KeyedHasher::random() };
        // Not for the first request to wait for.
        review.keys.cache.refresh(&review.usual_age(), clock.now(), || review.keys.read(&review.server));
        review
    }

    /// Looks at a token: its shape, issuer, times, signature and audience, and whether its ServiceAccount is there.
    pub(super) async fn look(
        &self,
        credentials: &Credentials<'_>,
        accounts: &ServiceAccounts,
        now: Nanos,
        until: Instant,
    ) -> Result<LocalCheck, Denial> {
        let mut keys = match self.keys(self.usual_age(), now, until).await {
            Ok(keys) => keys,
            Err(_) if self.foreign => return Ok(self.foreign(credentials)),
            Err(denial) => return Err(denial),
        };
        let mut signer = keys.signer(&credentials.token);
        if matches!(signer, Ok(Signer::Unknown)) {
            keys = self.keys(MaxAge { fresh: KEYS_AGE, stale: Duration::ZERO }, now, until).await?;
            signer = keys.signer(&credentials.token);
        }
        let claims = match signer {
            Err(_) | Ok(Signer::Foreign) if self.foreign => return Ok(self.foreign(credentials)),
            Err(denial) => return Err(denial),
            Ok(Signer::Foreign | Signer::Unknown) => return Err(keys.foreign(&credentials.token)),
            Ok(Signer::Known) => keys.claims(&credentials.token)?,
        };
        credentials.accept_any(&claims.aud)?;
        let watched = match claims.service_account() {
            Some(account) => {
                account.check(accounts, true)?;
                accounts.watched.hold(&account.namespace)
            }
            None => false,
        };
        let unbound = claims.bound() == TokenBinding::ToNothingElse;
        if self.mode == IdentityMode::Local && watched && unbound {
            return claims.identity(now).map(|identity| LocalCheck::Trusted(Box::new(identity)));
        }
        Ok(LocalCheck::Ask(TokenReview {
            token: credentials.token.secret().to_owned(),
            caller: self.hasher.hash(&claims.sub),
            // All that it has, so that it is asked about once, whichever policies it comes by.
            audiences: claims.aud,
            expiry: Some(claims.exp),
            keep: if watched { Duration::MAX } else { UNWATCHED },
        }))
    }

    /// A token that the cluster has not signed.
    fn foreign(&self, credentials: &Credentials<'_>) -> LocalCheck {
        LocalCheck::Ask(TokenReview {
            token: credentials.token.secret().to_owned(),
            audiences: credentials.wanted().map(Cow::into_owned).collect(),
            caller: self.hasher.hash_list(credentials.peer),
            expiry: expiry(&credentials.token),
            keep: UNWATCHED,
        })
    }

    /// Asks the API server.
    pub(super) async fn review(&self, review: TokenReview, now: Nanos) -> Result<Identity, Denial> {
        let TokenReview { token, audiences, caller, expiry, keep } = review;
        let status = self.server.review_token(&token, audiences, caller).await?;
        let identity = identity(status)?;
        let left = expiry.map(|expiry| Duration::from_secs(expiry.saturating_sub(super::unix_seconds())));
        let expires = left.map_or(identity.expires, |left| now.saturating_add(left));
        Ok(Identity { expires, keep, ..identity })
    }

    /// Keys that are no older than `age`.
    async fn keys(&self, age: MaxAge, now: Nanos, until: Instant) -> Result<Arc<Authority>, Denial> {
        let answer = self.keys.cache.fetch(&age, now, until, || self.keys.read(&self.server)).await;
        answer.map_err(unanswered)?.value
    }

    /// How old keys may be of which nothing says that there are newer ones.
    fn usual_age(&self) -> MaxAge {
        MaxAge { fresh: KEYS_TTL, stale: KEYS_TTL.saturating_add(self.stale) }
    }
}

// === impl ClusterKeys ===

impl ClusterKeys {
    fn new(server: &ApiServer) -> Self {
        let cache = Cache::new(Config {
            capacity: Capacity::entries(KEY_SETS),
            failures: KEY_SETS,
            fetches: KEY_SETS,
            // Without keys that are new enough there is hardly anything to say: it is worth all of the wait.
            staleness: Staleness::IfError { patience: Duration::MAX },
            runtime: Some(server.runtime().clone()),
        });
        ClusterKeys { cache, fault: Arc::default() }
    }

    /// Reads them from the API server.
    fn read(&self, server: &ApiServer) -> impl Future<Output = Result<Arc<Authority>, Failure>> + Send + use<> {
        let (server, fault) = (server.clone(), Arc::clone(&self.fault));
        async move {
            let keys = server.discover().await.and_then(|discovered| {
                let authority = Authority::from_jwks(&discovered.jwks, &discovered.issuer).map_err(|error| {
                    let detail = format!("what the API server publishes as its keys {error}");
                    Denial::new(Code::UnavailableApiServer, "the keys of tokens could not be read").detail(detail)
                })?;
                Ok(Arc::new(authority))
            });
            note(&fault, keys.as_ref().err());
            // Every token asks for them: one after another, and no more often than the API server is to be called.
            keys.map_err(|denial| Failure { denial, keep: None })
        }
    }
}

// === impl MaxAge ===

impl CacheKey for MaxAge {
    type Value = Arc<Authority>;

    /// There is one set of keys.
    fn hash(&self) -> u128 {
        0
    }

    fn fresh_until(&self, _: &Arc<Authority>, read: Nanos) -> Nanos {
        read.saturating_add(self.fresh)
    }

    fn stale_until(&self, _: &Arc<Authority>, read: Nanos) -> Nanos {
        read.saturating_add(self.stale)
    }
}

/// Logs that the keys cannot be had, or can again.
fn note(fault: &Mutex<Option<String>>, denial: Option<&Denial>) {
    let now = denial.map(|denial| denial.detail.clone().unwrap_or_default());
    let before = std::mem::replace(&mut *fault.lock(), now.clone());
    match (before, now) {
        (Some(_), None) => tracing::info!("the keys of the cluster's tokens are read again"),
        (before, Some(why)) if before.as_ref() != Some(&why) => {
            tracing::warn!(error = why, "the keys of the cluster's tokens cannot be read");
        }
        _ => {}
    }
}

/// The user whom the API server has found.
fn identity(status: TokenReviewStatus) -> Result<Identity, Denial> {
    let rejected = |detail: String| Denial::new(Code::TokenRejected, "the token is not accepted").detail(detail);
    if status.authenticated != Some(true) {
        return Err(rejected(format!("TokenReview: {}", status.error.as_deref().unwrap_or("not authenticated"))));
    }
    let user = status.user.unwrap_or_default();
    let name = user.username.unwrap_or_default();
    // A token of blanks is answered so.
    if name.is_empty() || name == ANONYMOUS {
        return Err(rejected("TokenReview: nobody".to_owned()));
    }
    let (groups, audiences) = (user.groups.unwrap_or_default(), status.audiences.unwrap_or_default());
    let (uid, extra) = (user.uid.unwrap_or_default(), user.extra.unwrap_or_default());
    Ok(Identity {
        object: json!({
            "authenticated": true,
            "audiences": audiences,
            "user": { "username": name, "uid": uid, "groups": groups, "extra": extra },
        }),
        scoped: !extra.keys().all(|key| key.starts_with(OF_THE_SERVER)),
        service_account: ServiceAccountRef::of(&name, &uid),
        user: name.into(),
        uid,
        groups,
        audiences,
        keep: Duration::MAX,
        expires: Nanos(u64::MAX),
    })
}

/// Keys of `extra` that the API server fills in for its own tokens.
const OF_THE_SERVER: &str = "authentication.kubernetes.io/";
