//! May the caller call this model: the question of a SubjectAccessReview, answered by RBAC.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::{AccessRule, ValueSource};
use crate::access::{Grantor, Query, Subject, Verdict};
use crate::denial::{Code, Denial};
use crate::expression::{EvalError, Scope};
use crate::policy::undecided;
use crate::printable::shell_word;
use crate::request::{self, OperatorModel};

/// A model that the caller asked for, and what says that they may call it.
#[derive(Clone, Debug, Default)]
pub struct Permit {
    /// `namespace/name`
    pub model: Option<String>,
    pub grantor: Option<Grantor>,
    /// What is not granted.
    pub refused: Option<Box<Refused>>,
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

// === impl AccessRule ===

impl AccessRule {
    /// What `ask` says, which may not know yet.
    pub(super) fn permit<E>(
        &self,
        name: &str,
        scope: &Scope<'_>,
        operator: OperatorModel<'_>,
        permit: &mut Permit,
        ask: &mut impl FnMut(&Query<'_>) -> Result<Verdict, E>,
    ) -> Result<Result<(), Denial>, E> {
        let asked = self.ask(name, scope, operator, |query| {
            permit.model = Some(format!("{}/{}", query.namespace, query.name));
            Ok(match ask(query)? {
                Verdict::Granted(grantor) => {
                    permit.grantor = Some(grantor);
                    Ok(())
                }
                Verdict::NotGranted(why) => {
                    let refused = Refused::of(name, query);
                    let denial = missing_grant(&refused, why.as_deref());
                    permit.refused = Some(Box::new(refused));
                    Err(denial)
                }
                Verdict::Undecided(denial) => Err(denial),
            })
        });
        asked.unwrap_or_else(|denial| Ok(Err(denial)))
    }

    /// Puts the question.
    fn ask<T>(
        &self,
        name: &str,
        scope: &Scope<'_>,
        operator: OperatorModel<'_>,
        ask: impl FnOnce(&Query<'_>) -> T,
    ) -> Result<T, Denial> {
        let attribute = |what: &str, source| attribute(name, what, source, scope);
        let (namespace, model) = self.model(scope, operator)?;
        let user = attribute("user", &self.user)?;
        let groups = match &self.groups {
            Some(source) => Some(source.eval(scope).map_err(|error| undecided("authorizationGroups", &error))?),
            None => None,
        };
        let groups: SmallVec<[&str; 4]> = match &groups {
            Some(value) => value.as_texts().ok_or_else(|| {
                undecided("authorizationGroups", &EvalError::Failed("not a list of strings".to_owned()))
            })?,
            None => SmallVec::new(),
        };
        Ok(ask(&Query {
            user: &user,
            groups: &groups,
            verb: &attribute("verb", &self.verb)?,
            group: &attribute("group", &self.group)?,
            resource: &attribute("resource", &self.resource)?,
            subresource: &attribute("subresource", &self.subresource)?,
            namespace: &namespace,
            name: &model,
        }))
    }

    /// Namespace and name of the model. What the operator set on the route goes before the path.
    fn model<'s>(
        &'s self,
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
                let detail =
                    "context_extensions.model and the route's metadata name different models, or what is no text";
                return Err(Denial::new(Code::PolicyModel, "the model of this route is named twice").detail(detail));
            }
            OperatorModel::Unset => {
                (self.derived("namespace", &self.namespace, scope)?, self.derived("name", &self.model, scope)?)
            }
        };
        if request::is_dns1123_label(&namespace) && request::is_dns1123_subdomain(&model) {
            return Ok((namespace, model));
        }
        match operator {
            OperatorModel::Unset => Err(Denial::new(Code::PathNotCanonical, "the path names no model")),
            _ => Err(Denial::new(Code::PolicyModel, "the model of this route is misnamed")),
        }
    }

    fn derived<'s>(&self, what: &str, source: &'s ValueSource, scope: &Scope<'s>) -> Result<Cow<'s, str>, Denial> {
        match source.eval(scope) {
            Ok(value) => value.into_text().ok_or_else(|| not_text(what)),
            Err(EvalError::Missing(_)) => Err(Denial::new(Code::PathNotCanonical, "the path names no model")),
            Err(error) => Err(undecided(what, &error)),
        }
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
    fn of(rule: &str, query: &Query<'_>) -> Self {
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
            &Query {
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
