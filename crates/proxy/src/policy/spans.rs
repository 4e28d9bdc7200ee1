//! Spans of numbers and of addresses: unions without overlaps, and what an exception leaves.
//!
//! The kernel's sets of intervals take no two that overlap, so each list is made disjoint here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Family;

/// From the first to the last, both of them in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span<T> {
    /// The lowest.
    pub first: T,
    /// The highest.
    pub last: T,
}

impl<T: Copy + Ord> Span<T> {
    /// Whether it holds this one.
    pub fn contains(&self, value: T) -> bool {
        (self.first..=self.last).contains(&value)
    }
}

/// The same numbers in disjoint spans, in order, as few as can be.
pub(super) fn union(mut spans: Vec<Span<u128>>) -> Vec<Span<u128>> {
    spans.sort_unstable();
    let mut merged: Vec<Span<u128>> = Vec::with_capacity(spans.len());
    for span in spans {
        match merged.last_mut() {
            // Neighbours are one span too.
            Some(last) if span.first <= last.last.saturating_add(1) => last.last = last.last.max(span.last),
            _ => merged.push(span),
        }
    }
    merged
}

/// What of `whole` is in none of `except`.
pub(super) fn without(whole: Span<u128>, except: Vec<Span<u128>>) -> Vec<Span<u128>> {
    let mut left = Vec::new();
    let mut next = whole.first;
    for hole in union(except) {
        if hole.last < next {
            continue;
        }
        if hole.first > whole.last {
            break;
        }
        if hole.first > next {
            left.push(Span { first: next, last: hole.first - 1 });
        }
        match hole.last.checked_add(1).filter(|next| *next <= whole.last) {
            Some(after) => next = after,
            None => return left,
        }
    }
    left.push(Span { first: next, last: whole.last });
    left
}

/// The addresses of a range in CIDR notation, as numbers.
pub(super) fn of_cidr(text: &str) -> Option<(Family, Span<u128>)> {
    let (address, bits) = api::validate::parse_cidr_sloppy(text)?;
    let (number, width) = number(address);
    let hosts = u32::from(width - bits);
    let mask = u128::MAX.checked_shl(hosts).unwrap_or(0);
    let all = u128::MAX.checked_shr(128 - hosts).unwrap_or(0);
    let first = number & mask;
    Some((Family::of(address), Span { first, last: first | all }))
}

fn number(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    }
}

/// Back from numbers to addresses.
pub(super) fn addresses(family: Family, span: Span<u128>) -> Span<IpAddr> {
    let address = |number: u128| match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX))),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
    };
    Span { first: address(span.first), last: address(span.last) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(first: u128, last: u128) -> Span<u128> {
        Span { first, last }
    }

    #[test]
    fn overlaps_and_neighbours_become_one() {
        assert_eq!(
            union(vec![span(5, 9), span(1, 2), span(3, 3), span(20, 30), span(8, 10)]),
            [span(1, 3), span(5, 10), span(20, 30)]
        );
        assert_eq!(union(vec![span(0, u128::MAX), span(7, 7)]), [span(0, u128::MAX)]);
    }

    #[test]
    fn an_exception_leaves_what_is_beside_it() {
        assert_eq!(without(span(10, 20), vec![]), [span(10, 20)]);
        assert_eq!(without(span(10, 20), vec![span(12, 13), span(13, 15)]), [span(10, 11), span(16, 20)]);
        assert_eq!(without(span(10, 20), vec![span(0, 10), span(20, 99)]), [span(11, 19)]);
        assert_eq!(without(span(10, 20), vec![span(0, 5), span(30, 40)]), [span(10, 20)]);
        assert_eq!(without(span(10, 20), vec![span(10, 20)]), []);
        assert_eq!(without(span(0, u128::MAX), vec![span(5, u128::MAX)]), [span(0, 4)]);
    }

    #[test]
    fn ranges_are_read_with_any_address_of_theirs() {
        let read = |text: &str| {
            let (family, span) = of_cidr(text).unwrap();
            let Span { first, last } = addresses(family, span);
            format!("{first}-{last}")
        };
        assert_eq!(read("10.1.2.3/16"), "10.1.0.0-10.1.255.255");
        assert_eq!(read("10.1.2.3/32"), "10.1.2.3-10.1.2.3");
        assert_eq!(read("0.0.0.0/0"), "0.0.0.0-255.255.255.255");
        assert_eq!(read("::/0"), "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        assert_eq!(read("fd00::7/64"), "fd00::-fd00::ffff:ffff:ffff:ffff");
        assert!(of_cidr("10.0.0.0/33").is_none());
    }
}
