//! Decides, for an Envoy or Istio gateway, who may call which model and how much.
//!
//! The modules stand in layers: each uses only what is drawn above it, and none beside it (a test holds this).
//!
//! ```text
//! backoff clock family hash printable process record spelling throttle  the ground: time, hashes, texts for people, metric families
//! denial  what may be answered: codes, classes, refusals
//! request  one request as the gate sees it, its attributes, the path rule
//! expression  CEL and selectors: parse, check, evaluate
//! problem  findings, names and places of objects
//! limit  accounts and cells, and what they have left
//! rules  what policies say, as data
//! document  text as trees with places
//! manifest  objects as users write them, read into rules
//! cache  the one way to remember an answer
//! apiserver  calls to the cluster
//! access identity tier usage  the stages: may they, who calls, which tier, what it cost afterwards
//! policy  objects compiled into one snapshot
//! lint  what is wrong between objects that are right each by itself
//! gate  the decision
//! respond source  what the gateway is told; where the policy comes from
//! metrics  what is counted
//! args  the command line
//! settings telemetry  what `serve` is told, resolved; log and metrics as the flags say
//! accounts check explain tally token  the commands beside `serve`; `tally` is `tiergate usage`, `accounts` `tiergate limits`
//! listen  the ports
//! app  everything together
//! ```
//!
//! One request takes this way: `listen` → `request` → `gate` (→ `policy`, `identity`, `tier`, `access`, `limit`) → `respond`; what its
//! answer cost comes back by `listen` → `usage` → `limit`. The configuration takes this: `source` → `document` → `manifest` → `policy`.

#![cfg_attr(test, allow(clippy::too_many_lines, reason = "a table of cases may be long"))]

pub mod backoff;
pub mod clock;
pub mod family;
pub mod hash;
pub mod printable;
pub mod process;
pub mod record;
pub mod spelling;
pub mod throttle;

pub mod denial;
pub mod request;

pub mod expression;

pub mod problem;

pub mod limit;

pub mod rules;

pub mod document;
pub mod manifest;

pub mod cache;

pub mod access;
pub mod apiserver;
pub mod identity;
pub mod tier;
pub mod usage;

pub mod policy;

pub mod lint;

pub mod gate;

pub mod respond;

pub mod metrics;

pub mod args;
pub mod settings;
pub mod telemetry;

pub mod accounts;
pub mod check;
pub mod explain;
pub mod tally;
pub mod token;

pub mod app;
pub mod listen;
pub mod source;

#[cfg(test)]
mod test_util;
