//! The API server, asked on the way of a request: who a token is of, and what a user may do.
//!
//! Calls are made by a thread of their own, so that they go on when whoever asked has left, and what they find out is there for
//! the next. `guard` keeps them few.

pub mod connection;
mod guard;

use std::io;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::authorization::v1::{SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus};
use kube::api::PostParams;
use kube::{Api, Client};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

pub use self::connection::KubernetesError;
pub use self::guard::{ApiMetrics, Budget};

use self::guard::{Call, Guard};
use crate::cache::Unanswered;
use crate::denial::{Code, Denial};

/// An API server, and what guards it. Clones share it.
#[derive(Clone, Debug)]
pub struct ApiServer(Arc<Inner>);

struct Inner {
    /// With the credentials that were read last.
    client: ArcSwap<Client>,
    /// Where it is.
    address: String,
    guard: Guard,
    runtime: Handle,
    /// The thread ends with the last who could call.
    _alive: oneshot::Sender<()>,
}

/// On whose behalf a call is made: a hash of the user, or of the address that it comes from.
pub type CallerHash = u128;

/// The keys that the API server signs ServiceAccounts' tokens with.
#[derive(Debug)]
pub struct Discovered {
    pub issuer: String,
    /// A JSON Web Key Set.
    pub jwks: String,
}

/// How long a request that has something to fall back on waits for something better.
pub(crate) const PATIENCE: Duration = Duration::from_millis(50);
/// Different questions in flight, those that wait for their turn among them. More are answered "undecided" at once.
pub(crate) const IN_FLIGHT: usize = 4_096;

const ISSUER_PATH: &str = "/.well-known/openid-configuration";
const KEYS_PATH: &str = "/openid/v1/jwks";

// === impl ApiServer ===

impl ApiServer {
    /// The API server of `kubeconfig`; without one that of the cluster that this runs in, or of the default kubeconfig. Whether it
    /// answers is not looked at.
    ///
    /// # Errors
    ///
    /// The kubeconfig cannot be used.
    pub fn new(kubeconfig: Option<&Path>, budget: Budget, metrics: ApiMetrics) -> Result<Self, KubernetesError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let kubeconfig = kubeconfig.map(Path::to_owned);
        let (alive, ended) = oneshot::channel();
        let (tell, told) = mpsc::channel();
        let run = move || {
            let client = async {
                let config = connection::config(kubeconfig.as_deref()).await?;
                let address = connection::name(&config);
                connection::client(config).map(|client| (client, address))
            };
            // Whoever starts it waits for this.
            let _ = tell.send(runtime.block_on(client));
            drop(runtime.block_on(ended));
        };
        thread::Builder::new().name("apiserver".to_owned()).spawn(run)?;
        let (client, address) = told.recv().map_err(io::Error::other)??;
        let (client, guard) = (ArcSwap::from_pointee(client), Guard::new(budget, metrics));
        Ok(ApiServer(Arc::new(Inner { client, address, guard, runtime: handle, _alive: alive })))
    }

    /// Goes by the credentials of `kubeconfig` as they are now. Waits for the server, for seconds.
    ///
    /// # Errors
    ///
    /// They cannot be used, and those from before stay in use.
    pub fn reconnect(&self, kubeconfig: Option<&Path>) -> Result<(), KubernetesError> {
        let client = self.0.runtime.block_on(connection::again(kubeconfig, &self.0.address))?;
        self.0.client.store(Arc::new(client));
        Ok(())
    }

    fn client(&self) -> Client {
        Client::clone(&self.0.client.load())
    }

    /// The thread for calls of the API server.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// A TokenReview.
    ///
    /// # Errors
    ///
    /// It could not be asked, or did not answer: undecided.
    pub async fn review_token(
        &self,
        token: &str,
        audiences: Vec<String>,
        caller: CallerHash,
    ) -> Result<TokenReviewStatus, Denial> {
        let spec = TokenReviewSpec { audiences: Some(audiences), token: Some(token.to_owned()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let api = Api::<TokenReview>::all(self.client());
        let params = PostParams::default();
        let answer = self.0.guard.call(Call::TokenReview, caller, api.create(&params, &review)).await;
        let status = answer.and_then(|review| review.status.ok_or_else(|| Call::TokenReview.empty()));
        status.map_err(|failure| undecided("the token could not be reviewed", &failure))
    }

    /// A SubjectAccessReview.
    ///
    /// # Errors
    ///
    /// It could not be asked, or did not answer: undecided.
    pub async fn review_access(
        &self,
        spec: SubjectAccessReviewSpec,
        caller: CallerHash,
    ) -> Result<SubjectAccessReviewStatus, Denial> {
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let api = Api::<SubjectAccessReview>::all(self.client());
        let params = PostParams::default();
        let answer = self.0.guard.call(Call::SubjectAccessReview, caller, api.create(&params, &review)).await;
        let status = answer.and_then(|review| review.status.ok_or_else(|| Call::SubjectAccessReview.empty()));
        status.map_err(|failure| undecided("your access could not be looked up", &failure))
    }

    /// Who issues tokens, and with which keys (OpenID Connect Discovery 1.0, as Kubernetes serves it).
    ///
    /// # Errors
    ///
    /// It could not be asked, or did not answer: undecided.
    pub async fn discover(&self) -> Result<Discovered, Denial> {
        #[derive(Deserialize)]
        struct Configuration {
            issuer: String,
        }
        let failed = |failure| undecided("the keys of tokens could not be read", &failure);
        let Configuration { issuer } = self.get(ISSUER_PATH).await.map_err(failed)?;
        let keys: serde_json::Value = self.get(KEYS_PATH).await.map_err(failed)?;
        Ok(Discovered { issuer, jwks: keys.to_string() })
    }

    async fn get<T: DeserializeOwned>(&self, path: &'static str) -> Result<T, guard::CallFailure> {
        let call = async {
            let request = axum::http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
            self.client().request(request).await
        };
        self.0.guard.call(Call::Keys, 0, call).await
    }
}

/// What is said where a question to the API server has no answer: undecided.
pub(crate) fn unanswered(why: Unanswered) -> Denial {
    match why {
        Unanswered::Late => Denial::new(Code::UnavailableDeadline, "the API server could not be asked in time"),
        Unanswered::Busy(most) => Denial::new(Code::UnavailableApiServer, "the API server cannot be asked now")
            .detail(format!("{most} questions wait for it")),
        Unanswered::GivenUp => Denial::new(Code::UnavailableInternal, "the API server could not be asked"),
    }
}

fn undecided(message: &'static str, failure: &guard::CallFailure) -> Denial {
    let denial = Denial::new(Code::UnavailableApiServer, message).detail(failure.to_string());
    Denial { retry_after: failure.retry_after(), ..denial }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer").field("guard", &self.guard).finish_non_exhaustive()
    }
}
