//! How `#(name == "value")` compares.

use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueryOperator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Like,
    NotLike,
}

// === impl QueryOperator ===

impl QueryOperator {
    /// Longest first.
    pub(super) const NAMES: &'static [(&'static str, QueryOperator)] = &[
        ("==", QueryOperator::Equal),
        ("!=", QueryOperator::NotEqual),
        ("<=", QueryOperator::LessOrEqual),
        (">=", QueryOperator::GreaterOrEqual),
        ("!%", QueryOperator::NotLike),
        ("=", QueryOperator::Equal),
        ("<", QueryOperator::Less),
        (">", QueryOperator::Greater),
        ("%", QueryOperator::Like),
    ];

    pub(super) fn holds(self, left: &Value, right: &str) -> bool {
        match left {
            Value::String(left) => match self {
                QueryOperator::Like => like(left, right),
                QueryOperator::NotLike => !like(left, right),
                _ => self.orders(left.as_str().partial_cmp(right)),
            },
            // What is no number counts as zero.
            Value::Number(left) => {
                self.orders(left.as_f64().and_then(|left| left.partial_cmp(&right.parse().unwrap_or(0.0))))
            }
            // A boolean is compared with a word, which need not be one.
            Value::Bool(left) => match self {
                QueryOperator::Equal => right == if *left { "true" } else { "false" },
                QueryOperator::NotEqual => right != if *left { "true" } else { "false" },
                QueryOperator::Greater => *left && right == "false",
                QueryOperator::GreaterOrEqual => *left,
                QueryOperator::Less => !*left && right == "true",
                QueryOperator::LessOrEqual => !*left,
                QueryOperator::Like | QueryOperator::NotLike => false,
            },
            Value::Null | Value::Array(_) | Value::Object(_) => false,
        }
    }

    fn orders(self, ordering: Option<std::cmp::Ordering>) -> bool {
        match (self, ordering) {
            (QueryOperator::NotEqual, ordering) => ordering.is_none_or(std::cmp::Ordering::is_ne),
            (QueryOperator::Equal, Some(ordering)) => ordering.is_eq(),
            (QueryOperator::Less, Some(ordering)) => ordering.is_lt(),
            (QueryOperator::LessOrEqual, Some(ordering)) => ordering.is_le(),
            (QueryOperator::Greater, Some(ordering)) => ordering.is_gt(),
            (QueryOperator::GreaterOrEqual, Some(ordering)) => ordering.is_ge(),
            (_, _) => false,
        }
    }
}

/// `*` is any run of characters, `?` is one, and `\` takes the next as it is. Time is bounded by the product of the two
/// lengths.
fn like(text: &str, pattern: &str) -> bool {
    let (mut text, mut pattern) = (text.chars(), pattern.chars());
    // After the last star: what follows it, and where in the text that was tried.
    let mut retry: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
    loop {
        let (before, mut ahead) = (text.clone(), pattern.clone());
        let fits = match ahead.next() {
            Some('*') => {
                retry = Some((ahead.clone(), before));
                pattern = ahead;
                continue;
            }
            None => match text.next() {
                None => return true,
                Some(_) => false,
            },
            Some('?') => text.next().is_some(),
            Some('\\') => ahead.next().is_some_and(|wanted| text.next() == Some(wanted)),
            Some(wanted) => text.next() == Some(wanted),
        };
        if fits {
            pattern = ahead;
            continue;
        }
        let Some((after_star, mut tried)) = retry.take() else { return false };
        if tried.next().is_none() {
            return false;
        }
        (pattern, text) = (after_star.clone(), tried.clone());
        retry = Some((after_star, tried));
    }
}
