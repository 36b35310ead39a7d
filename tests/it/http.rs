//! The pages for people, probes and scrapers, and the tier lookup of maas-api.

use serde_json::json;

use crate::support::{Folder, Tiergate, get, post, root};

#[tokio::test]
async fn a_tier_lookup_is_answered_as_maas_api_answers_it() {
    let tiergate = Tiergate::start(&root("examples/manifests"), &[]);
    let lookup = async |body: &str| {
        let answer = post(tiergate.http, "/v1/tiers/lookup", body).await;
        (answer.status, answer.json())
    };
    let premium = (200, json!({"tier": "premium", "displayName": "premium"}));
    assert_eq!(lookup(r#"{"groups": ["premium-users"]}"#).await, premium);
    assert_eq!(lookup(r#"{"groups": ["system:authenticated", "premium-users"]}"#).await, premium);
    let own = r#"{"groups": ["system:serviceaccounts:maas-default-gateway-tier-premium"]}"#;
    assert_eq!(lookup(own).await, premium);
    let (status, body) = lookup(r#"{"groups": ["a", "b"]}"#).await;
    assert_eq!((status, &body["error"]), (404, &json!("not_found")));
    assert_eq!(body["message"], "group groups [a b] not found in any tier");
    for bad in ["", "{", "{}", r#"{"groups": []}"#, r#"{"groups": "a"}"#, r#"{"groups": [1]}"#, "[]"] {
        let (status, body) = lookup(bad).await;
        assert_eq!((status, &body["error"]), (400, &json!("bad_request")), "{bad}");
        assert!(body["message"].as_str().unwrap().starts_with("invalid request body: "), "{bad}: {body}");
    }
}

#[tokio::test]
async fn a_tier_lookup_without_a_mapping_fails_as_maas_api_fails() {
    const MAPPING: &str =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: tier-to-group-mapping, namespace: maas-api}\n";
    for (text, message) in [
        (
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a}\n".to_owned(),
            "failed to lookup tier: tier mapping not found, provide configuration in tier-to-group-mapping",
        ),
        (
            format!("{MAPPING}data: {{tiers: \"- name: free\"}}\n"),
            "failed to lookup tier: data.tiers[0]: `level` is missing",
        ),
    ] {
        let folder = Folder::new();
        folder.file("a.yaml", &text);
        let tiergate = Tiergate::start(&folder.0, &[]);
        let answer = post(tiergate.http, "/v1/tiers/lookup", r#"{"groups": ["a"]}"#).await;
        assert_eq!((answer.status, answer.json()), (500, json!({"error": "internal_error", "message": message})));
    }
}

#[tokio::test]
async fn pages_show_what_is_served() {
    let folder = Folder::new();
    folder
        .file("a.yaml", "apiVersion: kuadrant.io/v1\nkind: RateLimitPolicy\nmetadata: {name: a}\nspec: {limits: {l: {rates: [{limit: 1, window: 1m}]}}}\n");
    let tiergate = Tiergate::start(&folder.0, &[]);
    assert_eq!(get(tiergate.http, "/livez").await.status, 200);
    let problems = get(tiergate.http, "/problems").await.json();
    assert_eq!(problems["generation"], 1);
    let problem = &problems["problems"][0];
    assert_eq!((&problem["severity"], &problem["place"]["line"]), (&json!("error"), &json!(4)));
    assert_eq!(problem["code"], "field-missing");
    assert!(problem["message"].as_str().unwrap().contains("targetRef"), "{problem}");
    for (name, labels, value) in [
        ("tiergate_policy_generation", "", 1),
        ("tiergate_policy_objects_in_error", "", 1),
        ("tiergate_policy_objects ", "", 1),
        ("tiergate_policy_problems", "severity=\"error\"", 1),
        ("tiergate_policy_findings", "code=\"field-missing\",severity=\"error\"", 1),
        ("tiergate_decisions_total", "TG-TOKEN-EXPIRED", 0),
        ("tiergate_usage_reports_total", "settled", 0),
    ] {
        assert_eq!(tiergate.metric(name, labels).await, value, "{name}");
    }
    assert_eq!(get(tiergate.http, "/nowhere").await.status, 404);
    assert_eq!(get(tiergate.http, "/v1/tiers/lookup").await.status, 405);
}
