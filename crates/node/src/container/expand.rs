//! `$(NAME)` in commands, arguments, values and sub-paths.
//!
//! A value may name another twice, so texts double from variable to variable: what comes out is
//! bounded while it grows, by what the kernel takes.

use std::fmt;

/// One argument or variable, its final zero included (MAX_ARG_STRLEN).
const STRING_MAX: usize = 128 << 10;
/// All arguments and variables together: three quarters of 8 MiB, the most that the kernel grants
/// however large the stack may grow.
const TOTAL_MAX: usize = 6 << 20;
/// A string's own share besides its bytes: the zero and a pointer to it.
const OVERHEAD: usize = 1 + size_of::<usize>();

/// No kernel would start a program with this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("argument list too long")
    }
}

impl std::error::Error for TooLong {}

/// How much a program may be started with, and how much of that is taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Budget {
    taken: usize,
}

impl Budget {
    /// Takes the room of one argument.
    pub fn argument(&mut self, text: &str) -> Result<(), TooLong> {
        self.take(text.len())
    }

    /// Takes the room of one variable: `name=value`.
    pub fn variable(&mut self, name: &str, value: &str) -> Result<(), TooLong> {
        self.take(name.len() + 1 + value.len())
    }

    fn take(&mut self, length: usize) -> Result<(), TooLong> {
        self.taken += length + OVERHEAD;
        if length < STRING_MAX && self.taken <= TOTAL_MAX { Ok(()) } else { Err(TooLong) }
    }
}

/// Replaces `$(NAME)` by what `lookup` knows; `$$` is one dollar; what is unknown stays.
pub fn expand<'a>(text: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> Result<String, TooLong> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        push(&mut out, &rest[..at])?;
        let after = &rest[at + 1..];
        rest = match after.as_bytes().first() {
            Some(b'$') => {
                push(&mut out, "$")?;
                &after[1..]
            }
            Some(b'(') => expand_name(&mut out, after, &lookup)?,
            _ => {
                push(&mut out, "$")?;
                after
            }
        };
    }
    push(&mut out, rest)?;
    Ok(out)
}

/// Handles what follows the dollar of `$(…`; returns the rest.
fn expand_name<'a, 't>(
    out: &mut String,
    after: &'t str,
    lookup: &impl Fn(&str) -> Option<&'a str>,
) -> Result<&'t str, TooLong> {
    let Some(end) = after.find(')') else {
        push(out, "$(")?;
        return Ok(&after[1..]);
    };
    match lookup(&after[1..end]) {
        Some(value) => push(out, value)?,
        None => {
            push(out, "$")?;
            push(out, &after[..=end])?;
        }
    }
    Ok(&after[end + 1..])
}

fn push(out: &mut String, part: &str) -> Result<(), TooLong> {
    if out.len() + part.len() >= STRING_MAX {
        return Err(TooLong);
    }
    out.push_str(part);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_as_upstream_does() {
        let lookup = |name: &str| (name == "A").then_some("1");
        let cases = [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(B)", "$(B)"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
            ("$()", "$()"),
            ("", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(expand(text, lookup).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_string_ends_where_the_kernel_ends_it() {
        let long = "x".repeat(STRING_MAX / 2);
        let lookup = |_: &str| Some(long.as_str());
        assert_eq!(expand("$(A)$(A)", lookup), Err(TooLong));
        assert_eq!(expand("$(A)", lookup).map(|text| text.len()), Ok(STRING_MAX / 2));
        let mut budget = Budget::default();
        assert_eq!(budget.argument(&"x".repeat(STRING_MAX - 1)), Ok(()));
        assert_eq!(budget.variable("A", &"x".repeat(STRING_MAX - 2)), Err(TooLong));
    }
}
