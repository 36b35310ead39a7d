//! Where a token must not be.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use crate::h2::{call, grpc_message};
use crate::support::{Folder, TIERGATE, Tiergate, get, post, root};
use crate::wire::{channel, check, check_request, demo, http, premium};

/// A process that would dump, if it did not forbid itself to. (A SIGSEGV that is sent is taken by the handler of std, once; a
/// SIGQUIT is ignored by what a script starts in the background.)
#[tokio::test]
async fn a_crash_leaves_no_core_dump() {
    let folder = Folder::new();
    for signal in ["ABRT", "SYS"] {
        let mut command = Command::new("sh");
        // Where the hard limit is 0 nothing can be dumped anyway.
        command.args(["-c", "ulimit -c unlimited 2>/dev/null; exec \"$0\" \"$@\"", TIERGATE]).current_dir(&folder.0);
        let tiergate = Tiergate::start_as(command, &root("examples/manifests"), &[]);
        tiergate.signal(signal);
        let (ended, _) = tiergate.ended().await;
        assert!(ended.signal().is_some() && !ended.core_dumped(), "{signal}: {ended}");
    }
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 0, "no file of a core");
}

/// At the most talkative level, in answers, metrics and pages.
#[tokio::test]
async fn a_token_is_in_no_output() {
    let tiergate = demo(&["--log", "trace", "--verbose-refusals"]);
    let channel = channel(&tiergate).await;
    let good = premium();
    let (rest, signature) = good.rsplit_once('.').unwrap();
    let forged = format!("{rest}.{}", signature.chars().rev().collect::<String>());
    let mut outputs = Vec::new();
    for token in [good.as_str(), &forged, "canary-token"] {
        let inside = format!("/llm/{good}/v1?token={good}");
        for path in ["/llm/qwen3/v1", "/llm/draft/v1", "/llm//x", "/nowhere", &inside] {
            let request = check_request(http(path, Some(&format!("Bearer {token}"))));
            outputs.push(format!("{:?}", check(&channel, request).await));
        }
    }
    for page in ["/metrics", "/problems", "/readyz"] {
        outputs.push(get(tiergate.http, page).await.body);
    }
    for page in ["/explain", "/explain?format=json"] {
        outputs.push(get(tiergate.admin, page).await.body);
    }
    for entry in get(tiergate.admin, "/explain?format=json").await.json()["decisions"].as_array().unwrap() {
        let page = format!("/explain/{}", entry["decision_id"].as_str().unwrap());
        outputs.push(get(tiergate.admin, &page).await.body);
        outputs.push(get(tiergate.admin, &format!("{page}?format=json")).await.body);
    }
    outputs.push(get(tiergate.admin, &format!("/explain/{good}")).await.body);
    // Where no token belongs, and one may come all the same: in a call's own metadata and path, in a page's headers, path and
    // body. (The lookup names the groups that it was asked for, as maas-api does: to whoever asked, and to nobody else.)
    let bearer = format!("Bearer {good}");
    let metadata = [("authorization", bearer.as_str())];
    for (path, message) in [("envoy.service.auth.v3.Authorization/Check", &[0xff; 9][..]), (&good, &[])] {
        outputs.push(format!("{:?}", call(tiergate.grpc, path, &metadata, &[&grpc_message(message)], true).await));
    }
    let mut connection = crate::support::Connection::open(tiergate.http).await;
    for path in ["/metrics", &format!("/{good}")] {
        outputs.push(connection.send("GET", path, &metadata, "").await.body);
    }
    for body in [format!("{{\"groups\": \"{good}\"}}"), format!("{{\"groups\": [{good}]}}"), good.clone()] {
        let answer = post(tiergate.http, "/v1/tiers/lookup", &body).await;
        assert_eq!(answer.status, 400, "{}", answer.body);
        outputs.push(answer.body);
    }
    outputs.extend(tiergate.logged().iter().map(ToString::to_string));
    assert!(outputs.len() > 30, "the log talks");
    let payload = rest.rsplit_once('.').unwrap().1;
    let reversed = forged.rsplit_once('.').unwrap().1;
    for secret in [signature, reversed, payload, "canary-token"] {
        let told = outputs.iter().find(|output| output.contains(secret));
        assert!(told.is_none(), "{told:?}");
    }
}
