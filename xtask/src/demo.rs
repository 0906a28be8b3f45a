//! `cargo xtask demo`: nginx behind its walls, and an intruder in it.

use std::io::IsTerminal as _;

use anyhow::{Context as _, Result, ensure};
use tests::intruder::{self, MOVES, Move};
use tests::node::{Containerd, Node, Options, Runtime, leaks};
use tests::provision::{self, say};
use tests::{images, under_test};

const IMAGE: &str = "keep.demo/shop:1";
const ALLOWED: &str = "keep.demo/shop:allowed";

/// Colours, on a terminal only.
struct Paint(bool);

impl Paint {
    fn dress(&self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
    fn good(&self, text: &str) -> String {
        self.dress("32", text)
    }
    fn bad(&self, text: &str) -> String {
        self.dress("31", text)
    }
    fn strong(&self, text: &str) -> String {
        self.dress("1", text)
    }
}

/// Runs the demonstration; with `stay`, leaves nginx running.
///
/// # Errors
/// When anything in it does not go as it shows.
pub(crate) fn run(stay: bool) -> Result<()> {
    ensure!(
        std::process::Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n"),
        "the demo starts containers: run it as root"
    );
    Containerd::Debian.provide()?;
    let path = crate::build::run()?;
    provision::image_files()?;
    say("making the image and starting Debian's containerd in namespaces of its own");
    let mut options = Options::new(Containerd::Debian);
    options.path = Some(path);
    options.stay = stay;
    let mut node = Node::start(options)?;
    let shown = show(&mut node, stay);
    if stay {
        println!("\nIt goes on running. To look around:\n  {}", node.way_in());
        println!(
            "  then: ctr task ls; curl localhost:8080/; curl 'localhost:8080/hole?exec=/bin/sh'; keep violations"
        );
        println!("To end it all: {}", node.way_out());
        return shown;
    }
    drop(node);
    shown?;
    let left = leaks::on_machine();
    ensure!(left.is_empty(), "left on this machine: {left:#?}");
    println!("Everything has been taken down: no process, mount or cgroup is left.");
    Ok(())
}

fn show(node: &mut Node, stay: bool) -> Result<()> {
    let paint = Paint(std::io::stdout().is_terminal());
    let image = images::nginx()?.labels(images::NGINX_LABELS);
    node.import(&image, IMAGE)?;
    intruder::listen(node)?;
    println!(
        "{}",
        paint.strong("\nDebian's nginx in an image that says what it needs, with a hole in its handler")
    );
    for (key, value) in images::NGINX_LABELS {
        println!("  {key}=\"{value}\"");
    }

    println!("{}", paint.strong("Under runc, who comes through the hole does as he likes"));
    intruder::serve(node, Runtime::Runc, IMAGE, "shop-runc")?;
    let mut said = Vec::new();
    for one in &MOVES {
        let outcome = intruder::attempt(node, one)?;
        ensure!(outcome == "ok", "under runc, {} should succeed: {outcome}", one.words);
        said.push(format!("{} {}", one.words, paint.bad("ok")));
    }
    println!("  {}", said.join(", "));
    node.remove("shop-runc")?;

    println!("{}", paint.strong("Under Keep, the same image"));
    intruder::serve(node, Runtime::Keep, IMAGE, "shop")?;
    println!("  GET /: {} {}", paint.good("200"), intruder::get(node, "/")?);
    let mut labels = Vec::new();
    for one in &MOVES {
        let before = violations(node)?.len();
        let outcome = intruder::attempt(node, one)?;
        ensure!(outcome.starts_with("denied "), "under Keep, {} should be refused: {outcome}", one.words);
        let record = node.record("shop", one.label, |record| record["allow"]["label"] == one.label)?;
        let value = record["allow"]["value"].as_str().context("the record proposes no value")?.to_owned();
        let sentences = violations(node)?;
        let sentence =
            sentences.get(before..).unwrap_or_default().iter().rfind(|line| line.contains(one.label));
        let sentence = sentence.with_context(|| format!("keep violations says nothing of {}", one.words))?;
        println!("  {}: {}\n    {sentence}", one.words, paint.good(&outcome));
        labels.push((one, value));
    }
    if !stay {
        node.remove("shop")?;
    }

    println!("{}", paint.strong("The same image with that one label added"));
    for (one, value) in labels {
        allowed(node, one, &value, stay, &paint)?;
    }
    Ok(())
}

/// The label that the record proposed allows the move, and nothing else.
fn allowed(node: &Node, one: &Move, value: &str, stay: bool, paint: &Paint) -> Result<()> {
    if stay {
        node.remove("shop")?;
    }
    let image = images::nginx()?.labels(images::NGINX_LABELS).label(one.label, value);
    node.import(&image, ALLOWED)?;
    let id = format!("with-{}", one.label.rsplit('.').next().unwrap_or("label"));
    intruder::serve(node, Runtime::Keep, ALLOWED, &id)?;
    let outcome = intruder::attempt(node, one)?;
    ensure!(outcome == "ok", "with {}={value:?}, {} should work: {outcome}", one.label, one.words);
    let mut refused = 0;
    for other in MOVES.iter().filter(|other| other.label != one.label) {
        let outcome = intruder::attempt(node, other)?;
        ensure!(
            outcome.starts_with("denied "),
            "with {}={value:?} only, {}: {outcome}",
            one.label,
            other.words
        );
        refused += 1;
    }
    println!("  {}=\"{value}\"", one.label);
    println!("    {}: {}; the other {refused}: {}", one.words, paint.good("ok"), paint.good("denied"));
    node.remove(&id)?;
    if stay {
        intruder::serve(node, Runtime::Keep, IMAGE, "shop")?;
    }
    Ok(())
}

/// What `keep violations` prints, run inside the node.
fn violations(node: &Node) -> Result<Vec<String>> {
    let keep = under_test::binary("keep")?;
    let output = node.run(&keep.to_string_lossy(), &["violations"])?.success()?;
    Ok(output.stdout.lines().map(str::to_owned).collect())
}
