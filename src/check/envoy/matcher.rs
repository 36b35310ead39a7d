//! Matchers around a filter: which requests it does not see.

use super::read::{ConfigValue, is_type};

/// What keeps a filter from some requests.
#[derive(Clone, Debug)]
pub(super) enum Gap<'a> {
    /// An action that skips the filter.
    Skip(ConfigValue<'a>),
    /// A matcher that leads to the filter, and not for every request.
    Matched(ConfigValue<'a>),
}

/// What the configuration of a filter, or of a route for one, keeps from `ours`.
pub(super) fn gap<'a>(configuration: &ConfigValue<'a>, ours: &impl Fn(&ConfigValue<'a>) -> bool) -> Option<Gap<'a>> {
    let matcher = configuration.get("xds_matcher").or_else(|| configuration.get("matcher"))?;
    let inside = configuration.at(&["extension_config", "typed_config"]);
    let mut composites = inside.iter().chain([configuration]);
    match composites.find(|item| is_type(item, ".Composite") || is_type(item, ".CompositePerRoute")) {
        Some(composite) => missed(&matcher, composite, ours).map(Gap::Matched),
        None => skip(&matcher).map(Gap::Skip),
    }
}

fn skip<'a>(matcher: &ConfigValue<'a>) -> Option<ConfigValue<'a>> {
    let skips = matcher.find(&|item| is_type(item, ".SkipFilter"));
    skips.first().and_then(|action| action.get("@type"))
}

/// A composite filter runs what an action says, and nothing where none is taken.
fn missed<'a>(
    matcher: &ConfigValue<'a>,
    composite: &ConfigValue<'a>,
    ours: &impl Fn(&ConfigValue<'a>) -> bool,
) -> Option<ConfigValue<'a>> {
    let taken = matcher.find(&|item| item.at(&["action", "typed_config"]).is_some());
    let other = taken.into_iter().filter_map(|item| item.get("action")).find(|action| !runs(action, composite, ours));
    other.or_else(|| Some(matcher.clone()).filter(|matcher| matcher.get("on_no_match").is_none()))
}

/// Whether an action runs one of ours for every request.
fn runs<'a>(action: &ConfigValue<'a>, composite: &ConfigValue<'a>, ours: &impl Fn(&ConfigValue<'a>) -> bool) -> bool {
    let Some(action) = action.get("typed_config") else { return false };
    let named = action.text("filter_chain_name").and_then(|name| composite.get("named_filter_chains")?.entry(name));
    let all = [action.get("typed_config"), action.get("filter_chain"), named];
    let is_ours = |item: &ConfigValue<'a>| ours(item);
    action.get("sample_percent").is_none() && all.iter().flatten().any(|item| !item.find(&is_ours).is_empty())
}
