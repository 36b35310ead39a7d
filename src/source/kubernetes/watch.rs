//! The watch of one kind of object: listed whole, then followed, for ever.
//!
//! Written out instead of taken from kube's runtime, because it has to say when a watch that failed stands again, and that a
//! kind is not there, not permitted, or of another version.

use std::fmt::Debug;
use std::time::Duration;

use futures_util::{StreamExt, pin_mut};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroup, APIResourceList};
use kube::api::{DynamicObject, ListParams, PartialObjectMeta, WatchEvent, WatchParams};
use kube::core::{ApiResource, DynamicResourceScope, GroupVersionKind};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::event::{About, ObjectKey, Outlet, Update, WatchFault, WatchedObject};
use crate::backoff::Backoff;
use crate::identity::Namespaces;
use crate::manifest::Kind;
use crate::policy::Options;

/// How long the server keeps one watch open.
const WATCH: Duration = Duration::from_secs(60);
/// How long an answer may take, and a watch to end after its time: then the connection died without a word.
const CALL: Duration = Duration::from_secs(30);
/// How long a watch that failed waits before it is tried again: at first, and at most.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// How long a refusal has to last to be one.
const LASTING: Duration = Duration::from_secs(3);
/// How often it is looked, in the end, whether a kind that is not there or not permitted is now.
const MISSING: Duration = Duration::from_secs(10);
/// Objects in one page of a list.
const PAGE: u32 = 500;

/// What is watched of one kind.
#[derive(Debug)]
pub(super) struct Watch {
    pub kind: &'static Kind,
    /// Only the object of this namespace and name.
    pub only: Option<ObjectKey>,
    /// Which namespaces' objects are kept.
    pub namespaces: Namespaces,
    /// Whether the header says everything that is needed: then nothing else crosses the wire.
    pub header_only: bool,
}

/// How a watch ended.
enum End {
    /// It is listed again, at once.
    Relist,
    /// The version is not served any more.
    NotServed,
    Failed(WatchFault),
}

// === impl Watch ===

impl Watch {
    /// The watch of a kind, as far as `options` want it.
    pub(super) fn of(kind: &'static Kind, options: &Options) -> Self {
        let only = match kind.name {
            "ConfigMap" => options.tier_mapping.split_once('/'),
            _ => None,
        };
        let only = only.map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
        let namespaces = match kind.name {
            "ServiceAccount" => Namespaces::Tiers(options.instance.clone()),
            _ => Namespaces::All,
        };
        let header_only = matches!(kind.name, "ServiceAccount" | "LLMInferenceService" | "Namespace");
        Watch { kind, only, namespaces, header_only }
    }

    /// Follows the kind until nobody listens any more.
    pub(super) async fn follow(&self, client: &Client, outlet: &Outlet) {
        let (mut backoff, mut said) = (Backoff::new(PAUSE, LONGEST_PAUSE), None);
        loop {
            let started = Instant::now();
            let fault = self.follow_served(client, outlet).await;
            if started.elapsed() > WATCH / 2 {
                said = None;
                backoff.reset();
            }
            let what = std::mem::discriminant(&fault);
            let (_, since) = said.filter(|(before, _)| *before == what).unwrap_or((what, Instant::now()));
            said = Some((what, since));
            let fault = believed(fault, since.elapsed());
            backoff.bound(longest_pause(&fault));
            if outlet.send(Update::Failed(fault)).await.is_err() {
                return;
            }
            backoff.wait().await;
        }
    }

    /// Follows the first version that the cluster serves, until that fails.
    async fn follow_served(&self, client: &Client, outlet: &Outlet) -> WatchFault {
        for version in self.kind.versions {
            let end = match self.header_only {
                true => self.follow_version(self.api::<PartialObjectMeta>(client, version), version, outlet).await,
                false => self.follow_version(self.api::<DynamicObject>(client, version), version, outlet).await,
            };
            if let End::Failed(fault) = end {
                return fault;
            }
        }
        match self.newer_versions(client).await {
            Ok(versions) if versions.is_empty() => WatchFault::Missing { again: false },
            Ok(versions) => WatchFault::Newer(versions),
            Err(error) => WatchFault::of(error),
        }
    }

    fn api<K>(&self, client: &Client, version: &str) -> Api<K>
    where
        K: Resource<DynamicType = ApiResource, Scope = DynamicResourceScope>,
    {
        let kind = GroupVersionKind::gvk(self.kind.group, version, self.kind.name);
        let resource = ApiResource::from_gvk_with_plural(&kind, &self.kind.plural());
        // A URL of one namespace, since a Role of that namespace permits no other.
        match &self.only {
            Some((namespace, _)) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        }
    }

    async fn follow_version<K>(&self, api: Api<K>, version: &'static str, outlet: &Outlet) -> End
    where
        K: Resource + Clone + Debug + Serialize + DeserializeOwned,
    {
        loop {
            match self.follow_once(&api, version, outlet).await {
                // Even if the server says so for ever.
                End::Relist => sleep(PAUSE).await,
                end => return end,
            }
        }
    }

    /// Lists, and then watches what was listed for as long as that can be continued.
    async fn follow_once<K>(&self, api: &Api<K>, version: &'static str, outlet: &Outlet) -> End
    where
        K: Resource + Clone + Debug + Serialize + DeserializeOwned,
    {
        let (objects, mut at) = match self.list(api, version).await {
            Ok(listed) => listed,
            Err(error) => return End::of(error),
        };
        if outlet.send(Update::Listed(objects)).await.is_err() {
            return End::closed();
        }
        let (mut backoff, mut stood) = (Backoff::new(PAUSE, LONGEST_PAUSE), Instant::now());
        loop {
            let opened = Instant::now();
            let end = self.watch(api, version, &mut at, outlet).await;
            if opened.elapsed() > WATCH / 2 {
                stood = Instant::now();
                backoff.reset();
            }
            match end {
                Ok(()) => stood = Instant::now(),
                // A server that was restored from a backup does not come to the version that was seen: then it is listed.
                Err(End::Failed(WatchFault::Unreachable(_))) if stood.elapsed() > WATCH => return End::Relist,
                Err(End::Failed(WatchFault::Unreachable(why))) => {
                    // What was seen up to here is known, and the watch goes on from there.
                    if outlet.send(Update::Failed(WatchFault::Unreachable(why))).await.is_err() {
                        return End::closed();
                    }
                }
                Err(end) => return end,
            }
            // Also where each watch is ended as soon as it stands.
            if opened.elapsed() < WATCH / 2 {
                backoff.wait().await;
            }
        }
    }

    /// All objects, and the version of the list.
    async fn list<K>(&self, api: &Api<K>, version: &'static str) -> Result<(Vec<WatchedObject>, String), kube::Error>
    where
        K: Resource + Clone + Debug + Serialize + DeserializeOwned,
    {
        let mut objects = Vec::new();
        let mut params = ListParams::default().limit(PAGE);
        params.field_selector = self.selector();
        loop {
            let page = in_time(api.list(&params)).await?;
            objects.extend(page.items.iter().filter_map(|object| self.object(object, version)));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok((objects, page.metadata.resource_version.unwrap_or_default())),
            }
        }
    }

    /// One watch from the version `at` on, which follows what is seen; until the server ends it.
    async fn watch<K>(&self, api: &Api<K>, version: &'static str, at: &mut String, outlet: &Outlet) -> Result<(), End>
    where
        K: Resource + Clone + Debug + Serialize + DeserializeOwned,
    {
        let params = WatchParams {
            field_selector: self.selector(),
            timeout: u32::try_from(WATCH.as_secs()).ok(),
            bookmarks: true,
            ..WatchParams::default()
        };
        let events = in_time(api.watch(&params, at)).await.map_err(End::of)?;
        pin_mut!(events);
        let closed = |_| End::closed();
        outlet.send(Update::Watching).await.map_err(closed)?;
        while let Ok(event) = timeout(WATCH + CALL, events.next()).await {
            let (object, deleted) = match event {
                None => return Ok(()),
                Some(Err(error)) => return Err(End::of(error)),
                Some(Ok(WatchEvent::Error(status))) => return Err(End::of(kube::Error::Api(status))),
                Some(Ok(WatchEvent::Bookmark(bookmark))) => {
                    *at = bookmark.metadata.resource_version;
                    continue;
                }
                Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object))) => (object, false),
                Some(Ok(WatchEvent::Deleted(object))) => (object, true),
            };
            if let Some(version) = &object.meta().resource_version {
                at.clone_from(version);
            }
            let Some(object) = self.object(&object, version) else { continue };
            let update = if deleted { Update::Deleted(object.key) } else { Update::Changed(object) };
            outlet.send(update).await.map_err(closed)?;
        }
        Err(End::Failed(WatchFault::Unreachable("the connection is silent".to_owned())))
    }

    fn selector(&self) -> Option<String> {
        self.only.as_ref().map(|(_, name)| format!("metadata.name={name}"))
    }

    /// What is kept of an object, if it is.
    fn object<K: Resource + Serialize>(&self, object: &K, version: &'static str) -> Option<WatchedObject> {
        let meta = object.meta();
        let key = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        if !self.namespaces.hold(&key.0) || self.only.as_ref().is_some_and(|only| *only != key) {
            return None;
        }
        let about = About {
            version,
            uid: meta.uid.clone().unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
        };
        let mut value = serde_json::to_value(object).ok()?;
        strip(&mut value, self.header_only && self.kind.name == "ServiceAccount");
        if let Value::Object(fields) = &mut value {
            // Items of a list do not say what they are, nor do headers.
            fields.insert("kind".to_owned(), self.kind.name.into());
            fields.insert("apiVersion".to_owned(), self.kind.api_version(version).into());
        }
        Some(WatchedObject { key, about, value })
    }

    /// The versions, not known here, in which the cluster serves the kind.
    async fn newer_versions(&self, client: &Client) -> Result<Vec<String>, kube::Error> {
        let Some(group) = found(get::<APIGroup>(client, &format!("/apis/{}", self.kind.group)).await)? else {
            return Ok(Vec::new());
        };
        let mut versions = Vec::new();
        let known: Vec<String> = self.kind.versions.iter().map(|version| self.kind.api_version(version)).collect();
        let versions_served = group.versions.into_iter().map(|version| version.group_version);
        for version in versions_served.filter(|version| !known.contains(version)) {
            let resources = found(get::<APIResourceList>(client, &format!("/apis/{version}")).await)?;
            let plural = self.kind.plural();
            if resources.is_some_and(|list| list.resources.iter().any(|resource| resource.name == plural)) {
                versions.push(version);
            }
        }
        Ok(versions)
    }

    /// The rule of RBAC that permits the watch, as it is written in a role.
    pub(super) fn rule(&self) -> String {
        let (group, plural) = (self.kind.group, self.kind.plural());
        let names = match &self.only {
            Some((_, name)) => format!(", resourceNames: [\"{name}\"]"),
            None => String::new(),
        };
        format!("{{apiGroups: [\"{group}\"], resources: [\"{plural}\"]{names}, verbs: [\"list\", \"watch\"]}}")
    }

    /// The kind of role that the rule belongs into.
    pub(super) fn role(&self) -> String {
        match &self.only {
            Some((namespace, _)) => format!("Role in namespace {namespace}"),
            None => "ClusterRole".to_owned(),
        }
    }
}

/// What is made of a fault that has been the same for so long. A server that starts refuses everybody until it has read its own
/// roles: what does not last is no answer.
fn believed(fault: WatchFault, lasted: Duration) -> WatchFault {
    match fault {
        WatchFault::Missing { .. } => WatchFault::Missing { again: lasted > MISSING },
        WatchFault::Forbidden(why) if lasted < LASTING => WatchFault::Unreachable(format!("it answers 403: {why}")),
        fault => fault,
    }
}

/// What pauses grow to while there is such a fault.
fn longest_pause(fault: &WatchFault) -> Duration {
    match fault {
        WatchFault::Missing { .. } | WatchFault::Newer(_) | WatchFault::Forbidden(_) => MISSING,
        WatchFault::Unreachable(_) | WatchFault::Unauthenticated(_) => LONGEST_PAUSE,
    }
}

/// Removes what no reader asks for, so that what only it changes is no change.
fn strip(value: &mut Value, header_alone: bool) {
    let Value::Object(fields) = value else { return };
    fields.remove("status");
    let Some(Value::Object(meta)) = fields.get_mut("metadata") else { return };
    const READ: [&str; 6] = ["name", "namespace", "uid", "annotations", "labels", "creationTimestamp"];
    meta.retain(|name, _| READ.contains(&name.as_str()));
    // The whole object once more, as kubectl applied it.
    if let Some(Value::Object(annotations)) = meta.get_mut("annotations") {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    if header_alone {
        meta.remove("annotations");
        meta.remove("labels");
    }
}

async fn get<T: DeserializeOwned>(client: &Client, path: &str) -> Result<T, kube::Error> {
    let request = axum::http::Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
    in_time(client.request(request)).await
}

/// What is not there is no error.
fn found<T>(result: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

async fn in_time<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    let late = |_| kube::Error::Service(format!("no answer within {} s", CALL.as_secs()).into());
    timeout(CALL, call).await.map_err(late)?
}

// === impl End ===

impl End {
    fn of(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if status.code == 404 => End::NotServed,
            // What was seen is too old to go on from, or a page of the list is.
            kube::Error::Api(status) if status.code == 410 => End::Relist,
            _ => End::Failed(WatchFault::of(error)),
        }
    }

    /// Nobody listens: [`Watch::follow`] notices too.
    fn closed() -> Self {
        End::Failed(WatchFault::Unreachable("nobody listens".to_owned()))
    }
}
