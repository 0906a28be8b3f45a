//! What this kernel lacks: a wall that cannot be had stops the start, and where it is not required it is recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use nix::sys::wait::{WaitStatus, waitpid};
use profiles::labels;
use profiles::plan::{LandlockPlan, PlanError, SocketPlan, Wall, plan};
use profiles::policy::Policy;
use profiles::profile::{Profile, compute};
use profiles::syscalls::number;
use profiles::{Observation, Plan};
use sandbox::facts::{NATIVE, probe};
use sandbox::network::NetworkWall;
use sandbox::observe::Event;
use sandbox::process;

use crate::Case;
use crate::confine::*;

pub(crate) const CASES: &[Case] = &[
    ("a_landlock_right_that_the_kernel_lacks_stops_the_start_and_one_that_it_has_does_not", rights),
    ("a_required_wall_with_a_gap_stops_the_plan_and_another_s_gap_is_recorded_and_the_rest_stands", required),
    ("where_bpf_is_refused_there_is_no_network_wall_and_a_policy_that_requires_it_refuses", without_bpf),
];

/// First ABI that no longer adds a right to those of these plans.
const LAST_WITH_RIGHTS: u32 = 6;

fn rights() {
    for version in 1..=LAST_WITH_RIGHTS + 2 {
        let ports = (version >= 4).then(Vec::new);
        let landlock = LandlockPlan { abi: version, bind_tcp: ports.clone(), connect_tcp: ports };
        let plan = Plan { landlock: Some(landlock), ..write_plan(&[Path::new("/tmp")]) };
        let outcome = run(&plan, &["/bin/true"]);
        let needed = match version.min(LAST_WITH_RIGHTS) {
            // What the third adds, a right to truncate, no plan asks for.
            3 => 2,
            other => other,
        };
        if abi() >= needed {
            assert_eq!(outcome.code(), 0, "ABI {version}: {outcome:?}");
        } else {
            assert_eq!(outcome.code(), 99, "ABI {version}: {outcome:?}");
            let [Event::Failed(why)] = &outcome.events[..] else { panic!("ABI {version}: {outcome:?}") };
            assert!(why.contains("Landlock"), "{why}");
        }
    }
}

/// The profile of a client and server with name look-ups, under a policy that requires these walls.
fn profile(require: &[Wall]) -> Profile {
    let labels: BTreeMap<String, String> =
        [("dev.keep.intent", "v1"), ("dev.keep.listen", "18474/tcp"), ("dev.keep.connect", "18474/tcp dns")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
    let policy = Policy { require: require.iter().copied().collect(), ..Policy::builtin("keep").unwrap() };
    compute(labels::parse(&labels), Some("/usr/bin/perl"), &policy).unwrap().profile
}

/// Whether the host refuses to plan `wall` where it is required.
fn refuses(wall: Wall) -> bool {
    match plan(&profile(&[wall]), &probe()) {
        Ok(_) => false,
        Err(PlanError::Required { wall: named, .. }) => named == wall,
        Err(other) => panic!("{other}"),
    }
}

fn required() {
    let host = probe();
    let mut lacking = BTreeSet::new();
    if host.landlock_abi == 0 {
        lacking.extend([Wall::Exec, Wall::File]);
    }
    if host.landlock_abi < LAST_WITH_RIGHTS || !host.cgroup_bpf {
        lacking.insert(Wall::Network);
    }
    for wall in [Wall::Exec, Wall::File, Wall::Network, Wall::Syscall, Wall::Capability] {
        assert_eq!(refuses(wall), lacking.contains(&wall), "{wall}: {host:?}");
    }
    let plan = plan(&profile(&[]), &host).unwrap();
    let recorded: BTreeSet<Wall> = plan.gaps.iter().map(|gap| gap.wall).collect();
    assert_eq!(recorded, lacking, "{:?}", plan.gaps);
    let mount = number("mount", NATIVE).unwrap();
    let script = format!("print 'ran ', syscall({mount}, 0, 0, 0, 0, 0) == -1 ? 0+$! : 'mounted'");
    let outcome = perl(&plan, &script);
    assert_eq!(outcome.output, "ran 1", "{outcome:?}");
    let walls: Vec<Wall> = outcome.observations().map(|Observation { wall, .. }| *wall).collect();
    assert_eq!(walls, [Wall::Syscall], "{outcome:?}");
}

fn without_bpf() {
    let child = process::spawn(&[], || {
        for set in [caps::CapSet::Effective, caps::CapSet::Permitted] {
            caps::clear(None, set).unwrap();
        }
        let sockets = SocketPlan { bind: Vec::new(), reach: Vec::new(), dns: true, raw: false };
        let raised = NetworkWall::load(&sockets, &[], own_processes()).is_ok();
        i32::from(probe().cgroup_bpf) + 2 * i32::from(raised) + 4 * i32::from(!refuses(Wall::Network))
    })
    .unwrap();
    assert!(matches!(waitpid(child, None).unwrap(), WaitStatus::Exited(_, 0)));
}
