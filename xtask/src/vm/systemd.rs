//! A machine whose pid 1 is systemd: agentwatch as its unit runs it, tried by `systemd.sh`.
//!
//! systemd is this machine's own; all else that the script and the unit need is busybox.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::image::Root;
use crate::workspace;

/// For the kernel's command line: systemd says what is wrong and nothing else, and runs the script.
pub const KERNEL_WORDS: &str = "systemd.unit=trial.target systemd.log_level=notice systemd.show_status=0 \
     systemd.unified_cgroup_hierarchy=1";

const SCRIPT: &str = include_str!("systemd.sh");

/// Units of the machine, the daemon's configuration, and what is added to the unit that ships: the
/// emulated machine is slow, has no journal, and nobody waits half a minute for the watchdog there.
const FILES: [(&str, &str); 5] = [
    (
        "etc/systemd/system/trial.target",
        "[Unit]\nDefaultDependencies=no\nAllowIsolate=yes\nRequires=trial.service\n",
    ),
    (
        "etc/systemd/system/trial.service",
        "[Unit]\nDefaultDependencies=no\nSuccessAction=poweroff-immediate\n\
         FailureAction=poweroff-immediate\n\
         [Service]\nType=oneshot\nTimeoutStartSec=900\nExecStart=/bin/busybox sh /trial.sh\n\
         StandardOutput=tty\nStandardError=tty\nTTYPath=/dev/console\n",
    ),
    (
        "etc/systemd/system/agentwatch.service.d/trial.conf",
        "[Unit]\nDefaultDependencies=no\n\
         [Service]\nTimeoutStartSec=300\nWatchdogSec=20\n\
         StandardOutput=append:/tmp/agentwatch.log\nStandardError=append:/tmp/agentwatch.log\n",
    ),
    (
        "etc/agentwatch/config.yaml",
        "apiVersion: agentwatch/v1\nkind: Config\nnode: vm\nagents:\n  - cgroup: /agents/*\n    \
         policy: policy.yaml\n",
    ),
    (
        "etc/agentwatch/policy.yaml",
        "apiVersion: agentwatch/v1\nkind: Policy\n",
    ),
];

/// Packs the machine's root folder, or says what this machine lacks for it.
pub fn initrd(
    dir: &Path,
    busybox: &Path,
    agentwatch: &Path,
) -> Result<std::result::Result<PathBuf, String>> {
    const SYSTEMD: &str = "/lib/systemd/systemd";
    const SYSTEMCTL: &str = "/bin/systemctl";
    for program in [SYSTEMD, SYSTEMCTL] {
        if !Path::new(program).exists() {
            return Ok(Err(format!(
                "{program} is missing: `cargo xtask setup --only e2e`"
            )));
        }
    }
    let root = Root::new(dir.join("root-systemd"), busybox)?;
    // It goes by its name and finds its own programs where they were installed.
    root.program(Path::new(SYSTEMD), "init")?;
    root.program(Path::new(SYSTEMD), "lib/systemd/systemd")?;
    root.program(Path::new(SYSTEMCTL), "bin/systemctl")?;
    // Since systemd 254 it starts services by this one.
    let executor = "lib/systemd/systemd-executor";
    if Path::new("/").join(executor).exists() {
        root.program(&Path::new("/").join(executor), executor)?;
    }
    root.program(agentwatch, "usr/local/bin/agentwatch")?;
    let tracing = "lib/systemd/system/sys-kernel-tracing.mount";
    root.file(tracing, &read(&Path::new("/").join(tracing))?, 0o644)?;
    let unit = workspace::root()?.join("deploy/systemd/agentwatch.service");
    let place = "etc/systemd/system/agentwatch.service";
    root.file(place, &read(&unit)?, 0o644)?;
    for (place, text) in FILES {
        root.file(place, text, 0o644)?;
    }
    // Neither is generated: the first start of a machine would do much else too.
    let id = "0123456789abcdef0123456789abcdef\n";
    root.file("etc/machine-id", id, 0o444)?;
    root.file("etc/os-release", "ID=trial\n", 0o644)?;
    root.file("trial.sh", SCRIPT, 0o755)?;
    root.pack(&dir.join("initrd-systemd")).map(Ok)
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))
}
