//! Restarts under load, behind a real Envoy with a second instance.
