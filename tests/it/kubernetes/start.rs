//! What keeps tiergate from watching, and what it says about it.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{World, ok, problems_of, refused, rules, rules_without};
use crate::cluster::{Cluster, SHARED};
use crate::support::{Folder, PATIENCE, TIERGATE, await_page, await_ready, get};

/// Its last words, which it has to say before it serves.
fn does_not_start(arguments: &[&str]) -> String {
    let mut command = Command::new(TIERGATE);
    command.args(["serve", "--jwks"]).arg(SHARED.jwks()).args([
        "--listen-grpc",
        "127.0.0.1:0",
        "--listen-http",
        "127.0.0.1:0",
    ]);
    // None of the surroundings'.
    command.env_remove("KUBECONFIG").env_remove("KUBERNETES_SERVICE_HOST").env("HOME", "/nowhere");
    let mut child = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("{arguments:?}: it serves");
        }
        // The standard library has no wait with a bound.
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    // An argument that is no file is told as every argument is, with the way to the help.
    let (code, line) = match said.strip_suffix("\n\nFor more information, try '--help'.\n") {
        Some(argument) => (2, argument.lines().last().unwrap()),
        None => (64, said.lines().last().unwrap()),
    };
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    line.to_owned()
}

#[test]
fn a_kubeconfig_that_cannot_be_used_is_told_at_the_start() {
    let folder = Folder::new();
    let on = |path: &std::path::Path| does_not_start(&["--kubernetes", "--kubeconfig", path.to_str().unwrap()]);
    let user = || json!({"token": "not-one-of-the-cluster"});
    let cluster: &Cluster = &SHARED;
    let server = cluster.server();
    for (what, path, expected) in [
        ("no file", folder.0.join("none"), "has to be a file: No such file"),
        ("a folder", folder.0.clone(), "has to be a file"),
        ("no YAML", folder.file("bad", "a: [b"), "failed to parse kubeconfig YAML"),
        ("no context", folder.file("empty", "apiVersion: v1\nkind: Config\n"), "current context"),
        ("a token of nobody", cluster.kubeconfig("nobody", user()), "does not accept the credentials"),
        (
            "another CA",
            cluster.kubeconfig_of("strange", server, "strange.crt", user()),
            "does not show a certificate that is trusted",
        ),
        ("no CA", cluster.kubeconfig_of("no-ca", server, "none.crt", user()), "none.crt"),
        ("no URL", cluster.kubeconfig_of("no-url", "https://", "ca.crt", user()), "kubectl"),
    ] {
        let said = on(&path);
        let start = if expected.contains("has to be") { "error: invalid value" } else { "tiergate: " };
        assert!(said.starts_with(start) && said.contains(expected), "{what}: {said}");
    }
    let said = does_not_start(&["--kubernetes"]);
    assert!(said.contains("no --kubeconfig, not in a cluster, and the default kubeconfig"), "{said}");
    for arguments in [&[][..], &["--kubernetes", "--manifests", "."]] {
        assert_eq!(
            does_not_start(arguments),
            "tiergate: give one source of the policy: --manifests DIR or --kubernetes"
        );
    }
}

#[tokio::test]
async fn an_expired_token_is_told_at_the_start() {
    let world = World::new(&SHARED, "expired").await;
    let claims = json!({
        "iss": "https://kubernetes.default.svc", "aud": ["https://kubernetes.default.svc"], "exp": 1_600_000_000, "iat": 1_500_000_000,
        "nbf": 1_500_000_000, "sub": "system:serviceaccount:expired-tier-free:alice-12345678",
    });
    let key = std::fs::read(SHARED.folder.join("tokens.key")).unwrap();
    let key = jsonwebtoken::EncodingKey::from_ec_pem(&key).unwrap();
    let token =
        jsonwebtoken::encode(&jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256), &claims, &key).unwrap();
    let kubeconfig = SHARED.kubeconfig("expired", json!({"token": token}));
    let said = does_not_start(&["--kubernetes", "--kubeconfig", kubeconfig.to_str().unwrap()]);
    assert!(said.contains("does not accept the credentials: Unauthorized"), "{said}");
    drop(world);
}

#[tokio::test]
async fn a_permission_that_is_missing_is_named_and_the_rest_works() {
    let world = World::generous(&SHARED, "forbidden").await;
    let (qwen, phi) = (world.path("llm", "qwen3"), world.path("lab", "phi"));
    let start = async |resource: &str| {
        let kubeconfig = world.kubeconfig(&SHARED, resource, rules_without(resource)).await;
        world.start(&SHARED, &kubeconfig, &[])
    };
    // Who is granted what by RBAC is not known: who has no other grant is not told that there is none.
    let tiergate = start("rolebindings").await;
    await_ready(&tiergate).await;
    let mut premium = world.caller(&tiergate, "premium", "jland-78028f6d").await;
    assert_eq!(premium.asks(&qwen).await, ok(), "granted by the annotation");
    assert_eq!(premium.asks(&phi).await, refused(503, "TG-UNAVAILABLE-CONFIGURATION"));
    let problems = problems_of(&tiergate, "rolebindings.rbac.authorization.k8s.io").await;
    let rule =
        "{apiGroups: [\"rbac.authorization.k8s.io\"], resources: [\"rolebindings\"], verbs: [\"list\", \"watch\"]}";
    let remedy = format!("add to the ClusterRole of tiergate's ServiceAccount: {rule}");
    assert_eq!(problems.len(), 1);
    assert_eq!(
        (problems[0]["severity"].as_str(), problems[0]["remedy"].as_str()),
        (Some("error"), Some(remedy.as_str()))
    );
    // Noticed when it is granted.
    let mut role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "forbidden-rolebindings"}});
    role["rules"] = super::rules();
    crate::cluster::apply_object(&world.client, &role).await;
    premium.until(&phi, &refused(403, "TG-ACCESS-DENIED")).await;
    await_page(tiergate.http, "/problems", |_, page| !page.contains("may not be watched")).await;

    // Without a grant from it, nobody misses the annotation.
    let tiergate = start("llminferenceservices").await;
    await_ready(&tiergate).await;
    let mut enterprise = world.caller(&tiergate, "enterprise", "ivan-e85d40b9").await;
    assert_eq!(enterprise.asks(&phi).await, ok());

    // What guards, or without which nobody is known, opens nothing.
    for resource in ["ratelimitpolicies", "authpolicies", "httproutes", "gateways", "serviceaccounts"] {
        let tiergate = start(resource).await;
        let page =
            await_page(tiergate.http, "/readyz", |_, page| page.contains("(no permission)") && !page.contains(','))
                .await;
        assert!(page.contains(resource), "{page}");
        let mut premium = world.caller(&tiergate, "premium", "jland-78028f6d").await;
        assert_eq!(premium.asks(&qwen).await, refused(503, "TG-UNAVAILABLE-CONFIGURATION"), "{resource}");
        assert_eq!(get(tiergate.http, "/livez").await.status, 200);
    }
}

/// As a Pod's token is: the kubelet writes a new one into its file before the old one expires. The client looks every 50 seconds.
#[tokio::test]
#[ignore = "takes a minute: make soak"]
async fn a_token_that_is_replaced_in_its_file_is_used() {
    let world = World::generous(&SHARED, "rotated").await;
    let mut tokens = Vec::new();
    for name in ["before", "after"] {
        let kubeconfig = world.kubeconfig(&SHARED, name, rules()).await;
        let text = std::fs::read_to_string(kubeconfig).unwrap();
        let config: serde_json::Value = serde_json::from_str(&text).unwrap();
        tokens.push(config["users"][0]["user"]["token"].as_str().unwrap().to_owned());
    }
    let folder = Folder::new();
    folder.file("token", &tokens[0]);
    let kubeconfig = SHARED.kubeconfig("rotated-file", json!({"tokenFile": folder.0.join("token")}));
    let tiergate = world.start(&SHARED, &kubeconfig, &[]);
    await_ready(&tiergate).await;
    let calls =
        |name: &str| SHARED.calls(|user| user == format!("system:serviceaccount:rotated-{name}:tiergate")).len();
    assert!(calls("before") > 0 && calls("after") == 0);
    folder.file("token", &tokens[1]);
    let started = Instant::now();
    while calls("after") == 0 {
        assert!(started.elapsed() < Duration::from_secs(120), "the new token is used");
        // The audit log is a file, and nothing tells of its lines.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    println!("a new token in its file is used after {:.0?}", started.elapsed());
    assert_eq!(get(tiergate.http, "/readyz").await.status, 200);
}
