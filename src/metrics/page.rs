//! The page in either of the formats that scrapers read.
//!
//! Sources: the OpenMetrics specification 1.0; Prometheus' text format 0.0.4; RFC 9110, section 12.5.1 (`Accept`).

use std::fmt::Write;

/// How the page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageFormat {
    OpenMetrics,
    /// Prometheus' own, which everything reads.
    Text,
}

// === impl PageFormat ===

impl PageFormat {
    /// What `accept` asks for, the values of all `Accept` headers: OpenMetrics only where it is named, and nothing else that
    /// there is is wanted more.
    pub fn of<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        let ranges = accept.into_iter().flat_map(|value| value.split(',')).filter_map(range);
        let (mut open, mut text) = (0.0_f64, 0.0_f64);
        for (name, version, quality) in ranges {
            match (&*name.to_ascii_lowercase(), version) {
                ("application/openmetrics-text", None | Some("1.0.0" | "0.0.1")) => open = open.max(quality),
                ("text/plain", None | Some("0.0.4")) => text = text.max(quality),
                _ => {}
            }
        }
        if open > 0.0 && open >= text { PageFormat::OpenMetrics } else { PageFormat::Text }
    }

    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            PageFormat::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            PageFormat::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// A media range: its name, its version, and how much it is wanted, 0 to 1. One that cannot be read is not wanted.
fn range(text: &str) -> Option<(&str, Option<&str>, f64)> {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next()?;
    let (mut version, mut quality) = (None, 1.0);
    for (key, value) in parts.filter_map(|part| part.split_once('=')) {
        let value = value.trim().trim_matches('"');
        match key.trim() {
            key if key.eq_ignore_ascii_case("version") => version = Some(value),
            key if key.eq_ignore_ascii_case("q") => {
                quality = value.parse().ok().filter(|quality| (0.0..=1.0).contains(quality))?;
            }
            _ => {}
        }
    }
    Some((name, version, quality))
}

/// An OpenMetrics page in Prometheus' own format: counters are named as their series are, and there is neither `# UNIT` nor
/// `# EOF`.
pub(super) fn to_text(page: &str) -> String {
    let mut text = String::with_capacity(page.len());
    let mut help = None;
    for line in page.lines() {
        if let Some(told) = line.strip_prefix("# HELP ") {
            help = told.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|told| told.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, help)) = help.take() {
                // Writing to a string does not fail.
                let _ = writeln!(text, "# HELP {name}{suffix} {help}");
            }
            let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with("# ") {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_for_whom_it_is_named_and_wanted_most() {
        use PageFormat::{OpenMetrics, Text};
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
            application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
            text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, expected) in [
            (&[][..], Text),
            (&[""], Text),
            (&["*/*"], Text),
            (&["application/*"], Text),
            (&["text/html,application/xhtml+xml,*/*;q=0.8"], Text),
            (&["text/plain"], Text),
            (&[prometheus_3], OpenMetrics),
            (&["application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"], OpenMetrics),
            (&["application/openmetrics-text"], OpenMetrics),
            (&["Application/OpenMetrics-Text ; Version=\"1.0.0\" ; Q=0.5"], OpenMetrics),
            (&["application/openmetrics-text, text/plain"], OpenMetrics),
            (&["application/openmetrics-text;q=0.4, text/plain;q=0.5"], Text),
            (&["application/openmetrics-text;q=0"], Text),
            (&["application/openmetrics-text;q=nan", "application/openmetrics-text;q=2"], Text),
            (&["application/openmetrics-text;q=-1,application/openmetrics-text;q="], Text),
            (&["application/openmetrics-text;version=2.0.0"], Text),
            (&["text/plain;q=0.1", "application/openmetrics-text;q=0.2"], OpenMetrics),
            (&[",;=,;q"], Text),
        ] {
            assert_eq!(PageFormat::of(accept.iter().copied()), expected, "{accept:?}");
        }
    }

    #[test]
    fn counters_are_named_in_full_in_the_text_format() {
        let page = "# HELP a_seconds Time.\n# TYPE a_seconds counter\n# UNIT a_seconds seconds\na_seconds_total{b=\"# c\"} 1\n\
                    # HELP g Some.\n# TYPE g gauge\ng 2\n# EOF\n";
        let text = "# HELP a_seconds_total Time.\n# TYPE a_seconds_total counter\na_seconds_total{b=\"# c\"} 1\n\
                    # HELP g Some.\n# TYPE g gauge\ng 2\n";
        assert_eq!(to_text(page), text);
    }
}
