//! Where tiers come from: a service that is asked, and a mapping that changes.

mod changes;
mod gone;
mod service;

use crate::support::Folder;

/// Everybody may call the models in `llm`, whatever their tier.
const ACCESS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: all, namespace: llm}
rules: [{apiGroups: [serving.kserve.io], resources: [llminferenceservices], verbs: [post]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: all, namespace: llm}
subjects: [{kind: Group, name: 'system:authenticated', apiGroup: rbac.authorization.k8s.io}]
roleRef: {kind: Role, name: all, apiGroup: rbac.authorization.k8s.io}
";
const GRANITE: &str = "/llm/granite/v1/chat/completions";

/// The tour's manifests, with access for everybody.
fn open() -> Folder {
    let folder = crate::reload::copy();
    folder.file("access.yaml", ACCESS);
    folder
}

/// The `Authorization` of a tier's user.
fn bearer(folder: &Folder, tier: &str, name: &str) -> String {
    format!("Bearer {}", crate::support::token(&format!("maas-default-gateway-tier-{tier}"), name, &folder.0))
}
