//! The files that a serving process goes by: what it opens, and what becomes of changes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecursiveMode, Watcher};

use crate::reload::{Caller, copy, replace};
use crate::support::{Folder, PATIENCE, Tiergate, generous_manifests, keys, root, soak, token_by};

const QWEN: &str = "/llm/qwen3/v1/chat/completions";
/// The goal is a second; a loaded machine gets five times as long. Where nothing tells of a change, it is seen after ten.
const LIVE: Duration = Duration::from_secs(5);

fn premium(keys: &Folder) -> String {
    token_by(keys, "maas-default-gateway-tier-premium", "jland-78028f6d", &root("examples/manifests"))
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
    let ways: [(&str, &dyn Fn(&Path, &str)); 6] = [
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
