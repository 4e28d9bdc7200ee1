//! Reads the texts of schedules.

use jiff::tz::TimeZone;

use super::next::{Fields, Values};
use super::{Schedule, When, duration, zone};
use crate::field::go_quote;

/// What the numbers of a field may be; names stand for them from the least on.
struct Bounds {
    min: u64,
    max: u64,
    names: &'static [&'static str],
}

const MINUTES: Bounds = Bounds { min: 0, max: 59, names: &[] };
const HOURS: Bounds = Bounds { min: 0, max: 23, names: &[] };
const DAYS: Bounds = Bounds { min: 1, max: 31, names: &[] };
const MONTHS: Bounds = Bounds {
    min: 1,
    max: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAYS: Bounds = Bounds { min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

pub(super) fn schedule(text: &str) -> Result<Schedule, String> {
    if text.is_empty() {
        return Err("empty spec string".to_owned());
    }
    let (zone, text) = match text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) {
        Some(zoned) => {
            // Upstream falls over a zone with nothing behind it.
            let (name, text) = zoned.split_once(' ').unwrap_or((zoned, ""));
            (named_zone(name)?, text.trim())
        }
        None => (TimeZone::UTC, text),
    };
    let when = if text.starts_with('@') { descriptor(text)? } else { When::Shown(fields(text)?) };
    Ok(Schedule { when, zone })
}

fn named_zone(name: &str) -> Result<TimeZone, String> {
    if name.is_empty() {
        return Ok(TimeZone::UTC);
    }
    zone(name).ok_or_else(|| format!("provided bad location {name}: unknown time zone {name}"))
}

fn descriptor(text: &str) -> Result<When, String> {
    if let Some(length) = text.strip_prefix("@every ") {
        let seconds =
            duration::seconds(length).map_err(|words| format!("failed to parse duration {text}: {words}"))?;
        return Ok(When::Every(seconds.max(1)));
    }
    let same = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => return Err(format!("unrecognized descriptor: {text}")),
    };
    fields(same).map(When::Shown)
}

fn fields(text: &str) -> Result<Fields, String> {
    let fields: Vec<&str> = text.split_whitespace().collect();
    let [minutes, hours, days, months, weekdays] = fields[..] else {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    };
    Ok(Fields {
        minutes: values(minutes, &MINUTES)?,
        hours: values(hours, &HOURS)?,
        days: values(days, &DAYS)?,
        months: values(months, &MONTHS)?,
        weekdays: values(weekdays, &WEEKDAYS)?,
    })
}

/// A field: ranges with commas between them.
fn values(text: &str, bounds: &Bounds) -> Result<Values, String> {
    let mut values = Values::default();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        values.add(range(part, bounds)?);
    }
    Ok(values)
}

/// `*`, `a`, `a-b`, and each of them with a step.
fn range(part: &str, bounds: &Bounds) -> Result<Values, String> {
    let halves: Vec<&str> = part.split('/').collect();
    let ends: Vec<&str> = halves[0].split('-').collect();
    let is_any = matches!(ends[0], "*" | "?");
    let (start, mut end) = match ends[..] {
        _ if is_any => (bounds.min, bounds.max),
        [one] => (number_or_name(one, bounds)?, number_or_name(one, bounds)?),
        [start, end] => (number_or_name(start, bounds)?, number_or_name(end, bounds)?),
        _ => {
            number_or_name(ends[0], bounds)?;
            return Err(format!("too many hyphens: {part}"));
        }
    };
    let step = match halves[..] {
        [_] => 1,
        [_, step] => number(step)?,
        _ => return Err(format!("too many slashes: {part}")),
    };
    // One number with a step goes on to the end.
    if halves.len() == 2 && ends.len() == 1 {
        end = bounds.max;
    }
    check(part, (start, end), step, bounds)?;
    // Every second day is a restriction, every day is none.
    Ok(Values::new((start, end), step, is_any && step == 1))
}

fn check(part: &str, (start, end): (u64, u64), step: u64, bounds: &Bounds) -> Result<(), String> {
    let Bounds { min, max, .. } = bounds;
    if start < *min {
        return Err(format!("beginning of range ({start}) below minimum ({min}): {part}"));
    }
    if end > *max {
        return Err(format!("end of range ({end}) above maximum ({max}): {part}"));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {part}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    Ok(())
}

fn number_or_name(text: &str, bounds: &Bounds) -> Result<u64, String> {
    let named = bounds.names.iter().zip(bounds.min..).find(|(name, _)| name.eq_ignore_ascii_case(text));
    named.map_or_else(|| number(text), |(_, number)| Ok(number))
}

fn number(text: &str) -> Result<u64, String> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    let number: i64 = text.parse().map_err(|error: std::num::ParseIntError| {
        let words = match error.kind() {
            PosOverflow | NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!("failed to parse int from {text}: strconv.Atoi: parsing {}: {words}", go_quote(text))
    })?;
    u64::try_from(number).map_err(|_| format!("negative number ({number}) not allowed: {text}"))
}
