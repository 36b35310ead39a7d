//! The API server as the authority: tokens are looked at here first, so that junk costs no call, and then reviewed by it.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use k8s_openapi::api::authentication::v1::TokenReviewStatus;
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use super::authority::{Bound, Signer, expiry};
use super::{Asked, Authority, Identity, ServiceAccountRef};
use crate::apiserver::{ApiServer, Caller, Flights};
use crate::clock::{Clock, Nanos};
use crate::denial::{Code, Denial};
use crate::hash::KeyedHasher;
use crate::policy::Policy;

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
    keys: Keys,
    hasher: KeyedHasher,
    clock: Clock,
}

/// The keys of the cluster's own tokens.
#[derive(Debug)]
struct Keys {
    current: Arc<ArcSwapOption<Found>>,
    flights: Flights<Arc<Found>>,
    /// Why they could not be had the last time: only changes are logged.
    fault: Arc<Mutex<Option<String>>>,
}

#[derive(Debug)]
struct Found {
    authority: Authority,
    at: Nanos,
}

/// What a look at a token comes to.
pub(super) enum Look {
    /// No call is needed.
    Trusted(Box<Identity>),
    Ask(Question),
}

/// A TokenReview to be made.
pub(super) struct Question {
    token: String,
    audiences: Vec<String>,
    caller: Caller,
    /// When the token expires, in seconds since 1970, if it says so.
    expiry: Option<u64>,
    /// How long the answer is good, where nothing tells of its end.
    keep: Duration,
}

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
        let keys = Keys { current: Arc::default(), flights: Flights::new(), fault: Arc::default() };
        let review = ClusterReview { server, mode, foreign, stale, keys, hasher: KeyedHasher::random(), clock };
        // Not for the first request to wait for.
        let (flights, first, to) =
            (review.keys.flights.clone(), review.keys.fetch(&review.server, clock), review.server.clone());
        review.server.spawn(async move { drop(flights.join(0, (&to, Instant::now()), || None, || first).await) });
        review
    }

    /// Looks at a token: its shape, issuer, times, signature and audience, and whether its ServiceAccount is there.
    pub(super) async fn look(
        &self,
        asked: &Asked<'_>,
        policy: &Policy,
        now: Nanos,
        until: Instant,
    ) -> Result<Look, Denial> {
        let mut keys = match self.keys(now, KEYS_TTL, until).await {
            Ok(keys) => keys,
            Err(_) if self.foreign => return Ok(self.foreign(asked)),
            Err(denial) => return Err(denial),
        };
        let mut signer = keys.authority.signer(&asked.token);
        if matches!(signer, Ok(Signer::Unknown)) {
            keys = self.keys(now, KEYS_AGE, until).await?;
            signer = keys.authority.signer(&asked.token);
        }
        let claims = match signer {
            Err(_) | Ok(Signer::Foreign) if self.foreign => return Ok(self.foreign(asked)),
            Err(denial) => return Err(denial),
            Ok(Signer::Foreign | Signer::Unknown) => return Err(keys.authority.foreign(&asked.token)),
            Ok(Signer::Known) => keys.authority.claims(&asked.token)?,
        };
        asked.rules.accept_any(&claims.aud, asked.host)?;
        let watched = match claims.service_account() {
            Some(account) => {
                account.check(policy, true)?;
                policy.watched.hold(&account.namespace)
            }
            None => false,
        };
        let unbound = claims.bound() == Bound::ToNothingElse;
        if self.mode == IdentityMode::Local && watched && unbound {
            return claims.identity(now).map(|identity| Look::Trusted(Box::new(identity)));
        }
        Ok(Look::Ask(Question {
            token: asked.token.secret().to_owned(),
            caller: self.hasher.hash(&claims.sub),
            // All that it has, so that it is asked about once, whichever policies it comes by.
            audiences: claims.aud,
            expiry: Some(claims.exp),
            keep: if watched { Duration::MAX } else { UNWATCHED },
        }))
    }

    /// A token that the cluster has not signed.
    fn foreign(&self, asked: &Asked<'_>) -> Look {
        Look::Ask(Question {
            token: asked.token.secret().to_owned(),
            audiences: asked.rules.audiences(asked.host).map(Cow::into_owned).collect(),
            caller: self.hasher.hash_list(asked.peer),
            expiry: expiry(&asked.token),
            keep: UNWATCHED,
        })
    }

    /// Asks the API server.
    pub(super) async fn review(&self, question: Question, now: Nanos) -> Result<Identity, Denial> {
        let Question { token, audiences, caller, expiry, keep } = question;
        let status = self.server.review_token(&token, audiences, caller).await?;
        let identity = identity(status, now)?;
        let left = expiry.map(|expiry| Duration::from_secs(expiry.saturating_sub(super::unix_seconds())));
        let expires = left.map_or(identity.expires, |left| now.saturating_add(left));
        Ok(Identity { expires, keep, ..identity })
    }

    /// Keys that are no older than `age`.
    async fn keys(&self, now: Nanos, age: Duration, until: Instant) -> Result<Arc<Found>, Denial> {
        let current = |age: Duration| self.keys.current.load_full().filter(|found| now < found.at.saturating_add(age));
        if let Some(found) = current(age) {
            return Ok(found);
        }
        let fetch = || self.keys.fetch(&self.server, self.clock);
        let fetched = self.keys.flights.join(0, (&self.server, until), || current(age), fetch).await;
        fetched.or_else(|denial| current(KEYS_TTL.saturating_add(self.stale)).filter(|_| age == KEYS_TTL).ok_or(denial))
    }
}

// === impl Keys ===

impl Keys {
    fn fetch(
        &self,
        server: &ApiServer,
        clock: Clock,
    ) -> impl Future<Output = Result<Arc<Found>, Denial>> + Send + use<> {
        let (server, current, fault) = (server.clone(), Arc::clone(&self.current), Arc::clone(&self.fault));
        async move {
            let at = clock.now();
            let found = server.discover().await.and_then(|discovered| {
                let authority = Authority::from_jwks(&discovered.jwks, &discovered.issuer).map_err(|error| {
                    let detail = format!("what the API server publishes as its keys {error}");
                    Denial::new(Code::UnavailableApiServer, "the keys of tokens could not be read").detail(detail)
                })?;
                Ok(Arc::new(Found { authority, at }))
            });
            note(&fault, found.as_ref().err());
            if let Ok(found) = &found {
                current.store(Some(Arc::clone(found)));
            }
            found
        }
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
fn identity(status: TokenReviewStatus, now: Nanos) -> Result<Identity, Denial> {
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
        reviewed: now,
        keep: Duration::MAX,
        expires: Nanos(u64::MAX),
    })
}

/// Keys of `extra` that the API server fills in for its own tokens.
const OF_THE_SERVER: &str = "authentication.kubernetes.io/";
