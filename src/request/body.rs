//! The body of a request, where the gateway sends it along.

/// All of a request's body, as it was sent. Its `Debug` form hides it: it is what somebody asks a model.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Body<'a>(&'a [u8]);

// === impl Body ===

impl<'a> Body<'a> {
    /// `bytes` are all of it: what is cut off says another thing.
    #[must_use]
    pub fn whole(bytes: &'a [u8]) -> Self {
        Body(bytes)
    }

    /// For reading it: never for logs, metrics or answers.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }
}

impl std::fmt::Debug for Body<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Body({} bytes)", self.0.len())
    }
}
