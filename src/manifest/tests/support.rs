//! Holds `docs/policies.md` true: each of its rows is laid into a policy, and what comes of it is what the row says.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::Regex;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::*;
use crate::lint::compile;
use crate::policy::Options;

const DOCUMENT: &str = include_str!("../../../docs/policies.md");
const ROWS: &str = include_str!("../../../tests/data/support/rows.yaml");
const BASE: &str = include_str!("../../../tests/data/support/base.yaml");
/// Every field that the CustomResourceDefinitions have: `scripts/crd_fields.py`.
const FIELDS: &str = include_str!("../../../tests/data/support/fields.txt");

/// Places of the `Debug` form.
static PLACES: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"line: \d+, column: \d+").unwrap());

const VALUE: [&str; 3] = ["value", "selector", "expression"];

/// A row of `rows.yaml`, which says what its fields mean.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    field: String,
    support: Support,
    set: Option<Value>,
    parent: Option<Map<String, Value>>,
    #[serde(default)]
    without: Vec<String>,
    #[serde(default)]
    also: Map<String, Value>,
    lift: Option<String>,
    #[serde(default)]
    base: bool,
    #[serde(default)]
    read: bool,
    /// Whether the row is about everything beneath the field too.
    #[serde(default)]
    below: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Support {
    Supported,
    Accepted,
    Refused,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rows {
    #[serde(rename = "AuthPolicy")]
    auth: Vec<Entry>,
    /// Of TokenRateLimitPolicy too.
    #[serde(rename = "RateLimitPolicy")]
    limit: Vec<Entry>,
    #[serde(rename = "Selectors")]
    selectors: Vec<Entry>,
}

/// A row with one value for each of its braces.
#[derive(Debug)]
struct Case {
    entry: Entry,
    path: Vec<String>,
    /// What follows `: `.
    note: Option<String>,
}

fn rows() -> Rows {
    serde_saphyr::from_str(ROWS).unwrap()
}

fn world() -> Vec<Value> {
    serde_saphyr::from_multiple(BASE).unwrap()
}

/// `a.{b,c}` is `a.b` and `a.c`. A brace with a quote or a dot in it is a part of a selector.
fn expand(text: &str) -> Vec<String> {
    static CHOICE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r#"\{([^{}".]+)\}"#).unwrap());
    let Some(found) = CHOICE.captures(text) else { return vec![text.to_owned()] };
    let choices = found[1].split(',').map(|choice| text.replacen(&found[0], choice, 1));
    choices.flat_map(|text| expand(&text)).collect()
}

/// `a.*[].b` as steps: `a`, `name`, `0`, `b`.
fn steps(path: &str) -> Vec<String> {
    let path = path.replace("[]", ".[0]");
    path.split('.').map(|step| if step == "*" { "name" } else { step }.to_owned()).collect()
}

/// The value at `path`, made if it is not there.
fn at<'v>(value: &'v mut Value, path: &[String]) -> &'v mut Value {
    path.iter().fold(value, |value, step| {
        if step == "[0]" {
            if !value.is_array() {
                *value = json!([{}]);
            }
            return &mut value[0];
        }
        if !value.is_object() {
            *value = json!({});
        }
        value.as_object_mut().unwrap().entry(step).or_insert(Value::Null)
    })
}

/// A path as problems show it.
fn shown(path: &[String]) -> String {
    path.join(".").replace(".[0]", "[0]")
}

// === impl Case ===

impl Case {
    fn of(entry: &Entry) -> Vec<Case> {
        let cases = expand(&entry.field).into_iter().map(|field| {
            let (path, note) = match field.split_once(": ") {
                Some((path, note)) => (path, Some(note.to_owned())),
                None => (&*field, None),
            };
            Case { entry: entry.clone(), path: steps(path), note }
        });
        cases.collect()
    }

    /// The value of the field.
    fn value(&self) -> Option<Value> {
        let leaf = self.path.last().unwrap();
        let written = self.note.as_ref().map(|note| json!(note));
        match (&self.entry.set, &self.entry.parent) {
            (Some(set), _) => Some(set.clone()),
            (None, Some(parent)) if parent.contains_key(leaf) => None,
            (None, _) if written.is_some() => written,
            (None, _) if leaf == "value" => Some(json!("some")),
            (None, _) if VALUE.contains(&&**leaf) => Some(json!("auth.identity.user.username")),
            (None, _) => None,
        }
    }

    /// Lays the row into `spec`, with all of it moved into `block`; and says where the field is then.
    fn lay(&self, spec: &mut Value, block: Option<&str>) -> Vec<String> {
        let Entry { parent, without, also, base, .. } = &self.entry;
        for path in without {
            let path = steps(path);
            let (leaf, above) = path.split_last().unwrap();
            at(spec, above).as_object_mut().unwrap().remove(leaf);
        }
        for (name, value) in also {
            spec[name] = value.clone();
        }
        let mut field = self.path.clone();
        if let Some(block) = block {
            move_into(spec, block);
            if field[0] != block {
                field.insert(0, block.to_owned());
            }
        }
        let (leaf, above) = field.split_last().unwrap();
        let around = at(spec, above);
        if let Some(parent) = parent {
            *around = Value::Object(parent.clone());
        }
        if VALUE.contains(&&**leaf) && parent.is_none() {
            *around = json!({});
        }
        if leaf == "selector" && above.last().is_some_and(|name| name == "key") {
            around["selector"] = json!("auth.identity.user.username");
        }
        if !base && let Some(value) = self.value() {
            *at(spec, &field) = value;
        }
        field
    }
}

fn move_into(spec: &mut Value, block: &str) {
    let fields = spec.as_object_mut().unwrap();
    let moved: Vec<String> = fields.keys().filter(|name| *name != "targetRef").cloned().collect();
    let moved: Map<String, Value> =
        moved.into_iter().map(|name| (name.clone(), fields.remove(&name).unwrap())).collect();
    fields.insert(block.to_owned(), Value::Object(moved));
}

/// What is wrong with the policy of `kind` in this world, and the policy without its places.
fn judge(objects: &[Value], kind: &str) -> (Vec<Problem>, String) {
    // JSON is YAML.
    let text = objects.iter().map(Value::to_string).collect::<Vec<_>>().join("\n---\n");
    let manifests = read(&text);
    let policy = match kind {
        "AuthPolicy" => format!("{:?}", manifests.auth_policies[0]),
        kind => format!("{:?}", manifests.limit_policies.iter().find(|p| &*p.meta.object.kind == kind).unwrap()),
    };
    let policy = PLACES.replace_all(&policy, "").into_owned();
    let mut problems = on_large_stack(move || compile(manifests, &Options::default()).problems).unwrap();
    // What a limit of one field counts is another matter.
    problems.retain(|problem| {
        !matches!(problem.code, crate::problem::Finding::CounterMissing | crate::problem::Finding::CounterOfCaller)
    });
    problems.retain(|problem| problem.object.as_ref().is_none_or(|object| &*object.kind == kind));
    (problems, policy)
}

fn spec_of<'w>(world: &'w mut [Value], kind: &str) -> &'w mut Value {
    &mut world.iter_mut().find(|object| object["kind"] == kind).unwrap()["spec"]
}

/// The policy of `kind` as it is in the base, with all of it moved into `block`. It has no problem.
fn unchanged(kind: &str, block: Option<&str>) -> String {
    let mut world = world();
    if let Some(block) = block {
        move_into(spec_of(&mut world, kind), block);
    }
    let (problems, policy) = judge(&world, kind);
    assert!(problems.is_empty(), "the base has problems: {problems:?}");
    policy
}

/// Lays a case into the policy of `kind`, and compares what comes of it with what the row says.
fn check(case: &Case, kind: &str, block: Option<&str>, unchanged: &str) -> Result<(), String> {
    let mut world = world();
    let field = case.lay(spec_of(&mut world, kind), block);
    let (problems, policy) = judge(&world, kind);
    let field = format!("spec.{}", shown(&field));
    let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let fail = |what: &str| Err(format!("{kind} {field} ({:?}): {what}\n    {}", case.entry, said.join("\n    ")));
    match case.entry.support {
        Support::Refused => {
            let about = problems.iter().find(|problem| problem.is_error() && problem.field.starts_with(&field));
            match about {
                None => fail("is not refused"),
                Some(problem) if problem.remedy.is_none() && problem.expected.is_none() => fail("says no way out"),
                Some(_) => Ok(()),
            }
        }
        Support::Supported | Support::Accepted if !problems.is_empty() => fail("is not taken as it stands"),
        Support::Supported if !case.entry.base && case.entry.lift.is_none() && *policy == *unchanged => {
            fail("changes nothing")
        }
        Support::Accepted if !case.entry.read && *policy != *unchanged => fail("changes something"),
        Support::Supported | Support::Accepted => Ok(()),
    }
}

/// The rows that are not true of `kind`.
fn untrue(kind: &str, cases: impl IntoIterator<Item = Case>) -> Vec<String> {
    let blocks = [None, Some("defaults"), Some("overrides")].map(|block| (block, unchanged(kind, block)));
    let mut failures = Vec::new();
    for case in cases {
        for (block, unchanged) in &blocks {
            let wanted = match (&case.entry.lift, &*case.path[0]) {
                (Some(_), first) => *block == Some(first),
                (None, "targetRef") => block.is_none(),
                // What is in `defaults` or `overrides` is as it is in `spec`.
                (None, _) => true,
            };
            if wanted {
                failures.extend(check(&case, kind, *block, unchanged).err());
            }
        }
    }
    failures
}

#[test]
fn every_row_about_auth_policies_is_true() {
    let failures = untrue("AuthPolicy", rows().auth.iter().flat_map(Case::of));
    assert!(failures.is_empty(), "{} are not:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_row_about_limit_policies_is_true_of_both_kinds() {
    let rows = rows().limit;
    let of = |kind| untrue(kind, rows.iter().flat_map(Case::of));
    let failures = [of("RateLimitPolicy"), of("TokenRateLimitPolicy")].concat();
    assert!(failures.is_empty(), "{} are not:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_row_about_selectors_is_true() {
    let unchanged = unchanged("AuthPolicy", None);
    let mut failures = Vec::new();
    for entry in rows().selectors {
        for selector in expand(&entry.field) {
            let field = "rules.response.success.headers.*.plain.selector".to_owned();
            let laid = Entry { field, set: Some(json!(selector)), ..entry.clone() };
            failures
                .extend(Case::of(&laid).iter().filter_map(|case| check(case, "AuthPolicy", None, &unchanged).err()));
        }
    }
    assert!(failures.is_empty(), "{} are not:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn the_document_has_the_rows_and_no_others() {
    let Rows { auth, limit, selectors } = rows();
    let named = |heading: &str, entries: &[Entry]| -> Vec<(String, String, Support)> {
        entries.iter().map(|entry| (heading.to_owned(), entry.field.clone(), entry.support)).collect()
    };
    let limits = "RateLimitPolicy and TokenRateLimitPolicy";
    let wanted = [named("AuthPolicy", &auth), named(limits, &limit), named("Selectors", &selectors)].concat();
    let mut heading = "";
    let mut written = Vec::new();
    for line in DOCUMENT.lines() {
        if let Some(name) = line.strip_prefix("## ") {
            heading = name;
        }
        let cells: Vec<&str> = line.split(" | ").collect();
        if let ([field, support, ..], true) = (&*cells, line.starts_with("| `")) {
            let field = field.trim_start_matches("| ").trim_matches('`').replace("\\|", "|");
            let support = serde_json::from_value(json!(support.trim())).unwrap_or_else(|_| panic!("{line}"));
            assert!(cells.len() == 3, "a row has three cells: {line}");
            written.push((heading.to_owned(), field, support));
        }
    }
    let (wanted_set, written_set) = (wanted.iter().collect::<BTreeSet<_>>(), written.iter().collect::<BTreeSet<_>>());
    let missing: Vec<_> = wanted_set.difference(&written_set).collect();
    let more: Vec<_> = written_set.difference(&wanted_set).collect();
    assert!(
        missing.is_empty() && more.is_empty(),
        "not in the document: {missing:#?}\nonly in the document: {more:#?}"
    );
    assert_eq!(wanted.len(), written.len(), "a row stands twice");
}

#[test]
fn every_field_of_the_definitions_has_a_row() {
    let Rows { auth, limit, .. } = rows();
    let paths = |entries: &[Entry]| -> Vec<(String, bool)> {
        let mut paths = Vec::new();
        for entry in entries {
            // A row about one value of a field says nothing about what is beneath others.
            let whole = (entry.support == Support::Refused || entry.below) && !entry.field.contains(": ");
            paths.extend(expand(entry.field.split(": ").next().unwrap()).into_iter().map(|path| (path, whole)));
        }
        paths
    };
    let (auth, limit) = (paths(&auth), paths(&limit));
    let under = |path: &str, above: &str| path.strip_prefix(above).is_some_and(|rest| rest.starts_with(['.', '[']));
    let forgotten: Vec<&str> = FIELDS
        .lines()
        .filter(|line| {
            let (kind, field) = line.split_once(" spec.").unwrap();
            let rows = if kind == "AuthPolicy" { &auth } else { &limit };
            let block = ["defaults.", "overrides."].iter().find_map(|block| field.strip_prefix(block));
            let field = block.filter(|rest| *rest != "strategy").unwrap_or(field);
            !rows.iter().any(|(path, whole)| path == field || under(path, field) || (*whole && under(field, path)))
        })
        .collect();
    assert!(forgotten.is_empty(), "no row is about {forgotten:#?}");
    assert!(FIELDS.lines().count() > 1000);
}
