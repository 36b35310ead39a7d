//! What every fuzz target checks: plain functions that cargo-fuzz (`fuzz_targets/`) and the tests on stable Rust
//! (`tests/fuzz.rs`) both call.
//!
//! Each takes any bytes, panics where an invariant does not hold, and otherwise says how far the input got, so that the
//! tests can tell a corpus that reaches everything from one that reaches nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a target that panics has found something, which is what it is for"
)]

mod cel;
mod check_request;
mod jwt;
mod manifests;
mod path;
mod rate_limit_request;
mod world;

pub use self::cel::cel;
pub use self::check_request::check_request;
pub use self::jwt::jwt;
pub use self::manifests::manifests;
pub use self::path::path;
pub use self::rate_limit_request::rate_limit_request;
