//! Plans made by hand, for this crate's tests.

use std::collections::BTreeSet;

use profiles::Plan;
use profiles::intent::AbsPath;
use profiles::policy::Mode;
use profiles::profile::Bounds;

pub(crate) fn abs(path: &str) -> AbsPath {
    AbsPath::new(path).unwrap()
}

/// A plan of an enforcing class that has no wall yet.
pub(crate) fn bare_plan() -> Plan {
    Plan {
        profile: "sha256:0".to_owned(),
        mode: Mode::Enforce,
        programs: None,
        without_interpreter: BTreeSet::new(),
        program_bounds: Bounds::default(),
        entrypoint: None,
        write: None,
        write_bounds: Bounds::default(),
        hidden: Default::default(),
        no_new_privileges: true,
        capabilities: None,
        landlock: None,
        seccomp: None,
        network: None,
        sockets: None,
        gaps: Vec::new(),
    }
}

/// `DT_SONAME`, `DT_DEBUG` and `DT_FLAGS_1` with `DF_1_PIE`, for [`elf`].
pub(crate) const SONAME: (u64, u64) = (14, 1);
pub(crate) const DEBUG: (u64, u64) = (21, 0);
pub(crate) const PIE: (u64, u64) = (0x6fff_fffb, 0x0800_0001);

/// A 64-bit ELF file of this architecture: its type, whether it names a loader, its dynamic section if it has one.
pub(crate) fn elf(kind: u16, has_loader: bool, dynamic: Option<&[(u64, u64)]>) -> Vec<u8> {
    let machine: u16 = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
    let loader = b"/lib/ld.so\0";
    let entries: Vec<u8> = dynamic
        .iter()
        .flat_map(|entries| entries.iter().chain(&[(0, 0)]))
        .flat_map(|(tag, value)| [tag.to_le_bytes(), value.to_le_bytes()].concat())
        .collect();
    let parts: Vec<(u32, &[u8])> =
        [(3, has_loader.then_some(&loader[..])), (2, dynamic.map(|_| &entries[..]))]
            .into_iter()
            .filter_map(|(kind, part)| Some((kind, part?)))
            .collect();
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([kind.to_le_bytes(), machine.to_le_bytes()].concat());
    file.resize(32, 0);
    file.extend(64_u64.to_le_bytes());
    file.resize(54, 0);
    file.extend([56_u16.to_le_bytes(), (parts.len() as u16).to_le_bytes()].concat());
    file.resize(64, 0);
    let mut offset = 64 + 56 * parts.len() as u64;
    for (kind, part) in &parts {
        let size = part.len() as u64;
        file.extend([kind.to_le_bytes(), 4_u32.to_le_bytes()].concat());
        file.extend([offset, offset, offset, size, size, 8].map(u64::to_le_bytes).concat());
        offset += size;
    }
    parts.iter().for_each(|(_, part)| file.extend(*part));
    file
}
