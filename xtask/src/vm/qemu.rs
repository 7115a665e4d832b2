//! Boots the machine and follows its console.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::outcome::Tally;

/// The whole run takes some two minutes; this is for a kernel that hangs.
const TIMEOUT: Duration = Duration::from_secs(900);

/// What init.sh begins its own lines with.
const MARK: &str = "agentwatch-vm: ";

/// Runs the machine until it is off. Returns the smoke test's exit status, if it came to that.
pub fn boot(kernel: &Path, initrd: &Path, log: &Path, tally: &mut Tally) -> Result<Option<i32>> {
    let mut log_file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
    let mut qemu = Command::new("setpriv");
    // QEMU must not outlive this process, however that ends.
    qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
        .args([
            "-m",
            "1024",
            "-smp",
            "2",
            "-accel",
            "tcg",
            "-nodefaults",
            "-no-reboot",
        ])
        .args(["-display", "none", "-serial", "stdio"])
        // bpf among the LSMs lets LSM programs attach; panic=-1 ends QEMU when the kernel panics.
        .args([
            "-append",
            "console=ttyS0 quiet lsm=lockdown,capability,bpf panic=-1",
        ])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut machine = Machine(qemu.spawn().context("starting QEMU through setpriv")?);
    let console = machine.0.stdout.take().context("QEMU has no console")?;

    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n') {
            let Ok(line) = line else { break };
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let deadline = Instant::now() + TIMEOUT;
    let mut shown = false;
    let mut exit = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = match lines.recv_timeout(left) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                bail!(
                    "no end after {} s; console: {}",
                    TIMEOUT.as_secs(),
                    log.display()
                );
            }
        };
        log_file
            .write_all(&line)
            .and_then(|()| log_file.write_all(b"\n"))
            .context("writing the log")?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches('\r');
        match line.split_once(MARK) {
            Some((_, "start")) => shown = true,
            Some((_, said)) => {
                println!("vm: {said}");
                if let Some(code) = said.strip_prefix("exit ") {
                    exit = code.parse().ok();
                    shown = false;
                }
            }
            None if shown => {
                println!("{line}");
                tally.read_line(line);
            }
            None => {}
        }
    }
    Ok(exit)
}

/// A running QEMU, killed where this process leaves it early.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only where the machine is off already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
