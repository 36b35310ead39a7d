//! Decides, for an Envoy or Istio gateway, who may call which model and how much.
//!
//! A request takes this path; the modules stand in its order:
//!
//! ```text
//! listen ─ request ─ gate ─┬ policy   which route, which rules
//!                          ├ identity who calls
//!                          ├ tier     which tier
//!                          ├ access   may they call this model
//!                          └ limit    how much
//!          respond ────────┘
//! listen ─ usage ─ limit              what the answer cost, charged afterwards
//! gate ─ explain                      why, from what the decision rests on
//! ```
//!
//! On a cluster `identity` and `access` ask its API server, through `apiserver`. The configuration takes this path: `source` → `manifest` → `policy`.

#![cfg_attr(test, allow(clippy::too_many_lines, reason = "a table of cases may be long"))]

pub mod backoff;
pub mod clock;
pub mod hash;
pub mod printable;
pub mod process;
pub mod spelling;

pub mod denial;
pub mod request;

pub mod expression;

pub mod problem;

pub mod limit;

pub mod document;
pub mod manifest;

pub mod access;
pub mod apiserver;
pub mod identity;
pub mod tier;
pub mod usage;

pub mod policy;

pub mod gate;

pub mod respond;

pub mod metrics;

pub mod args;
pub mod settings;
pub mod telemetry;

pub mod check;
pub mod explain;
pub mod token;

pub mod app;
pub mod listen;
pub mod source;

#[cfg(test)]
mod test_util;
