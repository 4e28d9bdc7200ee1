//! Lengths of time as Go writes them: `1h30m`, `1.5h`, `300ms`.

use crate::field::go_quote;

const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// The whole seconds of a length of time, or what Go says of the text.
pub(super) fn seconds(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", go_quote(text));
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if unsigned == "0" {
        return Ok(0);
    }
    if unsigned.is_empty() {
        return Err(invalid());
    }
    let (mut rest, mut total) = (unsigned, 0_i128);
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (part, after) = after.strip_prefix('.').map_or(("", after), digits);
        if whole.is_empty() && part.is_empty() {
            return Err(invalid());
        }
        let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {}", go_quote(text)));
        }
        let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("time: unknown unit {} in duration {}", go_quote(unit), go_quote(text)));
        };
        total += whole_of(whole).ok_or_else(invalid)? * scale + part_of(part, *scale);
        // The sum is one of nanoseconds in 64 bits.
        i64::try_from(total).map_err(|_| invalid())?;
        rest = after;
    }
    let seconds = i64::try_from(total / 1_000_000_000).map_err(|_| invalid())?;
    Ok(if text.starts_with('-') { -seconds } else { seconds })
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn whole_of(digits: &str) -> Option<i128> {
    if digits.is_empty() { Some(0) } else { digits.parse::<i64>().ok().map(i128::from) }
}

/// So much of a unit as the digits after the point say.
fn part_of(digits: &str, scale: i128) -> i128 {
    const DIGITS_MAX: usize = 18;
    let digits = &digits[..digits.len().min(DIGITS_MAX)];
    let number: i128 = digits.parse().unwrap_or(0);
    number * scale / 10_i128.pow(u32::try_from(digits.len()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_as_go_reads_them() {
        for (text, wanted) in [
            ("1h30m", 5400),
            ("1.5h", 5400),
            ("90s", 90),
            ("0", 0),
            ("300ms", 0),
            (".5m", 30),
            ("-1h", -3600),
            ("+2s", 2),
            ("1h1m1s1ms1us1\u{b5}s1ns", 3661),
        ] {
            assert_eq!(seconds(text), Ok(wanted), "{text}");
        }
        for (text, words) in [
            ("", "time: invalid duration \"\""),
            ("-", "time: invalid duration \"-\""),
            ("x", "time: invalid duration \"x\""),
            (".", "time: invalid duration \".\""),
            ("5", "time: missing unit in duration \"5\""),
            ("1.2.3h", "time: missing unit in duration \"1.2.3h\""),
            ("5d", "time: unknown unit \"d\" in duration \"5d\""),
            ("9999999999h", "time: invalid duration \"9999999999h\""),
            ("99999999999999999999s", "time: invalid duration \"99999999999999999999s\""),
        ] {
            assert_eq!(seconds(text), Err(words.to_owned()), "{text}");
        }
    }
}
