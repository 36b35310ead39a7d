//! Single slips in the tour's manifests: a key misspelt, a value of another type, an object moved or gone. Each has to be an error of
//! `tiergate check` or, of what is gone or may be meant, a line while it is served. One in a key or value may let nothing through that
//! was not let through before, and lift no limit. What is moved or gone may: a policy whose target is not there has no effect. That has
//! to be told, then.

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::path::Path;
use std::sync::Arc;

use clap::Parser;
use serde_json::{Value, json};
use tiergate::args::{Cli, Command};
use tiergate::clock::{Clock, Nanos};
use tiergate::gate::{Gate, LimitEvidence};
use tiergate::limit::{Limits, Memory};
use tiergate::metrics::Metrics;
use tiergate::policy::{Options, Policy};
use tiergate::problem::Finding;
use tiergate::request::{Headers, OperatorModel, Request};
use tiergate::settings::GateSettings;
use tiergate::source::Folder as Source;
use tokio::runtime::Runtime;

use crate::reload::Caller;
use crate::support::{Folder, KEYS, Tiergate, get, root, token};

/// The manifests as values, by file: the documents of each.
type World = Vec<(String, Vec<Value>)>;

/// One slip, and the world with it.
struct Slip {
    what: String,
    kind: Kind,
    world: World,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A key that is ours, or a value that is read.
    Misspelt,
    Retyped,
    Moved,
    /// What only grants something, or takes its Gateway's policies along, may be meant to be in another namespace; and the only
    /// AuthPolicy for a Gateway of another folder, without which nobody is let in.
    Elsewhere,
    Gone,
}

/// A step on the way to a value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Item(usize),
}

/// What a request gets: a refusal, or the limits that it counts in.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Got {
    Refused(String),
    Allowed(BTreeSet<String>),
}

// === the slips ===

/// Names that the user chooses: another one is another name, and no mistake.
const NAMES: &[&str] = &["limits.*", "rules.authentication.*", "rules.authorization.*", "metadata.labels.*"];

/// What is known and not read: where the backends are, and of which class the Gateway is.
const UNREAD: &[&str] =
    &["backendRefs", "gatewayClassName", "protocol", "contentType", "spec.rules.*.cache.key", "description"];

fn tour() -> World {
    let mut files: Vec<_> =
        std::fs::read_dir(root("examples/manifests")).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let read = |path: &std::path::PathBuf| {
        let documents: Vec<Value> = serde_saphyr::from_multiple(&std::fs::read_to_string(path).unwrap()).unwrap();
        // YAML inside YAML is made of keys and values too.
        let open = |mut document: Value| {
            if let Some(tiers) = document.pointer_mut("/data/tiers") {
                *tiers = serde_saphyr::from_str(tiers.as_str().unwrap()).unwrap();
            }
            document
        };
        (path.file_name().unwrap().to_str().unwrap().to_owned(), documents.into_iter().map(open).collect())
    };
    files.iter().map(read).collect()
}

/// Every path to a value of `value`.
fn paths(value: &Value, at: &mut Vec<Step>, found: &mut Vec<Vec<Step>>) {
    if !at.is_empty() {
        found.push(at.clone());
    }
    let mut inside = |step: Step, value: &Value| {
        at.push(step);
        paths(value, at, found);
        at.pop();
    };
    match value {
        Value::Object(entries) => entries.iter().for_each(|(key, value)| inside(Step::Key(key.clone()), value)),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, value)| inside(Step::Item(i), value)),
        _ => {}
    }
}

fn at<'v>(value: &'v mut Value, path: &[Step]) -> &'v mut Value {
    path.iter().fold(value, |value, step| match step {
        Step::Key(key) => value.get_mut(key).unwrap(),
        Step::Item(i) => value.get_mut(i).unwrap(),
    })
}

fn shown(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text += key,
            Step::Key(key) => text += &format!(".{key}"),
            Step::Item(i) => text += &format!("[{i}]"),
        }
    }
    text
}

/// Whether a pattern of names, `*` for any one, is part of the path.
fn holds(path: &[Step], pattern: &str) -> bool {
    let names: Vec<&str> =
        path.iter().filter_map(|step| if let Step::Key(key) = step { Some(key.as_str()) } else { None }).collect();
    let pattern: Vec<&str> = pattern.split('.').collect();
    names
        .windows(pattern.len())
        .any(|window| window.iter().zip(&pattern).all(|(name, wanted)| *wanted == "*" || name == wanted))
}

/// Whether it ends with the pattern.
fn ends_with(path: &[Step], pattern: &str) -> bool {
    let parts = pattern.split('.').count();
    path.len() >= parts && matches!(path.last(), Some(Step::Key(_))) && holds(&path[path.len() - parts..], pattern)
}

/// Ways to misspell a key.
fn misspellings(key: &str) -> Vec<String> {
    let chars: Vec<char> = key.chars().collect();
    let middle = chars.len() / 2;
    let without: String = chars.iter().enumerate().filter(|(i, _)| *i != middle).map(|(_, c)| *c).collect();
    let mut swapped = chars.clone();
    swapped.swap(middle - 1, middle);
    let first = chars[0].to_uppercase().chain(chars[1..].iter().copied()).collect();
    [without, swapped.into_iter().collect(), first, format!("{key}s")]
        .into_iter()
        .filter(|other| other != key)
        .collect()
}

/// Values of other types.
fn retyped(value: &Value) -> Vec<Value> {
    [json!(7), json!("text"), json!(true), json!(["text"]), json!({ "key": "value" })]
        .into_iter()
        .filter(|other| std::mem::discriminant(other) != std::mem::discriminant(value))
        .collect()
}

fn slips() -> Vec<Slip> {
    let (tour, mut slips) = (tour(), Vec::new());
    for (f, (file, documents)) in tour.iter().enumerate() {
        for (d, document) in documents.iter().enumerate() {
            let object = format!(
                "{file}: {} {}",
                document["kind"].as_str().unwrap(),
                document["metadata"]["name"].as_str().unwrap()
            );
            let mut slip = |what: String, kind, edit: &dyn Fn(&mut Value)| {
                let mut world = tour.clone();
                edit(&mut world[f].1[d]);
                slips.push(Slip { what: format!("{object}: {what}"), kind, world });
            };
            let mut found = Vec::new();
            paths(document, &mut Vec::new(), &mut found);
            for path in found.iter().filter(|path| UNREAD.iter().all(|pattern| !holds(path, pattern))) {
                let (last, above) = path.split_last().unwrap();
                if let Step::Key(key) = last
                    && key.len() > 2
                    && NAMES.iter().all(|pattern| !ends_with(path, pattern))
                {
                    for other in misspellings(key) {
                        slip(format!("{} is `{other}`", shown(path)), Kind::Misspelt, &|document| {
                            let Value::Object(entries) = at(document, above) else { panic!("a mapping") };
                            let value = entries.remove(key).unwrap();
                            entries.insert(other.clone(), value);
                        });
                    }
                }
                let mut document = document.clone();
                for other in retyped(at(&mut document, path)) {
                    slip(format!("{} is {other}", shown(path)), Kind::Retyped, &|document| {
                        *at(document, path) = other.clone()
                    });
                }
            }
            if document["metadata"].get("namespace").is_some() {
                let guards = ["AuthPolicy", "RateLimitPolicy", "TokenRateLimitPolicy", "Gateway", "ConfigMap"];
                let kind = match guards.contains(&document["kind"].as_str().unwrap()) {
                    true => Kind::Moved,
                    false => Kind::Elsewhere,
                };
                slip("is in another namespace".to_owned(), kind, &|document| {
                    document["metadata"]["namespace"] = json!("elsewhere");
                });
            }
            if let Some(target) = document.pointer("/spec/targetRef/name") {
                let near = format!("{}s", target.as_str().unwrap());
                let is_auth = document["kind"] == "AuthPolicy";
                for (name, kind) in
                    [("another", if is_auth { Kind::Elsewhere } else { Kind::Moved }), (&near, Kind::Moved)]
                {
                    slip(format!("is for {name}"), kind, &|document| {
                        document["spec"]["targetRef"]["name"] = json!(name)
                    });
                }
            }
            if document.pointer("/spec/parentRefs").is_some() {
                slip("has another parent".to_owned(), Kind::Moved, &|document| {
                    document["spec"]["parentRefs"][0]["name"] = json!("another");
                });
            }
            let mut world = tour.clone();
            world[f].1.remove(d);
            slips.push(Slip { what: format!("{object}: is gone"), kind: Kind::Gone, world });
        }
    }
    slips
}

fn write(world: &World, folder: &Path) {
    for (file, documents) in world {
        let text: Vec<String> = documents
            .iter()
            .map(|document| {
                let mut document = document.clone();
                if let Some(tiers) = document.pointer_mut("/data/tiers")
                    && !tiers.is_string()
                    && tiers.is_array()
                {
                    *tiers = Value::String(tiers.to_string());
                }
                document.to_string()
            })
            .collect();
        let (path, text) = (folder.join(file), text.join("\n---\n"));
        if std::fs::read_to_string(&path).ok().as_ref() != Some(&text) {
            std::fs::write(path, text).unwrap();
        }
    }
}

// === what requests get ===

/// Callers and paths that the tour tells apart.
struct Probes {
    tokens: Vec<(String, Option<String>)>,
}

const PATHS: [&str; 4] = [
    "/llm/qwen3/v1/chat/completions",
    "/llm/granite/v1/chat/completions",
    "/llm/draft/v1/chat/completions",
    "/lab/phi/v1/chat/completions",
];

impl Probes {
    fn new() -> Self {
        let manifests = root("examples/manifests");
        let mut tokens = vec![("nobody".to_owned(), None)];
        for (_, documents) in tour() {
            for document in documents.iter().filter(|document| document["kind"] == "ServiceAccount") {
                let meta = &document["metadata"];
                let (namespace, name) = (meta["namespace"].as_str().unwrap(), meta["name"].as_str().unwrap());
                tokens.push((format!("{namespace}/{name}"), Some(token(namespace, name, &manifests))));
            }
        }
        Probes { tokens }
    }

    /// What each gets who asks for each.
    fn ask(&self, gate: &mut Gate, runtime: &Runtime) -> Vec<(String, Got)> {
        // Nobody has used anything yet.
        gate.limits = Arc::new(Limits::in_memory(Memory::default()));
        let mut all = Vec::new();
        for (who, token) in &self.tokens {
            for path in PATHS {
                let authorization = token.as_ref().map(|token| format!("Bearer {token}"));
                let headers = authorization.iter().map(|value| ("authorization", value.as_bytes()));
                let request = Request {
                    method: "POST",
                    host: "127.0.0.1:10000",
                    scheme: "http",
                    path,
                    query: None,
                    headers: Headers::List(headers.collect()),
                    gateway: None,
                    listener: None,
                    port: None,
                    peer: None,
                    sni: None,
                    model: OperatorModel::Unset,
                    body: None,
                };
                let decision = runtime.block_on(gate.check(&request, Nanos(0)));
                let got = match &decision.outcome {
                    Err(denial) => Got::Refused(denial.code.as_str().to_owned()),
                    Ok(_) => {
                        let rate = |limit: &LimitEvidence| {
                            let standing = limit.standing.as_ref()?;
                            Some(format!("{}: {} per {:?}", limit.name, standing.limit(), standing.window()))
                        };
                        Got::Allowed(decision.evidence.limits.iter().filter_map(rate).collect())
                    }
                };
                all.push((format!("{who} at {path}"), got));
            }
        }
        all
    }
}

impl Display for Got {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Got::Refused(code) => f.write_str(code),
            Got::Allowed(limits) => write!(f, "allowed under {limits:?}"),
        }
    }
}

/// A folder that is served in process.
struct Served {
    folder: Folder,
    source: Source,
    options: Options,
    gate: Gate,
}

impl Served {
    /// That of the tour.
    fn start() -> Self {
        let folder = Folder::new();
        write(&tour(), &folder.0);
        let words = [
            "tiergate",
            "serve",
            "--grant-from-annotation",
            &format!("--manifests={}", folder.0.display()),
            &format!("--jwks={}", KEYS.0.join("jwks.json").display()),
        ];
        let Command::Serve(args) = Cli::try_parse_from(words).unwrap().command else { panic!("it serves") };
        let options: Options = args.policy.clone().into();
        let mut source = Source::new(&folder.0, options.clone());
        let policy = source.load().unwrap().unwrap();
        let gate =
            tiergate::app::gate(&GateSettings::from(&*args), policy, Clock::start(), &Metrics::new().api).unwrap();
        Served { folder, source, options, gate }
    }

    /// While it is served, the folder becomes `world`.
    fn edit(&mut self, world: &World) -> Arc<Policy> {
        write(world, &self.folder.0);
        if let Some(policy) = self.source.load().unwrap() {
            self.gate.policies.publish(policy);
        }
        Arc::clone(&self.gate.policies.current())
    }

    /// It starts with `world`.
    fn restart(&mut self, world: &World) -> Arc<Policy> {
        self.source = Source::new(&self.folder.0, self.options.clone());
        self.edit(world)
    }
}

/// Whatever slips are tried on.
struct Trial {
    runtime: Runtime,
    probes: Probes,
    served: Served,
    /// What requests get of the tour.
    base: Vec<(String, Got)>,
}

impl Trial {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (probes, mut served) = (Probes::new(), Served::start());
        let base = probes.ask(&mut served.gate, &runtime);
        let limited = |(_, got): &(String, Got)| matches!(got, Got::Allowed(limits) if limits.len() == 2);
        assert!(base.iter().any(limited), "{base:?}");
        Trial { runtime, probes, served, base }
    }

    /// The first request that gets more than of the tour.
    fn opened(&mut self) -> Option<String> {
        let now = self.probes.ask(&mut self.served.gate, &self.runtime);
        let mut more =
            now.iter().zip(&self.base).filter(|(now, before)| now != before && !matches!(now.1, Got::Refused(_)));
        more.next().map(|((who, now), (_, before))| format!("{who}: {now}; before: {before}"))
    }

    /// What is not as it should be.
    fn faults(&mut self, slip: &Slip) -> Vec<String> {
        let mut faults = Vec::new();
        let is_error = |policy: &Policy| policy.problems.iter().any(|problem| problem.is_error());
        let told = |policy: &Policy| policy.problems.iter().any(|problem| problem.code == Finding::ObjectGone);
        let may_open = matches!(slip.kind, Kind::Moved | Kind::Gone);
        let at_start = self.served.restart(&slip.world);
        if !matches!(slip.kind, Kind::Elsewhere | Kind::Gone) && !is_error(&at_start) {
            faults.push(format!("{}: `tiergate check` finds no error", slip.what));
        }
        // Of what was gone before the start nothing is known.
        let may_at_start = may_open && (is_error(&at_start) || slip.kind == Kind::Gone);
        faults.extend(self.opened().filter(|_| !may_at_start).map(|how| format!("{}: at the start: {how}", slip.what)));
        self.served.restart(&tour());
        let live = self.served.edit(&slip.world);
        if !is_error(&live) && !told(&live) {
            faults.push(format!("{}: nothing is said while it is served", slip.what));
        }
        let may_live = may_open && (is_error(&live) || told(&live));
        faults
            .extend(self.opened().filter(|_| !may_live).map(|how| format!("{}: while it is served: {how}", slip.what)));
        faults
    }
}

#[test]
fn no_slip_goes_unsaid_and_none_in_a_key_or_value_opens_anything() {
    let slips = slips();
    let halves = slips.chunks(slips.len().div_ceil(2));
    let faults: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = halves
            .map(|half| {
                scope.spawn(move || {
                    let mut trial = Trial::new();
                    half.iter().flat_map(|slip| trial.faults(slip)).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    println!("{} slips", slips.len());
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// How many are tried on a process.
const LIVE: usize = 100;

#[tokio::test]
async fn slips_are_told_where_operators_look_and_let_nobody_in() {
    let seed = std::env::var("TIERGATE_SLIPS_SEED")
        .map_or_else(|_| uuid::Uuid::new_v4().as_u128() as u64, |seed| seed.parse().unwrap());
    println!("TIERGATE_SLIPS_SEED={seed}");
    let folder = Folder::new();
    write(&tour(), &folder.0);
    let tiergate = Tiergate::start(&folder.0, &[]);
    let mut ungranted = Caller::of(&tiergate, "free", "alice-12345678").await;
    let (slips, mut random, mut before) = (slips(), seed, Vec::<Value>::new());
    for _ in 0..LIVE {
        // Knuth's multiplier; the high bits are the random ones.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let slip = &slips[(random >> 33) as usize % slips.len()];
        write(&slip.world, &folder.0);
        let log = tiergate.log_until("policy published");
        let problems = told(&tiergate).await;
        let new: Vec<&Value> = problems.iter().filter(|problem| !before.contains(*problem)).collect();
        assert!(!new.is_empty(), "{}: {problems:?}", slip.what);
        for problem in new {
            let (code, message) = (&problem["code"], &problem["message"]);
            assert!(
                log.iter().any(|line| line["code"] == *code && line["message"] == *message),
                "{}: {problem}",
                slip.what
            );
            let labels = format!("code={code}");
            assert!(tiergate.metric("tiergate_policy_findings", &labels).await > 0, "{}: {labels}", slip.what);
        }
        let (status, _) = ungranted.asks("/llm/qwen3/v1/chat/completions").await;
        assert_ne!(status, 200, "{}", slip.what);
        write(&tour(), &folder.0);
        let log = tiergate.log_until("policy published");
        assert!(
            log.iter().any(|line| line["message"].as_str().unwrap().starts_with("no longer so: ")),
            "{}: {log:?}",
            slip.what
        );
        // What went before is told for an hour.
        before = told(&tiergate).await;
    }
}

/// The errors and departures on `/problems`.
async fn told(tiergate: &Tiergate) -> Vec<Value> {
    let Value::Array(mut problems) = get(tiergate.http, "/problems").await.json()["problems"].take() else {
        panic!("a list")
    };
    problems.retain(|problem| problem["code"] == "object-gone" || problem["severity"] == "error");
    problems
}
