//! May the caller call this model: rules of authorization, and the question of a SubjectAccessReview.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::Deciding;
use super::caller::{Caller, holds, in_its_words};
use crate::access::{AccessDecision, AccessQuery, Grantor};
use crate::denial::{Code, Denial};
use crate::expression::{EvalError, Scope, Val, undecided};
use crate::printable::shell_word;
use crate::request::{self, OperatorModel};
use crate::rules::{AccessRule, AuthRules, Authorization, Rule, Subject, ValueSource};

/// A model that the caller asked for, and what says that they may call it.
#[derive(Clone, Debug, Default)]
pub struct Permit {
    /// `namespace/name`
    pub model: Option<String>,
    pub grantor: Option<Grantor>,
    /// What is not granted.
    pub refused: Option<Box<Refused>>,
}

/// What a SubjectAccessReview asks, as a rule yields it for one caller.
struct AccessAttributes<'s> {
    user: Cow<'s, str>,
    groups: Option<Val<'s>>,
    verb: Cow<'s, str>,
    group: Cow<'s, str>,
    resource: Cow<'s, str>,
    subresource: Cow<'s, str>,
    namespace: Cow<'s, str>,
    name: Cow<'s, str>,
}

/// A question that was answered with no.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The rule of authorization that asks.
    pub rule: String,
    /// Who was asked about.
    pub user: String,
    /// Whom a grant is usually for.
    pub grantee: Subject,
    pub verb: String,
    /// With its subresource and API group, as kubectl names it: `llminferenceservices.serving.kserve.io`.
    pub resource: String,
    pub namespace: String,
    pub name: String,
    /// Whether it is about an LLMInferenceService.
    pub is_model: bool,
}

// === impl Deciding ===

impl Deciding<'_> {
    /// Checks every rule of authorization. Where the path names no model, nothing is asked about a model of the path; whatever else
    /// the rules ask counts.
    ///
    /// # Errors
    ///
    /// One does not hold, nothing grants the caller this model, or the path names none.
    pub(super) async fn permit(
        &mut self,
        rules: &AuthRules,
        caller: &Caller<'_>,
        operator: OperatorModel<'_>,
    ) -> Result<(), Denial> {
        let scope = caller.scope();
        for rule in &rules.authorization {
            if self.names_no_model && rule.what.asks_for_model_of_path() {
                continue;
            }
            if !holds(rules, &rule.name, &rule.when, &scope)? {
                continue;
            }
            let permitted = match &rule.what {
                Authorization::Access(access) => self.granted(&rule.name, access, caller, operator).await,
                Authorization::Patterns(conditions) => match holds(rules, &rule.name, conditions, &scope)? {
                    true => Ok(()),
                    false => Err(does_not_hold(rule)),
                },
            };
            permitted.map_err(|denial| in_its_words(rules, of_gone_tier(caller, denial), &scope))?;
        }
        Ok(())
    }

    /// Whether something grants the caller what the rule `name` asks for.
    async fn granted(
        &mut self,
        name: &str,
        rule: &AccessRule,
        caller: &Caller<'_>,
        operator: OperatorModel<'_>,
    ) -> Result<(), Denial> {
        self.evidence.permit = Permit::default();
        let scope = caller.scope();
        let attributes = AccessAttributes::of(name, rule, &scope, operator)?;
        let groups = attributes.groups()?;
        let query = attributes.query(&groups);
        self.evidence.permit.model = Some([query.namespace, "/", query.name].concat());
        match self.access(&query, caller.reviewed).await? {
            AccessDecision::Granted(grantor) => {
                self.evidence.permit.grantor = Some(grantor);
                Ok(())
            }
            AccessDecision::NotGranted(why) => {
                let refused = Refused::of(name, &query);
                let denial = missing_grant(&refused, why.as_deref());
                self.evidence.permit.refused = Some(Box::new(refused));
                Err(denial)
            }
            AccessDecision::Undecided(denial) => Err(denial),
        }
    }
}

fn does_not_hold(rule: &Rule<Authorization>) -> Denial {
    let message = "a rule of this route's policy does not let you in";
    let detail = format!("authorization `{}` of {} does not hold", rule.name, rule.origin);
    Denial::new(Code::AccessRule, message).detail(detail)
}

/// Tells a caller who is refused a model that their tier is gone: its grants went with it.
fn of_gone_tier(caller: &Caller<'_>, denial: Denial) -> Denial {
    match &caller.gone {
        Some(tier) if denial.code == Code::AccessDenied => {
            let message = format!("your tier `{tier}` is no longer configured, and {}", denial.message);
            Denial { code: Code::TierGone, message: message.into(), ..denial }
        }
        _ => denial,
    }
}

// === impl AccessAttributes ===

impl<'s> AccessAttributes<'s> {
    /// What `rule` yields for the caller of `scope`.
    fn of(
        name: &str,
        rule: &'s AccessRule,
        scope: &Scope<'s>,
        operator: OperatorModel<'s>,
    ) -> Result<AccessAttributes<'s>, Denial> {
        let attribute = |what: &str, source| attribute(name, what, source, scope);
        let (namespace, model) = model(rule, scope, operator)?;
        let user = attribute("user", &rule.user)?;
        let groups = match &rule.groups {
            Some(source) => Some(source.eval(scope).map_err(|error| undecided("authorizationGroups", &error))?),
            None => None,
        };
        Ok(AccessAttributes {
            user,
            groups,
            verb: attribute("verb", &rule.verb)?,
            group: attribute("group", &rule.group)?,
            resource: attribute("resource", &rule.resource)?,
            subresource: attribute("subresource", &rule.subresource)?,
            namespace,
            name: model,
        })
    }

    fn groups(&self) -> Result<SmallVec<[&str; 4]>, Denial> {
        let not_texts = || undecided("authorizationGroups", &EvalError::Failed("not a list of strings".to_owned()));
        match &self.groups {
            Some(groups) => groups.as_texts().ok_or_else(not_texts),
            None => Ok(SmallVec::new()),
        }
    }

    fn query<'q>(&'q self, groups: &'q [&'q str]) -> AccessQuery<'q> {
        let AccessAttributes { user, groups: _, verb, group, resource, subresource, namespace, name } = self;
        AccessQuery { user, groups, verb, group, resource, subresource, namespace, name }
    }
}

/// Namespace and name of the model. What the operator set on the route goes before the path.
fn model<'s>(
    rule: &'s AccessRule,
    scope: &Scope<'s>,
    operator: OperatorModel<'s>,
) -> Result<(Cow<'s, str>, Cow<'s, str>), Denial> {
    let (namespace, model) = match operator {
        OperatorModel::Named(name) => match name.split_once('/') {
            Some((namespace, name)) => (Cow::Borrowed(namespace), Cow::Borrowed(name)),
            None => {
                let detail = format!("`{name}` is not namespace/name");
                return Err(Denial::new(Code::PolicyModel, "the model of this route is misnamed").detail(detail));
            }
        },
        OperatorModel::Conflict => {
            let detail = "context_extensions.model and the route's metadata name different models, or what is no text";
            return Err(Denial::new(Code::PolicyModel, "the model of this route is named twice").detail(detail));
        }
        OperatorModel::Unset => (derived("namespace", &rule.namespace, scope)?, derived("name", &rule.model, scope)?),
    };
    if request::is_dns1123_label(&namespace) && request::is_dns1123_subdomain(&model) {
        return Ok((namespace, model));
    }
    match operator {
        OperatorModel::Unset => Err(Denial::new(Code::PathNotCanonical, "the path names no model")),
        _ => Err(Denial::new(Code::PolicyModel, "the model of this route is misnamed")),
    }
}

fn derived<'s>(what: &str, source: &'s ValueSource, scope: &Scope<'s>) -> Result<Cow<'s, str>, Denial> {
    match source.eval(scope) {
        Ok(value) => value.into_text().ok_or_else(|| not_text(what)),
        Err(EvalError::Missing(_)) => Err(Denial::new(Code::PathNotCanonical, "the path names no model")),
        Err(error) => Err(undecided(what, &error)),
    }
}

fn attribute<'s>(rule: &str, what: &str, source: &'s ValueSource, scope: &Scope<'s>) -> Result<Cow<'s, str>, Denial> {
    let value = source.eval(scope).map_err(|error| undecided(&format!("{rule}.{what}"), &error))?;
    value.into_text().ok_or_else(|| not_text(what))
}

fn not_text(what: &str) -> Denial {
    undecided(what, &EvalError::Failed("is not text".to_owned()))
}

/// The refusal of a model. "Does not exist" and "not granted" look the same to the caller.
fn missing_grant(refused: &Refused, why: Option<&str>) -> Denial {
    let Refused { grantee, verb, resource, namespace, name, .. } = refused;
    let mut detail =
        format!("no RoleBinding in namespace {namespace} grants {grantee} a Role with `{verb}` on {resource} `{name}`");
    if let Some(commands) = refused.commands() {
        detail.push_str("; grant it with: ");
        detail.push_str(&commands.join(" && "));
    }
    if let Some(why) = why {
        detail.push_str("; the API server says: ");
        detail.push_str(why);
    }
    let message = format!("you have no access to model {namespace}/{name}");
    Denial::new(Code::AccessDenied, message).detail(detail)
}

// === impl Refused ===

impl Refused {
    fn of(rule: &str, query: &AccessQuery<'_>) -> Self {
        let with = |separator: &str, part: &str| match part {
            "" => String::new(),
            part => format!("{separator}{part}"),
        };
        Refused {
            rule: rule.to_owned(),
            user: query.user.to_owned(),
            grantee: query.grantee(),
            verb: query.verb.to_owned(),
            resource: format!("{}{}{}", query.resource, with(".", query.group), with("/", query.subresource)),
            namespace: query.namespace.to_owned(),
            name: query.name.to_owned(),
            is_model: query.is_for_a_model(),
        }
    }

    /// What grants it, for a shell: a Role and a RoleBinding. `None` where nothing can, since what was asked for has no name.
    #[must_use]
    pub fn commands(&self) -> Option<[String; 2]> {
        let Refused { namespace, name, verb, resource, .. } = self;
        if verb.is_empty() || resource.is_empty() {
            return None;
        }
        let is_plain = verb.bytes().all(|byte| byte.is_ascii_lowercase());
        let role = if is_plain { format!("{name}-{verb}-access") } else { format!("{name}-access") };
        let flag = self.grantee.flag();
        let [role, namespace, name, verb, resource, whom] =
            [role.as_str(), namespace, name, verb, resource, &flag].map(shell_word);
        Some([
            format!(
                "kubectl create role {role} -n {namespace} --verb={verb} --resource={resource} --resource-name={name}"
            ),
            format!("kubectl create rolebinding {role} -n {namespace} --role={role} {whom}"),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(user: &str, verb: &str) -> Refused {
        Refused::of(
            "access",
            &AccessQuery {
                user,
                groups: &[],
                verb,
                group: "serving.kserve.io",
                resource: "llminferenceservices",
                subresource: "",
                namespace: "llm",
                name: "qwen3",
            },
        )
    }

    /// Operators paste them from the log, and an identity provider may let people choose their names.
    #[test]
    fn what_is_to_be_pasted_into_a_shell_is_quoted() {
        let refused = asked("x$(id)", "post");
        let detail = missing_grant(&refused, None).detail.unwrap();
        assert!(
            detail.ends_with(
                "&& kubectl create rolebinding qwen3-post-access -n llm --role=qwen3-post-access '--user=x$(id)'"
            ),
            "{detail}"
        );
        let [role, binding] = asked("alice", "po`id`st").commands().unwrap();
        let words = |line: &str| shlex::split(line).unwrap();
        assert_eq!(words(&role).last().unwrap(), "--resource-name=qwen3");
        assert!(role.contains("--verb='po`id`st'"), "{role}");
        assert_eq!(
            words(&binding),
            ["kubectl", "create", "rolebinding", "qwen3-access", "-n", "llm", "--role=qwen3-access", "--user=alice"]
        );
        assert_eq!(asked("alice", "").commands(), None);
    }
}
