//! Access: by RBAC in process, or by what the API server says.

use super::Deciding;
use crate::access::{AccessDecision, AccessMode, AccessQuery, AccessSource, UserInfo};
use crate::cache::AnswerSource;
use crate::denial::{Code, Denial};
use crate::identity::Identity;

// === impl Deciding ===

impl Deciding<'_> {
    /// Whether what `query` asks for is granted, to a caller whose token says that they are `identity`.
    pub(super) async fn access(
        &mut self,
        query: &AccessQuery<'_>,
        identity: Option<&Identity>,
    ) -> Result<AccessDecision, Denial> {
        let policy = self.policy;
        let Some(reviews) = &self.gate.access else {
            self.evidence.access.source = Some(AccessSource::Rbac);
            return Ok(match (policy.rbac.authorize(query), &policy.rbac.unread) {
                (Some(grantor), _) => AccessDecision::Granted(grantor),
                (None, None) => AccessDecision::NotGranted(None),
                (None, Some(what)) => AccessDecision::Undecided(unread(what)),
            });
        };
        let granted = if reviews.mode == AccessMode::Review { None } else { policy.rbac.authorize(query) };
        // An authorizer may look at what a token is restricted to; RBAC does not.
        let in_process = reviews.mode == AccessMode::Rbac && identity.is_none_or(|identity| !identity.scoped);
        match granted {
            Some(grantor) if in_process => {
                self.evidence.access.source = Some(AccessSource::Rbac);
                return Ok(AccessDecision::Granted(grantor));
            }
            _ if query.is_for_a_model() && policy.has_no_model(query.namespace, query.name) => {
                self.evidence.access.source = Some(AccessSource::Rbac);
                return Ok(AccessDecision::NotGranted(None));
            }
            _ => {}
        }
        let review = reviews.review(query, identity.map(user_info), &policy.rbac.changes)?;
        let (decision, source) = match reviews.recall(&review, self.now) {
            Some(known) => known,
            None => reviews.ask(&review, self.now, self.until()).await,
        };
        self.evidence.access.source = Some(source);
        if reviews.mode == AccessMode::Both {
            self.evidence.access.compare(query, granted.is_some(), &decision, source);
        }
        Ok(decision)
    }
}

/// How access was decided.
#[derive(Clone, Copy, Debug, Default)]
pub struct AccessEvidence {
    pub source: Option<AccessSource>,
    /// Whether RBAC in process would have said otherwise than the API server.
    pub disagreed: bool,
}

fn user_info(identity: &Identity) -> UserInfo<'_> {
    UserInfo { username: &identity.user, uid: &identity.uid, extra: identity.object.pointer("/user/extra") }
}

fn unread(what: &str) -> Denial {
    Denial::new(Code::UnavailableConfiguration, "your access could not be looked up")
        .detail(format!("nothing that is known grants it, and these could not be read: {what}"))
}

// === impl AccessEvidence ===

impl AccessEvidence {
    fn compare(&mut self, query: &AccessQuery<'_>, rbac: bool, decision: &AccessDecision, source: AccessSource) {
        let review = match decision {
            AccessDecision::Granted(_) => true,
            AccessDecision::NotGranted(_) => false,
            AccessDecision::Undecided(_) => return,
        };
        self.disagreed = rbac != review;
        // Once for each question.
        if self.disagreed && source == AccessSource::Review(AnswerSource::Fetched) {
            tracing::warn!(
                user.name = query.user,
                verb = query.verb,
                resource = query.resource,
                namespace = query.namespace,
                name = query.name,
                rbac,
                review,
                "RBAC in process and the API server disagree"
            );
        }
    }
}
