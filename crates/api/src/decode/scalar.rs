//! The types with a decoder of their own: quantities, times, bytes.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use jiff::Timestamp;
use serde_json::Value;

use crate::json::Node;
use crate::quantity::{ParseError, Quantity};

const RFC3339: &str = "2006-01-02T15:04:05Z07:00";
const RFC3339_MICRO: &str = "2006-01-02T15:04:05.000000Z07:00";

/// resource.Quantity: text or a number, made canonical.
pub(super) fn quantity(node: &Node<'_>) -> Result<Value, String> {
    match node {
        Node::String(text) | Node::Number(text) => match text.trim().parse::<Quantity>() {
            Ok(quantity) => Ok(Value::String(quantity.to_string())),
            Err(error) => Err(error.to_string()),
        },
        // Go hands the raw JSON to the parser of quantities, which finds no number in it.
        _ => Err(ParseError::Format.to_string()),
    }
}

/// Bytes stay base64; Go refuses what is not, and drops line breaks.
pub(super) fn bytes(text: &str) -> Result<Value, String> {
    let engine = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
    );
    let clean: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    match engine.decode(&clean) {
        Ok(_) => Ok(Value::String(clean)),
        Err(_) => match lenient().decode(&clean) {
            // Go ignores stray bits in the last symbol, and writes the bytes again.
            Ok(decoded) => Ok(Value::String(engine.encode(decoded))),
            Err(_) => Err(format!("illegal base64 data at input byte {}", bad_byte(text))),
        },
    }
}

fn lenient() -> GeneralPurpose {
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true))
}

/// The offset that Go's encoding/base64 names.
fn bad_byte(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut quantum = 0;
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        match byte {
            b'\r' | b'\n' => {}
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => quantum = (quantum + 1) % 4,
            b'=' if quantum >= 2 => return bad_padding(bytes, at, quantum),
            _ => return at,
        }
        at += 1;
    }
    // The last quantum is incomplete: Go names where it began.
    at - quantum
}

/// Padding at `at` after two or three symbols of a quantum.
fn bad_padding(bytes: &[u8], at: usize, quantum: usize) -> usize {
    let mut rest = bytes[at + 1..].iter().enumerate().filter(|(_, b)| !matches!(b, b'\r' | b'\n'));
    if quantum == 2 {
        match rest.next() {
            None => return bytes.len(),
            Some((_, b'=')) => {}
            Some((offset, _)) => return at + 1 + offset,
        }
    }
    rest.next().map_or(bytes.len(), |(offset, _)| at + 1 + offset)
}

/// metav1.Time: whole seconds, UTC.
pub(super) fn time(text: &str) -> Result<Value, String> {
    let time = parse_time(text, RFC3339)?;
    Ok(Value::String(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()))
}

/// metav1.MicroTime: six digits, UTC.
pub(super) fn micro_time(text: &str) -> Result<Value, String> {
    let time = parse_time(text, RFC3339_MICRO)?;
    Ok(Value::String(time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()))
}

fn parse_time(text: &str, layout: &'static str) -> Result<Timestamp, String> {
    GoTime { text, layout, rest: text }.parse()
}

/// Go's time.Parse for the two layouts above, for its results and its complaints.
struct GoTime<'a> {
    text: &'a str,
    layout: &'static str,
    rest: &'a str,
}

impl GoTime<'_> {
    fn parse(mut self) -> Result<Timestamp, String> {
        let year = self.digits(4, "2006")?;
        self.literal("-")?;
        let month = self.digits(2, "01")?;
        if !(1..=12).contains(&month) {
            return Err(self.out_of_range("month"));
        }
        self.literal("-")?;
        let day = self.digits(2, "02")?;
        self.literal("T")?;
        let hour = self.bounded(2, "15", 23, "hour")?;
        self.literal(":")?;
        let minute = self.bounded(2, "04", 59, "minute")?;
        self.literal(":")?;
        let second = self.bounded(2, "05", 59, "second")?;
        let fraction = self.fraction()?;
        let offset = self.zone()?;
        if !self.rest.is_empty() {
            return Err(format!("parsing time {}: extra text: {}", quoted(self.text), quoted(self.rest)));
        }
        let civil = civil(year, month, day, hour, minute, second, fraction);
        let civil = civil.ok_or_else(|| self.out_of_range("day"))?;
        let time = civil.to_zoned(jiff::tz::TimeZone::UTC).map(|zoned| zoned.timestamp());
        let time = time.and_then(|time| time.checked_sub(jiff::SignedDuration::from_secs(offset)));
        time.map_err(|_| self.out_of_range("year"))
    }

    fn digits(&mut self, count: usize, element: &str) -> Result<i64, String> {
        match self.rest.get(..count).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit())) {
            Some(digits) => {
                let number = digits.parse().map_err(|_| self.cannot(element))?;
                self.rest = &self.rest[count..];
                Ok(number)
            }
            None => Err(self.cannot(element)),
        }
    }

    fn bounded(&mut self, count: usize, element: &str, most: i64, name: &str) -> Result<i64, String> {
        let number = self.digits(count, element)?;
        if number > most { Err(self.out_of_range(name)) } else { Ok(number) }
    }

    fn literal(&mut self, expected: &str) -> Result<(), String> {
        self.rest = self.rest.strip_prefix(expected).ok_or_else(|| self.cannot(expected))?;
        Ok(())
    }

    /// Nanoseconds; a fraction is accepted after the seconds even when the layout has
    /// none, and demanded with six digits when it has one.
    fn fraction(&mut self) -> Result<i64, String> {
        let strict = self.layout == RFC3339_MICRO;
        let digits = match self.rest.strip_prefix(['.', ',']) {
            Some(after) => after.bytes().take_while(u8::is_ascii_digit).count(),
            None => 0,
        };
        if (strict && digits != 6) || (digits == 0 && self.rest.starts_with('.')) {
            return Err(self.cannot(if strict { ".000000" } else { "Z07:00" }));
        }
        if digits == 0 {
            return Ok(0);
        }
        let text = &self.rest[1..=digits];
        let nanos = format!("{:0<9}", &text[..digits.min(9)]);
        self.rest = &self.rest[1 + digits..];
        nanos.parse().map_err(|_| self.cannot("Z07:00"))
    }

    /// Seconds east of UTC.
    fn zone(&mut self) -> Result<i64, String> {
        if let Some(rest) = self.rest.strip_prefix('Z') {
            self.rest = rest;
            return Ok(0);
        }
        let zone = self.rest.get(..6).ok_or_else(|| self.cannot("Z07:00"))?;
        let sign = match zone.as_bytes()[0] {
            b'+' => 1,
            b'-' => -1,
            _ => return Err(self.cannot("Z07:00")),
        };
        let hours = zone[1..3].parse::<u8>().ok().filter(|_| zone.as_bytes()[3] == b':');
        let (Some(hours), Ok(minutes)) = (hours, zone[4..6].parse::<u8>()) else {
            return Err(self.cannot("Z07:00"));
        };
        if hours > 24 || minutes >= 60 {
            return Err(self.out_of_range("time zone offset"));
        }
        self.rest = &self.rest[6..];
        Ok(sign * (i64::from(hours) * 3600 + i64::from(minutes) * 60))
    }

    fn cannot(&self, element: &str) -> String {
        let (text, rest) = (quoted(self.text), quoted(self.rest));
        format!("parsing time {text} as {}: cannot parse {rest} as {}", quoted(self.layout), quoted(element))
    }

    fn out_of_range(&self, what: &str) -> String {
        format!("parsing time {}: {what} out of range", quoted(self.text))
    }
}

fn civil(
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    nanos: i64,
) -> Option<jiff::civil::DateTime> {
    let small = |n: i64| i8::try_from(n).ok();
    jiff::civil::DateTime::new(
        i16::try_from(year).ok()?,
        small(month)?,
        small(day)?,
        small(hour)?,
        small(minute)?,
        small(second)?,
        i32::try_from(nanos).ok()?,
    )
    .ok()
}

/// Go's time package quotes with plain double quotes and backslashes.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_utc_seconds_or_microseconds() {
        assert_eq!(time("2024-02-29T23:30:00.9+02:00").unwrap(), "2024-02-29T21:30:00Z");
        assert_eq!(micro_time("2024-02-29T23:30:00.123456Z").unwrap(), "2024-02-29T23:30:00.123456Z");
    }

    #[test]
    fn bad_times_are_told_as_go_tells_them() {
        let layout = "2006-01-02T15:04:05Z07:00";
        for (text, message) in [
            ("abc", format!("parsing time \"abc\" as \"{layout}\": cannot parse \"abc\" as \"2006\"")),
            ("2024-13-01T00:00:00Z", "parsing time \"2024-13-01T00:00:00Z\": month out of range".into()),
            ("2023-02-29T00:00:00Z", "parsing time \"2023-02-29T00:00:00Z\": day out of range".into()),
            (
                "2024-01-01",
                format!("parsing time \"2024-01-01\" as \"{layout}\": cannot parse \"\" as \"T\""),
            ),
        ] {
            assert_eq!(time(text).unwrap_err(), message);
        }
    }

    #[test]
    fn base64_is_checked_as_go_checks_it() {
        assert_eq!(bytes("aGk=").unwrap(), "aGk=");
        assert_eq!(bytes("aG\nk=").unwrap(), "aGk=");
        for (text, at) in
            [("***", 0), ("aGk", 0), ("aGkx*", 4), ("aGkxa", 4), ("aGk=x", 4), ("a=", 1), ("aG=x", 3)]
        {
            assert_eq!(bytes(text).unwrap_err(), format!("illegal base64 data at input byte {at}"), "{text}");
        }
    }
}
