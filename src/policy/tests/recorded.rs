//! What a real API server answered to the same objects: `make rbac-cases` records it.

use serde::Deserialize;
use serde_json::Value;

use super::*;
use crate::access::AccessQuery;

#[derive(Deserialize)]
struct Recording {
    worlds: Vec<RecordedWorld>,
}

#[derive(Deserialize)]
struct RecordedWorld {
    name: String,
    /// A file of manifests, from the project's root.
    file: Option<String>,
    objects: Vec<RecordedObject>,
    requests: Vec<RecordedRequest>,
}

#[derive(Deserialize)]
struct RecordedObject {
    /// Why the API server did not take it.
    refused: Option<String>,
    manifest: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RecordedRequest {
    user: String,
    groups: Vec<String>,
    verb: String,
    group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
    allowed: bool,
}

fn in_project(path: &str) -> String {
    std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn recording() -> Recording {
    serde_json::from_str(&in_project("tests/data/rbac.json")).unwrap()
}

impl RecordedWorld {
    /// The folder of this world, with a file for each object.
    fn compile(&self) -> Policy {
        let objects = self.objects.iter().enumerate();
        let mut files: Vec<_> = objects.map(|(i, object)| (file(i), object.manifest.to_string())).collect();
        files.extend(self.file.iter().map(|path| (path.clone(), in_project(path))));
        crate::test_util::compile_files(&files, &Options::default())
    }
}

fn file(i: usize) -> String {
    format!("{i}.json")
}

impl RecordedRequest {
    fn allowed_by(&self, policy: &Policy) -> bool {
        let groups: Vec<&str> = self.groups.iter().map(String::as_str).collect();
        let query = AccessQuery {
            user: &self.user,
            groups: &groups,
            verb: &self.verb,
            group: &self.group,
            resource: &self.resource,
            subresource: &self.subresource,
            namespace: &self.namespace,
            name: &self.name,
        };
        policy.rbac.authorize(&query).is_some()
    }
}

#[test]
fn the_evaluator_answers_as_the_api_server_did() {
    let (mut asked, mut disagreements) = (0, Vec::new());
    for world in recording().worlds {
        let policy = world.compile();
        for request in &world.requests {
            asked += 1;
            if request.allowed_by(&policy) != request.allowed {
                disagreements.push(format!("{}: {request:?}", world.name));
            }
        }
    }
    assert!(asked >= 300, "only {asked} cases");
    assert!(disagreements.is_empty(), "{} of {asked}:\n{}", disagreements.len(), disagreements.join("\n"));
}

#[test]
fn objects_are_in_error_where_the_api_server_refuses_them() {
    let mut disagreements = Vec::new();
    for world in recording().worlds {
        let policy = world.compile();
        for (i, object) in world.objects.iter().enumerate() {
            let name = file(i);
            let mut errors = policy.problems.iter().filter(|p| p.is_error() && *p.place.file == *name);
            let error = errors.next();
            if error.is_some() != object.refused.is_some() {
                let (refused, manifest) = (&object.refused, &object.manifest);
                disagreements.push(format!("{}: {refused:?}, here {error:?}: {manifest}", world.name));
            }
        }
    }
    assert!(disagreements.is_empty(), "{}", disagreements.join("\n"));
}
