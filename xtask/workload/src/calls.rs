//! One system call, or few, again and again.

use std::{
    env, fs,
    hint::black_box,
    net::{SocketAddr, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    // As libraries call it: what watches the calls of programs watches this one.
    fs::{CWD, Mode, OFlags, openat},
    net::sockopt,
};

use crate::Work;

/// fork, exec of a small static program, wait.
pub fn exec(count: u64) -> Result<Work> {
    let own = env::current_exe().context("finding this program")?;
    Ok(Box::new(move || {
        for _ in 0..count {
            let status = Command::new(&own).arg("nothing").status()?;
            ensure!(status.success(), "the child failed: {status}");
        }
        Ok(count)
    }))
}

/// Opens a file that is there for reading, and closes it.
pub fn open_read(count: u64, dir: &Path) -> Result<Work> {
    open(count, dir, OFlags::RDONLY)
}

/// Opens a file that is there for writing, and closes it.
pub fn open_write(count: u64, dir: &Path) -> Result<Work> {
    open(count, dir, OFlags::WRONLY)
}

fn open(count: u64, dir: &Path, flags: OFlags) -> Result<Work> {
    let file = dir.join("file");
    fs::write(&file, b"x").with_context(|| format!("writing {}", file.display()))?;
    Ok(Box::new(move || {
        for _ in 0..count {
            drop(openat(CWD, &file, flags, Mode::empty())?);
        }
        Ok(count)
    }))
}

/// Makes a file and deletes it.
pub fn unlink(count: u64, dir: PathBuf) -> Work {
    Box::new(move || {
        let file = dir.join("made");
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        for _ in 0..count {
            drop(openat(CWD, &file, flags, Mode::RUSR)?);
            rustix::fs::unlink(&file)?;
        }
        Ok(count)
    })
}

/// A TCP connection to the benchmark's own server, and its end.
pub fn connect(count: u64, server: SocketAddr) -> Work {
    Box::new(move || {
        for _ in 0..count {
            let stream = TcpStream::connect(server)?;
            // A reset instead of TIME_WAIT, or the ports would run out.
            sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
        }
        Ok(count)
    })
}

/// Datagrams of 64 bytes, all from one socket.
pub fn udp(count: u64, server: SocketAddr) -> Result<Work> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    Ok(Box::new(move || {
        for _ in 0..count {
            socket.send_to(&[7; 64], server)?;
        }
        Ok(count)
    }))
}

/// Mebibytes over one connection.
pub fn bulk(count: u64, server: SocketAddr) -> Result<Work> {
    use std::io::Write as _;
    let mut stream = TcpStream::connect(server)?;
    Ok(Box::new(move || {
        let piece = vec![7; 1 << 20];
        for _ in 0..count {
            stream.write_all(&piece)?;
        }
        Ok(count)
    }))
}

/// A system call that nobody watches.
pub fn getppid(count: u64) -> Work {
    Box::new(move || {
        for _ in 0..count {
            black_box(rustix::process::getppid());
        }
        Ok(count)
    })
}

/// How long `rate` lasts.
const LASTS: Duration = Duration::from_secs(60);
/// How many are done at a stretch.
const STRETCH: u64 = 300;

/// Opens for writing, so many a second, for a minute: fewer where this machine cannot do as many.
pub fn rate(per_second: u64, dir: &Path) -> Result<Work> {
    let file = dir.join("file");
    fs::write(&file, b"x").with_context(|| format!("writing {}", file.display()))?;
    Ok(Box::new(move || {
        let start = Instant::now();
        let mut done = 0;
        loop {
            let passed = start.elapsed();
            if passed >= LASTS {
                return Ok(done);
            }
            let due = u64::try_from(passed.as_nanos() * u128::from(per_second) / 1_000_000_000)?;
            if done >= due {
                std::hint::spin_loop();
                continue;
            }
            for _ in 0..STRETCH {
                drop(openat(CWD, &file, OFlags::WRONLY, Mode::empty())?);
            }
            done += STRETCH;
        }
    }))
}
