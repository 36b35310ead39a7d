mod gateways;
mod models;
mod rbac;

use super::*;
use crate::rules::Subject;

fn rbac(kind: &str, rest: &str) -> String {
    format!("apiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata: {{name: p, namespace: ns}}\n{rest}")
}

fn gateway(spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: gw, namespace: ns}}\nspec: {spec}\n"
    )
}

fn listener(fields: &str) -> String {
    gateway(&format!("{{gatewayClassName: c, listeners: [{{name: http, port: 80, protocol: HTTP{fields}}}]}}"))
}

fn route(spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: ns}}\nspec:\n  \
         parentRefs: [{{name: gw}}]\n{}",
        indent(spec, 2)
    )
}

fn matching(matches: &str) -> String {
    route(&format!("rules: [{{matches: [{matches}]}}]\n"))
}

fn model(annotations: &str) -> String {
    format!(
        "apiVersion: serving.kserve.io/v1alpha1\nkind: LLMInferenceService\nmetadata:\n  name: m\n  namespace: ns\n{annotations}"
    )
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}
