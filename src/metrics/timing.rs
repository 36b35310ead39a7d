//! How long something takes, counted without a lock: prometheus-client's histogram has one, which every decision of every
//! worker would wait for.

use std::array;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// A histogram of durations in seconds. Its buckets end at 1 µs, 2 µs, 4 µs and so on, to 2 s. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Timing(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    nanos: AtomicU64,
    /// The last one is for what takes longer.
    buckets: [AtomicU64; BOUNDED + 1],
}

const BOUNDED: usize = 22;

// === impl Timing ===

impl Timing {
    pub(super) fn observe(&self, taken: Duration) {
        let nanos = u64::try_from(taken.as_nanos()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.0.buckets.get(bucket(nanos)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.0.nanos.fetch_add(nanos, Ordering::Relaxed);
    }
}

/// The first whose end is not below.
fn bucket(nanos: u64) -> usize {
    let micros = nanos.div_ceil(1_000).clamp(1, 1 << BOUNDED);
    micros.next_power_of_two().trailing_zeros() as usize
}

/// In seconds.
fn end(bucket: usize) -> f64 {
    if bucket < BOUNDED { 0.000_001 * 2_f64.powi(bucket as i32) } else { f64::INFINITY }
}

impl TypedMetric for Timing {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Timing {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let counts: [u64; BOUNDED + 1] = self.0.buckets.each_ref().map(|bucket| bucket.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = counts.iter().enumerate().map(|(at, count)| (end(at), *count)).collect();
        let seconds = self.0.nanos.load(Ordering::Relaxed) as f64 / 1e9;
        encoder.encode_histogram::<NoLabelSet>(seconds, counts.iter().sum(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

// === impl Inner ===

impl Default for Inner {
    fn default() -> Self {
        Inner { nanos: AtomicU64::default(), buckets: array::from_fn(|_| AtomicU64::default()) }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn it_counts_as_the_librarys_own_does() {
        let (ours, theirs) = (Timing::default(), Histogram::new(exponential_buckets(0.000_001, 2.0, 22)));
        let bounds = (0..24).map(|power| 1_000_u64 << power);
        for nanos in bounds.flat_map(|bound| [bound - 1, bound, bound + 1]).chain([0, 1, 500_000_000, 10_000_000_000]) {
            ours.observe(Duration::from_nanos(nanos));
            theirs.observe(Duration::from_nanos(nanos).as_secs_f64());
        }
        let page = |metric: &dyn Fn(&mut Registry)| {
            let (mut registry, mut page) = (Registry::default(), String::new());
            metric(&mut registry);
            prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
            page.lines().filter(|line| !line.contains("_sum")).map(str::to_owned).collect::<Vec<_>>()
        };
        let ours = page(&|registry| registry.register("a", "a", ours.clone()));
        assert_eq!(ours, page(&|registry| registry.register("a", "a", theirs.clone())));
        assert!(ours.iter().any(|line| line == "a_bucket{le=\"+Inf\"} 76"), "{ours:?}");
    }

    #[test]
    fn whatever_takes_for_ever_is_counted_too() {
        Timing::default().observe(Duration::MAX);
        assert_eq!((bucket(u64::MAX), end(BOUNDED)), (BOUNDED, f64::INFINITY));
    }
}
