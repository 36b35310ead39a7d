//! The files that a serving process goes by: what it opens, and what becomes of changes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecursiveMode, Watcher};
use serde_json::Value;

use crate::reload::{Caller, copy, replace};
use crate::support::{Folder, PATIENCE, Tiergate, generous_manifests, get, keys, root, soak, token_by};

const QWEN: &str = "/llm/qwen3/v1/chat/completions";
/// The goal is a second; a loaded machine gets five times as long. Where nothing tells of a change, it is seen after ten.
const LIVE: Duration = Duration::from_secs(5);

fn premium(keys: &Folder) -> String {
    token_by(keys, "maas-default-gateway-tier-premium", "jland-78028f6d", &root("examples/manifests"))
}

/// What is wrong now with this code.
async fn problems(tiergate: &Tiergate, code: &str) -> Vec<Value> {
    let page = get(tiergate.http, "/problems").await.json();
    page["problems"].as_array().unwrap().iter().filter(|problem| problem["code"] == code).cloned().collect()
}

fn only(problems: Vec<Value>) -> Value {
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems.into_iter().next().unwrap()
}

/// Waits until the answer of `caller` has this status, and says how long it took.
async fn until(caller: &mut Caller, status: i32) -> Duration {
    let started = Instant::now();
    loop {
        let (told, code) = caller.asks(QWEN).await;
        if told == status {
            return started.elapsed();
        }
        assert!(started.elapsed() < PATIENCE, "{told} {code}, not {status}");
    }
}

/// Somebody else who watches the files sees it: no privilege is needed, and a first look shows that it can be seen.
#[test]
fn an_idle_process_opens_no_file() {
    let (folder, keys) = (copy(), keys());
    let (send, opened) = mpsc::channel();
    let tell = move |event: notify::Result<notify::Event>| {
        let event = event.unwrap();
        let is_open = event.kind == EventKind::Access(AccessKind::Open(AccessMode::Any));
        if is_open && event.paths.iter().any(|path| path.extension().is_some()) {
            // The test may be over.
            let _ = send.send(event.paths);
        }
    };
    let mut watcher = notify::recommended_watcher(tell).unwrap();
    let tiergate = Tiergate::start_verifying(&folder.0, &keys.0.join("jwks.json"), &[]);
    for dir in [&folder, &keys] {
        watcher.watch(&dir.0, RecursiveMode::NonRecursive).unwrap();
    }
    replace(&folder.0, "limits.yaml", "limit: 20, window: 2m", "limit: 21, window: 2m");
    tiergate.await_log("policy published");
    let others = opened.try_iter().filter(|paths| !paths[0].ends_with("limits.yaml")).count();
    assert!(others >= 5, "a change has all files read: {others}");
    let (started, quiet) = (Instant::now(), soak(Duration::from_secs(2), Duration::from_secs(30)));
    while let Ok(paths) = opened.recv_timeout(quiet) {
        assert!(started.elapsed() < 6 * quiet, "files are opened for ever: {paths:?}");
    }
}

/// A name, and what saves a text at a path.
type Way<'a> = (&'static str, &'a dyn Fn(&Path, &str));

#[tokio::test]
async fn every_way_of_saving_a_file_is_seen() {
    let folder = generous_manifests();
    let models = fs::read_to_string(folder.0.join("models.yaml")).unwrap();
    let revoked = models.replace("[\"premium\",\"enterprise\"]", "[\"enterprise\"]");
    let keys = keys();
    let tiergate = Tiergate::start_verifying(&folder.0, &keys.0.join("jwks.json"), &[]);
    let mut caller = Caller::with(&tiergate, &premium(&keys)).await;
    let in_place = |path: &Path, text: &str| fs::write(path, text).unwrap();
    let renamed = |path: &Path, text: &str| {
        fs::write(path.with_extension("tmp"), text).unwrap();
        fs::rename(path.with_extension("tmp"), path).unwrap();
    };
    let with_backup = |path: &Path, text: &str| {
        fs::rename(path, path.with_extension("yaml~")).unwrap();
        fs::write(path, text).unwrap();
        fs::remove_file(path.with_extension("yaml~")).unwrap();
    };
    let of_elsewhere = |path: &Path, text: &str| {
        let elsewhere = Folder::new();
        fs::rename(elsewhere.file("models.yaml", text), path).unwrap();
    };
    let anew = |path: &Path, text: &str| {
        fs::remove_file(path).unwrap();
        fs::write(path, text).unwrap();
    };
    let linked = |path: &Path, text: &str| {
        let target = path.with_extension(format!("{}.data", text.len()));
        fs::write(&target, text).unwrap();
        let _ = fs::remove_file(path.with_extension("link"));
        symlink(target.file_name().unwrap(), path.with_extension("link")).unwrap();
        fs::rename(path.with_extension("link"), path).unwrap();
    };
    let ways: [Way<'_>; 6] = [
        ("in place", &in_place),
        ("renamed over", &renamed),
        ("with a backup", &with_backup),
        ("moved in", &of_elsewhere),
        ("removed and made anew", &anew),
        ("as a link that is swapped", &linked),
    ];
    let path = folder.0.join("models.yaml");
    for (way, save) in ways {
        for (text, status) in [(&revoked, 403), (&models, 200)] {
            save(&path, text);
            let took = until(&mut caller, status).await;
            assert!(took < LIVE, "{way}: {took:?}");
        }
    }
}

/// Deployments swap a link to the folder, as git-sync does.
#[tokio::test]
async fn a_link_to_the_folder_or_to_one_above_it_may_be_swapped() {
    let (place, keys) = (Folder::new(), keys());
    for version in ["one", "two"] {
        let manifests = place.0.join(version).join("manifests");
        fs::create_dir_all(&manifests).unwrap();
        for entry in fs::read_dir(root("examples/manifests")).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, manifests.join(path.file_name().unwrap())).unwrap();
        }
    }
    replace(&place.0.join("two/manifests"), "models.yaml", "[\"premium\",\"enterprise\"]", "[\"enterprise\"]");
    let swap = |target: &str, link: &str| {
        symlink(target, place.0.join("link")).unwrap();
        fs::rename(place.0.join("link"), place.0.join(link)).unwrap();
    };
    swap("one", "above");
    swap("one/manifests", "direct");
    for (served, link, to) in [("above/manifests", "above", "two"), ("direct", "direct", "two/manifests")] {
        let tiergate = Tiergate::start_verifying(&place.0.join(served), &keys.0.join("jwks.json"), &[]);
        let mut caller = Caller::with(&tiergate, &premium(&keys)).await;
        assert_eq!(caller.asks(QWEN).await.0, 200, "{served}");
        swap(to, link);
        let took = until(&mut caller, 403).await;
        assert!(took < LIVE, "{served}: {took:?}");
    }
}

#[tokio::test]
async fn a_folder_that_is_gone_is_told_until_it_is_back() {
    let (folder, keys) = (copy(), keys());
    let served = folder.0.join("served");
    fs::create_dir(&served).unwrap();
    for entry in fs::read_dir(root("examples/manifests")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, served.join(path.file_name().unwrap())).unwrap();
    }
    let tiergate = Tiergate::start_verifying(&served, &keys.0.join("jwks.json"), &[]);
    let mut caller = Caller::with(&tiergate, &premium(&keys)).await;
    let objects = tiergate.metric("tiergate_policy_objects", "").await;
    assert_eq!(tiergate.metric("tiergate_policy_objects_last_good", "").await, 0);
    assert!(objects > 0);
    for empty in [false, true] {
        let away = folder.0.join("away");
        fs::rename(&served, &away).unwrap();
        if empty {
            fs::create_dir(&served).unwrap();
        }
        let told = tiergate.await_log("served");
        assert_eq!((&told["level"], &told["code"]), (&"ERROR".into(), &"source-unreadable".into()), "{told}");
        let problem = only(problems(&tiergate, "source-unreadable").await);
        assert_eq!(problem["place"]["file"], served.display().to_string(), "{problem}");
        assert!(problem["in_force"].as_str().unwrap().starts_with("its last good version, since "), "{problem}");
        assert_eq!(tiergate.metric("tiergate_policy_findings", "source-unreadable").await, 1);
        assert_eq!(tiergate.metric("tiergate_policy_last_reload_successful", "").await, 0);
        assert_eq!(tiergate.metric("tiergate_policy_objects_last_good", "").await, objects);
        assert_eq!(caller.asks(QWEN).await.0, 200, "what was read last is in force");
        if empty {
            fs::remove_dir(&served).unwrap();
        }
        fs::rename(&away, &served).unwrap();
        let back = Instant::now();
        let ended = tiergate.await_log("no longer so");
        assert!(back.elapsed() < LIVE, "{:?}", back.elapsed());
        assert_eq!(ended["code"], "source-unreadable", "{ended}");
        tiergate.await_log("policy published");
        assert_eq!(problems(&tiergate, "source-unreadable").await, Vec::<Value>::new());
        assert_eq!(tiergate.metric("tiergate_policy_last_reload_successful", "").await, 1);
        assert_eq!(tiergate.metric("tiergate_policy_objects_last_good", "").await, 0);
    }
    // It is the same as before, and another one to the operating system.
    replace(&served, "models.yaml", "[\"premium\",\"enterprise\"]", "[\"enterprise\"]");
    let took = until(&mut caller, 403).await;
    assert!(took < LIVE, "{took:?}");
}

#[tokio::test]
async fn keys_that_change_are_in_use_at_once_and_others_are_not_any_more() {
    let (folder, before, after) = (copy(), keys(), keys());
    let jwks = folder.file("jwks", &fs::read_to_string(before.0.join("jwks.json")).unwrap());
    let tiergate = Tiergate::start_verifying(&folder.0, &jwks, &[]);
    let mut old = Caller::with(&tiergate, &premium(&before)).await;
    let mut new = Caller::with(&tiergate, &premium(&after)).await;
    // What is remembered of both was said by other keys.
    assert_eq!(old.asks(QWEN).await.0, 200);
    assert_eq!(new.asks(QWEN).await, (401, "TG-TOKEN-SIGNATURE".to_owned()));
    fs::copy(after.0.join("jwks.json"), &jwks).unwrap();
    let took = until(&mut new, 200).await;
    assert!(took < LIVE, "{took:?}");
    assert_eq!(old.asks(QWEN).await, (401, "TG-TOKEN-SIGNATURE".to_owned()));
}

#[tokio::test]
async fn keys_that_cannot_be_read_any_more_are_told_and_the_last_good_ones_stay() {
    let (folder, keys) = (copy(), keys());
    let good = fs::read_to_string(keys.0.join("jwks.json")).unwrap();
    let jwks = folder.file("jwks", &good);
    let tiergate = Tiergate::start_verifying(&folder.0, &jwks, &[]);
    let mut caller = Caller::with(&tiergate, &premium(&keys)).await;
    for (bad, why) in [(Some("{"), "is not a JSON Web Key Set"), (None, "No such file")] {
        match bad {
            Some(text) => fs::write(&jwks, text).unwrap(),
            None => fs::remove_file(&jwks).unwrap(),
        }
        let told = tiergate.await_log(why);
        assert_eq!((&told["level"], &told["code"]), (&"ERROR".into(), &"setting-unreadable".into()), "{told}");
        let problem = only(problems(&tiergate, "setting-unreadable").await);
        assert_eq!(problem["place"]["file"], jwks.display().to_string(), "{problem}");
        assert!(problem["in_force"].as_str().unwrap().starts_with("its last good version, since "), "{problem}");
        assert_eq!(tiergate.metric("tiergate_policy_findings", "setting-unreadable").await, 1);
        assert_eq!(tiergate.metric("tiergate_policy_objects_last_good", "").await, 1);
        assert_eq!(caller.asks(QWEN).await.0, 200);
        fs::write(&jwks, &good).unwrap();
        assert_eq!(tiergate.await_log("no longer so")["code"], "setting-unreadable");
        assert_eq!(problems(&tiergate, "setting-unreadable").await, Vec::<Value>::new());
        assert_eq!(tiergate.metric("tiergate_policy_objects_last_good", "").await, 0);
        assert_eq!(caller.asks(QWEN).await.0, 200);
    }
}

/// Nothing tells of a change of what a link in the folder points to.
#[tokio::test]
async fn a_hangup_has_all_files_read_again_and_ends_nothing() {
    let (folder, elsewhere, keys) = (copy(), Folder::new(), keys());
    for (dir, name) in [(&folder.0, "models.yaml"), (&keys.0, "jwks.json")] {
        fs::rename(dir.join(name), elsewhere.0.join(name)).unwrap_or_else(|_| {
            fs::copy(dir.join(name), elsewhere.0.join(name)).unwrap();
            fs::remove_file(dir.join(name)).unwrap();
        });
        symlink(elsewhere.0.join(name), dir.join(name)).unwrap();
    }
    let log = elsewhere.file("log", "info\n");
    symlink(&log, folder.0.join("log")).unwrap();
    let flag = format!("@{}", folder.0.join("log").display());
    let tiergate = Tiergate::start_verifying(&folder.0, &keys.0.join("jwks.json"), &["--log", &flag]);
    let mut caller = Caller::with(&tiergate, &premium(&keys)).await;
    assert_eq!(caller.asks(QWEN).await.0, 200);
    let changes = [
        ("models.yaml", "", "policy published"),
        ("log", "info,tiergate=trace", "read again, and in use"),
        ("jwks.json", "{", "is not a JSON Web Key Set"),
    ];
    for (file, text, told) in changes {
        match file {
            "models.yaml" => replace(&elsewhere.0, file, "[\"premium\",\"enterprise\"]", "[\"enterprise\"]"),
            _ => fs::write(elsewhere.0.join(file), text).unwrap(),
        }
        let asked = Instant::now();
        tiergate.signal("HUP");
        let lines = tiergate.log_until(told);
        assert!(asked.elapsed() < LIVE, "{file}: {:?}", asked.elapsed());
        assert!(lines.iter().any(|line| line["message"] == "files are read again"), "{file}: {lines:?}");
    }
    assert_eq!(caller.asks(QWEN).await.0, 403);
}

#[tokio::test]
async fn what_is_logged_follows_its_file() {
    let (folder, keys) = (copy(), keys());
    let file = folder.file("log-level", "info\n");
    let flag = format!("@{}", file.display());
    let tiergate = Tiergate::start_verifying(&folder.0, &keys.0.join("jwks.json"), &["--log", &flag]);
    let detail = |tiergate: &Tiergate| tiergate.logged().iter().any(|line| line["level"] == "DEBUG");
    fs::write(&file, "debug").unwrap();
    tiergate.await_log("read again, and in use");
    let started = Instant::now();
    let mut caller = Caller::with(&tiergate, &premium(&keys)).await;
    while !detail(&tiergate) {
        assert!(started.elapsed() < LIVE, "requests are logged in detail");
        caller.asks(QWEN).await;
    }
    fs::write(&file, "everything").unwrap();
    let told = tiergate.await_log("has to be a level");
    assert_eq!((&told["level"], &told["code"]), (&"ERROR".into(), &"setting-unreadable".into()), "{told}");
    fs::write(&file, "info").unwrap();
    tiergate.await_log("no longer so");
    tiergate.logged();
    caller.asks(QWEN).await;
    assert!(!detail(&tiergate));
}
