use std::fmt::Write;
use std::path::Path;

use super::*;

/// `docs/metrics.md`, as the families have it.
fn documentation() -> String {
    let mut text = include_str!("head.md").to_owned();
    for family in FAMILIES {
        let (series, kind, unit) = (family.series(), family.kind.as_str(), family.unit);
        let Description { meaning, alert, .. } = family;
        write!(text, "\n### `{series}`\n\n{meaning}. A {kind}; unit: {unit}.\n").unwrap();
        if !family.labels.is_empty() {
            text.push('\n');
        }
        for (label, values) in family.labels {
            writeln!(text, "- `{label}`: {values}").unwrap();
        }
        writeln!(text, "\nAlert on: {alert}.").unwrap();
    }
    text
}

/// `TIERGATE_RECORD=1` writes it anew.
#[test]
fn the_documentation_is_that_of_the_families() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let expected = documentation();
    if std::env::var_os("TIERGATE_RECORD").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == expected,
        "docs/metrics.md is old: TIERGATE_RECORD=1 cargo test --lib metrics::catalog writes it"
    );
}

#[test]
fn families_are_described_as_the_formats_take_it() {
    for (at, family) in FAMILIES.iter().enumerate() {
        let name = family.name;
        assert!(FAMILIES.iter().skip(at + 1).all(|other| other.name != name), "{name} twice");
        assert!(["_total", "_bucket", "_count", "_sum"].iter().all(|suffix| !name.ends_with(suffix)), "{name}");
        // The formats would have these escaped.
        assert!(!family.meaning.contains(['"', '\\', '\n']) && !family.meaning.ends_with('.'), "{name}");
        assert!(!family.meaning.is_empty() && !family.alert.is_empty() && !family.alert.ends_with('.'), "{name}");
        assert!(family.labels.is_sorted(), "{name}");
    }
}
