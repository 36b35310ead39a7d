//! What limits say, as data.

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitKind {
    Requests,
    Tokens,
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
