//! A folder that changes while it is served.

use std::fs;
use std::path::Path;

use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use tonic::transport::Channel;

use crate::support::{Folder, POSITIVE, Tiergate, get, root, token};
use crate::wire::{check_request, http, outcome};

/// The tour's manifests in a folder that may be changed.
pub(crate) fn copy() -> Folder {
    let folder = Folder::new();
    for entry in fs::read_dir(root("examples/manifests")).unwrap() {
        let path = entry.unwrap().path();
        folder.file(path.file_name().unwrap().to_str().unwrap(), &fs::read_to_string(&path).unwrap());
    }
    folder
}

pub(crate) fn replace(folder: &Path, file: &str, from: &str, to: &str) {
    let path = folder.join(file);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file} holds {from}");
    fs::write(path, text.replace(from, to)).unwrap();
}

/// One caller, asking again and again.
pub(crate) struct Caller {
    client: AuthorizationClient<Channel>,
    authorization: String,
}

impl Caller {
    pub(crate) async fn of(tiergate: &Tiergate, tier: &str, name: &str) -> Self {
        let token = token(&format!("maas-default-gateway-tier-{tier}"), name, &root("examples/manifests"));
        Self::with(tiergate, &token).await
    }

    pub(crate) async fn with(tiergate: &Tiergate, token: &str) -> Self {
        let channel = Channel::from_shared(format!("http://{}", tiergate.grpc)).unwrap().connect().await.unwrap();
        Caller { client: AuthorizationClient::new(channel), authorization: format!("Bearer {token}") }
    }

    pub(crate) async fn asks(&mut self, path: &str) -> (i32, String) {
        let request = check_request(http(path, Some(&self.authorization)));
        let response = self.client.check(request).await.unwrap().into_inner();
        let (status, code) = outcome(&response);
        (status, code.to_owned())
    }
}

const QWEN: &str = "/llm/qwen3/v1/chat/completions";
const GRANITE: &str = "/llm/granite/v1/chat/completions";

fn ok() -> (i32, String) {
    (200, String::new())
}

fn refused(status: i32, code: &str) -> (i32, String) {
    (status, code.to_owned())
}

#[tokio::test]
async fn an_edit_is_live_without_a_restart() {
    let folder = copy();
    let tiergate = Tiergate::start(&folder.0, POSITIVE);
    let mut premium = Caller::of(&tiergate, "premium", "jland-78028f6d").await;
    assert_eq!(premium.asks(QWEN).await, ok());
    // Revoked, for a caller whose identity is remembered.
    replace(&folder.0, "models.yaml", "[\"premium\",\"enterprise\"]", "[\"enterprise\"]");
    assert_eq!(tiergate.await_log("policy published")["policy.generation"], 2);
    assert_eq!(premium.asks(QWEN).await, refused(403, "TG-ACCESS-DENIED"));
    // A file of its own, and gone again.
    let added = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: own, namespace: llm}
rules: [{apiGroups: [serving.kserve.io], resources: [llminferenceservices], verbs: [post]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: own, namespace: llm}
subjects: [{kind: ServiceAccount, name: jland-78028f6d, namespace: maas-default-gateway-tier-premium}]
roleRef: {kind: Role, name: own, apiGroup: rbac.authorization.k8s.io}
";
    folder.file("own.yaml", added);
    tiergate.await_log("policy published");
    assert_eq!(premium.asks(QWEN).await, ok());
    fs::remove_file(folder.0.join("own.yaml")).unwrap();
    tiergate.await_log("policy published");
    assert_eq!(premium.asks(QWEN).await, refused(403, "TG-ACCESS-DENIED"));
    // A deleted ServiceAccount is refused at once.
    replace(&folder.0, "users.yaml", "jland-78028f6d", "jland-00000000");
    tiergate.await_log("policy published");
    assert_eq!(premium.asks(GRANITE).await, refused(401, "TG-TOKEN-SUBJECT-GONE"));
    assert_eq!(tiergate.metric("tiergate_policy_generation", "").await, 5);
}

#[tokio::test]
async fn use_is_kept_when_a_limit_changes() {
    let folder = copy();
    let tiergate = Tiergate::start(&folder.0, POSITIVE);
    let mut free = Caller::of(&tiergate, "free", "alice-12345678").await;
    for _ in 0..3 {
        assert_eq!(free.asks(GRANITE).await, ok());
    }
    replace(&folder.0, "limits.yaml", "limit: 5, window: 2m", "limit: 3, window: 2m");
    tiergate.await_log("policy published");
    assert_eq!(free.asks(GRANITE).await, refused(429, "TG-LIMIT-REQUESTS"));
    replace(&folder.0, "limits.yaml", "limit: 3, window: 2m", "limit: 0, window: 2m");
    tiergate.await_log("policy published");
    assert_eq!(free.asks(GRANITE).await, refused(429, "TG-LIMIT-REQUESTS"));
    replace(&folder.0, "limits.yaml", "limit: 0, window: 2m", "limit: 50, window: 2m");
    tiergate.await_log("policy published");
    assert_eq!(free.asks(GRANITE).await, ok());
}

#[tokio::test]
async fn an_object_in_error_keeps_its_last_good_version_and_the_rest_swaps() {
    let folder = copy();
    let tiergate = Tiergate::start(&folder.0, POSITIVE);
    let mut premium = Caller::of(&tiergate, "premium", "jland-78028f6d").await;
    for (file, from, to) in [
        ("auth-policy.yaml", "authorization:", "callbacks: {}\n    authorization:"),
        ("limits.yaml", "window: 2m", "window: 2d"),
        ("tiers.yaml", "level: 1\n", "levle: 1\n"),
        ("gateway.yaml", "listeners:", "listeners: []\n  listener:"),
        ("models.yaml", "[\"premium\",\"enterprise\"]", "[premium"),
    ] {
        let good = fs::read_to_string(folder.0.join(file)).unwrap();
        replace(&folder.0, file, from, to);
        // The rest of the folder swaps: another model loses its tiers, and gets them back.
        tiergate.await_log("policy published");
        assert_eq!(premium.asks(QWEN).await, ok(), "{file}: {to}");
        let problems = get(tiergate.http, "/problems").await.json();
        assert!(
            problems["problems"].as_array().unwrap().iter().any(|p| p["severity"] == "error"),
            "{file}: {problems}"
        );
        fs::write(folder.0.join(file), good).unwrap();
        tiergate.await_log("policy published");
        let problems = get(tiergate.http, "/problems").await.json();
        assert_eq!(problems["problems"], serde_json::json!([]), "{file}");
    }
}

#[tokio::test]
async fn a_file_that_is_not_yaml_keeps_its_objects_while_others_change() {
    let folder = copy();
    let tiergate = Tiergate::start(&folder.0, POSITIVE);
    let mut premium = Caller::of(&tiergate, "premium", "jland-78028f6d").await;
    replace(&folder.0, "users.yaml", "apiVersion: v1", "apiVersion: [v1");
    tiergate.await_log("policy published");
    assert_eq!(premium.asks(QWEN).await, ok());
    assert_eq!(get(tiergate.http, "/readyz").await.status, 200);
    replace(&folder.0, "models.yaml", "[\"premium\",\"enterprise\"]", "[\"enterprise\"]");
    tiergate.await_log("policy published");
    assert_eq!(premium.asks(QWEN).await, refused(403, "TG-ACCESS-DENIED"));
    assert_eq!(premium.asks(GRANITE).await, ok(), "its ServiceAccount is still known");
}

#[tokio::test]
async fn a_start_without_a_readable_folder_recovers_when_it_is_mended() {
    let folder = copy();
    replace(&folder.0, "tiers.yaml", "data:", "data: [");
    let tiergate = Tiergate::start(&folder.0, POSITIVE);
    let mut premium = Caller::of(&tiergate, "premium", "jland-78028f6d").await;
    assert_eq!(premium.asks(QWEN).await, refused(503, "TG-UNAVAILABLE-CONFIGURATION"));
    // Another file changes: what was never known is not known now.
    replace(&folder.0, "limits.yaml", "limit: 20, window: 2m", "limit: 21, window: 2m");
    tiergate.await_log("policy published");
    assert_eq!(premium.asks(QWEN).await, refused(503, "TG-UNAVAILABLE-CONFIGURATION"));
    replace(&folder.0, "tiers.yaml", "data: [", "data:");
    tiergate.await_log("policy published");
    assert_eq!(premium.asks(QWEN).await, ok());
}

#[tokio::test]
async fn a_mounted_config_map_is_swapped_by_its_link() {
    use std::os::unix::fs::symlink;
    let (mount, good) = (Folder::new(), copy());
    // As the kubelet does it: files are links through `..data`, which is itself a link that is swapped.
    let version = |name: &str| {
        let dir = mount.0.join(name);
        fs::create_dir(&dir).unwrap();
        for entry in fs::read_dir(&good.0).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, dir.join(path.file_name().unwrap())).unwrap();
        }
    };
    version("..1");
    symlink("..1", mount.0.join("..data")).unwrap();
    for entry in fs::read_dir(&good.0).unwrap() {
        let name = entry.unwrap().file_name();
        symlink(Path::new("..data").join(&name), mount.0.join(&name)).unwrap();
    }
    let tiergate = Tiergate::start(&mount.0, POSITIVE);
    let mut premium = Caller::of(&tiergate, "premium", "jland-78028f6d").await;
    assert_eq!(premium.asks(QWEN).await, ok());
    replace(&good.0, "models.yaml", "[\"premium\",\"enterprise\"]", "[\"enterprise\"]");
    version("..2");
    symlink("..2", mount.0.join("..data_tmp")).unwrap();
    fs::rename(mount.0.join("..data_tmp"), mount.0.join("..data")).unwrap();
    tiergate.await_log("policy published");
    assert_eq!(premium.asks(QWEN).await, refused(403, "TG-ACCESS-DENIED"));
}

/// A slip of one letter must not lift a limit.
#[tokio::test]
async fn a_misspelt_kind_or_version_lifts_nothing() {
    let folder = copy();
    let tiergate = Tiergate::start(&folder.0, POSITIVE);
    let mut free = Caller::of(&tiergate, "free", "alice-12345678").await;
    for _ in 0..5 {
        assert_eq!(free.asks(GRANITE).await, ok());
    }
    let limited = refused(429, "TG-LIMIT-REQUESTS");
    assert_eq!(free.asks(GRANITE).await, limited);
    for (file, from, to) in [
        ("limits.yaml", "kind: RateLimitPolicy", "kind: RateLimitPolcy"),
        ("limits.yaml", "kuadrant.io/v1\nkind: RateLimitPolicy", "ratelimit.kuadrant.io/v1\nkind: RateLimitPolicy"),
        ("limits.yaml", "kind: RateLimitPolicy\n", ""),
        ("gateway.yaml", "gateway.networking.k8s.io/v1\nkind: Gateway", "gateway.networking.k8s.io/v9\nkind: Gateway"),
    ] {
        let good = fs::read_to_string(folder.0.join(file)).unwrap();
        replace(&folder.0, file, from, to);
        tiergate.await_log("policy published");
        assert_eq!(free.asks(GRANITE).await, limited, "{file}: {to}");
        fs::write(folder.0.join(file), good).unwrap();
        tiergate.await_log("policy published");
    }
}

#[tokio::test]
async fn a_service_account_that_is_added_is_accepted_at_once() {
    let folder = copy();
    let users = fs::read_to_string(folder.0.join("users.yaml")).unwrap();
    fs::write(folder.0.join("users.yaml"), users.replace("jland-78028f6d", "jland-00000000")).unwrap();
    let tiergate = Tiergate::start(&folder.0, POSITIVE);
    let mut premium = Caller::of(&tiergate, "premium", "jland-78028f6d").await;
    assert_eq!(premium.asks(QWEN).await, refused(401, "TG-TOKEN-SUBJECT-GONE"));
    fs::write(folder.0.join("users.yaml"), users).unwrap();
    tiergate.await_log("policy published");
    assert_eq!(premium.asks(QWEN).await, ok());
}

#[tokio::test]
async fn a_pipe_named_like_a_manifest_stops_nothing() {
    let folder = copy();
    let tiergate = Tiergate::start(&folder.0, POSITIVE);
    let mut premium = Caller::of(&tiergate, "premium", "jland-78028f6d").await;
    assert_eq!(premium.asks(QWEN).await, ok());
    let made = std::process::Command::new("mkfifo").arg(folder.0.join("z.yaml")).status().unwrap();
    assert!(made.success());
    tiergate.await_log("policy published");
    replace(&folder.0, "models.yaml", "[\"premium\",\"enterprise\"]", "[\"enterprise\"]");
    tiergate.await_log("policy published");
    assert_eq!(premium.asks(QWEN).await, refused(403, "TG-ACCESS-DENIED"));
}
