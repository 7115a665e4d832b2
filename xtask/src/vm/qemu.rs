//! Boots a machine and follows its console.

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

use super::{Suite, systemd};
use crate::{outcome::Tally, verifier::Verdict};

/// The longest silence. Whole runs take one to two minutes, more where the machine has other work; this
/// is for a kernel that hangs.
const SILENCE: Duration = Duration::from_secs(240);

/// What init.sh begins its own lines with.
const MARK: &str = "agentwatch-vm: ";

/// What to boot.
#[derive(Debug)]
pub struct Machine<'a> {
    /// The kernel's image.
    pub kernel: &'a Path,
    /// The initrd with the programs.
    pub initrd: &'a Path,
    /// The active security modules: `lsm=` of the kernel's command line.
    pub modules: &'a str,
    /// What runs.
    pub suite: Suite,
    /// Where the console's output goes.
    pub log: &'a Path,
}

/// What the console told.
#[derive(Debug, Default, PartialEq)]
pub struct Boot {
    /// The kernel's release.
    pub release: String,
    /// What the verifier says of each program.
    pub verdicts: Vec<Verdict>,
    /// The programs that ran, with their exit statuses.
    pub ended: Vec<(String, i32)>,
    /// Whether init came to its end.
    pub finished: bool,
}

/// Runs the machine until it is off.
pub fn boot(machine: &Machine<'_>, tally: &mut Tally) -> Result<Boot> {
    let log = machine.log;
    let mut log_file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
    let mut running = start(machine)?;
    let console = running.0.stdout.take().context("QEMU has no console")?;

    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(console).split(b'\n') {
            let Ok(line) = line else { break };
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let start = Instant::now();
    let mut console = Console::default();
    loop {
        let line = match lines.recv_timeout(SILENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                bail!(
                    "nothing printed for {} s; console: {}",
                    SILENCE.as_secs(),
                    log.display()
                );
            }
        };
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches('\r');
        let seconds = start.elapsed().as_secs_f64();
        writeln!(log_file, "{seconds:7.2} {line}").context("writing the log")?;
        if let Some(shown) = console.read(line, tally)? {
            println!("{shown}");
        }
    }
    Ok(console.boot)
}

fn start(machine: &Machine<'_>) -> Result<Running> {
    let suite = match machine.suite {
        Suite::Tests => "agentwatch.suite=tests",
        Suite::Figures => "agentwatch.suite=figures",
        // For systemd, which would tell of each unit, and wait for hardware.
        Suite::Systemd => systemd::KERNEL_WORDS,
    };
    let mut qemu = Command::new("setpriv");
    // QEMU must not outlive this process, however that ends.
    qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
        .args([
            "-m",
            "1536",
            "-smp",
            "2",
            "-accel",
            "tcg",
            "-nodefaults",
            "-no-reboot",
        ])
        .args(["-display", "none", "-serial", "stdio"])
        // panic=-1 ends QEMU when the kernel panics. The last two save time: nothing is to be protected
        // here from anything, and each tracepoint's end waits for RCU grace periods.
        .arg("-append")
        .arg(format!(
            "console=ttyS0 quiet lsm={} {suite} panic=-1 \
             mitigations=off rcupdate.rcu_expedited=1",
            machine.modules
        ))
        .arg("-kernel")
        .arg(machine.kernel)
        .arg("-initrd")
        .arg(machine.initrd)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    Ok(Running(
        qemu.spawn().context("starting QEMU through setpriv")?,
    ))
}

/// A running QEMU, killed where this process leaves it early.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only where the machine is off already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads the console, a line at a time.
#[derive(Debug, Default)]
struct Console {
    boot: Boot,
    /// Whether a test program runs, whose output is shown.
    shows: bool,
}

impl Console {
    /// Takes a line, and returns what of it is to be shown. Counts tests.
    fn read<'a>(&mut self, line: &'a str, tally: &mut Tally) -> Result<Option<&'a str>> {
        let Some((_, said)) = line.split_once(MARK) else {
            if !self.shows {
                return Ok(None);
            }
            tally.read_line(line);
            return Ok(Some(line));
        };
        let (word, rest) = said.split_once(' ').unwrap_or((said, ""));
        match word {
            "kernel" => rest.clone_into(&mut self.boot.release),
            "verdict" => {
                let verdict = serde_json::from_str(rest);
                self.boot
                    .verdicts
                    .push(verdict.with_context(|| format!("reading {rest:?}"))?);
            }
            "start" => self.shows = true,
            "exit" => {
                self.shows = false;
                let (program, code) = rest
                    .split_once(' ')
                    .and_then(|(program, code)| Some((program, code.parse().ok()?)))
                    .with_context(|| format!("reading {line:?}"))?;
                self.boot.ended.push((program.to_owned(), code));
            }
            "end" => self.boot.finished = true,
            _ => {}
        }
        // Figures are shown as a table.
        Ok((word != "verdict").then_some(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_is_read() {
        let mut tally = Tally::default();
        let mut console = Console::default();
        let lines = [
            "[    0.1] test result: ok. 99 passed",
            "agentwatch-vm: kernel 6.1.0-56-cloud-amd64",
            r#"agentwatch-vm: verdict {"program":"file_exit","state":"accepted","xlated":7,"verified":9,"reason":null}"#,
            "agentwatch-vm: start smoke",
            "test result: FAILED. 6 passed; 1 failed; 2 ignored; 0 measured",
            "agentwatch-vm: exit smoke 101",
            "agentwatch-vm: end",
        ];
        for line in lines {
            console.read(line, &mut tally).unwrap();
        }
        assert_eq!(tally.to_string(), "6 passed, 1 failed, 2 skipped");
        let boot = console.boot;
        assert_eq!(boot.release, "6.1.0-56-cloud-amd64");
        assert_eq!(boot.verdicts[0].verified, Some(9));
        assert_eq!(boot.ended, [("smoke".to_owned(), 101)]);
        assert!(boot.finished);
    }

    #[test]
    fn a_line_that_was_torn_is_said() {
        let mut console = Console::default();
        let torn = "agentwatch-vm: verdict {\"program\":\"file_e[   12.3] oops";
        assert!(console.read(torn, &mut Tally::default()).is_err());
    }
}
