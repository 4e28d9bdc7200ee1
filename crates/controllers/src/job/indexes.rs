//! Sets of completion indexes as a Job's status writes them: `1,3-5,7`.

use std::collections::BTreeSet;
use std::fmt;

/// Disjoint ranges in order, none of which touches the next. Small however many indexes there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Indexes {
    ranges: Vec<(i32, i32)>,
}

impl Indexes {
    /// Reads the text of a status or a rule: what is not understood or not below `completions` is left out.
    pub(super) fn parse(text: &str, completions: i32) -> Self {
        let mut read = Self::default();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>())
                && first >= 0
            {
                read.add(first, last.min(completions.saturating_sub(1)));
            }
        }
        read
    }

    fn add(&mut self, first: i32, last: i32) {
        if first > last {
            return;
        }
        let from = self.ranges.partition_point(|(_, end)| end.saturating_add(1) < first);
        let to = self.ranges.partition_point(|(begin, _)| *begin <= last.saturating_add(1));
        let joined = self.ranges[from..to]
            .iter()
            .fold((first, last), |joined, range| (joined.0.min(range.0), joined.1.max(range.1)));
        self.ranges.splice(from..to, [joined]);
    }

    pub(super) fn insert(&mut self, index: i32) {
        self.add(index, index);
    }

    pub(super) fn extend(&mut self, other: &Self) {
        for (first, last) in &other.ranges {
            self.add(*first, *last);
        }
    }

    pub(super) fn has(&self, index: i32) -> bool {
        let at = self.ranges.partition_point(|(_, last)| *last < index);
        self.ranges.get(at).is_some_and(|(first, _)| *first <= index)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(super) fn total(&self) -> i32 {
        self.ranges.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// How many indexes are in both.
    pub(super) fn common(&self, other: &Self) -> i32 {
        let overlap = |(a, b): &(i32, i32), (c, d): &(i32, i32)| (b.min(d) - a.max(c) + 1).max(0);
        let (mut mine, mut theirs, mut common) = (0, 0, 0);
        while let (Some(one), Some(two)) = (self.ranges.get(mine), other.ranges.get(theirs)) {
            common += overlap(one, two);
            if one.1 <= two.1 {
                mine += 1;
            } else {
                theirs += 1;
            }
        }
        common
    }

    /// The first `count` indexes below `completions` that are not in the set.
    pub(super) fn first_missing(&self, count: usize, completions: i32) -> Vec<i32> {
        let mut missing = Vec::new();
        let mut candidate = 0;
        for (first, last) in self.ranges.iter().copied().chain([(completions, completions)]) {
            let end = first.min(completions);
            while candidate < end && missing.len() < count {
                missing.push(candidate);
                candidate += 1;
            }
            candidate = candidate.max(last.saturating_add(1));
        }
        missing
    }
}

impl FromIterator<i32> for Indexes {
    fn from_iter<T: IntoIterator<Item = i32>>(indexes: T) -> Self {
        let mut all = Self::default();
        for index in indexes.into_iter().collect::<BTreeSet<_>>() {
            all.insert(index);
        }
        all
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.ranges.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn two_neighbours_are_a_list_and_three_a_range() {
        let text = |indexes: &[i32]| indexes.iter().copied().collect::<Indexes>().to_string();
        assert_eq!(text(&[]), "");
        assert_eq!(text(&[1, 3, 4, 7, 5]), "1,3-5,7");
        assert_eq!(text(&[0, 1, 3]), "0,1,3");
        assert_eq!(Indexes::parse("0,1,3-9,x,5-z", 6).to_string(), "0,1,3-5");
    }

    proptest! {
        #[test]
        fn a_set_of_ranges_is_a_set(
            one in prop::collection::btree_set(0..40, 0..20),
            two in prop::collection::btree_set(0..40, 0..20),
            count in 0..10_usize,
        ) {
            let ranges = |set: &BTreeSet<i32>| set.iter().copied().collect::<Indexes>();
            let (a, b) = (ranges(&one), ranges(&two));
            prop_assert_eq!(&Indexes::parse(&a.to_string(), 40), &a);
            prop_assert_eq!(a.total() as usize, one.len());
            prop_assert_eq!(a.common(&b) as usize, one.intersection(&two).count());
            let mut all = a.clone();
            all.extend(&b);
            prop_assert_eq!(&all, &one.union(&two).copied().collect::<Indexes>());
            for index in 0..40 {
                prop_assert_eq!(all.has(index), one.contains(&index) || two.contains(&index));
            }
            let missing: Vec<i32> = (0..40).filter(|index| !one.contains(index)).take(count).collect();
            prop_assert_eq!(a.first_missing(count, 40), missing);
        }
    }
}
