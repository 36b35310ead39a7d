//! What kubectl would do on a cluster of our own.

use std::collections::BTreeSet;
use std::error::Error;
use std::time::{Duration, Instant};

use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use tiergate::manifest::KINDS;

pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The kinds of the Gateway API, Kuadrant and KServe.
pub const CRDS: &str = include_str!("crds.yaml");

/// How long a kind that was defined a moment ago may take until it is served.
const SERVED_WITHIN: Duration = Duration::from_secs(60);

pub fn request(method: &str, path: &str, body: Option<Value>) -> Result<axum::http::Request<Vec<u8>>> {
    let builder = axum::http::Request::builder().method(method).uri(path).header("content-type", "application/json");
    Ok(builder.body(body.map(|body| body.to_string().into_bytes()).unwrap_or_default())?)
}

/// A token of a ServiceAccount that is valid for an hour, as `kubectl create token` asks for it.
pub async fn token(client: &Client, namespace: &str, name: &str, audiences: &[&str]) -> Result<String> {
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
    let spec = json!({"audiences": audiences, "expirationSeconds": 3600});
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let answer: Value = client.request(request("POST", &path, Some(body))?).await?;
    let token = answer.pointer("/status/token").and_then(Value::as_str);
    Ok(token.ok_or_else(|| format!("{namespace}/{name}: no token in {answer}"))?.to_owned())
}

pub fn objects(yaml: &str) -> Result<Vec<Value>> {
    Ok(serde_saphyr::from_multiple::<Value>(yaml)?)
}

/// Server-side apply of every object, and of the namespaces that they are in.
pub async fn apply(client: &Client, yaml: &str) -> Result<()> {
    let objects = objects(yaml)?;
    let namespaces: BTreeSet<&str> = objects.iter().filter_map(|object| text(object, "/metadata/namespace")).collect();
    for name in namespaces {
        apply_object(client, &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).await?;
    }
    for object in &objects {
        apply_object(client, object).await?;
    }
    Ok(())
}

pub async fn apply_object(client: &Client, object: &Value) -> Result<()> {
    let (api, name) = api(client, object)?;
    let params = PatchParams::apply("by-hand").force();
    let started = Instant::now();
    loop {
        match api.patch(&name, &params, &Patch::Apply(object)).await {
            Ok(_) => return Ok(()),
            // A kind that was defined a moment ago is not served yet.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 429) && started.elapsed() < SERVED_WITHIN => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => return Err(format!("{name}: {error}").into()),
        }
    }
}

pub async fn delete(client: &Client, object: &Value) -> Result<()> {
    let (api, name) = api(client, object)?;
    api.delete(&name, &DeleteParams::default()).await.map_err(|error| format!("{name}: {error}"))?;
    Ok(())
}

pub fn api(client: &Client, object: &Value) -> Result<(Api<DynamicObject>, String)> {
    let field = |pointer| text(object, pointer).ok_or_else(|| format!("no `{pointer}` in {object}"));
    let (kind, version) = (field("/kind")?, field("/apiVersion")?);
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let known = KINDS.iter().find(|known| known.name == kind);
    let plural = known.map_or_else(|| plural(kind), |known| known.plural());
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), &plural);
    let api = match text(object, "/metadata/namespace") {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    Ok((api, field("/metadata/name")?.to_owned()))
}

/// Of a kind that tiergate does not read.
fn plural(kind: &str) -> String {
    let kind = kind.to_lowercase();
    match kind.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{kind}s"),
    }
}

fn text<'v>(value: &'v Value, pointer: &str) -> Option<&'v str> {
    value.pointer(pointer)?.as_str()
}
