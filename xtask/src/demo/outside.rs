//! An "outside" for the demonstration: a network namespace with an address of its own and a real sshd
//! in it. Gone when dropped, and what an earlier, killed demonstration left is removed at the start.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::workspace;

/// The beginning of the namespace's name; what follows is the process id of the demonstration.
const PREFIX: &str = "aw-demo-";
/// TEST-NET-3 (RFC 5737): nobody's addresses. Each demonstration takes four of them.
const NET: &str = "203.0.113";

/// The server outside.
pub struct Outside {
    namespace: String,
    sshd: Option<Child>,
    /// Its address.
    pub address: String,
    /// The client's key.
    pub key: PathBuf,
}

impl Outside {
    /// Makes the namespace and starts sshd in it; its files go to `folder`.
    pub fn new(folder: &Path) -> Result<Self> {
        remove_stale();
        let pid = std::process::id();
        let first = free_addresses()?;
        let mut outside = Self {
            namespace: format!("{PREFIX}{pid}"),
            address: format!("{NET}.{}", first + 2),
            sshd: None,
            key: folder.join("key"),
        };
        outside.network(pid, first)?;
        outside.sshd = Some(outside.start_sshd(folder)?);
        outside.wait()?;
        Ok(outside)
    }

    fn network(&self, pid: u32, first: u8) -> Result<()> {
        let name = &self.namespace;
        // Interface names have 15 characters at most.
        let (here, there) = (format!("awd{pid}"), format!("awe{pid}"));
        ip(&["netns", "add", name])?;
        ip(&[
            "link", "add", &here, "type", "veth", "peer", "name", &there, "netns", name,
        ])?;
        ip(&[
            "addr",
            "add",
            &format!("{NET}.{}/30", first + 1),
            "dev",
            &here,
        ])?;
        ip(&["link", "set", &here, "up"])?;
        ip(&[
            "-n",
            name,
            "addr",
            "add",
            &format!("{}/30", self.address),
            "dev",
            &there,
        ])?;
        ip(&["-n", name, "link", "set", &there, "up"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])
    }

    fn start_sshd(&self, folder: &Path) -> Result<Child> {
        let host_key = folder.join("host_key");
        for key in [&self.key, &host_key] {
            let mut keygen = Command::new("ssh-keygen");
            workspace::run(
                keygen
                    .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                    .arg(key),
            )?;
        }
        // sshd leaves its privileges in this folder, which its own package makes at boot.
        fs::create_dir_all("/run/sshd").context("making /run/sshd")?;
        let config = folder.join("sshd_config");
        let text = format!(
            "Port 22\nListenAddress {}\nHostKey {}\nAuthorizedKeysFile {}.pub\nPidFile none\n\
             StrictModes no\nUsePAM no\nPermitRootLogin yes\n",
            self.address,
            host_key.display(),
            self.key.display(),
        );
        fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
        self.inside("/usr/sbin/sshd")
            .args(["-D", "-q", "-f"])
            .arg(&config)
            .stdin(Stdio::null())
            .spawn()
            .context("starting sshd")
    }

    /// A command in the namespace.
    pub fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, program]);
        command
    }

    fn wait(&self) -> Result<()> {
        let address: SocketAddr = format!("{}:22", self.address).parse()?;
        let end = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            if Instant::now() > end {
                bail!("sshd did not come up at {address}");
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// The first of four addresses that nothing here has.
fn free_addresses() -> Result<u8> {
    let used = workspace::output(Command::new("ip").args(["-o", "-4", "addr"]))?;
    (0..=252)
        .step_by(4)
        .find(|first| (1..3).all(|n| !used.contains(&format!(" {NET}.{}/", first + n))))
        .with_context(|| format!("all of {NET}.0/24 is taken"))
}

impl Drop for Outside {
    fn drop(&mut self) {
        if let Some(sshd) = &mut self.sshd {
            let _ = sshd.kill();
            let _ = sshd.wait();
        }
        remove(&self.namespace);
    }
}

/// Ends what still runs in a namespace and removes it; its interfaces go with it.
fn remove(namespace: &str) {
    let pids = Command::new("ip")
        .args(["netns", "pids", namespace])
        .stderr(Stdio::null())
        .output();
    if let Ok(pids) = pids {
        for pid in String::from_utf8_lossy(&pids.stdout).split_ascii_whitespace() {
            let _ = Command::new("kill").arg(pid).stderr(Stdio::null()).status();
        }
    }
    let _ = Command::new("ip")
        .args(["netns", "del", namespace])
        .stderr(Stdio::null())
        .status();
}

/// Removes namespaces of demonstrations that are not there any more.
fn remove_stale() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix(PREFIX) else {
            continue;
        };
        if !Path::new("/proc").join(pid).exists() {
            remove(&name);
        }
    }
}

fn ip(words: &[&str]) -> Result<()> {
    workspace::run(Command::new("ip").args(words))
}
