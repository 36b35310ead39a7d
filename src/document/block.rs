//! Positions inside block scalars (`|`): YAML in YAML, as in a ConfigMap's data.

use super::tree::{Node, Value};
use crate::problem::Position;

/// The position in the file of a position inside a block scalar (`|`) with its `header` on that line and its first content
/// at `start`; positions inside other scalars cannot be told from their text, so they are the scalar's.
pub fn inside_block(header: Option<u32>, start: Position, inner: Position) -> Position {
    match header {
        Some(line) if inner.line > 0 => {
            Position { line: line + inner.line, column: start.column + inner.column.saturating_sub(1) }
        }
        // An object of a cluster has no lines but those of its texts.
        None if start.line == 0 => inner,
        _ => start,
    }
}

/// The line of the `|` of the block scalar whose first content stands at `start`, if it is in one.
pub fn block_header(text: &str, start: Position) -> Option<u32> {
    let before: Vec<&str> = text.lines().take(start.line as usize).collect();
    let (first, above) = before.split_last()?;
    // A block's content has nothing but its indentation before it.
    if !first.chars().take((start.column as usize).saturating_sub(1)).all(|c| c == ' ') {
        return None;
    }
    let at = above.iter().rposition(|line| !line.trim().is_empty())?;
    let header = above.get(at)?.split(" #").next()?.trim_end();
    let marks = header.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-' || c == '+');
    let is_block = marks.ends_with('|') && header.len() - marks.len() <= 2;
    is_block.then(|| u32::try_from(at + 1).unwrap_or(u32::MAX))
}

/// Moves every position of `node` from the inside of a block scalar to the file.
pub fn shift(node: &mut Node, header: Option<u32>, start: Position) {
    node.at = inside_block(header, start, node.at);
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| shift(item, header, start)),
        Value::Map(entries) => {
            for (key, value) in entries {
                key.at = inside_block(header, start, key.at);
                shift(value, header, start);
            }
        }
        _ => {}
    }
}
