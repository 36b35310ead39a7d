mod bombs;
mod documents;
mod last_good;
mod objects;
mod policies;
mod routes;
mod seeds;
mod support;
mod tiers;

use super::*;
use crate::problem::Severity;
use crate::source::on_large_stack;

/// The name of the file in problems.
const FILE: &str = "f.yaml";
/// Stands in the texts of these tests where a problem has to be; it is taken out before they are read.
const MARK: char = '▸';

/// One problem, as far as a table says it: severity, field, and a phrase of its text. Its place is the mark's.
type Row<'r> = (Severity, &'r str, &'r str);

const E: Severity = Severity::Error;
const W: Severity = Severity::Warning;

/// Takes the marks out of `text`: the clean text, and their lines and columns.
fn unmark(text: &str) -> (String, Vec<(u32, u32)>) {
    let (mut clean, mut marks) = (String::new(), Vec::new());
    let (mut line, mut column) = (1, 1);
    for char in text.chars() {
        match char {
            MARK => marks.push((line, column)),
            '\n' => (line, column) = (line + 1, 1),
            _ => column += 1,
        }
        if char != MARK {
            clean.push(char);
        }
    }
    (clean, marks)
}

fn read(text: &str) -> Manifests {
    read_all(&[(FILE, text)])
}

fn read_all(files: &[(&str, &str)]) -> Manifests {
    on_large_stack(|| Manifests::read(files.iter().copied())).unwrap()
}

/// Reads a marked text, and asserts that its problems are `rows`, in the order of the file. Two marks on one place are
/// two problems there.
#[track_caller]
fn expect(marked: &str, rows: &[Row<'_>]) -> Manifests {
    let (text, marks) = unmark(marked);
    assert_eq!(marks.len(), rows.len(), "as many marks as rows:\n{marked}");
    let manifests = read(&text);
    let mut problems: Vec<&Problem> = manifests.problems.iter().collect();
    // Those of one place in the order of their rows.
    problems.sort_by_key(|problem| {
        let place = (problem.place.line, problem.place.column);
        let row = rows.iter().zip(&marks).position(|(row, mark)| *mark == place && says(problem, row));
        (place, row)
    });
    let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let shown = shown.join("\n");
    assert_eq!(problems.len(), rows.len(), "for\n{marked}\nit said\n{shown}");
    for ((problem, row), mark) in problems.into_iter().zip(rows).zip(marks) {
        let at = (problem.place.line, problem.place.column);
        assert!(at == mark && says(problem, row), "expected {row:?} at {mark:?} for\n{marked}\nit said\n{shown}");
        assert_eq!(&*problem.place.file, FILE);
    }
    manifests
}

fn says(problem: &Problem, (severity, field, phrase): &Row<'_>) -> bool {
    let Problem { message, expected, remedy, .. } = problem;
    let text = format!("{message}\n{expected:?}\n{remedy:?}").replace("\\\"", "\"");
    problem.severity == *severity && problem.field == *field && text.contains(phrase)
}

/// `text`, each line moved right.
fn indent(text: &str, by: usize) -> String {
    text.lines().map(|line| format!("{:by$}{line}\n", "")).collect::<String>()
}

#[test]
fn marks_name_lines_and_columns() {
    assert_eq!(unmark("a▸b\n▸é▸▸c\n"), ("ab\néc\n".to_owned(), vec![(1, 2), (2, 1), (2, 2), (2, 2)]));
}
