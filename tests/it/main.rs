//! tiergate as a process: on the wire, behind a real Envoy, on the command line.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that panics has failed, which is what it is for"
)]
#![allow(clippy::too_many_lines, reason = "a scenario is told in order")]

mod accounts;
mod attributes;
#[path = "../../benches/support.rs"]
mod bench;
mod bounds;
mod cases;
mod classic;
mod cli;
mod clock;
mod cluster;
mod countable;
mod dialects;
mod envoy;
mod exits;
mod explain;
mod files;
mod folders;
mod h2;
mod hostile;
mod http;
mod kubernetes;
mod layers;
mod ledger;
mod live;
mod metrics;
mod model;
mod reload;
mod restart;
mod routes;
mod running;
mod scale;
mod secrets;
mod settings;
mod shadow;
mod shown;
mod simulation;
mod slips;
mod support;
mod team;
#[path = "../../src/test_util/tier_service.rs"]
#[allow(dead_code, reason = "the unit tests use what these do not")]
mod tier_service;
mod tiers;
mod undone;
mod wire;
