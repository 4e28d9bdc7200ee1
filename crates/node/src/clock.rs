//! Reading the two clocks, and the tasks' only way to know the time.

use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};

use crate::pod::clock::{Now, Steady};

/// Both clocks as they are. The steady one counts the time that the machine was suspended too.
pub(crate) fn now() -> Now {
    let since_boot = clock_gettime(ClockId::Boottime);
    // Nanoseconds of a second fit.
    let nanoseconds = i32::try_from(since_boot.tv_nsec).unwrap_or_default();
    Now { time: Timestamp::now(), steady: Steady::new(SignedDuration::new(since_boot.tv_sec, nanoseconds)) }
}
