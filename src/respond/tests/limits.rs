use super::*;

#[test]
fn exceeded_limit_says_when_to_retry_and_where_the_limits_stand() {
    let evidence = with_limits([
        limit(LimitKind::Requests, 5, 0, seconds(59.000_000_001), Verdict::Exceeds(Some(seconds(11.2)))),
        limit(LimitKind::Tokens, 100, 40, seconds(36.0), Verdict::Fits),
    ]);
    let mut denial = Denial::new(Code::LimitRequests, "you have used your 5 requests per 60s");
    denial.retry_after = Some(seconds(11.2));
    let answer = refuse(denial, evidence, TERSE);
    let expected = map(&[
        ("content-type", "application/json"),
        ("x-ext-auth-reason", "TG-LIMIT-REQUESTS"),
        ("retry-after", "12"),
        ("x-ratelimit-limit", "5"),
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-reset", "60"),
        ("x-ratelimit-limit-requests", "5"),
        ("x-ratelimit-remaining-requests", "0"),
        ("x-ratelimit-reset-requests", "60"),
        ("x-ratelimit-limit-tokens", "100"),
        ("x-ratelimit-remaining-tokens", "40"),
        ("x-ratelimit-reset-tokens", "36"),
    ]);
    assert_eq!(answer.headers, expected);
    assert_eq!(answer.error["limit"], 5);
    assert_eq!(answer.error["window_seconds"], 60.0);
    assert_eq!(answer.error["retry_after_seconds"], 12);
}

#[test]
fn seconds_are_rounded_up() {
    for (wait, shown) in [
        (Duration::from_nanos(1), "1"),
        (Duration::from_millis(999), "1"),
        (Duration::from_secs(1), "1"),
        (Duration::new(1, 1), "2"),
        (Duration::from_millis(23_999), "24"),
        (Duration::from_secs(86_400), "86400"),
    ] {
        let exceeded = Verdict::Exceeds(Some(wait));
        let evidence = with_limits([limit(LimitKind::Requests, 5, 0, wait, exceeded)]);
        let mut denial = Denial::new(Code::LimitRequests, "no");
        denial.retry_after = Some(wait);
        let answer = refuse(denial, evidence, TERSE);
        assert_eq!(answer.headers["retry-after"], shown, "{wait:?}");
        assert_eq!(answer.headers["x-ratelimit-reset"], shown, "{wait:?}");
    }
}

#[test]
fn classic_headers_name_the_refusing_limit() {
    // The request limit has less left, but it is the token limit that refuses.
    let evidence = with_limits([
        limit(LimitKind::Requests, 5, 0, seconds(48.0), Verdict::Fits),
        limit(LimitKind::Tokens, 100, 0, seconds(72.0), Verdict::Exceeds(Some(seconds(12.6)))),
    ]);
    let mut denial = Denial::new(Code::LimitTokens, "no");
    denial.retry_after = Some(seconds(12.6));
    let headers = refuse(denial, evidence, TERSE).headers;
    assert_eq!(headers["x-ratelimit-limit"], "100");
    assert_eq!(headers["x-ratelimit-reset"], "72");
    assert_eq!(headers["x-ratelimit-limit-requests"], "5");
    assert_eq!(headers["x-ratelimit-limit-tokens"], "100");
    assert_eq!(headers["retry-after"], "13");
}

#[test]
fn of_several_refusing_limits_the_longest_wait_is_named() {
    let refusing = |limit_number, wait: Option<f64>| {
        let wait = wait.map(seconds);
        limit(LimitKind::Requests, limit_number, 0, seconds(90.0), Verdict::Exceeds(wait))
    };
    for (limits, named) in [
        (vec![refusing(1, Some(3.0)), refusing(2, Some(60.0))], "2"),
        (vec![refusing(2, Some(60.0)), refusing(1, Some(3.0))], "2"),
        // Never is longer than any wait.
        (vec![refusing(0, None), refusing(2, Some(60.0))], "0"),
        (vec![refusing(2, Some(60.0)), refusing(0, None)], "0"),
    ] {
        let answer = refuse(Denial::new(Code::LimitRequests, "no"), with_limits(limits), TERSE);
        assert_eq!(answer.headers["x-ratelimit-limit"], named);
        assert_eq!(answer.error["limit"].to_string(), named);
    }
}

#[test]
fn limit_of_zero_never_says_when_to_retry() {
    let never = limit(LimitKind::Requests, 0, 0, Duration::ZERO, Verdict::Exceeds(None));
    let answer = refuse(Denial::new(Code::LimitRequests, "no"), with_limits([never]), TERSE);
    assert_eq!(answer.status, 429);
    assert_eq!(answer.headers.get("retry-after"), None);
    assert_eq!(answer.headers["x-ratelimit-limit"], "0");
    assert_eq!(answer.headers["x-ratelimit-remaining"], "0");
    assert_eq!(answer.error.get("retry_after_seconds"), None);
}

/// Both are what OpenAI's clients go by: the header is obeyed, and the body is that of a budget that is used up.
#[test]
fn who_would_wait_in_vain_is_told_not_to() {
    let hint = Style { retry_hint: seconds(90.0), ..TERSE };
    let rows = [
        (TERSE, Some(seconds(60.0)), false),
        (TERSE, Some(seconds(60.001)), true),
        (TERSE, None, true),
        (hint, Some(seconds(90.0)), false),
        (hint, Some(seconds(91.0)), true),
        (Style { retry_hint: Duration::ZERO, ..TERSE }, Some(seconds(0.1)), true),
    ];
    for (style, retry_after, gives_up) in rows {
        let tokens = limit(LimitKind::Tokens, 100, 0, seconds(3600.0), Verdict::Exceeds(retry_after));
        let denial = Denial { retry_after, ..Denial::new(Code::LimitTokens, "no").detail("limit ns/policy/limit") };
        let answer = refuse(denial, with_limits([tokens]), style);
        let (header, (kind, code, reason)) = match gives_up {
            true => (Some("false"), ("insufficient_quota", "insufficient_quota", json!("TG-LIMIT-TOKENS"))),
            false => (None, ("rate_limit_error", "TG-LIMIT-TOKENS", Json::Null)),
        };
        assert_eq!(answer.status, 429);
        assert_eq!(answer.headers.get("x-should-retry").map(String::as_str), header, "{style:?} {retry_after:?}");
        assert_eq!(answer.headers["x-ext-auth-reason"], "TG-LIMIT-TOKENS");
        assert_eq!((&answer.error["type"], &answer.error["code"]), (&json!(kind), &json!(code)));
        assert_eq!(answer.error.get("reason").unwrap_or(&Json::Null), &reason);
        assert_eq!(metadata_of(&answer.response)["tiergate"]["code"], "TG-LIMIT-TOKENS");
    }
}

/// A guess says nothing for sure; a limit of no call at all does.
#[test]
fn who_waits_for_a_call_that_runs_may_try_again() {
    for (retry_after, header) in [(Some(seconds(900.0)), None), (None, Some("false"))] {
        let running = limit(LimitKind::Requests, 4, 0, seconds(900.0), Verdict::Exceeds(retry_after));
        let running = LimitEvidence { span: Span::Running, ..running };
        let denial = Denial { retry_after, ..Denial::new(Code::LimitRequests, "no") };
        let answer = refuse(denial, with_limits([running]), TERSE);
        assert_eq!(answer.headers.get("x-should-retry").map(String::as_str), header, "{retry_after:?}");
    }
}

#[test]
fn a_refusal_that_no_limit_made_says_nothing_of_trying_again() {
    for code in Code::ALL.iter().filter(|code| code.class() != Class::Limited) {
        let answer = refuse(Denial::new(*code, "no"), evidence(), Style { retry_hint: Duration::ZERO, ..TERSE });
        assert_eq!(answer.headers.get("x-should-retry"), None, "{code:?}");
        assert_eq!(answer.error["code"], code.as_str());
    }
}

#[test]
fn admitted_request_is_told_the_most_restrictive_request_limit() {
    let fits = |kind, number, remaining, reset| limit(kind, number, remaining, seconds(reset), Verdict::Fits);
    let (ok, _) = admit(
        Grant::default(),
        with_limits([
            fits(LimitKind::Requests, 1000, 900, 6.0),
            fits(LimitKind::Requests, 5, 4, 23.5),
            fits(LimitKind::Requests, 20, 19, 6.0),
            // Fewer are left, but tokens are never compared with requests.
            fits(LimitKind::Tokens, 100, 3, 58.2),
            fits(LimitKind::Tokens, 50_000, 49_000, 1.2),
        ]),
        None,
    );
    let expected = map(&[
        ("x-ratelimit-limit", "5"),
        ("x-ratelimit-remaining", "4"),
        ("x-ratelimit-reset", "24"),
        ("x-ratelimit-limit-requests", "5"),
        ("x-ratelimit-remaining-requests", "4"),
        ("x-ratelimit-reset-requests", "24"),
        ("x-ratelimit-limit-tokens", "100"),
        ("x-ratelimit-remaining-tokens", "3"),
        ("x-ratelimit-reset-tokens", "59"),
    ]);
    assert_eq!(headers(&ok.response_headers_to_add), expected);
}

#[test]
fn without_a_request_limit_the_classic_headers_are_absent() {
    let tokens = limit(LimitKind::Tokens, 100, 40, seconds(36.0), Verdict::Fits);
    let (ok, _) = admit(Grant::default(), with_limits([tokens]), None);
    let expected = map(&[
        ("x-ratelimit-limit-tokens", "100"),
        ("x-ratelimit-remaining-tokens", "40"),
        ("x-ratelimit-reset-tokens", "36"),
    ]);
    assert_eq!(headers(&ok.response_headers_to_add), expected);
    let (ok, _) = admit(Grant::default(), evidence(), None);
    assert_eq!(ok.response_headers_to_add, vec![]);
}

#[test]
fn limits_that_were_not_asked_say_nothing() {
    let unasked = LimitEvidence { standing: None, ..limit(LimitKind::Requests, 5, 5, Duration::ZERO, Verdict::Fits) };
    let answer = refuse(Denial::new(Code::AccessDenied, "no"), with_limits([unasked.clone()]), TERSE);
    assert!(!answer.headers.keys().any(|name| name.starts_with("x-ratelimit")));
    let (ok, _) = admit(Grant::default(), with_limits([unasked]), None);
    assert_eq!(ok.response_headers_to_add, vec![]);
}
