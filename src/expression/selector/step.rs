//! The steps of a path, as they are written.

use super::modifier::Modifier;
use super::query::QueryOperator;

/// One step from a value to the next.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum PathStep {
    /// A member of a mapping, or by a number an element of a list.
    Name(String),
    /// `#`: how many elements a list has.
    Count,
    /// `#.…`: what the steps find in each element.
    Each(Vec<PathStep>),
    /// `#(…)` and `#(…)#`, with the steps from what is found where a dot follows.
    Find {
        query: ArrayQuery,
        all: bool,
        then: Option<Vec<PathStep>>,
    },
    Modifier(Modifier),
}

/// `#(name == "value")`: which elements of a list are meant.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ArrayQuery {
    /// From the element to what is compared; empty: the element itself, which must be no list and no mapping.
    pub path: Vec<PathStep>,
    /// `None`: that it is there is enough.
    pub test: Option<(QueryOperator, String)>,
}
