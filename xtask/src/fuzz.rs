//! `cargo xtask fuzz`: parsers of what others write are given inputs without end, made from good ones.
//!
//! A generator of our own: bolero and cargo-fuzz steer by coverage, which needs libFuzzer and a nightly compiler, and
//! without it they have no limits on time and memory. Each input follows from the seed and its number alone.

mod mutate;
mod requests;
mod targets;

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::resource::{Resource, setrlimit};
use nix::time::{ClockId, clock_gettime};

pub(crate) use targets::Target;

/// Longest that one input may take, in processor time: the machine may be busy.
const SLOWEST: Duration = Duration::from_millis(100);
/// Most memory that a target may take beyond its program's, in bytes.
const MEMORY: u64 = 64 << 20;
/// After so long on one input, a target is ended from outside.
const HANG: Duration = Duration::from_secs(20);
/// One input of so many is as long as is read.
const LARGE: u64 = 20_000;

/// What is to be run.
#[derive(Debug, clap::Args)]
pub(crate) struct Fuzz {
    /// Inputs of all targets together
    #[arg(long, default_value_t = 10_000_000)]
    inputs: u64,
    /// Where the generator begins
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run this input alone, by its number
    #[arg(long)]
    only: Option<u64>,
    /// Be the process of one target, and write the number of each input into this file
    #[arg(long, hide = true)]
    progress: Option<std::path::PathBuf>,
    /// Which parsers; all if none is named
    #[arg(value_enum)]
    targets: Vec<Target>,
}

/// Runs each target in a process of its own; what ends one is saved and named.
///
/// # Errors
/// When an input ends the process, takes too long or too much memory.
pub(crate) fn run(fuzz: &Fuzz) -> Result<()> {
    if cfg!(debug_assertions) {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        return crate::build::released(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    }
    if let (Some(progress), [target]) = (&fuzz.progress, fuzz.targets.as_slice()) {
        return work(*target, fuzz, progress);
    }
    let targets = if fuzz.targets.is_empty() { Target::ALL.to_vec() } else { fuzz.targets.clone() };
    let share = fuzz.inputs.div_ceil(targets.len() as u64);
    let mut failed = Vec::new();
    for target in targets {
        if let Err(error) = supervised(target, share, fuzz) {
            println!("{target}: {error:#}");
            failed.push(target.to_string());
        }
    }
    ensure!(failed.is_empty(), "inputs were found that must not be: {}", failed.join(", "));
    Ok(())
}

fn supervised(target: Target, inputs: u64, fuzz: &Fuzz) -> Result<()> {
    let progress = tempfile::NamedTempFile::new().context("cannot make the progress file")?;
    let mut command = Command::new(std::env::current_exe().context("cannot tell where this program lies")?);
    command.args(["fuzz", "--inputs", &inputs.to_string(), "--seed", &fuzz.seed.to_string()]);
    if let Some(only) = fuzz.only {
        command.args(["--only", &only.to_string()]);
    }
    command.arg("--progress").arg(progress.path()).arg(target.to_string()).stdin(Stdio::null());
    let mut child = command.spawn().context("cannot start the target")?;
    let (mut before, mut since) = (None, Instant::now());
    let status: ExitStatus = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(100));
        let now = number(progress.path())?;
        if now != before {
            (before, since) = (now, Instant::now());
        } else if since.elapsed() > HANG {
            child.kill()?;
            child.wait()?;
            bail!("hangs: {}", saved(target, fuzz.seed, now.unwrap_or_default())?);
        }
    };
    // Slow inputs were named by the process itself.
    match status.code() {
        Some(0) => Ok(()),
        Some(1) => bail!("see above"),
        _ => {
            let number = number(progress.path())?.unwrap_or_default();
            bail!("ended with {status}: {}", saved(target, fuzz.seed, number)?)
        }
    }
}

fn number(progress: &Path) -> Result<Option<u64>> {
    let mut bytes = [0; 8];
    let mut file = File::open(progress).context("cannot open the progress file")?;
    file.rewind()?;
    Ok(file.read_exact(&mut bytes).ok().map(|()| u64::from_le_bytes(bytes)))
}

/// Saves an input, and says where and how to run it again.
fn saved(target: Target, seed: u64, number: u64) -> Result<String> {
    let path = std::env::temp_dir().join(format!("keep-fuzz-{target}-{seed}-{number}"));
    std::fs::write(&path, input(&target.world()?, seed, number))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(format!("{}; cargo xtask fuzz {target} --seed {seed} --only {number}", path.display()))
}

fn input(world: &mutate::World, seed: u64, number: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number);
    world.input(&mut random, number % LARGE == LARGE - 1)
}

/// The process of one target.
fn work(target: Target, fuzz: &Fuzz, progress: &Path) -> Result<()> {
    let progress = File::options().write(true).open(progress).context("cannot open the progress file")?;
    let world = target.world()?;
    let limit = status("VmSize:")? + MEMORY;
    setrlimit(Resource::RLIMIT_AS, limit, limit).context("cannot limit memory")?;
    let before = status("VmRSS:")?;
    let numbers = fuzz.only.map_or(0..fuzz.inputs, |only| only..only + 1);
    let (mut slowest, mut slow, mut good, mut bytes) = (Duration::ZERO, 0, 0_u64, 0_u64);
    let begin = Instant::now();
    for number in numbers.clone() {
        progress.write_all_at(&number.to_le_bytes(), 0)?;
        let input = input(&world, fuzz.seed, number);
        let start = spent()?;
        good += u64::from(target.run(&input));
        let took = spent()? - start;
        bytes += input.len() as u64;
        slowest = slowest.max(took);
        if took > SLOWEST {
            slow += 1;
            println!("{target}: {} ms: {}", took.as_millis(), saved(target, fuzz.seed, number)?);
        }
    }
    let inputs = numbers.end - numbers.start;
    println!(
        "{target}: {inputs} inputs of {} bytes in {:.0} s, {good} of them valid; the slowest took {:.1} ms, all {} MB",
        bytes / inputs.max(1),
        begin.elapsed().as_secs_f64(),
        slowest.as_secs_f64() * 1e3,
        status("VmHWM:")?.saturating_sub(before) >> 20,
    );
    ensure!(slow == 0, "{slow} inputs took more than {} ms", SLOWEST.as_millis());
    Ok(())
}

/// Processor time of this process so far.
fn spent() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).context("cannot read the clock")?.into())
}

/// A number of bytes from /proc/self/status.
fn status(field: &str) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(number.with_context(|| format!("/proc/self/status has no {field}"))? << 10)
}
