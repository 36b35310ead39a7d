//! ServiceAccounts and the models they call.

use super::Meta;
use crate::document::{Fields, Report};
use crate::problem::{Place, Severity};

/// The annotation that grants a model to tiers.
pub const TIERS_ANNOTATION: &str = "alpha.maas.opendatahub.io/tiers";

/// A ServiceAccount: a caller.
#[derive(Clone, Debug)]
pub struct ServiceAccount {
    pub meta: Meta,
}

/// An LLMInferenceService: what is called.
#[derive(Clone, Debug)]
pub struct Model {
    pub meta: Meta,
    pub grant: ModelGrant,
}

/// To whom the annotation grants a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelGrant {
    /// No annotation.
    Nobody,
    /// An empty list: all configured tiers.
    AllTiers,
    Tiers(Vec<String>, Place),
    /// The annotation could not be read: nobody is granted anything by it.
    Unreadable,
}

pub(super) fn read_service_account(meta: Meta, mut fields: Fields<'_>) -> ServiceAccount {
    fields.ignore(&["secrets", "imagePullSecrets", "automountServiceAccountToken"]);
    fields.done(Severity::Warning);
    ServiceAccount { meta }
}

pub(super) fn read_model(meta: Meta, mut fields: Fields<'_>, report: &Report) -> Model {
    // The spec says how the model is run, which is no business of the gate.
    fields.ignore(&["spec"]);
    fields.done(Severity::Warning);
    let grant = match meta.annotation(TIERS_ANNOTATION) {
        _ if !meta.usable => ModelGrant::Unreadable,
        None => ModelGrant::Nobody,
        Some((_, text, _)) if text.trim().is_empty() => ModelGrant::Nobody,
        Some((_, text, place)) => match serde_json::from_str::<Vec<String>>(text) {
            Ok(tiers) if tiers.is_empty() => ModelGrant::AllTiers,
            Ok(tiers) => ModelGrant::Tiers(tiers, place.clone()),
            Err(error) => {
                let field = format!("metadata.annotations.{TIERS_ANNOTATION}");
                let message = format!("is not a JSON list of tier names: {error}");
                let problem = report.problem_at(Severity::Error, place, &field, message);
                report.add(problem.expected("'[\"premium\",\"enterprise\"]', or '[]' for all tiers"));
                ModelGrant::Unreadable
            }
        },
    };
    Model { meta, grant }
}
