//! Since when objects are there: of two that could both be meant, their ages decide.

use super::Kind;
use crate::document::{Field, Value};
use crate::problem::{Finding, Severity};

/// `metadata.creationTimestamp`, in the order in which objects go before each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Age {
    /// It cannot be read, so the object could be older than any.
    Unreadable,
    Since(jiff::Timestamp),
    /// It has none, as before it is applied: that makes it the newest.
    #[default]
    Unborn,
}

/// Reads `creationTimestamp`. Where it decides something, one that cannot be read is an error.
pub(super) fn read(field: Option<Field<'_>>, kind: &Kind) -> Age {
    let Some(field) = field else { return Age::Unborn };
    let (time, code, message) = match &field.node.value {
        Value::Text(text) => (rfc3339(text), Finding::ValueInvalid, format!("`{text}` is not a time")),
        _ => (None, Finding::TypeWrong, format!("is {}", field.node.type_name())),
    };
    time.map_or_else(
        || {
            let severity = if kind.has_age() { Severity::Error } else { Severity::Warning };
            let problem =
                field.problem(severity, message).code(code).expected("an RFC 3339 time such as 2026-03-01T09:00:00Z");
            field.report(problem.remedy("remove it, or write what `kubectl get -o yaml` prints"));
            Age::Unreadable
        },
        Age::Since,
    )
}

/// A time as the API server reads it. `jiff` alone takes a good deal more.
fn rfc3339(text: &str) -> Option<jiff::Timestamp> {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let rest = shape.strip_prefix("0000-00-00T00:00:00")?;
    let zone = match rest.strip_prefix('.') {
        Some(fraction) if fraction.starts_with('0') => fraction.trim_start_matches('0'),
        Some(_) => return None,
        None => rest,
    };
    matches!(zone, "Z" | "+00:00" | "-00:00").then(|| text.parse().ok()).flatten()
}

// === impl Kind ===

impl Kind {
    /// Whether it matters how old objects of this kind are: of policies and routes, one goes before another.
    pub(super) fn has_age(&self) -> bool {
        self.name.ends_with("Policy") || self.name == "HTTPRoute"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_the_api_server_reads_them() {
        let good = ["2026-03-01T09:00:00Z", "2026-03-01T10:00:00+01:00", "2026-03-01T09:00:00.000Z"];
        let [first, others @ ..] = good.map(rfc3339);
        assert!(first.is_some());
        assert_eq!(others, [first; 2]);
        for bad in [
            "",
            "now",
            "2026-03-01",
            "2026-03-01 09:00:00Z",
            "2026-03-01T09:00Z",
            "2026-03-01T09:00:00",
            "2026-03-01T09:00:00+0100",
            "2026-03-01T09:00:00.Z",
            "2026-13-01T09:00:00Z",
            "2026-03-01T09:00:00Z[UTC]",
            "20260301T090000Z",
            "+002026-03-01T09:00:00Z",
        ] {
            assert_eq!(rfc3339(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_was_not_applied_yet_is_the_newest() {
        let since = |text| Age::Since(rfc3339(text).unwrap());
        let mut ages =
            [Age::Unborn, since("2026-03-02T00:00:00Z"), Age::Unreadable, since("2026-03-01T00:00:00Z"), Age::Unborn];
        ages.sort();
        let [first, second] = [since("2026-03-01T00:00:00Z"), since("2026-03-02T00:00:00Z")];
        assert_eq!(ages, [Age::Unreadable, first, second, Age::Unborn, Age::Unborn]);
    }
}
