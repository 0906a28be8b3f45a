//! What the tests of one run printed, understood.

use anyhow::{Context as _, Result, ensure};

/// What came of the tests of one run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Results {
    /// What the tests found of the kernel, in their words.
    pub(super) kernel: String,
    pub(super) passed: usize,
    pub(super) failed: Vec<String>,
    /// Name and reason of each test that could not run there.
    pub(super) left_out: Vec<(String, String)>,
}

impl Results {
    /// Reads the lines of both harnesses: `test NAME ... ok`, `FAILED` or `ignored, REASON`.
    ///
    /// # Errors
    /// When a program of tests did not come to its end, or failed without naming a test.
    pub(super) fn read(text: &str) -> Result<Self> {
        let mut results = Self::default();
        let (mut running, mut complete) = (None, false);
        for line in text.lines().map(str::trim_end) {
            if let Some(program) = line.strip_prefix("begin ") {
                running = Some((program, results.failed.len()));
            } else if line == "end" {
                complete = true;
            } else if let Some((program, code)) =
                line.strip_prefix("end ").and_then(|end| end.rsplit_once(' '))
            {
                let (_, failed) = running.take().context("a program ended that did not begin")?;
                ensure!(
                    code == "0" || results.failed.len() > failed,
                    "{program} ended with {code}, and named no test that failed"
                );
            } else if let Some(kernel) = line.strip_prefix("this kernel: ") {
                kernel.clone_into(&mut results.kernel);
            } else if let Some((name, outcome)) =
                line.strip_prefix("test ").and_then(|test| test.split_once(" ... "))
            {
                results.add(name, outcome)?;
            }
        }
        ensure!(complete && running.is_none(), "the machine ended before its tests did");
        Ok(results)
    }

    fn add(&mut self, name: &str, outcome: &str) -> Result<()> {
        match outcome.split_once(", ") {
            Some(("ignored", why)) => self.left_out.push((name.to_owned(), why.to_owned())),
            None if outcome == "ok" => self.passed += 1,
            None if outcome == "FAILED" => self.failed.push(name.to_owned()),
            _ => anyhow::bail!("test {name} gave {outcome:?}, which is no result"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const GOOD: &str = "begin /tests/a\r\nthis kernel: old\r\ntest x ... ok\r\ntest y ... ignored, no, really\r\nnoise\r\n\
                        test z ... FAILED\r\nend /tests/a 101\r\nend\r\n";

    #[test]
    fn each_test_counts_by_its_result() {
        let expected = Results {
            kernel: "old".to_owned(),
            passed: 1,
            failed: vec!["z".to_owned()],
            left_out: vec![("y".to_owned(), "no, really".to_owned())],
        };
        assert_eq!(Results::read(GOOD).unwrap(), expected);
    }

    #[test]
    fn a_run_that_stopped_is_no_success() {
        for (good, bad) in [
            ("\nend\r", "\n"),
            ("end /tests/a 101", ""),
            ("test z ... FAILED", ""),
            ("test x ... ok", "test x ... o"),
        ] {
            assert!(GOOD.contains(good) && Results::read(&GOOD.replace(good, bad)).is_err(), "{good:?}");
        }
    }
}
