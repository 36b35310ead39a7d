//! Where usage reports are taken, whichever channel they come over.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::ledger::{Ledger, LimitNames, Line};
use super::outstanding::{Expiry, Outstanding};
use super::{
    Bounds, Caller, Channel, Charged, Correction, Passed, Report, Reservation, Sealer, Settlement, Settlements,
    UsageMetrics,
};
use crate::clock::Nanos;
use crate::limit::Limits;
use crate::throttle::Throttle;

/// Takes usage reports: opens the reservation of each, charges it, counts it, and tells in the log what is wrong with it. There
/// is one in a process, that each answer is charged once.
#[derive(Debug)]
pub struct Reports {
    sealer: Arc<Sealer>,
    limits: Arc<Limits>,
    settlements: Settlements,
    metrics: UsageMetrics,
    ledger: Option<Arc<Ledger>>,
    /// Whether what is reserved here can be settled by another process after this one.
    has_heirs: bool,
    /// Reports that a line is due for.
    throttle: Mutex<Throttle>,
    waited_for: Mutex<WaitedFor>,
}

/// The reservations whose reports are waited for. They are known by their serial numbers, which rise with time: so a moment and a number
/// a second is all that there is to remember.
#[derive(Debug, Default)]
struct WaitedFor {
    /// Those before it are waited for no longer.
    first: u64,
    /// How many had been made at a moment, the oldest first.
    made: VecDeque<(Nanos, u64)>,
}

// === impl Reports ===

impl Reports {
    /// Takes reports of what `sealer` made, and charges them to `limits`.
    #[must_use]
    pub fn new(sealer: Arc<Sealer>, limits: Arc<Limits>, settlements: Settlements, metrics: UsageMetrics) -> Self {
        let (throttle, waited_for) = (Mutex::default(), Mutex::default());
        Reports { sealer, limits, settlements, metrics, ledger: None, has_heirs: false, throttle, waited_for }
    }

    /// Counts the reservations that no report has come for, and as unsettled those of calls that cannot run any more, and has the lines
    /// written that were waited with. To be called about once a second.
    pub fn count_silent(&self, now: Nanos) {
        let first = self.count_waited_for(now);
        if let Some(ledger) = &self.ledger {
            // What waited must not be dropped for want of room; of the others what there is no room for is tried again.
            ledger.write_due(now);
            let Bounds { call_time, settle_within, .. } = self.settlements.bounds;
            let correctable = Some(settle_within.saturating_sub(call_time));
            let _ = self.write_unsettled(Expiry { end: first, now, correctable }, |line| ledger.offer(line));
        }
    }

    /// Counts them; the first reservation whose report is waited for still.
    fn count_waited_for(&self, now: Nanos) -> u64 {
        let mut waited_for = self.waited_for.lock();
        let (instance, made) = (self.sealer.instance(), self.sealer.made());
        waited_for.made.push_back((now, made));
        while let Some((at, end)) = waited_for.made.front().copied()
            && at.saturating_add(self.settlements.bounds.call_time) <= now
        {
            self.metrics.unsettled(self.limits.silent(instance, waited_for.first, end));
            waited_for.first = waited_for.first.max(end);
            waited_for.made.pop_front();
        }
        self.metrics.open(self.limits.silent(instance, waited_for.first, made));
        waited_for.first
    }

    /// Has lines written of the calls that expire and nobody has reported, each as far as there is room: whether there was for all.
    pub(super) fn write_unsettled(&self, expiry: Expiry, write: impl Fn(Line) -> bool) -> bool {
        let Some(outstanding) = self.sealer.outstanding() else { return true };
        let line = |sealed: &str| self.sealer.open(sealed).map(|reservation| self.unsettled(&reservation, expiry.now));
        outstanding.expire(expiry, line, write)
    }

    /// The line of a call that nobody has reported: the same whenever it is made, but for its time.
    fn unsettled(&self, reservation: &Reservation, now: Nanos) -> Line {
        let names = LimitNames::of(reservation, &self.limits);
        Line::unsettled(reservation, &names.holds(reservation), self.limits.time(now))
    }

    /// Has a line written of each call that nobody has reported, which only a process that takes over from this one can correct; and ends the usage log: whether
    /// that was done within `patience`. What is reserved after that has no line.
    pub fn end(&self, now: Nanos, patience: Duration) -> bool {
        let Some(ledger) = &self.ledger else { return true };
        let until = Instant::now() + patience;
        // All that is offered is to be written too, and a file that takes nothing is not waited for.
        let half = until - patience / 2;
        ledger.end_waiting(half);
        let correctable = self.has_heirs.then_some(self.settlements.bounds.settle_within);
        let expiry = Expiry { end: u64::MAX, now, correctable };
        let write = |line| Instant::now() < half && ledger.offer(line);
        while !self.write_unsettled(expiry, write) && Instant::now() < half {
            ledger.make_room();
        }
        let calls = self.sealer.outstanding().map_or(0, Outstanding::open);
        if calls > 0 {
            tracing::error!(calls, "--usage-log: the process ends, and calls that nobody reported have no line");
        }
        ledger.close(until.saturating_duration_since(Instant::now()))
    }

    /// Has `ledger` write down what is settled.
    #[must_use]
    pub fn written_by(self, ledger: Arc<Ledger>) -> Self {
        self.sealer.remember_in(ledger.outstanding());
        Reports { ledger: Some(ledger), ..self }
    }

    /// Those of a process after which another takes over. The calls that had a line without a report at the end of the process before it
    /// are `unsettled`: a report of one corrects its line.
    #[must_use]
    pub fn inherited(self, unsettled: Vec<u128>) -> Self {
        if let Some(outstanding) = self.sealer.outstanding() {
            outstanding.inherit(unsettled);
        }
        Reports { has_heirs: true, ..self }
    }

    /// Takes what a gateway reports of the answer whose reservation is `sealed`; what became of it.
    pub async fn take(&self, sealed: &str, report: &Report, channel: Channel, now: Nanos) -> Charged {
        let Some(reservation) = self.sealer.open(sealed) else {
            let unknown = Settlement::Unknown.into();
            self.metrics.reported(channel, &unknown, &report.usage, None);
            self.warn(channel, |reports, channel| {
                tracing::warn!(reports, channel, "usage reports carry reservations that this process did not make")
            });
            return unknown;
        };
        let charged = self.settlements.settle(&self.limits, &reservation, report, now).await;
        self.metrics.reported(channel, &charged, &report.usage, Some(&reservation));
        if charged.is_first() {
            let delay = self.limits.time(now).0.saturating_sub(reservation.minted.0);
            self.metrics.settled_after(Duration::from_micros(delay));
        }
        if let Some(ledger) = &self.ledger
            && let Some(line) = Line::settled(&reservation, report, &charged, self.limits.time(now))
        {
            ledger.settle(reservation.call(), self.charging(line, &reservation, &charged, channel), now);
        }
        self.tell_cuts(&charged, &reservation, channel);
        charged
    }

    /// `line` with what each limit was `charged`; the difference, where the call has a line already that nobody had reported.
    fn charging(&self, line: Line, reservation: &Reservation, charged: &Charged, channel: Channel) -> Line {
        // A correction may overtake the line that it corrects, and leaves that to it.
        let outstanding = self.sealer.outstanding().filter(|_| !line.correction);
        let has_line = outstanding.is_some_and(|outstanding| match reservation.instance == self.sealer.instance() {
            true => outstanding.settled(reservation.serial),
            false => outstanding.settled_before(reservation.call()),
        });
        let line = line.of(channel, LimitNames::of(reservation, &self.limits).charges(charged));
        if has_line { line.correcting(&self.unsettled(reservation, Nanos(0))) } else { line }
    }

    /// Takes word of a gateway that the call whose reservation is `sealed` runs still.
    pub async fn renew(&self, sealed: &str, now: Nanos) {
        if let Some(reservation) = self.sealer.open(sealed) {
            self.settlements.renew(&self.limits, &reservation, now).await;
        }
    }

    /// Notes a report that nobody can read, and why.
    pub fn refuse(&self, channel: Channel, why: &str) {
        self.metrics.refused(channel);
        self.warn(channel, |reports, channel| tracing::warn!(reports, channel, why, "usage reports are refused"));
    }

    /// Notes an entry of an access log that is no report.
    pub fn pass(&self, entry: Passed) {
        self.metrics.passed(entry);
    }

    /// Notes a report with a number that is none, and why; its other numbers are taken.
    pub fn pass_over(&self, channel: Channel, why: &str) {
        self.metrics.corrected(Correction::Number);
        self.warn(channel, |reports, channel| {
            tracing::warn!(reports, channel, why, "usage reports have numbers that are not taken")
        });
    }

    /// Notes what of a report was not charged, and which parts of limits it has reached.
    fn tell_cuts(&self, charged: &Charged, reservation: &Reservation, channel: Channel) {
        let tier = &*reservation.tier;
        for reached in &charged.reached {
            let caller = Caller { user: &reservation.user, tier, model: &reservation.model_name };
            self.metrics.reached(reached, caller);
        }
        if let Some(tokens) = charged.cut {
            self.metrics.corrected(Correction::Answer);
            let most = self.settlements.bounds.answer;
            self.warn(channel, |reports, channel| {
                let line = "answers are said to use more tokens than --max-answer-tokens";
                tracing::warn!(reports, channel, tier, tokens, most, "{line}")
            });
        }
        if let Some(why) = &charged.cost_fault {
            self.metrics.corrected(Correction::Cost);
            self.warn(channel, |reports, channel| {
                let line = "costs of limits have no value that an answer can cost, and something else is charged";
                tracing::warn!(reports, channel, tier, %why, "{line}")
            });
        }
        if charged.overran {
            self.metrics.corrected(Correction::Lease);
            self.warn(channel, |reports, channel| {
                let line = "calls ran longer than --max-call-time, and were not counted any more among those that run";
                tracing::warn!(reports, channel, tier, "{line}")
            });
        }
        if charged.debt_cut {
            self.metrics.corrected(Correction::Debt);
            self.warn(channel, |reports, channel| {
                tracing::warn!(reports, channel, tier, "debts are cut at --max-debt-windows")
            });
        }
    }

    /// A line, where there was none in the last second; with the number of reports that wanted one since, and the channel of
    /// this one.
    fn warn(&self, channel: Channel, line: impl FnOnce(u64, &'static str)) {
        if let Some(reports) = self.throttle.lock().count(Instant::now()) {
            line(reports, channel.as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Micros;
    use crate::family::Registry;
    use crate::limit::Memory;
    use crate::usage::{Bounds, MAX_HITS, Terms, Usage};

    #[tokio::test]
    async fn a_report_is_charged_once_and_whatever_becomes_of_it_is_counted() {
        let (sealer, metrics) = (Arc::new(Sealer::random()), UsageMetrics::default());
        let limits = Arc::new(Limits::in_memory(Memory::default()));
        let reports = Reports::new(Arc::clone(&sealer), limits, Settlements::default(), metrics.clone());
        let sealed = sealer.seal(&Terms { is_call: true, ..Terms::default() }, Micros(0));
        let report = Report { usage: Usage { total: Some(MAX_HITS), ..Usage::default() }, ..Report::default() };
        for (sealed, expected) in [
            (&*sealed, Settlement::Settled(Bounds::ANSWER)),
            (&*sealed, Settlement::Duplicate),
            ("forged", Settlement::Unknown),
        ] {
            let charged = reports.take(sealed, &report, Channel::RateLimit, Nanos(0)).await;
            assert_eq!(charged.settlement, expected);
        }
        reports.refuse(Channel::RateLimit, "no descriptors");
        // Another call, that nobody reports.
        let _ = sealer.seal(&Terms { is_call: true, ..Terms::default() }, Micros(0));
        reports.count_silent(Nanos(0));
        let shown = || {
            let (mut registry, mut page) = (Registry::new(&[]), String::new());
            metrics.register(&mut registry);
            registry.encode(&mut page).unwrap();
            page
        };
        let (open, unsettled) = ("tiergate_usage_reports_awaited 1\n", "tiergate_usage_unsettled_total 0\n");
        assert!(shown().contains(open) && shown().contains(unsettled), "{}", shown());
        reports.count_silent(Nanos::from(Bounds::CALL_TIME));
        let (open, unsettled) = ("tiergate_usage_reports_awaited 0\n", "tiergate_usage_unsettled_total 1\n");
        assert!(shown().contains(open) && shown().contains(unsettled), "{}", shown());
        reports.count_silent(Nanos::from(Bounds::CALL_TIME * 2));
        assert!(shown().contains(unsettled), "once: {}", shown());
        reports.pass_over(Channel::RateLimit, "`total` is none");
        let page = shown();
        for line in [
            "tiergate_usage_reports_total{channel=\"rate_limit\",result=\"settled\"} 1",
            "tiergate_usage_reports_total{channel=\"rate_limit\",result=\"duplicate\"} 1",
            "tiergate_usage_reports_total{channel=\"rate_limit\",result=\"unknown\"} 1",
            "tiergate_usage_reports_total{channel=\"rate_limit\",result=\"refused\"} 1",
            "tiergate_usage_corrections_total{what=\"answer\"} 1",
            "tiergate_usage_corrections_total{what=\"number\"} 1",
            "tiergate_usage_tokens_total{tier=\"\",usage=\"total\"} 1000000000",
            "tiergate_limit_tokens_total{limit=\"other\",policy=\"\"} 0",
        ] {
            assert!(page.contains(line), "{line}\n{page}");
        }
    }
}
