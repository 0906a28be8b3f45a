//! Gives memory back that a process which waits does not need.

use std::io;

use nix::errno::Errno;
use nix::unistd::{SysconfVar, sysconf};

/// Stack that is left alone below a variable of [`rest`], in bytes: more than its frame, and the system call's, take.
const STACK_IN_USE: usize = 8 << 10;

/// Gives back free heap and stack and the heap's pages of zeros, and unmaps the pages of files that are as they are on disk: the
/// next access finds them in the page cache again.
///
/// # Errors
/// When the process's mappings cannot be read, or the kernel refuses.
pub(crate) fn rest() -> io::Result<()> {
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    let page = sysconf(SysconfVar::PAGE_SIZE)?.and_then(|page| usize::try_from(page).ok());
    let here = std::ptr::from_ref(&smaps).addr();
    let stack = page.and_then(|page| free_stack(&smaps, here, page));
    let heap = smaps.lines().find(|line| line.ends_with("[heap]")).and_then(Header::parse);
    let files = clean_files(&smaps);
    drop(smaps);
    #[cfg(target_env = "gnu")]
    // SAFETY: gives back only what the allocator holds as free.
    unsafe {
        libc::malloc_trim(0)
    };
    if let (Some(heap), Some(page)) = (heap, page) {
        // SAFETY: it is this process's heap, which has one thread.
        unsafe { drop_zeros(&heap.mapping, page) }?;
    }
    if let Some(free) = stack {
        // SAFETY: stacks grow down, on every architecture that this is built for. No frame lies so far below this one's while this
        // runs, and later ones begin with what is theirs to write.
        unsafe { give_back(&free) }?;
    }
    // Last, for what runs from here on has its pages mapped again.
    for mapping in files {
        // SAFETY: the mapping is of a file, private, not writable, and no page of it was ever written to: each is read
        // again from the file with the same bytes. This process has one thread, and nothing in the loop unmaps anything.
        unsafe { give_back(&mapping) }?;
    }
    Ok(())
}

/// Drops the pages of a mapping; the next access finds what is in the file, or zeros where there is none.
///
/// # Safety
/// No one relies on what the pages hold, or they are as their file has them, and all of the mapping is mapped.
unsafe fn give_back(mapping: &Mapping) -> io::Result<()> {
    let start = std::ptr::without_provenance_mut(mapping.start);
    // SAFETY: as the caller promises.
    Errno::result(unsafe { libc::madvise(start, mapping.length, libc::MADV_DONTNEED) })?;
    Ok(())
}

/// Drops the heap's pages of zeros, as libraries have them for tables that nothing is in yet: who reads them finds zeros again.
///
/// # Safety
/// `heap` was the heap's mapping a moment ago, and no other thread runs.
unsafe fn drop_zeros(heap: &Mapping, page: usize) -> io::Result<()> {
    const WORD: usize = size_of::<u64>();
    // It may have shrunk since its mapping was read, at any release of memory.
    // SAFETY: asks where the heap ends, and moves nothing.
    let end = unsafe { libc::sbrk(0) }.addr().min(heap.start + heap.length);
    // Nothing here takes or releases any.
    for start in (heap.start..end).step_by(page) {
        let mut words = (start..start + page).step_by(WORD).map(std::ptr::without_provenance::<u64>);
        // SAFETY: the page lies in the heap as it is now, and is readable; whoever the bytes belong to, they are read as they
        // are, aligned, and nobody writes to them meanwhile.
        if words.all(|word| unsafe { word.read_volatile() } == 0) {
            // SAFETY: the page is of zeros, and will be again; nothing was written to it since it was read.
            unsafe { give_back(&Mapping { start, length: page }) }?;
        }
    }
    Ok(())
}

/// The stack, if it is what `here` lies on, from its end in `smaps` to somewhat below `here`, in whole pages.
fn free_stack(smaps: &str, here: usize, page: usize) -> Option<Mapping> {
    let line = smaps.lines().find(|line| line.ends_with("[stack]"))?;
    let stack = Header::parse(line)?.mapping;
    let beneath = here.checked_sub(stack.start).filter(|offset| *offset < stack.length)?;
    let pages = beneath.checked_sub(STACK_IN_USE)? / page;
    (pages > 0).then_some(Mapping { start: stack.start, length: pages * page })
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
    fn the_free_stack_ends_well_below_where_one_is() {
        let smaps = "7ffc00000000-7ffc00040000 rw-p 00000000 00:00 0     [stack]\nRss: 4 kB\n";
        let free = |here| free_stack(smaps, here, 0x1000).map(|free| (free.start, free.length));
        assert_eq!(free(0x7ffc_0003_ff00), Some((0x7ffc_0000_0000, 0x3_d000)));
        assert_eq!(free(0x7ffc_0000_3000), Some((0x7ffc_0000_0000, 0x1000)));
        for near_or_elsewhere in [0x7ffc_0000_2fff, 0x7ffc_0000_0000, 0x7ffc_0004_0000, 0x1000] {
            assert_eq!(free(near_or_elsewhere), None);
        }
        assert_eq!(free_stack("00400000-00401000 r-xp 00000000 fe:00 1 /bin/a\n", 0x40_0800, 0x1000), None);
    }

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
