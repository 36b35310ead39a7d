//! Expressions as users write them.

use serde::Deserialize;

use crate::expression::View;

/// Its head says what a row is.
const ROWS: &str = include_str!("../../../tests/data/expressions.yaml");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    predicate: Option<String>,
    expression: Option<String>,
    selector: Option<String>,
    #[serde(default)]
    at: Place,
    says: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Place {
    #[default]
    Limits,
    Rule,
    Before,
}

impl Row {
    /// What is said of it; nothing if it compiles.
    fn fault(&self) -> Option<String> {
        let view = match self.at {
            Place::Limits => View::Limits,
            Place::Rule => View::Caller,
            Place::Before => View::Request,
        };
        let compiled = match (&self.predicate, &self.expression, &self.selector) {
            (Some(text), None, None) => view.predicate(text).map(drop),
            (None, Some(text), None) => view.expression(text).map(drop),
            (None, None, Some(text)) => view.selector(text).map(drop),
            _ => panic!("{self:?}"),
        };
        compiled.err().map(|error| error.message)
    }
}

#[test]
fn expressions_of_users_compile_or_are_named_as_not_supported() {
    let rows: Vec<Row> = serde_saphyr::from_str(ROWS).unwrap();
    let wrong = |row: &&Row| match (row.fault(), &row.says) {
        (None, None) => false,
        (Some(fault), Some(says)) => !fault.contains(says.as_str()),
        _ => true,
    };
    let wrong: Vec<String> = rows.iter().filter(wrong).map(|row| format!("{row:?}: {:?}", row.fault())).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(rows.len() > 91, "{} rows", rows.len());
}
