//! What an Envoy configuration undoes: a gate that opens for some requests or when nobody answers, a path that changes after it was
//! judged, an answer that comes too late, a report that says nothing.
//!
//! Reads a bootstrap or anything that holds listeners, routes, filters or clusters, such as the `value` of an Istio EnvoyFilter.
//! It is no validator: Envoy says itself what it does not accept (`envoy --mode validate`).

mod access_log;
mod chain;
mod cluster;
mod context;
mod descriptor;
mod entry;
mod facts;
mod filter;
mod manager;
mod matcher;
mod off;
mod reach;
mod read;
mod report;
mod role;
mod route;
mod runtime;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use self::chain::Chain;
use self::entry::{Filter, is_filter};
use self::facts::FilterFacts;
use self::filter::{AuthzFilter, RateLimitFilter};
use self::read::{Address, ConfigValue, type_of};
use self::role::FilterRole;
use self::route::Way;
use self::runtime::Runtime;
use crate::document;
use crate::document::{Node, Report};
use crate::problem::{Finding, Position, Problem, Severity};

/// What is known beside the file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beside {
    /// Whether there are token limits, whose usage has to be reported.
    pub token_limits: bool,
}

/// What a file has that matters here.
#[derive(Debug, Default)]
struct EnvoyFile<'a> {
    documents: Vec<ConfigValue<'a>>,
    managers: Vec<ConfigValue<'a>>,
    authz: Vec<AuthzFilter<'a>>,
    rate_limits: Vec<RateLimitFilter<'a>>,
    /// By their names.
    clusters: BTreeMap<&'a str, Vec<ConfigValue<'a>>>,
    /// Network filters of other kinds.
    others: Vec<ConfigValue<'a>>,
    /// Filters that stand in no connection manager.
    alone: Vec<ConfigValue<'a>>,
    /// Routes, and parts of routes, that stand in no connection manager.
    loose: Vec<ConfigValue<'a>>,
    loose_by_name: HashMap<&'a str, Vec<ConfigValue<'a>>>,
    facts: FilterFacts<'a>,
    runtime: Runtime<'a>,
    /// What is asked of tiergate by each value that is a filter which asks, or holds one.
    roles: HashMap<Address, FilterRole>,
}

/// What is wrong with an Envoy configuration.
#[must_use]
pub fn problems(file: &str, text: &str, beside: Beside) -> Vec<Problem> {
    let report = Report::new(&Arc::from(file));
    match document::parse(text) {
        // As what a failed command leaves behind.
        Ok(documents) if documents.is_empty() => {
            let start = Position { line: 1, column: 1 };
            let problem =
                report.problem(Severity::Error, start, "", "holds no Envoy configuration, so nothing is checked");
            let remedy = "name the file that Envoy runs with, or one part of it";
            report.add(problem.code(Finding::EnvoyCheckMissing).remedy(remedy));
        }
        Ok(documents) => check(&documents, &report, beside),
        Err(fault) => {
            let message = format!("is not YAML: {}", fault.message);
            let problem = report.problem(Severity::Error, fault.at, "", message).code(Finding::YamlSyntax);
            report.add(problem.remedy("mend the syntax"));
        }
    }
    let mut problems = report.into_problems();
    problems.sort_by(|a, b| (&a.place, &a.field).cmp(&(&b.place, &b.field)));
    problems
}

fn check(documents: &[Node], report: &Report, beside: Beside) {
    let file = EnvoyFile::of(documents.iter().map(|document| ConfigValue::root(document, report)).collect());
    reach::check(&file);
    file.authz.iter().for_each(|authz| authz.check(&file));
    file.rate_limits.iter().for_each(|limit| limit.check(&file, beside));
    let mut asked: BTreeSet<String> = file.authz.iter().map(|authz| authz.cluster.clone()).collect();
    for manager in file.managers.iter().filter(|manager| file.is_asked_by(manager)) {
        manager::check(manager, &file, beside);
        for log in access_log::logs(manager, &file) {
            log.check(&file, beside);
            asked.insert(log.cluster);
        }
    }
    let chains = file.chains();
    chains.iter().for_each(|(chain, ways)| chain.check(ways, &file, beside));
    let filters: Vec<&Filter<'_>> = chains.iter().flat_map(|(chain, _)| &chain.filters).collect();
    report::check(&file, &filters, beside);
    if file.is_reported() {
        report::ingestion(&file);
    }
    report::mixed(&file, &filters);
    context::check(&file, &filters);
    asked.iter().flat_map(|name| file.clusters_of(name)).for_each(cluster::check);
}

// === impl EnvoyFile ===

impl<'a> EnvoyFile<'a> {
    fn of(documents: Vec<ConfigValue<'a>>) -> Self {
        let mut file = EnvoyFile { runtime: Runtime::of(&documents), ..EnvoyFile::default() };
        documents.iter().for_each(|document| file.collect(document, false));
        for routes in &file.loose {
            if let Some(name) = routes.text("name") {
                file.loose_by_name.entry(name).or_default().push(routes.clone());
            }
        }
        file.documents = documents;
        file.keep_ours();
        file
    }

    /// `owned` is what stands in a connection manager, or in routes that were found.
    fn collect(&mut self, item: &ConfigValue<'a>, owned: bool) {
        let mut owns = false;
        self.facts.note(item);
        match type_of(item) {
            Some(name) if name.ends_with(".HttpConnectionManager") => {
                self.managers.push(item.clone());
                owns = true;
            }
            Some(name) if name.ends_with(".filters.http.ext_authz.v3.ExtAuthz") => {
                self.authz.extend(AuthzFilter::of(item));
            }
            Some(name) if name.ends_with(".filters.http.ratelimit.v3.RateLimit") => {
                self.rate_limits.push(RateLimitFilter::of(item));
            }
            Some(name) if name.ends_with(".cluster.v3.Cluster") => self.add_cluster(item),
            Some(name) if name.contains(".filters.network.") || name.contains(".filters.udp.") => {
                self.others.push(item.clone());
            }
            None if item.get("load_assignment").is_some() => self.add_cluster(item),
            None if item.get("connect_timeout").is_some() => self.add_cluster(item),
            _ => {}
        }
        if !owned && !owns && route::is_part(item) {
            self.loose.push(item.clone());
            owns = true;
        }
        if !owned && is_filter(item) {
            self.alone.push(item.clone());
        }
        item.children().iter().for_each(|child| self.collect(child, owned || owns));
    }

    fn add_cluster(&mut self, item: &ConfigValue<'a>) {
        if let Some(name) = item.text("name") {
            self.clusters.entry(name).or_default().push(item.clone());
        }
    }

    fn clusters_of(&self, name: &str) -> &[ConfigValue<'a>] {
        self.clusters.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// Leaves what leads to tiergate: by the name of the cluster, or if no filter's and no log's has it, every ext_authz filter that
    /// speaks gRPC.
    fn keep_ours(&mut self) {
        let authz = self.authz.iter().map(|authz| &authz.cluster);
        let mut asked = authz.chain(self.rate_limits.iter().map(|limit| &limit.cluster));
        let is_logged = || self.managers.iter().any(|manager| access_log::leads_to(manager, is_named));
        if asked.any(|name| is_named(name)) || is_logged() {
            self.authz.retain(|authz| is_named(&authz.cluster));
        }
        let asked: BTreeSet<&String> = self.authz.iter().map(|authz| &authz.cluster).collect();
        let is_ours = |cluster: &String| is_named(cluster) || asked.contains(cluster);
        self.rate_limits.retain(|limit| is_ours(&limit.cluster) || is_named(&limit.domain));
        let limits = self.rate_limits.iter().map(|limit| (limit.item.address(), limit.role()));
        let own = self.authz.iter().map(|authz| (authz.item.address(), FilterRole::Check)).chain(limits).collect();
        for document in &self.documents {
            note_roles(document, &own, &mut self.roles);
        }
        let alone = std::mem::take(&mut self.alone);
        self.alone = alone.into_iter().filter(|entry| self.role(entry).is_some()).collect();
    }

    /// Whether a cluster of this name is tiergate.
    fn is_ours(&self, cluster: &str) -> bool {
        is_named(cluster) || self.authz.iter().any(|authz| authz.cluster == cluster)
    }

    /// What a filter asks tiergate, if it does.
    fn role(&self, entry: &ConfigValue<'a>) -> Option<FilterRole> {
        self.roles.get(&entry.address()).copied()
    }

    /// Whether tiergate judges the requests of a connection manager.
    fn is_asked_by(&self, manager: &ConfigValue<'a>) -> bool {
        manager.get("http_filters").is_some_and(|list| Chain::of(&list).roles(self).contains(&FilterRole::Check))
    }

    /// Whether usage is reported to tiergate, by a filter or an access log.
    fn is_reported(&self) -> bool {
        let by_filter = self.rate_limits.iter().any(|limit| limit.role() == FilterRole::Report);
        by_filter || self.managers.iter().any(|manager| !access_log::logs(manager, self).is_empty())
    }

    /// Every chain that asks tiergate, and the ways of its requests.
    fn chains(&self) -> Vec<(Chain<'a>, Vec<Way<'a>>)> {
        let alone = self.alone.iter().map(|entry| (Chain::alone(entry), Vec::new()));
        let managed = self.managers.iter().flat_map(|manager| {
            let chains = manager::chains(manager).into_iter();
            chains.map(|chain| (chain, self.ways(manager)))
        });
        let all = managed.chain(alone).filter(|(chain, _)| !chain.roles(self).is_empty());
        let loose: Vec<Way<'a>> = self.loose.iter().flat_map(route::ways).collect();
        all.map(|(chain, mut ways)| {
            let is_for = |way: &&Way<'a>| chain.is_named_by(way) || way.has_descriptors();
            ways.extend(loose.iter().filter(is_for).cloned());
            (chain, ways)
        })
        .collect()
    }

    /// The ways of a connection manager's requests: its own, and those of the routes that it asks for by name.
    fn ways(&self, manager: &ConfigValue<'a>) -> Vec<Way<'a>> {
        let own = [manager.get("route_config"), manager.get("scoped_routes")].into_iter().flatten();
        let wanted = manager.at(&["rds", "route_config_name"]).and_then(|name| name.as_text());
        let named = wanted.and_then(|name| self.loose_by_name.get(name)).into_iter().flatten();
        own.chain(named.cloned()).flat_map(|routes| route::ways(&routes)).collect()
    }
}

/// Notes what each value asks that is one of `own`, or holds one: the Check before the limits, else the first.
fn note_roles(
    item: &ConfigValue<'_>,
    own: &HashMap<Address, FilterRole>,
    roles: &mut HashMap<Address, FilterRole>,
) -> Option<FilterRole> {
    let inside = item.children().iter().filter_map(|child| note_roles(child, own, roles)).collect::<Vec<_>>();
    let all = || own.get(&item.address()).into_iter().chain(&inside);
    let role = all().find(|role| **role == FilterRole::Check).or(all().next()).copied()?;
    roles.insert(item.address(), role);
    Some(role)
}

fn is_named(cluster: &str) -> bool {
    cluster.contains("tiergate")
}
