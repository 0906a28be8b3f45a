//! Sets of paths, where a path stands for itself and everything beneath it.

use std::collections::BTreeSet;

use crate::intent::AbsPath;

/// Drops every path that lies beneath another one of the set: the normal form.
pub(crate) fn topmost(paths: &BTreeSet<AbsPath>) -> BTreeSet<AbsPath> {
    let mut tops: BTreeSet<AbsPath> = BTreeSet::new();
    // A path sorts after each of its parents, though not always right after.
    for path in paths {
        if !path.ancestors().any(|parent| tops.contains(&parent)) {
            tops.insert(path.clone());
        }
    }
    tops
}

/// What a ceiling leaves of one path: the path itself if it lies within, else those entries of the ceiling that lie
/// beneath it.
pub(crate) fn narrowed(path: &AbsPath, ceiling: &BTreeSet<AbsPath>) -> BTreeSet<AbsPath> {
    if ceiling.iter().any(|entry| path.is_beneath(entry)) {
        return BTreeSet::from([path.clone()]);
    }
    ceiling.iter().filter(|entry| entry.is_beneath(path)).cloned().collect()
}

/// Whether one of the paths lies beneath the other.
pub(crate) fn overlapping(one: &AbsPath, other: &AbsPath) -> bool {
    one.is_beneath(other) || other.is_beneath(one)
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_set;
    use proptest::prelude::*;

    use super::*;

    /// Paths of up to three parts, some with a common beginning that is no parent (`/a` and `/ab`).
    fn path() -> impl Strategy<Value = AbsPath> {
        "(/(a|ab|b)){0,3}".prop_map(|text| AbsPath::new(&format!("/{text}")).unwrap())
    }

    fn covers(set: &BTreeSet<AbsPath>, path: &AbsPath) -> bool {
        set.iter().any(|entry| path.is_beneath(entry))
    }

    proptest! {
        #[test]
        fn the_normal_form_covers_the_same_and_nothing_twice(set in btree_set(path(), 0..6), probe in path()) {
            let tops = topmost(&set);
            prop_assert_eq!(covers(&tops, &probe), covers(&set, &probe));
            for one in &tops {
                prop_assert!(!tops.iter().any(|other| other != one && overlapping(one, other)));
            }
        }

        #[test]
        fn narrowing_is_the_intersection(one in path(), ceiling in btree_set(path(), 0..6), probe in path()) {
            let left = narrowed(&one, &ceiling);
            prop_assert_eq!(covers(&left, &probe), probe.is_beneath(&one) && covers(&ceiling, &probe));
        }
    }
}
