use std::time::Duration;

use super::*;
use crate::limit::Quota;
use crate::problem::Severity;
use crate::rules::LimitKind;

#[test]
fn rates_that_mean_nothing_are_errors() {
    for (limit, rows) in [
        ("{rates: [{limit: 1, window: ▸0s}]}", &[(E, ".rates[0].window", "no time at all")][..]),
        ("{rates: [{limit: 1, window: ▸0h0m}]}", &[(E, ".rates[0].window", "no time at all")]),
        ("{rates: [{limit: 1, window: ▸1d}]}", &[(E, ".rates[0].window", "write 24h")]),
        ("{rates: [{limit: 1, window: ▸7d}]}", &[(E, ".rates[0].window", "write 168h")]),
        ("{rates: [{limit: 1, window: ▸1.5m}]}", &[(E, ".rates[0].window", "such as 2m or 1h30m")]),
        ("{rates: [{limit: 1, window: ▸''}]}", &[(E, ".rates[0].window", "`` is not a duration")]),
        ("{rates: [{limit: 1, window: ▸60}]}", &[(E, ".rates[0].window", "is an integer")]),
        ("{rates: [▸{limit: 1}]}", &[(E, ".rates[0]", "`window` is missing")]),
        ("{rates: [▸{limit: 1, window: null}]}", &[(E, ".rates[0]", "`window` is missing")]),
        ("{rates: [{limit: ▸-1, window: 1m}]}", &[(E, ".rates[0].limit", "-1 is out of range")]),
        ("{rates: [{limit: ▸1000000000001, window: 1m}]}", &[(E, ".rates[0].limit", "0 (never) to 1000000000000")]),
        ("{rates: [{limit: ▸18446744073709551615, window: 1m}]}", &[(E, ".rates[0].limit", "a whole number")]),
        ("{rates: [{limit: ▸1.5, window: 1m}]}", &[(E, ".rates[0].limit", "a whole number")]),
        ("{rates: [{limit: ▸'5', window: 1m}]}", &[(E, ".rates[0].limit", "a whole number")]),
        ("{rates: [▸{window: 1m}]}", &[(E, ".rates[0]", "`limit` is missing")]),
        ("{rates: ▸[]}", &[(E, ".rates", "is empty")]),
        ("{rates: ▸{limit: 1, window: 1m}}", &[(E, ".rates", "a list")]),
        ("▸{when: []}", &[(E, "", "`rates` is missing")]),
        ("▸text", &[(E, "", "a mapping")]),
        (
            "{rates: [{limit: 1, window: 60s}, ▸{limit: 2, window: 1m}]}",
            &[(E, ".rates[1]", "a second rate over the same window")],
        ),
        ("{rates: [{limit: ▸-5, window: ▸0s}]}", &[(E, ".rates[0].limit", "-5"), (E, ".rates[0].window", "no time")]),
    ] {
        let rows: Vec<(Severity, String, &str)> = rows
            .iter()
            .map(|(severity, field, phrase)| (*severity, format!("spec.limits.a{field}"), *phrase))
            .collect();
        let rows: Vec<Row> = rows.into_iter().map(|(s, field, phrase)| (s, &*field.leak(), phrase)).collect();
        let manifests = expect(&limit_policy(&format!("a: {limit}")), &rows);
        assert!(manifests.limit_policies[0].limits.is_none(), "{limit}");
        assert_eq!(manifests.limit_policies[0].target, gateway());
    }
}

#[test]
fn durations_are_gep_2257() {
    let ms = Duration::from_millis;
    for (text, expected) in [
        ("1ms", ms(1)),
        ("2m", ms(120_000)),
        ("1h30m", ms(5_400_000)),
        ("1h2m3s4ms", ms(3_723_004)),
        ("30s2m", ms(150_000)),
        ("1m1m", ms(120_000)),
        ("99999h", ms(99_999 * 3_600_000)),
        ("00001s", ms(1_000)),
        ("0s", ms(0)),
    ] {
        assert_eq!(parse_duration(text), Some(expected), "{text}");
    }
    for text in [
        "",
        "1",
        "s",
        "-1s",
        "+1s",
        "1.5m",
        "1,5m",
        "1d",
        "1w",
        "1us",
        "1H",
        "1M",
        "1 s",
        " 1s",
        "1s ",
        "100000s",
        "1m1m1m1m1m",
        "１m",
        "1min",
        "1h30",
        "0x1s",
        "99999999999999999999h",
    ] {
        assert_eq!(parse_duration(text), None, "{text:?}");
    }
}

#[test]
fn expressions_that_cannot_be_used_are_errors_at_their_place() {
    for (expression, phrase) in [
        ("auth.identity.tier == ", "does not compile"),
        ("auth.identity.tier = \"free\"", "does not compile"),
        ("auth.identity.tier == \"free", "does not compile"),
        ("auth..tier == \"free\"", "does not compile"),
        ("(true", "does not compile"),
        ("", "is empty"),
        ("  ", "is empty"),
        ("auth.identity.tier.splt(\",\")[0] == \"a\"", "did you mean `split`?"),
        ("tierOf(auth.identity.userid) == \"a\"", "calls `tierOf`, which is not a function"),
        ("autn.identity.tier == \"free\"", "did you mean `auth`?"),
        ("tier == \"free\"", "names `tier`"),
        ("context.request.http.path == \"/\"", "names `context`"),
        ("\"free\"", "yields a string, not a boolean"),
        ("1", "yields a number, not a boolean"),
        ("null", "yields null, not a boolean"),
        ("size(auth.identity.groups)", "yields a number, not a boolean"),
        ("auth.identity.userid.split(\":\")", "yields a list, not a boolean"),
        ("[true]", "yields a list, not a boolean"),
        ("{\"a\": true}", "yields a mapping, not a boolean"),
        ("auth.identity.tier + \"x\"", "yields a sum, not a boolean"),
        ("true ? \"a\" : \"b\"", "yields a string, not a boolean"),
    ] {
        let marked = limit_policy(&format!(
            "a:\n  rates: [{{limit: 1, window: 1m}}]\n  when:\n    - predicate: 'true'\n    - predicate: ▸'{expression}'\n"
        ));
        let manifests = expect(&marked, &[(E, "spec.limits.a.when[1].predicate", phrase)]);
        assert!(manifests.limit_policies[0].limits.is_none(), "{expression}");
    }
}

#[test]
fn limits_are_read_in_both_places_and_all_versions() {
    let limits = "limits: {a: {rates: [{limit: 5, window: 2m}, {limit: 0, window: 1h}], when: [{predicate: 'true'}], \
                  counters: [{expression: auth.identity.userid}]}, b: {rates: [{limit: 1, window: 1s}]}}";
    for (kind, version, spec) in [
        ("RateLimitPolicy", "v1", format!("{TARGET}{limits}")),
        ("RateLimitPolicy", "v1beta3", format!("{TARGET}{limits}")),
        ("RateLimitPolicy", "v1beta2", format!("{TARGET}{limits}")),
        ("TokenRateLimitPolicy", "v1", format!("{TARGET}{limits}")),
        ("TokenRateLimitPolicy", "v1alpha1", format!("{TARGET}{limits}")),
        ("RateLimitPolicy", "v1", format!("{TARGET}defaults: {{{limits}}}")),
        ("RateLimitPolicy", "v1", format!("{TARGET}defaults: {{strategy: atomic, {limits}}}")),
    ] {
        let text = object(kind, &spec).replace("kuadrant.io/v1\n", &format!("kuadrant.io/{version}\n"));
        let manifests = expect(&text, &[]);
        let [policy] = manifests.limit_policies.as_slice() else {
            panic!("{text}");
        };
        let kind = if kind.starts_with("Token") { LimitKind::Tokens } else { LimitKind::Requests };
        assert_eq!((policy.kind, &policy.target), (kind, &gateway()));
        let read: Vec<_> = policy
            .limits
            .as_ref()
            .unwrap()
            .iter()
            .map(|l| (&*l.name, l.rates.clone(), l.when.len(), l.counters.len()))
            .collect();
        let quota = |limit, seconds| {
            let quota = Quota::new(limit, Duration::from_secs(seconds));
            if kind == LimitKind::Tokens { quota.carrying_debt() } else { quota }
        };
        assert_eq!(read, [("a", vec![quota(5, 120), quota(0, 3600)], 1, 1), ("b", vec![quota(1, 1)], 0, 0)], "{text}");
    }
    let both = format!("{TARGET}limits: ▸{{a: {{rates: [{{limit: 1, window: 1m}}]}}}}\ndefaults: {{{limits}}}");
    expect(&object("RateLimitPolicy", &both), &[(E, "spec.limits", "stands in `spec`, and there is `defaults` too")]);
    // A condition of the policy is one of each of its limits, and stands there once.
    let common = format!("{TARGET}when: [{{predicate: 'true'}}]\n{limits}");
    let manifests = expect(&object("RateLimitPolicy", &common), &[]);
    let policy = &manifests.limit_policies[0];
    let counts =
        policy.limits.as_ref().unwrap().iter().map(|limit| (limit.when.len(), policy.conditions(limit).count()));
    assert_eq!(counts.collect::<Vec<_>>(), [(1, 2), (0, 1)]);
}

#[test]
fn more_than_anybody_writes_is_refused() {
    let (predicates, rates) = (vec!["{predicate: 'true'}"; 101].join(", "), "rates: [{limit: 1, window: 1m}]");
    let windows: Vec<String> = (1..=101).map(|second| format!("{{limit: {second}, window: {second}s}}")).collect();
    let counters = vec!["{expression: auth.identity.userid}"; 101].join(", ");
    for (limits, field) in [
        (format!("limits: {{a: {{rates: ▸[{}]}}}}", windows.join(", ")), "spec.limits.a.rates"),
        (format!("limits: {{a: {{{rates}, when: ▸[{predicates}]}}}}"), "spec.limits.a.when"),
        (format!("limits: {{a: {{{rates}, counters: ▸[{counters}]}}}}"), "spec.limits.a.counters"),
        (format!("when: ▸[{predicates}]\nlimits: {{a: {{{rates}}}}}"), "spec.when"),
    ] {
        let marked = object("RateLimitPolicy", &format!("{TARGET}{limits}"));
        expect(&marked, &[(E, field, "holds 101 entries; at most 100 are accepted")]);
    }
    let limits: Vec<String> = (0..20_001).map(|at| format!("l{at}: {{{rates}}}")).collect();
    let many = |limits: &[String]| object("RateLimitPolicy", &format!("{TARGET}limits: ▸{{{}}}", limits.join(", ")));
    expect(&many(&limits), &[(E, "spec.limits", "holds 20001 entries; at most 20000 are accepted")]);
    expect(&many(&limits[1..]).replace(MARK, ""), &[]);
}

/// Ten thousand of each fit in a file of less than a megabyte: what a policy asks for all its limits is not kept for each of them.
#[test]
fn predicates_of_a_policy_are_kept_once() {
    let predicates: Vec<String> =
        (0..100).map(|at| format!("{{predicate: 'auth.identity.tier != \"t{at}\"'}}")).collect();
    let limits: Vec<String> = (0..1_000).map(|at| format!("l{at}: {{rates: [{{limit: 1, window: 1m}}]}}")).collect();
    let spec = format!("{TARGET}when: [{}]\nlimits: {{{}}}", predicates.join(", "), limits.join(", "));
    let manifests = expect(&object("RateLimitPolicy", &spec), &[]);
    let policy = &manifests.limit_policies[0];
    assert_eq!(policy.predicates().count(), 100);
    assert_eq!(policy.limits.iter().flatten().map(|limit| policy.conditions(limit).count()).sum::<usize>(), 100_000);
}

/// A TokenRateLimitPolicy of the limits `free` and `paid`, with these annotations.
fn priced(annotations: &str) -> String {
    let limits = "limits: {free: {rates: [{limit: 1, window: 1m}]}, paid: {rates: [{limit: 1, window: 1m}]}}";
    let metadata = format!("name: p, namespace: ns, annotations: {{{annotations}}}");
    let text = object("TokenRateLimitPolicy", &format!("{TARGET}{limits}"));
    text.replace("name: p, namespace: ns", &metadata)
}

#[test]
fn each_limit_has_the_cost_that_is_written_for_it() {
    let manifests = expect(&priced("tiergate.io/cost.paid: 3 * usage.output"), &[]);
    let limits = manifests.limit_policies[0].limits.as_ref().unwrap();
    let costs: Vec<_> =
        limits.iter().map(|limit| (&*limit.name, limit.cost.as_ref().map(|cost| cost.source()))).collect();
    assert_eq!(costs, [("free", None), ("paid", Some("3 * usage.output"))]);
}

/// A cost that says nothing would make a limit count something else than was meant.
#[test]
fn costs_that_cannot_be_used_are_errors_at_their_place() {
    for (annotation, field, phrase) in [
        ("tiergate.io/cost.free: ▸usage.inputs", "tiergate.io/cost.free", "did you mean `usage.input`?"),
        ("tiergate.io/cost.free: ▸usage.output * 1.5", "tiergate.io/cost.free", "write `double(…)`"),
        ("tiergate.io/cost.free: ▸''", "tiergate.io/cost.free", "is empty"),
        ("tiergate.io/cost.free: ▸usage.output +", "tiergate.io/cost.free", "does not compile"),
        (
            "tiergate.io/cost.free: ▸\"auth.identity.tier == 'a' ? 1 : 2\"",
            "tiergate.io/cost.free",
            "write another limit",
        ),
        ("tiergate.io/cost.free: ▸-1", "tiergate.io/cost.free", "yields less than 0"),
        ("tiergate.io/cost.pad: ▸usage.output", "tiergate.io/cost.pad", "there is no limit `pad`"),
        ("tiergate.io/cost.pad: ▸usage.output", "tiergate.io/cost.pad", "did you mean `tiergate.io/cost.paid`?"),
        ("tiergate.io/cost.everybody: ▸'1'", "tiergate.io/cost.everybody", "the name of a limit: free, paid"),
        ("tiergate.io/cost.: ▸'1'", "tiergate.io/cost.", "there is no limit ``"),
        ("tiergate.io/cost: ▸'1'", "tiergate.io/cost", "is not an annotation that is known here"),
        ("tiergate.io/costs.free: ▸'1'", "tiergate.io/costs.free", "did you mean `tiergate.io/cost.free`?"),
        ("tiergat.io/cost.free: ▸'1'", "tiergat.io/cost.free", "did you mean `tiergate.io/cost.free`?"),
    ] {
        // Numbers have to be texts, as in every annotation.
        let marked = priced(&annotation.replace("▸-1", "▸'-1'"));
        let field = format!("metadata.annotations.{field}");
        let manifests = expect(&marked, &[(E, &field, phrase)]);
        assert!(manifests.limit_policies[0].limits.is_none(), "{annotation}");
    }
    // Requests have no cost.
    let requests = priced("tiergate.io/cost.free: ▸usage.output").replace("TokenRateLimitPolicy", "RateLimitPolicy");
    let field = "metadata.annotations.tiergate.io/cost.free";
    expect(&requests, &[(E, field, "is not an annotation that is known here")]);
}

#[test]
fn each_limit_has_the_parts_that_are_written_for_it() {
    for kind in ["RateLimitPolicy", "TokenRateLimitPolicy"] {
        let text = priced("tiergate.io/notify.paid: '100, 80'").replace("TokenRateLimitPolicy", kind);
        let manifests = expect(&text, &[]);
        let limits = manifests.limit_policies[0].limits.as_ref().unwrap();
        let parts = |limit: &crate::manifest::LimitSpec| {
            limit.notify.as_ref().map(|notify| notify.percents().collect::<Vec<_>>())
        };
        assert_eq!(limits.iter().map(parts).collect::<Vec<_>>(), [None, Some(vec![80, 100])], "{kind}");
    }
}

/// Who is not told would think that there is nothing to tell.
#[test]
fn parts_that_cannot_be_used_are_errors_at_their_place() {
    for (annotation, field, phrase) in [
        ("tiergate.io/notify.free: ▸80%", "tiergate.io/notify.free", "up to 10 percents from 1 to 100"),
        ("tiergate.io/notify.free: ▸''", "tiergate.io/notify.free", "is no percent"),
        ("tiergate.io/notify.free: ▸'0,80'", "tiergate.io/notify.free", "is no percent"),
        ("tiergate.io/notify.free: ▸'80,101'", "tiergate.io/notify.free", "is no percent"),
        ("tiergate.io/notify.free: ▸'80,80'", "tiergate.io/notify.free", "holds 80 twice"),
        ("tiergate.io/notify.free: ▸'1,2,3,4,5,6,7,8,9,10,11'", "tiergate.io/notify.free", "more than 10 numbers"),
        ("tiergate.io/notify.pad: ▸'80'", "tiergate.io/notify.pad", "did you mean `tiergate.io/notify.paid`?"),
        ("tiergate.io/notify: ▸'80'", "tiergate.io/notify", "is not an annotation that is known here"),
        ("tiergate.io/notifies.free: ▸'80'", "tiergate.io/notifies.free", "did you mean `tiergate.io/notify.free`?"),
    ] {
        let manifests = expect(&priced(annotation), &[(E, &format!("metadata.annotations.{field}"), phrase)]);
        assert!(manifests.limit_policies[0].limits.is_none(), "{annotation}");
    }
}

/// What each limit of a policy counts by, in words.
fn spans(marked: &str) -> Vec<(String, Vec<String>)> {
    let manifests = expect(marked, &[]);
    let limits = manifests.limit_policies[0].limits.clone().unwrap();
    let rates = |limit: &crate::manifest::LimitSpec| {
        limit.rates.iter().map(|rate| format!("{} {}", rate.algorithm().name(), rate.span())).collect()
    };
    limits.iter().map(|limit| (limit.name.clone(), rates(limit))).collect()
}

#[test]
fn each_limit_counts_as_its_annotations_say() {
    let requests = |annotations: &str| priced(annotations).replace("TokenRateLimitPolicy", "RateLimitPolicy");
    for (annotations, free, paid) in [
        ("", "token-bucket per 60s", "token-bucket per 60s"),
        ("tiergate.io/algorithm: sliding-window", "sliding-window per 60s", "sliding-window per 60s"),
        ("tiergate.io/algorithm.paid: fixed-window", "token-bucket per 60s", "fixed-window per 60s"),
        (
            "tiergate.io/algorithm: fixed-window, tiergate.io/algorithm.paid: concurrency",
            "fixed-window per 60s",
            "concurrency at once",
        ),
        ("tiergate.io/window.free: 30d", "token-bucket per 2592000s", "token-bucket per 60s"),
        ("tiergate.io/window.free: 4w", "token-bucket per 2419200s", "token-bucket per 60s"),
        ("tiergate.io/window.free: 1h30m", "token-bucket per 5400s", "token-bucket per 60s"),
        ("tiergate.io/window.free: month", "calendar per month in UTC", "token-bucket per 60s"),
        (
            "tiergate.io/window.free: week, tiergate.io/time-zone.free: europe/berlin, tiergate.io/algorithm: fixed-window",
            "calendar per week in Europe/Berlin",
            "fixed-window per 60s",
        ),
        (
            "tiergate.io/algorithm.free: calendar, tiergate.io/window.free: day",
            "calendar per day in UTC",
            "token-bucket per 60s",
        ),
    ] {
        let limits = [("free".to_owned(), vec![free.to_owned()]), ("paid".to_owned(), vec![paid.to_owned()])];
        assert_eq!(spans(&requests(annotations)), limits, "{annotations}");
    }
    let debts = |annotations: &str| {
        let limits = expect(&priced(annotations), &[]).limit_policies[0].limits.clone().unwrap();
        limits.iter().map(|limit| limit.rates[0].forgives_debt()).collect::<Vec<_>>()
    };
    assert_eq!(debts("tiergate.io/window.paid: month"), [false, false]);
    assert_eq!(debts("tiergate.io/window.paid: month, tiergate.io/debt: forgive"), [false, true]);
}

/// What is not understood would make a limit count as nobody meant.
#[test]
fn kinds_that_cannot_be_told_are_errors_at_their_place() {
    for (annotations, field, phrase) in [
        (
            "tiergate.io/algorithm.free: ▸gcra",
            "algorithm.free",
            "token-bucket or fixed-window or sliding-window or calendar",
        ),
        ("tiergate.io/algorithm.fre: ▸calendar", "algorithm.fre", "did you mean `tiergate.io/algorithm.free`?"),
        ("tiergate.io/algoritm.free: ▸calendar", "algoritm.free", "did you mean `tiergate.io/algorithm.free`?"),
        ("tiergate.io/algorithm.free: ▸calendar", "algorithm.free", "needs `tiergate.io/window.<limit>`"),
        ("tiergate.io/algorithm.free: ▸concurrency", "algorithm.free", "is not a choice"),
        (
            "tiergate.io/algorithm.free: ▸fixed-window, tiergate.io/window.free: day",
            "algorithm.free",
            "`day` is a window of the calendar",
        ),
        ("tiergate.io/window.free: ▸mouth", "window.free", "did you mean `month`?"),
        ("tiergate.io/window.free: ▸monthly", "window.free", "day, week, month or year"),
        ("tiergate.io/window.free: ▸'30'", "window.free", "such as 12h, 30d or 4w"),
        ("tiergate.io/window.free: ▸0d", "window.free", "is no window"),
        ("tiergate.io/window.free: ▸-1d", "window.free", "is no window"),
        ("tiergate.io/window.free: ▸4294967295d", "window.free", "is no window"),
        ("tiergate.io/window.free: ▸99999999999999w", "window.free", "is no window"),
        ("tiergate.io/window.free: ▸''", "window.free", "is no window"),
        ("tiergate.io/window: ▸day", "window", "is not an annotation that is known here"),
        ("tiergate.io/windows.free: ▸day", "windows.free", "did you mean `tiergate.io/window.free`?"),
        (
            "tiergate.io/window.free: day, tiergate.io/time-zone.free: ▸Berlin",
            "time-zone.free",
            "did you mean `Europe/Berlin`?",
        ),
        (
            "tiergate.io/window.free: day, tiergate.io/time-zone.free: ▸Europe/Berln",
            "time-zone.free",
            "did you mean `Europe/Berlin`?",
        ),
        ("tiergate.io/window.free: day, tiergate.io/time-zone.free: ▸'+02:00'", "time-zone.free", "is no time zone"),
        ("tiergate.io/window.free: 30d, tiergate.io/time-zone.free: ▸UTC", "time-zone.free", "none of the calendar"),
        ("tiergate.io/time-zone.free: ▸UTC", "time-zone.free", "none of the calendar"),
        ("tiergate.io/timezone.free: ▸UTC", "timezone.free", "did you mean `tiergate.io/time-zone.free`?"),
    ] {
        let field = format!("metadata.annotations.tiergate.io/{field}");
        let manifests = expect(&priced(annotations), &[(E, &field, phrase)]);
        assert!(manifests.limit_policies[0].limits.is_none(), "{annotations}");
    }
    for (annotations, limit, field, phrase) in [
        (
            "tiergate.io/algorithm.a: ▸concurrency",
            "{rates: [{limit: 65536, window: 1m}]}",
            "algorithm.a",
            "65535 calls at most",
        ),
        (
            "tiergate.io/algorithm.a: ▸concurrency",
            "{rates: [{limit: 1, window: 1m}, {limit: 2, window: 2m}]}",
            "algorithm.a",
            "several rates",
        ),
        (
            "tiergate.io/algorithm: ▸concurrency",
            "{rates: [{limit: 1, window: 1m}, {limit: 2, window: 2m}]}",
            "algorithm",
            "several rates",
        ),
        (
            "tiergate.io/window.a: ▸day",
            "{rates: [{limit: 1, window: 1m}, {limit: 2, window: 2m}]}",
            "window.a",
            "a limit for each",
        ),
        (
            "tiergate.io/algorithm.a: concurrency, tiergate.io/window.a: ▸1h",
            "{rates: [{limit: 1, window: 1m}]}",
            "window.a",
            "have no window",
        ),
    ] {
        let marked = limit_policy(&format!("a: {limit}"));
        let marked = marked.replace("name: p", &format!("name: p, annotations: {{{annotations}}}"));
        let field = format!("metadata.annotations.tiergate.io/{field}");
        let manifests = expect(&marked, &[(E, &field, phrase)]);
        assert!(manifests.limit_policies[0].limits.is_none(), "{annotations}");
    }
}
