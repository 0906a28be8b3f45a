//! What was meant: the nearest known name.

/// The known name nearest to `text`, if one is near: at most a third of its letters differ.
pub(crate) fn nearest<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let text = text.to_ascii_lowercase();
    if text.len() > 64 {
        return None;
    }
    let scored = known.map(|name| (distance(&text, &name.to_ascii_lowercase()), name));
    let near = |distance: usize, name: &str| distance <= (name.chars().count() / 3).max(1);
    scored.filter(|(distance, name)| near(*distance, name)).min().map(|(_, name)| name)
}

/// Letters inserted, removed, replaced, or swapped with their neighbour (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut previous: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, right) in b.iter().enumerate() {
            let replaced = previous[j] + usize::from(left != right);
            let mut best = replaced.min(previous[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i - 1] == *right && *left == b[j - 1] {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut previous, row);
    }
    previous.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_its_name_and_nonsense_finds_none() {
        let known = ["jit", "ipc", "io-uring", "raw-sockets"];
        let find = |text| nearest(text, known.into_iter());
        assert_eq!(find("iouring"), Some("io-uring"));
        assert_eq!(find("jti"), Some("jit"));
        assert_eq!(find("raw_socket"), Some("raw-sockets"));
        assert_eq!(find("everything"), None);
        assert_eq!(find(""), None);
        assert_eq!(find(&"x".repeat(5000)), None);
    }

    #[test]
    fn distances_count_edits_and_swaps() {
        for (a, b, expected) in [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("ab", "ba", 1)] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
