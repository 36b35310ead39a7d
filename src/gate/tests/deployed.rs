//! The manifests of the tier system as it was really deployed, as they stand.

use super::*;
use crate::respond::{Style, check_response};
use crate::test_util::{ES256, claims};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;

/// `deployed*.yaml`: all that was deployed for tiers.
fn deployed() -> Gate {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/manifests");
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let name = |path: &std::path::Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let paths = paths.filter(|path| name(path).starts_with("deployed"));
    let mut files: Vec<_> = paths.map(|path| (name(&path), std::fs::read_to_string(&path).unwrap())).collect();
    files.sort();
    assert_eq!(files.len(), 4);
    let policy = compile_files(&files, &options());
    let errors: Vec<String> = policy.problems.iter().filter(|p| p.is_error()).map(ToString::to_string).collect();
    assert_eq!(errors, <[String; 0]>::default());
    gate(policy, settings())
}

fn token_for(audience: &str) -> String {
    let mut claims = claims("maas-default-gateway-tier-premium", "jland-78028f6d");
    claims.aud = vec![audience.to_owned()];
    ES256.sign(&claims)
}

/// The headers that the model or maas-api receives from us, and those that it does not receive from the client.
async fn headers(call: &Call, gate: &Gate) -> Result<(Vec<(String, String)>, Vec<String>), Code> {
    let decision = call.on(gate, Nanos(0)).await;
    let response = check_response(&decision, Some(&crate::request::Headers::Map(&call.headers)), Style::default());
    if let Err(denial) = decision.outcome {
        return Err(denial.code);
    }
    let Some(HttpResponse::OkResponse(ok)) = response.http_response else { panic!("{response:?}") };
    let set = ok.headers.into_iter().filter_map(|option| option.header).map(|header| (header.key, header.value));
    Ok((set.collect(), ok.headers_to_remove))
}

#[tokio::test]
async fn maas_api_learns_who_calls_and_models_do_not() {
    let gate = deployed();
    let user = "system:serviceaccount:maas-default-gateway-tier-premium:jland-78028f6d";
    let groups = "[\"system:serviceaccounts\",\"system:serviceaccounts:maas-default-gateway-tier-premium\",\"system:authenticated\"]";
    let expected = [("x-maas-username".to_owned(), user.to_owned()), ("x-maas-group".to_owned(), groups.to_owned())];
    for audience in ["https://kubernetes.default.svc", "maas-default-gateway-sa"] {
        for path in ["/v1/models", "/maas-api/v1/tokens"] {
            let mut call = Call::path(path).bearer(&token_for(audience));
            call.headers.insert("x-maas-username".to_owned(), "root".to_owned());
            let (set, removed) = headers(&call, &gate).await.unwrap();
            assert_eq!(set, expected, "{path} {audience}");
            assert!(!removed.iter().any(|name| name == "x-maas-username"), "Envoy would remove ours: {removed:?}");
        }
    }
    assert_eq!(headers(&Call::path("/v1/models").bearer(&token_for("other")), &gate).await, Err(Code::TokenAudience));
    let mut call = Call::chat("facebook-opt").bearer(&token_for("maas-default-gateway-sa"));
    call.headers.insert("x-maas-username".to_owned(), "root".to_owned());
    let (set, removed) = headers(&call, &gate).await.unwrap();
    assert_eq!(set, []);
    assert!(removed.iter().any(|name| name == "x-maas-username") && removed.iter().any(|name| name == "authorization"));
    // The cluster's own audience opens maas-api, and no model.
    let cluster = Call::chat("facebook-opt").bearer(&token_for("https://kubernetes.default.svc"));
    assert_eq!(headers(&cluster, &gate).await, Err(Code::TokenAudience));
}

#[tokio::test]
async fn tiers_and_limits_are_those_that_were_deployed() {
    let gate = deployed();
    let call = Call::chat("facebook-opt").bearer(&token_for("maas-default-gateway-sa"));
    let decision = call.on(&gate, Nanos(0)).await;
    assert_eq!(decision.evidence.tier.as_deref(), Some("premium"));
    let limits: Vec<_> = decision.evidence.limits.iter().map(|l| (&*l.name, l.standing.unwrap().limit())).collect();
    assert_eq!(
        limits,
        [
            ("openshift-ingress/gateway-rate-limits/premium", 20),
            ("openshift-ingress/gateway-token-rate-limits/premium-user-tokens", 50_000)
        ]
    );
}
