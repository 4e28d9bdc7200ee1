//! The next time that clocks show what a schedule says.
//!
//! The search goes from the largest field to the smallest, forward until each is met; where a larger one turns
//! over, it begins again. Hours and smaller are steps of time, days and months are steps of the calendar. So a
//! time that clocks leave out is not met on that day, and one that they show twice is met twice: upstream's
//! way, which the steps here follow one by one.

use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};
use jiff::{Span, Timestamp};

use super::{at, whole_second};

/// No schedule is followed further than that.
const YEARS_MAX: i16 = 5;

/// What the numbers of a field are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Values {
    bits: u64,
    /// Whether all are meant without being named.
    is_any: bool,
}

impl Values {
    /// Every `step`th from the first of the ends to the last. Both are below 64.
    pub(super) fn new((start, end): (u64, u64), step: u64, is_any: bool) -> Self {
        let mut values = Self { bits: 0, is_any };
        let mut number = start;
        while number <= end {
            values.bits |= 1 << number;
            number = number.saturating_add(step);
        }
        values
    }

    pub(super) fn add(&mut self, other: Self) {
        self.bits |= other.bits;
        self.is_any |= other.is_any;
    }

    fn has(self, number: i8) -> bool {
        self.bits & (1 << number) != 0
    }
}

/// The five fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) minutes: Values,
    pub(super) hours: Values,
    pub(super) days: Values,
    pub(super) months: Values,
    pub(super) weekdays: Values,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Month,
    Day,
    Hour,
    Minute,
    Second,
}

const UNITS: [Unit; 5] = [Unit::Month, Unit::Day, Unit::Hour, Unit::Minute, Unit::Second];

impl Fields {
    pub(super) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        // A field may be written without a number (`,`); nothing would be found in years of minutes.
        if [self.minutes, self.hours, self.months].iter().any(|values| values.bits == 0) {
            return None;
        }
        let mut local = Local::at(whole_second(after).checked_add(1)?, zone)?;
        let year_max = local.shown.year().checked_add(YEARS_MAX)?;
        let mut is_cut = false;
        while local.shown.year() <= year_max {
            match self.settle(local, &mut is_cut)? {
                Settled::Met(local) => return at(local.second),
                Settled::TurnedOver(further) => local = further,
            }
        }
        None
    }

    /// Goes forward until all fields are met, or one turns over. The first step cuts off what is smaller.
    fn settle<'a>(&self, mut local: Local<'a>, is_cut: &mut bool) -> Option<Settled<'a>> {
        for unit in UNITS {
            while !self.meets(unit, local.shown) {
                if !*is_cut {
                    *is_cut = true;
                    local = local.begin(unit)?;
                }
                local = local.following(unit)?;
                if local.is_first(unit) {
                    return Some(Settled::TurnedOver(local));
                }
            }
        }
        Some(Settled::Met(local))
    }

    fn meets(&self, unit: Unit, shown: DateTime) -> bool {
        match unit {
            Unit::Month => self.months.has(shown.month()),
            Unit::Day => self.meets_day(shown),
            Unit::Hour => self.hours.has(shown.hour()),
            Unit::Minute => self.minutes.has(shown.minute()),
            Unit::Second => shown.second() == 0,
        }
    }

    /// Where both kinds of days are restricted, either will do.
    fn meets_day(&self, shown: DateTime) -> bool {
        let of_month = self.days.has(shown.day());
        let of_week = self.weekdays.has(shown.date().weekday().to_sunday_zero_offset());
        if self.days.is_any || self.weekdays.is_any { of_month && of_week } else { of_month || of_week }
    }
}

enum Settled<'a> {
    Met(Local<'a>),
    TurnedOver(Local<'a>),
}

/// An instant, and what clocks show then.
#[derive(Debug, Clone, Copy)]
struct Local<'a> {
    second: i64,
    shown: DateTime,
    zone: &'a TimeZone,
}

impl<'a> Local<'a> {
    fn at(second: i64, zone: &'a TimeZone) -> Option<Self> {
        Some(Self { second, shown: zone.to_datetime(at(second)?), zone })
    }

    /// When clocks show that. Where they never do, or twice, it is what Go's `time.Date` makes of it: the
    /// offset is the one that holds at the instant which the first guess at an offset leads to.
    fn showing(shown: DateTime, zone: &'a TimeZone) -> Option<Self> {
        let offset = |second| Some(i64::from(zone.to_offset(at(second)?).seconds()));
        let utc = Offset::UTC.to_timestamp(shown).ok()?.as_second();
        let second = match offset(utc)? {
            0 => utc,
            guess => utc - offset(utc - guess)?,
        };
        Self::at(second, zone)
    }

    fn later(self, seconds: i64) -> Option<Self> {
        Self::at(self.second.checked_add(seconds)?, self.zone)
    }

    /// The beginning of the unit that it is in.
    fn begin(self, unit: Unit) -> Option<Self> {
        let date = self.shown.date();
        match unit {
            Unit::Month => Self::showing(date.first_of_month().at(0, 0, 0, 0), self.zone),
            Unit::Day => Self::showing(date.at(0, 0, 0, 0), self.zone),
            Unit::Hour => Self::showing(date.at(self.shown.hour(), 0, 0, 0), self.zone),
            Unit::Minute => self.later(-self.second.rem_euclid(60)),
            Unit::Second => Some(self),
        }
    }

    /// One unit later.
    fn following(self, unit: Unit) -> Option<Self> {
        match unit {
            Unit::Month => {
                let first = self.shown.date().first_of_month().checked_add(Span::new().months(1)).ok()?;
                // A day that the month does not have is one of the month after it.
                let days = Span::new().days(i64::from(self.shown.day()) - 1);
                Self::showing(first.checked_add(days).ok()?.to_datetime(self.shown.time()), self.zone)
            }
            Unit::Day => {
                let next = self.shown.date().tomorrow().ok()?;
                Self::showing(next.to_datetime(self.shown.time()), self.zone)?.to_midnight()
            }
            Unit::Hour => self.later(3600),
            Unit::Minute => self.later(60),
            Unit::Second => self.later(1),
        }
    }

    /// Days are counted at midnight; where clocks jump then it is an hour before or after.
    fn to_midnight(self) -> Option<Self> {
        match i64::from(self.shown.hour()) {
            0 => Some(self),
            hour if hour > 12 => self.later((24 - hour) * 3600),
            hour => self.later(-hour * 3600),
        }
    }

    fn is_first(self, unit: Unit) -> bool {
        match unit {
            Unit::Month => self.shown.month() == 1,
            Unit::Day => self.shown.day() == 1,
            Unit::Hour => self.shown.hour() == 0,
            Unit::Minute => self.shown.minute() == 0,
            Unit::Second => self.shown.second() == 0,
        }
    }
}
