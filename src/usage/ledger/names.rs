//! What the limits are called that a call is charged to.

use std::collections::BTreeMap;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::limit::Limits;
use crate::rules::LimitKind;
use crate::usage::{Charged, Reservation};

/// The token limit of each hold of a reservation, as `namespace/policy/limit`, in their order. It is known for as long as the limit is
/// charged, which is a day longer than a policy has it.
#[derive(Debug)]
pub struct LimitNames(SmallVec<[Option<Arc<str>>; 2]>);

// === impl LimitNames ===

impl LimitNames {
    #[must_use]
    pub fn of(reservation: &Reservation, limits: &Limits) -> Self {
        let name = |cell| limits.rate(cell, reservation.route).map(|rate| rate.name).filter(|name| !name.is_empty());
        let tokens = |kind| kind == LimitKind::Tokens;
        LimitNames(reservation.holds.iter().map(|hold| name(hold.of.cell).filter(|_| tokens(hold.kind))).collect())
    }

    /// By the limit, what each hold was charged.
    #[must_use]
    pub fn charges(&self, charged: &Charged) -> BTreeMap<Arc<str>, i64> {
        let named = self.0.iter().zip(&charged.charges);
        // A limit of several rates is charged the same in each.
        named.filter_map(|(name, charge)| Some((Arc::clone(name.as_ref()?), *charge))).collect()
    }

    /// By the limit, what is held of it; of several rates the most.
    #[must_use]
    pub fn holds(&self, reservation: &Reservation) -> BTreeMap<Arc<str>, u64> {
        let mut holds = BTreeMap::new();
        for (name, hold) in self.0.iter().zip(&reservation.holds) {
            if let Some(name) = name {
                let most = holds.entry(Arc::clone(name)).or_default();
                *most = hold.of.held.max(*most);
            }
        }
        holds
    }
}
