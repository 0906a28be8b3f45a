//! What a file's first bytes say: a script's interpreter, an ELF file's loader; whether it is a library or a program.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use profiles::plan::Arch;

use crate::facts::NATIVE;

/// The kernel reads this much of a script's first line. Source: `BINPRM_BUF_SIZE`, include/uapi/linux/binfmts.h.
const FIRST_LINE: usize = 256;

/// A file with more program headers than this counts as having none; linkers write about a dozen.
const MAX_HEADERS: usize = 64;

/// A dynamic section longer than this, in bytes, is no library's; linkers write a few hundred.
const MAX_DYNAMIC: u64 = 64 << 10;

// Source of all of them: include/uapi/linux/elf.h; `DF_1_PIE`: elf.h of glibc.
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const ET_REL: u64 = 1;
const ET_DYN: u64 = 3;
const ET_CORE: u64 = 4;
const DT_SONAME: u64 = 14;
const DT_DEBUG: u64 = 21;
const DT_FLAGS_1: u64 = 0x6fff_fffb;
const DF_1_PIE: u64 = 0x0800_0000;

/// This architecture's libraries are 64-bit, and say that they are for it. Source: include/uapi/linux/elf-em.h.
const NATIVE_MACHINE: u64 = match NATIVE {
    Arch::X86_64 => 62,
    Arch::Aarch64 => 183,
};

/// What a file may be mapped executable as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A shared library of this architecture, or a PE file, which .NET maps.
    Library,
    /// ELF that the kernel or the loader would run, or whose kind cannot be told.
    Program,
    /// Nothing that is ever mapped executable.
    Data,
}

/// Tells libraries from programs. A relocatable program is ELF of the same type as a library: it has a place for the
/// debugger (`DT_DEBUG`), says that it is one (`DF_1_PIE`), or names a loader and not itself.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn kind(file: &File) -> io::Result<Kind> {
    let mut magic = [0; 4];
    let length = read_up_to(file, &mut magic, 0)?;
    match &magic[..length] {
        b"\x7fELF" => elf_kind(file),
        [b'M', b'Z', ..] => Ok(Kind::Library),
        _ => Ok(Kind::Data),
    }
}

fn elf_kind(file: &File) -> io::Result<Kind> {
    let mut start = [0; 64];
    let length = read_up_to(file, &mut start, 0)?;
    let start = &start[..length];
    match number(start, 16, 2) {
        // Neither the kernel nor a loader takes these.
        Some(ET_REL | ET_CORE) => return Ok(Kind::Data),
        Some(ET_DYN) => {}
        _ => return Ok(Kind::Program),
    }
    let Some(layout) = layout(start) else { return Ok(Kind::Program) };
    let segments = segments(file, start, layout)?;
    let has_loader = segments.iter().any(|segment| segment.kind == PT_INTERP);
    let dynamic = segments.iter().find(|segment| segment.kind == PT_DYNAMIC);
    let Some(dynamic) = dynamic.filter(|dynamic| (1..=MAX_DYNAMIC).contains(&dynamic.size)) else {
        return Ok(Kind::Program);
    };
    let (mut has_name, mut is_program) = (false, false);
    for (tag, value) in entries(file, dynamic, layout)? {
        has_name |= tag == DT_SONAME;
        is_program |= tag == DT_DEBUG || (tag == DT_FLAGS_1 && value & DF_1_PIE != 0);
    }
    let is_native = layout.word == ELF64.word && number(start, 18, 2) == Some(NATIVE_MACHINE);
    Ok(match (is_program || (has_loader && !has_name), is_native) {
        (true, _) => Kind::Program,
        (false, true) => Kind::Library,
        (false, false) => Kind::Data,
    })
}

/// Tags and values of a dynamic section.
fn entries(file: &File, dynamic: &Segment, layout: &Layout) -> io::Result<Vec<(u64, u64)>> {
    let mut bytes = vec![0; usize::try_from(dynamic.size.min(MAX_DYNAMIC)).unwrap_or_default()];
    let length = read_up_to(file, &mut bytes, dynamic.offset)?;
    let pair =
        |entry: &[u8]| Some((number(entry, 0, layout.word)?, number(entry, layout.word, layout.word)?));
    let all = bytes[..length].chunks_exact(2 * layout.word).filter_map(pair);
    Ok(all.take_while(|(tag, _)| *tag != 0).collect())
}

/// Who runs a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Header {
    /// `#!`: the interpreter, and the rest of the line.
    Script { interpreter: String, argument: String },
    /// ELF, loaded by this loader.
    Dynamic { loader: String },
    /// Anything else: static, or not a program.
    Other,
}

/// Reads `file`'s header. What is malformed counts as [`Header::Other`]: the kernel will not run it either.
pub(crate) fn read(file: &File) -> io::Result<Header> {
    let mut buffer = [0; FIRST_LINE];
    let length = read_up_to(file, &mut buffer, 0)?;
    let start = &buffer[..length];
    if let Some(line) = start.strip_prefix(b"#!") {
        return Ok(script(line));
    }
    if start.starts_with(b"\x7fELF") {
        let loader = loader(file, start)?;
        return Ok(loader.map_or(Header::Other, |loader| Header::Dynamic { loader }));
    }
    Ok(Header::Other)
}

fn script(line: &[u8]) -> Header {
    let end = line.iter().position(|byte| *byte == b'\n').unwrap_or(line.len());
    let Ok(line) = std::str::from_utf8(&line[..end]) else { return Header::Other };
    let line = line.trim_matches([' ', '\t', '\r', '\0']);
    let (interpreter, argument) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    if interpreter.is_empty() {
        return Header::Other;
    }
    Header::Script { interpreter: interpreter.to_owned(), argument: argument.trim().to_owned() }
}

/// Where an ELF class keeps what is needed here: offsets in the file header, then in a program header.
struct Layout {
    headers: usize,
    header_size: usize,
    header_count: usize,
    entry: usize,
    offset: usize,
    size: usize,
    word: usize,
}

// Source: Elf32_Ehdr, Elf32_Phdr, Elf64_Ehdr, Elf64_Phdr in include/uapi/linux/elf.h.
const ELF32: Layout =
    Layout { headers: 28, header_size: 42, header_count: 44, entry: 32, offset: 4, size: 16, word: 4 };
const ELF64: Layout =
    Layout { headers: 32, header_size: 54, header_count: 56, entry: 56, offset: 8, size: 32, word: 8 };

/// Of little-endian files.
fn layout(start: &[u8]) -> Option<&'static Layout> {
    match (start.get(4), start.get(5)) {
        (Some(1), Some(1)) => Some(&ELF32),
        (Some(2), Some(1)) => Some(&ELF64),
        _ => None,
    }
}

/// A program header.
struct Segment {
    kind: u32,
    offset: u64,
    size: u64,
}

/// The program headers of the file that begins with `start`; none where they are not as the kernel wants them.
fn segments(file: &File, start: &[u8], layout: &Layout) -> io::Result<Vec<Segment>> {
    let fields = (|| {
        let headers = number(start, layout.headers, layout.word)?;
        let size = usize::try_from(number(start, layout.header_size, 2)?).ok()?;
        let count = usize::try_from(number(start, layout.header_count, 2)?).ok()?;
        (size == layout.entry && count <= MAX_HEADERS).then_some((headers, size * count))
    })();
    let Some((headers, size)) = fields else { return Ok(Vec::new()) };
    let mut table = vec![0; size];
    let length = read_up_to(file, &mut table, headers)?;
    let segment = |header: &[u8]| {
        let kind = u32::try_from(number(header, 0, 4)?).ok()?;
        let offset = number(header, layout.offset, layout.word)?;
        Some(Segment { kind, offset, size: number(header, layout.size, layout.word)? })
    };
    Ok(table[..length].chunks_exact(layout.entry).filter_map(segment).collect())
}

fn loader(file: &File, start: &[u8]) -> io::Result<Option<String>> {
    let Some(layout) = layout(start) else { return Ok(None) };
    let segments = segments(file, start, layout)?;
    let interpreter = segments.iter().find(|segment| segment.kind == PT_INTERP);
    interpreter.map_or(Ok(None), |segment| text(file, segment.offset, segment.size))
}

fn text(file: &File, offset: u64, size: u64) -> io::Result<Option<String>> {
    let mut buffer = [0; libc::PATH_MAX as usize];
    let wanted = usize::try_from(size).map_or(buffer.len(), |size| size.min(buffer.len()));
    let length = read_up_to(file, &mut buffer[..wanted], offset)?;
    let path = buffer[..length].split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(std::str::from_utf8(path).ok().filter(|path| !path.is_empty()).map(str::to_owned))
}

/// The little-endian number of `size` bytes at `offset`.
fn number(bytes: &[u8], offset: usize, size: usize) -> Option<u64> {
    let bytes = bytes.get(offset..offset.checked_add(size)?)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read_at(&mut buffer[length..], offset.saturating_add(length as u64)) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // An offset beyond what a file can have: there is nothing there.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{DEBUG, PIE, SONAME, elf};
    use std::io::Write;

    fn header(bytes: &[u8]) -> Header {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        read(&file).unwrap()
    }

    #[test]
    fn a_script_names_its_interpreter_and_argument() {
        let script = |i: &str, a: &str| Header::Script { interpreter: i.into(), argument: a.into() };
        assert_eq!(header(b"#!/bin/sh\necho"), script("/bin/sh", ""));
        assert_eq!(header(b"#! /usr/bin/env  python3 -u \r\n"), script("/usr/bin/env", "python3 -u"));
        assert_eq!(header(b"#!\n"), Header::Other);
    }

    #[test]
    fn a_dynamic_program_names_its_loader_and_a_cut_one_does_not() {
        let program = std::fs::read("/bin/true").unwrap();
        assert!(matches!(header(&program), Header::Dynamic { loader } if loader.contains("ld-")));
        for length in 0..256 {
            assert_eq!(header(&program[..length]), Header::Other, "{length} bytes");
        }
    }

    fn kind_of(bytes: &[u8]) -> Kind {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        kind(&file).unwrap()
    }

    #[test]
    fn what_the_kernel_or_the_loader_would_run_is_a_program_whatever_it_is_called() {
        let (named, bare): (&[_], &[_]) = (&[SONAME], &[]);
        for (words, program) in [
            ("at a fixed address", elf(2, true, Some(bare))),
            ("static, at a fixed address", elf(2, false, None)),
            ("position-independent, by its flag", elf(3, true, Some(&[PIE]))),
            ("position-independent, of an old linker", elf(3, true, Some(&[DEBUG]))),
            ("position-independent, without either", elf(3, true, Some(bare))),
            ("static and position-independent", elf(3, false, Some(&[DEBUG, PIE]))),
            ("with a name as libraries have", elf(3, true, Some(&[SONAME, PIE]))),
            ("without a dynamic section", elf(3, false, None)),
            ("of a type that is not known", elf(0x200, false, Some(named))),
            ("cut off", elf(3, false, Some(named))[..60].to_vec()),
            ("big-endian", {
                let mut file = elf(3, false, Some(named));
                file[5] = 2;
                file
            }),
        ] {
            assert_eq!(kind_of(&program), Kind::Program, "{words}");
        }
        assert_eq!(kind_of(&std::fs::read("/bin/true").unwrap()), Kind::Program);
    }

    #[test]
    fn what_a_loader_maps_for_others_is_a_library() {
        for (words, library) in [
            ("with a name", elf(3, false, Some(&[SONAME]))),
            ("without one, as plug-ins are", elf(3, false, Some(&[]))),
            ("with a loader of its own, as libc.so.6 has", elf(3, true, Some(&[SONAME]))),
            ("PE, of .NET", b"MZ\x90\0".to_vec()),
        ] {
            assert_eq!(kind_of(&library), Kind::Library, "{words}");
        }
        let Header::Dynamic { loader } = header(&std::fs::read("/bin/true").unwrap()) else { unreachable!() };
        assert_eq!(kind_of(&std::fs::read(loader).unwrap()), Kind::Library, "the loader itself");
    }

    #[test]
    fn what_is_never_mapped_executable_is_data() {
        let foreign = |byte: usize, value| {
            let mut file = elf(3, false, Some(&[SONAME]));
            file[byte] = value;
            file
        };
        for data in
            [elf(1, false, None), elf(4, false, None), foreign(18, 8), b"#!/bin/sh\n".to_vec(), b"M".to_vec()]
        {
            assert_eq!(kind_of(&data), Kind::Data, "{data:?}");
        }
        assert_eq!(kind_of(b""), Kind::Data);
    }

    #[test]
    fn nonsense_in_every_field_is_other_or_a_path_and_never_a_panic() {
        let program = std::fs::read("/bin/true").unwrap();
        for at in 4..600.min(program.len()) {
            for value in [0, 0xff] {
                let mut bad = program.clone();
                bad[at] = value;
                let _unpredictable = (header(&bad), kind_of(&bad));
            }
        }
    }
}
