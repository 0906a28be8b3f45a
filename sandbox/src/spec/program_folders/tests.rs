use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::testing::abs;

/// An image with `/usr/bin` and the link `/bin` to it, a folder of tools in `/opt`, and what `more` names.
fn image(more: &[&str]) -> tempfile::TempDir {
    let image = tempfile::tempdir().unwrap();
    let usual = ["usr/bin/app", "usr/bin/sh", "usr/bin/other", "opt/kit/bin/tool", "usr/lib/libc.so.6"];
    for file in usual.iter().chain(more) {
        let path = image.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    symlink("usr/bin", image.path().join("bin")).unwrap();
    symlink("/bin", image.path().join("sbin")).unwrap();
    image
}

fn added(image: &tempfile::TempDir, declared: &[&str], mut mounts: Vec<Mount>) -> (Vec<Mount>, Vec<Gap>) {
    let programs = ResolvedPrograms {
        entries: declared.iter().map(|path| abs(path)).collect(),
        ..ResolvedPrograms::default()
    };
    let root = Root::open(image.path()).unwrap();
    let gaps = add(&mut mounts, &programs, &root, true).unwrap();
    (mounts, gaps)
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

fn covered(image: &tempfile::TempDir, declared: &[&str]) -> Vec<String> {
    let (mounts, gaps) = added(image, declared, Vec::new());
    assert_eq!(gaps, []);
    places(&mounts)
}

fn volume(destination: &str, source: &Path) -> Mount {
    mount(Path::new(destination), "bind", source.to_owned(), vec!["rbind".to_owned(), "ro".to_owned()])
}

#[test]
fn a_folder_is_covered_once_whatever_links_lead_to_it_and_a_declared_program_is_bound_on_top() {
    let image = image(&[]);
    let (mounts, _) = added(&image, &["/usr/bin/app", "/usr/bin/absent"], Vec::new());
    assert_eq!(places(&mounts), ["!/opt/kit/bin", "!/usr/bin", "/usr/bin/app"]);
    let root = image.path().canonicalize().unwrap();
    assert_eq!(mounts[1].source().as_deref(), Some(root.join("usr/bin").as_path()));
    assert_eq!(mounts[1].options().clone().unwrap(), ["bind", "nosuid", "nodev", "noexec", "ro"]);
    assert_eq!(mounts[2].options().clone().unwrap(), ["bind", "nosuid", "nodev", "rexec", "ro"]);
}

#[test]
fn a_writable_root_s_folders_stay_writable() {
    let root = image(&[]);
    let mut mounts = Vec::new();
    add(&mut mounts, &ResolvedPrograms::default(), &Root::open(root.path()).unwrap(), false).unwrap();
    assert_eq!(mounts[0].options().clone().unwrap(), ["bind", "nosuid", "nodev", "noexec"]);
}

#[test]
fn a_folder_with_libraries_keeps_them_and_its_other_programs_are_covered_one_by_one() {
    let image = image(&["opt/app/bin/run", "opt/app/bin/helper", "opt/app/bin/libapp.so.1"]);
    let places = covered(&image, &["/opt/app/bin/run"]);
    assert_eq!(places, ["!/opt/app/bin/helper", "!/opt/kit/bin", "!/usr/bin"]);
}

#[test]
fn libraries_beneath_a_covered_folder_stay_mappable() {
    let image = image(&["usr/libexec/helper", "usr/libexec/sudo/sudoers.so", "usr/libexec/sudo/sesh"]);
    let places = covered(&image, &["/usr/bin", "/opt/kit/bin/tool"]);
    assert_eq!(
        places,
        [
            "!/opt/kit/bin",
            "/opt/kit/bin/tool",
            "!/usr/libexec",
            "/usr/libexec/sudo",
            "!/usr/libexec/sudo/sesh"
        ]
    );
}

#[test]
fn too_many_programs_beside_libraries_are_left_and_said() {
    let names: Vec<String> = (0..=MAX_SINGLE).map(|number| format!("opt/big/bin/{number}")).collect();
    let mut more: Vec<&str> = names.iter().map(String::as_str).collect();
    more.push("opt/big/bin/plugin.so");
    let (mounts, gaps) = added(&image(&more), &[], Vec::new());
    assert_eq!(places(&mounts), ["!/opt/kit/bin", "!/usr/bin"]);
    assert_eq!(gaps.len(), 1);
    assert!(gaps[0].sentence.contains("/opt/big/bin"), "{gaps:?}");
}

#[test]
fn a_declared_folder_is_left_alone_and_one_beneath_a_covered_folder_is_opened() {
    let image = image(&["usr/bin/kit/a"]);
    assert_eq!(covered(&image, &["/usr", "/opt/kit"]), [""; 0]);
    assert_eq!(covered(&image, &["/opt", "/usr/bin/kit"]), ["!/usr/bin", "/usr/bin/kit"]);
}

#[test]
fn a_folder_without_a_program_of_its_own_is_left_alone() {
    let image = tempfile::tempdir().unwrap();
    fs::create_dir_all(image.path().join("bin")).unwrap();
    fs::write(image.path().join("bin/notes"), "x").unwrap();
    symlink("/init", image.path().join("bin/init")).unwrap();
    assert_eq!(covered(&image, &[]), [""; 0]);
}

#[test]
fn a_volume_over_a_folder_or_a_program_is_left_alone_and_one_beneath_is_mounted_later() {
    let image = image(&[]);
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("file"), "").unwrap();
    let volumes = vec![
        volume("/opt/kit", host.path()),
        volume("/bin/app", &host.path().join("file")),
        volume("/sbin/new/folder", host.path()),
        volume("/usr/bin/new.conf", &host.path().join("file")),
    ];
    let (mounts, _) = added(&image, &["/opt/kit/bin/tool", "/usr/bin/app", "/usr/bin/sh"], volumes);
    assert_eq!(
        places(&mounts),
        ["!/usr/bin", "/usr/bin/sh", "/opt/kit", "/bin/app", "/sbin/new/folder", "/usr/bin/new.conf"]
    );
    // Made before the folder is read-only.
    assert!(image.path().join("usr/bin/new/folder").is_dir());
    assert!(image.path().join("usr/bin/new.conf").is_file());
}

#[test]
fn a_link_never_leads_out_of_the_image() {
    let image = tempfile::tempdir().unwrap();
    fs::create_dir_all(image.path().join("usr/bin")).unwrap();
    symlink("../../../../../../../../usr/bin", image.path().join("bin")).unwrap();
    symlink("/", image.path().join("sbin")).unwrap();
    assert_eq!(covered(&image, &[]), [""; 0], "the host's /usr/bin holds programs, the image's none");
}
