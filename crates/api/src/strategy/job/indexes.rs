//! Lists of indexes: `0,2-4`.

use crate::field::go_quote;

/// How many indexes a list names, or why it is none for a Job with so many completions.
pub(super) fn count(text: &str, completions: i64) -> Result<i64, String> {
    let (mut total, mut last) = (0, None);
    for interval in intervals(text) {
        let (first, end) = parse(interval, completions)?;
        if let Some(last) = last.filter(|last| *last >= first) {
            return Err(not_increasing(last, first));
        }
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

/// The first index that is in both lists. What cannot be read is passed over: it is told elsewhere.
pub(super) fn common(one: &str, other: &str, completions: i64) -> Option<i64> {
    let read = |text| intervals(text).filter_map(|interval| parse(interval, completions).ok());
    let (mut ones, mut others) = (read(one).peekable(), read(other).peekable());
    loop {
        let (a, b) = (*ones.peek()?, *others.peek()?);
        if a.0 <= b.1 && b.0 <= a.1 {
            return Some(a.0.max(b.0));
        }
        if a.0 <= b.0 {
            ones.next()
        } else {
            others.next()
        };
    }
}

fn intervals(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(|_| !text.is_empty())
}

fn parse(interval: &str, completions: i64) -> Result<(i64, i64), String> {
    let index = |text: &str| -> Result<i64, String> {
        let index: i64 = text
            .parse()
            .map_err(|_| format!("cannot convert string to integer for index: {}", go_quote(text)))?;
        if index >= completions {
            return Err(format!("too large index: {}", go_quote(text)));
        }
        Ok(index)
    };
    let (first, end) = match interval.split('-').collect::<Vec<_>>()[..] {
        [one] => return index(one).map(|index| (index, index)),
        [first, end] => (index(first)?, index(end)?),
        _ => {
            return Err(format!(
                "the fragment {} violates the requirement that an index interval can have at most two parts separated by '-'",
                go_quote(interval)
            ));
        }
    };
    if first >= end { Err(not_increasing(first, end)) } else { Ok((first, end)) }
}

fn not_increasing(previous: i64, current: i64) -> String {
    format!("non-increasing order, previous: {previous}, current: {current}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_single_or_intervals_in_order_below_the_completions() {
        assert_eq!(count("", 5), Ok(0));
        assert_eq!(count("0,2-4", 5), Ok(4));
        for (text, words) in [
            ("0,5", "too large index: \"5\""),
            ("1-9", "too large index: \"9\""),
            ("a", "cannot convert string to integer for index: \"a\""),
            ("1,", "cannot convert string to integer for index: \"\""),
            ("3-3", "non-increasing order, previous: 3, current: 3"),
            ("2,1", "non-increasing order, previous: 2, current: 1"),
            ("0-2,2", "non-increasing order, previous: 2, current: 2"),
            (
                "1-2-3",
                "the fragment \"1-2-3\" violates the requirement that an index interval can have at most two parts separated by '-'",
            ),
        ] {
            assert_eq!(count(text, 5), Err(words.to_owned()), "{text}");
        }
    }

    #[test]
    fn the_first_common_index_is_found() {
        assert_eq!(common("0-3,7", "4,6-9", 10), Some(7));
        assert_eq!(common("0-3", "2-5", 10), Some(2));
        assert_eq!(common("5-9", "0,x,9", 10), Some(9));
        assert_eq!(common("0,2,4", "1,3,5", 10), None);
        assert_eq!(common("", "1", 10), None);
    }
}
