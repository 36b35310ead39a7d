use super::*;

#[test]
fn annotation_says_which_tiers_have_a_model() {
    let annotated = |value: &str| model(&format!("  annotations:\n    alpha.maas.opendatahub.io/tiers: {value}\n"));
    let place = Place { file: FILE.into(), line: 7, column: 38 };
    for (text, grant) in [
        (model(""), ModelGrant::Nobody),
        (model("  annotations: {}\n"), ModelGrant::Nobody),
        (model("  annotations: {other: '[]'}\n"), ModelGrant::Nobody),
        (annotated("''"), ModelGrant::Nobody),
        (annotated("'  '"), ModelGrant::Nobody),
        (annotated("'[]'"), ModelGrant::AllTiers),
        (annotated("' [ ] '"), ModelGrant::AllTiers),
        (annotated("'[\"free\"]'"), ModelGrant::Tiers(strings(&["free"]), place.clone())),
        (annotated("'[\"free\", \"premium\"]'"), ModelGrant::Tiers(strings(&["free", "premium"]), place)),
    ] {
        let manifests = expect(&text, &[]);
        let [model] = manifests.models.as_slice() else {
            panic!("{text}");
        };
        assert_eq!(model.grant, grant, "{text}");
        assert_eq!(model.meta.object, ObjectName::new("LLMInferenceService", "ns", "m"));
    }
}

#[test]
fn malformed_annotation_is_an_error_and_grants_nobody() {
    let field = "metadata.annotations.alpha.maas.opendatahub.io/tiers";
    for (value, phrase) in [
        ("▸'[\"free\"'", "is not a JSON list of tier names"),
        ("▸free,premium", "'[]' for all tiers"),
        ("▸'{}'", "is not a JSON list of tier names"),
        ("▸'\"free\"'", "is not a JSON list of tier names"),
        ("▸'[1]'", "is not a JSON list of tier names"),
        ("▸'null'", "is not a JSON list of tier names"),
        ("▸'[\"a\"] x'", "is not a JSON list of tier names"),
        ("▸[free]", "a string"),
        ("▸[]", "a string"),
        ("▸true", "a string"),
    ] {
        let marked = model(&format!("  annotations:\n    alpha.maas.opendatahub.io/tiers: {value}\n"));
        let manifests = expect(&marked, &[(E, field, phrase)]);
        assert_eq!(manifests.models[0].grant, ModelGrant::Unreadable, "{value}");
    }
}

#[test]
fn spec_of_a_model_is_not_our_business() {
    let text = format!("{}spec: {{model: {{uri: hf://x}}, replicas: 2, anything: [1]}}\n", model(""));
    expect(&text, &[]);
    for version in ["v1alpha1", "v1alpha2", "v1beta1", "v1"] {
        expect(&model("").replace("v1alpha1", version), &[]);
    }
}
