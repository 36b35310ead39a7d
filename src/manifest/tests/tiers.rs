use super::*;

/// The ConfigMap of the seeds, with this value of `tiers` (from the colon on).
fn mapping(tiers: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: tier-to-group-mapping, namespace: maas-api}}\ndata:\n  tiers:{tiers}"
    )
}

/// The same with the tiers in a block scalar.
fn block(tiers: &str) -> String {
    mapping(&format!(" |\n{}", indent(tiers, 4)))
}

fn tier(name: &str, display_name: Option<&str>, level: i64, groups: &[&str], at: (u32, u32)) -> TierSpec {
    TierSpec {
        name: name.to_owned(),
        display_name: display_name.map(str::to_owned),
        level,
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        place: Place { file: FILE.into(), line: at.0, column: at.1 },
    }
}

#[track_caller]
fn tiers_of(manifests: &Manifests) -> Option<&[TierSpec]> {
    match manifests.tier_mappings.as_slice() {
        [mapping] => mapping.tiers.as_deref(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn tiers_are_read_with_their_place_in_the_file() {
    let manifests = expect(
        &block(
            "- name: free\n  description: for all\n  level: 0\n  groups: [system:authenticated]\n\
             - name: premium\n  displayName: Premium\n  level: 10\n  groups: []\n\
             - {name: odd, displayName: '', level: -1, groups: [a, b]}\n",
        ),
        &[],
    );
    let expected = [
        tier("free", None, 0, &["system:authenticated"], (6, 7)),
        tier("premium", Some("Premium"), 10, &[], (10, 7)),
        tier("odd", None, -1, &["a", "b"], (14, 7)),
    ];
    assert_eq!(tiers_of(&manifests), Some(&expected[..]));
}

#[test]
fn faults_inside_the_block_have_their_place_in_the_file() {
    for (tiers, rows) in [
        ("- name: free\n  level: ▸one\n  groups: [a]\n", &[(E, "data.tiers[0].level", "a whole number")][..]),
        (
            "- name: free\n  level: 1\n  groups: [a]\n- ▸name: gold\n  groups: [a]\n",
            &[(E, "data.tiers[1]", "`level` is missing")],
        ),
        ("- ▸level: 1\n  groups: [a]\n", &[(E, "data.tiers[0]", "`name` is missing")]),
        ("- ▸name: free\n  level: 1\n", &[(E, "data.tiers[0]", "`groups` is missing")]),
        ("- name: free\n  level: 1\n  groups: ▸a\n", &[(E, "data.tiers[0].groups", "a list")]),
        (
            "- name: free\n  level: 1\n  groups:\n    - a\n    - ▸{b: c}\n",
            &[(E, "data.tiers[0].groups[1]", "a string")],
        ),
        ("- name: ▸''\n  level: 1\n  groups: [a]\n", &[(E, "data.tiers[0].name", "is empty")]),
        (
            "- name: free\n  displayName: ▸'  '\n  level: 1\n  groups: [a]\n",
            &[(E, "data.tiers[0].displayName", "nothing but white space")],
        ),
        (
            "- name: free\n  level: 1\n  groups: [a]\n- ▸name: free\n  level: 2\n  groups: [b]\n",
            &[(E, "data.tiers[1]", "tier `free` is defined a second time; the first is at f.yaml:6:7")],
        ),
        ("- ▸free\n- ▸premium\n", &[(E, "data.tiers[0]", "a mapping"), (E, "data.tiers[1]", "a mapping")]),
        ("▸free: {level: 1}\n", &[(E, "data.tiers", "a list")]),
        ("▸free\n", &[(E, "data.tiers", "a list")]),
    ] {
        let manifests = expect(&block(tiers), rows);
        assert_eq!(tiers_of(&manifests), None, "{tiers}");
    }
}

#[test]
fn misspelt_level_is_named_and_its_absence_too() {
    let tiers = "- ▸name: free\n  ▸levle: 1\n  groups: [a]\n";
    let (text, _) = unmark(&block(tiers));
    let manifests = read(&text);
    assert_eq!(tiers_of(&manifests), None);
    let places: Vec<_> =
        manifests.problems.iter().map(|problem| (problem.place.line, problem.place.column, &*problem.field)).collect();
    assert_eq!(places, [(6, 7, "data.tiers[0]"), (7, 7, "data.tiers[0].levle")]);
    assert!(manifests.problems[0].is_error());
    assert_eq!(manifests.problems[1].remedy.as_deref(), Some("did you mean `level`?"));
}

/// maas-api reads past a field that it does not know.
#[test]
fn unknown_field_of_a_tier_is_a_warning() {
    let manifests = expect(
        &block("- name: free\n  level: 1\n  groups: [a]\n  ▸colour: red\n"),
        &[(W, "data.tiers[0].colour", "is not a field that is known here")],
    );
    assert_eq!(tiers_of(&manifests).map(<[_]>::len), Some(1));
}

#[test]
fn equal_levels_are_a_warning_and_the_file_order_stays() {
    let manifests = expect(
        &block(
            "- {name: a, level: 1, groups: [x]}\n- {name: b, level: 2, groups: [x]}\n- ▸{name: c, level: 1, groups: [x]}\n\
             - ▸{name: d, level: 1, groups: [x]}\n",
        ),
        &[
            (W, "data.tiers[2]", "tiers `a` and `c` have the same level 1"),
            (W, "data.tiers[3]", "`a` wins because it stands first"),
        ],
    );
    let names: Vec<&str> = tiers_of(&manifests).unwrap().iter().map(|t| &*t.name).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
}

#[test]
fn names_that_cannot_work_are_warnings() {
    let manifests = expect(
        &block("- name: ▸Gold Tier\n  level: 1\n  groups: [system:authenticated]\n"),
        &[(W, "data.tiers[0].name", "lower-case letters")],
    );
    assert_eq!(tiers_of(&manifests).map(<[_]>::len), Some(1));
}

#[test]
fn every_fault_of_the_tiers_is_reported_at_once() {
    expect(
        &block(
            "- name: a\n  level: ▸x\n  groups: [g]\n- name: b\n  level: 1\n  groups: ▸g\n- ▸{}\n- {name: c, level: 1, groups: []}\n",
        )
        .replace("▸{}", "▸▸▸{}"),
        &[
            (E, "data.tiers[0].level", "whole number"),
            (E, "data.tiers[1].groups", "a list"),
            (E, "data.tiers[2]", "`name` is missing"),
            (E, "data.tiers[2]", "`level` is missing"),
            (E, "data.tiers[2]", "`groups` is missing"),
        ],
    );
}

#[test]
fn text_that_is_not_yaml_has_its_place_in_the_file() {
    let bad = "- name: free\n  level: 1\n - name: premium\n";
    let manifests = read(&block(bad));
    let [problem] = manifests.problems.as_slice() else {
        panic!("{:?}", manifests.problems);
    };
    assert_eq!((problem.severity, &*problem.field), (E, "data.tiers"));
    assert!(problem.message.starts_with("the text is not YAML"), "{problem}");
    assert_eq!(problem.place.line, 8, "{problem}");
    assert_eq!(tiers_of(&manifests), None);
    // The file itself is YAML.
    assert_eq!(manifests.unparsable, <[std::sync::Arc<str>; 0]>::default());
}

#[test]
fn no_tiers_at_all_is_an_error() {
    for tiers in [" ▸''\n", " ▸\"\"\n", " ▸'# nothing'\n", " ▸'null'\n", " ▸'[]'\n"] {
        let manifests = expect(&mapping(tiers), &[(E, "data.tiers", "holds no tier")]);
        assert_eq!(tiers_of(&manifests), None, "{tiers}");
    }
    // Without the `|`: a list instead of a text.
    let manifests =
        expect(&mapping("\n    ▸- {name: free, level: 1, groups: [a]}\n"), &[(E, "data.tiers", "a string")]);
    assert_eq!(tiers_of(&manifests), None);
}

/// Of the tier mapping's name it is the tier mapping, in error; of another name it is somebody else's.
#[test]
fn a_config_map_without_tiers_is_an_error_where_it_is_the_mapping() {
    for (rest, field, phrase) in [
        ("", "", "`data` is missing"),
        (", binaryData: {tiers: eA==}", "", "`data` is missing"),
        (", data: {}", "data", "has no `tiers`"),
        (", data: {config.yaml: x, mapping.yaml: x}", "data", "it has `config.yaml`, `mapping.yaml`"),
        (", data: {Tiers: x}, immutable: true", "data", "it has `Tiers`"),
    ] {
        let text = |name: &str| {
            format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}, namespace: maas-api}}{rest}}}")
        };
        let problems = |name: &str| {
            let manifests = read(&text(name));
            on_large_stack(|| crate::lint::compile(manifests, &crate::policy::Options::default())).unwrap().problems
        };
        let own = problems("tier-to-group-mapping");
        assert!(own.len() == 1 && says(&own[0], &(E, field, phrase)), "{own:?}");
        assert_eq!(problems("another"), [], "{rest}");
    }
}

// === places, in every way to write a block ===

/// A tier whose level is no number, as the lines of a block scalar.
const FAULTY: &str = "- name: free\n  level: ▸one\n  groups: [a]\n";
const ROW: &[Row] = &[(E, "data.tiers[0].level", "a whole number")];

#[test]
fn any_literal_block_is_mapped_to_the_file() {
    for head in [" |", " |-", " |+", " | # the tiers", "   |", " |   ", "\n    |"] {
        expect(&mapping(&format!("{head}\n{}", indent(FAULTY, 4))), ROW);
    }
    for by in [3, 4, 8] {
        expect(&mapping(&format!(" |\n{}", indent(FAULTY, by))), ROW);
    }
}

#[test]
fn blank_lines_and_comments_before_the_first_tier_do_not_shift_the_place() {
    for before in ["\n", "\n\n", "    \n", "    # our tiers\n", "\n    # our tiers\n\n", "    ---\n"] {
        expect(&mapping(&format!(" |\n{before}{}", indent(FAULTY, 4))), ROW);
    }
}

#[test]
fn indentation_indicator_does_not_shift_the_place() {
    for (head, by) in [(" |2", 4), (" |2-", 4), (" |-2", 4), (" |2", 6), (" |1", 4)] {
        expect(&mapping(&format!("{head}\n{}", indent(FAULTY, by))), ROW);
    }
}

#[test]
fn characters_before_the_place_count_once_each() {
    let tiers = "- {displayName: \"Kostenlos für é🙂\", name: free, level: ▸one, groups: [a]}\n";
    expect(&block(tiers), ROW);
}

#[test]
fn windows_line_ends_do_not_shift_the_place() {
    let (text, marks) = unmark(&block(FAULTY));
    let manifests = read(&text.replace('\n', "\r\n"));
    let places: Vec<_> = manifests.problems.iter().map(|p| (p.place.line, p.place.column)).collect();
    assert_eq!(places, marks);
}

#[test]
fn other_scalars_have_one_place_their_own() {
    for scalar in [
        " ▸\"[{name: free, level: one, groups: [a]}]\"\n",
        " ▸'[{name: free, level: one, groups: [a]}]'\n",
        " ▸\"- name: free\\n  level: one\\n  groups: [a]\\n\"\n",
        "\n    ▸\"- name: free\\n  level: one\\n  groups: [a]\\n\"\n",
        // Folded lines cannot be told apart any more.
        " >\n    ▸- {name: free,\n      level: one, groups: [a]}\n",
    ] {
        expect(&mapping(scalar), ROW);
    }
    let flow =
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {tiers: ▸'[{name: x, level: y, groups: []}]'}}";
    expect(flow, ROW);
    let json = r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"},
        "data": {"tiers": ▸"- name: free\n  level: one\n  groups: []\n"}}"#;
    expect(json, ROW);
}

/// An empty block right above is no header of the quoted text below it.
#[test]
fn quoted_scalar_below_a_block_has_its_own_place() {
    for above in ["other: |\n", "other: |-\n", "# or a block |\n"] {
        let text = mapping(" ▸\"- name: free\\n  level: one\\n  groups: [a]\\n\"\n");
        expect(&text.replace("data:\n  tiers", &format!("data:\n  {above}  tiers")), ROW);
    }
}
