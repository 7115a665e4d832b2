//! A host outside: a network namespace with an address of its own, and a real sshd in it.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::Mutex,
};

use anyhow::{Context as _, Result, ensure};

use crate::support::{Background, Place, python, until};

/// Names and addresses are taken one test at a time.
static TAKING: Mutex<()> = Mutex::new(());

/// The host.
pub struct Outside {
    namespace: String,
    pub address: String,
    sshd: Option<Background>,
}

impl Outside {
    /// Makes the namespace.
    pub fn new() -> Result<Self> {
        let _taking = TAKING.lock();
        let used = Command::new("ip").args(["-o", "-4", "addr"]).output()?;
        let used = String::from_utf8_lossy(&used.stdout).into_owned();
        let net = "198.51.100"; // TEST-NET-2 (RFC 5737): nobody's
        let first = (0..=252)
            .step_by(4)
            .find(|first| !used.contains(&format!(" {net}.{}/", first + 1)))
            .context("all addresses are taken")?;
        let namespace = format!("awt-{}-{first}", std::process::id());
        let outside = Self {
            namespace,
            address: format!("{net}.{}", first + 2),
            sshd: None,
        };
        let (here, there) = (format!("awh{first}"), format!("awo{first}"));
        let name = outside.namespace.as_str();
        for words in [
            vec!["netns", "add", name],
            vec![
                "link", "add", &here, "type", "veth", "peer", "name", &there, "netns", name,
            ],
            vec![
                "addr",
                "add",
                &format!("{net}.{}/30", first + 1),
                "dev",
                &here,
            ],
            vec!["link", "set", &here, "up"],
            vec![
                "-n",
                name,
                "addr",
                "add",
                &format!("{}/30", outside.address),
                "dev",
                &there,
            ],
            vec!["-n", name, "link", "set", &there, "up"],
            vec!["-n", name, "link", "set", "lo", "up"],
        ] {
            ensure!(
                Command::new("ip").args(&words).status()?.success(),
                "ip {}",
                words.join(" ")
            );
        }
        Ok(outside)
    }

    /// The same with an sshd at port 22 that takes the key `key` of the place.
    pub fn with_sshd(place: &Place) -> Result<Self> {
        let mut outside = Self::new()?;
        for key in ["key", "host_key"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(place.path(key))
                .status()?;
            ensure!(made.success(), "ssh-keygen");
        }
        fs::create_dir_all("/run/sshd")?;
        let config = place.file(
            "sshd_config",
            &format!(
                "Port 22\nListenAddress {}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\n\
                 UsePAM no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n",
                outside.address,
                place.text("host_key"),
                place.text("key.pub"),
            ),
        )?;
        let mut sshd = outside.inside("/usr/sbin/sshd");
        sshd.args(["-D", "-q", "-f", &config]);
        outside.sshd = Some(Background::start(&mut sshd)?);
        let port = format!("{}:22", outside.address);
        until("sshd", || std::net::TcpStream::connect(&port).is_ok())?;
        Ok(outside)
    }

    /// A command in the namespace.
    pub fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, program]);
        command
    }

    /// A Python program in the namespace; what it prints can be read at its end.
    pub fn python(&self, script: &str, arguments: &[&str]) -> Result<Background> {
        let local = python(script, arguments);
        let mut command = self.inside("timeout");
        command.args(local.get_args()).stdout(Stdio::piped());
        Background::start(&mut command)
    }

    /// Somebody outside, who waits for a port to open there and asks for a page.
    pub fn visitor(&self, port: u16) -> Result<Background> {
        self.python(
            "
import socket, sys, time
for _ in range(300):
    try: s = socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5); break
    except OSError: time.sleep(.1)
s.settimeout(5); s.sendall(b'hello inside\\n')
try: print(s.recv(100))
except OSError: pass
",
            &[&port.to_string()],
        )
    }

    /// The options that ssh needs here, as text.
    pub fn ssh_options(place: &Place) -> String {
        format!(
            "-F none -i {} -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=no \
             -o UserKnownHostsFile={} -o LogLevel=ERROR",
            place.text("key"),
            place.text("known_hosts"),
        )
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.sshd = None;
        let pids = Command::new("ip")
            .args(["netns", "pids", &self.namespace])
            .output();
        for pid in pids
            .map(|out| String::from_utf8_lossy(&out.stdout).into_owned())
            .unwrap_or_default()
            .split_whitespace()
        {
            if Path::new("/proc").join(pid).exists() {
                let _ = Command::new("kill")
                    .args(["-9", pid])
                    .stderr(Stdio::null())
                    .status();
            }
        }
        let _ = Command::new("ip")
            .args(["netns", "del", &self.namespace])
            .status();
    }
}
