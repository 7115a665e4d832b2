//! `cargo xtask vm`: the tests under other kernels than this machine's.
//!
//! Debian's kernels are booted by QEMU (in software, so that it works inside virtual machines too)
//! with an initrd that holds nothing but agentwatch, its tests and busybox, each with and without
//! `bpf` among its security modules. Those kernels have what a hardened host may refuse: LSM programs,
//! fentry, kprobes.

mod debian;
mod image;
mod kernels;
mod programs;
mod qemu;
mod systemd;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

pub use kernels::versions;

use crate::{
    outcome::Tally,
    setup,
    verifier::{self, Verdicts},
    workspace,
};
use qemu::{Boot, Machine};

/// What `vm` can be told.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The kernel's version, as in the name of Debian's package: 5.10, 6.1, 6.12, 7 (the newest 7.x);
    /// `all` for these four. Can be given more than once.
    #[arg(long, default_value = "6.1")]
    kernel: Vec<String>,
    /// With `bpf` among the security modules (`lsm=` of the kernel's command line), without, or one
    /// after the other.
    #[arg(long, value_enum, default_value_t = Lsms::Both)]
    lsm: Lsms,
    /// Run agentwatch as a service under systemd as pid 1, in place of the tests.
    #[arg(long)]
    systemd: bool,
    /// Keep the console's whole output even if all is well.
    #[arg(long)]
    keep_logs: bool,
}

/// Which security modules to boot with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Lsms {
    With,
    Without,
    Both,
}

/// Whether `bpf` is among the security modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lsm {
    /// It is: LSM programs take effect.
    With,
    /// It is not: they load, and are never asked.
    Without,
}

/// What runs in the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// The tests, after the verifier's figures.
    Tests,
    /// The verifier's figures alone.
    Figures,
    /// The daemon as a service, under systemd (`systemd.sh`).
    Systemd,
}

/// One machine of the matrix.
#[derive(Debug, Clone)]
pub struct Cell {
    /// The kernel's version, as [`kernels::versions`] has it.
    pub version: String,
    /// Its security modules.
    pub lsm: Lsm,
}

/// Runs the tests in each machine that the arguments ask for; skipping one is no failure.
pub fn run(args: &Args) -> Result<ExitCode> {
    if let Err(error) = setup::ensure(&[setup::Group::Bpf, setup::Group::Vm]) {
        eprintln!("setup: {error:#}");
    }
    let lsms: &[Lsm] = match args.lsm {
        // What is tried there wants a denial that needs it.
        _ if args.systemd => &[Lsm::With],
        Lsms::With => &[Lsm::With],
        Lsms::Without => &[Lsm::Without],
        Lsms::Both => &[Lsm::With, Lsm::Without],
    };
    let cells: Vec<Cell> = versions(&args.kernel)
        .into_iter()
        .flat_map(|version| {
            let cell = move |lsm: &Lsm| Cell {
                version: version.clone(),
                lsm: *lsm,
            };
            lsms.iter().map(cell)
        })
        .collect();
    let mut tally = Tally::default();
    let matrix = Matrix::build()?;
    let mut booted = Vec::new();
    if let Some(matrix) = matrix.or_skip(&mut tally) {
        if args.systemd {
            for cell in &cells {
                matrix.systemd(cell, args.keep_logs, &mut tally);
            }
        } else {
            for cell in &cells {
                booted.extend(matrix.test(cell, args.keep_logs, &mut tally));
            }
            verifier::judge(&booted, &mut tally)?;
        }
    }
    println!("{tally}");
    Ok(if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What all machines share: the programs, in an initrd.
#[derive(Debug)]
pub struct Matrix {
    dir: PathBuf,
    busybox: PathBuf,
    agentwatch: PathBuf,
    initrd: PathBuf,
}

/// The shared part, or why no machine can be booted here.
#[derive(Debug)]
pub enum Built {
    /// Machines can be booted.
    Ready(Matrix),
    /// They cannot, for this reason.
    Impossible(String),
}

impl Built {
    /// The shared part; where there is none, says so and counts it as skipped.
    pub fn or_skip(self, tally: &mut Tally) -> Option<Matrix> {
        match self {
            Self::Ready(matrix) => Some(matrix),
            Self::Impossible(reason) => {
                println!("vm skipped: {reason}");
                tally.skipped += 1;
                None
            }
        }
    }
}

impl Matrix {
    /// Builds the programs and packs the initrd.
    pub fn build() -> Result<Built> {
        if let Some(reason) = missing() {
            return Ok(Built::Impossible(reason));
        }
        let busybox = match image::busybox() {
            Ok(busybox) => busybox,
            Err(error) => return Ok(Built::Impossible(format!("{error:#}"))),
        };
        let programs = programs::build()?;
        let dir = workspace::target_dir()?.join("vm");
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let initrd = image::initrd(&dir, &busybox, &programs)?;
        let agentwatch = programs.into_iter().next().context("nothing was built")?;
        Ok(Built::Ready(Self {
            dir,
            busybox,
            agentwatch: agentwatch.path,
            initrd,
        }))
    }

    /// Boots one machine, shows what its tests print, and counts them. The verifier's figures, if the
    /// machine came to tell them. What goes wrong is said and counted as a failure, so that the next
    /// machine still has its turn.
    pub fn test(&self, cell: &Cell, keep_logs: bool, tally: &mut Tally) -> Option<Verdicts> {
        self.go(cell, Suite::Tests, &self.initrd, keep_logs, tally)?
            .into_verdicts(tally)
    }

    /// Boots one machine with systemd in it, which runs agentwatch as its unit has it; shows and counts
    /// what is tried there. Skipped where this machine has no systemd to put in.
    pub fn systemd(&self, cell: &Cell, keep_logs: bool, tally: &mut Tally) {
        let initrd = match systemd::initrd(&self.dir, &self.busybox, &self.agentwatch) {
            Ok(Ok(initrd)) => initrd,
            Ok(Err(missing)) => {
                println!("vm with systemd skipped: {missing}");
                tally.skipped += 1;
                return;
            }
            Err(error) => {
                println!("vm with systemd FAILED: {error:#}");
                tally.failed += 1;
                return;
            }
        };
        self.go(cell, Suite::Systemd, &initrd, keep_logs, tally);
    }

    /// Boots one machine for the verifier's figures alone.
    pub fn figures(&self, cell: &Cell, tally: &mut Tally) -> Option<Verdicts> {
        self.go(cell, Suite::Figures, &self.initrd, false, tally)?
            .into_verdicts(tally)
    }

    fn go(
        &self,
        cell: &Cell,
        suite: Suite,
        initrd: &Path,
        keep_logs: bool,
        tally: &mut Tally,
    ) -> Option<Boot> {
        let version = &cell.version;
        let kernel = match kernels::kernel(version) {
            Ok(kernel) => kernel,
            Err(error) => {
                println!("vm {version} skipped: {error:#}");
                tally.skipped += 1;
                return None;
            }
        };
        let failed = tally.failed;
        let start = Instant::now();
        let machine = Machine {
            kernel: &kernel,
            initrd,
            modules: cell.lsm.modules(),
            suite,
            log: &self.dir.join(cell.log(suite)),
        };
        let booted = boot(&machine, keep_logs, tally);
        let took = start.elapsed().as_secs_f64();
        match booted {
            Ok(boot) => {
                println!("vm: {version}: {took:.1} s");
                Some(boot)
            }
            Err(error) => {
                println!("vm {version} FAILED after {took:.1} s: {error:#}");
                // The tests that failed are counted already; where there are none, the machine is.
                tally.failed = tally.failed.max(failed + 1);
                None
            }
        }
    }
}

/// Boots a machine, and says what went wrong there.
fn boot(machine: &Machine<'_>, keep_logs: bool, tally: &mut Tally) -> Result<Boot> {
    let name = machine.kernel.file_name().unwrap_or_default().display();
    println!("vm: booting {name}, lsm={}", machine.modules);
    let log = machine.log;
    let console = format!("console: {}", log.display());
    let boot = qemu::boot(machine, tally)?;
    let failed: Vec<String> = boot
        .ended
        .iter()
        .filter(|(_, code)| *code != 0)
        .map(|(program, code)| format!("{program} exited with {code}"))
        .collect();
    if !failed.is_empty() {
        bail!("{}; {console}", failed.join(", "));
    }
    if !boot.finished {
        bail!("the machine stopped before the end; {console}");
    }
    if !keep_logs {
        fs::remove_file(log).with_context(|| format!("removing {}", log.display()))?;
    }
    Ok(boot)
}

impl Boot {
    /// What the verifier said; where it said nothing, that is said and a failure.
    fn into_verdicts(self, tally: &mut Tally) -> Option<Verdicts> {
        match Verdicts::new(&self.release, self.verdicts) {
            Ok(verdicts) => Some(verdicts),
            Err(error) => {
                println!("vm FAILED: {error:#}");
                tally.failed += 1;
                None
            }
        }
    }
}

impl Cell {
    /// The name of the file for the console's output.
    fn log(&self, suite: Suite) -> String {
        let lsm = match (suite, self.lsm) {
            (Suite::Systemd, _) => "systemd",
            (_, Lsm::With) => "bpf",
            (_, Lsm::Without) => "no-bpf",
        };
        format!("console-{}-{lsm}.log", self.version)
    }
}

impl Lsm {
    /// The value of the kernel's parameter `lsm`.
    fn modules(self) -> &'static str {
        match self {
            Self::With => "lockdown,capability,bpf",
            Self::Without => "lockdown,capability",
        }
    }
}

/// Why no machine can be booted here, if so.
fn missing() -> Option<String> {
    if std::env::consts::ARCH != "x86_64" {
        return Some("only x86_64 kernels are booted".to_owned());
    }
    [
        "qemu-system-x86_64",
        "cpio",
        "find",
        "ldd",
        "setpriv",
        "strip",
    ]
    .into_iter()
    .find(|program| !workspace::has_program(program))
    .map(|program| format!("{program} is missing: `cargo xtask setup --only vm`"))
}
