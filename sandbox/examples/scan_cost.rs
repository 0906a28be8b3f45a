//! What looking through an image costs that nothing is known of yet: `scan_cost FOLDER`, the image's root.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sandbox::executables;

const ROUNDS: usize = 11;

/// Files, and their bytes.
fn size(folder: &Path) -> (u64, u64) {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.fold((0, 0), |(files, bytes), entry| {
        let kind = entry.file_type().unwrap();
        let (more, length) =
            if kind.is_dir() { size(&entry.path()) } else { (1, entry.metadata().unwrap().len()) };
        (files + more, bytes + length)
    })
}

fn main() {
    let image = PathBuf::from(std::env::args_os().nth(1).expect("the image's root, as the one argument"));
    let (files, bytes) = size(&image);
    println!("{files} files, {} MB", bytes >> 20);
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let found = executables::scan(&image).unwrap();
        times.push(begin.elapsed());
        if times.len() == 1 {
            let (libraries, programs) = (found.libraries.len(), found.programs.len());
            println!("{libraries} entries for libraries, {programs} for programs");
        }
    }
    println!("first {:.1?}", times[0]);
    times.sort_unstable();
    println!("median of {ROUNDS} {:.1?}", times[ROUNDS / 2]);
}
