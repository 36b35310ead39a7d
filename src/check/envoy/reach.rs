//! Who reaches the models past tiergate: another listener, an upgrade, a proxy of connections.

use std::collections::{BTreeSet, HashSet};

use super::chain::Chain;
use super::read::{Address, ConfigValue};
use super::role::FilterRole;
use super::route::{To, Way};
use super::{EnvoyFile, manager, route};
use crate::problem::Finding;

/// Where the requests that tiergate judges go.
#[derive(Debug)]
struct Judged<'a> {
    /// Whether some go where the request says, or a plugin: to any cluster but tiergate's.
    any: bool,
    clusters: BTreeSet<&'a str>,
    /// The endpoints of these clusters, which others may have too.
    endpoints: BTreeSet<SocketAddress<'a>>,
    /// The names of routes that are told while Envoy runs.
    routes: BTreeSet<&'a str>,
}

/// An address and port, or a path.
type SocketAddress<'a> = (Option<&'a str>, Option<i64>, Option<&'a str>);

pub(super) fn check(file: &EnvoyFile<'_>) {
    if file.authz.is_empty() {
        return nobody_asks(file);
    }
    let (judged, others): (Vec<_>, Vec<_>) = file.managers.iter().partition(|manager| file.is_asked_by(manager));
    let reached = Judged::of(&judged, file);
    for filters in
        others.iter().filter(|other| reached.is_where(other, file)).filter_map(|other| other.get("http_filters"))
    {
        let message = "leads past tiergate to what it judges elsewhere in this file: no ext_authz filter asks it here";
        filters.error(
            Finding::EnvoyCheckMissing,
            message,
            "add the ext_authz filter of envoy/tiergate.yaml, first in the list",
        );
    }
    let is_reached = |name: &ConfigValue<'_>| name.as_text().is_some_and(|name| reached.has(To::Cluster(name), file));
    for at in file.others.iter().flat_map(targets).filter(is_reached) {
        let message = "leads past tiergate to what it judges elsewhere in this file: here nobody looks at requests";
        let remedy = "remove it, or make it an HTTP connection manager that asks tiergate";
        at.error(Finding::EnvoyCheckMissing, message, remedy);
    }
    judged.iter().for_each(|manager| upgrades(manager, file));
}

/// The clusters that a network filter names.
fn targets<'a>(filter: &ConfigValue<'a>) -> Vec<ConfigValue<'a>> {
    let parts = filter.find(&|item| item.get("weighted_clusters").is_some()).into_iter();
    let parts = parts.filter_map(|item| item.at(&["weighted_clusters", "clusters"])).flat_map(|list| list.items());
    let names = parts.filter_map(|part| part.get("name"));
    let single = filter.find(&|item| item.get("cluster").is_some()).into_iter().filter_map(|item| item.get("cluster"));
    single.chain(names).collect()
}

/// No filter at all asks tiergate.
fn nobody_asks(file: &EnvoyFile<'_>) {
    let message = "no ext_authz filter asks tiergate, so nothing is refused here";
    let remedy = "add the filter of envoy/tiergate.yaml, whose `envoy_grpc.cluster_name` leads to tiergate";
    let forwards = |manager: &&ConfigValue<'_>| !file.ways(manager).is_empty() || manager.get("route_config").is_none();
    let lists = file.managers.iter().filter(forwards).filter_map(|manager| manager.get("http_filters"));
    let mut places: Vec<_> = lists.collect();
    if places.is_empty() {
        places.extend(file.documents.first().cloned());
    }
    for at in places {
        at.error(Finding::EnvoyCheckMissing, message, remedy);
    }
    // The filter may be in another file.
    let mut told: HashSet<Address> = HashSet::new();
    let unchecked = file.loose.iter().flat_map(route::ways).flat_map(|way| way.unchecked());
    for at in unchecked.filter(|at| told.insert(at.address())) {
        at.error(Finding::EnvoyFailOpen, "turns the Check off: these requests pass unjudged", "remove `disabled`");
    }
}

/// An upgrade with filters of its own has none of the connection manager's.
fn upgrades(manager: &ConfigValue<'_>, file: &EnvoyFile<'_>) {
    let main = manager.get("http_filters").map(|list| Chain::of(&list).roles(file)).unwrap_or_default();
    for upgrade in manager::upgrades(manager) {
        let Some(filters) = upgrade.get("filters").filter(|list| !list.items().is_empty()) else { continue };
        let is_allowed =
            |way: &Way<'_>| way.action.as_ref().is_some_and(|action| action.get("upgrade_configs").is_some());
        let is_off = upgrade.get("enabled").is_some_and(|enabled| enabled.as_bool() == Some(false));
        if is_off && !file.ways(manager).iter().any(is_allowed) {
            continue;
        }
        let own = Chain::of(&filters).roles(file);
        let is_left_out = |role| main.contains(&role) && !own.contains(&role);
        let message = match (is_left_out(FilterRole::Check), is_left_out(FilterRole::Limits)) {
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
    fn of(managers: &[&ConfigValue<'a>], file: &EnvoyFile<'a>) -> Self {
        let ways = managers.iter().flat_map(|manager| file.ways(manager));
        // What is no route yet leads nowhere.
        let to: Vec<To<'a>> = ways.filter(|way| way.action.is_some()).map(|way| way.to).collect();
        let any = to.contains(&To::Any);
        let clusters = with_parts(to.into_iter().filter_map(To::cluster), file);
        let endpoints = clusters.iter().flat_map(|name| endpoints(name, file)).collect();
        let routes = managers.iter().filter_map(|manager| manager::routes_by_name(manager)).collect();
        Judged { any, clusters, endpoints, routes }
    }

    /// Whether a connection manager's requests come to where judged ones go.
    fn is_where(&self, manager: &ConfigValue<'a>, file: &EnvoyFile<'a>) -> bool {
        let named = manager::routes_by_name(manager).is_some_and(|name| self.routes.contains(name));
        named || file.ways(manager).iter().any(|way| self.has(way.to, file))
    }

    fn has(&self, to: To<'a>, file: &EnvoyFile<'a>) -> bool {
        match to {
            To::Any => self.any || !self.clusters.is_empty(),
            To::Cluster(name) => {
                let names = with_parts([name], file);
                let mut all = names.iter().flat_map(|name| endpoints(name, file));
                self.any && !file.is_ours(name)
                    || !names.is_disjoint(&self.clusters)
                    || all.any(|one| self.endpoints.contains(&one))
            }
        }
    }
}

/// Clusters, and those that they put together, and so on.
fn with_parts<'a>(clusters: impl IntoIterator<Item = &'a str>, file: &EnvoyFile<'a>) -> BTreeSet<&'a str> {
    let mut all = BTreeSet::new();
    let mut rest: Vec<&str> = clusters.into_iter().collect();
    while let Some(cluster) = rest.pop() {
        if all.insert(cluster) {
            let own = file.clusters_of(cluster).iter();
            let lists = own.filter_map(|item| item.at(&["cluster_type", "typed_config", "clusters"]));
            rest.extend(lists.flat_map(|list| list.items()).filter_map(|name| name.as_text()));
        }
    }
    all
}

/// Where a cluster leads: addresses, and the name that they are discovered by.
fn endpoints<'a>(cluster: &str, file: &EnvoyFile<'a>) -> Vec<SocketAddress<'a>> {
    let own = file.clusters_of(cluster);
    let is_address = |item: &ConfigValue<'a>| item.get("address").is_some() || item.get("path").is_some();
    let lists = own.iter().filter_map(|item| item.get("load_assignment"));
    let addresses = lists.flat_map(|list| list.find(&is_address));
    let endpoint = |item: ConfigValue<'a>| (item.text("address"), item.number("port_value"), item.text("path"));
    let addresses = addresses.map(endpoint).filter(|endpoint| *endpoint != (None, None, None));
    let names = own.iter().filter_map(|item| item.get("eds_cluster_config")?.text("service_name"));
    let discovered = names.map(|name| (None, None, Some(name)));
    addresses.chain(discovered).collect()
}
