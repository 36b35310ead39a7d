//! Tiers that are gone while users hold them.

use std::collections::BTreeMap;

use crate::manifest::{Manifests, Meta, TierSpec};
use crate::problem::{Finding, Problem};
use crate::spelling::did_you_mean;
use crate::tier::TierTable;

/// Warns of ServiceAccounts whose namespace is of a tier that is not in the mapping: once for each namespace, at its first.
pub(super) fn users(manifests: &Manifests, tiers: &[TierSpec], instances: &[&str], problems: &mut Vec<Problem>) {
    let table = TierTable::new(tiers, instances.iter().copied());
    let mut holders: BTreeMap<&str, Vec<&Meta>> = BTreeMap::new();
    for account in &manifests.service_accounts {
        holders.entry(account.meta.namespace()).or_default().push(&account.meta);
    }
    for (namespace, mut holders) in holders {
        let Some(tier) = table.gone(namespace) else { continue };
        holders.sort_by(|a, b| a.object.cmp(&b.object));
        let Some(first) = holders.first() else { continue };
        let whose = match holders.len() {
            1 => "is of".to_owned(),
            number => format!("and {} more are of", number - 1),
        };
        let message = format!("{whose} tier `{tier}`, which is not in the tier mapping");
        let code = Finding::AccountTierUnknown;
        let problem = first.warning(code, &first.namespace_place, "metadata.namespace", message);
        let meant = did_you_mean(tier, tiers.iter().map(|tier| tier.name.as_str()));
        let remedy = match meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "add the tier to the mapping, or delete its users; until then --tier-unknown says what they get"
                .to_owned(),
        };
        problems.push(problem.remedy(remedy));
    }
}
