//! What ships for Kubernetes.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::{
    support::{Place, program},
    tests,
};

tests! {
    the_manifest_is_what_kubernetes_takes needs "kubernetes-validate";
    the_configuration_in_the_manifest_is_right;
}

const MANIFEST: &str = include_str!("../../../deploy/kubernetes/agentwatch.yaml");

fn the_manifest_is_what_kubernetes_takes() -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes/agentwatch.yaml");
    let validate = |file: &Path| {
        let mut command = Command::new("kubernetes-validate");
        command.arg("--strict").arg(file).output()
    };
    let output = validate(&file)?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(output.status.success(), "{said}");
    ensure!(
        said.matches("passed").count() == 4,
        "not all of it was looked at: {said}"
    );
    // A field that does not exist is seen.
    let place = Place::new()?;
    let wrong = MANIFEST.replace("hostPID:", "hostPid:");
    let output = validate(Path::new(&place.file("wrong.yaml", &wrong)?))?;
    ensure!(!output.status.success(), "`hostPid` is taken");
    Ok(())
}

/// The files in the `ConfigMap`, as the daemon reads them.
fn the_configuration_in_the_manifest_is_right() -> Result<()> {
    let place = Place::new()?;
    for name in ["config.yaml", "policy.yaml"] {
        let start = format!("  {name}: |\n");
        let (_, rest) = MANIFEST
            .split_once(&start)
            .with_context(|| format!("no {name}"))?;
        let lines = rest.lines().take_while(|line| line.starts_with("    "));
        let text: Vec<&str> = lines.map(|line| &line[4..]).collect();
        place.file(name, &(text.join("\n") + "\n"))?;
    }
    let output = Command::new(program())
        .args(["config", "check"])
        .arg(place.path("config.yaml"))
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && said.contains("/kubepods"),
        "{said}"
    );
    Ok(())
}
