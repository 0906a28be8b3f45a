//! Sets of numbers as ranges: ports, and addresses of either family.

/// A set of numbers. Normal form: sorted ranges, first to last, that neither overlap nor touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<(u128, u128)>);

impl Ranges {
    /// The ranges, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u128, u128)> + '_ {
        self.0.iter().copied()
    }

    /// Whether the set is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Numbers of both sets.
    pub(crate) fn intersection(&self, other: &Self) -> Self {
        let (mut left, mut right) = (self.iter().peekable(), other.iter().peekable());
        let mut both = Vec::new();
        while let (Some(&(a, b)), Some(&(c, d))) = (left.peek(), right.peek()) {
            if a.max(c) <= b.min(d) {
                both.push((a.max(c), b.min(d)));
            }
            if b < d {
                left.next()
            } else {
                right.next()
            };
        }
        Self(both)
    }

    /// Numbers of this set that are not in `other`.
    pub(crate) fn difference(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        for (first, last) in self.iter() {
            let mut rest = Some(first);
            for (from, to) in other.iter().filter(|(from, to)| *from <= last && *to >= first) {
                if let Some(begin) = rest.filter(|begin| from > *begin) {
                    left.push((begin, from - 1));
                }
                rest = to.checked_add(1).filter(|next| *next <= last);
            }
            left.extend(rest.map(|begin| (begin, last)));
        }
        Self(left)
    }
}

impl FromIterator<(u128, u128)> for Ranges {
    /// Ranges in any order, first to last; a range that runs backwards is empty.
    fn from_iter<I: IntoIterator<Item = (u128, u128)>>(ranges: I) -> Self {
        let mut sorted: Vec<_> = ranges.into_iter().filter(|(first, last)| first <= last).collect();
        sorted.sort_unstable();
        let mut merged: Vec<(u128, u128)> = Vec::with_capacity(sorted.len());
        for (first, last) in sorted {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn ranges() -> impl Strategy<Value = Ranges> {
        vec((0u128..40, 0u128..12), 0..6).prop_map(|v| v.into_iter().map(|(a, n)| (a, a + n)).collect())
    }

    fn has(set: &Ranges, number: u128) -> bool {
        set.iter().any(|(first, last)| (first..=last).contains(&number))
    }

    proptest! {
        #[test]
        fn each_operation_is_that_of_its_members(a in ranges(), b in ranges()) {
            let either: Ranges = a.iter().chain(b.iter()).collect();
            let (both, left) = (a.intersection(&b), a.difference(&b));
            for number in 0..60 {
                let (in_a, in_b) = (has(&a, number), has(&b, number));
                prop_assert_eq!(has(&both, number), in_a && in_b);
                prop_assert_eq!(has(&either, number), in_a || in_b);
                prop_assert_eq!(has(&left, number), in_a && !in_b);
            }
            for set in [&both, &either, &left] {
                prop_assert_eq!(&set.iter().collect::<Ranges>(), set, "normal form");
            }
        }
    }

    #[test]
    fn the_highest_number_has_nothing_after_it() {
        let all: Ranges = [(0, u128::MAX)].into_iter().collect();
        assert_eq!([(u128::MAX, u128::MAX), (0, u128::MAX)].into_iter().collect::<Ranges>(), all);
        assert!(all.difference(&all).is_empty());
        assert_eq!(all.difference(&[(0, 4)].into_iter().collect()).iter().next(), Some((5, u128::MAX)));
    }
}
