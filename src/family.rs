//! Families of metrics: the series of each by their labels, what it means, and which of them are on the page.
//!
//! A module that counts something has a struct of its own with families, and registers them on the page that is made above it.

mod description;
mod registry;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::{MetricType, TypedMetric};

pub use self::description::{Description, MetricKind};
pub(crate) use self::registry::{Registry, register};

/// Series of one metric, in the order of their labels. Unlike prometheus-client's own it has an order, and is on the page
/// before it has any series. Clones share it.
pub struct Family<L, M> {
    series: Arc<RwLock<BTreeMap<L, M>>>,
    make: fn() -> M,
}

// === impl Family ===

impl<L, M> Family<L, M> {
    /// One whose series begin as `make` makes them.
    pub fn of(make: fn() -> M) -> Self {
        Family { series: Arc::default(), make }
    }
}

impl<L, M: Default> Default for Family<L, M> {
    fn default() -> Self {
        Family::of(M::default)
    }
}

impl<L, M> Clone for Family<L, M> {
    fn clone(&self) -> Self {
        Family { series: Arc::clone(&self.series), make: self.make }
    }
}

impl<L: Ord + Clone, M: Clone> Family<L, M> {
    /// The series of these labels. There is one from now on.
    pub fn get(&self, labels: &L) -> M {
        if let Some(series) = self.series.read().get(labels) {
            return series.clone();
        }
        let mut all = self.series.write();
        all.entry(labels.clone()).or_insert_with(self.make).clone()
    }

    /// Drops all series but these.
    pub fn retain(&self, is_kept: impl Fn(&L) -> bool) {
        self.series.write().retain(|labels, _| is_kept(labels));
    }
}

impl<L, M: TypedMetric> TypedMetric for Family<L, M> {
    const TYPE: MetricType = M::TYPE;
}

impl<L: EncodeLabelSet, M: EncodeMetric + TypedMetric> EncodeMetric for Family<L, M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        self.series.read().iter().try_for_each(|(labels, series)| series.encode(encoder.encode_family(labels)?))
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl<L, M> fmt::Debug for Family<L, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Family of {} series", self.series.read().len())
    }
}
