use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::testing::{PIE, SONAME, elf};

/// An image with these files: `.so` are libraries, `.txt` text, all others programs. Without an execute bit.
fn image(files: &[&str]) -> tempfile::TempDir {
    let image = tempfile::tempdir().unwrap();
    for file in files {
        let bytes = match Path::new(file).extension().and_then(OsStr::to_str) {
            Some("so") => elf(3, false, Some(&[SONAME])),
            Some("txt") => b"text".to_vec(),
            _ => elf(3, true, Some(&[PIE])),
        };
        let path = image.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    }
    image
}

/// Libraries, then programs.
fn found(image: &tempfile::TempDir) -> (Vec<String>, Vec<String>) {
    let text = |paths: BTreeSet<AbsPath>| paths.iter().map(ToString::to_string).collect();
    let Executables { libraries, programs } = scan(image.path()).unwrap();
    (text(libraries), text(programs))
}

fn owned(paths: &[&str]) -> Vec<String> {
    paths.iter().map(ToString::to_string).collect()
}

#[test]
fn a_folder_of_one_kind_stands_for_what_is_beneath_and_data_does_not_matter() {
    let image = image(&[
        "lib/one.so",
        "lib/deep/two.so",
        "lib/notes.txt",
        "bin/a",
        "bin/b",
        "mixed/c",
        "mixed/only/three.so",
        "mixed/only/deep/notes.txt",
        "notes.txt",
    ]);
    let (libraries, programs) = found(&image);
    assert_eq!(libraries, ["/lib", "/mixed/only/three.so"]);
    assert_eq!(programs, ["/bin", "/mixed/c"]);
}

#[test]
fn the_root_itself_never_stands_for_its_files() {
    assert_eq!(found(&image(&["a", "b"])), (vec![], owned(&["/a", "/b"])));
    assert_eq!(found(&image(&["a.so", "b.so"])), (owned(&["/a.so", "/b.so"]), vec![]));
}

#[test]
fn links_are_not_followed_and_what_is_no_file_is_not_opened() {
    let image = image(&["bin/a"]);
    symlink("/usr/bin", image.path().join("sbin")).unwrap();
    symlink("/bin/sh", image.path().join("bin/sh")).unwrap();
    symlink(".", image.path().join("bin/self")).unwrap();
    nix::unistd::mkfifo(&image.path().join("bin/pipe"), Mode::from_bits_truncate(0o644)).unwrap();
    fs::hard_link(image.path().join("bin/a"), image.path().join("other")).unwrap();
    assert_eq!(found(&image), (vec![], owned(&["/bin/a", "/other"])));
}

#[test]
fn what_has_no_name_that_a_mount_could_have_makes_a_program_of_its_folder() {
    let name = OsStr::from_bytes(b"\xff");
    let image = image(&["app/one.so", "app/two.so", "other/three.so", "text/four.so"]);
    fs::write(image.path().join("app").join(name), elf(2, false, None)).unwrap();
    fs::create_dir_all(image.path().join("other").join(name)).unwrap();
    fs::write(image.path().join("text/line\nbreak"), "").unwrap();
    let (libraries, programs) = found(&image);
    assert_eq!(libraries, ["/app/one.so", "/app/two.so", "/other/three.so", "/text/four.so"]);
    assert_eq!(programs, ["/app", "/other", "/text"]);
}

#[test]
fn an_image_that_is_nested_too_deep_is_a_gap_and_an_unreadable_one_is_not() {
    let deep = image(&[&format!("{}x", "d/".repeat(MAX_DEPTH + 1))]);
    let error = scan(deep.path()).unwrap_err();
    assert!(matches!(error, ScanError::TooLarge(_)), "{error}");
    assert_eq!(error.gap().unwrap().wall, Wall::Exec);
    let error = scan(&deep.path().join("nothing")).unwrap_err();
    assert!(matches!(error, ScanError::Look { .. }) && error.gap().is_none(), "{error}");
}

#[test]
fn what_was_found_reads_back_as_it_was_and_never_leads_out_of_the_image() {
    let found = scan(image(&["bin/a", "lib/b.so"]).path()).unwrap();
    let text = serde_json::to_string(&found).unwrap();
    assert_eq!(serde_json::from_str::<Executables>(&text).unwrap(), found);
    assert!(serde_json::from_str::<Executables>(&text.replace("/bin/a", "/bin/../../a")).is_err());
}
