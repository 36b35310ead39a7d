//! Groups that nobody is in, for a slip of the pen; and groups that need not be listed.

use std::collections::BTreeSet;

use crate::manifest::{Manifests, Meta, TierSpec};
use crate::policy::tiers;
use crate::problem::{Finding, Place, Problem};
use crate::rules::Subject;
use crate::spelling::did_you_mean;
use crate::tier::service_account_group;

const ACCOUNTS: &str = "system:serviceaccounts:";
/// Groups that every cluster has.
const OF_EVERY_CLUSTER: [&str; 4] =
    ["system:authenticated", "system:unauthenticated", "system:serviceaccounts", "system:masters"];

/// What is known of groups.
struct KnownGroups<'m> {
    /// The tiers of the mapping, and where it is.
    mapping: Option<(&'m Meta, &'m [TierSpec])>,
    /// Tiers by name; where there is no mapping, those that limits are for or accounts are in.
    tiers: BTreeSet<String>,
    instances: &'m [&'m str],
    groups: BTreeSet<String>,
}

pub(super) fn groups(
    manifests: &Manifests,
    mapping: Option<(&Meta, &[TierSpec])>,
    instances: &[&str],
    problems: &mut Vec<Problem>,
) {
    let known = KnownGroups::of(manifests, mapping, instances);
    let listed = mapping.map(|(_, tiers)| tiers).unwrap_or_default().iter().flat_map(|tier| &tier.groups);
    let listed: BTreeSet<&str> = listed.map(String::as_str).collect();
    for binding in &manifests.role_bindings {
        for subject in &binding.subjects {
            let Subject::Group(group) = subject else { continue };
            // That is another finding, where there is a mapping to be misspelt.
            if known.mapping.is_some() && known.tier_of(group).is_some() {
                continue;
            }
            let candidates = known.groups.iter().map(String::as_str).chain(listed.iter().copied());
            if let Some(meant) = known.meant(group, candidates) {
                problems.push(misspelt(&binding.meta, &binding.subjects_place, "subjects", group, &meant));
            }
        }
    }
    if let Some((meta, tiers)) = mapping {
        listed_groups(meta, tiers, &known, problems);
    }
}

/// The groups of the mapping.
fn listed_groups(meta: &Meta, tiers: &[TierSpec], known: &KnownGroups<'_>, problems: &mut Vec<Problem>) {
    for (i, tier) in tiers.iter().enumerate() {
        for (j, group) in tier.groups.iter().enumerate() {
            let field = format!("data.tiers[{i}].groups[{j}]");
            if known.is_of_a_tier(group) {
                let message = format!("`{group}` belongs to its tier without being listed");
                let problem = meta.warning(Finding::TierServiceAccountGroup, &tier.place, &field, message);
                problems.push(problem.remedy("list only user groups; `<instance>-tier-<tier>` is added by itself"));
            } else if let Some(meant) = known.meant(group, known.groups.iter().map(String::as_str)) {
                problems.push(misspelt(meta, &tier.place, &field, group, &meant));
            }
        }
    }
}

fn misspelt(meta: &Meta, place: &Place, field: &str, group: &str, meant: &str) -> Problem {
    let message = format!("names group `{group}`, and there is `{meant}`");
    let problem = meta.warning(Finding::GroupMisspelt, place, field, message);
    problem.remedy(format!("did you mean `{meant}`? Texts are compared as they are"))
}

// === impl KnownGroups ===

impl<'m> KnownGroups<'m> {
    fn of(manifests: &Manifests, mapping: Option<(&'m Meta, &'m [TierSpec])>, instances: &'m [&'m str]) -> Self {
        let tiers: BTreeSet<String> = match mapping {
            Some((_, tiers)) => tiers.iter().map(|tier| tier.name.clone()).collect(),
            None => {
                let accounts = manifests.service_accounts.iter().map(|account| &**account.meta.namespace());
                let of_accounts = accounts.filter_map(|namespace| Some(namespace.rsplit_once("-tier-")?.1.to_owned()));
                tiers::named(manifests).iter().map(ToString::to_string).chain(of_accounts).collect()
            }
        };
        let of_tiers = tiers.iter().flat_map(|tier| instances.iter().map(|own| service_account_group(own, tier)));
        let accounts = manifests.service_accounts.iter().map(|account| account.meta.namespace());
        let of_accounts = accounts.map(|namespace| format!("{ACCOUNTS}{namespace}"));
        let of_every_cluster = OF_EVERY_CLUSTER.iter().map(|group| (*group).to_owned());
        let groups = of_tiers.chain(of_accounts).chain(of_every_cluster).collect();
        KnownGroups { mapping, tiers, instances, groups }
    }

    /// What follows `<instance>-tier-` in a group of ServiceAccounts.
    fn tier_of<'g>(&self, group: &'g str) -> Option<&'g str> {
        let namespace = group.strip_prefix(ACCOUNTS)?;
        let own = |instance: &&str| namespace.strip_prefix(*instance)?.strip_prefix("-tier-");
        self.instances.iter().find_map(own)
    }

    /// Whether it is the group of a tier's own namespace. Without an instance, of any.
    fn is_of_a_tier(&self, group: &str) -> bool {
        let tier = match (group.strip_prefix(ACCOUNTS), self.instances) {
            (Some(namespace), []) => namespace.rsplit_once("-tier-").map(|(_, tier)| tier),
            (Some(_), _) => self.tier_of(group),
            (None, _) => None,
        };
        tier.is_some_and(|tier| self.tiers.contains(tier))
    }

    /// The group that `group`, which is none of them, was probably meant to be.
    fn meant<'c>(&self, group: &str, candidates: impl Iterator<Item = &'c str> + Clone) -> Option<String> {
        if candidates.clone().any(|candidate| candidate == group) {
            return None;
        }
        if let Some(tier) = self.tier_of(group)
            && let Some(meant) = did_you_mean(tier, self.tiers.iter().map(String::as_str))
        {
            return group.strip_suffix(tier).map(|start| format!("{start}{meant}"));
        }
        candidates.filter(|candidate| is_slip(group, candidate)).min().map(str::to_owned)
    }
}

/// The most bytes of a letter.
const LETTER: usize = 4;

/// The letters and digits of a name, all of them small.
fn plain(name: &str) -> impl Iterator<Item = u8> {
    name.bytes().filter(u8::is_ascii_alphanumeric).map(|byte| byte.to_ascii_lowercase())
}

/// Whether two names differ as slips do, and not as names do that tell things apart: `team-a` and `team-b`, `prod1` and `prod2`.
fn is_slip(a: &str, b: &str) -> bool {
    // Most are told apart here, without a copy: a mapping may have tens of thousands of groups.
    if plain(a).eq(plain(b)) {
        return true;
    }
    if a.len().abs_diff(b.len()) > LETTER {
        return false;
    }
    let parts = |text| str::split(text, |c: char| !c.is_ascii_alphanumeric()).collect::<Vec<_>>();
    let letters = |text: &str| text.replace(|c: char| !c.is_ascii_alphabetic(), "").to_lowercase();
    let (of_a, of_b): (Vec<&str>, Vec<&str>) = (parts(a), parts(b));
    let different: Vec<_> = of_a.iter().zip(&of_b).filter(|(a, b)| a != b).collect();
    let [(one, other)] = different.as_slice() else { return false };
    let long = one.len().min(other.len()) >= 4;
    of_a.len() == of_b.len() && long && letters(one) != letters(other) && strsim::osa_distance(one, other) == 1
}

#[cfg(test)]
mod tests {
    use super::is_slip;

    #[test]
    fn a_slip_is_told_from_a_name_of_something_else() {
        for (a, b) in [
            ("premium-user", "premium-users"),
            ("Premium-Users", "premium-users"),
            ("premiumusers", "premium-users"),
            ("premuim-users", "premium-users"),
            ("system:authenticted", "system:authenticated"),
            ("system:serviceacounts:maas-tier-free", "system:serviceaccounts:maas-tier-free"),
            (
                "system:serviceaccounts:maas-defualt-gateway-tier-free",
                "system:serviceaccounts:maas-default-gateway-tier-free",
            ),
        ] {
            assert!(is_slip(a, b) && is_slip(b, a), "{a} {b}");
        }
        for (a, b) in [
            ("team-a", "team-b"),
            ("users-1", "users-2"),
            ("prod1-users", "prod2-users"),
            ("free-users", "premium-users"),
            ("east-users", "west-users"),
            ("premium-users", "premium-admins"),
            ("system:authenticated", "system:unauthenticated"),
            ("users", "users-of-llm"),
        ] {
            assert!(!is_slip(a, b) && !is_slip(b, a), "{a} {b}");
        }
    }
}
