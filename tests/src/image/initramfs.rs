//! A layer as the first root file system of a kernel.

use anyhow::{Context as _, Result, bail};

use super::{Entry, Kind, Layer};

/// Every field of a header but its magic number. Source: Documentation/driver-api/early-userspace/buffer-format.rst.
#[derive(Default)]
struct Header {
    inode: u32,
    mode: u32,
    owner: u32,
    links: u32,
    size: u32,
    name: u32,
}

impl Header {
    fn text(&self) -> String {
        let Self { inode, mode, owner, links, size, name } = self;
        // The time, four numbers of devices, and a checksum that this format leaves empty.
        let fields = [inode, mode, owner, owner, links, &0, size, &0, &0, &0, &0, name, &0];
        let fields: String = fields.iter().map(|field| format!("{field:08x}")).collect();
        format!("070701{fields}")
    }
}

impl Layer {
    /// An uncompressed cpio archive in the `newc` format, which kernels unpack into their first root.
    ///
    /// # Errors
    /// When it has a hard link, which no initramfs of ours needs, or a file of more than 4 GiB.
    pub fn initramfs(&self) -> Result<Vec<u8>> {
        let mut archive = Vec::new();
        let all = self.with_parents();
        for (inode, (path, entry)) in (1..).zip(&all) {
            append(&mut archive, inode, path, entry).with_context(|| format!("cannot add {path}"))?;
        }
        put(&mut archive, &Header { links: 1, ..Header::default() }, "TRAILER!!!", &[])?;
        Ok(archive)
    }
}

fn append(archive: &mut Vec<u8>, inode: u32, path: &str, entry: &Entry) -> Result<()> {
    let (kind, content) = match &entry.kind {
        Kind::Folder => (0o040_000, &[][..]),
        Kind::File(content) => (0o100_000, content.as_slice()),
        Kind::Symlink(target) => (0o120_000, target.as_bytes()),
        Kind::HardLink(target) => bail!("it is a hard link to {target}"),
    };
    let owner = u32::try_from(entry.owner).context("its owner is no user id")?;
    let header = Header { inode, mode: kind | entry.mode, owner, links: 1, ..Header::default() };
    put(archive, &header, path, content)
}

fn put(archive: &mut Vec<u8>, header: &Header, name: &str, content: &[u8]) -> Result<()> {
    let size = u32::try_from(content.len()).context("it is larger than the format can say")?;
    let length = u32::try_from(name.len() + 1).context("its name is too long")?;
    archive.extend(Header { size, name: length, ..*header }.text().bytes());
    archive.extend(name.bytes().chain([0]));
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_folders_and_links_lie_in_the_archive_aligned_and_parents_first() {
        let layer = Layer::new().file("a/bc", "12345", 0o755).symlink("z", "a/bc");
        let bytes = layer.initramfs().expect("an archive");
        let text = String::from_utf8(bytes).expect("text");
        let names: Vec<&str> =
            text.split("070701").skip(1).map(|part| part[104..].trim_end_matches('\0')).collect();
        assert_eq!(names, ["a", "a/bc\0\x0012345", "z\0a/bc", "TRAILER!!!"]);
        assert!(text.match_indices("070701").all(|(at, _)| at % 4 == 0));
        assert!(Layer::new().file("x", "", 0o644).hard_link("y", "x").initramfs().is_err());
    }
}
