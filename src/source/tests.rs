//! A folder that changes, without a process around it.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecursiveMode, Watcher};

use super::Folder;
use super::files::Stamp;
use super::lookout::LookReason;
use crate::policy::{Options, Policy};
use crate::problem::{Finding, InForce, Problem};

/// A copy of the tour's manifests, removed when this is dropped.
struct Tour {
    dir: PathBuf,
    folder: Folder,
}

impl Drop for Tour {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Tour {
    /// That was read once.
    fn read() -> Self {
        let dir = std::env::temp_dir().join(format!("tiergate-test-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&dir).unwrap();
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/manifests")).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, dir.join(path.file_name().unwrap())).unwrap();
        }
        let options = Options { grant_from_annotation: true, ..Options::default() };
        let mut tour = Tour { folder: Folder::new(&dir, options), dir };
        assert_eq!(tour.load().problems, []);
        tour
    }

    fn load(&mut self) -> Policy {
        self.folder.load().unwrap().expect("something changed")
    }

    fn edit(&mut self, file: &str, from: &str, to: &str) -> Policy {
        let path = self.dir.join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file} holds {from}");
        fs::write(path, text.replacen(from, to, 1)).unwrap();
        self.load()
    }
}

fn gone(policy: &Policy) -> Vec<String> {
    let gone = policy.problems.iter().filter(|problem| problem.code == Finding::ObjectGone);
    gone.map(|problem| format!("{}: {}", problem.object.as_ref().unwrap(), problem.message)).collect()
}

fn errors(policy: &Policy) -> Vec<&Problem> {
    policy.problems.iter().filter(|problem| problem.is_error()).collect()
}

#[test]
fn what_goes_is_told_with_what_is_not_limited_any_more_until_it_is_back() {
    let mut tour = Tour::read();
    let limits = fs::read_to_string(tour.dir.join("limits.yaml")).unwrap();
    fs::remove_file(tour.dir.join("limits.yaml")).unwrap();
    let file = tour.dir.join("limits.yaml").display().to_string();
    assert_eq!(
        gone(&tour.load()),
        [
            format!(
                "RateLimitPolicy openshift-ingress/gateway-rate-limits: is gone with {file}: tiers enterprise, free, premium have \
                 no request limit"
            ),
            format!(
                "TokenRateLimitPolicy openshift-ingress/gateway-token-rate-limits: is gone with {file}: tiers enterprise, free, \
                 premium have no token limit"
            ),
        ]
    );
    fs::write(tour.dir.join("limits.yaml"), limits).unwrap();
    assert_eq!(tour.load().problems, []);
    let policy = tour.edit("limits.yaml", "free:\n", "trial:\n");
    assert_eq!(gone(&policy), ["RateLimitPolicy openshift-ingress/gateway-rate-limits: limit `free` is gone"]);
    let policy = tour.edit("limits.yaml", "== \"free\"", "== \"premium\"");
    assert_eq!(gone(&policy).len(), 1, "it is told for an hour");
    let policy = tour.edit("limits.yaml", "trial:\n", "free:\n");
    assert_eq!(gone(&policy), ["RateLimitPolicy openshift-ingress/gateway-rate-limits: limit `trial` is gone"]);
}

#[test]
fn a_grant_a_tier_and_a_rule_that_go_are_told() {
    let mut tour = Tour::read();
    let policy = tour.edit("models.yaml", "[\"premium\",\"enterprise\"]", "[\"enterprise\"]");
    assert_eq!(gone(&policy), ["LLMInferenceService llm/qwen3: the grant to tier `premium` is gone"]);
    tour.edit("models.yaml", "[\"enterprise\"]", "[\"premium\",\"enterprise\"]");
    let policy = tour.edit("models.yaml", "'[]'", "'[\"free\"]'");
    assert_eq!(gone(&policy), ["LLMInferenceService llm/granite: the grant to all tiers is gone"]);
    tour.edit("models.yaml", "'[\"free\"]'", "'[]'");
    let policy = tour.edit("auth-policy.yaml", "tier-access:", "other-access:");
    assert_eq!(
        gone(&policy),
        ["AuthPolicy openshift-ingress/gateway-auth-policy: authorization rule `tier-access` is gone"]
    );
}

#[test]
fn what_is_for_something_else_now_is_told() {
    let mut tour = Tour::read();
    let policy = tour.edit("limits.yaml", "name: maas-default-gateway", "name: another");
    let told = "RateLimitPolicy openshift-ingress/gateway-rate-limits: is not for Gateway openshift-ingress/maas-default-gateway any \
                more: tiers enterprise, free, premium have no request limit";
    assert_eq!(gone(&policy), [told]);
    let mut tour = Tour::read();
    let policy = tour.edit("auth-policy.yaml", "name: maas-default-gateway", "name: another");
    let routes = "lab/phi-route, llm/draft-route, llm/granite-route, llm/qwen3-route";
    let told = format!(
        "AuthPolicy openshift-ingress/gateway-auth-policy: is not for Gateway openshift-ingress/maas-default-gateway any more: no \
         AuthPolicy protects {routes}: see --without-policy"
    );
    assert_eq!(gone(&policy), [told]);
    let mut tour = Tour::read();
    let policy = tour.edit("models.yaml", "{name: maas-default-gateway", "{name: another");
    let told = "HTTPRoute llm/qwen3-route: is not for Gateway openshift-ingress/maas-default-gateway any more";
    assert_eq!(gone(&policy), [told]);
}

/// The identity of the object is lost, and with it the rest: what the file had is still known.
#[test]
fn an_object_of_which_it_cannot_be_read_which_one_it_is_keeps_its_last_good_version() {
    for (file, from, to) in [
        ("limits.yaml", "namespace: openshift-ingress", "namespace: no"),
        ("limits.yaml", "namespace: openshift-ingress", "namspace: openshift-ingress"),
        ("limits.yaml", "  name: gateway-rate-limits", "  name: 5"),
        ("limits.yaml", "kind: RateLimitPolicy", "kind: RatePolicy"),
        ("limits.yaml", "metadata:", "metdata:"),
        ("auth-policy.yaml", "kind: AuthPolicy", "kind: AuthPolcy"),
        ("auth-policy.yaml", "namespace: openshift-ingress", "namespace: [openshift-ingress]"),
        ("gateway.yaml", "  name: maas-default-gateway", "  nmae: maas-default-gateway"),
        ("models.yaml", "kind: HTTPRoute", "kind: HTTPRout"),
        ("models.yaml", "kind: LLMInferenceService", "kind: LLMInferenceServce"),
        ("users.yaml", "kind: ServiceAccount", "kind: ServicAccount"),
        ("tiers.yaml", "  namespace: maas-api", "  namespace: 7"),
        ("tiers.yaml", "tiers: |", "Tiers: |"),
    ] {
        let mut tour = Tour::read();
        let policy = tour.edit(file, from, to);
        let errors = errors(&policy);
        assert!(!errors.is_empty(), "{file}: {to}");
        for error in errors {
            assert!(matches!(error.in_force, Some(InForce::LastGood(_))), "{file}: {to}: {error}");
        }
        assert_eq!(gone(&policy), <[String; 0]>::default(), "{file}: {to}");
        assert!(!policy.kept.is_empty(), "{file}: {to}");
        // It stays so as long as it is in error, since the same time.
        let since = policy.kept.clone();
        let policy = tour.edit("lab.yaml", "kind", "# edited\nkind");
        assert_eq!(policy.kept, since, "{file}: {to}");
        assert_eq!(tour.edit(file, to, from).problems, [], "{file}: {to}");
    }
}

#[test]
fn what_is_new_and_cannot_be_read_is_shut_though_its_file_was_good() {
    let mut tour = Tour::read();
    let policy = tour.edit(
        "limits.yaml",
        "# Requests",
        "apiVersion: kuadrant.io/v1\nkind: RateLimitPolicy\nmetadata: {name: more, namespace: no}\n---\n# Requests",
    );
    let in_force: Vec<_> = errors(&policy).iter().map(|error| error.in_force).collect();
    assert_eq!(in_force, [Some(InForce::AllShut)]);
}

/// Files that were opened in `work`, in the folder of `events`: a file that is written afterwards tells that all have been heard of.
fn opened(dir: &Path, events: &Receiver<notify::Event>, end: &str, work: impl FnOnce()) -> usize {
    work();
    fs::write(dir.join(end), "").unwrap();
    let events = std::iter::from_fn(|| Some(events.recv_timeout(Duration::from_secs(20)).unwrap()));
    let until = events.take_while(|event| !event.paths.iter().any(|path| path.ends_with(end)));
    let is_open = |event: &notify::Event| event.kind == EventKind::Access(AccessKind::Open(AccessMode::Any));
    let is_file = |event: &notify::Event| event.paths.iter().any(|path| path.extension().is_some());
    until.filter(|event| is_open(event) && is_file(event)).count()
}

#[test]
fn a_folder_that_is_as_it_was_is_looked_at_without_opening_a_file() {
    let mut tour = Tour::read();
    let started = Instant::now();
    while Stamp::of(&tour.folder.paths).is_none() {
        assert!(started.elapsed() < Duration::from_secs(20), "it rests");
        // What is waited for is time.
        std::thread::sleep(Duration::from_millis(50));
    }
    let dir = tour.dir.clone();
    assert!(tour.folder.look(LookReason::Told).unwrap().is_none());
    let (send, events) = channel();
    let mut watcher =
        notify::recommended_watcher(move |event: notify::Result<_>| drop(send.send(event.unwrap()))).unwrap();
    watcher.watch(&dir, RecursiveMode::NonRecursive).unwrap();
    let due = opened(&dir, &events, "end", || assert!(tour.folder.look(LookReason::Due).unwrap().is_none()));
    assert_eq!(due, 0);
    // Something is another now.
    let due = opened(&dir, &events, "another-end", || assert!(tour.folder.look(LookReason::Due).unwrap().is_none()));
    assert!(due >= 5, "{due}");
}

#[test]
fn a_change_of_the_same_size_in_the_same_moment_is_seen() {
    let mut tour = Tour::read();
    let path = tour.dir.join("limits.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let (from, to) = ("limit: 20, window: 2m", "limit: 21, window: 2m");
    assert!(text.contains(from));
    // As long as it is, and within the same moment as far as the file system can tell.
    for now in [text.replace(from, to), text] {
        assert!(tour.folder.look(LookReason::Due).unwrap().is_none());
        fs::write(&path, now).unwrap();
        assert!(tour.folder.look(LookReason::Due).unwrap().is_some());
    }
}

/// A ServiceAccount of this name.
fn account(name: &str) -> String {
    format!("{{apiVersion: v1, kind: ServiceAccount, metadata: {{namespace: ns, name: {name}}}}}")
}

#[test]
fn files_whose_names_are_no_text_are_read_each() {
    let tour = Tour::read();
    let dir = tour.dir.join("bytes");
    fs::create_dir(&dir).unwrap();
    for (byte, name) in [(0xfe, "a"), (0xff, "b")] {
        let file = [&[byte], b".yaml".as_slice()].concat();
        fs::write(dir.join(std::ffi::OsStr::from_bytes(&file)), account(name)).unwrap();
    }
    assert_eq!(Folder::new(&dir, Options::default()).load().unwrap().unwrap().objects, 2);
}

#[test]
fn a_file_that_is_named_in_two_ways_is_read_once() {
    let tour = Tour::read();
    let dir = tour.dir.join("one");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("a.yaml"), account("a")).unwrap();
    let paths = [dir.join("a.yaml"), dir.join("../one/./a.yaml"), dir.clone()];
    let policy = Folder::of(paths.to_vec(), Options::default()).load().unwrap().unwrap();
    assert_eq!((policy.objects, policy.problems), (1, Vec::new()));
}
