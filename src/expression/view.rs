//! From where an expression looks: what of `auth` there can be at that place.

use super::selector::Selector;
use super::{CompileError, Expression, Reference};
use crate::spelling::did_you_mean;

/// A place of a policy at which expressions and selectors stand. A rule sees what those before it found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Nobody is authenticated yet: the request alone.
    Request,
    /// The identity as it was found: `defaults` and `overrides` of it.
    Identity,
    /// An authenticated caller, and what `metadata` found out.
    Caller,
    /// Limits: what the filters of the AuthPolicy's response make. Which there are, is known where policies meet.
    Limits,
}

/// Members of Authorino's `auth` that are not carried out.
const FOREIGN: &[(&str, &str)] = &[
    (
        "authorization",
        "rules of authorization decide, and make nothing to look at: look at `auth.identity` or `auth.metadata`",
    ),
    ("response", "look at what the response is made of: `auth.identity`, `auth.metadata`"),
    ("callbacks", "there are none"),
];

// === impl View ===

impl View {
    /// Compiles an expression.
    ///
    /// # Errors
    ///
    /// See [`Expression::compile`]; or it asks for what there is not at this place.
    pub fn expression(self, text: &str) -> Result<Expression, CompileError> {
        let expression = Expression::compile(text)?;
        self.check(expression.references())?;
        Ok(expression)
    }

    /// Compiles a predicate.
    ///
    /// # Errors
    ///
    /// See [`Expression::compile_predicate`]; or it asks for what there is not at this place.
    pub fn predicate(self, text: &str) -> Result<Expression, CompileError> {
        let predicate = Expression::compile_predicate(text)?;
        self.check(predicate.references())?;
        Ok(predicate)
    }

    /// Compiles a selector.
    ///
    /// # Errors
    ///
    /// See [`Selector::compile`]; or it asks for what there is not at this place.
    pub fn selector(self, text: &str) -> Result<Selector, CompileError> {
        let selector = Selector::compile(text)?;
        self.check(selector.references())?;
        Ok(selector)
    }

    /// Checks that what is referred to can be there.
    ///
    /// # Errors
    ///
    /// The first that cannot.
    pub fn check(self, references: impl IntoIterator<Item = Reference>) -> Result<(), CompileError> {
        references.into_iter().try_for_each(|reference| match (&reference, reference.member()) {
            (Reference::Auth, _) if self == View::Request => Err(too_early("auth", self)),
            (_, Some(member)) => self.check_member(member),
            _ => Ok(()),
        })
    }

    fn check_member(self, member: &str) -> Result<(), CompileError> {
        let shown = format!("auth.{member}");
        match (self, member) {
            (View::Limits, _) | (View::Caller, "identity" | "metadata") | (View::Identity, "identity") => return Ok(()),
            (View::Request | View::Identity, "identity" | "metadata") => return Err(too_early(&shown, self)),
            _ => {}
        }
        if let Some((_, remedy)) = FOREIGN.iter().find(|(foreign, _)| *foreign == member) {
            return Err(CompileError::new(format!("asks for `{shown}`, which is not supported")).remedy(*remedy));
        }
        let error = CompileError::new(format!("asks for `{shown}`, which nothing makes"));
        Err(match did_you_mean(member, ["identity", "metadata"]) {
            Some(meant) => error.remedy(format!("did you mean `auth.{meant}`?")),
            None => error.remedy("there are `auth.identity` and `auth.metadata`"),
        })
    }
}

fn too_early(what: &str, view: View) -> CompileError {
    let (when, remedy) = match view {
        View::Identity => ("before it is found out", "look at `auth.identity` or `request`"),
        _ => (
            "before anybody is authenticated",
            "look at `request`; what depends on the caller is a condition of a rule of metadata, authorization or response",
        ),
    };
    CompileError::new(format!("asks for `{what}` {when}")).remedy(remedy)
}
