use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::testing::abs;

/// An image with these files, all of which are there, and what of them is library and program.
struct Image {
    folder: tempfile::TempDir,
    executables: Executables,
}

impl Image {
    fn new(libraries: &[&str], programs: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for path in libraries.iter().chain(programs) {
            let path = folder.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "x").unwrap();
        }
        let set = |paths: &[&str]| paths.iter().map(|path| abs(path)).collect();
        Self { folder, executables: Executables { libraries: set(libraries), programs: set(programs) } }
    }

    fn add(&self, declared: &[&str], mounts: &mut Vec<Mount>) -> Option<Gap> {
        let programs = ResolvedPrograms {
            entries: declared.iter().map(|path| abs(path)).collect(),
            ..ResolvedPrograms::default()
        };
        add(mounts, &programs, &self.executables, &Root::open(self.folder.path()).unwrap(), true).unwrap()
    }

    fn covered(&self, declared: &[&str]) -> Vec<String> {
        let mut mounts = Vec::new();
        assert_eq!(self.add(declared, &mut mounts), None);
        places(&mounts)
    }
}

/// Destinations in order, with `!` before those that are not executable.
fn places(mounts: &[Mount]) -> Vec<String> {
    let has = |mount: &Mount, option: &str| mount.options().iter().flatten().any(|have| have == option);
    let place = |mount: &Mount| {
        let covered = if has(mount, "noexec") { "!" } else { "" };
        format!("{covered}{}", mount.destination().display())
    };
    mounts.iter().map(place).collect()
}

fn volume(destination: &str, source: &Path) -> Mount {
    mount(Path::new(destination), "bind", source.to_owned(), vec!["rbind".to_owned(), "ro".to_owned()])
}

#[test]
fn nothing_is_executable_but_libraries_and_what_was_declared() {
    let image = Image::new(&["/lib/libc.so"], &["/bin/app", "/bin/sh", "/srv/hidden"]);
    let mut mounts = Vec::new();
    assert_eq!(image.add(&["/bin/app", "/bin/absent"], &mut mounts), None);
    assert_eq!(places(&mounts), ["!/", "/bin/app", "/lib/libc.so"]);
    let root = image.folder.path().canonicalize().unwrap();
    assert_eq!(mounts[0].source().as_deref(), Some(root.as_path()));
    assert_eq!(
        mounts[0].options().clone().unwrap(),
        ["bind", "noexec"],
        "the runtime makes it read-only later"
    );
    assert_eq!(mounts[1].source().as_deref(), Some(root.join("bin/app").as_path()));
    assert_eq!(mounts[1].options().clone().unwrap(), ["bind", "nosuid", "nodev", "rexec", "ro"]);
}

#[test]
fn a_writable_root_s_mounts_stay_writable() {
    let image = Image::new(&["/lib/libc.so"], &[]);
    let mut mounts = Vec::new();
    let root = Root::open(image.folder.path()).unwrap();
    add(&mut mounts, &ResolvedPrograms::default(), &image.executables, &root, false).unwrap();
    assert_eq!(mounts[1].options().clone().unwrap(), ["bind", "nosuid", "nodev", "rexec"]);
}

#[test]
fn programs_among_libraries_are_covered_and_libraries_among_programs_are_opened_whichever_is_less() {
    let libraries = ["/lib/a.so", "/lib/b.so", "/lib/c.so", "/lib/deep/d.so"];
    let image = Image::new(&libraries, &["/lib/run", "/lib/helper"]);
    assert_eq!(image.covered(&["/lib/run"]), ["!/", "/lib", "!/lib/helper"]);
    let image = Image::new(&["/lib/a.so", "/lib/b.so"], &["/lib/p", "/lib/q", "/lib/r", "/lib/deep/s"]);
    assert_eq!(image.covered(&[]), ["!/", "/lib/a.so", "/lib/b.so"]);
    assert_eq!(image.covered(&["/lib/p"]), ["!/", "/lib/a.so", "/lib/b.so", "/lib/p"]);
}

#[test]
fn mounts_are_as_few_as_can_be_and_nothing_is_executable_where_it_costs_no_mount() {
    // One for /usr and one for /usr/bin, or one each: as few, and less is executable.
    let image = Image::new(&["/usr/lib", "/usr/local/lib"], &["/usr/bin"]);
    assert_eq!(image.covered(&[]), ["!/", "/usr/lib", "/usr/local/lib"]);
    let image = Image::new(&["/usr/lib", "/usr/local/lib", "/usr/libexec"], &["/usr/bin"]);
    assert_eq!(image.covered(&[]), ["!/", "/usr", "!/usr/bin"]);
}

#[test]
fn the_fewest_mounts_are_found_whatever_the_image() {
    /// Tries every way to mount, or not, at each of the paths and the folders above them.
    fn fewest(libraries: &[String], programs: &[String]) -> usize {
        let all: std::collections::BTreeSet<&Path> = libraries
            .iter()
            .chain(programs)
            .flat_map(|path| Path::new(path).ancestors())
            .filter(|path| path.parent().is_some())
            .collect();
        let all: Vec<&Path> = all.into_iter().collect();
        let ways = 3_usize.pow(u32::try_from(all.len()).unwrap());
        let mounted = |way: usize| {
            let digit = move |index: usize| way / 3_usize.pow(u32::try_from(index).unwrap()) % 3;
            all.iter()
                .enumerate()
                .filter(move |(index, _)| digit(*index) > 0)
                .map(move |(index, path)| (*path, digit(index) == 1))
        };
        let is_executable = |way: usize, path: &str| {
            let above = mounted(way).filter(|(place, _)| is_beneath(Path::new(path), place));
            above
                .max_by_key(|(place, _)| place.components().count())
                .is_some_and(|(_, executable)| executable)
        };
        (0..ways)
            .filter(|way| libraries.iter().all(|path| is_executable(*way, path)))
            .filter(|way| !programs.iter().any(|path| is_executable(*way, path)))
            .map(|way| mounted(way).count())
            .min()
            .unwrap()
    }
    let files = ["/a/b/x", "/a/b/y", "/a/z", "/c/v"];
    for way in 0..3_usize.pow(4) {
        let of_kind = |kind: usize| -> Vec<String> {
            let digit = |index: usize| way / 3_usize.pow(u32::try_from(index).unwrap()) % 3;
            (0..4).filter(|index| digit(*index) == kind).map(|index| files[index].to_owned()).collect()
        };
        let (libraries, programs) = (of_kind(1), of_kind(2));
        fn texts(paths: &[String]) -> Vec<&str> {
            paths.iter().map(String::as_str).collect()
        }
        let image = Image::new(&texts(&libraries), &texts(&programs));
        let covered = image.covered(&[]);
        assert_eq!(
            covered.len() - 1,
            fewest(&libraries, &programs),
            "{libraries:?} {programs:?}: {covered:?}"
        );
    }
}

#[test]
fn a_declared_folder_is_executable_as_a_whole_and_everything_declared_adds_no_mount() {
    let image = Image::new(&["/opt/kit/a.so", "/lib/b.so"], &["/opt/kit/bin/tool", "/opt/other", "/bin/sh"]);
    assert_eq!(image.covered(&["/opt/kit"]), ["!/", "/lib/b.so", "/opt/kit"]);
    assert_eq!(image.covered(&["/"]), [""; 0]);
}

#[test]
fn a_declared_file_need_be_no_program_that_is_known() {
    let image = Image::new(&[], &["/bin/a"]);
    fs::write(image.folder.path().join("bin/script"), "#!/bin/sh\n").unwrap();
    assert_eq!(image.covered(&["/bin/script"]), ["!/", "/bin/script"]);
}

#[test]
fn too_many_mounts_are_none_and_said() {
    let programs: Vec<String> = (0..=MAX_MOUNTS).map(|number| format!("/opt/big/{number}")).collect();
    let libraries: Vec<String> = (0..=MAX_MOUNTS).map(|number| format!("/opt/big/{number}.so")).collect();
    let texts = |paths: &[String]| -> Vec<&'static str> {
        paths.iter().map(|path| &*Box::leak(path.clone().into_boxed_str())).collect()
    };
    let image = Image::new(&texts(&libraries), &texts(&programs));
    let mut mounts = Vec::new();
    let gap = image.add(&[], &mut mounts).unwrap();
    assert!(mounts.is_empty());
    assert!(
        gap.sentence.contains("needs 101 mounts") && gap.sentence.contains("101 of them are in /opt/big"),
        "{gap:?}"
    );
    assert_eq!(image.covered(&["/opt/big"]), ["!/", "/opt/big"]);
}

#[test]
fn a_volume_over_a_folder_or_a_program_is_left_alone_and_one_beneath_is_mounted_later() {
    let image = Image::new(&["/lib/a.so", "/lib/b.so"], &["/opt/kit/tool", "/usr/bin/app", "/usr/bin/sh"]);
    symlink("usr/bin", image.folder.path().join("bin")).unwrap();
    let mut executables = image.executables.clone();
    executables.libraries = [abs("/lib")].into();
    let image = Image { executables, ..image };
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("file"), "").unwrap();
    let mut mounts = vec![
        volume("/opt/kit", host.path()),
        volume("/bin/app", &host.path().join("file")),
        volume("/lib/new/folder", host.path()),
        volume("/lib/new.conf", &host.path().join("file")),
    ];
    assert_eq!(image.add(&["/opt/kit/tool", "/usr/bin/app", "/usr/bin/sh"], &mut mounts), None);
    assert_eq!(
        places(&mounts),
        ["!/", "/lib", "/usr/bin/sh", "/opt/kit", "/bin/app", "/lib/new/folder", "/lib/new.conf"]
    );
    // Made before the folder is read-only.
    assert!(image.folder.path().join("lib/new/folder").is_dir());
    assert!(image.folder.path().join("lib/new.conf").is_file());
}
