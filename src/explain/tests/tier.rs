//! Tiers that a service knows, and tiers that are gone.

use super::*;
use crate::test_util::tier_service::{Says, TierService};
use crate::tier::TierServices;

#[tokio::test]
async fn a_tier_of_a_service_is_told_with_its_address_and_whether_it_was_asked() {
    let service = TierService::start(Says::tier("premium")).await;
    let url = format!("http://{}", service.address);
    let mut files = with("auth-policy.yaml", "http://maas-api.maas-api.svc.cluster.local:8080", &url);
    files.retain(|(name, _)| name != "tiers.yaml");
    let granted = "
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: everybody, namespace: lab}
subjects: [{kind: Group, name: 'system:authenticated', apiGroup: rbac.authorization.k8s.io}]
roleRef: {kind: Role, name: model-post-access, apiGroup: rbac.authorization.k8s.io}
";
    files.push(("granted.yaml".to_owned(), granted.to_owned()));
    let mut gate = gate_of(&files);
    gate.tiers = TierServices::patient(Duration::from_secs(30));
    let call = Call::path("/lab/phi/v1").bearer(&premium());
    for how in ["asked for this request", "remembered"] {
        let text = explain(&call, &gate).await;
        let expected = format!("tier      passed      premium, as {url}/v1/tiers/lookup says: {how}");
        assert!(text.contains(&expected), "{expected}\n{text}");
    }
    service.says(Says::Answer(500, String::new()));
    let other = Call::path("/lab/phi/v1").bearer(&free());
    let text = explain(&other, &gate).await;
    for expected in [
        "tier      UNDECIDED   asked for by metadata `matchedTier`  [auth-policy.yaml:15:9]",
        "access    not reached",
        &format!("- see that {url}/v1/tiers/lookup answers, and in time"),
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
}

#[tokio::test]
async fn a_caller_whose_tier_is_gone_is_told_how_to_get_it_back() {
    let gate = gate_of(&with("tiers.yaml", "- name: premium", "- name: gold"));
    let text = explain(&Call::chat("granite").bearer(&premium()), &gate).await;
    for expected in [
        "tier      passed      free, by group system:authenticated (level 1)  [tiers.yaml:10:7]",
        "its namespace is named for tier `premium`, which is not configured any more",
        "answer    REFUSED     403 TG-TIER-GONE",
        "- configure tier `premium` again, or move the account",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
}
