use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{MetadataExt, symlink};
use std::{fs, iter};

use oci_spec::runtime::Mount;
use profiles::plan::{Action, SeccompPlan};
use profiles::profile::Bounds;

use super::*;
use crate::facts::NATIVE;
use crate::testing::{PIE, SONAME, abs, bare_plan, elf};

/// A spec as containerd writes it for a pod's container, shortened.
const SPEC: &str = r#"{"ociVersion":"1.1.0","root":{"path":"rootfs"},
"process":{"user":{"uid":33,"gid":44},"cwd":"/","args":["x"],"capabilities":{
  "bounding":["CAP_CHOWN","CAP_NET_BIND_SERVICE"],"effective":["CAP_CHOWN"],"permitted":["CAP_CHOWN"]}},
"mounts":[
 {"destination":"/proc","type":"proc","source":"proc","options":["nosuid","noexec","nodev"]},
 {"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","strictatime","mode=755"]},
 {"destination":"/run","type":"tmpfs","source":"tmpfs","options":["nosuid","exec","mode=755"]},
 {"destination":"/etc/hosts","type":"bind","source":"/h","options":["rbind","rprivate","rw"]},
 {"destination":"/var/data","type":"bind","source":"/d","options":["rbind","rprivate","rw"]},
 {"destination":"/tools","type":"bind","source":"/t","options":["rbind","rw"]},
 {"destination":"/config","type":"bind","source":"/c","options":["rbind","ro"]},
 {"destination":"/dev/termination-log","type":"bind","source":"/l","options":["rbind","rw"]}],
"linux":{"maskedPaths":["/proc/kcore"],"seccomp":{"defaultAction":"SCMP_ACT_ERRNO"}}}"#;

fn image() -> tempfile::TempDir {
    let image = tempfile::tempdir().unwrap();
    for folder in ["etc", "var/cache", "run"] {
        fs::create_dir_all(image.path().join(folder)).unwrap();
    }
    fs::write(image.path().join("etc/shadow"), "secret").unwrap();
    fs::write(image.path().join("etc/motd"), "hello").unwrap();
    symlink("/run", image.path().join("var/run")).unwrap();
    symlink("../../../../../../nowhere/made", image.path().join("var/lost")).unwrap();
    image
}

fn spec() -> Spec {
    serde_json::from_str(SPEC).unwrap()
}

fn plan(write: &[&str]) -> Plan {
    let program = abs("/tools/bin/run");
    Plan {
        write: Some(write.iter().map(|path| abs(path)).collect()),
        programs: Some(iter::once(program).collect()),
        hidden: ["/etc/shadow", "/etc/gshadow"].map(abs).into(),
        ..bare_plan()
    }
}

fn hardened(image: &tempfile::TempDir, write: &[&str]) -> Spec {
    let mut spec = spec();
    harden(&mut spec, &plan(write), no_programs(), image.path(), Path::new(EMPTY)).unwrap();
    spec
}

fn at<'a>(spec: &'a Spec, path: &str) -> Vec<&'a Mount> {
    spec.mounts().iter().flatten().filter(|mount| mount.destination() == Path::new(path)).collect()
}

fn options(spec: &Spec, path: &str) -> Vec<String> {
    at(spec, path).last().unwrap().options().clone().unwrap()
}

fn has_all(options: &[String], wanted: &[&str]) -> bool {
    wanted.iter().all(|option| options.iter().any(|have| have == option))
}

/// Of an image that has none, and declares none.
fn no_programs() -> ImagePrograms<'static> {
    static NONE: (ResolvedPrograms, Executables) = (
        ResolvedPrograms { entries: BTreeSet::new(), loaders: BTreeSet::new(), entrypoint: None },
        Executables { libraries: BTreeSet::new(), programs: BTreeSet::new() },
    );
    ImagePrograms { declared: &NONE.0, all: Ok(&NONE.1) }
}

/// Stands for the file of mode 000 that hides others.
const EMPTY: &str = "/run/keep/empty";

#[test]
fn a_missing_write_folder_is_made_for_the_user_and_bound_not_executable() {
    let image = image();
    let spec = hardened(&image, &["/var/cache/app/deep"]);
    let made = fs::metadata(image.path().join("var/cache/app/deep")).unwrap();
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (33, 44, 0o755));
    assert_eq!(fs::metadata(image.path().join("var/cache")).unwrap().uid(), 0, "what was there stays");
    let mount = at(&spec, "/var/cache/app/deep")[0];
    assert_eq!(
        mount.source().as_deref().unwrap(),
        image.path().canonicalize().unwrap().join("var/cache/app/deep")
    );
    assert!(has_all(&options(&spec, "/var/cache/app/deep"), &["bind", "noexec", "nosuid", "nodev"]));
    assert_eq!(spec.root().as_ref().unwrap().readonly(), Some(true));
}

#[test]
fn a_symlink_in_a_write_path_never_leads_out_of_the_image() {
    let image = image();
    let spec = hardened(&image, &["/var/lost/here"]);
    assert!(image.path().join("nowhere/made/here").is_dir());
    assert!(!Path::new("/nowhere").exists());
    assert_eq!(at(&spec, "/nowhere/made/here").len(), 1);
}

#[test]
fn a_write_path_on_a_tmpfs_gets_a_tmpfs_of_its_own_and_the_rest_of_it_stays_as_it_was() {
    let image = image();
    let spec = hardened(&image, &["/var/run/app"]);
    let own = options(&spec, "/run/app");
    assert!(has_all(&own, &["noexec", "nosuid", "nodev", "mode=0755", "uid=33", "gid=44"]), "{own:?}");
    assert!(!image.path().join("run/app").exists());
    let index =
        |path| spec.mounts().iter().flatten().position(|m| m.destination() == Path::new(path)).unwrap();
    assert_eq!(index("/run/app"), index("/run") + 1);
}

#[test]
fn a_write_path_that_is_a_mount_already_gets_no_other() {
    let image = image();
    let spec = hardened(&image, &["/run", "/var/data"]);
    assert_eq!((at(&spec, "/run").len(), at(&spec, "/var/data").len()), (1, 1));
    let run = options(&spec, "/run");
    assert!(has_all(&run, &["noexec", "nosuid", "nodev"]) && !has_all(&run, &["exec"]), "{run:?}");
}

#[test]
fn a_volume_beneath_a_write_path_is_mounted_over_it() {
    let image = image();
    let spec = hardened(&image, &["/var", "/var/cache"]);
    let list: Vec<_> = spec.mounts().iter().flatten().map(|m| m.destination().to_str().unwrap()).collect();
    let index = |path| list.iter().position(|have| *have == path).unwrap();
    assert!(index("/var") < index("/var/data"));
    assert!(!list.contains(&"/var/cache"), "already writable: {list:?}");
}

#[test]
fn a_write_file_is_bound_and_a_volume_beneath_which_it_lies_is_left() {
    let image = image();
    let spec = hardened(&image, &["/etc/motd", "/var/data/file"]);
    assert_eq!(at(&spec, "/etc/motd").len(), 1);
    assert!(at(&spec, "/var/data/file").is_empty());
}

#[test]
fn mounts_lose_exec_but_for_a_volume_with_a_declared_program_and_writable_ones_more() {
    let spec = hardened(&image(), &[]);
    let data = options(&spec, "/var/data");
    assert!(has_all(&data, &["noexec", "nosuid", "nodev", "rnoexec", "rnosuid", "rnodev"]), "{data:?}");
    let tools = options(&spec, "/tools");
    assert!(has_all(&tools, &["nosuid", "nodev"]) && !has_all(&tools, &["noexec"]), "{tools:?}");
    assert!(!has_all(&tools, &["rnoexec"]), "{tools:?}");
    let config = options(&spec, "/config");
    assert!(has_all(&config, &["ro", "noexec", "rnoexec"]) && !has_all(&config, &["nodev"]), "{config:?}");
    let dev = options(&spec, "/dev");
    assert!(has_all(&dev, &["noexec", "nosuid"]) && !has_all(&dev, &["nodev"]), "{dev:?}");
    let hosts = options(&spec, "/etc/hosts");
    assert!(has_all(&hosts, &["ro", "noexec"]) && !has_all(&hosts, &["rw"]), "{hosts:?}");
}

#[test]
fn what_the_kernel_s_folders_hold_is_read_only_unless_it_is_granted() {
    let places = [
        ("/dev/shm", "tmpfs"),
        ("/dev/shm", "bind"),
        ("/dev/data", "bind"),
        ("/dev/termination-log", "bind"),
    ];
    let read_only = |write: &[&str], ipc: bool| {
        let mut plan = plan(write);
        // What has no filter may do what needs `ipc`.
        let (calls, unknown) = (BTreeMap::new(), Action::Errno(38));
        plan.seccomp = (!ipc).then_some(SeccompPlan { arch: NATIVE, calls, unknown });
        places.map(|(place, kind)| {
            let options = ["rbind", "rw"].map(str::to_owned).to_vec();
            let options = if kind == "bind" { options } else { Vec::new() };
            let mut mounts = [mounts::mount(Path::new(place), kind, "/x".into(), options)];
            mounts::narrow(&mut mounts, &plan);
            mounts::is_read_only(&mounts[0])
        })
    };
    assert_eq!(read_only(&[], false), [true, true, true, false]);
    assert_eq!(read_only(&[], true), [false, false, true, false]);
    assert_eq!(read_only(&["/dev/shm/mine"], false), [false, false, true, false]);
    assert_eq!(read_only(&["/dev"], false), [false; 4]);
}

#[test]
fn a_single_library_that_the_node_mounts_read_only_stays_executable() {
    let (image, host) = (image(), tempfile::tempdir().unwrap());
    let files = [
        ("/lib/device.so", "ro", elf(3, false, Some(&[SONAME])), true),
        ("/lib/written.so", "rw", elf(3, false, Some(&[SONAME])), false),
        ("/bin/program", "ro", elf(3, true, Some(&[SONAME, PIE])), false),
        ("/etc/text", "ro", b"text".to_vec(), false),
    ];
    let mut spec = spec();
    for (place, access, bytes, _) in &files {
        let source = host.path().join(Path::new(place).file_name().unwrap());
        fs::write(&source, bytes).unwrap();
        let options = ["bind", access].map(str::to_owned).to_vec();
        spec.mounts_mut().as_mut().unwrap().push(mounts::mount(Path::new(place), "bind", source, options));
    }
    harden(&mut spec, &plan(&[]), no_programs(), image.path(), Path::new(EMPTY)).unwrap();
    for (place, _, _, executable) in files {
        assert_eq!(!has_all(&options(&spec, place), &["noexec"]), executable, "{place}");
    }
}

#[test]
fn hidden_files_are_covered_if_the_image_has_them() {
    let spec = hardened(&image(), &[]);
    let covered = spec.mounts().iter().flatten().filter(|m| m.source().as_deref() == Some(Path::new(EMPTY)));
    let covered: Vec<_> = covered.map(|mount| mount.destination().clone()).collect();
    assert_eq!(covered, [PathBuf::from("/etc/shadow")]);
}

#[test]
fn only_volumes_that_the_deployer_made_writable_are_writable() {
    let plan = plan(&["/run"]);
    let paths = writable_volumes(&spec(), &plan);
    assert_eq!(paths, ["/var/data", "/tools", "/dev/termination-log"].map(PathBuf::from));
}

#[test]
fn unix_sockets_may_be_in_folders_of_the_node_and_nowhere_else() {
    let image = image();
    let folder = image.path().to_str().unwrap();
    let projected = image.path().join("kubernetes.io~projected/token");
    fs::create_dir_all(&projected).unwrap();
    let holds = |destination: &str, kind: &str, source: &str, access: &str| {
        let options = vec![access.to_owned()];
        let mut spec = Spec::default();
        spec.set_mounts(Some(vec![mounts::mount(Path::new(destination), kind, source.into(), options)]));
        may_hold_sockets(&spec)
    };
    assert!(holds("/data", "bind", folder, "ro") && holds("/data", "bind", folder, "rw"));
    assert!(holds("/run/x.sock", "bind", "/no/such/socket", "ro"), "what cannot be looked at may be one");
    assert!(holds("/dev/shm", "bind", "/dev/shm", "rw"), "the node's");
    assert!(!holds("/dev/shm", "bind", "/run/pod/shm", "rw"), "the pod's");
    assert!(!holds("/data", "tmpfs", "tmpfs", "rw") && !holds("/proc", "proc", "proc", "rw"));
    let file = image.path().join("hosts");
    fs::write(&file, "").unwrap();
    assert!(!holds("/etc/hosts", "bind", file.to_str().unwrap(), "rw"), "a file");
    let projected = projected.to_str().unwrap();
    assert!(!holds("/var/run/secrets/x", "bind", projected, "ro") && holds("/x", "bind", projected, "rw"));
}

#[test]
fn the_image_is_covered_before_write_paths_beneath_which_stay_writable() {
    let image = image();
    for file in ["usr/local/bin/run", "usr/local/lib/a.so"] {
        fs::create_dir_all(image.path().join(file).parent().unwrap()).unwrap();
        fs::copy("/bin/true", image.path().join(file)).unwrap();
    }
    let declared =
        ResolvedPrograms { entries: [abs("/usr/local/bin/run")].into(), ..ResolvedPrograms::default() };
    let executables = Executables {
        libraries: [abs("/usr/local/lib")].into(),
        programs: [abs("/usr/local/bin/run"), abs("/usr/local/bin/other")].into(),
    };
    let hardened = |plan: &Plan| {
        let mut spec = spec();
        let programs = ImagePrograms { declared: &declared, all: Ok(&executables) };
        assert_eq!(harden(&mut spec, plan, programs, image.path(), Path::new(EMPTY)).unwrap(), None);
        spec
    };
    let spec = hardened(&plan(&["/usr/local/lib/state"]));
    let list: Vec<_> = spec.mounts().iter().flatten().map(|m| m.destination().to_str().unwrap()).collect();
    assert_eq!(list[..4], ["/", "/usr/local/bin/run", "/usr/local/lib", "/usr/local/lib/state"]);
    assert!(has_all(&options(&spec, "/"), &["noexec"]));
    assert!(has_all(&options(&spec, "/usr/local/lib"), &["ro", "rexec"]));
    assert!(has_all(&options(&spec, "/usr/local/lib/state"), &["rw", "rrw", "noexec"]));
    let untouched = |plan: &Plan| !covers(plan) && at(&hardened(plan), "/").is_empty();
    assert!(untouched(&plan(&["/"])), "who may write everywhere may replace programs too");
    assert!(untouched(&Plan { mode: Mode::Audit, ..plan(&[]) }));
    assert!(untouched(&Plan { programs: None, ..plan(&[]) }));
    let below = hardened(&plan(&["/usr/local"]));
    assert!(
        at(&below, "/usr/local/lib").is_empty() && at(&below, "/usr/local/bin/run").is_empty(),
        "noexec by itself"
    );
}

#[test]
fn an_image_whose_programs_are_not_known_is_left_executable_and_that_is_said() {
    let (image, gap) = (image(), Gap { wall: profiles::plan::Wall::Exec, sentence: "too large".to_owned() });
    let programs = ImagePrograms { all: Err(&gap), ..no_programs() };
    let mut spec = spec();
    let said = harden(&mut spec, &plan(&[]), programs, image.path(), Path::new(EMPTY)).unwrap();
    assert_eq!(said, Some(gap.clone()));
    assert!(at(&spec, "/").is_empty());
    assert_eq!(harden(&mut spec, &bare_plan(), programs, image.path(), Path::new(EMPTY)).unwrap(), None);
}

#[test]
fn a_plan_in_audit_mode_or_without_walls_leaves_the_spec_as_it_is() {
    let image = image();
    let audit = Plan { mode: Mode::Audit, no_new_privileges: false, ..plan(&["/var/cache"]) };
    let mut audited = spec();
    harden(&mut audited, &audit, no_programs(), image.path(), Path::new(EMPTY)).unwrap();
    assert_eq!(audited, spec());
    let mut bare = spec();
    harden(&mut bare, &bare_plan(), no_programs(), image.path(), Path::new(EMPTY)).unwrap();
    assert_eq!(bare.mounts(), spec().mounts());
    assert_eq!(bare.root(), spec().root());
    let process = |spec: &Spec| spec.process().clone().unwrap();
    assert_eq!(process(&bare).capabilities(), process(&spec()).capabilities());
}

#[test]
fn without_a_declared_capability_all_five_sets_are_empty() {
    let mut spec = spec();
    let none = Plan { capabilities: Some(Default::default()), ..bare_plan() };
    harden(&mut spec, &none, no_programs(), image().path(), Path::new(EMPTY)).unwrap();
    let process = spec.process().clone().unwrap();
    let sets = process.capabilities().clone().unwrap();
    for set in [sets.bounding(), sets.effective(), sets.inheritable(), sets.permitted(), sets.ambient()] {
        assert!(set.as_ref().unwrap().is_empty());
    }
    assert_eq!(process.no_new_privileges(), Some(true));
}

#[test]
fn a_declared_capability_is_left_in_all_five_sets_if_the_pod_has_it() {
    let mut spec = spec();
    let capability = |name| profiles::intent::Capability::new(name).unwrap();
    let two = ["NET_BIND_SERVICE", "SYS_ADMIN"].map(capability);
    harden(
        &mut spec,
        &Plan { capabilities: Some(two.into()), ..bare_plan() },
        no_programs(),
        image().path(),
        Path::new(EMPTY),
    )
    .unwrap();
    let process = spec.process().clone().unwrap();
    let sets = process.capabilities().clone().unwrap();
    for set in [sets.bounding(), sets.effective(), sets.inheritable(), sets.permitted(), sets.ambient()] {
        let names: Vec<_> = set.iter().flatten().map(ToString::to_string).collect();
        assert_eq!(names, ["NET_BIND_SERVICE"]);
    }
}

#[test]
fn the_pod_s_own_seccomp_profile_is_taken_out_once() {
    let mut spec = spec();
    let json = take_seccomp(&mut spec).unwrap().unwrap();
    assert!(json.contains("SCMP_ACT_ERRNO"));
    assert_eq!(take_seccomp(&mut spec).unwrap(), None);
}

#[test]
fn a_write_path_that_leads_out_of_its_bounds_is_an_error_and_makes_nothing() {
    let image = image();
    for (path, within) in [("/var/run", "/var"), ("/var/lost/x", "/var"), ("/var/lost", "/var")] {
        let bounds = Bounds { within: Some([abs(within)].into()), denied: BTreeSet::new() };
        let plan = Plan { write_bounds: bounds, ..plan(&[path]) };
        let error = harden(&mut spec(), &plan, no_programs(), image.path(), Path::new(EMPTY)).unwrap_err();
        assert!(matches!(error, SpecError::WritePathBounds { .. }), "{path}: {error}");
    }
    let bounds = Bounds { within: Some([abs("/run")].into()), denied: BTreeSet::new() };
    let plan = Plan { write_bounds: bounds, ..plan(&["/var/run"]) };
    harden(&mut spec(), &plan, no_programs(), image.path(), Path::new(EMPTY)).unwrap();
}

#[test]
fn a_working_folder_is_made_where_the_image_lacks_it_and_never_outside() {
    let image = image();
    let make = |path: &str| {
        let mut spec = spec();
        spec.process_mut().as_mut().unwrap().set_cwd(path.into());
        make_working_folder(&spec, image.path())
    };
    for (path, made) in
        [("/srv/a/b", "srv/a/b"), ("/var/run/app", "run/app"), ("/var/lost", "nowhere/made"), ("/", "")]
    {
        make(path).unwrap();
        assert!(image.path().join(made).is_dir(), "{path}");
    }
    assert_eq!(fs::metadata(image.path().join("srv/a")).unwrap().mode() & 0o7777, 0o755);
    for path in ["/etc/motd", "/etc/motd/x"] {
        let error = make(path).unwrap_err();
        assert!(
            matches!(error, SpecError::WorkingFolder { .. }) && error.to_string().contains(path),
            "{error}"
        );
    }
}
