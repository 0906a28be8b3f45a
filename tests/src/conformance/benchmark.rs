//! critest's own benchmarks: what a client of the Kubernetes runtime interface, as kubelet is one, waits for.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::{PATIENCE, Site};
use crate::command::run;

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    /// Pods with a container each, and as many without one.
    pub pods: usize,
    /// How many of them at a time.
    pub at_once: usize,
}

/// Nanoseconds that each operation took, by its name.
pub type Times = BTreeMap<String, Vec<f64>>;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Results {
    operations_names: Vec<String>,
    datapoints: Vec<Datapoint>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Datapoint {
    operations_durations_ns: Vec<f64>,
}

impl Site {
    /// Runs critest's benchmarks of pods and containers with one runtime handler.
    ///
    /// # Errors
    /// When critest cannot be run, or one of its operations fails.
    pub fn benchmark(&self, handler: &str, amount: Amount) -> Result<Times> {
        let folder = self.node.folder.join("state/benchmark");
        fs::create_dir_all(&folder).context("cannot make a folder")?;
        let Amount { pods, at_once } = amount;
        let parameters = format!(
            "podsNumber: {pods}\npodsNumberParallel: {at_once}\ncontainersNumber: {pods}\ncontainersNumberParallel: {at_once}\n"
        );
        let path = folder.join("parameters.yaml");
        fs::write(&path, parameters).context("cannot write critest's parameters")?;
        let mut critest = self.critest(handler)?;
        critest.arg("-benchmark");
        critest.arg("-benchmarking-params-file").arg(&path).arg("-benchmarking-output-dir").arg(&folder);
        run(&mut critest, PATIENCE)?.success()?;
        let mut times = Times::new();
        for what in ["pod", "container"] {
            let path = folder.join(format!("{what}_benchmark_data.json"));
            let text =
                fs::read_to_string(&path).with_context(|| format!("critest wrote no {}", path.display()))?;
            fs::remove_file(&path).context("cannot remove critest's results")?;
            let measured = measured(&text)?;
            ensure!(
                measured.values().all(|times| times.len() == pods),
                "critest measured less than {pods} {what}s"
            );
            times.extend(measured);
        }
        Ok(times)
    }
}

fn measured(text: &str) -> Result<Times> {
    let results: Results = serde_json::from_str(text).context("critest's results are no JSON of theirs")?;
    let mut times = Times::new();
    for datapoint in results.datapoints {
        let durations = datapoint.operations_durations_ns;
        ensure!(durations.len() == results.operations_names.len(), "an operation of critest has no time");
        for (name, duration) in results.operations_names.iter().zip(durations) {
            times.entry(name.clone()).or_default().push(duration);
        }
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_of_the_operations_in_their_order() {
        let text = r#"{"operationsNames":["A","B"],"numParallel":1,"datapoints":[
            {"sampleIndex":0,"operationsDurationsNs":[1,20]},{"sampleIndex":1,"operationsDurationsNs":[3,40]}]}"#;
        let times = measured(text).unwrap();
        assert_eq!(times["A"], [1.0, 3.0]);
        assert_eq!(times["B"], [20.0, 40.0]);
        assert!(measured(&text.replace("[1,20]", "[1]")).is_err());
    }
}
