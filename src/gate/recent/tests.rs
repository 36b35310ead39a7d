use super::*;
use crate::denial::Code;
use crate::gate::Grant;
use crate::request::{Headers, OperatorModel};

fn request<'a>(path: &'a str, host: &'a str) -> Request<'a> {
    Request {
        method: "POST",
        host,
        scheme: "http",
        path,
        query: Some("secret"),
        headers: Headers::List(vec![("authorization", b"Bearer secret")]),
        gateway: None,
        listener: None,
        port: None,
        peer: None,
        sni: None,
        model: OperatorModel::Unset,
        body: None,
    }
}

fn refused(id: u64) -> Decision {
    Decision { outcome: Err(Denial::new(Code::TokenMissing, "no")), evidence: Evidence::new(id, 1) }
}

#[test]
fn the_newest_are_kept_and_what_was_let_through_is_not() {
    let recent = Recent::default();
    let beyond = 5;
    for id in 0..Recent::KEPT as u64 + beyond {
        recent.record(Some(&request("/a", "h")), refused(id));
    }
    recent.record(None, Decision { outcome: Ok(Grant::default()), evidence: Evidence::new(9_999, 1) });
    let ids: Vec<u64> = recent.newest_first().iter().map(|record| record.evidence.id).collect();
    let expected: Vec<u64> = (beyond..Recent::KEPT as u64 + beyond).rev().collect();
    assert_eq!(ids, expected);
    assert!(recent.get(beyond - 1).is_none() && recent.get(9_999).is_none());
    assert_eq!(recent.get(beyond).unwrap().evidence.id, beyond);
}

#[test]
fn nothing_secret_is_kept_and_nothing_long() {
    let token = "eyJhbGciOi.payload.signature";
    let (path, long, host) = (format!("/llm/{token}/v1"), "/é".repeat(400), "h".repeat(1_000));
    let asked = RequestLine::of(&request(&path, &host));
    assert_eq!(
        asked,
        RequestLine { method: "POST".into(), host: "h".repeat(HOST).into(), path: "/llm/(a secret)/v1".into() }
    );
    let asked = RequestLine::of(&request(&long, "h"));
    assert_eq!(&*asked.path, format!("{}/", "/é".repeat(170)), "whole characters");
    let recent = Recent::default();
    recent.record(Some(&request("/a", "h")), refused(1));
    assert!(!format!("{:?}", recent.get(1)).contains("secret"));
}
