//! What a program's first bytes say about who runs it: a script's interpreter, an ELF file's loader.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The kernel reads this much of a script's first line. Source: `BINPRM_BUF_SIZE`, include/uapi/linux/binfmts.h.
const FIRST_LINE: usize = 256;

/// More program headers than this are not looked at; linkers write about a dozen.
const MAX_HEADERS: u16 = 64;

/// `PT_INTERP`. Source: include/uapi/linux/elf.h.
const PT_INTERP: u32 = 3;

/// Who runs a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Header {
    /// `#!`: the interpreter, and the rest of the line.
    Script { interpreter: String, argument: String },
    /// ELF, loaded by this loader.
    Dynamic { loader: String },
    /// Anything else: static, or not a program.
    Other,
}

/// Reads `file`'s header. What is malformed counts as [`Header::Other`]: the kernel will not run it either.
pub(super) fn read(file: &File) -> io::Result<Header> {
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
    offset: usize,
    size: usize,
    word: usize,
}

// Source: Elf32_Ehdr, Elf32_Phdr, Elf64_Ehdr, Elf64_Phdr in include/uapi/linux/elf.h.
const ELF32: Layout = Layout { headers: 28, header_size: 42, header_count: 44, offset: 4, size: 16, word: 4 };
const ELF64: Layout = Layout { headers: 32, header_size: 54, header_count: 56, offset: 8, size: 32, word: 8 };

fn loader(file: &File, start: &[u8]) -> io::Result<Option<String>> {
    let layout = match (start.get(4), start.get(5)) {
        (Some(1), Some(1)) => ELF32,
        (Some(2), Some(1)) => ELF64,
        _ => return Ok(None),
    };
    let fields = (|| {
        let headers = number(start, layout.headers, layout.word)?;
        let size = usize::try_from(number(start, layout.header_size, 2)?).ok()?;
        let count = u16::try_from(number(start, layout.header_count, 2)?).ok()?;
        Some((headers, size, count.min(MAX_HEADERS)))
    })();
    let Some((headers, size, count)) = fields else { return Ok(None) };
    let mut header = [0; 56];
    for index in 0..u64::from(count) {
        let Some(at) = headers.checked_add(index * size as u64) else { return Ok(None) };
        let length = read_up_to(file, &mut header, at)?;
        let header = &header[..length];
        if number(header, 0, 4) == Some(u64::from(PT_INTERP)) {
            let offset = number(header, layout.offset, layout.word);
            let size = number(header, layout.size, layout.word);
            return offset.zip(size).map_or(Ok(None), |(offset, size)| text(file, offset, size));
        }
    }
    Ok(None)
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

    #[test]
    fn nonsense_in_every_field_is_other_or_a_path_and_never_a_panic() {
        let program = std::fs::read("/bin/true").unwrap();
        for at in 4..600.min(program.len()) {
            for value in [0, 0xff] {
                let mut bad = program.clone();
                bad[at] = value;
                let _unpredictable = header(&bad);
            }
        }
    }
}
