//! Who reaches the models past tiergate: another listener, an upgrade, a proxy of connections.

use std::collections::{BTreeSet, HashSet};

use super::chain::{Chain, Role};
use super::read::{Address, Item};
use super::route::{To, Way};
use super::{Found, manager, route};
use crate::problem::Finding;

/// Where the requests that tiergate judges go.
#[derive(Debug)]
struct Judged<'a> {
    /// Whether some go where the request says, or a plugin: to any cluster but tiergate's.
    any: bool,
    clusters: BTreeSet<&'a str>,
    /// The endpoints of these clusters, which others may have too.
    endpoints: BTreeSet<Endpoint<'a>>,
    /// The names of routes that are told while Envoy runs.
    routes: BTreeSet<&'a str>,
}

/// An address and port, or a path.
type Endpoint<'a> = (Option<&'a str>, Option<i64>, Option<&'a str>);

pub(super) fn check(found: &Found<'_>) {
    if found.authz.is_empty() {
        return nobody_asks(found);
    }
    let (judged, others): (Vec<_>, Vec<_>) = found.managers.iter().partition(|manager| found.is_asked_by(manager));
    let reached = Judged::of(&judged, found);
    for filters in
        others.iter().filter(|other| reached.is_where(other, found)).filter_map(|other| other.get("http_filters"))
    {
        let message = "leads past tiergate to what it judges elsewhere in this file: no ext_authz filter asks it here";
        filters.error(
            Finding::EnvoyCheckMissing,
            message,
            "add the ext_authz filter of envoy/tiergate.yaml, first in the list",
        );
    }
    let is_reached = |name: &Item<'_>| name.as_text().is_some_and(|name| reached.has(To::Cluster(name), found));
    for at in found.others.iter().flat_map(targets).filter(is_reached) {
        let message = "leads past tiergate to what it judges elsewhere in this file: here nobody looks at requests";
        let remedy = "remove it, or make it an HTTP connection manager that asks tiergate";
        at.error(Finding::EnvoyCheckMissing, message, remedy);
    }
    judged.iter().for_each(|manager| upgrades(manager, found));
}

/// The clusters that a network filter names.
fn targets<'a>(filter: &Item<'a>) -> Vec<Item<'a>> {
    let parts = filter.find(&|item| item.get("weighted_clusters").is_some()).into_iter();
    let parts = parts.filter_map(|item| item.at(&["weighted_clusters", "clusters"])).flat_map(|list| list.items());
    let names = parts.filter_map(|part| part.get("name"));
    let single = filter.find(&|item| item.get("cluster").is_some()).into_iter().filter_map(|item| item.get("cluster"));
    single.chain(names).collect()
}

/// No filter at all asks tiergate.
fn nobody_asks(found: &Found<'_>) {
    let message = "no ext_authz filter asks tiergate, so nothing is refused here";
    let remedy = "add the filter of envoy/tiergate.yaml, whose `envoy_grpc.cluster_name` leads to tiergate";
    let forwards = |manager: &&Item<'_>| !found.ways(manager).is_empty() || manager.get("route_config").is_none();
    let lists = found.managers.iter().filter(forwards).filter_map(|manager| manager.get("http_filters"));
    let mut places: Vec<_> = lists.collect();
    if places.is_empty() {
        places.extend(found.documents.first().cloned());
    }
    for at in places {
        at.error(Finding::EnvoyCheckMissing, message, remedy);
    }
    // The filter may be in another file.
    let mut told: HashSet<Address> = HashSet::new();
    let unchecked = found.loose.iter().flat_map(route::ways).flat_map(|way| way.unchecked());
    for at in unchecked.filter(|at| told.insert(at.address())) {
        at.error(Finding::EnvoyFailOpen, "turns the Check off: these requests pass unjudged", "remove `disabled`");
    }
}

/// An upgrade with filters of its own has none of the connection manager's.
fn upgrades(manager: &Item<'_>, found: &Found<'_>) {
    let main = manager.get("http_filters").map(|list| Chain::of(&list).roles(found)).unwrap_or_default();
    for upgrade in manager::upgrades(manager) {
        let Some(filters) = upgrade.get("filters").filter(|list| !list.items().is_empty()) else { continue };
        let is_allowed =
            |way: &Way<'_>| way.action.as_ref().is_some_and(|action| action.get("upgrade_configs").is_some());
        let is_off = upgrade.get("enabled").is_some_and(|enabled| enabled.as_bool() == Some(false));
        if is_off && !found.ways(manager).iter().any(is_allowed) {
            continue;
        }
        let own = Chain::of(&filters).roles(found);
        let is_left_out = |role| main.contains(&role) && !own.contains(&role);
        let message = match (is_left_out(Role::Check), is_left_out(Role::Limits)) {
            (true, _) => "are all that such a connection passes, and none of them asks tiergate",
            (false, true) => "are all that such a connection passes, and none of them asks about the limits",
            (false, false) => continue,
        };
        let remedy = "remove `filters`: then those of the connection manager hold";
        filters.error(Finding::EnvoyCheckMissing, message, remedy);
    }
}

// === impl Judged ===

impl<'a> Judged<'a> {
    fn of(managers: &[&Item<'a>], found: &Found<'a>) -> Self {
        let ways = managers.iter().flat_map(|manager| found.ways(manager));
        // What is no route yet leads nowhere.
        let to: Vec<To<'a>> = ways.filter(|way| way.action.is_some()).map(|way| way.to).collect();
        let any = to.contains(&To::Any);
        let clusters = with_parts(to.into_iter().filter_map(To::cluster), found);
        let endpoints = clusters.iter().flat_map(|name| endpoints(name, found)).collect();
        let routes = managers.iter().filter_map(|manager| manager::routes_by_name(manager)).collect();
        Judged { any, clusters, endpoints, routes }
    }

    /// Whether a connection manager's requests come to where judged ones go.
    fn is_where(&self, manager: &Item<'a>, found: &Found<'a>) -> bool {
        let named = manager::routes_by_name(manager).is_some_and(|name| self.routes.contains(name));
        named || found.ways(manager).iter().any(|way| self.has(way.to, found))
    }

    fn has(&self, to: To<'a>, found: &Found<'a>) -> bool {
        match to {
            To::Any => self.any || !self.clusters.is_empty(),
            To::Cluster(name) => {
                let names = with_parts([name], found);
                let mut all = names.iter().flat_map(|name| endpoints(name, found));
                self.any && !found.is_ours(name)
                    || !names.is_disjoint(&self.clusters)
                    || all.any(|one| self.endpoints.contains(&one))
            }
        }
    }
}

/// Clusters, and those that they put together, and so on.
fn with_parts<'a>(clusters: impl IntoIterator<Item = &'a str>, found: &Found<'a>) -> BTreeSet<&'a str> {
    let mut all = BTreeSet::new();
    let mut rest: Vec<&str> = clusters.into_iter().collect();
    while let Some(cluster) = rest.pop() {
        if all.insert(cluster) {
            let own = found.clusters_of(cluster).iter();
            let lists = own.filter_map(|item| item.at(&["cluster_type", "typed_config", "clusters"]));
            rest.extend(lists.flat_map(|list| list.items()).filter_map(|name| name.as_text()));
        }
    }
    all
}

/// Where a cluster leads: addresses, and the name that they are discovered by.
fn endpoints<'a>(cluster: &str, found: &Found<'a>) -> Vec<Endpoint<'a>> {
    let own = found.clusters_of(cluster);
    let is_address = |item: &Item<'a>| item.get("address").is_some() || item.get("path").is_some();
    let lists = own.iter().filter_map(|item| item.get("load_assignment"));
    let addresses = lists.flat_map(|list| list.find(&is_address));
    let endpoint = |item: Item<'a>| (item.text("address"), item.number("port_value"), item.text("path"));
    let addresses = addresses.map(endpoint).filter(|endpoint| *endpoint != (None, None, None));
    let names = own.iter().filter_map(|item| item.get("eds_cluster_config")?.text("service_name"));
    let discovered = names.map(|name| (None, None, Some(name)));
    addresses.chain(discovered).collect()
}
