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
        for cell in &cells {
            booted.extend(matrix.test(cell, args.keep_logs, &mut tally));
        }
        verifier::judge(&booted, &mut tally)?;
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
        Ok(Built::Ready(Self { dir, initrd }))
    }

    /// Boots one machine, shows what its tests print, and counts them. The verifier's figures, if the
    /// machine came to tell them. What goes wrong is said and counted as a failure, so that the next
    /// machine still has its turn.
    pub fn test(&self, cell: &Cell, keep_logs: bool, tally: &mut Tally) -> Option<Verdicts> {
        self.go(cell, Suite::Tests, keep_logs, tally)
    }

    /// Boots one machine for the verifier's figures alone.
    pub fn figures(&self, cell: &Cell, tally: &mut Tally) -> Option<Verdicts> {
        self.go(cell, Suite::Figures, false, tally)
    }

    fn go(
        &self,
        cell: &Cell,
        suite: Suite,
        keep_logs: bool,
        tally: &mut Tally,
    ) -> Option<Verdicts> {
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
        let booted = self.boot(cell, &kernel, suite, keep_logs, tally);
        let took = start.elapsed().as_secs_f64();
        match booted {
            Ok(verdicts) => {
                println!("vm: {version}: {took:.1} s");
                Some(verdicts)
            }
            Err(error) => {
                println!("vm {version} FAILED after {took:.1} s: {error:#}");
                // The tests that failed are counted already; where there are none, the machine is.
                tally.failed = tally.failed.max(failed + 1);
                None
            }
        }
    }

    fn boot(
        &self,
        cell: &Cell,
        kernel: &Path,
        suite: Suite,
        keep_logs: bool,
        tally: &mut Tally,
    ) -> Result<Verdicts> {
        let name = kernel.file_name().unwrap_or_default().display();
        let modules = cell.lsm.modules();
        println!("vm: booting {name}, lsm={modules}");
        let log = self.dir.join(format!(
            "console-{}-{}.log",
            cell.version,
            match cell.lsm {
                Lsm::With => "bpf",
                Lsm::Without => "no-bpf",
            }
        ));
        let machine = Machine {
            kernel,
            initrd: &self.initrd,
            modules,
            suite,
            log: &log,
        };
        let boot = qemu::boot(&machine, tally)?;
        let console = format!("console: {}", log.display());
        let Boot {
            release,
            verdicts,
            ended,
            finished,
        } = boot;
        let failed: Vec<String> = ended
            .iter()
            .filter(|(_, code)| *code != 0)
            .map(|(program, code)| format!("{program} exited with {code}"))
            .collect();
        if !failed.is_empty() {
            bail!("{}; {console}", failed.join(", "));
        }
        if !finished {
            bail!("the machine stopped before the end; {console}");
        }
        if !keep_logs {
            fs::remove_file(&log).with_context(|| format!("removing {}", log.display()))?;
        }
        Verdicts::new(&release, verdicts)
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
