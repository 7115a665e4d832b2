//! What `cargo xtask bench` times.
//!
//! `agentwatch-workload NAME COUNT DIR [TCP-ADDRESS UDP-ADDRESS]` sets the work up in `DIR`, says
//! `ready`, and begins when it reads a line. It prints what it took as one line of JSON and ends with
//! its standard input. So what watches it is at rest before and after, and setting up is not timed.

mod calls;
mod job;

use std::{
    env,
    io::{self, BufRead as _, Write as _},
    mem::MaybeUninit,
    path::PathBuf,
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

/// Work that is set up. Running it gives how many operations were done.
type Work = Box<dyn FnOnce() -> Result<u64>>;

fn main() -> ExitCode {
    // The program that `exec` runs: itself, with nothing to do.
    if env::args_os().nth(1).is_some_and(|name| name == "nothing") {
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("agentwatch-workload: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut args = env::args().skip(1);
    let mut next = |what: &str| args.next().with_context(|| format!("give {what}"));
    let name = next("the name of the work")?;
    let count: u64 = next("a count")?.parse().context("the count")?;
    let dir = PathBuf::from(next("a folder")?);
    let work: Work = match name.as_str() {
        // Alive, and idle.
        "idle" => Box::new(|| Ok(0)),
        "exec" => calls::exec(count)?,
        "open-read" => calls::open_read(count, &dir)?,
        "open-write" | "open-each" => calls::open_write(count, &dir)?,
        "unlink" => calls::unlink(count, dir),
        "connect" => calls::connect(count, next("an address")?.parse()?),
        "udp" => {
            next("an address")?;
            calls::udp(count, next("an address for UDP")?.parse()?)?
        }
        "bulk" => calls::bulk(count, next("an address")?.parse()?)?,
        "getppid" => calls::getppid(count),
        "rate" => calls::rate(count, &dir)?,
        "build" => job::build(count, dir)?,
        "git" => job::git(count, &dir),
        other => bail!("there is no work named {other:?}"),
    };
    say("ready")?;
    let mut lines = io::stdin().lock().lines();
    lines.next().transpose()?;

    let (cpu, start) = (cpu_ns()?, Instant::now());
    let done = work()?;
    let wall_ns = start.elapsed().as_nanos();
    let cpu_ns = cpu_ns()? - cpu;

    say(&format!(
        r#"{{"operations":{done},"wall_ns":{wall_ns},"cpu_ns":{cpu_ns}}}"#
    ))?;
    // Until whoever reads has looked at what watches this.
    lines.try_for_each(|line| line.map(drop))?;
    Ok(())
}

fn say(line: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// CPU time of this process and of its children that have ended, nanoseconds.
fn cpu_ns() -> Result<i64> {
    let mut sum = 0;
    for who in [libc::RUSAGE_SELF, libc::RUSAGE_CHILDREN] {
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: the pointer is to a `rusage` of this frame.
        if unsafe { libc::getrusage(who, usage.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error()).context("getrusage");
        }
        // SAFETY: zeroes are a `rusage`, and the kernel filled it.
        let usage = unsafe { usage.assume_init() };
        for time in [usage.ru_utime, usage.ru_stime] {
            sum += time.tv_sec * 1_000_000_000 + time.tv_usec * 1_000;
        }
    }
    Ok(sum)
}
