//! The wall clock, set forth and back while tiergate serves.
