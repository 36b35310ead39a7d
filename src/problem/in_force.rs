//! What is in force while something is in error: a message that says "shut" has to be right about it.

use std::fmt;

use jiff::{Timestamp, Unit};
use serde::{Serialize, Serializer};

use super::Finding;

/// What is in force in place of what is in error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InForce {
    /// What was good before this time.
    LastGood(Timestamp),
    /// Nothing can be decided for what it is for.
    Shut,
    /// It could be for anything, so nothing can be decided at all.
    AllShut,
    /// It grants nothing.
    NoGrant,
    /// Nothing of it, and nothing instead.
    Nothing,
    /// All of it but what the message names.
    Rest,
}

// === impl InForce ===

impl InForce {
    /// What an error between objects leaves in force, where its code tells.
    #[must_use]
    pub fn of(code: Finding) -> Option<Self> {
        match code {
            Finding::TargetMissing
            | Finding::RouteUnattached
            | Finding::PolicyShadowed
            | Finding::TierMappingUnused => Some(InForce::Nothing),
            Finding::RuleReplaced | Finding::LimitReplaced | Finding::CounterUndeclared => Some(InForce::Rest),
            Finding::GatewayUnknown => Some(InForce::Shut),
            _ => None,
        }
    }
}

impl fmt::Display for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InForce::LastGood(since) => {
                write!(f, "its last good version, since {}", since.round(Unit::Second).unwrap_or(*since))
            }
            InForce::Shut => f.write_str("nothing of it; what it is for is shut (503)"),
            InForce::AllShut => f.write_str("nothing; it could be for anything, so everything is shut (503)"),
            InForce::NoGrant => f.write_str("nothing of it; it grants nothing"),
            InForce::Nothing => f.write_str("nothing of it"),
            InForce::Rest => f.write_str("the rest of it"),
        }
    }
}

impl Serialize for InForce {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
