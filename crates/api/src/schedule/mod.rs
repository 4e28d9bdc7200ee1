//! When a CronJob runs: what its schedule says, and the times that follow from it.
//!
//! ```text
//! text ─ parse: five fields, a word for them, or a period ─ next: the first time after another
//! ```
//!
//! Schedules are read, refused and counted as by the library that upstream uses, the third version of
//! robfig's cron; on days when clocks are put forward or back too (`next.rs`).

mod duration;
mod next;
mod parse;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};

use next::Fields;

/// A schedule that was understood.
#[derive(Debug, Clone)]
pub struct Schedule {
    when: When,
    zone: TimeZone,
}

#[derive(Debug, Clone)]
enum When {
    /// On the clocks of the zone.
    Shown(Fields),
    /// Whenever so many seconds have passed.
    Every(i64),
}

/// The zone of an IANA name, from the data in this program: the host may have none. The name is taken as it is
/// spelt there, as by upstream, where it is the name of a file.
pub fn zone(name: &str) -> Option<TimeZone> {
    let zone = TimeZoneDatabase::bundled().get(name).ok()?;
    (!zone.is_unknown() && zone.iana_name() == Some(name)).then_some(zone)
}

impl Schedule {
    /// Reads a schedule: five fields, `@hourly` and its like, or `@every 1h30m`. `TZ=` may be in front, as in
    /// CronJobs that are older than their `timeZone`; without it the clocks are those of UTC.
    ///
    /// # Errors
    ///
    /// Upstream's words for what cannot be understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse::schedule(text)
    }

    /// The same on the clocks of `zone`.
    #[must_use]
    pub fn in_zone(self, zone: TimeZone) -> Self {
        Self { zone, ..self }
    }

    /// The first time later than `after`; `None` where none comes within five years.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match &self.when {
            When::Shown(fields) => fields.next(after, &self.zone),
            When::Every(seconds) => at(whole_second(after).checked_add(*seconds)?),
        }
    }

    /// The last time later than `after` that is not later than `until`. There may be millions between: the
    /// search is by halves.
    pub fn last(&self, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
        let by_then = |time: Timestamp| self.next(time).filter(|next| *next <= until);
        let mut last = by_then(after)?;
        if let When::Every(seconds) = self.when {
            let more = (whole_second(until) - whole_second(last)) / seconds;
            return at(whole_second(last) + more * seconds);
        }
        let mut end = until;
        while let Some(later) = by_then(last) {
            last = later;
            let middle = at(i64::midpoint(whole_second(last), whole_second(end)))?;
            match by_then(middle) {
                Some(later) => last = later,
                None => end = middle,
            }
        }
        Some(last)
    }

    /// About how many times there are after `after` and not later than `until`: as many as fit when all are as
    /// far apart as the first two. `None` where that cannot be said, because there are no two.
    pub fn count(&self, after: Timestamp, until: Timestamp) -> Option<i64> {
        let first = self.next(after)?;
        let second = self.next(first)?;
        if until < first {
            return Some(0);
        }
        let apart = second.duration_since(first).as_secs().max(1);
        Some(until.duration_since(first).as_secs() / apart + 1)
    }
}

/// Fractions of a second are cut off.
fn whole_second(time: Timestamp) -> i64 {
    let (second, nanosecond) = (time.as_second(), time.subsec_nanosecond());
    second - i64::from(nanosecond < 0)
}

fn at(second: i64) -> Option<Timestamp> {
    Timestamp::from_second(second).ok()
}
