//! Which parts of limits a request reaches, of those that want to be told.

use std::ops::Range;
use std::sync::Arc;

use super::{Deciding, Evidence};
use crate::expression::Scope;
use crate::limit::Notify;
use crate::policy::Limit;
use crate::usage::Reached;

/// A limit that matched, and of which parts are told.
#[derive(Debug)]
pub struct Watched {
    notify: Arc<Notify>,
    /// The values that it counts under.
    key: Vec<String>,
    /// The places of its rates in the evidence, among those that refuse nobody where it is one of them.
    rates: Range<usize>,
    shadow: bool,
}

// === impl Deciding ===

impl Deciding<'_> {
    /// Has the limit watched whose evidence comes next.
    #[cold]
    pub(super) fn watch(&mut self, notify: &Arc<Notify>, limit: &Limit, scope: &Scope<'_>, shadow: bool) {
        let evidence = &mut self.evidence;
        let first = if shadow { evidence.shadow_limits.len() } else { evidence.limits.len() };
        let rates = first..first + limit.rates.len();
        evidence.watched.push(Watched { notify: Arc::clone(notify), key: limit.key(scope), rates, shadow });
    }
}

// === impl Evidence ===

impl Evidence {
    /// Notes which parts were reached by what the request took.
    #[cold]
    pub(super) fn note_reached(&mut self) {
        for Watched { notify, key, rates, shadow } in &self.watched {
            let all = if *shadow { self.shadow_limits.as_slice() } else { self.limits.as_slice() };
            for limit in all.get(rates.clone()).into_iter().flatten() {
                let Some(standing) = limit.standing else { continue };
                let before = standing.used().saturating_sub(standing.held());
                let reached = Reached::by(notify, &limit.name, limit.kind, before, standing);
                self.reached.extend(reached.map(|reached| Reached { key: key.clone(), shadow: *shadow, ..reached }));
            }
        }
    }
}
