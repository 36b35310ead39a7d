//! Tells objects about themselves: conditions of policies, and Events of what a person has to mend.
//!
//! By server-side apply under the name `tiergate`, without force: what another controller owns stays its own. Replicas write the same, so whoever
//! comes second finds nothing to write. Nothing waits for it.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::time::Duration;

use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};
use siphasher::sip::SipHasher13;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::event::About;
use crate::backoff::Backoff;
use crate::manifest::KINDS;
use crate::policy::{Policy, StatusCondition, say};
use crate::problem::{ObjectName, Problem};

/// What objects are to be told.
#[derive(Clone, Debug, Default)]
pub(super) struct News {
    statuses: Vec<Status>,
    events: Vec<Event>,
}

/// The conditions of one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Status {
    object: ObjectName,
    about: About,
    conditions: [StatusCondition; 2],
}

/// Something that a person has to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Event {
    object: ObjectName,
    about: About,
    /// Of the finding, as Events write it: `ExpressionInvalid`.
    reason: String,
    note: String,
}

/// Writes what is new, for as long as somebody says what that is.
pub(super) struct Writer {
    client: Client,
    /// What each object was told last.
    told: HashMap<ObjectName, Status>,
    /// The Events that were sent, by name.
    sent: HashSet<String>,
    /// Objects whose conditions are another controller's.
    foreign: HashSet<ObjectName>,
    /// What it may not write, and when it tries again.
    forbidden: HashMap<WriteKind, Instant>,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum WriteKind {
    Statuses,
    Events,
}

/// What became of one object.
enum WriteOutcome {
    Done,
    Foreign(String),
}

/// Who writes.
const MANAGER: &str = "tiergate";
/// How long a call may take.
const CALL: Duration = Duration::from_secs(10);
/// Between two writes: a hundred policies take five seconds, and the API server does not notice.
const PACE: Duration = Duration::from_millis(50);
/// How long what failed waits: at first, and at most.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The API server takes no longer note (events.k8s.io/v1).
const NOTE: usize = 1_024;

// === impl News ===

impl News {
    /// What `policy` says to objects, of which the store knows what they are.
    pub(super) fn of(policy: &Policy, mut about: impl FnMut(&ObjectName) -> Option<About>) -> Self {
        let mut statuses: Vec<Status> = (policy.conditions().into_iter())
            .filter_map(|(object, conditions)| {
                Some(Status { object: object.clone(), about: about(object)?, conditions })
            })
            .collect();
        statuses.sort_by(|a, b| a.object.cmp(&b.object));
        let errors = policy.problems.iter().filter(|problem| problem.is_error());
        let event = |problem: &Problem| {
            let object = problem.object.clone()?;
            let note = say(problem).chars().take(NOTE / 4).collect();
            Some(Event { about: about(&object)?, object, reason: reason(problem.code.as_str()), note })
        };
        News { statuses, events: errors.filter_map(event).collect() }
    }
}

/// `expression-invalid` as `ExpressionInvalid`.
fn reason(code: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    };
    code.split('-').map(word).collect()
}

// === impl Writer ===

impl Writer {
    pub(super) fn new(client: Client) -> Self {
        Writer {
            client,
            told: HashMap::new(),
            sent: HashSet::new(),
            foreign: HashSet::new(),
            forbidden: HashMap::new(),
        }
    }

    pub(super) async fn run(mut self, mut news: watch::Receiver<News>) {
        let mut backoff = Backoff::new(PAUSE, LONGEST_PAUSE);
        while news.changed().await.is_ok() {
            loop {
                let now = news.borrow_and_update().clone();
                if self.write(&now).await {
                    backoff.reset();
                    break;
                }
                // The newest is written, whatever failed.
                tokio::select! {
                    () = backoff.wait() => {}
                    changed = news.changed() => if changed.is_err() { return },
                }
                news.mark_changed();
            }
        }
    }

    /// Whether all of it was written.
    async fn write(&mut self, news: &News) -> bool {
        let statuses = self.write_statuses(&news.statuses).await;
        let events = self.write_events(&news.events).await;
        statuses && events
    }

    /// Whether all of them were written.
    async fn write_statuses(&mut self, statuses: &[Status]) -> bool {
        let mut all = true;
        for status in statuses {
            if self.told.get(&status.object) == Some(status) {
                continue;
            }
            if self.is_forbidden(WriteKind::Statuses) {
                all = false;
                break;
            }
            match self.tell(status).await {
                Ok(outcome) => self.note(status, outcome),
                Err(error) => all &= self.failed(&error, WriteKind::Statuses),
            }
            sleep(PACE).await;
        }
        let objects: HashSet<&ObjectName> = statuses.iter().map(|status| &status.object).collect();
        self.told.retain(|object, _| objects.contains(object));
        all
    }

    /// Notes that an object was told, and says once if another controller tells it.
    fn note(&mut self, status: &Status, outcome: WriteOutcome) {
        if let WriteOutcome::Foreign(manager) = outcome
            && self.foreign.insert(status.object.clone())
        {
            let object = status.object.to_string();
            tracing::info!(object, manager, "its status is another controller's, and is left alone");
        }
        self.told.insert(status.object.clone(), status.clone());
    }

    /// Whether all of them were sent.
    async fn write_events(&mut self, events: &[Event]) -> bool {
        let (mut all, mut names) = (true, HashSet::new());
        for event in events {
            let name = event.name();
            names.insert(name.clone());
            if self.sent.contains(&name) {
                continue;
            }
            if self.is_forbidden(WriteKind::Events) {
                all = false;
                continue;
            }
            match self.send(event, &name).await {
                Ok(()) => drop(self.sent.insert(name)),
                Err(error) => all &= self.failed(&error, WriteKind::Events),
            }
            sleep(PACE).await;
        }
        // Should it come back after it was mended, it is told again.
        self.sent.retain(|name| names.contains(name));
        all
    }

    fn is_forbidden(&self, what: WriteKind) -> bool {
        self.forbidden.get(&what).is_some_and(|until| Instant::now() < *until)
    }

    /// Whether another try at once would do no good. What is not permitted is said once.
    fn failed(&mut self, error: &kube::Error, what: WriteKind) -> bool {
        let kube::Error::Api(status) = error else { return false };
        match status.code {
            403 => {
                if self.forbidden.insert(what, Instant::now() + LONGEST_PAUSE).is_none() {
                    let (name, rule) = match what {
                        WriteKind::Statuses => ("statuses", STATUS_RULE),
                        WriteKind::Events => ("Events", EVENT_RULE),
                    };
                    tracing::warn!(
                        error = status.message,
                        "{name} may not be written; add to the ClusterRole of tiergate's ServiceAccount: {rule}; or serve with --no-status"
                    );
                }
                false
            }
            // It is gone, or will be told when it was read anew; or it is not what the API server takes.
            404 | 409 | 422 => true,
            _ => false,
        }
    }

    async fn tell(&self, status: &Status) -> kube::Result<WriteOutcome> {
        let Status { object, about, conditions } = status;
        let Some(resource) = resource(object, about) else { return Ok(WriteOutcome::Done) };
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &object.namespace, &resource);
        let found = in_time(api.get(&object.name)).await?;
        if let Some(manager) = owner(&found) {
            return Ok(WriteOutcome::Foreign(manager));
        }
        let before = found.data.pointer("/status/conditions").and_then(Value::as_array);
        let before = |name: &str| before.into_iter().flatten().find(|condition| condition["type"] == name);
        let wanted: Vec<Value> =
            conditions.iter().map(|condition| about.condition(condition, before(condition.name))).collect();
        if wanted.iter().all(|wanted| before(wanted["type"].as_str().unwrap_or_default()) == Some(wanted)) {
            return Ok(WriteOutcome::Done);
        }
        let patch = json!({
            "apiVersion": resource.api_version, "kind": resource.kind,
            "metadata": {"name": &*object.name, "namespace": &*object.namespace},
            "status": {"conditions": wanted},
        });
        match in_time(api.patch_status(&object.name, &PatchParams::apply(MANAGER), &Patch::Apply(&patch))).await {
            Ok(_) => Ok(WriteOutcome::Done),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(WriteOutcome::Foreign(status.message)),
            Err(error) => Err(error),
        }
    }

    async fn send(&self, event: &Event, name: &str) -> kube::Result<()> {
        let Event { object, about, reason, note } = event;
        let Some(resource) = resource(object, about) else { return Ok(()) };
        let kind = GroupVersionKind::gvk("events.k8s.io", "v1", "Event");
        let events = ApiResource::from_gvk_with_plural(&kind, "events");
        let namespace = if object.namespace.is_empty() { "default" } else { &object.namespace };
        let body = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "eventTime": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
            "reportingController": "tiergate.io/tiergate",
            "reportingInstance": std::env::var("HOSTNAME").unwrap_or_else(|_| MANAGER.to_owned()),
            "action": "Read", "type": "Warning", "reason": reason, "note": note,
            "regarding": {
                "apiVersion": resource.api_version, "kind": resource.kind, "name": &*object.name,
                "namespace": &*object.namespace, "uid": about.uid,
            },
        });
        let Ok(body) = serde_json::from_value::<DynamicObject>(body) else { return Ok(()) };
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &events);
        match in_time(api.create(&PostParams::default(), &body)).await {
            // Another replica was first, or this one before it started anew.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            created => created.map(drop),
        }
    }
}

const STATUS_RULE: &str = r#"{apiGroups: ["kuadrant.io"], resources: ["authpolicies", "ratelimitpolicies", "tokenratelimitpolicies"], verbs: ["get"]} and the same with /status, verbs: ["patch"]"#;
const EVENT_RULE: &str = r#"{apiGroups: ["events.k8s.io"], resources: ["events"], verbs: ["create"]}"#;

async fn in_time<T>(call: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    let late = |_| kube::Error::Service(format!("no answer within {} s", CALL.as_secs()).into());
    timeout(CALL, call).await.map_err(late)?
}

fn resource(object: &ObjectName, about: &About) -> Option<ApiResource> {
    let kind = KINDS.iter().find(|kind| kind.name == &*object.kind)?;
    let named = GroupVersionKind::gvk(kind.group, about.version, kind.name);
    Some(ApiResource::from_gvk_with_plural(&named, &kind.plural()))
}

/// Who else writes one of the conditions, if anybody does.
fn owner(object: &DynamicObject) -> Option<String> {
    let ours = ["k:{\"type\":\"Accepted\"}", "k:{\"type\":\"Enforced\"}"];
    let owns = |fields: &Value| match fields.pointer("/f:status/f:conditions") {
        None => false,
        // Some write the list as a whole.
        Some(conditions) => {
            ours.iter().any(|name| conditions.get(name).is_some())
                || conditions.as_object().is_none_or(|conditions| !conditions.keys().any(|key| key.starts_with("k:")))
        }
    };
    let mut others =
        object.metadata.managed_fields.iter().flatten().filter(|entry| entry.manager.as_deref() != Some(MANAGER));
    let other = others.find(|entry| entry.fields_v1.as_ref().is_some_and(|fields| owns(&fields.0)))?;
    Some(other.manager.clone().unwrap_or_default())
}

// === impl Event ===

impl Event {
    /// The same for the same problem of the same object, so that it is told once, by whichever replica.
    fn name(&self) -> String {
        let mut hasher = SipHasher13::new();
        (&self.about.uid, &self.reason, &self.note).hash(&mut hasher);
        let name: String = self.object.name.chars().take(200).collect();
        let (name, hash) = (name.trim_end_matches(['.', '-']), hasher.finish());
        format!("{name}.{hash:016x}")
    }
}

// === impl About ===

impl About {
    /// A condition as it is written. Its time moves when its status does (Kubernetes API conventions, "Typical status properties").
    fn condition(&self, condition: &StatusCondition, before: Option<&Value>) -> Value {
        let status = if condition.holds { "True" } else { "False" };
        let now = || json!(jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        let since =
            before.filter(|before| before["status"] == status).map(|before| before["lastTransitionTime"].clone());
        json!({
            "type": condition.name, "status": status, "reason": condition.reason, "message": condition.message,
            "observedGeneration": self.generation, "lastTransitionTime": since.unwrap_or_else(now),
        })
    }
}
