//! What is told of the policy snapshot in use.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::gauge::Gauge;

use crate::family::{Family, Registry, register};
use crate::policy::Policy;
use crate::problem::{Finding, Problem};

#[derive(Debug, Default)]
pub(super) struct Snapshot {
    generation: Gauge,
    pub(super) last_reload_successful: Gauge,
    objects: Gauge,
    objects_in_error: Gauge,
    objects_last_good: Gauge,
    problems: Family<SeverityLabel, Gauge>,
    findings: Family<FindingLabels, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct SeverityLabel {
    severity: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct FindingLabels {
    code: &'static str,
    severity: &'static str,
}

const SEVERITIES: [&str; 2] = ["error", "warning"];

// === impl Snapshot ===

impl Snapshot {
    pub(super) fn register(&self, registry: &mut Registry) {
        register(registry, "tiergate_policy_generation", self.generation.clone());
        register(registry, "tiergate_policy_last_reload_successful", self.last_reload_successful.clone());
        self.last_reload_successful.set(1);
        register(registry, "tiergate_policy_objects", self.objects.clone());
        register(registry, "tiergate_policy_objects_in_error", self.objects_in_error.clone());
        register(registry, "tiergate_policy_objects_last_good", self.objects_last_good.clone());
        register(registry, "tiergate_policy_problems", self.problems.clone());
        for severity in SEVERITIES {
            self.problems.get(&SeverityLabel { severity });
        }
        register(registry, "tiergate_policy_findings", self.findings.clone());
    }

    /// Also what is wrong beside the policy: a folder or file that cannot be read.
    pub(super) fn published(&self, policy: &Policy, faults: &[Problem]) {
        self.generation.set(i64::try_from(policy.generation).unwrap_or(i64::MAX));
        self.objects.set(number(policy.objects));
        self.objects_in_error.set(number(policy.objects_in_error()));
        let kept = faults.iter().map(|fault| match fault.code {
            Finding::SourceUnreadable => policy.objects.saturating_sub(policy.kept.len()),
            _ => 1,
        });
        self.objects_last_good.set(number(policy.kept.len() + kept.sum::<usize>()));
        let problems: Vec<&Problem> = faults.iter().chain(&policy.problems).collect();
        let severity = |problem: &Problem| if problem.is_error() { "error" } else { "warning" };
        for of in SEVERITIES {
            let count = problems.iter().filter(|problem| severity(problem) == of).count();
            self.problems.get(&SeverityLabel { severity: of }).set(number(count));
        }
        let found = |labels: &FindingLabels| {
            let same = |p: &&&Problem| p.code.as_str() == labels.code && severity(p) == labels.severity;
            problems.iter().filter(same).count()
        };
        self.findings.retain(|labels| found(labels) > 0);
        let all = Finding::ALL.iter().flat_map(|finding| SEVERITIES.map(|severity| (finding.as_str(), severity)));
        for labels in all.map(|(code, severity)| FindingLabels { code, severity }) {
            match found(&labels) {
                0 => {}
                count => drop(self.findings.get(&labels).set(number(count))),
            }
        }
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
