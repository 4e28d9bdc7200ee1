//! Quantities (`100m`, `1.5Gi`, `1e3`): exact arithmetic, and text as upstream writes it.
//!
//! The rules are those of `k8s.io/apimachinery/pkg/api/resource`: a quantity is a decimal number with at
//! most nine places (finer ones are rounded away from zero); it remembers the family of its suffix and is
//! written with the largest suffix that loses nothing.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde_json::Value;

/// The family of suffixes in which a quantity is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `n u m k M G T P E`: powers of a thousand.
    #[default]
    DecimalSi,
    /// `Ki Mi Gi Ti Pi Ei`: powers of 1024.
    BinarySi,
    /// `e3`, `E6`.
    DecimalExponent,
}

/// Why a text is no quantity; the words are upstream's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The text has not the form of a quantity.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The part before the suffix is no number.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// The suffix is unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// The finest decimal exponent that a quantity keeps.
const NANO: i32 = -9;

/// An exact amount: `value` × 10^`scale`.
#[derive(Debug, Clone, Default)]
pub struct Quantity {
    value: i128,
    scale: i32,
    format: Format,
    /// The text it was parsed from, kept while it needs no canonical form (upstream keeps it so too,
    /// which is why `1.500` comes back as it was written and `1.5` as `1500m`).
    text: Option<String>,
}

impl Quantity {
    /// A whole number.
    pub const fn from_value(value: i64, format: Format) -> Quantity {
        Quantity { value: value as i128, scale: 0, format, text: None }
    }

    /// A number of thousandths.
    pub const fn from_milli(milli: i64, format: Format) -> Quantity {
        Quantity { value: milli as i128, scale: -3, format, text: None }
    }

    /// A number of billionths.
    pub const fn from_nano(nano: i64, format: Format) -> Quantity {
        Quantity { value: nano as i128, scale: NANO, format, text: None }
    }

    /// Reads a quantity from a JSON value: text or a number, as the API accepts both.
    pub fn from_json(value: &Value) -> Result<Quantity, ParseError> {
        match value {
            Value::String(text) => text.trim().parse(),
            Value::Number(number) => number.to_string().parse(),
            Value::Null => Ok(Quantity::default()),
            _ => Err(ParseError::Format),
        }
    }

    /// The family of suffixes it is written in.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// Whether the amount is zero.
    pub const fn is_zero(&self) -> bool {
        self.value == 0
    }

    /// -1, 0 or 1.
    pub const fn sign(&self) -> i32 {
        self.value.signum() as i32
    }

    /// The amount in whole units, rounded away from zero.
    pub fn value(&self) -> i64 {
        self.scaled_value(0)
    }

    /// The amount in thousandths, rounded away from zero.
    pub fn milli_value(&self) -> i64 {
        self.scaled_value(-3)
    }

    /// The amount in units of 10^`scale`, rounded away from zero and kept within 64 bits.
    pub fn scaled_value(&self, scale: i32) -> i64 {
        let exact = rescale(self.value, self.scale, scale);
        let bounded = exact.unwrap_or(if self.value < 0 { i128::MIN } else { i128::MAX });
        bounded.clamp(i64::MIN as i128, i64::MAX as i128) as i64
    }

    /// Whether the amount is a whole number of 10^`scale`.
    pub fn is_multiple_of(&self, scale: i32) -> bool {
        self.scale >= scale || self.value % pow10(scale - self.scale).unwrap_or(i128::MAX) == 0
    }

    /// The amount as a floating number, for scores and ratios.
    pub fn as_f64(&self) -> f64 {
        self.value as f64 * 10f64.powi(self.scale)
    }

    /// Rounds away from zero to a multiple of 10^`scale`; says whether nothing was lost.
    pub fn round_up(&mut self, scale: i32) -> bool {
        if self.scale >= scale {
            return true;
        }
        let exact = self.is_multiple_of(scale);
        self.value = rescale(self.value, self.scale, scale).unwrap_or(self.value);
        self.scale = scale;
        self.text = None;
        exact
    }

    /// Adds another amount; zero takes the other's family of suffixes.
    pub fn add(&mut self, other: &Quantity) {
        self.combine(other, i128::saturating_add);
    }

    /// Takes another amount away; zero takes the other's family of suffixes.
    pub fn sub(&mut self, other: &Quantity) {
        self.combine(other, i128::saturating_sub);
    }

    fn combine(&mut self, other: &Quantity, operation: fn(i128, i128) -> i128) {
        if self.is_zero() {
            self.format = other.format;
        }
        self.text = None;
        let scale = self.scale.min(other.scale);
        let left = rescale(self.value, self.scale, scale).unwrap_or(i128::MAX);
        let right = rescale(other.value, other.scale, scale).unwrap_or(i128::MAX);
        (self.value, self.scale) = (operation(left, right), scale);
    }

    /// The text with the largest suffix that loses nothing.
    fn canonical(&self) -> String {
        if self.value == 0 {
            return "0".to_owned();
        }
        match self.format {
            Format::BinarySi => {
                self.canonical_binary().unwrap_or_else(|| self.canonical_decimal(Format::DecimalSi))
            }
            format => self.canonical_decimal(format),
        }
    }

    /// `None` where a fraction or a number under 1024 is better written in decimal form.
    fn canonical_binary(&self) -> Option<String> {
        if !self.is_multiple_of(0) {
            return None;
        }
        let mut whole = rescale(self.value, self.scale, 0)?;
        if whole.abs() < 1024 {
            return None;
        }
        let mut step = 0;
        while step + 1 < BINARY.len() && whole % 1024 == 0 {
            whole /= 1024;
            step += 1;
        }
        Some(format!("{whole}{}", BINARY[step]))
    }

    fn canonical_decimal(&self, format: Format) -> String {
        let (mut value, mut scale) = (self.value, self.scale);
        while value % 10 == 0 {
            value /= 10;
            scale += 1;
        }
        let above = scale.rem_euclid(3);
        scale -= above;
        let zeros = if format == Format::DecimalSi && scale > 18 { scale - 18 + above } else { above };
        scale = if format == Format::DecimalSi { scale.min(18) } else { scale };
        let digits = format!("{value}{}", "0".repeat(zeros as usize));
        match (format, decimal_suffix(scale)) {
            (Format::DecimalExponent, _) if scale == 0 => digits,
            (Format::DecimalSi, Some(suffix)) => format!("{digits}{suffix}"),
            _ => format!("{digits}e{scale}"),
        }
    }
}

const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];

fn decimal_suffix(scale: i32) -> Option<&'static str> {
    DECIMAL.iter().find(|(_, power)| *power == scale).map(|(suffix, _)| *suffix)
}

fn pow10(exponent: i32) -> Option<i128> {
    10i128.checked_pow(u32::try_from(exponent).ok()?)
}

/// `value` × 10^`from` in units of 10^`to`, rounded away from zero; `None` when it does not fit.
fn rescale(value: i128, from: i32, to: i32) -> Option<i128> {
    if value == 0 || from == to {
        return Some(value);
    }
    if from > to {
        return value.checked_mul(pow10(from.checked_sub(to)?)?);
    }
    let Some(divisor) = pow10(to.saturating_sub(from)) else { return Some(value.signum()) };
    let (quotient, rest) = (value / divisor, value % divisor);
    Some(if rest == 0 { quotient } else { quotient + value.signum() })
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => f.write_str(text),
            None => f.write_str(&self.canonical()),
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        if self.sign() != other.sign() {
            return self.sign().cmp(&other.sign());
        }
        let scale = self.scale.min(other.scale);
        match (rescale(self.value, self.scale, scale), rescale(other.value, other.scale, scale)) {
            (Some(left), Some(right)) => left.cmp(&right),
            // Only the side with the greater scale can overflow, and then it is the greater amount.
            (None, _) => {
                if self.value > 0 {
                    Ordering::Greater
                } else {
                    Ordering::Less
                }
            }
            (_, None) => {
                if other.value > 0 {
                    Ordering::Less
                } else {
                    Ordering::Greater
                }
            }
        }
    }
}

/// The parts of a quantity's text, as upstream's scanner cuts them.
struct Parts<'a> {
    negative: bool,
    /// Digits before the point, without leading zeros; "0" when none are left.
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

fn split(text: &str) -> Result<Parts<'_>, ParseError> {
    let (negative, rest) = match text.as_bytes().first() {
        None => return Err(ParseError::Format),
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        Some(_) => (false, text),
    };
    let (whole, rest) = rest.split_at(digits(rest));
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(after) => after.split_at(digits(after)),
        None => ("", rest),
    };
    let letters = suffix.bytes().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
    let tail = &suffix[letters..];
    let tail = tail.strip_prefix(['-', '+']).unwrap_or(tail);
    if digits(tail) != tail.len() {
        return Err(ParseError::Format);
    }
    let whole = whole.trim_start_matches('0');
    Ok(Parts { negative, whole: if whole.is_empty() { "0" } else { whole }, fraction, suffix })
}

/// Beyond this power of ten no amount differs from "more than anything".
const EXPONENT_MAX: i32 = 1000;
/// Digits that a mantissa can have.
const DIGITS_MAX: i32 = 39;

/// What a suffix stands for: the multiplier is `base`^`exponent`.
fn interpret(suffix: &str) -> Option<(Format, i32)> {
    if let Some(step) = BINARY.iter().skip(1).position(|known| *known == suffix) {
        return Some((Format::BinarySi, 10 * (step as i32 + 1)));
    }
    if let Some((_, power)) = DECIMAL.iter().find(|(known, _)| *known == suffix) {
        return Some((Format::DecimalSi, *power));
    }
    let exponent: i64 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    // Far beyond EXPONENT_MAX, but within what can be counted with.
    Some((Format::DecimalExponent, exponent.clamp(-1_000_000, 1_000_000) as i32))
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Quantity, ParseError> {
        let parts = split(text)?;
        let (format, exponent) = interpret(parts.suffix).ok_or(ParseError::Suffix)?;
        let shifted = format!("{}{}", parts.whole, parts.fraction);
        // Zeros at the end are no digits that must be held: an amount is written with up to two of them.
        let digits = shifted.trim_end_matches('0');
        let (mut value, zeros) = match shifted.parse::<i128>() {
            Ok(value) => (value, 0),
            Err(_) => (digits.parse().map_err(|_| ParseError::Numeric)?, shifted.len() - digits.len()),
        };
        let places = |count: usize| i32::try_from(count).map_err(|_| ParseError::Numeric);
        let mut scale = places(zeros)? - places(parts.fraction.len())?;
        match format {
            Format::BinarySi => value = value.checked_mul(1 << exponent).ok_or(ParseError::Numeric)?,
            Format::DecimalSi | Format::DecimalExponent => scale += exponent,
        }
        if scale > EXPONENT_MAX - DIGITS_MAX {
            // The zeros first, so that the amount is the same however it was written.
            while value != 0 && value % 10 == 0 {
                (value, scale) = (value / 10, scale + 1);
            }
            scale = scale.min(EXPONENT_MAX);
        }
        let written = keeps_its_text(format, exponent, scale, value >> exponent.clamp(0, 60), &shifted);
        if scale < NANO {
            (value, scale) = (rescale(value, scale, NANO).ok_or(ParseError::Numeric)?, NANO);
        }
        if format == Format::BinarySi && scale > 0 {
            (value, scale) = (rescale(value, scale, 0).unwrap_or(i128::from(i64::MAX)), 0);
        }
        let (value, format) = bounded(value, scale, format);
        let value = if parts.negative { -value } else { value };
        let text = (written && value != 0).then(|| text.to_owned());
        Ok(Quantity { value, scale, format, text })
    }
}

/// Upstream's shortcut: a number that looks canonical keeps its text.
fn keeps_its_text(format: Format, exponent: i32, scale: i32, mantissa: i128, shifted: &str) -> bool {
    let room = match format {
        Format::BinarySi => 14 - exponent * 3 / 10,
        Format::DecimalSi | Format::DecimalExponent => 18,
    };
    if shifted.len() as i32 > room || scale < NANO {
        return false;
    }
    match format {
        Format::BinarySi => scale == 0 && mantissa & 7 != 0,
        _ => scale % 3 == 0 && !shifted.ends_with("000") && !shifted.starts_with('0'),
    }
}

/// Binary quantities are capped at 2^63-1, and those under one are written in decimal form.
fn bounded(value: i128, scale: i32, format: Format) -> (i128, Format) {
    if format != Format::BinarySi {
        return (value, format);
    }
    let whole = rescale(value, scale, 0).unwrap_or(i128::MAX);
    if whole > i64::MAX as i128 {
        let max = rescale(i64::MAX as i128, 0, scale).unwrap_or(i64::MAX as i128);
        return (max, format);
    }
    let under_one = value > 0 && pow10(-scale).is_none_or(|one| value < one);
    (value, if under_one { Format::DecimalSi } else { format })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(of: &str) -> String {
        of.parse::<Quantity>().map_or_else(|error| error.to_string(), |quantity| quantity.to_string())
    }

    #[test]
    fn amounts_beyond_counting_are_read_back_as_they_are_written() {
        for written in [
            "777777777777777777777777777777777777.5G",
            "20000000000000000004000000000000000000000000000000000000Ei",
            "20.0000000000000000000000000000000000000000Ki",
            "2000e40035",
            "20e1002",
            "1e1000",
            "1000e999",
            "12e-40000",
            "3e999999999",
        ] {
            let first = text(written);
            assert_eq!(text(&first), first, "{written}");
        }
    }

    #[test]
    fn texts_become_canonical_as_upstream_writes_them() {
        for (written, canonical) in [
            ("0", "0"),
            ("0Mi", "0"),
            ("1", "1"),
            ("100m", "100m"),
            ("0.5", "500m"),
            ("1.5", "1500m"),
            ("1000m", "1"),
            ("2000", "2k"),
            ("1024", "1024"),
            ("1024Mi", "1Gi"),
            ("1536Mi", "1536Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("512Ki", "512Ki"),
            ("1Ki", "1Ki"),
            ("1e3", "1e3"),
            ("1E3", "1E3"),
            ("12e2", "1200"),
            ("1E", "1E"),
            ("1000E", "1000E"),
            ("-5Mi", "-5Mi"),
            ("0.0000000001", "1n"),
            ("1n", "1n"),
            ("100k", "100k"),
            ("1.", "1."),
            (".5", "500m"),
            ("9223372036854775807", "9223372036854775807"),
            ("100Ei", "9223372036854775807"),
            ("1.1Ki", "1126400m"),
            ("007", "007"),
            ("1.500", "1.500"),
            ("2048Ki", "2Mi"),
            ("10000", "10k"),
        ] {
            assert_eq!(text(written), canonical, "{written}");
        }
    }

    #[test]
    fn broken_texts_are_refused_in_the_words_of_upstream() {
        assert_eq!(text(""), ParseError::Format.to_string());
        assert_eq!(text("1 Mi"), ParseError::Format.to_string());
        assert_eq!(text("1.2.3"), ParseError::Format.to_string());
        assert_eq!(text("1Mb"), ParseError::Format.to_string());
        assert_eq!(text("1MB"), ParseError::Format.to_string());
        assert_eq!(text("1mi"), ParseError::Suffix.to_string());
        assert_eq!(text("1e"), ParseError::Suffix.to_string());
        assert_eq!(text("1K"), ParseError::Suffix.to_string());
        assert_eq!(text("abc"), ParseError::Format.to_string());
        // A missing number is zero to upstream.
        assert_eq!(text("Mi"), "0");
    }

    #[test]
    fn amounts_compare_and_add_exactly() {
        let of = |text: &str| text.parse::<Quantity>().expect("valid");
        assert!(of("1") > of("999m"));
        assert_eq!(of("1Gi"), of("1024Mi"));
        assert!(of("-1") < of("0"));
        assert!(of("1e500") > of("1Ei"));
        let mut sum = of("0");
        sum.add(&of("1Gi"));
        sum.add(&of("512Mi"));
        assert_eq!(sum.to_string(), "1536Mi");
        sum.sub(&of("1Gi"));
        assert_eq!(sum.to_string(), "512Mi");
        assert_eq!(of("1500m").value(), 2);
        assert_eq!(of("-1500m").value(), -2);
        assert_eq!(of("0.1m").milli_value(), 1);
        assert_eq!(of("1e30").value(), i64::MAX);
    }

    #[test]
    fn rounding_up_to_milli_tells_whether_something_was_lost() {
        let mut small: Quantity = "1u".parse().expect("valid");
        assert!(!small.round_up(-3));
        assert_eq!(small.to_string(), "1m");
        let mut whole: Quantity = "1000000u".parse().expect("valid");
        assert!(whole.round_up(-3));
        assert_eq!(whole.to_string(), "1");
    }
}
