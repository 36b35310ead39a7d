use super::*;

const MISSING: RefusalKind = RefusalKind { code: Code::TokenMissing, shadow: false };
const DENIED: RefusalKind = RefusalKind { code: Code::AccessDenied, shadow: false };

fn window() -> RefusalWindow {
    RefusalWindow { began: Instant::now(), folds: Vec::new(), closed: false }
}

/// Callers (or that there are several), and how many refusals had no line.
fn counts(window: &RefusalWindow) -> Vec<(RefusalKind, Option<RefusedCaller<&str>>, u64)> {
    let folds = window.folds.iter();
    folds
        .map(|f| (f.kind, f.caller.as_ref().map(RefusedCaller::as_deref), f.number.saturating_sub(Refusals::FIRST)))
        .collect()
}

#[test]
fn the_first_few_of_each_code_and_caller_have_lines_and_the_rest_are_counted() {
    let mut window = window();
    let shadow = RefusalKind { shadow: true, ..DENIED };
    // A user and an address of one name are two callers.
    let all = [
        (DENIED, RefusedCaller::User("a")),
        (MISSING, RefusedCaller::User("a")),
        (DENIED, RefusedCaller::Address("a")),
        (shadow, RefusedCaller::User("a")),
        (MISSING, RefusedCaller::Unknown),
    ];
    for turn in 0..10 {
        for (kind, caller) in all {
            assert_eq!(window.has_line(kind, caller), turn < Refusals::FIRST, "{kind:?} {caller:?} {turn}");
        }
    }
    assert_eq!(counts(&window), all.map(|(kind, caller)| (kind, Some(caller), 10 - Refusals::FIRST)));
}

#[test]
fn beyond_a_fixed_number_of_callers_refusals_are_told_apart_by_code_alone() {
    let (mut window, mut lines) = (window(), 0);
    let callers = 10_000;
    for number in 0..callers {
        let name = format!("{number}");
        lines += u64::from(window.has_line(MISSING, RefusedCaller::Address(&name)));
        lines += u64::from(window.has_line(DENIED, RefusedCaller::Address(&name)));
    }
    let folds = counts(&window);
    assert_eq!(folds.len(), Refusals::APART + 2, "both codes have one for the others");
    let others: Vec<_> = folds.iter().filter(|(_, caller, _)| caller.is_none()).copied().collect();
    let rest = callers - Refusals::APART as u64 / 2 - Refusals::FIRST;
    assert_eq!(others, [(MISSING, None, rest), (DENIED, None, rest)]);
    assert_eq!(lines + folds.iter().map(|(_, _, more)| more).sum::<u64>(), 2 * callers, "nothing is lost");
}

#[test]
fn after_the_last_counts_each_has_a_line_again() {
    let refusals = Refusals::default();
    let lines =
        |times: u64| (0..times).filter(|_| refusals.0.lock().has_line(DENIED, RefusedCaller::Unknown)).count() as u64;
    assert_eq!(lines(10), Refusals::FIRST);
    refusals.tell_counts(false);
    assert_eq!(lines(10), Refusals::FIRST, "a new window");
    refusals.close();
    assert_eq!(lines(10), 10);
}

#[test]
fn numbers_are_written_in_thousands() {
    let written = [0, 999, 1_000, 12_345, 123_456, 1_234_567].map(in_thousands);
    assert_eq!(written, ["0", "999", "1,000", "12,345", "123,456", "1,234,567"]);
}
