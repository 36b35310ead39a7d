//! The log of refusals: a line for the first few of each code and caller in a window, and one that counts the rest.
//!
//! A caller, or a thousand of them, can be refused some thousand times a second, at half a kilobyte a line. What is told adds
//! up to what was refused: in lines of their own, and in the counts of the others.

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::denial::{Code, Denial};
use crate::gate::{Decision, Evidence, RequestLine, Shadowed, start};
use crate::printable::masked;
use crate::process;
use crate::request::{HeaderLookup, Request};
use crate::respond;

/// The log of what was not let through, or would not have been but for something in shadow.
#[derive(Debug)]
pub struct Refusals(Mutex<RefusalWindow>);

/// What there was since the counts were told.
#[derive(Debug)]
struct RefusalWindow {
    began: Instant,
    folds: Vec<Fold>,
    /// Nobody will tell any more counts.
    closed: bool,
}

/// Refusals of one kind.
#[derive(Debug)]
struct Fold {
    kind: RefusalKind,
    /// `None` for all whom there was no room for.
    caller: Option<RefusedCaller<Box<str>>>,
    number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RefusalKind {
    code: Code,
    /// Whether it only would have been refused.
    shadow: bool,
}

/// Whose requests are taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RefusedCaller<T> {
    User(T),
    Address(T),
    Unknown,
}

impl Refusals {
    /// How long refusals are counted before the number is told.
    pub const WINDOW: Duration = Duration::from_secs(10);
    /// How many of each code and caller have lines of their own in that time.
    const FIRST: u64 = 3;
    /// How many codes and callers are told apart in that time. Beyond them codes are, so that there are never more lines in a
    /// window than (64 + twice the number of codes) x (3 + 1).
    const APART: usize = 64;
}

/// Longest name of a caller that is told apart, in bytes.
const CALLER: usize = 256;
/// Longest id of a request that is told, in bytes. A UUID has 36.
const REQUEST_ID: usize = 128;

// === impl Refusals ===

impl Default for Refusals {
    fn default() -> Self {
        Refusals(Mutex::new(RefusalWindow { began: Instant::now(), folds: Vec::new(), closed: false }))
    }
}

impl Refusals {
    /// Logs `decision`, if it did not let `request` through or would not have; never a token.
    pub fn tell(&self, request: Option<&Request<'_>>, decision: &Decision) {
        let Decision { outcome, evidence } = decision;
        let shadowed = evidence.shadowed.iter().map(|Shadowed { denial, by }| (denial, Some(by.as_deref())));
        for (denial, shadow) in shadowed.chain(outcome.as_ref().err().map(|denial| (denial, None))) {
            // Whom nobody listens to need not count.
            if !tracing::enabled!(target: "tiergate::decision", tracing::Level::INFO) {
                return;
            }
            let kind = RefusalKind { code: denial.code, shadow: shadow.is_some() };
            if self.0.lock().has_line(kind, RefusedCaller::of(request, evidence)) {
                line(request, evidence, denial, shadow);
            }
        }
    }

    /// Tells the counts, over and over.
    pub async fn fold(&self) {
        loop {
            tokio::time::sleep(Self::WINDOW).await;
            self.tell_counts(false);
        }
    }

    /// Tells the counts for the last time: what is refused from now on has lines of its own.
    pub fn close(&self) {
        self.tell_counts(true);
    }

    fn tell_counts(&self, closed: bool) {
        let now = Instant::now();
        let (folds, began) = {
            let mut window = self.0.lock();
            window.closed |= closed;
            (std::mem::take(&mut window.folds), std::mem::replace(&mut window.began, now))
        };
        let seconds = (now - began).as_secs_f64().ceil();
        folds.iter().for_each(|fold| fold.tell(seconds));
    }
}

// === impl RefusalWindow ===

impl RefusalWindow {
    /// Counts a refusal: whether it is one of the first, which have lines of their own.
    fn has_line(&mut self, kind: RefusalKind, caller: RefusedCaller<&str>) -> bool {
        if self.closed {
            return true;
        }
        let same =
            |fold: &&mut Fold| fold.kind == kind && fold.caller.as_ref().map(RefusedCaller::as_deref) == Some(caller);
        if let Some(fold) = self.folds.iter_mut().find(same) {
            return fold.count();
        }
        let apart = self.folds.iter().filter(|fold| fold.caller.is_some()).count();
        let caller = (apart < Refusals::APART).then(|| caller.to_owned());
        let others = |fold: &&mut Fold| fold.kind == kind && fold.caller.is_none();
        if caller.is_none()
            && let Some(fold) = self.folds.iter_mut().find(others)
        {
            return fold.count();
        }
        self.folds.push(Fold { kind, caller, number: 1 });
        true
    }
}

// === impl Fold ===

impl Fold {
    fn count(&mut self) -> bool {
        self.number += 1;
        self.number <= Refusals::FIRST
    }

    /// Tells how many had no line of their own.
    fn tell(&self, seconds: f64) {
        let more = self.number.saturating_sub(Refusals::FIRST);
        if more == 0 {
            return;
        }
        let (user, address) = match &self.caller {
            Some(RefusedCaller::User(name)) => (Some(&**name), None),
            Some(RefusedCaller::Address(address)) => (None, Some(&**address)),
            Some(RefusedCaller::Unknown) | None => (None, None),
        };
        let would = if self.kind.shadow { " would have been refused" } else { "" };
        let others = if self.caller.is_none() { ", of other callers" } else { "" };
        tracing::info!(
            target: "tiergate::decision",
            code = self.kind.code.as_str(),
            more,
            seconds,
            user.name = user,
            client.address = address,
            "and {} more like it{would} in {seconds} s{others}",
            in_thousands(more)
        );
    }
}

// === impl RefusedCaller ===

impl<'a> RefusedCaller<&'a str> {
    /// Who asked, as far as it is known: by name, else by where from.
    fn of(request: Option<&'a Request<'_>>, evidence: &'a Evidence) -> Self {
        let peer = request.and_then(|request| request.peer);
        match (evidence.user.as_deref(), peer) {
            (Some(user), _) => RefusedCaller::User(start(user, CALLER)),
            (None, Some(address)) => RefusedCaller::Address(start(address, CALLER)),
            (None, None) => RefusedCaller::Unknown,
        }
    }

    fn to_owned(self) -> RefusedCaller<Box<str>> {
        match self {
            RefusedCaller::User(name) => RefusedCaller::User(name.into()),
            RefusedCaller::Address(address) => RefusedCaller::Address(address.into()),
            RefusedCaller::Unknown => RefusedCaller::Unknown,
        }
    }
}

impl RefusedCaller<Box<str>> {
    fn as_deref(&self) -> RefusedCaller<&str> {
        match self {
            RefusedCaller::User(name) => RefusedCaller::User(name),
            RefusedCaller::Address(address) => RefusedCaller::Address(address),
            RefusedCaller::Unknown => RefusedCaller::Unknown,
        }
    }
}

/// The line of one refusal; `shadow` is what is in shadow, the process if it has no name.
fn line(request: Option<&Request<'_>>, evidence: &Evidence, denial: &Denial, shadow: Option<Option<&str>>) {
    let request_line = request.map(RequestLine::of);
    let request_line = request_line.as_ref();
    let id = request.and_then(|request| match request.headers.get("x-request-id") {
        HeaderLookup::One(id) => Some(masked(start(id, REQUEST_ID))),
        HeaderLookup::Absent | HeaderLookup::Several | HeaderLookup::Opaque => None,
    });
    let message = if shadow.is_some() { "would have been refused".into() } else { masked(&denial.message) };
    tracing::info!(
        target: "tiergate::decision",
        code = denial.code.as_str(),
        status = respond::status_of(denial),
        decision.id = process::decision_id(evidence.id),
        policy.generation = evidence.generation,
        request.method = request_line.map(|line| &*line.method),
        request.host = request_line.map(|line| &*line.host),
        request.path = request_line.map(|line| &*line.path),
        request.id = id.as_deref(),
        client.address = request.and_then(|request| request.peer).map(|peer| start(peer, CALLER)),
        route = evidence.route.as_deref(),
        user.name = evidence.user.as_deref(),
        tier = evidence.tier.as_deref(),
        tier.gone = evidence.tier_gone.as_deref(),
        model = evidence.permit.model.as_deref().map(masked).as_deref(),
        stale = evidence.stale().then_some(true),
        retry_after = denial.retry_after.map(|wait| wait.as_secs_f64()),
        detail = denial.detail.as_deref().map(masked).as_deref(),
        shadow = shadow.flatten(),
        "{message}"
    );
}

/// `1,234`
fn in_thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
