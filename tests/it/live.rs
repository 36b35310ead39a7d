//! Edits under load: what changes, when, and that nothing else does.
