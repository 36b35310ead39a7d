use super::*;

#[test]
fn tiers_that_limits_are_for_are_known_by_name() {
    let world =
        World::new().limits_when(&["auth.identity.tier == \"free\"", "auth.identity.tier in [\"gold\", \"x\"]"]);
    let named: Vec<String> = world.compile().named_tiers.iter().map(ToString::to_string).collect();
    assert_eq!(named, ["free", "gold", "x"]);
}
