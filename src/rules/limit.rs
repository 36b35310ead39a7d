//! What limits say, as data.

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitKind {
    Requests,
    Tokens,
}

/// What is counted, for people: a limit of calls that run at once is one of requests, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Counts {
    Requests,
    /// Or what an answer costs
    Tokens,
    /// Those that run at once
    Calls,
}

/// When a token limit lets a call through, of which nobody knows yet what it will cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum TokenAdmission {
    /// While what it is expected to cost is there, which is held until the answer is charged
    #[default]
    Reserve,
    /// While anything is left; what calls cost that run at once is seen by none of them
    Positive,
}

// === impl Counts ===

impl Counts {
    /// Of a limit of this kind; of calls, if it counts them as long as they run.
    #[must_use]
    pub const fn new(kind: LimitKind, is_of_running: bool) -> Self {
        match kind {
            LimitKind::Requests if is_of_running => Counts::Calls,
            LimitKind::Requests => Counts::Requests,
            LimitKind::Tokens => Counts::Tokens,
        }
    }

    /// As JSON, the log and flags have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Counts::Requests => "requests",
            Counts::Tokens => "tokens",
            Counts::Calls => "calls",
        }
    }

    /// What [`Counts::name`] calls so.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Counts::Requests, Counts::Tokens, Counts::Calls].into_iter().find(|counts| counts.name() == name)
    }
}
