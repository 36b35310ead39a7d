//! What callers are shown of their limits: `GET /v1/limits`, which is answered here, and not by a model.
//!
//! Who asks is found out as for any request. The limits are those that a chat call at the same place would meet; they are looked at, and
//! nothing is taken from them.

use std::sync::Arc;
use std::time::Duration;

use super::admit::undecided;
use super::present::Presented;
use super::{Deciding, Grant};
use crate::denial::{Code, Denial};
use crate::expression::Scope;
use crate::limit::{AccountKey, Cost, Demand, Quota, Standing, Undecided};
use crate::policy::{self, Attached, Limit, RoutePlan};
use crate::request::{OperatorModel, Request, Unset, check_canonical, is_dns1123_label, is_dns1123_subdomain};
use crate::rules::LimitKind;

/// Where callers are told their limits: at this path, and at a model's prefix with this path behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitsPath(Option<Arc<str>>);

/// The limits of one caller, as they stand.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// One for each rate, in the order of the policies; at most [`Shown::MOST`].
    pub rates: Vec<ShownRate>,
    /// Whether there are more.
    pub truncated: bool,
}

/// One rate of a limit that a call of the caller would meet.
#[derive(Clone, Debug)]
pub struct ShownRate {
    /// `namespace/policy/limit`
    pub limit: Arc<str>,
    pub kind: LimitKind,
    pub quota: Quota,
    /// Where it stands, and what it would say to one more hit; or why that is not known.
    pub standing: Result<Standing, Denial>,
}

/// What a call at the place that was asked about would meet.
struct Place<'p, 'r> {
    route: &'p RoutePlan,
    /// As predicates and counters see it.
    request: &'r Request<'r>,
    /// Whether it is the route of calls, and not one of the question alone.
    is_of_calls: bool,
}

/// A rate, and what is asked of it; or why that cannot be asked.
struct Asked<'p> {
    limit: &'p Limit,
    quota: Quota,
    demand: Result<Demand, Denial>,
}

/// The call that every model answers: a limit that looks at the path is to say what holds for calls.
const CALL: &str = "/v1/chat/completions";

// === impl LimitsPath ===

impl LimitsPath {
    /// `text`, or nowhere where that is `off`. `None` for what is no path of one reading, or ends in a slash.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        if text == "off" {
            return Some(LimitsPath(None));
        }
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'?') && !text.ends_with('/');
        (is_plain && check_canonical(text).is_ok()).then(|| LimitsPath(Some(text.into())))
    }

    /// What stands before it in the path of `request`, if that asks for limits: nothing, or the prefix of a model.
    #[inline]
    pub(super) fn asked_for<'r>(&self, request: &Request<'r>) -> Option<&'r str> {
        if !matches!(request.method, "GET" | "HEAD") {
            return None;
        }
        let prefix = request.path.strip_suffix(self.0.as_deref()?)?;
        (prefix.is_empty() || is_of_model(prefix)).then_some(prefix)
    }
}

impl Default for LimitsPath {
    fn default() -> Self {
        LimitsPath(Some("/v1/limits".into()))
    }
}

/// Whether it is `/<namespace>/<model>`.
fn is_of_model(prefix: &str) -> bool {
    let names = prefix.strip_prefix('/').and_then(|names| names.split_once('/'));
    names.is_some_and(|(namespace, model)| is_dns1123_label(namespace) && is_dns1123_subdomain(model))
}

// === impl Shown ===

impl Shown {
    /// How many rates are shown: so much of an answer is bounded, whatever policies say.
    pub const MOST: usize = 1_000;
}

// === impl Deciding ===

impl Deciding<'_> {
    /// Shows the caller the limits of calls below `prefix`. At the root no model is named: a rule that asks about a
    /// model of the path is passed over, and all others count.
    pub(super) async fn show(&mut self, prefix: &str, request: &Request<'_>) -> Result<Grant, Denial> {
        let path = [prefix, CALL].concat();
        let call = request.as_call(&path);
        let place = self.place(&call, request)?;
        self.names_no_model = prefix.is_empty() && request.model == OperatorModel::Unset;
        self.evidence.route(place.route);
        let presented = self.admit_by(place.route, place.request).await?;
        let (asked, truncated) = self.asked(&place, &presented)?;
        let demands: Vec<Demand> = asked.iter().filter_map(|rate| rate.demand.as_ref().ok()).copied().collect();
        let standings = self.gate.limits.look(&demands, self.now).await;
        let mut standings = standings.ok_or_else(|| undecided(Undecided::NoAnswer))?.into_iter();
        let usual = self.usual_call_time();
        let rates = asked.into_iter().map(|rate| rate.standing_at(&mut standings, usual)).collect();
        Ok(Grant { shown: Some(Box::new(Shown { rates, truncated })), ..Grant::default() })
    }
}

impl<'a> Deciding<'a> {
    /// The place of `call`; where no route has that, of the `request` itself; at the root, what the Gateway says of its own.
    fn place<'r>(&self, call: &'r Request<'r>, request: &'r Request<'r>) -> Result<Place<'a, 'r>, Denial> {
        let configured = self.gate.settings.gateway.as_deref();
        for (request, is_of_calls) in [(call, true), (request, false)] {
            match self.policy.route(configured, request) {
                Err(denial) if denial.code == Code::RouteUnknown => {}
                found => return Ok(Place { route: found?, request, is_of_calls }),
            }
        }
        if call.path != CALL {
            return Err(Denial::new(Code::RouteUnknown, "no route matches this request"));
        }
        let own = self.policy.gateway(request.gateway.or(configured))?.own(call);
        own.map(|route| Place { route, request: call, is_of_calls: false }).ok_or_else(nowhere)
    }

    /// The rates of the limits at `place`, in their order; and whether there are more.
    fn asked<'p>(&self, place: &Place<'p, '_>, presented: &Presented) -> Result<(Vec<Asked<'p>>, bool), Denial> {
        let request = place.request.attributes(Unset::Empty);
        let scope = Scope { request, identity: presented.identity(), metadata: &[], filters: &presented.filters };
        let mut asked = Vec::new();
        for limits in &place.route.limits {
            let limits = match limits {
                Attached::Active(limits) => limits,
                Attached::Broken(name) => return Err(policy::broken(name)),
                Attached::None => continue,
            };
            for (limit, account) in limits.every_matching(&scope, &self.gate.keys) {
                let account = if place.counts(limit) { account } else { Err(counts_elsewhere()) };
                asked.extend(place.rates(limit, &account).take(Shown::MOST + 1 - asked.len()));
                if asked.len() > Shown::MOST {
                    asked.truncate(Shown::MOST);
                    return Ok((asked, true));
                }
            }
        }
        Ok((asked, false))
    }
}

// === impl Place ===

impl<'p> Place<'p, '_> {
    /// Whether what `limit` counts here is what calls use.
    fn counts(&self, limit: &Limit) -> bool {
        self.is_of_calls || !limit.per_route
    }

    fn rates(&self, limit: &'p Limit, account: &Result<AccountKey, Denial>) -> impl Iterator<Item = Asked<'p>> {
        limit.cells(self.route.hash).map(move |(cell, quota)| {
            let of = |account: &AccountKey| Demand { account: *account, cell, quota, cost: Cost::Take(1) };
            Asked { limit, quota, demand: account.as_ref().map(of).map_err(Denial::clone) }
        })
    }
}

// === impl Asked ===

impl Asked<'_> {
    /// The rate as it stands, which is the next of the `standings` where it could be asked. Of calls that run, which usually take so
    /// long, it is guessed when one is over.
    fn standing_at(self, standings: &mut impl Iterator<Item = Standing>, usual: Option<Duration>) -> ShownRate {
        let Asked { limit, quota, demand } = self;
        let standing = demand.and_then(|_| standings.next().ok_or_else(|| undecided(Undecided::NoAnswer)));
        let standing = standing.map(|standing| if quota.counts_calls() { standing.guessing(usual) } else { standing });
        ShownRate { limit: Arc::clone(&limit.name), kind: limit.kind, quota, standing }
    }
}

/// Why what a limit counts cannot be said where no model is named.
fn counts_elsewhere() -> Denial {
    Denial::new(Code::RouteUnknown, "it counts for each route by itself: ask below a model's prefix")
}

/// The answer where nothing says which limits are meant.
fn nowhere() -> Denial {
    let message = "no route says which limits are meant: ask below a model's prefix, /<namespace>/<model>";
    let detail = "add an HTTPRoute that has the path, or attach an AuthPolicy to the Gateway; see --limits-path";
    Denial::new(Code::RouteUnknown, message).detail(detail)
}
