//! What the process's flags say about decisions.

use std::time::Duration;

use super::{EnforceLimits, LimitsPath};
use crate::rules::TokenAdmission;
use crate::usage::{Bounds, Forecasts};

/// What happens to requests that no policy, or no limit, says anything about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Fallback {
    Allow,
    Refuse,
}

/// What happens to a caller whose tier is not known: it is no longer configured, or none has their groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum TierUnknown {
    Refuse,
    /// The next tier that their groups give; without one, the policy decides.
    #[default]
    Next,
}

/// What the process's flags say about decisions.
#[derive(Clone, Debug)]
pub struct DecisionSettings {
    /// `namespace/name` of the Gateway, where Envoy does not say it.
    pub gateway: Option<String>,
    pub without_policy: Fallback,
    pub without_limit: Fallback,
    /// What happens to a new caller when there is no room for another account.
    pub without_room: Fallback,
    pub enforce_limits: EnforceLimits,
    /// What happens to a call that has a token limit and whose usage cannot be read.
    pub uncounted: Fallback,
    /// What one usage report may cost.
    pub bounds: Bounds,
    pub reserving: Reserving,
    /// Whether every request is let through, and what would have been said is only recorded.
    pub shadow: bool,
    /// Where callers are told their limits.
    pub limits_path: LimitsPath,
    pub tier_unknown: TierUnknown,
    /// How long decisions rest on what was known while changes may not be seen.
    pub stale_for: Duration,
}

/// How calls are reserved whose cost is known after their answer.
#[derive(Clone, Copy, Debug)]
pub struct Reserving {
    /// Where a policy says nothing else.
    pub admission: TokenAdmission,
    /// The part of a token limit that a call has to find there, however much it is expected to cost.
    pub fraction: f64,
    /// See [`Forecasts::MARGIN`].
    pub margin: f32,
    /// Whether reservations say who called what, for a log of usage.
    pub names: bool,
}

// === impl Reserving ===

impl Reserving {
    /// So that a call runs although the one before cost a little more than was held.
    pub const FRACTION: f64 = 0.9;
}

impl Default for Reserving {
    fn default() -> Self {
        Reserving {
            admission: TokenAdmission::Reserve,
            fraction: Self::FRACTION,
            margin: Forecasts::MARGIN,
            names: false,
        }
    }
}
