//! The reader's side of a BPF ring buffer.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::unistd::{SysconfVar, sysconf};

/// In a record's header: it is being written still. Source of these: include/uapi/linux/bpf.h.
const BUSY: u32 = 1 << 31;
/// It is to be skipped.
const DISCARD: u32 = 1 << 30;
/// Bytes of a header, to which records are aligned.
const HEADER: usize = 8;

/// A ring buffer's pages in this process: the reader's position, which it writes; the writer's position and the data twice
/// in a row, which it only reads.
#[derive(Debug)]
pub(crate) struct Ring {
    map: OwnedFd,
    reader: NonNull<libc::c_void>,
    writer: NonNull<libc::c_void>,
    page: usize,
    size: usize,
}

impl Ring {
    /// Maps the ring buffer `map`, which was made with `size` bytes.
    pub(crate) fn new(map: OwnedFd, size: usize) -> io::Result<Self> {
        let page =
            sysconf(SysconfVar::PAGE_SIZE)?.and_then(|size| usize::try_from(size).ok()).unwrap_or(4096);
        let length = |bytes| NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput);
        let both = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: new mappings at addresses of the kernel's choice; nothing refers to them but this object.
        let reader = unsafe { mmap(None, length(page)?, both, MapFlags::MAP_SHARED, &map, 0) }?;
        let (rest, from) = (length(page + 2 * size)?, page.try_into().map_err(io::Error::other)?);
        // SAFETY: as above.
        let writer = unsafe { mmap(None, rest, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, &map, from) };
        let writer = writer.inspect_err(|_| {
            // SAFETY: mapped just above with this length, and used by nobody. Were it to fail, a page would stay mapped.
            let unmapped = unsafe { munmap(reader, page) };
            debug_assert!(unmapped.is_ok());
        })?;
        Ok(Self { map, reader, writer, page, size })
    }

    /// Takes the next record out, cut or filled with zeroes to `N` bytes; `None` when there is none.
    pub(crate) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        // SAFETY: both pages are mapped as long as `self` lives, begin with a position that the kernel accesses atomically,
        // and are aligned to a page.
        let (reader, writer) = unsafe {
            (&*self.reader.as_ptr().cast::<AtomicUsize>(), &*self.writer.as_ptr().cast::<AtomicUsize>())
        };
        loop {
            let at = reader.load(Ordering::Relaxed);
            if at >= writer.load(Ordering::Acquire) {
                return None;
            }
            // SAFETY: the position is within `size` once wrapped, records are aligned to eight bytes, and behind the first
            // page lie twice `size` bytes.
            let header = unsafe {
                let data = self.writer.as_ptr().cast::<u8>().add(self.page);
                data.add(at & (self.size - 1))
            };
            // SAFETY: a header begins with a length that the kernel writes atomically; see above for its place.
            let length = unsafe { &*header.cast::<AtomicU32>() }.load(Ordering::Acquire);
            if length & BUSY != 0 {
                return None;
            }
            let bytes = (length & !DISCARD) as usize;
            let mut record = [0; N];
            // SAFETY: the data lie twice in a row, so that a record that the kernel wrote is contiguous behind its header; the
            // kernel does not write over it before the reader's position has passed it.
            unsafe { std::ptr::copy_nonoverlapping(header.add(HEADER), record.as_mut_ptr(), bytes.min(N)) };
            reader.store(at + (bytes + HEADER).next_multiple_of(HEADER), Ordering::Release);
            if length & DISCARD == 0 {
                return Some(record);
            }
        }
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: both were mapped by `new` with these lengths, and no reference into them outlives `self`.
        let unmapped =
            unsafe { (munmap(self.reader, self.page), munmap(self.writer, self.page + 2 * self.size)) };
        debug_assert!(unmapped.0.is_ok() && unmapped.1.is_ok());
    }
}
