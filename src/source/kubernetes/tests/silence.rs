//! A server that hangs keeps its watches open: what is known of it then.

use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc::channel;

use super::*;
use crate::source::kubernetes::heartbeat::heartbeat;

fn well() -> ClusterEvent {
    ClusterEvent::Heartbeat(Ok(()))
}

fn silent(why: &str) -> ClusterEvent {
    ClusterEvent::Heartbeat(Err(why.to_owned()))
}

fn away() -> Update {
    Update::Failed(WatchFault::Unreachable("reset".to_owned()))
}

fn known() -> ObjectStore {
    let mut store = ObjectStore::new("https://server", &watches(&["Gateway", "Role"]), Clock::start());
    for at in 0..2 {
        store.apply(at, Update::Listed(Vec::new()));
        store.apply(at, Update::Watching);
    }
    store
}

/// The time that is allowed for does not begin anew because the connections end later than the answers.
#[test]
fn a_watch_that_fails_in_a_silence_has_been_blind_since_it_began() {
    let mut store = known();
    store.take(silent("no answer within 3 s"));
    let since = store.outdated().unwrap().since;
    assert!(store.apply(0, away()));
    assert!(store.take(well()));
    let outdated = store.outdated().unwrap();
    assert_eq!((outdated.since, outdated.why.contains("gateways")), (since, true), "{outdated:?}");
    assert!(store.apply(0, Update::Watching));
    assert_eq!(store.outdated(), None);
}

#[test]
fn a_watch_that_is_cut_and_stands_again_leaves_nothing_behind() {
    let mut store = known();
    assert!(store.apply(1, away()));
    assert!(store.outdated().is_some());
    assert!(store.apply(1, Update::Watching));
    assert_eq!((store.outdated(), store.problems()), (None, Vec::new()));
    assert!(!store.apply(1, Update::Watching));
}

/// The source compiles on the thread that reads the answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_came_while_the_thread_was_busy_is_one() {
    let version = json!({
        "major": "1", "minor": "35", "gitVersion": "v1", "gitCommit": "", "gitTreeState": "", "buildDate": "",
        "goVersion": "", "compiler": "", "platform": "",
    });
    let server = Scripted::start(vec![Answer::Json(200, version)]).await;
    let url = server.url.parse().unwrap();
    let seen = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let client = Client::try_from(Config::new(url)).unwrap();
            let (send, mut updates) = channel(4);
            tokio::spawn(async move { heartbeat(&client, &send).await });
            server.asked(1).await;
            // As long as a compilation that is slower than the server may be.
            std::thread::sleep(Duration::from_millis(3_300));
            next(&mut updates).await
        })
    });
    assert_eq!(seen.join().unwrap(), "server Ok(())");
}
