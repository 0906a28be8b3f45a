//! The kernel's table of mounts. Source: proc_pid_mountinfo(5).

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

/// Room for most tables, in bytes. The kernel writes a part of the table for each read, and std begins with small ones.
const USUAL: usize = 32 << 10;

/// This process's table.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn table() -> io::Result<Vec<u8>> {
    let mut table = Vec::with_capacity(USUAL);
    File::open("/proc/self/mountinfo")?.read_to_end(&mut table)?;
    Ok(table)
}

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

/// The layer that the overlay mounted at `point` writes to. None where nothing is mounted there, something else is, or the overlay
/// cannot be written.
///
/// # Errors
/// When `point` cannot be opened, or the table not be read.
pub fn upper_layer(point: &Path) -> io::Result<Option<PathBuf>> {
    let point = point.canonicalize()?;
    let flags = (OFlag::O_PATH | OFlag::O_DIRECTORY).bits();
    let folder = File::options().read(true).custom_flags(flags).open(&point)?;
    // Of several mounts at one place this is the one that is seen.
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", folder.as_raw_fd()))?;
    let id = about.lines().find_map(|line| line.strip_prefix("mnt_id:")).map(str::trim);
    let table = table()?;
    Ok(id.and_then(|id| upper_in(&table, id, &point)))
}

fn upper_in(table: &[u8], id: &str, point: &Path) -> Option<PathBuf> {
    let mut lines = table.split(|byte| *byte == b'\n').map(|line| line.split(|byte| *byte == b' '));
    let mut fields = lines.find(|fields| fields.clone().next() == Some(id.as_bytes()))?;
    let (root, at) = (fields.nth(3)?, fields.next()?);
    if root != b"/" || unescaped(at) != point {
        return None;
    }
    // A hyphen ends the optional fields.
    let mut about = fields.skip_while(|field| *field != b"-").skip(1);
    if about.next()? != b"overlay" {
        return None;
    }
    let mut options = about.nth(1)?.split(|byte| *byte == b',');
    options.find_map(|option| option.strip_prefix(b"upperdir=")).map(unescaped)
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

    #[test]
    fn the_upper_layer_is_that_of_the_mount_itself() {
        let table = b"1 0 8:1 / / rw - ext4 x rw\n\
            7 1 0:9 / /a\\040b rw shared:3 - overlay overlay rw,lowerdir=/l1:/l2,upperdir=/s/1\\0542/fs,workdir=/s/w\n\
            8 1 0:9 /in /c rw - overlay overlay rw,upperdir=/s/3/fs\n\
            9 1 0:4 / /d rw - tmpfs upperdir=/s/4 rw,upperdir=/s/4/fs\n\
            10 1 0:5 / /e ro - overlay overlay ro,lowerdir=/l1:/l2\n";
        let upper = |id: &str, point: &str| upper_in(table, id, Path::new(point));
        assert_eq!(upper("7", "/a b"), Some(PathBuf::from("/s/1,2/fs")));
        for (id, point) in
            [("7", "/a b/c"), ("8", "/c"), ("9", "/d"), ("10", "/e"), ("1", "/"), ("70", "/a b")]
        {
            assert_eq!(upper(id, point), None, "{id} {point}");
        }
    }
}
