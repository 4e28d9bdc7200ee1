//! Schedules against tables, and against minutes counted one by one.

use jiff::civil::{Date, DateTime, date};
use jiff::tz::{Offset, TimeZone};
use jiff::{Span, Timestamp};
use proptest::prelude::*;

use super::*;

fn utc(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The first times after another, as the clocks of a zone show them.
fn times(schedule: &str, zone_name: &str, after: &str, count: usize) -> Vec<String> {
    let zone = zone(zone_name).unwrap();
    let schedule = Schedule::parse(schedule).unwrap().in_zone(zone.clone());
    let mut time = utc(after);
    let mut next = || {
        time = schedule.next(time)?;
        Some(format!("{}{}", zone.to_datetime(time), zone.to_offset(time)))
    };
    std::iter::from_fn(&mut next).take(count).collect()
}

#[test]
fn what_cannot_be_understood_is_refused_in_upstreams_words() {
    for (text, words) in [
        ("", "empty spec string"),
        ("nonsense", "expected exactly 5 fields, found 1: [nonsense]"),
        ("* * * * * *", "expected exactly 5 fields, found 6: [* * * * * *]"),
        ("@often", "unrecognized descriptor: @often"),
        ("@every x", "failed to parse duration @every x: time: invalid duration \"x\""),
        ("61 * * * *", "end of range (61) above maximum (59): 61"),
        ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
        ("* * * * 7", "end of range (7) above maximum (6): 7"),
        ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
        ("*/0 * * * *", "step of range should be a positive number: */0"),
        ("*/-5 * * * *", "negative number (-5) not allowed: -5"),
        ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
        ("1/2/3 * * * *", "too many slashes: 1/2/3"),
        ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
        ("-5 * * * *", "failed to parse int from : strconv.Atoi: parsing \"\": invalid syntax"),
        ("* * * jan-x *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
        (
            "99999999999999999999 * * * *",
            "failed to parse int from 99999999999999999999: strconv.Atoi: parsing \"99999999999999999999\": value out of range",
        ),
        ("TZ=Mars/Phobos * * * * *", "provided bad location Mars/Phobos: unknown time zone Mars/Phobos"),
        ("TZ=UTC", "expected exactly 5 fields, found 0: []"),
    ] {
        assert_eq!(Schedule::parse(text).unwrap_err(), words, "{text}");
    }
}

#[test]
fn fields_are_numbers_names_ranges_steps_and_lists_of_them() {
    for (schedule, wanted) in [
        ("*/20 * * * *", ["2026-03-04T10:20:00+00", "2026-03-04T10:40:00+00", "2026-03-04T11:00:00+00"]),
        ("50/5 10 * * ?", ["2026-03-04T10:50:00+00", "2026-03-04T10:55:00+00", "2026-03-05T10:50:00+00"]),
        (
            "0 0-6/3,22 * MAR-apr wed",
            ["2026-03-04T22:00:00+00", "2026-03-11T00:00:00+00", "2026-03-11T03:00:00+00"],
        ),
        ("0 0 31 * *", ["2026-03-31T00:00:00+00", "2026-05-31T00:00:00+00", "2026-07-31T00:00:00+00"]),
        ("0 0 29 2 *", ["2028-02-29T00:00:00+00", "2032-02-29T00:00:00+00", "2036-02-29T00:00:00+00"]),
        // Both kinds of days restricted: either will do. With every second day of the week it is a restriction too.
        ("0 0 13 * fri", ["2026-03-06T00:00:00+00", "2026-03-13T00:00:00+00", "2026-03-20T00:00:00+00"]),
        ("0 0 13 * */6", ["2026-03-07T00:00:00+00", "2026-03-08T00:00:00+00", "2026-03-13T00:00:00+00"]),
        ("0 0 6,13 * */1", ["2026-03-06T00:00:00+00", "2026-03-13T00:00:00+00", "2026-04-06T00:00:00+00"]),
        ("@hourly", ["2026-03-04T11:00:00+00", "2026-03-04T12:00:00+00", "2026-03-04T13:00:00+00"]),
        ("@daily", ["2026-03-05T00:00:00+00", "2026-03-06T00:00:00+00", "2026-03-07T00:00:00+00"]),
        ("@midnight", ["2026-03-05T00:00:00+00", "2026-03-06T00:00:00+00", "2026-03-07T00:00:00+00"]),
        ("@weekly", ["2026-03-08T00:00:00+00", "2026-03-15T00:00:00+00", "2026-03-22T00:00:00+00"]),
        ("@monthly", ["2026-04-01T00:00:00+00", "2026-05-01T00:00:00+00", "2026-06-01T00:00:00+00"]),
        ("@yearly", ["2027-01-01T00:00:00+00", "2028-01-01T00:00:00+00", "2029-01-01T00:00:00+00"]),
        ("@annually", ["2027-01-01T00:00:00+00", "2028-01-01T00:00:00+00", "2029-01-01T00:00:00+00"]),
        ("@every 1h30m", ["2026-03-04T11:44:30+00", "2026-03-04T13:14:30+00", "2026-03-04T14:44:30+00"]),
        ("@every 1ms", ["2026-03-04T10:14:31+00", "2026-03-04T10:14:32+00", "2026-03-04T10:14:33+00"]),
    ] {
        assert_eq!(times(schedule, "UTC", "2026-03-04T10:14:30.5Z", 3), wanted, "{schedule}");
    }
    for never in ["0 0 31 2 *", ", * * * *", "* , * * *", "* * * , *"] {
        assert!(times(never, "UTC", "2026-03-04T10:14:30Z", 1).is_empty(), "{never}");
    }
}

#[test]
fn a_zone_in_front_of_the_fields_is_taken_for_old_objects() {
    let schedule = Schedule::parse("CRON_TZ=Asia/Kolkata 30 6 * * *").unwrap();
    assert_eq!(schedule.next(utc("2026-01-01T00:00:00Z")), Some(utc("2026-01-01T01:00:00Z")));
}

#[test]
fn zones_are_known_without_files_and_by_their_exact_names() {
    for name in ["UTC", "Etc/UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "EST5EDT"] {
        assert!(zone(name).is_some(), "{name}");
    }
    for name in ["", "europe/berlin", "Local", "local", "Etc/Unknown", "Mars/Phobos", "../UTC"] {
        assert!(zone(name).is_none(), "{name}");
    }
}

#[test]
fn hours_that_clocks_leave_out_are_not_met_and_hours_shown_twice_are_met_twice() {
    // 2026-03-29 02:00 becomes 03:00.
    assert_eq!(
        times("30 2 * * *", "Europe/Berlin", "2026-03-27T12:00:00Z", 3),
        ["2026-03-28T02:30:00+01", "2026-03-30T02:30:00+02", "2026-03-31T02:30:00+02"]
    );
    assert_eq!(
        times("0 */2 * * *", "Europe/Berlin", "2026-03-28T23:30:00Z", 2),
        ["2026-03-29T04:00:00+02", "2026-03-29T06:00:00+02"]
    );
    // 2026-10-25 03:00 becomes 02:00.
    assert_eq!(
        times("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 3),
        ["2026-10-25T02:30:00+02", "2026-10-25T02:30:00+01", "2026-10-26T02:30:00+01"]
    );
    // Midnight itself is left out: 2018-11-04 00:00 became 01:00.
    assert_eq!(
        times("0 0 * * *", "America/Sao_Paulo", "2018-11-03T12:00:00Z", 2),
        ["2018-11-05T00:00:00-02", "2018-11-06T00:00:00-02"]
    );
    assert_eq!(
        times("0 5 4 * *", "America/Sao_Paulo", "2018-11-03T12:00:00Z", 1),
        ["2018-11-04T05:00:00-02"]
    );
    // Half an hour is left out: 2026-10-04 02:00 becomes 02:30.
    assert_eq!(
        times("*/20 2 * * *", "Australia/Lord_Howe", "2026-10-03T15:00:00Z", 2),
        ["2026-10-04T02:40:00+11", "2026-10-05T02:00:00+11"]
    );
}

#[test]
fn the_last_of_many_times_is_found_by_halves() {
    let last = |schedule: &str, after: &str, until: &str| {
        Schedule::parse(schedule).unwrap().last(utc(after), utc(until)).map(|time| time.to_string())
    };
    let year = |schedule| last(schedule, "2025-01-01T00:00:00Z", "2026-07-01T12:34:56Z");
    assert_eq!(year("* * * * *").as_deref(), Some("2026-07-01T12:34:00Z"));
    assert_eq!(year("30 6-16/4 * * 1-5").as_deref(), Some("2026-07-01T10:30:00Z"));
    assert_eq!(year("0,1 0 * * *").as_deref(), Some("2026-07-01T00:01:00Z"));
    assert_eq!(year("* * 1 1 *").as_deref(), Some("2026-01-01T23:59:00Z"));
    assert_eq!(year("@every 7m").as_deref(), Some("2026-07-01T12:29:00Z"));
    assert_eq!(last("0 0 * * *", "2026-07-01T00:00:00Z", "2026-07-01T23:59:59Z"), None);
    assert_eq!(
        last("0 0 * * *", "2026-07-01T00:00:00Z", "2026-07-02T00:00:00Z").as_deref(),
        Some("2026-07-02T00:00:00Z")
    );
    assert_eq!(year("0 0 31 2 *"), None);
}

#[test]
fn missed_times_are_counted_as_if_they_were_regular() {
    let count = |schedule: &str, until: &str| {
        Schedule::parse(schedule).unwrap().count(utc("2026-01-01T00:00:00Z"), utc(until))
    };
    assert_eq!(count("*/5 * * * *", "2026-01-01T00:04:59Z"), Some(0));
    assert_eq!(count("*/5 * * * *", "2026-01-01T00:05:00Z"), Some(1));
    assert_eq!(count("*/5 * * * *", "2026-01-01T08:20:00Z"), Some(100));
    assert_eq!(count("0 0 31 2 *", "2026-01-01T08:20:00Z"), None);
}

/// Part of a field: from, to, step.
type Part = (u64, u64, u64);

#[derive(Debug, Clone)]
enum Field {
    Any,
    Parts(Vec<Part>),
}

impl Field {
    fn text(&self) -> String {
        match self {
            Self::Any => "*".to_owned(),
            Self::Parts(parts) => {
                let parts: Vec<String> = parts.iter().map(|(a, b, step)| format!("{a}-{b}/{step}")).collect();
                parts.join(",")
            }
        }
    }

    fn has(&self, number: i8) -> bool {
        let number = u64::try_from(number).unwrap();
        match self {
            Self::Any => true,
            Self::Parts(parts) => parts
                .iter()
                .any(|(a, b, step)| (*a..=*b).contains(&number) && (number - a).is_multiple_of(*step)),
        }
    }
}

fn field(min: u64, max: u64) -> impl Strategy<Value = Field> {
    let part = (min..=max, min..=max, 1..=max).prop_map(|(a, b, step)| (a.min(b), a.max(b), step));
    prop_oneof![Just(Field::Any), prop::collection::vec(part, 1..4).prop_map(Field::Parts)]
}

type Model = (Field, Field, Field, Field, Field);

fn model() -> impl Strategy<Value = Model> {
    (field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 6))
}

fn text((minutes, hours, days, months, weekdays): &Model) -> String {
    [minutes, hours, days, months, weekdays].map(Field::text).join(" ")
}

fn day_is_meant((_, _, days, months, weekdays): &Model, day: Date) -> bool {
    let (of_month, of_week) = (days.has(day.day()), weekdays.has(day.weekday().to_sunday_zero_offset()));
    let either = matches!((days, weekdays), (Field::Parts(_), Field::Parts(_)));
    months.has(day.month()) && if either { of_month || of_week } else { of_month && of_week }
}

fn minute_is_meant(model: &Model, shown: DateTime) -> bool {
    day_is_meant(model, shown.date()) && model.0.has(shown.minute()) && model.1.has(shown.hour())
}

/// Day by day, and each meant day minute by minute.
fn naive(model: &Model, after: DateTime, days: i64) -> Option<DateTime> {
    let dates = (0..days).map(|day| after.date().checked_add(Span::new().days(day)).unwrap());
    let minutes = dates.filter(|date| day_is_meant(model, *date)).flat_map(|date| {
        (0..24).flat_map(move |hour| (0..60).map(move |minute| date.at(hour, minute, 0, 0)))
    });
    minutes.filter(|minute| *minute > after).find(|minute| minute_is_meant(model, *minute))
}

proptest! {
    #[test]
    fn the_next_time_is_the_first_minute_that_fits(
        model in model(),
        day in 0_i64..3000,
        second in 0_i64..86_400,
    ) {
        const DAYS: i64 = 500;
        let start = date(2020, 1, 1).at(0, 0, 0, 0);
        let after = start.checked_add(Span::new().days(day).seconds(second)).unwrap();
        let schedule = Schedule::parse(&text(&model)).unwrap();
        let next = schedule.next(Offset::UTC.to_timestamp(after).unwrap());
        let next = next.map(|next| Offset::UTC.to_datetime(next));
        match naive(&model, after, DAYS) {
            Some(wanted) => prop_assert_eq!(next, Some(wanted)),
            None => {
                let end = after.checked_add(Span::new().days(DAYS - 1)).unwrap();
                let is_later = next.is_none_or(|next| minute_is_meant(&model, next) && next > end);
                prop_assert!(is_later, "{:?}", next);
            }
        }
    }

    /// Around the days on which clocks change, by whole hours, every minute of time that shows a fitting
    /// one is met, and no other.
    #[test]
    fn minutes_are_met_as_often_as_clocks_show_them(
        minutes in field(0, 59),
        hours in field(0, 23),
        change in prop::sample::select(vec![
            ("Europe/Berlin", "2026-03-29T01:00:00Z"),
            ("Europe/Berlin", "2026-10-25T01:00:00Z"),
            ("Europe/London", "2026-03-29T01:00:00Z"),
            ("Europe/London", "2026-10-25T01:00:00Z"),
            ("America/New_York", "2026-03-08T07:00:00Z"),
            ("America/New_York", "2026-11-01T06:00:00Z"),
            ("America/Sao_Paulo", "2018-11-04T03:00:00Z"),
            ("America/Sao_Paulo", "2018-02-18T02:00:00Z"),
            ("Asia/Kolkata", "2026-10-25T01:00:00Z"),
        ]),
        before in 0_i64..172_800,
    ) {
        const AHEAD: i64 = 60 * 24 * 5;
        let zone = zone(change.0).unwrap();
        let model = (minutes, hours, Field::Any, Field::Any, Field::Any);
        let after = utc(change.1).as_second() - before;
        let schedule = Schedule::parse(&text(&model)).unwrap().in_zone(zone.clone());
        let is_meant = |second: i64| minute_is_meant(&model, shown(&zone, second));
        let first = (after / 60 + 1) * 60;
        let wanted = (0..AHEAD).map(|minute| first + minute * 60).find(|second| is_meant(*second));
        let next = schedule.next(Timestamp::from_second(after).unwrap()).map(Timestamp::as_second);
        prop_assert_eq!(next, wanted);
    }
}

fn shown(zone: &TimeZone, second: i64) -> DateTime {
    zone.to_datetime(Timestamp::from_second(second).unwrap())
}
