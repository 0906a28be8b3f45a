//! The kernel's table of mounts. Source: proc_pid_mountinfo(5).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Where mounts are mounted, in the order of the table.
pub(crate) fn points(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    let lines = table.split(|byte| *byte == b'\n');
    lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4)).map(unescaped)
}

/// Where the mount that `path` lies on is mounted: the deepest in the table, and of several at one place the last.
pub(crate) fn point_of(table: &[u8], path: &Path) -> PathBuf {
    let above = points(table).filter(|point| path.starts_with(point));
    above.max_by_key(|point| point.components().count()).unwrap_or_else(|| PathBuf::from("/"))
}

/// A path of the table, in which white space and `\` are written as octal numbers.
pub(crate) fn unescaped(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let digits =
            after.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                path.push(byte);
                rest = &after[3..];
            }
            None => {
                path.push(first);
                rest = after;
            }
        }
    }
    OsString::from_vec(path).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_lies_on_the_deepest_mount_above_it() {
        let table = b"1 0 8:1 / / rw - ext4 x rw\n2 1 0:5 / /run rw - tmpfs x rw\n3 2 0:6 / /run/a\\040b rw - tmpfs x rw\n";
        for (path, point) in [("/run/a b/c", "/run/a b"), ("/run/x", "/run"), ("/runner", "/")] {
            assert_eq!(point_of(table, Path::new(path)), Path::new(point), "{path}");
        }
    }
}
