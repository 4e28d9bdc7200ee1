//! Time as the logs have it: UTC, without a calendar library.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::protocol::Nanoseconds;

const SECOND: u64 = 1_000_000_000;

/// Now.
pub(crate) fn now() -> Nanoseconds {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is where the shim reads the clock, without a calendar library"
    )]
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Enough for 584 years.
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

struct Calendar {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

/// Days to a date by counting in eras of 400 years that begin on the first of March, so that the
/// leap day is the last of its year.
fn calendar(time: Nanoseconds) -> Calendar {
    let seconds = time / SECOND;
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    Calendar {
        year: year_of_era + era * 400 + u64::from(month <= 2),
        month,
        day: day_of_year - (153 * shifted + 2) / 5 + 1,
        hour: seconds / 3600 % 24,
        minute: seconds / 60 % 60,
        second: seconds % 60,
    }
}

/// Prints as RFC 3339 with nine digits of the second: `2026-11-21T09:00:00.000000001Z`.
pub(crate) struct Rfc3339(pub(crate) Nanoseconds);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Calendar { year, month, day, hour, minute, second } = calendar(self.0);
        let fraction = self.0 % SECOND;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:09}Z")
    }
}

/// Prints as the kubelet marks rotated logs: `20261121-090000`.
pub(crate) struct Stamp(pub(crate) Nanoseconds);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Calendar { year, month, day, hour, minute, second } = calendar(self.0);
        write!(f, "{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_around_leap_days_are_right() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (1_709_251_200, "2024-03-01T00:00:00"),
            (1_795_251_600, "2026-11-21T09:00:00"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            assert_eq!(Rfc3339(seconds * SECOND + 7).to_string(), format!("{text}.000000007Z"));
        }
        assert_eq!(Stamp(1_795_251_600 * SECOND).to_string(), "20261121-090000");
    }
}
