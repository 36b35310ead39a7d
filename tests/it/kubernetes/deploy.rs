//! What deploy/ has, on a real API server.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kube::Client;
use kube::api::{Patch, PatchParams, PostParams};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Caller, ok, refused};
use crate::cluster::{CRDS, Cluster, api, objects, token};
use crate::support::{PATIENCE, Tiergate, await_ready, get, root};

/// What of kustomize the base uses.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Kustomization {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    resources: Vec<String>,
    labels: Vec<Labels>,
    images: Vec<Image>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Labels {
    pairs: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Image {
    name: String,
    new_tag: String,
}

/// The objects of deploy/base, as `kubectl kustomize` prints them.
fn base() -> Vec<Value> {
    let read = |file: &str| std::fs::read_to_string(root("deploy/base").join(file)).unwrap();
    let kustomization: Kustomization = serde_saphyr::from_str(&read("kustomization.yaml")).unwrap();
    let mut base: Vec<Value> = kustomization.resources.iter().flat_map(|file| objects(&read(file))).collect();
    for object in &mut base {
        for (name, value) in kustomization.labels.iter().flat_map(|labels| &labels.pairs) {
            object["metadata"]["labels"][name] = json!(value);
        }
        for container in
            object.pointer_mut("/spec/template/spec/containers").and_then(Value::as_array_mut).into_iter().flatten()
        {
            let image = kustomization.images.iter().find(|image| container["image"] == *image.name).unwrap();
            container["image"] = json!(format!("{}:{}", image.name, image.new_tag));
        }
    }
    base
}

fn of<'o>(objects: &'o [Value], kind: &str) -> &'o Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap()
}

/// Server-side apply, with strict validation: a field that the API server does not know is an error.
async fn apply_strictly(client: &Client, object: &Value) {
    let (api, name) = api(client, object);
    let params = PatchParams::apply("tests").force().validation_strict();
    let started = std::time::Instant::now();
    while let Err(error) = api.patch(&name, &params, &Patch::Apply(object)).await {
        // A kind that was defined a moment ago is not served yet.
        let passing = matches!(&error, kube::Error::Api(status) if status.code == 404);
        assert!(passing && started.elapsed() < PATIENCE, "{} {name}: {error}", object["kind"]);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// The definitions that clusters have, where they are at hand, and those of the tests for the rest.
fn definitions() -> Vec<Value> {
    let mut real = Vec::new();
    for entry in std::fs::read_dir(root("../shared/crds")).into_iter().flatten() {
        let path: PathBuf = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            real.extend(objects(&std::fs::read_to_string(path).unwrap()));
        }
    }
    let mut definitions = objects(CRDS);
    for definition in &mut definitions {
        let same = |other: &&Value| {
            other["kind"] == "CustomResourceDefinition" && other["metadata"]["name"] == definition["metadata"]["name"]
        };
        if let Some(real) = real.iter().find(same) {
            println!("{}: the real definition", definition["metadata"]["name"]);
            *definition = real.clone();
            // What the API server fills in itself.
            definition.as_object_mut().unwrap().remove("status");
        }
    }
    definitions
}

async fn cluster() -> (Cluster, Client) {
    let cluster = Cluster::start();
    let client = cluster.client().await;
    for definition in definitions() {
        apply_strictly(&client, &definition).await;
    }
    let mut tour = Vec::new();
    for entry in std::fs::read_dir(root("examples/manifests")).unwrap() {
        tour.extend(objects(&std::fs::read_to_string(entry.unwrap().path()).unwrap()));
    }
    let base = base();
    let all = || tour.iter().chain(&base);
    let mut namespaces: Vec<&str> = all().filter_map(|object| object["metadata"]["namespace"].as_str()).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    for name in namespaces {
        apply_strictly(&client, &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).await;
    }
    for object in all() {
        apply_strictly(&client, object).await;
    }
    (cluster, client)
}

/// tiergate as the Deployment starts it, but for its ports and for how it reaches the cluster.
async fn deployed(cluster: &Cluster, client: &Client) -> Tiergate {
    let token = token(client, "tiergate-system", "tiergate", &[]).await;
    let kubeconfig = cluster.kubeconfig("deployed", json!({"token": token}));
    let base = base();
    let container = &of(&base, "Deployment")["spec"]["template"]["spec"]["containers"][0];
    let args: Vec<&str> = container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
    assert_eq!(args[..2], ["serve", "--kubernetes"]);
    let listens = |arg: &&str| arg.starts_with("--listen-");
    assert_eq!(args.iter().filter(|arg| listens(arg)).count(), 3);
    let of_pod = state_file(&base);
    // Each pod has a volume of its own here.
    let name = format!("state-{}", uuid::Uuid::new_v4());
    let state = format!("--state={}", kubeconfig.with_file_name(name).display());
    let here = |arg| if arg == of_pod { state.as_str() } else { arg };
    let own: Vec<&str> = args[2..].iter().copied().filter(|arg| !listens(arg)).map(here).collect();
    Tiergate::start_on(&kubeconfig, &own)
}

/// The flag of the state file, which is on a volume that outlives the pod, and that no other pod has at the same time.
fn state_file(base: &[Value]) -> String {
    let spec = &of(base, "Deployment")["spec"];
    assert_eq!((&spec["replicas"], &spec["strategy"]["type"]), (&json!(1), &json!("Recreate")));
    let claim = of(base, "PersistentVolumeClaim");
    assert_eq!(claim["spec"]["accessModes"], json!(["ReadWriteOnce"]));
    let pod = &spec["template"]["spec"];
    let (volume, mount) = (&pod["volumes"][0], &pod["containers"][0]["volumeMounts"][0]);
    assert_eq!(volume["persistentVolumeClaim"]["claimName"], claim["metadata"]["name"]);
    assert_eq!(volume["name"], mount["name"]);
    format!("--state={}/state", mount["mountPath"].as_str().unwrap())
}

/// Callers of a model that a RoleBinding grants: to the enterprise tier, and not to the free one. Namespace and name.
const ENTERPRISE: (&str, &str) = ("maas-default-gateway-tier-enterprise", "ivan-e85d40b9");
const FREE: (&str, &str) = ("maas-default-gateway-tier-free", "alice-12345678");

async fn ask(tiergate: &Tiergate, client: &Client, (namespace, name): (&str, &str)) -> (i32, String) {
    let token = token(client, namespace, name, &["maas-default-gateway-sa"]).await;
    Caller::with(tiergate, &token).await.asks("/lab/phi/v1/chat/completions").await
}

#[tokio::test]
async fn what_deploy_has_is_accepted_and_works() {
    let (cluster, client) = cluster().await;
    let tiergate = deployed(&cluster, &client).await;
    await_ready(&tiergate).await;
    let problems = get(tiergate.http, "/problems").await.json();
    let cluster_wide = |problem: &&Value| problem["object"].is_null();
    assert_eq!(problems["problems"].as_array().unwrap().iter().find(cluster_wide), None);
    let base = base();
    let container = &of(&base, "Deployment")["spec"]["template"]["spec"]["containers"][0];
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let get_of = &container[probe]["httpGet"];
        assert_eq!(get_of["port"], "http", "{probe}");
        assert_eq!(get(tiergate.http, get_of["path"].as_str().unwrap()).await.status, 200, "{probe}");
    }
    let denied = refused(403, "TG-ACCESS-DENIED");
    for (caller, expected) in [(ENTERPRISE, ok()), (FREE, denied)] {
        assert_eq!(ask(&tiergate, &client, caller).await, expected, "{caller:?}");
    }

    // Clusters permit everybody to read the keys; this one does not any more.
    let discovery = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "system:service-account-issuer-discovery"},
    });
    crate::cluster::delete(&client, &discovery).await;
    // What the watches need, start.rs tries; what requests need: without it they are undecided, and it is named.
    let role = of(&base, "ClusterRole");
    for (resource, caller) in
        [("tokenreviews", ENTERPRISE), ("subjectaccessreviews", FREE), ("/openid/v1/jwks", ENTERPRISE)]
    {
        let mut less = role.clone();
        let rules = less["rules"].as_array_mut().unwrap();
        let before = rules.len();
        rules.retain(|rule| !rule.to_string().contains(resource));
        assert_eq!(rules.len(), before - 1, "{resource}");
        apply_strictly(&client, &less).await;
        let tiergate = deployed(&cluster, &client).await;
        await_ready(&tiergate).await;
        assert_eq!(ask(&tiergate, &client, caller).await, refused(503, "TG-UNAVAILABLE-API-SERVER"), "{resource}");
        let told = tiergate.await_log("could not be").to_string();
        assert!(told.contains("add to the ClusterRole") && told.contains(resource), "{told}");
        apply_strictly(&client, role).await;
    }

    // The namespace is restricted (Pod Security Standards): the pod is let in, and would not be as root.
    let template = &of(&base, "Deployment")["spec"]["template"];
    let mut pod =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "as-it-is", "namespace": "tiergate-system"}});
    pod["metadata"]["labels"] = template["metadata"]["labels"].clone();
    pod["spec"] = template["spec"].clone();
    let (pods, _) = api(&client, &pod);
    let create = |pod: Value| {
        let pods = pods.clone();
        async move { pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await }
    };
    create(pod.clone()).await.unwrap();
    for (what, pointer, value) in [
        ("as root", "/spec/securityContext/runAsUser", json!(0)),
        ("capable", "/spec/containers/0/securityContext/capabilities/drop", json!([])),
        ("escalating", "/spec/containers/0/securityContext/allowPrivilegeEscalation", json!(true)),
        ("unconfined", "/spec/securityContext/seccompProfile/type", json!("Unconfined")),
    ] {
        let mut other = pod.clone();
        other["metadata"]["name"] = json!(what.replace(' ', "-"));
        *other.pointer_mut(pointer).unwrap() = value;
        let refusal = create(other).await.unwrap_err().to_string();
        assert!(refusal.contains("violates PodSecurity \"restricted"), "{what}: {refusal}");
    }
}

#[test]
fn the_deployment_fits_the_binary() {
    use clap::Parser as _;
    let base = base();
    let spec = &of(&base, "Deployment")["spec"]["template"]["spec"];
    let container = &spec["containers"][0];
    let args = container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap());
    let cli = tiergate::args::Cli::try_parse_from(std::iter::once("tiergate").chain(args)).unwrap();
    let tiergate::args::Command::Serve(serve) = cli.command else { panic!("it serves") };
    let grace = spec["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(grace > (serve.drain_delay + serve.drain_timeout).as_secs());
    let ports = container["ports"].as_array().unwrap();
    let port = |name: &str| ports.iter().find(|port| port["name"] == name).unwrap()["containerPort"].as_u64().unwrap();
    assert_eq!((port("grpc"), port("http")), (serve.listen_grpc.port().into(), serve.listen_http.port().into()));
    assert!(serve.listen_grpc.ip().is_unspecified() && serve.listen_http.ip().is_unspecified());
    assert!(serve.listen_admin.0.unwrap().ip().is_loopback());
    for port in of(&base, "Service")["spec"]["ports"].as_array().unwrap() {
        assert!(
            ports.iter().any(|other| other["name"] == port["targetPort"] && other["containerPort"] == port["port"])
        );
    }
}

/// What is built is what is there: nobody here has Docker.
#[test]
fn the_dockerfile_copies_what_there_is_and_what_the_build_needs() {
    let dockerfile = std::fs::read_to_string(root("Dockerfile")).unwrap();
    let ignored = std::fs::read_to_string(root(".dockerignore")).unwrap();
    let sources =
        dockerfile.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|line| !line.starts_with("--from"));
    let mut copied = Vec::new();
    for line in sources {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        words.pop();
        for source in words {
            assert!(root(source).exists(), "{source}");
            assert!(ignored.lines().any(|line| line == format!("!{source}")), "{source} is ignored");
            copied.push(source);
        }
    }
    // What the binary includes from outside `src`.
    let mut folders = vec![root("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let is_test = |part: std::path::Component<'_>| {
                ["tests", "tests.rs", "test_util"].iter().any(|name| part.as_os_str() == *name)
            };
            let of_tests = path.components().any(is_test);
            let text = std::fs::read_to_string(&path).unwrap();
            for included in text.split("include_str!(\"").skip(1).filter(|_| !of_tests) {
                let included = included.split('"').next().unwrap().trim_start_matches("../");
                assert!(copied.contains(&included), "{}: {included} is not copied", path.display());
            }
        }
    }
    let toolchain = std::fs::read_to_string(root("Cargo.toml")).unwrap();
    let version = toolchain.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    assert!(dockerfile.contains(&format!("FROM rust:{version}-")), "{version}");
}
