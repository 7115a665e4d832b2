//! Denial, also by security modules, which the virtual machine's kernel has.

use std::{
    fs,
    io::Write as _,
    os::{
        fd::AsRawFd as _,
        unix::fs::{PermissionsExt as _, symlink},
    },
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{Agent, Test, agentwatch, myself};

pub const TESTS: &[(&str, Test)] = &[
    ("the_canary_lives", the_canary_lives),
    (
        "no_name_leads_around_a_denial",
        no_name_leads_around_a_denial,
    ),
];

/// Every denial that this kernel can hold is refused and told, and no other one is claimed.
fn the_canary_lives() -> Result<()> {
    let output = agentwatch(&["doctor", "--canary", "-o", "json"]).output()?;
    let said = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut active = 0;
    for line in said.lines() {
        let attempt: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        match attempt["verdict"].as_str() {
            Some("active") => active += 1,
            // Cgroup programs are there on every kernel.
            Some("unavailable") if attempt["tier"] == "lsm" && !must_have_lsm() => {}
            Some("unavailable") if is_without_owners(&attempt["detail"].to_string()) => active += 1,
            _ => bail!("{attempt}"),
        }
    }
    ensure!(active == 15 || (active == 6 && !must_have_lsm()), "{said}");
    Ok(())
}

/// Whether a program for changes of owner is refused because of their arguments, as before Linux 6.1: then
/// writing cannot be denied, since that would be a hole in it.
fn is_without_owners(said: &str) -> bool {
    said.contains("path_chown") && said.contains("type STRUCT is unsupported")
}

/// A virtual machine that was booted with `bpf` among its security modules takes LSM programs: its init
/// says so (`xtask/src/vm/init.sh`).
fn must_have_lsm() -> bool {
    std::env::var_os("AGENTWATCH_LSM").is_some()
}

/// As the agent: tries each, and prints how it went.
pub fn try_all(folder: &Path) -> Result<()> {
    let at = |name: &str| folder.join(name);
    let read = |name: &str| fs::File::open(at(name)).map(drop);
    let write = |name: &str| {
        let file = fs::File::options().append(true).create(true).open(at(name));
        file.map(drop)
    };
    let all: [(&str, std::io::Result<()>); 22] = [
        ("read", read("secret/deep/file")),
        ("dots", read("secret/deep/../deep/file")),
        ("symlink", read("symlink/deep/file")),
        ("hard-link", read("hard-link")),
        ("descriptor", {
            // Opened as a folder, and from there: no path is told.
            let dir = fs::File::open(at("."))?;
            fs::File::open(format!("/proc/self/fd/{}/one", dir.as_raw_fd())).map(drop)
        }),
        (
            "made-later",
            fs::write(at("later"), "x").and_then(|()| read("later")),
        ),
        ("write", write("secret/deep/file")),
        ("make", write("secret/new")),
        ("make-name", write("not-yet")),
        ("folder", fs::create_dir(at("secret/folder"))),
        ("link-in", fs::hard_link(at("free"), at("secret/link"))),
        ("link-out", fs::hard_link(at("secret/deep/file"), at("out"))),
        ("rename-out", fs::rename(at("secret/deep/file"), at("out"))),
        ("rename-folder", fs::rename(at("secret"), at("moved"))),
        ("rename-over", fs::rename(at("free"), at("kept"))),
        (
            "mode",
            fs::set_permissions(at("secret/deep"), fs::Permissions::from_mode(0o777)),
        ),
        ("truncate", {
            let to = std::ffi::CString::new(
                at("secret/deep/file").into_os_string().into_encoded_bytes(),
            )?;
            // SAFETY: a path that ends with NUL.
            match unsafe { libc::truncate(to.as_ptr(), 0) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        }),
        ("remove", fs::remove_file(at("kept"))),
        (
            "execute",
            Command::new(at("program")).arg("true").status().map(drop),
        ),
        ("free-read", read("free")),
        ("free-write", write("free")),
        ("free-remove", fs::remove_file(at("free"))),
    ];
    let mut out = std::io::stdout();
    for (name, result) in all {
        match result {
            Ok(()) => writeln!(out, "tried {name} ok")?,
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                writeln!(out, "tried {name} refused")?;
            }
            Err(error) => writeln!(out, "tried {name} {error}")?,
        }
    }
    Ok(())
}

fn no_name_leads_around_a_denial() -> Result<()> {
    let agent = Agent::new("denial")?;
    let folder = agent.path("files");
    fs::create_dir_all(folder.join("secret/deep"))?;
    for file in ["secret/deep/file", "one", "kept", "free"] {
        fs::write(folder.join(file), "x")?;
    }
    symlink("secret", folder.join("symlink"))?;
    fs::hard_link(folder.join("one"), folder.join("hard-link"))?;
    fs::copy(std::env::current_exe()?, folder.join("program"))?;
    let at = folder.display();
    let policy = agent.path("policy.yaml");
    fs::write(
        &policy,
        format!(
            "apiVersion: agentwatch/v1\nkind: Policy\nfiles:\n\
             \x20 deny_read: ['{at}/secret/**', '{at}/one', '{at}/later']\n\
             \x20 deny_write: ['{at}/secret', '{at}/not-yet']\n\
             \x20 deny_delete: ['{at}/kept']\n\
             \x20 deny_exec: ['{at}/program']\n"
        ),
    )?;
    let output = agentwatch(&["run", "-o", "json", "--no-history", "--policy"])
        .arg(&policy)
        .arg("--")
        .args(myself(&["try", &at.to_string()])?)
        .current_dir(agent.path("work"))
        .output()?;
    let (said, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    if error.contains("needs lsm") && !must_have_lsm() {
        ensure!(output.status.code() == Some(125), "{said}{error}");
        eprintln!("skipped the rest: this kernel takes no LSM programs");
        return Ok(());
    }
    if is_without_owners(&error) {
        ensure!(output.status.code() == Some(125), "{said}{error}");
        eprintln!("skipped the rest: this kernel takes no program for changes of owner");
        return Ok(());
    }
    let tried: Vec<&str> = said
        .lines()
        .filter_map(|line| line.strip_prefix("tried "))
        .collect();
    ensure!(tried.len() == 22, "{said}{error}");
    for line in tried {
        let wanted = if line.starts_with("free-") {
            " ok"
        } else {
            " refused"
        };
        ensure!(line.ends_with(wanted), "{line:?} in {said}");
    }
    Ok(())
}
