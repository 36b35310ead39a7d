//! How long to wait before something that failed is tried again.

use std::time::Duration;

/// A pause between two tries: after each of them twice as long, up to a bound.
///
/// It does not look at what failed; whoever tries says when that is over ([`Backoff::reset`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

// === impl Backoff ===

impl Backoff {
    /// `first` is the pause after the first failure, `longest` what pauses grow to.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Backoff { first, longest, next: first }
    }

    /// The pause that is due now; the one after it is twice as long.
    pub fn pause(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(self.longest);
        now
    }

    /// Waits for as long as is due now. Where that is broken off, the next pause is the same.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next).await;
        self.pause();
    }

    /// Has the pauses after the one that is due now grow to `longest` at most.
    pub fn bound(&mut self, longest: Duration) {
        self.longest = longest;
    }

    /// It worked: the next pause is the first one again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_millis(350);

    fn millis<const N: usize>(backoff: &mut Backoff) -> [u128; N] {
        std::array::from_fn(|_| backoff.pause().as_millis())
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::new(FIRST, LONGEST);
        assert_eq!(millis(&mut backoff), [100, 200, 350, 350]);
        backoff.reset();
        assert_eq!(millis(&mut backoff), [100, 200]);
    }

    #[test]
    fn a_new_bound_holds_from_the_pause_after_the_next() {
        let mut backoff = Backoff::new(FIRST, LONGEST);
        backoff.bound(FIRST * 8);
        assert_eq!(millis(&mut backoff), [100, 200, 400]);
        backoff.bound(LONGEST);
        assert_eq!(millis(&mut backoff), [800, 350]);
    }

    #[tokio::test]
    async fn a_wait_that_is_broken_off_does_not_lengthen_the_next() {
        let mut backoff = Backoff::new(FIRST, LONGEST);
        tokio::time::timeout(FIRST / 2, backoff.wait()).await.unwrap_err();
        assert_eq!(backoff, Backoff::new(FIRST, LONGEST));
        backoff.wait().await;
        assert_eq!(millis(&mut backoff), [200, 350]);
    }
}
