use super::*;
use crate::rules::PolicyRule;
use crate::test_util::assert_linear;

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

fn object(kind: &str, path: &str) -> ObjectName {
    let (namespace, name) = path.split_once('/').unwrap_or(("", path));
    ObjectName::new(kind, namespace, name)
}

/// The parts of one object.
fn parts(object: &ObjectName, within: impl IntoIterator<Item = Within>) -> Parts {
    let place = Place { file: object.to_string().into(), line: 0, column: 0 };
    let all = [None].into_iter().chain(within.into_iter().map(Some));
    all.map(|within| (Part { object: object.clone(), within }, place.clone())).collect()
}

fn policies(targets: &[(String, &str)]) -> Parts {
    let policy = |(path, target): &(String, &str)| {
        parts(&object("RateLimitPolicy", path), [Within::Target((*target).to_owned())])
    };
    targets.iter().flat_map(policy).collect()
}

/// What is told when `parts` follow.
fn told(departures: &mut Departures, parts: &Parts, now: Instant) -> Vec<String> {
    let mut policy = Policy::default();
    departures.follow(parts.clone(), &[], &mut policy, now);
    policy.problems.iter().map(|problem| problem.text().to_string().lines().next().unwrap().to_owned()).collect()
}

const NONE: [&str; 0] = [];

#[test]
fn what_stays_is_looked_up_in_time_that_grows_with_its_number() {
    let took = |number: usize| {
        let subjects = (0..number).map(|number| Within::Subject(format!("user-{number}")));
        let parts = parts(&object("ClusterRoleBinding", "all"), subjects);
        let mut departures = Departures::default();
        assert_eq!(told(&mut departures, &parts, Instant::now()), NONE);
        let took = (0..3).map(|_| {
            let start = Instant::now();
            assert_eq!(told(&mut departures, &parts, start), NONE);
            start.elapsed()
        });
        took.min().unwrap()
    };
    assert_linear("subjects that stay", 2_000, took);
}

#[test]
fn a_departure_is_told_for_an_hour() {
    let start = Instant::now();
    let (there, gone) = (policies(&[("llm/limits".to_owned(), "Gateway gw/gw")]), Parts::new());
    let mut departures = Departures::default();
    assert_eq!(told(&mut departures, &there, start), NONE);
    assert_eq!(told(&mut departures, &gone, start), ["RateLimitPolicy llm/limits: is gone"]);
    let last = start + HOUR - SECOND;
    assert_eq!(told(&mut departures, &gone, last), ["RateLimitPolicy llm/limits: is gone"]);
    assert!(!departures.are_due(last));
    assert!(departures.are_due(start + HOUR));
    assert_eq!(told(&mut departures, &gone, start + HOUR), NONE);
    assert!(!departures.are_due(start + HOUR));
}

#[test]
fn of_many_departures_those_of_gateways_are_told_and_the_rest_is_counted() {
    let start = Instant::now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let own = policies(&[("gateways/limits".to_owned(), "Gateway gateways/gw")]);
    let few = policies(&[("b/limits".to_owned(), "HTTPRoute b/r")]);
    let tenant: Vec<_> = (0..21).map(|number| (format!("a/{number:02}"), "HTTPRoute a/r")).collect();
    let tenant = policies(&tenant);
    let mut departures = Departures::default();
    let together = |sets: &[&Parts]| sets.iter().flat_map(|parts| (*parts).clone()).collect::<Parts>();
    told(&mut departures, &together(&[&own, &few, &tenant]), start);
    told(&mut departures, &together(&[&few, &tenant]), at(1));
    told(&mut departures, &tenant, at(2));
    let now = told(&mut departures, &Parts::new(), at(3));
    let mut expected =
        vec!["RateLimitPolicy gateways/limits: is gone".to_owned(), "RateLimitPolicy b/limits: is gone".to_owned()];
    expected.extend((0..18).map(|number| format!("RateLimitPolicy a/{number:02}: is gone")));
    expected.push("and 3 more of this kind are gone, or parts of them".to_owned());
    assert_eq!(now, expected);
    // Those that are counted are told for an hour after the last of them.
    assert_eq!(told(&mut departures, &Parts::new(), at(3) + HOUR - SECOND).len(), 19);
    assert_eq!(told(&mut departures, &Parts::new(), at(3) + HOUR), NONE);
    // Twenty are told one by one.
    let twenty: Vec<_> = (0..20).map(|number| (format!("a/{number:02}"), "HTTPRoute a/r")).collect();
    told(&mut departures, &policies(&twenty), at(9_000));
    let now = told(&mut departures, &Parts::new(), at(9_001));
    assert_eq!((now.len(), now.iter().filter(|told| told.ends_with(": is gone")).count()), (20, 20));
}

#[test]
fn accounts_that_go_are_told_of_a_folder_alone() {
    let there = parts(&object("ServiceAccount", "gw-tier-free/alice"), []);
    for (mut departures, expected) in [
        (Departures::default(), vec!["ServiceAccount gw-tier-free/alice: is gone"]),
        (Departures::of_cluster(), Vec::new()),
    ] {
        let start = Instant::now();
        told(&mut departures, &there, start);
        assert_eq!(told(&mut departures, &Parts::new(), start), expected);
    }
}

#[test]
fn of_a_role_is_told_what_no_other_rule_permits() {
    let rule = |verbs: &[&str], names: &[&str]| {
        let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let (resources, api_groups) = (owned(&["models"]), Vec::new());
        let rule = PolicyRule { verbs: owned(verbs), resources, resource_names: owned(names), api_groups };
        Within::Permission(Permission::of(&rule).unwrap())
    };
    let role = object("Role", "llm/users");
    let start = Instant::now();
    let mut departures = Departures::default();
    told(&mut departures, &parts(&role, [rule(&["get", "post"], &["a", "b"])]), start);
    let split = parts(&role, [rule(&["get"], &["a", "b"]), rule(&["post"], &["a", "b"])]);
    assert_eq!(told(&mut departures, &split, start), NONE);
    let fewer = parts(&role, [rule(&["get"], &["a", "b"]), rule(&["post"], &["b"])]);
    let lost = ["Role llm/users: its `post` on models a is gone"];
    assert_eq!(told(&mut departures, &fewer, start + SECOND), lost);
    // It is back, and more.
    assert_eq!(told(&mut departures, &parts(&role, [rule(&["*"], &[])]), start + 2 * SECOND), NONE);
    assert_eq!(told(&mut departures, &split, start + 3 * SECOND), ["Role llm/users: its `*` on models is gone"]);
}

#[test]
fn what_is_not_protected_any_more_is_named_in_part() {
    let routes = (0..5_000).map(|number| format!("ns/route-{number:04}").into()).collect();
    let after = Gaps { routes, ..Gaps::default() };
    let part = Part { object: object("AuthPolicy", "ns/auth"), within: None };
    let told = consequence(&part, &Gaps::default(), &after).unwrap();
    let expected = "no AuthPolicy protects ns/route-0000, ns/route-0001, ns/route-0002, ns/route-0003, ns/route-0004 and \
                    4995 more: see --without-policy";
    assert_eq!(&*told, expected);
}
