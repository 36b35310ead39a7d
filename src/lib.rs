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

pub mod app;
pub mod args;
pub mod check;
pub mod explain;
pub mod token;

pub mod listen;
pub mod request;

pub mod gate;

pub mod identity;

pub mod tier;

pub mod access;

pub mod apiserver;

pub mod limit;

pub mod usage;

pub mod respond;

pub mod source;

pub mod manifest;

pub mod policy;

pub mod metrics;

pub mod process;

pub mod printable;

pub mod hash;

#[cfg(test)]
mod test_util;
