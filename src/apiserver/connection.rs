//! The way to the API server: where it is, who we are, and whether it lets us in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

/// How long the first answer may take. A server that is away is waited for while we serve; one that does not know us is not.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// Why the cluster cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    #[error("kubeconfig `{}`: {}; {REMEDY}", path.display(), chain(error))]
    Kubeconfig { path: PathBuf, error: KubeconfigError },
    #[error("no --kubeconfig, not in a cluster, and the default kubeconfig (KUBECONFIG or ~/.kube/config): {}; {REMEDY}", chain(.0))]
    Default(KubeconfigError),
    #[error("the ServiceAccount of this pod: {}; {POD}", chain(.0))]
    InCluster(InClusterError),
    #[error("cannot make a connection to `{server}`: {}; {REMEDY}", reason(error))]
    Client { server: String, error: kube::Error },
    #[error(
        "`{server}` does not accept the credentials: {why}; a token or certificate that has expired has to be made anew"
    )]
    Unauthenticated { server: String, why: String },
    #[error("`{server}` does not show a certificate that is trusted: {why}; {CERTIFICATE}")]
    Certificate { server: String, why: String },
    #[error("`{server}` does not answer as an API server: {why}; {REMEDY}")]
    NoApiServer { server: String, why: String },
    #[error("names another API server, `{now}` in place of `{before}`: that needs a restart")]
    OtherServer { before: String, now: String },
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

const REMEDY: &str = "see `kubectl --kubeconfig FILE version`";
const POD: &str = "mount it (automountServiceAccountToken), or give --kubeconfig";
const CERTIFICATE: &str =
    "`certificate-authority` of the kubeconfig has to be the CA that signed it, and `server` a name in it";

// === impl KubernetesError ===

impl KubernetesError {
    /// What is wrong, for pages that others read: a parser's words may repeat what stands in the file, such as a token.
    pub(crate) fn without_contents(&self) -> String {
        match self {
            KubernetesError::Kubeconfig { error: KubeconfigError::Parse(_), .. }
            | KubernetesError::Default(KubeconfigError::Parse(_)) => {
                "is not a kubeconfig: `kubectl --kubeconfig FILE config view` says why".to_owned()
            }
            error => error.to_string(),
        }
    }
}

/// Who is asked, as whom.
///
/// # Errors
///
/// There is no configuration, or it cannot be used.
pub(crate) async fn config(kubeconfig: Option<&Path>) -> Result<Config, KubernetesError> {
    let mut config = find(kubeconfig).await?;
    // The client would ask a server that has too much to do fifteen times over, and keep whoever waits from knowing.
    config.default_retry = false;
    Ok(config)
}

async fn find(kubeconfig: Option<&Path>) -> Result<Config, KubernetesError> {
    let options = KubeConfigOptions::default();
    let Some(path) = kubeconfig else {
        return match std::env::var_os("KUBERNETES_SERVICE_HOST") {
            Some(_) => Config::incluster().map_err(KubernetesError::InCluster),
            None => Config::from_kubeconfig(&options).await.map_err(KubernetesError::Default),
        };
    };
    let failed = |error| KubernetesError::Kubeconfig { path: path.to_owned(), error };
    let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
    Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(failed)
}

/// The file that says who is asked, as whom.
pub(crate) fn file(kubeconfig: Option<&Path>) -> Option<PathBuf> {
    match (kubeconfig, std::env::var_os("KUBERNETES_SERVICE_HOST")) {
        (Some(path), _) => Some(path.to_owned()),
        (None, Some(_)) => Some(PathBuf::from(OWN_CERTIFICATE)),
        (None, None) => match std::env::var_os("KUBECONFIG") {
            // Several of them are merged, in the order of their names.
            Some(paths) => std::env::split_paths(&paths).find(|path| path.is_file()),
            None => std::env::home_dir().map(|home| home.join(".kube/config")),
        },
    }
}

/// `kubeconfig`, and the certificates and keys that it names. Not files of tokens: the client reads these anew once a minute.
pub(crate) fn files(kubeconfig: &Path) -> Vec<PathBuf> {
    let mut files = vec![kubeconfig.to_owned()];
    if kubeconfig == Path::new(OWN_CERTIFICATE) {
        return files;
    }
    let Ok(read) = Kubeconfig::read_from(kubeconfig) else { return files };
    files.extend(read.clusters.into_iter().filter_map(|named| named.cluster?.certificate_authority).map(PathBuf::from));
    for user in read.auth_infos.into_iter().filter_map(|named| named.auth_info) {
        files.extend([user.client_certificate, user.client_key].into_iter().flatten().map(PathBuf::from));
    }
    files
}

/// Where a Pod finds who signed the API server's certificate.
const OWN_CERTIFICATE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// Connects anew to `server`, with the credentials that there are now.
///
/// # Errors
///
/// They cannot be used, or are those of another server: its objects are other ones, and one would be taken for the other.
pub(crate) async fn again(kubeconfig: Option<&Path>, server: &str) -> Result<Client, KubernetesError> {
    let config = config(kubeconfig).await?;
    let now = name(&config);
    if now != server {
        return Err(KubernetesError::OtherServer { before: server.to_owned(), now });
    }
    connect(config).await
}

/// Connects, and looks whether we are let in. A server that does not answer is no error: it may come.
///
/// # Errors
///
/// It answers, and will not do.
pub(crate) async fn connect(config: Config) -> Result<Client, KubernetesError> {
    let server = name(&config);
    let client = client(config)?;
    let error = match tokio::time::timeout(FIRST_ANSWER, client.apiserver_version()).await {
        // Silence is not an answer.
        Ok(Ok(_)) | Err(_) => return Ok(client),
        Ok(Err(error)) => error,
    };
    let certificate = certificate_fault(&error);
    match (error, certificate) {
        (_, Some(why)) => Err(KubernetesError::Certificate { server, why }),
        (error @ kube::Error::SerdeError(_), _) => Err(KubernetesError::NoApiServer { server, why: reason(&error) }),
        (kube::Error::Api(status), _) if status.code == 404 => {
            Err(KubernetesError::NoApiServer { server, why: "404 for /version".to_owned() })
        }
        (error @ kube::Error::Auth(_), _) => Err(KubernetesError::Unauthenticated { server, why: reason(&error) }),
        (kube::Error::Api(status), _) if status.code == 401 => {
            Err(KubernetesError::Unauthenticated { server, why: status.message })
        }
        // What is not permitted is told of each watch.
        _ => Ok(client),
    }
}

/// A client, which nothing was asked yet.
///
/// # Errors
///
/// The certificates or keys of the configuration cannot be used.
pub(crate) fn client(config: Config) -> Result<Client, KubernetesError> {
    let server = name(&config);
    Client::try_from(config).map_err(|error| KubernetesError::Client { server, error })
}

/// The server, for messages.
pub(crate) fn name(config: &Config) -> String {
    config.cluster_url.to_string().trim_end_matches('/').to_owned()
}

/// What is wrong with the server's certificate, if that is what is wrong.
fn certificate_fault(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(rustls::Error::InvalidCertificate(why)) = error.downcast_ref() {
        return Some(why.to_string());
    }
    // An `io::Error` hides what it wraps from `source`.
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref());
    match (wrapped, error.source()) {
        (Some(wrapped), _) => certificate_fault(wrapped),
        (None, source) => certificate_fault(source?),
    }
}

/// An error with its reasons, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    // Further lines show the text around a fault of YAML.
    let line = |error: &dyn std::error::Error| error.to_string().lines().next().unwrap_or_default().to_owned();
    let mut text = line(error);
    let mut next = error.source();
    while let Some(error) = next {
        let reason = line(error);
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        next = error.source();
    }
    text
}

/// The innermost reason of `error`: the outer ones name layers of the client.
pub(crate) fn reason(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
