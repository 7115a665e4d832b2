//! What this program does as an agent.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Result, bail, ensure};

use crate::{ANSWERED, PATIENCE, SENT, denial, kill, myself, tiers_acts};

/// Does what the words say.
pub fn act(words: &[String]) -> Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["exit", status] => std::process::exit(status.parse()?),
        ["relay", outer, inner] => relay(outer, inner),
        ["remove", folder] => {
            for entry in fs::read_dir(folder)? {
                fs::remove_file(entry?.path())?;
            }
            Ok(())
        }
        ["kill", ref words @ ..] => kill::act(words),
        ["exchange", address] => exchange(address),
        ["try", folder] => denial::try_all(Path::new(folder)),
        ["multiply", cgroup] => multiply(Path::new(cgroup)),
        ["everything"] => tiers_acts::all(),
        // A script's interpreter: it is called with the script's name.
        [script] if Path::new(script).ends_with("script.sh") => Ok(()),
        ["wait"] => {
            thread::sleep(PATIENCE);
            Ok(())
        }
        ["load", cgroup, folder] => load(Path::new(cgroup), Path::new(folder)),
        _ => bail!("what is {words:?}?"),
    }
}

/// Connects out; what comes from there goes to a service inside, and its answers go back.
fn relay(outer: &str, inner: &str) -> Result<()> {
    let mut outside = TcpStream::connect(outer)?;
    let mut bytes = [0; 4096];
    let n = outside.read(&mut bytes)?;
    let mut inside = TcpStream::connect(inner)?;
    inside.write_all(&bytes[..n])?;
    loop {
        let n = inside.read(&mut bytes)?;
        outside.write_all(&bytes[..n])?;
        let n = outside.read(&mut bytes)?;
        if n == 0 {
            return Ok(());
        }
        inside.write_all(&bytes[..n])?;
    }
}

fn exchange(address: &str) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(&vec![b'x'; SENT])?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer.len() == ANSWERED, "{} bytes", answer.len());
    Ok(())
}

/// Enters a cgroup, then makes and removes thousands of files.
fn load(cgroup: &Path, folder: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0")?;
    let file = folder.join("file");
    for _ in 0..FILES {
        File::create(&file)?;
        fs::remove_file(&file)?;
    }
    Ok(())
}

/// Enters a cgroup, then starts children without an end.
fn multiply(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.procs"), "0")?;
    let command = myself(&["wait"])?;
    // Bounded all the same, should nobody kill it.
    for _ in 0..2000 {
        Command::new(&command[0]).args(&command[1..]).spawn()?;
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// How many [`load`] makes.
pub const FILES: u64 = 4000;
