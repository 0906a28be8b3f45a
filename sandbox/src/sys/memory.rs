//! Gives memory back that a process which waits does not need.

use std::io;

use nix::errno::Errno;

/// Gives back free heap, and unmaps the pages of files that are as they are on disk: the next access finds them in the page
/// cache again.
///
/// # Errors
/// When the process's mappings cannot be read, or the kernel refuses.
pub(crate) fn rest() -> io::Result<()> {
    #[cfg(target_env = "gnu")]
    // SAFETY: gives back only what the allocator holds as free.
    unsafe {
        libc::malloc_trim(0)
    };
    for mapping in clean_files(&std::fs::read_to_string("/proc/self/smaps")?) {
        let start = std::ptr::without_provenance_mut(mapping.start);
        // SAFETY: the mapping is of a file, private, not writable, and no page of it was ever written to: each is read
        // again from the file with the same bytes. This process has one thread, and nothing in the loop unmaps anything.
        Errno::result(unsafe { libc::madvise(start, mapping.length, libc::MADV_DONTNEED) })?;
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    start: usize,
    length: usize,
}

/// The mappings in `smaps`, as of proc(5), of which every page can be read from its file again: private ones that cannot be
/// written to and have no page that was written to before (as relocated ones have), in memory or swapped out.
fn clean_files(smaps: &str) -> Vec<Mapping> {
    let mut clean = Vec::new();
    let mut lines = smaps.lines().peekable();
    while let Some(header) = lines.next() {
        let members: Vec<_> =
            std::iter::from_fn(|| lines.next_if(|line| Header::parse(line).is_none())).collect();
        let size_of = |name| {
            let mut sizes = members.iter().filter_map(|line| line.split_once(':'));
            sizes.find_map(|(member, size)| (member == name).then_some(size.trim()))
        };
        let unwritten = size_of("Anonymous") == Some("0 kB") && size_of("Swap").unwrap_or("0 kB") == "0 kB";
        let header = Header::parse(header).filter(|header| header.is_read_only_file && unwritten);
        clean.extend(header.map(|header| header.mapping));
    }
    clean
}

struct Header {
    mapping: Mapping,
    is_read_only_file: bool,
}

impl Header {
    /// `START-END PERMISSIONS OFFSET DEVICE INODE PATH`
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
        let permissions = words.next()?;
        let inode: u64 = words.nth(2)?.parse().ok()?;
        let is_read_only_file = inode != 0 && matches!(permissions, "r--p" | "r-xp");
        Some(Self { mapping: Mapping { start, length: end.checked_sub(start)? }, is_read_only_file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_file_still_has_is_clean() {
        let smaps = "\
55d0c0000000-55d0c0100000 r--p 00000000 fe:00 4711 /usr/bin/a program
Rss:                 100 kB
Anonymous:             0 kB
55d0c0100000-55d0c0200000 r-xp 00100000 fe:00 4711 /usr/bin/a program
Anonymous:             0 kB
Swap:                  0 kB
55d0c0200000-55d0c0210000 r--p 00200000 fe:00 4711 /usr/bin/a program
Anonymous:             4 kB
55d0c0210000-55d0c0220000 rw-p 00210000 fe:00 4711 /usr/bin/a program
Anonymous:             0 kB
55d0c0220000-55d0c0230000 r--s 00000000 fe:00 4711 /usr/bin/a program
Anonymous:             0 kB
55d0c0240000-55d0c0250000 r--p 00210000 fe:00 4711 /usr/bin/a program
Anonymous:             0 kB
Swap:                  4 kB
7ffd00000000-7ffd00001000 r--p 00000000 00:00 0 [vvar]
Anonymous:             0 kB
55d0c0230000-55d0c0240000 r--p 00000000 fe:00 4711 without any line
";
        let clean = clean_files(smaps);
        let expected = [0x55d0_c000_0000, 0x55d0_c010_0000].map(|start| Mapping { start, length: 0x10_0000 });
        assert_eq!(clean, expected);
    }
}
