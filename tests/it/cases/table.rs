//! The tables as they are written. `tests/cases/README.md` explains them to whoever writes one.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::support::{Folder, root};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Table {
    pub(super) name: String,
    /// Files and folders of the repository.
    #[serde(default)]
    pub(super) manifests: Vec<String>,
    /// More objects.
    #[serde(default)]
    pub(super) objects: String,
    /// Texts of the manifests, and what stands in their place.
    #[serde(default)]
    pub(super) replace: BTreeMap<String, String>,
    /// Of `tiergate serve`, without the dashes.
    #[serde(default)]
    pub(super) flags: BTreeMap<String, Flag>,
    /// The host of requests that name none.
    #[serde(default = "host")]
    pub(super) host: String,
    pub(super) callers: BTreeMap<String, Caller>,
    pub(super) cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Flag {
    Switch(bool),
    Value(String),
}

/// Whose token a request has. By default it is a good one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Caller {
    /// `namespace/name`
    pub(super) service_account: Option<String>,
    /// The whole token, where it is none.
    pub(super) token: Option<String>,
    /// Of somebody who is no ServiceAccount.
    pub(super) user: Option<String>,
    #[serde(default)]
    pub(super) audience: OneOrMany,
    /// Of the ServiceAccount when the token was made.
    pub(super) uid: Option<String>,
    pub(super) issuer: Option<String>,
    #[serde(default)]
    pub(super) signed_by: Signer,
    /// Seconds from now.
    #[serde(default = "hour")]
    pub(super) expires_in: i64,
    #[serde(default)]
    pub(super) valid_in: i64,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Signer {
    #[default]
    Us,
    /// With another key of the same name.
    Stranger,
    /// With a key that nobody has heard of.
    Unknown,
    /// Without a key (`alg: none`).
    Nobody,
}

#[derive(Default, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    #[default]
    Usual,
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) caller: Option<String>,
    /// `METHOD path`
    pub(super) request: String,
    /// The path that tiergate is asked about, where Envoy resolves dot segments before.
    pub(super) arrives: Option<String>,
    pub(super) host: Option<String>,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, OneOrMany>,
    /// What the model's answer costs.
    #[serde(default = "tokens")]
    pub(super) tokens: u64,
    #[serde(default = "once")]
    pub(super) times: u32,
    pub(super) answer: Answer,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Answer {
    pub(super) status: u16,
    /// `TG-…`, in the header `x-ext-auth-reason` and in the body.
    pub(super) code: Option<String>,
    /// `*` is any value, null none.
    #[serde(default)]
    pub(super) headers: BTreeMap<String, Option<String>>,
    /// Headers that the model receives.
    #[serde(default)]
    pub(super) sees: BTreeMap<String, Option<String>>,
}

fn host() -> String {
    "models.example.com".to_owned()
}

fn hour() -> i64 {
    3600
}

fn tokens() -> u64 {
    8
}

fn once() -> u32 {
    1
}

// === impl Table ===

impl Table {
    pub(super) fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The folder that tiergate reads.
    pub(super) fn folder(&self) -> Folder {
        let folder = Folder::new();
        let mut files = vec![("objects.yaml".to_owned(), self.objects.clone())];
        for path in self.manifests.iter().map(|name| root(name)) {
            let paths = match path.is_dir() {
                true => std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect(),
                false => vec![path],
            };
            for path in paths {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                files.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
        for (from, to) in &self.replace {
            assert!(files.iter().any(|(_, text)| text.contains(from)), "{}: no manifest has `{from}`", self.name);
            files.iter_mut().for_each(|(_, text)| *text = text.replace(from, to));
        }
        for (name, text) in files.iter().filter(|(_, text)| !text.is_empty()) {
            folder.file(name, text);
        }
        folder
    }

    pub(super) fn flags(&self) -> Vec<String> {
        let flag = |(name, flag): (&String, &Flag)| match flag {
            Flag::Switch(true) => Some(format!("--{name}")),
            Flag::Switch(false) => None,
            Flag::Value(value) => Some(format!("--{name}={value}")),
        };
        self.flags.iter().filter_map(flag).collect()
    }
}

// === impl OneOrMany ===

impl OneOrMany {
    pub(super) fn values(&self) -> &[String] {
        match self {
            OneOrMany::Usual => &[],
            OneOrMany::One(one) => std::slice::from_ref(one),
            OneOrMany::Many(many) => many,
        }
    }
}
