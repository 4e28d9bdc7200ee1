//! The two clocks of the machine.
//!
//! Facts carry the wall clock's time: users read them, and other machines compare them. Waits
//! are kept on a clock that nobody can set: a wall clock that is put back must not make a
//! back-off or a grace period longer, nor one that is put forward end it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// A point on a clock that goes forward only, also while the machine is suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Steady(SignedDuration);

impl Steady {
    /// So long after the clock's own beginning.
    pub const fn new(since_beginning: SignedDuration) -> Self {
        Self(since_beginning)
    }

    /// The point that comes a wait later.
    pub fn plus(self, wait: SignedDuration) -> Self {
        Self(self.0.saturating_add(wait))
    }

    /// The wait from here to `then`; zero when that is past.
    pub fn until(self, then: Steady) -> Duration {
        Duration::try_from(then.0.saturating_sub(self.0)).unwrap_or(Duration::ZERO)
    }

    /// How long after `earlier` this is.
    pub fn since(self, earlier: Steady) -> SignedDuration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Both clocks, read at one instant.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For facts.
    pub time: Timestamp,
    /// For waits.
    pub steady: Steady,
}

impl Now {
    /// The point that comes a wait later.
    pub fn after(self, wait: SignedDuration) -> Steady {
        self.steady.plus(wait)
    }

    /// Where a fact of the past lies on the steady clock; one that seems to come from the
    /// future (the wall clock was put back since) is taken for now.
    pub fn steady_of(self, fact: Timestamp) -> Steady {
        let ago = self.time.duration_since(fact).max(SignedDuration::ZERO);
        self.steady.plus(-ago)
    }

    /// The wait until the wall clock shows `fact`; zero when that is past.
    pub fn until(self, fact: Timestamp) -> Duration {
        Duration::try_from(fact.duration_since(self.time)).unwrap_or(Duration::ZERO)
    }
}
