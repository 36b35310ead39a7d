//! What an Envoy configuration undoes: a gate that opens when nobody answers, a path that changes after it was judged, an
//! answer that comes too late.
//!
//! Reads a bootstrap or anything that holds listeners, filters or clusters, such as the `value` of an Istio EnvoyFilter. It
//! is no validator: Envoy says itself what it does not accept (`envoy --mode validate`).

mod cluster;
mod filter;
mod manager;
mod read;

use std::sync::Arc;

use self::filter::{Authz, RateLimit};
use self::read::{Item, type_of};
use crate::manifest::reader::{Field, Report};
use crate::manifest::tree::{self, Node};
use crate::manifest::{Finding, Problem, Severity};

/// What is known beside the file.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beside {
    /// Whether there are token limits, whose usage has to be reported.
    pub token_limits: bool,
}

/// What a file has that matters here.
#[derive(Debug, Default)]
struct Found<'a> {
    managers: Vec<Item<'a>>,
    authz: Vec<Authz<'a>>,
    rate_limits: Vec<RateLimit<'a>>,
    clusters: Vec<Item<'a>>,
}

/// What is wrong with an Envoy configuration.
#[must_use]
pub fn problems(file: &str, text: &str, beside: Beside) -> Vec<Problem> {
    let report = Report::new(&Arc::from(file));
    match tree::parse(text) {
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
    let mut found = Found::default();
    for document in documents {
        found.collect(&Item(Field::root(document, report)));
    }
    found.keep_ours();
    if found.authz.is_empty()
        && let Some(document) = documents.first()
    {
        let message = "no ext_authz filter asks tiergate, so nothing is refused here";
        let remedy = "add the filter of envoy/tiergate.yaml, whose `envoy_grpc.cluster_name` leads to tiergate";
        Item(Field::root(document, report)).warn(Finding::EnvoyCheckMissing, message, remedy);
    }
    found.authz.iter().for_each(Authz::check);
    found.rate_limits.iter().for_each(RateLimit::check);
    found.managers.iter().for_each(|manager| manager::check(manager, &found, beside));
    found.clusters.iter().for_each(cluster::check);
}

// === impl Found ===

impl<'a> Found<'a> {
    fn collect(&mut self, item: &Item<'a>) {
        match type_of(item) {
            Some(name) if name.ends_with(".HttpConnectionManager") => self.managers.push(item.clone()),
            Some(name) if name.ends_with(".ext_authz.v3.ExtAuthz") => self.authz.extend(Authz::of(item)),
            Some(name) if name.ends_with(".ratelimit.v3.RateLimit") => self.rate_limits.push(RateLimit::of(item)),
            Some(name) if name.ends_with(".cluster.v3.Cluster") => self.clusters.push(item.clone()),
            None if item.get("load_assignment").is_some() => self.clusters.push(item.clone()),
            None if item.get("name").is_some() && item.get("connect_timeout").is_some() => {
                self.clusters.push(item.clone());
            }
            _ => {}
        }
        item.children().iter().for_each(|child| self.collect(child));
    }

    /// Leaves what leads to tiergate: by the name of the cluster, or if none has it, every ext_authz filter that speaks gRPC.
    fn keep_ours(&mut self) {
        let named = |cluster: &str| cluster.contains("tiergate");
        if self.authz.iter().any(|authz| named(&authz.cluster)) {
            self.authz.retain(|authz| named(&authz.cluster));
        }
        let ours: Vec<String> = self.authz.iter().map(|authz| authz.cluster.clone()).collect();
        let is_ours = |cluster: &String| named(cluster) || ours.contains(cluster);
        self.rate_limits.retain(|limit| is_ours(&limit.cluster) || named(&limit.domain));
        self.clusters.retain(|cluster| cluster.text("name").is_some_and(|name| ours.iter().any(|own| own == name)));
        let has_ours =
            |manager: &Item<'a>| manager::filters(manager).iter().any(|filter| self.authz.iter().any(|a| a.is(filter)));
        let managers = std::mem::take(&mut self.managers);
        self.managers = managers.into_iter().filter(has_ours).collect();
    }
}
