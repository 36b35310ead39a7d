use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::problem::Place;

fn spec(name: &str, level: i64, groups: &[&str]) -> TierSpec {
    TierSpec {
        name: name.to_owned(),
        display_name: None,
        level,
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        place: Place { file: Arc::from("tiers.yaml"), line: 1, column: 1 },
    }
}

/// The mapping of the platform's guide, as one instance sees it.
fn seed() -> TierTable {
    let specs = [
        spec("free", 1, &["system:authenticated"]),
        spec("premium", 10, &["premium-users"]),
        spec("enterprise", 20, &["enterprise-users"]),
    ];
    TierTable::new(&specs, ["maas"])
}

fn tier_of<'t>(table: &'t TierTable, groups: &[&str]) -> Option<&'t str> {
    table.of(groups.iter().copied()).map(|tier| &*tier.name)
}

#[test]
fn highest_level_wins_whatever_the_order() {
    let table = seed();
    for (groups, tier) in [
        (&["system:authenticated"][..], Some("free")),
        (&["system:authenticated", "premium-users"], Some("premium")),
        (&["premium-users", "system:authenticated"], Some("premium")),
        (&["enterprise-users", "premium-users", "system:authenticated"], Some("enterprise")),
        (&["system:authenticated", "enterprise-users", "premium-users"], Some("enterprise")),
        (&["nobody-knows", "premium-users"], Some("premium")),
    ] {
        assert_eq!(tier_of(&table, groups), tier, "{groups:?}");
    }
}

#[test]
fn caller_in_no_listed_group_has_no_tier() {
    let table = seed();
    for groups in [&[][..], &[""], &["premium"], &["Premium-Users"], &["premium-users "]] {
        assert_eq!(tier_of(&table, groups), None, "{groups:?}");
    }
    assert_eq!(tier_of(&TierTable::default(), &["system:authenticated"]), None);
}

#[test]
fn equal_levels_go_to_the_tier_that_stands_first() {
    let first = [spec("a", 5, &["x", "y"]), spec("b", 5, &["x", "z"]), spec("c", 1, &["x"])];
    let table = TierTable::new(&first, []);
    assert_eq!(tier_of(&table, &["x"]), Some("a"));
    assert_eq!(tier_of(&table, &["z", "y"]), Some("a"));
    assert_eq!(tier_of(&table, &["z"]), Some("b"));
    let [a, b, c] = first;
    assert_eq!(tier_of(&TierTable::new(&[c, b, a], []), &["x"]), Some("b"));
}

#[test]
fn levels_may_be_negative_or_far_apart() {
    let specs = [
        spec("least", i64::MIN, &["x"]),
        spec("below", -1, &["x", "y"]),
        spec("zero", 0, &["x"]),
        spec("most", i64::MAX, &["z"]),
    ];
    let table = TierTable::new(&specs, []);
    assert_eq!(tier_of(&table, &["x"]), Some("zero"));
    assert_eq!(tier_of(&table, &["y"]), Some("below"));
    let order: Vec<_> = table.tiers().iter().map(|tier| (&*tier.name, tier.level)).collect();
    assert_eq!(order, [("most", i64::MAX), ("zero", 0), ("below", -1), ("least", i64::MIN)]);
}

#[test]
fn service_accounts_of_a_tiers_namespace_belong_to_it_without_being_listed() {
    let table = seed();
    for (group, tier) in [
        ("system:serviceaccounts:maas-tier-free", Some("free")),
        ("system:serviceaccounts:maas-tier-premium", Some("premium")),
        ("system:serviceaccounts:maas-tier-enterprise", Some("enterprise")),
        ("system:serviceaccounts:other-tier-premium", None),
        ("system:serviceaccounts:maas-tier-gone", None),
        ("system:serviceaccounts:maas-tier-", None),
        ("system:serviceaccounts", None),
    ] {
        assert_eq!(tier_of(&table, &[group]), tier, "{group}");
    }
    // What a ServiceAccount's token really carries.
    let token = ["system:serviceaccounts", "system:serviceaccounts:maas-tier-premium", "system:authenticated"];
    assert_eq!(tier_of(&table, &token), Some("premium"));
    assert_eq!(service_account_group("maas", "premium"), "system:serviceaccounts:maas-tier-premium");
}

#[test]
fn implicit_group_counts_as_much_as_a_listed_one() {
    // A common mistake: another tier lists a tier's own group. The level decides, as for every group.
    let own = "system:serviceaccounts:maas-tier-low";
    let table = TierTable::new(&[spec("low", 1, &[]), spec("high", 2, &[own])], ["maas"]);
    assert_eq!(tier_of(&table, &[own]), Some("high"));
    let table = TierTable::new(&[spec("low", 2, &[]), spec("high", 1, &[own])], ["maas"]);
    assert_eq!(tier_of(&table, &[own]), Some("low"));
}

#[test]
fn no_instance_means_no_implicit_group_and_several_mean_several() {
    let specs = [spec("free", 1, &["everyone"])];
    let group = |instance: &str| service_account_group(instance, "free");
    let none = TierTable::new(&specs, []);
    assert_eq!(tier_of(&none, &[&group("a")]), None);
    assert_eq!(tier_of(&none, &["everyone"]), Some("free"));
    let both = TierTable::new(&specs, ["a", "b"]);
    assert_eq!(tier_of(&both, &[&group("a")]), Some("free"));
    assert_eq!(tier_of(&both, &[&group("b")]), Some("free"));
    assert_eq!(tier_of(&both, &[&group("c")]), None);
}

#[test]
fn answer_is_the_body_of_a_lookup() {
    let specs = [
        TierSpec { display_name: Some("Premium \"Plus\"".to_owned()), ..spec("premium", 10, &["p"]) },
        spec("free", 1, &["f"]),
    ];
    let table = TierTable::new(&specs, []);
    for (group, answer) in [
        ("p", json!({ "tier": "premium", "displayName": "Premium \"Plus\"" })),
        ("f", json!({ "tier": "free", "displayName": "free" })),
    ] {
        assert_eq!(table.of([group]).unwrap().answer, answer);
    }
}

#[test]
fn a_tier_is_gone_when_a_namespace_is_named_for_it_and_the_mapping_is_not() {
    let table = TierTable::new(&[spec("free", 1, &[]), spec("a-tier-b", 2, &[])], ["maas", "maas-tier-x"]);
    for (namespace, gone) in [
        ("maas-tier-gold", Some("gold")),
        ("maas-tier-free", None),
        ("maas-tier-a-tier-b", None),
        ("maas-tier-x-tier-free", None),
        ("maas-tier-x-tier-gold", Some("x-tier-gold")),
        ("maas-tier-", None),
        ("other-tier-gold", None),
        ("kube-system", None),
    ] {
        assert_eq!(table.gone(namespace), gone, "{namespace}");
    }
    assert_eq!(TierTable::new(&[], []).gone("maas-tier-gold"), None, "whose namespaces they are is not known");
}
