//! Routes: where requests go, and what is turned off for them on the way.

use super::EnvoyFile;
use super::descriptor::asks_always;
use super::entry::Filter;
use super::matcher::{self, Gap};
use super::off::{Disabled, Off};
use super::read::{ConfigValue, configuration, is_type};
use super::role::FilterRole;

/// One way of requests through routes, to one cluster.
#[derive(Clone, Debug)]
pub(super) struct Way<'a> {
    /// What may have settings for filters, the widest first: route configuration, virtual host, route, part of its traffic.
    levels: Vec<ConfigValue<'a>>,
    /// The descriptors of route and virtual host, for filters that have none.
    limits: Vec<ConfigValue<'a>>,
    /// What the route is called.
    name: Option<&'a str>,
    /// What the route does; of a part of a configuration it may be unknown.
    pub(super) action: Option<ConfigValue<'a>>,
    pub(super) to: To<'a>,
}

/// Where a way leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To<'a> {
    Cluster(&'a str),
    /// The request says, or a plugin.
    Any,
}

pub(super) const SETTINGS: &str = "typed_per_filter_config";
/// What a route may do.
const ACTIONS: [&str; 5] = ["route", "filter_action", "redirect", "direct_response", "non_forwarding_action"];

fn is_route(item: &ConfigValue<'_>) -> bool {
    item.get("match").is_some() && ACTIONS.iter().any(|name| item.get(name).is_some())
}

/// Whether it is a route configuration, or a part of one.
pub(super) fn is_part(item: &ConfigValue<'_>) -> bool {
    item.get("virtual_hosts").is_some() || item.get(SETTINGS).is_some() || is_route(item)
}

/// All ways through a route configuration, or a part of one.
pub(super) fn ways<'a>(routes: &ConfigValue<'a>) -> Vec<Way<'a>> {
    let mut ways = Vec::new();
    follow(routes, &[], None, &mut ways);
    ways
}

fn descriptors<'a>(item: &ConfigValue<'a>) -> Option<ConfigValue<'a>> {
    item.get("rate_limits").filter(|list| !list.items().is_empty())
}

/// Whether there is a route.
fn follow<'a>(
    item: &ConfigValue<'a>,
    levels: &[ConfigValue<'a>],
    host: Option<&ConfigValue<'a>>,
    ways: &mut Vec<Way<'a>>,
) -> bool {
    let mut levels = levels.to_vec();
    levels.extend(item.get(SETTINGS).map(|_| item.clone()));
    let own = descriptors(item);
    let host = own.as_ref().or(host);
    if ACTIONS.iter().any(|name| item.get(name).is_some()) {
        // A redirect and a direct response are Envoy's own answers.
        for action in ["route", "filter_action"].iter().filter_map(|name| item.get(name)) {
            ways.extend(split(item.text("name"), &action, &levels, host));
        }
        return true;
    }
    let children = item.children();
    let found = children.iter().filter(|child| follow(child, &levels, host, ways)).count() > 0;
    if !found && item.get(SETTINGS).is_some() {
        let limits = host.cloned().into_iter().collect();
        ways.push(Way { levels, limits, name: None, action: None, to: To::Any });
    }
    found
}

/// The ways of one route.
fn split<'a>(
    name: Option<&'a str>,
    action: &ConfigValue<'a>,
    levels: &[ConfigValue<'a>],
    host: Option<&ConfigValue<'a>>,
) -> Vec<Way<'a>> {
    // Those of the virtual host count where the route has none, or says that they do.
    let own = descriptors(action);
    let host = host.filter(|_| own.is_none() || action.is_true("include_vh_rate_limits"));
    let limits: Vec<ConfigValue<'a>> = own.iter().chain(host).cloned().collect();
    let way = |levels: Vec<ConfigValue<'a>>, to| Way {
        levels,
        limits: limits.clone(),
        name,
        action: Some(action.clone()),
        to,
    };
    let to = |name: Option<&'a str>| name.map_or(To::Any, To::Cluster);
    let parts = action.at(&["weighted_clusters", "clusters"]).map(|clusters| clusters.items());
    let Some(parts) = parts else { return vec![way(levels.to_vec(), to(action.text("cluster")))] };
    parts.into_iter().map(|part| way([levels, std::slice::from_ref(&part)].concat(), to(part.text("name")))).collect()
}

/// What a level is called.
fn scope(level: &ConfigValue<'_>) -> &'static str {
    let has = |names: &[&str]| names.iter().any(|name| level.get(name).is_some());
    if has(&["virtual_hosts", "vhds"]) {
        "route configuration"
    } else if has(&["domains", "routes"]) {
        "virtual host"
    } else if has(&["weight", "cluster_header"]) {
        "part of a route's traffic"
    } else if is_route(level) {
        "route"
    } else {
        "part of the routes"
    }
}

// === impl To ===

impl<'a> To<'a> {
    pub(super) fn cluster(self) -> Option<&'a str> {
        match self {
            To::Cluster(name) => Some(name),
            To::Any => None,
        }
    }
}

// === impl Way ===

impl<'a> Way<'a> {
    /// Whether it has settings for a filter of this name.
    pub(super) fn names(&self, filter: &str) -> bool {
        self.settings(filter).next().is_some()
    }

    /// Whether route or virtual host have descriptors.
    pub(super) fn has_descriptors(&self) -> bool {
        !self.limits.is_empty()
    }

    /// Where a Check is turned off, whatever its filter is called.
    pub(super) fn unchecked(&self) -> Vec<ConfigValue<'a>> {
        let settings = self.levels.iter().filter_map(|level| level.get(SETTINGS)).flat_map(|all| all.children());
        let own = settings.filter_map(configuration).filter(|own| is_type(own, ".ExtAuthzPerRoute"));
        own.filter_map(|own| own.turned_on("disabled")).collect()
    }

    /// The settings for a filter, the most specific first.
    fn settings(&self, filter: &str) -> impl Iterator<Item = (&'static str, ConfigValue<'a>)> {
        let of = |level: &ConfigValue<'a>| Some((scope(level), level.get(SETTINGS)?.entry(filter)?));
        self.levels.iter().rev().filter_map(of)
    }

    /// Whether a filter is off for these requests. Envoy looks twice: whether the filter is in the chain, and then, in the most specific
    /// configuration, whether it does anything.
    pub(super) fn off(&self, filter: &Filter<'a>, file: &EnvoyFile<'a>) -> Option<Off<'a>> {
        match self.settings(filter.name).next() {
            None => filter.off(self.name),
            Some((scope, setting)) => {
                let is_wrapper = is_type(&setting, ".route.v3.FilterConfig");
                let at = setting.turned_on("disabled").filter(|_| is_wrapper);
                at.map(|at| Off { at, how: Disabled::Of(scope) })
            }
        }
        .or_else(|| {
            let role = file.role(&filter.entry)?;
            let mut own =
                self.settings(filter.name).filter_map(|(scope, setting)| Some((scope, configuration(setting)?)));
            let own = own.next();
            let undone = own.as_ref().and_then(|(scope, own)| undone(own, scope, role, file));
            let is_own = own.is_some_and(|(_, own)| own.get("rate_limits").is_some());
            undone.or_else(|| self.unasked(filter).filter(|_| role == FilterRole::Limits && !is_own))
        })
    }

    /// That a filter without descriptors of its own has none here, or none that every request makes.
    fn unasked(&self, filter: &Filter<'a>) -> Option<Off<'a>> {
        let without = filter.without_descriptors()?;
        if self.limits.iter().any(|list| asks_always(list).is_ok()) {
            return None;
        }
        Some(Off { at: self.limits.first().cloned().unwrap_or(without), how: Disabled::Unsure })
    }
}

/// How a route's configuration of a filter turns it off.
fn undone<'a>(own: &ConfigValue<'a>, scope: &'static str, role: FilterRole, file: &EnvoyFile<'a>) -> Option<Off<'a>> {
    let off = |at: ConfigValue<'a>, how| Off { at, how };
    if is_type(own, ".ExtAuthzPerRoute") {
        let elsewhere = || {
            let settings = own.get("check_settings")?;
            let cluster = settings.at(&["grpc_service", "envoy_grpc", "cluster_name"]);
            let cluster = cluster.or_else(|| settings.at(&["grpc_service", "google_grpc", "target_uri"]));
            let other = cluster.filter(|cluster| !cluster.as_text().is_some_and(|name| file.is_ours(name)));
            Some(off(other.or_else(|| settings.get("http_service"))?, Disabled::Elsewhere(scope)))
        };
        return own.turned_on("disabled").map(|at| off(at, Disabled::Of(scope))).or_else(elsewhere);
    }
    if is_type(own, ".RateLimitPerRoute") {
        let limits = own.get("rate_limits").filter(|_| role == FilterRole::Limits)?;
        return asks_always(&limits).err().map(|at| off(at, Disabled::Dropped));
    }
    match matcher::gap(own, &|item| file.role(item).is_some())? {
        Gap::Skip(at) | Gap::Matched(at) => Some(off(at, Disabled::Matched)),
    }
}
