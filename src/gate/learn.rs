//! What an AuthPolicy asks about a caller: their tier, from our own mapping or from a service.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};
use smallvec::SmallVec;
use tokio::time::timeout_at;

use super::caller::{Caller, holds, no_tier};
use super::{Deciding, TierUnknown};
use crate::cache::AnswerSource;
use crate::denial::{Code, Denial};
use crate::expression::{Direct, EvalError, Scope, Val, undecided};
use crate::policy::{AuthPlan, Tiers};
use crate::rules::{AuthRules, Rule, TierLookup, ValueSource};
use crate::tier::Lookup;

static NO_TIER: LazyLock<Value> = LazyLock::new(|| json!({}));

// === impl Deciding ===

impl Deciding<'_> {
    /// Finds the facts that the policy asks for.
    ///
    /// # Errors
    ///
    /// The mapping is in error, or the service could not be asked. Having no tier is no error here: see [`check_tier`].
    pub(super) async fn learn<'c>(&mut self, auth: &'c AuthPlan, caller: &mut Caller<'c>) -> Result<(), Denial> {
        for rule in &auth.rules.metadata {
            if !holds(&auth.rules, &rule.name, &rule.when, &caller.scope())? {
                continue;
            }
            let (tier, answer) = match &auth.tiers {
                Tiers::Known(table) => {
                    let account = caller.reviewed.and_then(|identity| identity.service_account.as_ref());
                    caller.gone = account.and_then(|account| table.gone(&account.namespace)).map(Arc::from);
                    match with_groups(rule, &caller.scope(), |groups| table.of(groups.iter().copied()))? {
                        Some(tier) => (Some(Arc::clone(&tier.name)), Cow::Borrowed(&tier.answer)),
                        None => (None, Cow::Borrowed(&*NO_TIER)),
                    }
                }
                Tiers::Missing => match self.look_up(rule, caller).await? {
                    Lookup::Tier(tier) => (Some(Arc::clone(&tier.name)), Cow::Owned(tier.answer.clone())),
                    Lookup::NoTier => (None, Cow::Borrowed(&*NO_TIER)),
                    Lookup::Undecided(denial) => return Err(denial),
                },
                Tiers::Invalid(fault) => {
                    let denial = Denial::new(Code::PolicyTiers, "the caller's tier cannot be told");
                    return Err(denial.detail(format!("the tier mapping is in error: {fault}")));
                }
            };
            caller.metadata.push((Arc::clone(&rule.name), Val::Json(answer)));
            caller.without_tier |= tier.is_none();
            caller.tier = caller.tier.take().or(tier);
        }
        Ok(())
    }

    /// What the service of `rule` says of the caller.
    async fn look_up(&mut self, rule: &Rule<TierLookup>, caller: &Caller<'_>) -> Result<Lookup, Denial> {
        let tiers = &self.gate.tiers;
        let user = caller.reviewed.map_or("", |identity| &*identity.user);
        let request = tiers.request(&rule.what.endpoint, user, body(rule, &caller.scope())?.to_string());
        let (lookup, source) = match tiers.recall(&request, self.now) {
            Some((lookup, AnswerSource::Stale)) => {
                tiers.refresh(&request, self.now);
                (lookup, AnswerSource::Stale)
            }
            Some(known) => known,
            None => {
                let told = timeout_at(self.until(), tiers.ask(&request, self.now)).await;
                let late = || Denial::new(Code::UnavailableDeadline, "the caller's tier could not be told in time");
                told.unwrap_or_else(|_| (Lookup::Undecided(late()), AnswerSource::Fetched))
            }
        };
        self.evidence.tier_source = Some(source);
        Ok(lookup)
    }
}

/// Refuses who has no tier, or whose own is gone, if `unknown` says so. Otherwise the policy must answer it.
///
/// # Errors
///
/// The caller is refused.
pub(super) fn check_tier(rules: &AuthRules, caller: &Caller<'_>, unknown: TierUnknown) -> Result<(), Denial> {
    match unknown {
        TierUnknown::Refuse if caller.gone.is_some() || caller.without_tier => Err(no_tier(rules, caller)),
        TierUnknown::Refuse | TierUnknown::Next => Ok(()),
    }
}

/// Calls `of` with the groups that the body holds.
fn with_groups<T>(rule: &Rule<TierLookup>, scope: &Scope<'_>, of: impl FnOnce(&[&str]) -> T) -> Result<T, Denial> {
    if let ValueSource::Expression(expression) = &rule.what.body
        && let Some(Direct::Entry { key, path }) = expression.direct()
        && key == "groups"
        && let Some(groups) = path.eval(scope)
    {
        let groups = groups.map_err(|error| failed(rule, &error))?;
        if let Some(groups) = groups.as_texts() {
            return Ok(of(&groups));
        }
    }
    let body = body(rule, scope)?;
    let groups = body.get("groups").and_then(Value::as_array);
    let groups: Option<SmallVec<[&str; 4]>> = groups.and_then(|list| list.iter().map(Value::as_str).collect());
    match groups {
        Some(groups) => Ok(of(&groups)),
        None => Err(failed(rule, &EvalError::Failed("holds no list of `groups`".to_owned()))),
    }
}

fn body(rule: &Rule<TierLookup>, scope: &Scope<'_>) -> Result<Value, Denial> {
    Ok(rule.what.body.eval(scope).map_err(|error| failed(rule, &error))?.to_json())
}

fn failed(rule: &Rule<TierLookup>, error: &EvalError) -> Denial {
    undecided(&format!("metadata.{} body", rule.name), error)
}
