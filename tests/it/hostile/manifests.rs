//! Folders that were made to exhaust whoever reads them, while requests are answered.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{get, root};
use crate::wire::{channel, check, check_request, http, outcome};

use super::{QWEN, World};

/// Unoptimised, and beside other tests, a hundred thousand objects take a while.
const LONG: Duration = Duration::from_secs(180);

/// Makes a change, and asks on until it is published: every request meanwhile is allowed. Returns how many there were.
async fn publish(world: &World, change: impl FnOnce()) -> usize {
    world.tiergate.logged();
    let channel = channel(&world.tiergate).await;
    let (bearer, started) = (world.bearer(), Instant::now());
    let mut answered = 0;
    change();
    loop {
        let asked = Instant::now();
        let response = check(&channel, check_request(http(QWEN, Some(&bearer)))).await;
        assert_eq!(outcome(&response).0, 200);
        assert!(asked.elapsed() < Duration::from_secs(10), "an answer took {:?}", asked.elapsed());
        answered += 1;
        if world.tiergate.logged().iter().any(|line| line["message"] == "policy published") {
            return answered;
        }
        assert!(started.elapsed() < LONG, "the change is published");
    }
}

/// In one step, as whoever looks at the folder sees it.
fn put(world: &World, name: &str, text: &str) {
    let hidden = world.manifests.0.with_extension("new");
    fs::write(&hidden, text).unwrap();
    fs::rename(hidden, world.manifests.0.join(name)).unwrap();
}

fn remove(world: &World, name: &str) {
    fs::remove_file(world.manifests.0.join(name)).unwrap();
}

/// What is wrong with what is there now: not what went, which is told for an hour after.
async fn problems(world: &World) -> Vec<serde_json::Value> {
    let page = get(world.tiergate.http, "/problems").await.json();
    let all = page["problems"].as_array().unwrap();
    all.iter().filter(|problem| problem["code"] != "object-gone").cloned().collect()
}

/// Shows `text` as a file, and takes it away again.
async fn visit(world: &World, text: &str) -> (usize, Vec<serde_json::Value>) {
    let answered = publish(world, || put(world, "z.yaml", text)).await;
    let found = problems(world).await;
    publish(world, || remove(world, "z.yaml")).await;
    assert_eq!(problems(world).await, Vec::<serde_json::Value>::new());
    (answered, found)
}

pub(super) async fn a_manifest_of_ten_mebibytes_is_live(world: &World) {
    let value = "x".repeat(10 * 1024 * 1024);
    let text = format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: z, labels: {{a: {value}}}}}\n");
    let (answered, found) = visit(world, &text).await;
    assert_eq!((answered > 0, found), (true, vec![]));
}

pub(super) async fn a_hundred_thousand_objects_are_live(world: &World) {
    let mut text = String::new();
    for at in 0..100_000 {
        writeln!(text, "---\n{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: a{at}, namespace: many}}}}")
            .unwrap();
    }
    let (answered, found) = visit(world, &text).await;
    assert_eq!((answered > 10, found), (true, vec![]), "{answered} requests meanwhile");
}

pub(super) async fn aliases_that_explode_are_refused(world: &World) {
    let mut text = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (name, of) in ('b'..='i').zip('a'..) {
        writeln!(text, "{name}: &{name} [*{of}, *{of}, *{of}, *{of}, *{of}, *{of}, *{of}, *{of}, *{of}]").unwrap();
    }
    let (_, found) = visit(world, &text).await;
    assert!(found.iter().any(|problem| problem["severity"] == "error"), "{found:?}");
}

/// Root may read a file of mode 000. What root cannot read either: a link that leads to itself, and memory at address 0.
pub(super) async fn a_file_that_cannot_be_read_keeps_its_objects(world: &World) {
    let users = world.manifests.0.join("users.yaml");
    let text = fs::read_to_string(&users).unwrap();
    let link = |to: &str| {
        let hidden = world.manifests.0.with_extension("new");
        let _ = fs::remove_file(&hidden);
        symlink(to, &hidden).unwrap();
        fs::rename(hidden, &users).unwrap();
    };
    let closed = || {
        let hidden = world.manifests.0.with_extension("new");
        fs::write(&hidden, &text).unwrap();
        fs::set_permissions(&hidden, fs::Permissions::from_mode(0o000)).unwrap();
        let readable = fs::read(&hidden).is_ok();
        if readable { link("/proc/self/mem") } else { fs::rename(hidden, &users).unwrap() }
    };
    let unreadable: [&dyn Fn(); 2] = [&|| link("users.yaml"), &closed];
    for make in unreadable {
        // The ServiceAccounts are in this file, and every request meanwhile is allowed.
        publish(world, make).await;
        let found = problems(world).await;
        let told =
            found.iter().any(|problem| problem["place"]["file"].as_str().is_some_and(|f| f.ends_with("users.yaml")));
        assert!(told, "{found:?}");
        world.serves().await;
        publish(world, || put(world, "users.yaml", &text)).await;
        assert_eq!(problems(world).await, Vec::<serde_json::Value>::new());
    }
}

pub(super) async fn a_folder_that_is_removed_changes_nothing_and_may_come_back(world: &World) {
    let folder: &Path = &world.manifests.0;
    let files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let files: Vec<_> = files.into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
    assert_eq!(files.len(), fs::read_dir(root("examples/manifests")).unwrap().count());
    fs::remove_dir_all(folder).unwrap();
    world.tiergate.await_log("cannot read");
    assert_eq!(world.tiergate.metric("tiergate_policy_last_reload_successful", "").await, 0);
    world.serves().await;
    // As it was, which has to be told all the same.
    publish(world, || {
        fs::create_dir(folder).unwrap();
        files.iter().for_each(|(bytes, path)| fs::write(path, bytes).unwrap());
    })
    .await;
    assert_eq!(world.tiergate.metric("tiergate_policy_last_reload_successful", "").await, 1);
    assert_eq!(problems(world).await, Vec::<serde_json::Value>::new());
}
