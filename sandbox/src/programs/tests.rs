use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::testing::{abs, bare_plan};

/// An image with a script, its interpreters, a dynamic program and its loader.
fn image() -> tempfile::TempDir {
    let image = tempfile::tempdir().unwrap();
    let at = |path: &str| image.path().join(path);
    for folder in ["usr/bin", "usr/lib", "opt/tools", "lib64", "srv"] {
        fs::create_dir_all(at(folder)).unwrap();
    }
    symlink("usr/bin", at("bin")).unwrap();
    let write = |path: &str, bytes: &[u8]| {
        fs::write(at(path), bytes).unwrap();
        fs::set_permissions(at(path), fs::Permissions::from_mode(0o755)).unwrap();
    };
    fs::copy("/bin/true", at("usr/bin/dash")).unwrap();
    write("usr/bin/env", b"static");
    write("usr/bin/python3.11", b"static");
    write("usr/bin/app", b"#!/bin/sh\n");
    write("usr/bin/snake", b"#!/usr/bin/env -S python3 -u\n");
    write("usr/bin/loop", b"#!/usr/bin/loop\n");
    write("opt/tools/script", b"#!/bin/sh\n");
    fs::copy("/bin/true", at("opt/tools/binary")).unwrap();
    symlink("dash", at("usr/bin/sh")).unwrap();
    symlink("/usr/bin/python3.11", at("usr/bin/python3")).unwrap();
    symlink("/../../../usr/bin/app", at("srv/run")).unwrap();
    write("usr/lib/ld.so", b"loader");
    symlink("/usr/lib/ld.so", at("lib64/ld-linux-x86-64.so.2")).unwrap();
    image
}

fn resolved(programs: &[&str], entrypoint: Option<&str>) -> ResolvedPrograms {
    let image = image();
    let plan = Plan {
        programs: Some(programs.iter().map(|path| abs(path)).collect()),
        entrypoint: entrypoint.map(str::to_owned),
        ..bare_plan()
    };
    resolve(image.path(), &plan, None, "/nowhere:/usr/bin", "/srv").unwrap()
}

fn set(paths: &[&str]) -> BTreeSet<AbsPath> {
    paths.iter().map(|path| abs(path)).collect()
}

#[test]
fn a_script_brings_its_interpreter_and_that_one_s_loader() {
    let got = resolved(&["/bin/app"], None);
    assert_eq!(got.entries, set(&["/usr/bin/app", "/usr/bin/dash"]));
    assert_eq!(got.loaders, set(&["/usr/lib/ld.so"]));
}

#[test]
fn env_brings_the_program_that_it_finds_by_path() {
    let got = resolved(&["/usr/bin/snake"], None);
    assert_eq!(got.entries, set(&["/usr/bin/snake", "/usr/bin/env", "/usr/bin/python3.11"]));
}

#[test]
fn a_script_in_a_folder_brings_no_interpreter_but_a_program_its_loader() {
    let got = resolved(&["/opt/tools"], None);
    assert_eq!(got.entries, set(&["/opt/tools"]));
    assert_eq!(got.loaders, set(&["/usr/lib/ld.so"]));
    assert!(got.contains(&abs("/opt/tools/deep/below")));
    assert!(!got.contains(&abs("/opt/toolshed")));
    assert!(!got.contains(&abs("/usr/bin/dash")));
}

#[test]
fn symlinks_name_their_targets_and_never_lead_out_of_the_image() {
    assert_eq!(resolved(&["/srv/run"], None).entries, set(&["/usr/bin/app", "/usr/bin/dash"]));
}

#[test]
fn a_program_that_the_image_lacks_stays_as_declared() {
    assert_eq!(resolved(&["/volume/tool"], None).entries, set(&["/volume/tool"]));
}

#[test]
fn a_script_that_is_its_own_interpreter_comes_to_an_end() {
    assert_eq!(resolved(&["/usr/bin/loop"], None).entries, set(&["/usr/bin/loop"]));
}

#[test]
fn the_entrypoint_is_found_by_path_or_from_the_working_directory() {
    assert_eq!(resolved(&[], Some("app")).entrypoint, Some(abs("/usr/bin/app")));
    assert_eq!(resolved(&[], Some("app")).entries, set(&["/usr/bin/dash"]));
    assert_eq!(resolved(&[], Some("./run")).entrypoint, Some(abs("/usr/bin/app")));
    assert_eq!(resolved(&[], Some("missing")).entrypoint, None);
    assert_eq!(resolved(&[], Some("/volume/x")).entrypoint, Some(abs("/volume/x")));
}

#[test]
fn a_folder_or_a_file_without_execute_bit_is_no_program() {
    let image = image();
    fs::set_permissions(image.path().join("usr/bin/env"), fs::Permissions::from_mode(0o644)).unwrap();
    let find = |arg0| find_program(image.path(), arg0, "/usr/bin", "/");
    assert_eq!(find("sh"), Some(abs("/usr/bin/dash")));
    assert_eq!(find("env"), None);
    assert_eq!(find("/usr/bin"), None);
    assert_eq!(find(""), None);
}

#[test]
fn what_a_symlink_or_a_script_leads_to_must_lie_within_the_bounds() {
    let image = image();
    let granted = |programs: &[&str],
                   beneath: &[&str],
                   within: &[&str],
                   denied: &[&str],
                   command: Option<&str>| {
        let plan = Plan {
            programs: Some(programs.iter().chain(beneath).map(|path| abs(path)).collect()),
            without_interpreter: set(beneath),
            program_bounds: Bounds { within: (!within.is_empty()).then(|| set(within)), denied: set(denied) },
            ..bare_plan()
        };
        resolve(image.path(), &plan, command, "/usr/bin", "/srv").unwrap().entries
    };
    let app = &["/srv/run"][..];
    assert_eq!(granted(app, &[], &[], &[], None), set(&["/usr/bin/app", "/usr/bin/dash"]));
    assert_eq!(
        granted(app, &[], &["/srv"], &[], None),
        set(&[]),
        "the link lies within, its target does not"
    );
    assert_eq!(
        granted(app, &[], &["/usr/bin/app"], &[], None),
        set(&["/usr/bin/app"]),
        "its interpreter does not"
    );
    assert_eq!(granted(app, &[], &[], &["/usr/bin/dash"], None), set(&["/usr/bin/app"]));
    assert_eq!(
        granted(&["/opt"], &[], &[], &["/opt/tools/script"], None),
        set(&[]),
        "it would hold a denied program"
    );
    assert_eq!(
        granted(&[], app, &[], &[], None),
        set(&["/usr/bin/app"]),
        "the folder did not bring interpreters"
    );
    assert_eq!(granted(&[], &[], &[], &[], Some("app")), set(&["/usr/bin/app", "/usr/bin/dash"]));
    assert_eq!(granted(&[], &[], &["/opt"], &[], Some("app")), set(&[]));
}
