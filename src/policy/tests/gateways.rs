use super::*;

/// Two Gateways, each with a route of its own for everything.
fn two() -> World {
    World::default()
        .gateway("ns/one", "{name: http}")
        .gateway("ns/two", "{name: http}")
        .route_to("{name: one}", "ns/r1", "")
        .route_to("{name: two}", "ns/r2", "")
}

fn asked<'p>(policy: &'p Policy, flag: Option<&str>, extension: Option<&str>) -> Result<&'p str, (Code, String)> {
    let request = Request { gateway: extension, ..request("h", "/") };
    let plan = policy.route(flag, &request);
    plan.map(|plan| &*plan.name).map_err(|denial| (denial.code, denial.detail.unwrap_or_default()))
}

#[test]
fn envoy_names_the_gateway_else_the_flag_does_else_there_is_only_one() {
    let policy = two().sound();
    for (flag, extension, route) in [
        (None, Some("ns/one"), "ns/r1"),
        (None, Some("ns/two"), "ns/r2"),
        (Some("ns/one"), None, "ns/r1"),
        (Some("ns/two"), None, "ns/r2"),
        // What Envoy says goes before the flag.
        (Some("ns/one"), Some("ns/two"), "ns/r2"),
        (Some("ns/gone"), Some("ns/two"), "ns/r2"),
    ] {
        assert_eq!(asked(&policy, flag, extension), Ok(route), "{flag:?} {extension:?}");
    }
    let only = World::default().gateway("ns/one", "{name: http}").route_to("{name: one}", "ns/r1", "").sound();
    assert_eq!(asked(&only, None, None), Ok("ns/r1"));
}

#[test]
fn gateway_that_cannot_be_told_is_undecided() {
    let policy = two().sound();
    for (flag, extension, detail) in [
        (None, None, "2 Gateways are configured (ns/one, ns/two)"),
        (None, Some("ns/gone"), "no Gateway `ns/gone` is configured"),
        (Some("ns/gone"), None, "no Gateway `ns/gone` is configured"),
        (Some("ns/one"), Some("ns/gone"), "no Gateway `ns/gone` is configured"),
        (None, Some(""), "no Gateway `` is configured"),
        (None, Some("one"), "no Gateway `one` is configured"),
        (None, Some("NS/ONE"), "no Gateway `NS/ONE` is configured"),
    ] {
        let (code, why) = asked(&policy, flag, extension).unwrap_err();
        assert_eq!(code, Code::UnavailableGateway, "{flag:?} {extension:?}");
        assert!(why.contains(detail), "{flag:?} {extension:?}: {why}");
    }
    let none = World::default().compile();
    assert_eq!(asked(&none, None, None), Err((Code::UnavailableGateway, "no Gateway is configured".to_owned())));
    // One that is not the only one that was named.
    let one = World::default().gateway("ns/one", "{name: http}").compile();
    assert_eq!(asked(&one, Some("ns/two"), None).unwrap_err().0, Code::UnavailableGateway);
}

/// The other Gateway's policies are not for its requests.
#[test]
fn gateway_in_error_does_not_make_another_the_only_one() {
    let world = World::default()
        .gateway("ns/one", "{name: http}")
        .gateway("ns/two", "{name: http, hostname: 'not a host'}")
        .route_to("{name: one}", "ns/r1", "")
        .route_to("{name: two}", "ns/r2", "");
    let policy = world.compile();
    assert_eq!(asked(&policy, None, None).map_err(|(code, _)| code), Err(Code::UnavailableGateway));
    assert_eq!(asked(&policy, None, Some("ns/one")), Ok("ns/r1"));
    assert_eq!(asked(&policy, None, Some("ns/two")).map_err(|(code, _)| code), Err(Code::UnavailableGateway));
}

#[test]
fn path_is_judged_before_gateway_and_route() {
    let bad = ["/a//b", "/a/../b", "/a%2fb", "/a;b", "", "*"];
    for policy in [World::default().compile(), two().sound(), World::new().route("ns/r", "").sound()] {
        for path in bad {
            assert_eq!(found(&policy, &request("h", path)), Err(Code::PathNotCanonical), "{path:?}");
        }
    }
}

#[test]
fn no_route_is_an_answer() {
    let policy = World::new().matching("ns/a", "path: {value: /a}").sound();
    assert_eq!(found(&policy, &request("h", "/b")), Err(Code::RouteUnknown));
    assert_eq!(found(&World::new().sound(), &request("h", "/")), Err(Code::RouteUnknown));
}
