//! What Keep computes for a container before any wall stands, without a node.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use profiles::policy::{Policies, Subject};
use profiles::{Plan, Profile};
use tests::image::{Image, Layer};
use tests::images;
use tests::provision::say;

use super::contender::median;

/// Size of the archive that is explained, in bytes.
const ARCHIVE: usize = 300 << 20;
/// Layers that it has.
const LAYERS: usize = 10;
/// Times that the archive is explained.
const EXPLAINED: usize = 11;

/// Measures, and prints medians beside their aims.
///
/// # Errors
/// When a profile cannot be computed or the archive cannot be explained.
pub(super) fn run(runs: usize) -> Result<()> {
    if cfg!(debug_assertions) {
        return crate::build::released(&["bench", "profile", "--runs", &runs.to_string()]);
    }
    let labels: BTreeMap<String, String> =
        images::NGINX_LABELS.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    println!("labels to profile and digest, medians of {runs} (aim: at most 200 us):");
    let text = policies();
    for (words, policies) in [
        ("class keep alone", Policies::default()),
        ("20 policies that all apply", Policies::parse([("bench", text.as_str())])?),
    ] {
        let time = timed(runs, || profile(&labels, &policies).map(|profile| profile.digest()))?;
        println!("  {words:<28} {time:>8.1} us");
    }
    let profile = profile(&labels, &Policies::default())?;
    let host = sandbox::facts::probe();
    let plan = profiles::plan(&profile, &host)?;
    println!("profile to filter, medians of {runs} (aim: at most 100 us):");
    let time = timed(runs, || Ok(profiles::plan(&profile, &host)?))?;
    println!("  {:<28} {time:>8.1} us", "plan");
    let time = timed(runs, || filter(&plan))?;
    println!("  {:<28} {time:>8.1} us, {} instructions", "compile", filter(&plan)?);
    explained()
}

fn profile(labels: &BTreeMap<String, String>, policies: &Policies) -> Result<Profile> {
    let subject = Subject {
        namespace: Some("shop"),
        image: Some("docker.io/shop/web:1.4"),
        ..Subject::of_class("keep")
    };
    let policy = policies.select(&subject)?;
    Ok(profiles::compute(profiles::labels::parse(labels), Some("/usr/sbin/nginx"), &policy)?.profile)
}

/// Compiles the filter; gives its length.
fn filter(plan: &Plan) -> Result<usize> {
    let seccomp = plan.seccomp.as_ref().context("the plan has no filter")?;
    Ok(sandbox::filter::compile(seccomp)?.instructions().len())
}

/// Twenty policies, of every tier, each with a ceiling that leaves what nginx declares.
fn policies() -> String {
    let mut text = String::new();
    for number in 0..20 {
        let selector = match number % 4 {
            0 => "{}",
            1 => "{namespaces: [shop, 'team-*']}",
            2 => "{images: ['docker.io/shop/*', 'registry.example/*']}",
            _ => "{namespaces: [shop], images: ['*/web:*']}",
        };
        writeln!(
            text,
            "---\napiVersion: keep.dev/v1alpha1\nkind: RuntimePolicy\nmetadata: {{name: bench-{number}}}\n\
             spec:\n  selector: {selector}\n  ceiling:\n    exec: [/usr, /bin, /opt/tool-{number}]\n    \
             listen: [8000-8999/tcp]\n    connect: [443/tcp, '10.0.0.0/8:5432/tcp', dns]\n    \
             write: [/var/lib, /tmp, /srv/{number}]\n  deny: {{needs: [mount], connect: ['169.254.169.254:80/tcp']}}"
        )
        .expect("a String takes every text");
    }
    text
}

/// Median microseconds of one run of `work`.
fn timed<T>(runs: usize, work: impl Fn() -> Result<T>) -> Result<f64> {
    // The first run parses the tables of system calls.
    black_box(work()?);
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs {
        let begin = Instant::now();
        let made = work();
        times.push(begin.elapsed().as_secs_f64() * 1e6);
        black_box(made?);
    }
    Ok(median(times))
}

fn explained() -> Result<()> {
    let keep = crate::build::run()?.join("keep");
    say("making an archive of 300 MB");
    let folder = tempfile::tempdir()?;
    let layers = (0..LAYERS).map(|layer| Layer::new().file("blob", noise(layer, ARCHIVE / LAYERS), 0o644));
    let image =
        Image::new(layers.collect::<Vec<_>>()).labels(images::NGINX_LABELS).entrypoint(&["/usr/sbin/nginx"]);
    let archive = images::write(&image, "keep.bench/large:1", folder.path())?;
    drop(image);
    let size = std::fs::metadata(&archive)?.len();
    ensure!(size >= ARCHIVE as u64, "the archive has {size} bytes only");
    let time = timed(EXPLAINED, || {
        let output = std::process::Command::new(&keep).arg("explain").arg(&archive).output()?;
        ensure!(output.status.success(), "keep explain failed: {}", String::from_utf8_lossy(&output.stderr));
        Ok(output)
    })?;
    println!(
        "`keep explain` of an archive of {} MB, median of {EXPLAINED} (aim: at most 300 ms):",
        size >> 20
    );
    println!("  {:<28} {:>8.1} ms", "the whole process", time / 1e3);
    Ok(())
}

/// What no compression makes smaller.
fn noise(seed: usize, length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ (seed as u64 + 1);
    let word = std::iter::repeat_with(|| {
        // xorshift64; Marsaglia 2003.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    word.flatten().take(length).collect()
}
