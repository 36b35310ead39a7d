//! The ways in which hits come back: one table, of which everything is made that a name, a code or a text is needed for.
//!
//! Another algorithm is a row here, a file with its state, and an arm in each function of [`super::Cell`]; without any one of them
//! nothing compiles.

use super::Quota;

/// Makes [`Algorithm`] and what is told of each from one row for each.
macro_rules! algorithms {
    ($($(#[$meta:meta])* $algorithm:ident {
        name: $name:literal,
        code: $code:literal,
        text: $text:literal,
        has_windows: $windows:literal
    })*) => {
        /// How hits come back.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum Algorithm {
            $($(#[$meta])* #[doc = $text] $algorithm,)*
        }

        impl Algorithm {
            /// Every algorithm, in the order of the table: the default comes first.
            pub const ALL: &'static [Algorithm] = &[$(Algorithm::$algorithm),*];

            /// How it is written in the annotation `tiergate.io/algorithm`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Algorithm::$algorithm => $name,)*
                }
            }

            /// How it is written in what outlives the process or leaves it. A code is never given to another algorithm.
            #[must_use]
            pub const fn code(self) -> u8 {
                match self {
                    $(Algorithm::$algorithm => $code,)*
                }
            }

            /// How hits come back, for people: the end of a sentence.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self {
                    $(Algorithm::$algorithm => $text,)*
                }
            }

            /// Whether it counts in windows, each of which starts anew. Else hits come back one by one.
            #[must_use]
            pub const fn has_windows(self) -> bool {
                match self {
                    $(Algorithm::$algorithm => $windows,)*
                }
            }
        }
    };
}

algorithms! {
    #[default]
    TokenBucket {
        name: "token-bucket",
        code: 0,
        text: "evenly, in a bucket that holds the limit and regains all of it in one window",
        has_windows: false
    }
    FixedWindow {
        name: "fixed-window",
        code: 1,
        text: "all at once, a window after the first hit, as Limitador counts",
        has_windows: true
    }
    SlidingWindow {
        name: "sliding-window",
        code: 2,
        text: "evenly, while the window before slides out of sight",
        has_windows: true
    }
    Calendar {
        name: "calendar",
        code: 3,
        text: "all at once, when the day, week, month or year ends in a time zone",
        has_windows: true
    }
    Concurrency {
        name: "concurrency",
        code: 4,
        text: "one by one, when calls end: it bounds those that run at once",
        has_windows: false
    }
}

/// How one limit is compared with another: see [`Quota::refuses_before`].
#[derive(Clone, Copy, Debug)]
pub struct Compared {
    /// Whether the cost of a request is known only after its answer, so that more may be charged than was left.
    pub charged_afterwards: bool,
    /// Whether both count the same requests. Else the stricter one counts more of them.
    pub same: bool,
}

// === impl Algorithm ===

impl Algorithm {
    /// The algorithm of a [`Algorithm::code`]; `None` for a code that is not known.
    #[must_use]
    pub fn of_code(code: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|algorithm| algorithm.code() == code)
    }
}

// === impl Quota ===

impl Quota {
    /// Whether a cell of this quota always refuses before one of `rate` does, so that `rate` is never reached.
    #[must_use]
    pub fn refuses_before(&self, rate: &Quota, compared: Compared) -> bool {
        let [(few, short), (many, long)] =
            [self, rate].map(|quota| (u128::from(quota.limit()), quota.window().as_micros().max(1)));
        match self.algorithm() {
            algorithm if algorithm != rate.algorithm() => false,
            // A bucket that is no larger and regains no faster is empty first. Limits are below 2^40, windows below 2^64.
            Algorithm::TokenBucket => few <= many && few * long <= many * short,
            // Equal windows start and end together.
            Algorithm::FixedWindow if short == long && compared.same => few <= many,
            // Both slide alike, and what counts more hits counts them in every window.
            Algorithm::SlidingWindow => short == long && few <= many,
            Algorithm::Calendar => self.calendar.is_some() && self.calendar == rate.calendar && few <= many,
            // What counts more of them has no fewer running.
            Algorithm::Concurrency => short == long && few <= many,
            // Else one of `rate` sees the end of one of this, and all that follow; but an answer may cost more than was left.
            Algorithm::FixedWindow => !compared.charged_afterwards && few * (long.div_ceil(short) + 1) <= many,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A forgotten one would not compile; two that are alike would be taken for each other.
    #[test]
    fn names_and_codes_tell_algorithms_apart() {
        assert_eq!(Algorithm::ALL.first(), Some(&Algorithm::default()));
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::of_code(algorithm.code()), Some(*algorithm));
            assert_eq!(Algorithm::ALL.iter().filter(|other| other.name() == algorithm.name()).count(), 1);
        }
        assert_eq!(Algorithm::of_code(u8::MAX), None);
    }

    /// docs/policies.md says of each how hits come back.
    #[test]
    fn every_algorithm_is_in_the_documentation() {
        let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/policies.md")).unwrap();
        for algorithm in Algorithm::ALL {
            let row = format!("`{}`", algorithm.name());
            let told = docs.lines().any(|line| line.contains(&row) && line.contains(algorithm.text()));
            assert!(told, "docs/policies.md says `{}`: {}", algorithm.name(), algorithm.text());
        }
    }
}
