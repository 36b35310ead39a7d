//! What is known of the cluster: every object that was read, and how each watch stands.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;

use super::super::Departures;
use super::event::{About, ClusterEvent, ObjectKey, Update, WatchFault, WatchedObject};
use super::watch::Watch;
use crate::access::Changes;
use crate::clock::{Clock, Nanos};
use crate::manifest::{Gateway, Manifests};
use crate::policy::Outdated;
use crate::problem::{Finding, ObjectName, Place, Problem, Severity};

/// Everything that is watched. One thread owns it.
#[derive(Debug)]
pub(super) struct ObjectStore {
    /// For messages.
    server: String,
    kinds: Vec<Watched>,
    hasher: RandomState,
    clock: Clock,
    rbac_changes: Changes,
    /// When the server answered last, and why it does not now.
    heard: Nanos,
    silent: Option<String>,
    pub(super) departures: Departures,
}

/// One kind of object.
#[derive(Debug)]
struct Watched {
    watch: Arc<Watch>,
    objects: BTreeMap<ObjectKey, KeptObject>,
    /// The namespaces of objects that have changed.
    touched: Vec<String>,
    /// Whether nothing is decided before they were read.
    awaited: bool,
    /// Whether all of its objects were read once. It stays so: what fails later keeps what was read.
    known: bool,
    /// Why it is not watched now.
    fault: Option<WatchFault>,
    /// Since when.
    since: Nanos,
}

/// One object.
#[derive(Debug)]
struct KeptObject {
    fingerprint: u64,
    about: About,
    /// What has not been read yet.
    unread: Option<Value>,
    /// What it says; where it is in error, what it said last without.
    read: Manifests,
}

// === impl ObjectStore ===

impl ObjectStore {
    pub(super) fn new(server: &str, watches: &[Arc<Watch>], clock: Clock) -> Self {
        let kinds = watches.iter().map(|watch| Watched::new(watch, true)).collect();
        let (server, hasher) = (server.to_owned(), RandomState::new());
        let (rbac_changes, heard) = (Changes::default(), clock.now());
        let departures = Departures::of_cluster();
        ObjectStore { server, kinds, hasher, clock, rbac_changes, heard, silent: None, departures }
    }

    /// Adds a watch, and says which it is; `awaited` if nothing is decided before its objects were read.
    pub(super) fn add(&mut self, watch: &Arc<Watch>, awaited: bool) -> usize {
        self.kinds.push(Watched::new(watch, awaited));
        self.kinds.len() - 1
    }

    /// Whether a Gateway takes routes by labels of their namespaces.
    pub(super) fn asks_for_labels(&mut self) -> bool {
        let gateways = self.kinds.iter_mut().filter(|watched| watched.watch.kind.name == "Gateway");
        gateways.flat_map(|watched| watched.objects.values_mut()).any(|entry| {
            entry.read();
            entry.read.gateways.iter().any(Gateway::asks_for_labels)
        })
    }

    /// Takes over what was seen; whether that changes anything.
    pub(super) fn take(&mut self, event: ClusterEvent) -> bool {
        match event {
            ClusterEvent::Watch { at, update } => self.apply(at, update),
            ClusterEvent::Heartbeat(answer) => self.hear(answer) || self.departures.are_due(Instant::now()),
        }
    }

    /// Takes over what the watch with the number `at` saw; whether that changes anything.
    pub(super) fn apply(&mut self, at: usize, update: Update) -> bool {
        let now = self.clock.now();
        let Some(watched) = self.kinds.get_mut(at) else { return false };
        let changed = match update {
            Update::Listed(objects) => watched.replace(objects, &self.hasher),
            Update::Changed(object) => watched.put(object, &self.hasher),
            Update::Deleted(key) => watched.remove(&key),
            Update::Watching => watched.fault.take().is_some(),
            // A watch that fails while the server is silent has seen nothing since the silence began.
            Update::Failed(fault) => watched.fail(fault, if self.silent.is_some() { self.heard } else { now }),
        };
        let touched = std::mem::take(&mut watched.touched);
        if watched.is_rbac() {
            touched.iter().for_each(|namespace| self.rbac_changes.note(namespace, now));
        }
        changed
    }

    /// Takes over whether the server answers; whether it began to be silent, or ended it.
    pub(super) fn hear(&mut self, answer: Result<(), String>) -> bool {
        let before = self.silent.is_some();
        match answer {
            Ok(()) => (self.heard, self.silent) = (self.clock.now(), None),
            Err(why) => self.silent = Some(self.silent.take().unwrap_or(why)),
        }
        before != self.silent.is_some()
    }

    /// When RBAC changed, as far as was seen.
    pub(super) fn rbac_changes(&self) -> Changes {
        self.rbac_changes.clone()
    }

    /// Since when changes may not have been seen: something that was known is not watched, or the server is silent.
    pub(super) fn outdated(&self) -> Option<Outdated> {
        let blind = self.kinds.iter().filter(|watched| watched.is_blind());
        let blind = blind.map(|watched| (watched.since, format!("{} not watched", watched.describe())));
        let silent = self.silent.iter().map(|why| (self.heard, format!("{}: {why}", self.server)));
        let (since, why) = silent.chain(blind).min_by_key(|(since, _)| *since)?;
        Some(Outdated { since, why: why.into() })
    }

    /// What all objects say. Objects that are new or changed are read; one in error keeps its own last good version.
    pub(super) fn read(&mut self) -> Manifests {
        let mut manifests = Manifests::default();
        for entry in self.kinds.iter_mut().flat_map(|watched| watched.objects.values_mut()) {
            entry.read();
            manifests.append(&entry.read);
        }
        manifests
    }

    /// What is known of an object beside what it says.
    pub(super) fn about(&self, object: &ObjectName) -> Option<About> {
        let watched = self.kinds.iter().find(|watched| watched.watch.kind.name == &*object.kind)?;
        let key = (object.namespace.to_string(), object.name.to_string());
        watched.objects.get(&key).map(|entry| entry.about.clone())
    }

    /// Why nothing can be decided: a kind without which a request could pass that should not, or be refused that should
    /// pass, was never read. Others are waited for, but not for a permission.
    pub(super) fn unready(&self) -> Option<String> {
        let missing = self.kinds.iter().filter(|watched| watched.blocks());
        let missing: Vec<String> = missing.map(Watched::describe).collect();
        (!missing.is_empty()).then(|| format!("not read yet from {}: {}", self.server, missing.join(", ")))
    }

    /// The kinds of RBAC that could not be read, so that it is not known who is granted what.
    pub(super) fn unread_rbac(&self) -> Option<String> {
        let unread = |watched: &&Watched| watched.is_rbac() && !watched.known;
        let unread = self.kinds.iter().filter(unread);
        let unread: Vec<String> = unread.map(|watched| watched.watch.kind.plural()).collect();
        (!unread.is_empty()).then(|| unread.join(", "))
    }

    /// What is wrong with the watches.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.kinds.iter().filter_map(Watched::problem).collect();
        // One server that is away is one problem, in the words of the first watch that noticed, however many it ends.
        let away = self.kinds.iter().filter_map(|watched| match &watched.fault {
            Some(WatchFault::Unreachable(why)) => Some((watched.since, why)),
            _ => None,
        });
        let first = away.min_by_key(|(since, _)| *since).map(|(_, why)| why);
        if let Some(why) = first.or(self.silent.as_ref()) {
            let message = match self.kinds.iter().all(|watched| watched.known) {
                true => format!("{why}; what was read last stays in force, and changes are not seen"),
                false => why.clone(),
            };
            let problem = problem(Finding::ClusterUnreachable, &self.server, Severity::Error, message);
            problems.push(problem.remedy("see whether the API server answers, and what lies between"));
        }
        problems
    }

    #[cfg(test)]
    pub(super) fn objects(&self) -> usize {
        self.kinds.iter().map(|watched| watched.objects.len()).sum()
    }
}

// === impl Watched ===

impl Watched {
    fn new(watch: &Arc<Watch>, awaited: bool) -> Self {
        Watched {
            watch: Arc::clone(watch),
            objects: BTreeMap::new(),
            touched: Vec::new(),
            awaited,
            known: false,
            fault: None,
            since: Nanos::default(),
        }
    }

    fn put(&mut self, object: WatchedObject, hasher: &RandomState) -> bool {
        let entry = KeptObject::of(object.value, object.about, hasher);
        match self.objects.get_mut(&object.key) {
            Some(known) if known.fingerprint == entry.fingerprint => {
                known.about = entry.about;
                return false;
            }
            // What it said before is its last good version, should it be in error now.
            Some(known) => *known = KeptObject { read: std::mem::take(&mut known.read), ..entry },
            None => {
                self.objects.insert(object.key.clone(), entry);
            }
        }
        self.touch(object.key);
        true
    }

    fn remove(&mut self, key: &ObjectKey) -> bool {
        let removed = self.objects.remove_entry(key);
        let was_there = removed.is_some();
        removed.into_iter().for_each(|(key, _)| self.touch(key));
        was_there
    }

    /// What is seen first has not changed for that.
    fn touch(&mut self, (namespace, _): ObjectKey) {
        if self.known {
            self.touched.push(namespace);
        }
    }

    /// Puts a new list in place of all that was known, at once.
    fn replace(&mut self, objects: Vec<WatchedObject>, hasher: &RandomState) -> bool {
        let mut changed = !self.known;
        let mut before = std::mem::take(&mut self.objects);
        for object in objects {
            if let Some(known) = before.remove(&object.key) {
                self.objects.insert(object.key.clone(), known);
            }
            changed |= self.put(object, hasher);
        }
        changed |= !before.is_empty();
        before.into_keys().for_each(|key| self.touch(key));
        self.known = true;
        changed
    }

    fn is_rbac(&self) -> bool {
        self.watch.kind.group == "rbac.authorization.k8s.io"
    }

    /// Whether what was read is not followed any more.
    fn is_blind(&self) -> bool {
        self.known && self.fault.as_ref().is_some_and(|fault| !matches!(fault, WatchFault::Missing { .. }))
    }

    fn fail(&mut self, fault: WatchFault, since: Nanos) -> bool {
        if self.fault.is_none() {
            self.since = since;
        }
        let mut changed = false;
        // Without its definition there can be no object. Once is not enough where there were some: a server that starts may
        // not have found its definitions yet, and rules must not go by mistake.
        if matches!(fault, WatchFault::Missing { again } if again || self.objects.is_empty()) {
            changed = !self.known || !self.objects.is_empty();
            std::mem::take(&mut self.objects).into_keys().for_each(|key| self.touch(key));
            self.known = true;
        }
        // Of a connection that fails again and again, the first reason stays.
        let same = match (&self.fault, &fault) {
            (Some(WatchFault::Unreachable(_)), WatchFault::Unreachable(_))
            | (Some(WatchFault::Missing { .. }), WatchFault::Missing { .. }) => true,
            (before, now) => before.as_ref() == Some(now),
        };
        if !same {
            self.fault = Some(fault);
        }
        changed || !same
    }

    fn blocks(&self) -> bool {
        let needed = self.watch.kind.guards() || self.watch.kind.name == "ServiceAccount";
        let is_hidden = matches!(self.fault, Some(WatchFault::Forbidden(_) | WatchFault::Newer(_)));
        self.awaited && !self.known && (needed || !is_hidden)
    }

    fn describe(&self) -> String {
        let resource = self.watch.kind.resource();
        match &self.fault {
            None => resource,
            Some(WatchFault::Unreachable(why)) => format!("{resource} ({why})"),
            Some(WatchFault::Unauthenticated(_)) => format!("{resource} (the credentials are not accepted)"),
            Some(WatchFault::Forbidden(_)) => format!("{resource} (no permission)"),
            Some(WatchFault::Missing { .. }) => format!("{resource} (not served)"),
            Some(WatchFault::Newer(versions)) => format!("{resource} (only of {})", versions.join(", ")),
        }
    }

    /// What is wrong with the watch; nothing of one kind alone where no server answers.
    fn problem(&self) -> Option<Problem> {
        match self.fault.as_ref()? {
            WatchFault::Unreachable(_) => None,
            WatchFault::Unauthenticated(why) => Some(self.unauthenticated(why)),
            WatchFault::Forbidden(why) => Some(self.forbidden(why)),
            WatchFault::Missing { .. } => Some(self.missing()),
            WatchFault::Newer(versions) => Some(self.newer(versions)),
        }
    }

    fn unauthenticated(&self, why: &str) -> Problem {
        let message = format!("the credentials are not accepted: {why}{}", self.kept());
        let problem = self.report(Finding::ClusterUnauthenticated, Severity::Error, message);
        problem.remedy("give a kubeconfig, or a ServiceAccount, whose credentials are valid")
    }

    fn forbidden(&self, why: &str) -> Problem {
        let message = format!("may not be watched: {why}{}", self.kept());
        let problem = self.report(Finding::WatchForbidden, Severity::Error, message);
        let (role, rule) = (self.watch.role(), self.watch.rule());
        problem.remedy(format!("add to the {role} of tiergate's ServiceAccount: {rule}"))
    }

    fn missing(&self) -> Problem {
        let (severity, consequence) = match self.objects.is_empty() {
            true => (Severity::Warning, "so there is none"),
            false => (Severity::Error, "as it did; what was read last stays in force until it says so again"),
        };
        let message = format!("the cluster does not know {}, {consequence}", self.watch.kind.name);
        let remedy = "install its CustomResourceDefinition, if it is wanted: that is noticed within seconds";
        self.report(Finding::KindMissing, severity, message).remedy(remedy)
    }

    fn newer(&self, served: &[String]) -> Problem {
        let kind = self.watch.kind;
        let known: Vec<String> = kind.versions.iter().map(|version| kind.api_version(version)).collect();
        let message = format!("is served only as {}, which is not known here{}", served.join(", "), self.kept());
        let problem = self.report(Finding::VersionUnknown, Severity::Error, message);
        problem.expected(known.join(" or ")).remedy("update tiergate, or serve one of these versions")
    }

    /// What becomes of objects that were read before, for the end of a message.
    fn kept(&self) -> &'static str {
        if self.known { "; what was read last stays in force, and changes are not seen" } else { "" }
    }

    fn report(&self, code: Finding, severity: Severity, message: String) -> Problem {
        problem(code, &self.watch.kind.resource(), severity, message)
    }
}

fn problem(code: Finding, what: &str, severity: Severity, message: String) -> Problem {
    let place = Place { file: what.into(), line: 0, column: 0 };
    Problem::new(code, severity, place, message)
}

// === impl KeptObject ===

impl KeptObject {
    fn of(value: Value, about: About, hasher: &RandomState) -> Self {
        KeptObject {
            fingerprint: hasher.hash_one(value.to_string()),
            about,
            unread: Some(value),
            read: Manifests::default(),
        }
    }

    fn read(&mut self) {
        if let Some(value) = &self.unread {
            let mut read = Manifests::of_object(value);
            read.keep_last_good(&self.read);
            self.read = read;
            self.unread = None;
        }
    }
}
