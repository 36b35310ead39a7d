//! A million users, and floods of junk beside good traffic: memory and latency.
