//! What an AuthPolicy asks about a caller: their tier, from our own mapping or from a service.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};
use smallvec::SmallVec;

use super::{AuthRules, Caller, Rule, TierLookup, ValueSource};
use crate::denial::{Code, Denial};
use crate::expression::{Direct, EvalError, Scope, Val};
use crate::gate::TierUnknown;
use crate::policy::{Tiers, undecided};
use crate::tier::{Endpoint, Lookup};

static NO_TIER: LazyLock<Value> = LazyLock::new(|| json!({}));

// === impl AuthRules ===

impl AuthRules {
    /// Finds the facts that the policy asks for. Where the mapping is not ours, `ask` says what is known of what a service would
    /// answer to `(endpoint, user, body)`.
    ///
    /// # Errors
    ///
    /// The mapping is in error, or `ask` does not know. Having no tier is no error here: see [`Self::check_tier`].
    pub fn learn<'a, E: From<Denial>>(
        &'a self,
        caller: &mut Caller<'a>,
        tiers: &'a Tiers,
        mut ask: impl FnMut(&Arc<Endpoint>, &str, String) -> Result<Lookup, E>,
    ) -> Result<(), E> {
        for rule in &self.metadata {
            if !self.holds(&rule.name, &rule.when, &caller.scope())? {
                continue;
            }
            let (tier, answer) = match tiers {
                Tiers::Known(table) => {
                    let account = caller.reviewed.and_then(|identity| identity.service_account.as_ref());
                    caller.gone = account.and_then(|account| table.gone(&account.namespace)).map(Arc::from);
                    match rule.with_groups(&caller.scope(), |groups| table.of(groups.iter().copied()))? {
                        Some(tier) => (Some(Arc::clone(&tier.name)), Cow::Borrowed(&tier.answer)),
                        None => (None, Cow::Borrowed(&*NO_TIER)),
                    }
                }
                Tiers::Missing => {
                    let user = caller.reviewed.map_or("", |identity| &*identity.user);
                    match ask(&rule.what.endpoint, user, rule.body(&caller.scope())?.to_string())? {
                        Lookup::Tier(tier) => (Some(Arc::clone(&tier.name)), Cow::Owned(tier.answer.clone())),
                        Lookup::NoTier => (None, Cow::Borrowed(&*NO_TIER)),
                        Lookup::Undecided(denial) => return Err(denial.into()),
                    }
                }
                Tiers::Invalid(fault) => {
                    let denial = Denial::new(Code::PolicyTiers, "the caller's tier cannot be told");
                    return Err(denial.detail(format!("the tier mapping is in error: {fault}")).into());
                }
            };
            caller.metadata.push((Arc::clone(&rule.name), Val::Json(answer)));
            caller.without_tier |= tier.is_none();
            caller.tier = caller.tier.take().or(tier);
        }
        Ok(())
    }

    /// Refuses who has no tier, or whose own is gone, if `unknown` says so. Otherwise the policy must answer it.
    ///
    /// # Errors
    ///
    /// The caller is refused.
    pub fn check_tier(&self, caller: &Caller<'_>, unknown: TierUnknown) -> Result<(), Denial> {
        match unknown {
            TierUnknown::Refuse if caller.gone.is_some() || caller.without_tier => Err(self.no_tier(caller)),
            TierUnknown::Refuse | TierUnknown::Next => Ok(()),
        }
    }

    /// The refusal of a caller without a tier.
    pub(super) fn no_tier(&self, caller: &Caller<'_>) -> Denial {
        let groups = caller.groups.join(", ");
        let denial = match &caller.gone {
            Some(tier) => Denial::new(Code::TierGone, format!("your tier `{tier}` is no longer configured"))
                .detail(format!("tier `{tier}` is not in the tier mapping; the caller's groups are {groups}")),
            None => Denial::new(Code::TierNone, "the caller belongs to no tier")
                .detail(format!("no tier has any of the groups {groups}")),
        };
        self.tell(denial, &caller.scope())
    }
}

// === impl Caller ===

impl Caller<'_> {
    /// Tells a caller who is refused a model that their tier is gone: its grants went with it.
    pub(super) fn explain(&self, denial: Denial) -> Denial {
        match &self.gone {
            Some(tier) if denial.code == Code::AccessDenied => {
                let message = format!("your tier `{tier}` is no longer configured, and {}", denial.message);
                Denial { code: Code::TierGone, message: message.into(), ..denial }
            }
            _ => denial,
        }
    }
}

// === impl TierLookup ===

impl Rule<TierLookup> {
    /// Calls `of` with the groups that the body holds.
    fn with_groups<T>(&self, scope: &Scope<'_>, of: impl FnOnce(&[&str]) -> T) -> Result<T, Denial> {
        if let ValueSource::Expression(expression) = &self.what.body
            && let Some(Direct::Entry { key, path }) = expression.direct()
            && key == "groups"
            && let Some(groups) = path.eval(scope)
        {
            let groups = groups.map_err(|error| self.failed(&error))?;
            if let Some(groups) = groups.as_texts() {
                return Ok(of(&groups));
            }
        }
        let body = self.body(scope)?;
        let groups = body.get("groups").and_then(Value::as_array);
        let groups: Option<SmallVec<[&str; 4]>> = groups.and_then(|list| list.iter().map(Value::as_str).collect());
        match groups {
            Some(groups) => Ok(of(&groups)),
            None => Err(self.failed(&EvalError::Failed("holds no list of `groups`".to_owned()))),
        }
    }

    fn body(&self, scope: &Scope<'_>) -> Result<Value, Denial> {
        Ok(self.what.body.eval(scope).map_err(|error| self.failed(&error))?.to_json())
    }

    fn failed(&self, error: &EvalError) -> Denial {
        undecided(&format!("metadata.{} body", self.name), error)
    }
}
