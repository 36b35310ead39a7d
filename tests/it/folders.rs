//! `tests/folders`: manifests with a peculiarity, and what the commands say of them. Its README explains `runs.yaml`.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;

use serde::Deserialize;

use crate::support::{self, root, tiergate};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Runs {
    about: String,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    run: String,
    input: Option<String>,
    exit: i32,
    #[serde(default)]
    says: Vec<String>,
    #[serde(default)]
    never: Vec<String>,
}

#[test]
fn every_folder_gets_its_right_answer() {
    let mut faults = Vec::new();
    let folders = std::fs::read_dir(root("tests/folders")).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = folders.filter(|path| path.is_dir()).collect();
    folders.sort();
    for folder in &folders {
        let name = folder.file_name().unwrap().to_string_lossy();
        let text = std::fs::read_to_string(folder.join("runs.yaml")).unwrap_or_else(|error| panic!("{name}: {error}"));
        let runs: Runs = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!runs.about.is_empty() && !runs.runs.is_empty(), "{name}: runs.yaml says nothing");
        faults.extend(runs.runs.iter().filter_map(|run| Some(format!("{name}: {}", run.fault(folder)?))));
    }
    assert!(!folders.is_empty());
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

impl Run {
    /// What is not as it should be.
    fn fault(&self, folder: &Path) -> Option<String> {
        assert!(
            !self.says.is_empty() || !self.never.is_empty(),
            "{}: nothing is asked of `{}`",
            folder.display(),
            self.run
        );
        let mut command = tiergate(&[]);
        command.args(shlex::split(&self.run).unwrap()).current_dir(folder);
        command.stdin(self.input.as_ref().map_or(Stdio::null(), |file| File::open(folder.join(file)).unwrap().into()));
        let (code, printed) = support::run(&mut command);
        let fault = |what: String| Some(format!("`tiergate {}` {what}:\n{printed}", self.run));
        if code != Some(self.exit) {
            return fault(format!("exits with {code:?}, not {}", self.exit));
        }
        let mut rest = printed.as_str();
        for text in &self.says {
            match rest.split_once(text.as_str()) {
                Some((_, after)) => rest = after,
                None => return fault(format!("does not say `{text}` where it should")),
            }
        }
        self.never.iter().find(|text| printed.contains(*text)).and_then(|text| fault(format!("says `{text}`")))
    }
}
