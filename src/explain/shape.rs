//! Paths of another shape than the models': without a model, with a segment too few, or with one too many.

use std::collections::BTreeSet;

use super::Case;
use crate::manifest::PathMatch;

/// What the paths of the API itself start with.
const API: &str = "v1";
/// So many are proposed.
const MOST: usize = 3;

/// Paths that the request was probably meant for; none if its path has the shape of a model's.
pub(super) fn meant(case: &Case<'_>) -> Vec<String> {
    let Some(asked) = case.request_line else { return Vec::new() };
    let path = asked.path.split('?').next().unwrap_or_default();
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let at = segments.iter().position(|segment| *segment == API).unwrap_or(segments.len());
    let (head, tail) = segments.split_at(at);
    let near: Vec<(usize, String)> = models(case)
        .into_iter()
        .filter_map(|start| {
            let own: Vec<&str> = start.split('/').filter(|segment| !segment.is_empty()).collect();
            let nearly = own != head && (is_within(head, &own) || own.len() < head.len() && is_within(&own, head));
            let meant = own.iter().chain(tail).copied().collect::<Vec<_>>().join("/");
            nearly.then(|| (own.len().abs_diff(head.len()), format!("/{meant}")))
        })
        .collect();
    let nearest = near.iter().map(|(far, _)| *far).min();
    near.into_iter().filter(|(far, _)| Some(*far) == nearest).map(|(_, path)| path).take(MOST).collect()
}

/// What to send in place of the request's path.
pub(super) fn send(paths: &[String]) -> Option<String> {
    let asked = "which starts with the model, as the routes have it";
    (!paths.is_empty()).then(|| format!("send {}, {asked}", paths.join(" or ")))
}

/// What the paths of models start with: by their routes, and by their names.
fn models(case: &Case<'_>) -> BTreeSet<String> {
    let listeners = case.policy.gateways.iter().flat_map(|gateway| &gateway.listeners);
    let matches = listeners.flat_map(|listener| listener.routes.matches());
    let prefixes = matches.filter_map(|(_, wanted, _)| match &wanted.path {
        PathMatch::Prefix(prefix) if prefix.matches('/').count() > 1 => Some(prefix.clone()),
        PathMatch::Prefix(_) | PathMatch::Exact(_) | PathMatch::Regex(_) => None,
    });
    let named = case.policy.models.iter().flat_map(|(namespace, models)| {
        let path = move |name: &String| format!("/{namespace}/{name}");
        models.iter().map(path)
    });
    prefixes.chain(named).collect()
}

/// Whether the segments stand in `other`, in their order.
fn is_within(segments: &[&str], other: &[&str]) -> bool {
    let mut rest = other.iter();
    segments.iter().all(|segment| rest.any(|own| own == segment))
}
