//! What an image could map executable, looked for once and kept by the chain of its layers.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use profiles::Plan;
use profiles::plan::Gap;
use sandbox::executables::{self, Executables, ScanError};
use serde::{Deserialize, Serialize};

use crate::create::Creation;
use crate::error::{Failure, Kind};
use crate::image::sha256;
use crate::rootfs::RootfsMount;
use crate::walls::replace_private;

/// Images whose findings are kept; the oldest go first.
const MAX_KEPT: usize = 256;

/// Longest findings that are kept, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// Version of what is looked for: findings of another are looked for again.
const VERSION: u32 = 1;

/// What a new container's image, at `rootfs`, could map executable, `chain` being the chain id of its layers; or what is missing of
/// the wall of programs because that cannot be told. Nothing where the plan asks for nothing.
///
/// # Errors
/// When something in the image cannot be read.
pub(crate) fn of_container(
    creation: &Creation,
    rootfs: &Path,
    plan: &Plan,
    chain: Option<&str>,
) -> Result<Result<Executables, Gap>, Failure> {
    if !sandbox::spec::covers(plan) {
        return Ok(Ok(Executables::default()));
    }
    let chain = chain.filter(|_| is_untouched(&creation.mounts));
    of_image(&creation.config.data_dir, chain, rootfs)
        .map(Ok)
        .or_else(|err| err.gap().map(Err).ok_or_else(|| Failure::from_error(Kind::Internal, &err)))
}

/// Whether what is mounted so holds the files of its image and no other, so that what was found in the image holds for it:
/// one overlay whose own layer is empty.
fn is_untouched(mounts: &[RootfsMount]) -> bool {
    let [mount] = mounts else { return false };
    let upper = mount.options.iter().find_map(|option| option.strip_prefix("upperdir="));
    let is_empty = |folder| std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
    mount.kind == "overlay" && upper.is_some_and(is_empty)
}

/// What the image mounted at `rootfs` could map executable. `chain` is the chain id of its layers, where no file but
/// theirs is in it.
///
/// # Errors
/// When the image cannot be looked through.
fn of_image(data_dir: &Path, chain: Option<&str>, rootfs: &Path) -> Result<Executables, ScanError> {
    let kept = chain.and_then(|chain| Kept::new(data_dir, chain));
    if let Some(found) = kept.as_ref().and_then(Kept::read) {
        return Ok(found);
    }
    let found = executables::scan(rootfs)?;
    if let Some(kept) = kept
        && let Err(err) = kept.write(&found)
    {
        // The next container of the image looks again.
        tracing::warn!(error = %err, path = %kept.path().display(), "cannot keep what was found in the image");
    }
    Ok(found)
}

/// Where one image's findings are kept.
struct Kept {
    folder: PathBuf,
    /// The chain's digest, in hexadecimal.
    digest: String,
}

/// What a file of findings holds, after a line with the digest of the rest.
#[derive(Serialize, Deserialize)]
struct Findings {
    version: u32,
    chain: String,
    found: Executables,
}

impl Kept {
    /// None for a chain id that is not of the usual form.
    fn new(data_dir: &Path, chain: &str) -> Option<Self> {
        let digest = chain.strip_prefix("sha256:")?;
        let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_digest.then(|| Self { folder: data_dir.join("images"), digest: digest.to_owned() })
    }

    fn path(&self) -> PathBuf {
        self.folder.join(format!("{}.json", self.digest))
    }

    /// The findings, if they are there and whole.
    fn read(&self) -> Option<Executables> {
        let mut text = String::new();
        let file = File::open(self.path()).ok()?;
        file.take(MAX_BYTES as u64 + 1).read_to_string(&mut text).ok()?;
        let (digest, rest) = text.split_once('\n')?;
        if digest != sha256(rest.as_bytes()) {
            tracing::warn!(path = %self.path().display(), "damaged; the image is looked through again");
            return None;
        }
        let findings: Findings = serde_json::from_str(rest).ok()?;
        (findings.version == VERSION && findings.chain == self.digest).then_some(findings.found)
    }

    /// Replaces the file whole, and removes the oldest beyond [`MAX_KEPT`].
    fn write(&self, found: &Executables) -> io::Result<()> {
        let findings = Findings { version: VERSION, chain: self.digest.clone(), found: found.clone() };
        let rest = serde_json::to_string(&findings)?;
        let text = format!("{}\n{rest}", sha256(rest.as_bytes()));
        if text.len() > MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{} bytes", text.len())));
        }
        replace_private(&self.path(), text.as_bytes())?;
        self.remove_oldest()
    }

    fn remove_oldest(&self) -> io::Result<()> {
        let mut files: Vec<(SystemTime, PathBuf)> = std::fs::read_dir(&self.folder)?
            .map(|entry| entry.and_then(|entry| Ok((entry.metadata()?.modified()?, entry.path()))))
            // Another child may have removed it.
            .filter(|file| file.as_ref().map_or_else(|err| err.kind() != io::ErrorKind::NotFound, |_| true))
            .collect::<io::Result<_>>()?;
        files.sort_unstable();
        let excess = files.len().saturating_sub(MAX_KEPT);
        for (_, path) in &files[..excess] {
            match std::fs::remove_file(path) {
                Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data folder, and an image with one library and one program.
    fn place() -> (tempfile::TempDir, PathBuf) {
        let place = tempfile::tempdir().unwrap();
        let image = place.path().join("image");
        std::fs::create_dir_all(image.join("app")).unwrap();
        std::fs::write(image.join("app/library.dll"), "MZ").unwrap();
        std::fs::write(image.join("app/program"), "\x7fELF").unwrap();
        (place, image)
    }

    fn chain(number: usize) -> String {
        format!("sha256:{number:064x}")
    }

    fn programs(data: &Path, chain: Option<&str>, image: &Path) -> usize {
        of_image(data, chain, image).unwrap().programs.len()
    }

    #[test]
    fn an_image_is_looked_through_once_and_without_a_chain_each_time() {
        let (place, image) = place();
        let chain = chain(1);
        assert_eq!(programs(place.path(), Some(&chain), &image), 1);
        std::fs::write(image.join("app/other"), "\x7fELF").unwrap();
        assert_eq!(programs(place.path(), Some(&chain), &image), 1, "kept");
        assert_eq!(programs(place.path(), None, &image), 2);
        assert_eq!(programs(place.path(), Some("sha256:../../x"), &image), 2);
        assert_eq!(programs(place.path(), Some(&self::chain(2)), &image), 2);
    }

    #[test]
    fn damaged_or_foreign_findings_are_looked_for_again() {
        let (place, image) = place();
        let (one, two) = (chain(1), chain(2));
        let file = |chain: &str| Kept::new(place.path(), chain).unwrap().path();
        assert_eq!(programs(place.path(), Some(&one), &image), 1);
        let good = std::fs::read_to_string(file(&one)).unwrap();
        std::fs::remove_file(image.join("app/program")).unwrap();
        let forged = good.replacen("program", "another", 1);
        for bad in ["", "{}", &good[..good.len() - 1], &forged] {
            std::fs::write(file(&one), bad).unwrap();
            assert_eq!(programs(place.path(), Some(&one), &image), 0, "{bad:?}");
        }
        // Another image's, under this one's name.
        std::fs::write(file(&two), &good).unwrap();
        assert_eq!(programs(place.path(), Some(&two), &image), 0);
    }

    #[test]
    fn the_oldest_findings_are_removed() {
        let (place, image) = place();
        let kept = |number| Kept::new(place.path(), &chain(number)).unwrap();
        for number in 0..=MAX_KEPT {
            programs(place.path(), Some(&chain(number)), &image);
            let long_ago = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number as u64);
            File::options()
                .write(true)
                .open(kept(number).path())
                .and_then(|file| file.set_modified(long_ago))
                .unwrap();
        }
        assert!(kept(0).read().is_none() && kept(1).read().is_some() && kept(MAX_KEPT).read().is_some());
        assert_eq!(std::fs::read_dir(place.path().join("images")).unwrap().count(), MAX_KEPT);
    }

    #[test]
    fn only_an_overlay_with_an_empty_layer_of_its_own_is_untouched() {
        let upper = tempfile::tempdir().unwrap();
        let overlay = |kind: &str| RootfsMount {
            kind: kind.to_owned(),
            source: "overlay".to_owned(),
            options: vec!["index=off".to_owned(), format!("upperdir={}", upper.path().display())],
        };
        assert!(is_untouched(&[overlay("overlay")]));
        assert!(!is_untouched(&[overlay("bind")]) && !is_untouched(&[]));
        assert!(!is_untouched(&[overlay("overlay"), overlay("overlay")]));
        std::fs::write(upper.path().join("dropped"), "").unwrap();
        assert!(!is_untouched(&[overlay("overlay")]));
    }
}
