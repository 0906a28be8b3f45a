//! The only `unsafe` of the workspace: what no safe crate wraps.

pub(crate) mod bpf;
pub(crate) mod descriptors;
pub(crate) mod memory;
pub(crate) mod mounts;
pub(crate) mod process;
pub(crate) mod ring;
pub(crate) mod seccomp;

/// The kernel's Landlock ABI; 0 where Landlock is absent or off.
pub(crate) fn landlock_abi() -> u32 {
    /// Source: `LANDLOCK_CREATE_RULESET_VERSION`, include/uapi/linux/landlock.h.
    const VERSION: libc::c_ulong = 1;
    // SAFETY: with this flag the kernel takes a null attribute of size 0 and only returns a number: it reads no
    // memory and makes no ruleset.
    let abi = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0usize, VERSION)
    };
    u32::try_from(abi).unwrap_or(0)
}
