//! Where the engine is, and how it comes there.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// The package of npm's registry that has the engine as a library, with its version.
const PACKAGE: &str = "@chdb/lib-linux-x64-gnu@26.7.3-stable.1";
/// The version in a folder's name.
const VERSION: &str = "26.7.3-stable.1";
const STARTER: &str = include_str!("server.c");

/// The engine's files.
#[derive(Debug, Clone)]
pub struct Installed {
    /// The program that runs it.
    pub(crate) starter: PathBuf,
    /// The library that it runs.
    pub(crate) library: PathBuf,
}

/// The engine where it is installed, else why not and what to do.
///
/// # Errors
///
/// When it is not there.
pub fn find() -> Result<Installed> {
    let there = files(&folder()?);
    if there.starter.is_file() && there.library.is_file() {
        return Ok(there);
    }
    bail!("ClickHouse is not installed: `cargo xtask setup --only clickhouse`")
}

/// Installs it where it is not.
///
/// # Errors
///
/// When npm or a C compiler fails.
pub fn ensure() -> Result<Installed> {
    if let Ok(there) = find() {
        return Ok(there);
    }
    let folder = folder()?;
    // Two that install at once do not meet: the one that comes last finds the place taken.
    let beside = folder.with_extension(format!("new-{}", std::process::id()));
    let made = make(&beside).and_then(|()| match fs::rename(&beside, &folder) {
        Err(_) if find().is_ok() => Ok(()),
        other => other.with_context(|| format!("making {}", folder.display())),
    });
    if beside.exists() {
        fs::remove_dir_all(&beside).with_context(|| format!("removing {}", beside.display()))?;
    }
    made?;
    find()
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    // Nothing of the package is run on installing it.
    run(Command::new("npm")
        .args([
            "install",
            "--ignore-scripts",
            "--no-save",
            "--no-audit",
            "--no-fund",
        ])
        .args(["--loglevel=error", "--prefix"])
        .arg(folder)
        .arg(PACKAGE)
        .stdout(Stdio::null()))
    .context("fetching the engine")?;
    let source = folder.join("server.c");
    fs::write(&source, STARTER).with_context(|| format!("writing {}", source.display()))?;
    run(
        Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()))
            .args(["-O2", "-pthread", "-o"])
            .arg(files(folder).starter)
            .arg(&source)
            .arg("-ldl"),
    )
    .context("compiling the engine's starter")
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command
        .status()
        .with_context(|| format!("starting {name}"))?;
    if !status.success() {
        bail!("{name} failed ({status})");
    }
    Ok(())
}

fn files(folder: &Path) -> Installed {
    Installed {
        starter: folder.join("server"),
        library: folder.join("node_modules/@chdb/lib-linux-x64-gnu/libchdb.so"),
    }
}

/// In the cache folder, like all that is long to fetch: it is half a gigabyte.
fn folder() -> Result<PathBuf> {
    let set = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let base = set("XDG_CACHE_HOME")
        .or_else(|| Some(set("HOME")?.join(".cache")))
        .context("no place for a cache: set HOME or XDG_CACHE_HOME")?;
    Ok(base.join(format!("agentwatch/clickhouse-{VERSION}")))
}
