use super::*;

/// Namespaces of `gw`'s tiers, with a ServiceAccount for each name.
fn world(accounts: &[&str]) -> World {
    let world = World::new().tiers(TIERS).route("ns/r", "").auth_with_tiers("ns/auth", "Gateway gw");
    accounts.iter().fold(world, |world, path| world.object("v1", "ServiceAccount", path, ""))
}

/// Object, field, message and remedy of each problem.
fn told(world: &World) -> Vec<[String; 4]> {
    let told = |problem: Problem| {
        assert_eq!(problem.severity, Severity::Warning);
        let object = problem.object.map(|object| object.to_string());
        [object.unwrap_or_default(), problem.field, problem.message, problem.remedy.unwrap_or_default()]
    };
    world.compile().problems.into_iter().map(told).collect()
}

#[test]
fn users_of_a_tier_that_is_there_are_no_news() {
    let none: Vec<[String; 4]> = Vec::new();
    assert_eq!(told(&world(&["gw-tier-free/a", "gw-tier-premium/b", "other-tier-gold/c", "kube-system/d"])), none);
    // Whose tiers they are is another's business.
    let other = Options { instance: Some("other".to_owned()), ..Options::default() };
    assert_eq!(told(&world(&["gw-tier-gold/a"]).options(other)), none);
}

#[test]
fn users_of_a_tier_that_is_gone_are_warned_about_once_for_each_tier() {
    let field = "metadata.namespace";
    let remedy = "add the tier to the mapping, or delete its users; until then --tier-unknown says what they get";
    let [gold, two, silver] = [
        "is of tier `gold`, which is not in the tier mapping",
        "and 2 more are of tier `gold`, which is not in the tier mapping",
        "is of tier `premum`, which is not in the tier mapping",
    ];
    let one = |object: &str, message: &str, remedy: &str| [object, field, message, remedy].map(str::to_owned);
    assert_eq!(told(&world(&["gw-tier-gold/a"])), [one("ServiceAccount gw-tier-gold/a", gold, remedy)]);
    assert_eq!(
        told(&world(&["gw-tier-gold/c", "gw-tier-gold/a", "gw-tier-free/x", "gw-tier-gold/b", "gw-tier-premum/d"])),
        [
            one("ServiceAccount gw-tier-gold/a", two, remedy),
            one("ServiceAccount gw-tier-premum/d", silver, "did you mean `premium`?"),
        ]
    );
}
