//! The shipped configurations of Envoy, each with an edit that undoes something: the linter says so at its place, and where the gate
//! opens, it opens on a real Envoy. The edits are those of `tests/data/undone.yaml`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::Value;

use crate::envoy::{BODY, Gateway, gateway_before, shipped};
use crate::support::{Answer, Connection, Folder, Process, TIERGATE, Tiergate, example, free_port, post, root, token};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Undone {
    about: String,
    file: Option<String>,
    edit: Edit,
    also: Option<Edit>,
    says: Vec<BTreeMap<String, String>>,
    opens: Option<Opens>,
    untried: Option<String>,
}

/// Where an edit is made, by the beginning of a line, and what is put there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    r#in: Option<String>,
    below: Option<String>,
    above: Option<String>,
    instead: Option<String>,
    around: Option<String>,
    put: String,
}

/// For whom the gate opens.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Opens {
    Anybody,
    Header,
    Upgrade,
    Port,
    Runtime,
    Away,
    Spent,
}

fn table() -> Vec<Undone> {
    serde_saphyr::from_str(&shipped("tests/data/undone.yaml")).unwrap()
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn deeper<'a>(lines: impl Iterator<Item = &'a str>, depth: usize) -> Vec<String> {
    lines.map(|line| format!("{:depth$}{line}", "")).collect()
}

impl Undone {
    /// The shipped file with its edits.
    fn config(&self) -> String {
        let text = shipped(&format!("envoy/{}", self.file.as_deref().unwrap_or("tiergate.yaml")));
        let text = self.edit.made(&text);
        self.also.as_ref().map_or(text.clone(), |also| also.made(&text))
    }
}

impl Edit {
    fn made(&self, text: &str) -> String {
        let anchors = [&self.r#in, &self.below, &self.above, &self.instead, &self.around].map(Option::as_deref);
        let anchor = anchors.into_iter().flatten().next().expect("a line");
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let found = lines.iter().position(|line| line.trim_start().starts_with(anchor));
        let found = found.unwrap_or_else(|| panic!("no line begins with `{anchor}`"));
        let depth = indent(&lines[found]);
        let put = |depth| deeper(self.put.lines(), depth);
        let (range, new) = match anchors {
            [Some(_), ..] => (found + 1..found + 1, put(depth + 2)),
            [_, Some(_), ..] => (found + 1..found + 1, put(depth)),
            [_, _, Some(_), ..] => (found..found, put(depth)),
            [_, _, _, Some(_), _] => (found..found + 1, put(depth)),
            _ => {
                // The line behind the name is `typed_config:`.
                let inside = found + 2;
                let end = inside + lines[inside..].iter().position(|line| indent(line) <= depth).unwrap();
                let body: Vec<&str> =
                    lines[inside..end].iter().map(|line| line.get(depth + 4..).unwrap_or_default()).collect();
                let new = put(depth + 4).into_iter().flat_map(|line| match line.trim() {
                    "..." => deeper(body.iter().copied(), indent(&line)),
                    _ => vec![line],
                });
                (inside..end, new.collect())
            }
        };
        lines.splice(range, new);
        lines.join("\n") + "\n"
    }
}

/// The code of every finding, and the line where it is.
fn found(config: &str, folder: &Folder) -> (Option<i32>, Vec<BTreeMap<String, String>>) {
    let file = folder.file("envoy.yaml", config);
    let mut command = Command::new(TIERGATE);
    command.arg("check").arg(root("examples/manifests")).args(["--grant-from-annotation", "--format", "json"]);
    let output = command.arg("--envoy").arg(file).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let line = |problem: &Value| {
        let at = problem["place"]["line"].as_u64().and_then(|line| usize::try_from(line).ok()).unwrap();
        let line = config.lines().nth(at - 1).unwrap().trim().to_owned();
        BTreeMap::from([(problem["code"].as_str().unwrap().to_owned(), line)])
    };
    (output.status.code(), report["problems"].as_array().unwrap().iter().map(line).collect())
}

#[test]
fn every_edit_that_undoes_something_is_found_at_its_place() {
    let folder = Folder::new();
    let mut faults = Vec::new();
    for row in table() {
        let (code, found) = found(&row.config(), &folder);
        let begins = |(says, found): (&BTreeMap<String, String>, &BTreeMap<String, String>)| {
            says.iter().zip(found).all(|(says, found)| says.0 == found.0 && found.1.starts_with(says.1))
        };
        let as_said = row.says.len() == found.len() && row.says.iter().zip(&found).all(begins);
        let is_error = row.says.iter().flatten().any(|(code, _)| {
            matches!(code.as_str(), "envoy-fail-open" | "envoy-check-missing" | "envoy-descriptors-mixed")
        });
        if !as_said || code != Some(i32::from(is_error)) {
            faults.push(format!("{}: {code:?}, {found:#?}", row.about));
        }
        let tried = usize::from(row.opens.is_some()) + usize::from(row.untried.is_some());
        if tried != usize::from(is_error) {
            faults.push(format!("{}: an error says for whom the gate opens, or why that is not tried", row.about));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A model, a tiergate for each of the two setups, and a caller who has nothing left.
struct World {
    model: u16,
    one_call: Tiergate,
    two_calls: Tiergate,
    free: String,
    _model: Process,
}

impl World {
    async fn start() -> Self {
        let model = free_port();
        let mut command = Command::new(example("model"));
        command.args(["--listen", &format!("127.0.0.1:{model}")]).stdout(Stdio::null()).stderr(Stdio::null());
        let process = Process(command.spawn().unwrap());
        let _ = Connection::open(SocketAddr::from(([127, 0, 0, 1], model))).await;
        let manifests = root("examples/manifests");
        let free = token("maas-default-gateway-tier-free", "alice-12345678", &manifests);
        let one_call = Tiergate::start(&manifests, &[]);
        let two_calls = Tiergate::start(&manifests, &["--enforce-limits", "rls"]);
        World { model, one_call, two_calls, free, _model: process }
    }

    async fn gateway(&self, config: &str, opens: Opens) -> Gateway {
        let tiergate = match opens {
            Opens::Away => free_port(),
            Opens::Spent => self.two_calls.grpc.port(),
            _ => self.one_call.grpc.port(),
        };
        gateway_before(config, &[tiergate], self.model).await
    }

    /// What somebody is answered who should not pass.
    async fn knock(&self, gateway: &Gateway, opens: Opens, other: u16) -> Answer {
        let chat = "/llm/granite/v1/chat/completions";
        let bearer = format!("Bearer {}", self.free);
        let (address, method, path, header) = match opens {
            Opens::Anybody | Opens::Runtime | Opens::Away => (gateway.address, "POST", chat, None),
            Opens::Header => (gateway.address, "POST", chat, Some(("x-admin", "1"))),
            Opens::Upgrade => (gateway.address, "GET", "/llm/granite/v1/models", Some(("upgrade", "websocket"))),
            Opens::Port => (SocketAddr::from(([127, 0, 0, 1], other)), "POST", chat, Some(("x-cluster", "model"))),
            Opens::Spent => (gateway.address, "POST", chat, Some(("authorization", bearer.as_str()))),
        };
        let connection = if opens == Opens::Upgrade { "upgrade" } else { "keep-alive" };
        let mut headers = vec![("content-type", "application/json"), ("connection", connection)];
        headers.extend(header);
        let body = if method == "POST" { BODY } else { "" };
        Connection::open(address).await.send(method, path, &headers, body).await
    }
}

#[tokio::test]
async fn what_is_said_to_open_opens_a_real_envoy() {
    let world = World::start().await;
    // As they are shipped, nobody passes.
    let (one_call, two_calls) = (shipped("envoy/tiergate.yaml"), shipped("envoy/classic.yaml"));
    let gateway = world.gateway(&one_call, Opens::Anybody).await;
    for (opens, status) in [(Opens::Anybody, 401), (Opens::Header, 401), (Opens::Upgrade, 403)] {
        let answer = world.knock(&gateway, opens, 0).await;
        assert_eq!(answer.status, status, "{opens:?}: {}", answer.body);
    }
    let gateway = world.gateway(&one_call, Opens::Away).await;
    assert_eq!(world.knock(&gateway, Opens::Away, 0).await.status, 503);
    let gateway = world.gateway(&two_calls, Opens::Spent).await;
    let mut statuses = Vec::new();
    while !statuses.contains(&429) && statuses.len() < 10 {
        statuses.push(world.knock(&gateway, Opens::Spent, 0).await.status);
    }
    assert_eq!(statuses.last(), Some(&429), "{statuses:?}");

    let mut faults = Vec::new();
    for row in table() {
        let Some(opens) = row.opens else { continue };
        let other = free_port();
        let config = row.config().replace("port_value: 10001", &format!("port_value: {other}"));
        let gateway = world.gateway(&config, opens).await;
        if opens == Opens::Runtime {
            let set = post(gateway.admin, "/runtime_modify?check.percent=0&check.deny=false", "").await;
            assert_eq!(set.status, 200, "{}", set.body);
        }
        let answer = world.knock(&gateway, opens, other).await;
        if answer.status != 200 {
            faults.push(format!("{}: {} {}", row.about, answer.status, answer.body));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
