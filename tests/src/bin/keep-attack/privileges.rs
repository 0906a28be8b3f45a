//! Keeping, or gaining, what no label asked for: capabilities, identities, limits.

use std::os::fd::AsRawFd as _;
use std::process::Command;

use crate::probe::Wall::{Capabilities, Seccomp};
use crate::probe::{Probe, probe, with_resource};
use crate::tools::{runs, sys, words};

pub(crate) const PROBES: &[Probe] = &[
    probe("set-user-id", "a set-user-ID program of the image", Capabilities, || {
        runs(Command::new("/srv/tools/raise").arg("raised"))
    })
    .user(),
    probe("setuid", "becoming another user", Capabilities, || {
        sys!(libc::SYS_setuid, 12_345)?;
        Ok(())
    })
    .root(),
    probe("setgid", "becoming another group", Capabilities, || {
        sys!(libc::SYS_setgid, 12_345)?;
        Ok(())
    })
    .root(),
    probe("setgroups", "joining groups", Capabilities, || {
        sys!(libc::SYS_setgroups, 1, 6u32.to_ne_bytes().as_slice())?;
        Ok(())
    })
    .root(),
    probe("setresuid", "an identity kept for later: setresuid", Seccomp, || {
        sys!(libc::SYS_setresuid, -1, 12_345, -1)?;
        Ok(())
    })
    .root(),
    probe("capset", "capset: every capability", Capabilities, || {
        // _LINUX_CAPABILITY_VERSION_3 of this process: effective, permitted, inheritable; CAP_SYS_ADMIN is bit 21.
        let header = words(&[0x2008_0522]);
        let mut sets = [0u8; 24];
        for place in [2, 6] {
            sets.iter_mut().skip(place).take(1).for_each(|byte| *byte = 0x20);
        }
        sys!(libc::SYS_capset, header.as_slice(), sets.as_slice())?;
        Ok(())
    })
    .root(),
    probe("ambient", "a capability made ambient", Capabilities, || {
        let raise = |header: &[u8], sets: &[u8]| sys!(libc::SYS_capset, header, sets);
        let mut sets = [0u8; 24];
        for place in [1, 5, 9] {
            sets.iter_mut().skip(place).take(1).for_each(|byte| *byte = 0x04); // CAP_NET_BIND_SERVICE
        }
        raise(&words(&[0x2008_0522]), &sets)?;
        sys!(libc::SYS_prctl, libc::PR_CAP_AMBIENT, 2, 10, 0, 0)?;
        Ok(())
    })
    .root(),
    probe("dac-override", "writing somebody else's file", Capabilities, || {
        crate::tools::writable("/data/theirs")
    })
    .root(),
    probe("fowner", "changing the mode of somebody else's file", Capabilities, || {
        use std::os::unix::fs::PermissionsExt as _;
        Ok(std::fs::set_permissions("/data/theirs", std::fs::Permissions::from_mode(0o700))?)
    })
    .root(),
    probe("give-away", "giving a file away", Capabilities, || {
        std::fs::write("/data/mine", "x")?;
        Ok(std::os::unix::fs::chown("/data/mine", Some(12_345), None)?)
    })
    .root(),
    probe("set-file-capabilities", "capabilities put on a file", Seccomp, || {
        std::fs::write("/data/capable", "x")?;
        let value = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        sys!(libc::SYS_setxattr, c"/data/capable", c"security.capability", value.as_slice(), 20, 0)?;
        Ok(())
    })
    .root(),
    probe("nice", "a better priority", Capabilities, || {
        sys!(libc::SYS_setpriority, 0, 0, -20)?;
        Ok(())
    })
    .root(),
    probe("io-priority", "real-time input and output", Capabilities, || {
        sys!(libc::SYS_ioprio_set, 1, 0, 1 << 13)?;
        Ok(())
    })
    .root(),
    probe("raise-limit", "a limit raised past what was set", Capabilities, || {
        let mut limit = [0; 16];
        sys!(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE as i32, 0, limit.as_mut_slice())?;
        let hard = limit.get(8..).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes);
        let more = words(&[hard + 1, hard + 1]);
        with_resource(sys!(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE as i32, more.as_slice(), 0)).map(drop)
    })
    .root(),
    probe("lock-memory", "memory locked past the limit", Seccomp, || {
        sys!(libc::SYS_mlockall, libc::MCL_CURRENT)?;
        Ok(())
    })
    .root(),
    probe("chroot", "chroot", Seccomp, || Ok(std::os::unix::fs::chroot("/srv")?)).root(),
    probe("immutable", "a file made immutable", Capabilities, || {
        std::fs::write("/data/immutable", "x")?;
        let file = std::fs::File::open("/data/immutable")?;
        sys!(libc::SYS_ioctl, file.as_raw_fd(), 0x4008_6602_u32, words(&[0x10]).as_slice())?;
        sys!(libc::SYS_ioctl, file.as_raw_fd(), 0x4008_6602_u32, words(&[0]).as_slice())?;
        Ok(())
    })
    .root(),
];
