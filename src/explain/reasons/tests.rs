use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::denial::Code;

/// Where codes are mentioned for readers. The changelog also has codes of old.
const DOCUMENTS: [&str; 9] = [
    "README.md",
    "deploy/README.md",
    "docs/check.md",
    "docs/kubernetes.md",
    "docs/metrics.md",
    "docs/policies.md",
    "docs/process.md",
    "docs/reasons.md",
    "docs/routes.md",
];
const ENVOY: [&str; 5] =
    ["envoy/README.md", "envoy/classic.yaml", "envoy/lua.yaml", "envoy/report-by-call.yaml", "envoy/tiergate.yaml"];
/// The heading of what our Envoy configurations answer by themselves.
const BY_ENVOY: &str = "Said by Envoy";

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The whole codes that `text` mentions: not `TG-TOKEN-…`, which stands for several.
fn mentioned(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_uppercase() && c != '-');
    words.filter(|word| word.starts_with("TG-") && !word.ends_with('-'))
}

/// In one line, however it is wrapped.
fn unwrapped(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn codes(own: bool) -> Vec<&'static str> {
    let groups = groups().filter(|group| (group.heading != BY_ENVOY) == own);
    groups.flat_map(ReasonGroup::sections).map(|section| section.code).collect()
}

#[test]
fn every_code_has_one_section_in_the_order_of_the_table() {
    let all: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    let written = codes(true);
    let missing: Vec<_> = all.iter().filter(|code| !written.contains(code)).collect();
    assert!(missing.is_empty(), "docs/reasons.md has no section for {missing:?}");
    let strange: Vec<_> = written.iter().filter(|code| !all.contains(code)).collect();
    assert!(strange.is_empty(), "docs/reasons.md has sections of no code: {strange:?}");
    assert_eq!(written, all, "docs/reasons.md has its sections in another order, or one of them twice");
    let distinct: BTreeSet<_> = all.iter().collect();
    assert_eq!(distinct.len(), all.len(), "two codes have one text");
}

#[test]
fn a_section_says_what_the_table_says_and_who_has_to_do_what() {
    for code in Code::ALL {
        let Section { code: name, text } = named(code.as_str()).unwrap();
        let sentence = code.sentence();
        assert!(sentence.ends_with('.') && sentence.len() <= 100, "{name}: {sentence}");
        assert!(text.starts_with(&format!("{sentence}\n\n")), "{name}: its section does not begin with `{sentence}`");
        let status = format!("\nHTTP {}. ", code.class().status());
        assert!(text.contains(&status), "{name}: its section does not say {}", status.trim());
        let remedy = code.remedy();
        assert!(!remedy.ends_with('.') && !remedy.starts_with(char::is_uppercase), "{name}: {remedy}");
        let last = unwrapped(text.split("\n\n").last().unwrap());
        assert_eq!(last, format!("Remedy: {remedy}."), "{name}");
        for who in ["\nWho acts:\n\n- Caller: ", "\n- Look at: "] {
            assert!(text.contains(who), "{name}: its section lacks `{}`", who.trim());
        }
        assert!(!text.contains("\n## ") && text.len() < 2_000, "{name}: {text}");
    }
}

#[test]
fn sections_stand_under_their_status() {
    for group in groups().filter(|group| group.heading != BY_ENVOY) {
        for section in group.sections() {
            let status = Code::ALL.iter().find(|code| code.as_str() == section.code).unwrap().class().status();
            assert!(group.heading.starts_with(&format!("{status}: ")), "{} under `{}`", section.code, group.heading);
        }
    }
}

#[test]
fn what_our_envoy_configurations_answer_has_a_section() {
    let texts = ENVOY.map(read);
    let own: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    let answered: BTreeSet<&str> =
        texts.iter().flat_map(|text| mentioned(text)).filter(|code| !own.contains(code)).collect();
    assert_eq!(BTreeSet::from_iter(codes(false)), answered);
    let answers = groups().filter(|group| group.heading == BY_ENVOY).flat_map(ReasonGroup::sections);
    for Section { code, text } in answers {
        assert!(text.contains("\n\nHTTP ") && text.contains("\nRemedy: "), "{code}: {text}");
    }
}

/// What links to a heading end with.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | ' '));
    kept.collect::<String>().to_ascii_lowercase().replace(' ', "-")
}

/// Neither a code that was renamed, nor a link that leads nowhere.
#[test]
fn documents_mention_codes_that_there_are() {
    let headings = groups().map(|group| group.heading).chain(sections().map(|section| section.code));
    let headings: BTreeSet<String> = headings.map(anchor).collect();
    for file in DOCUMENTS {
        let text = read(file);
        let unknown: Vec<_> = mentioned(&text).filter(|code| named(code).is_err()).collect();
        assert!(unknown.is_empty(), "{file} mentions {unknown:?}");
        let anchors = text.split("reasons.md#").skip(1).filter_map(|rest| rest.split(')').next());
        let dead: Vec<_> = anchors.filter(|anchor| !headings.contains(*anchor)).collect();
        assert!(dead.is_empty(), "{file} links to {dead:?} of docs/reasons.md");
    }
}

/// It is compiled in, and an image is built of less than the repository.
#[test]
fn an_image_is_built_with_this_page() {
    for file in ["Dockerfile", ".dockerignore"] {
        assert!(read(file).contains("docs/reasons.md"), "{file}");
    }
}

#[test]
fn an_unknown_code_is_refused_with_what_was_probably_meant() {
    let meant = |code: &str| match named(code) {
        Err(ExplainError::Code { meant, .. }) => meant,
        other => panic!("{other:?}"),
    };
    assert_eq!(meant("TG-LIMIT-TOKEN"), Some("TG-LIMIT-TOKENS"));
    assert_eq!(meant("tg-limit-tokens"), Some("TG-LIMIT-TOKENS"));
    assert_eq!(meant("LIMIT-TOKENS"), Some("TG-LIMIT-TOKENS"));
    assert_eq!(meant("xyzzy"), None);
}
