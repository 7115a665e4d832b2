//! Files that become code without being executed.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    support::{Agent, Outcome, Place},
    tests,
};

tests! {
    a_library_that_is_loaded_later needs "/usr/bin/python3";
    a_library_of_ld_preload needs "/usr/bin/python3";
    what_is_only_read_is_no_code needs "/usr/bin/python3";
}

/// A copy of a library that is there on every machine with Python, under another name.
fn library(place: &Place) -> Result<String> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let libc = maps
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .find(|path| path.contains("libgcc_s.so") || path.contains("libc.so"))
        .context("no library is mapped here")?;
    fs::copy(libc, place.path("work/own.so"))?;
    Ok(place.text("work/own.so"))
}

/// The times that a file was mapped as code.
fn of_file<'a>(events: &'a [Value], path: &str) -> Vec<&'a Value> {
    events
        .iter()
        .filter(|event| event["path"] == path)
        .collect()
}

fn run(place: &Place, words: &[&str]) -> Result<Outcome> {
    let outcome = Agent::new(place).run(words)?;
    outcome.is_quiet()?;
    Ok(outcome)
}

fn a_library_that_is_loaded_later() -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let place = Place::new()?;
    let library = library(&place)?;
    // Twice in one process, and once in another one.
    let script = format!(
        "import ctypes, os, mmap\n\
         ctypes.CDLL('{library}')\n\
         f = os.open('{library}', os.O_RDONLY)\n\
         m = mmap.mmap(f, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)\n\
         if os.fork() == 0:\n\
         \x20   mmap.mmap(f, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC); os._exit(0)\n\
         os.wait()"
    );
    let outcome = run(&place, &["/usr/bin/python3", "-c", &script])?;
    let events = outcome.events("mmap_exec")?;
    let mapped = of_file(&events, &library);
    ensure!(mapped.len() == 2, "{mapped:#?}");
    ensure!(mapped[0]["pid"] != mapped[1]["pid"], "{mapped:#?}");
    let inode = fs::metadata(&library)?.ino();
    ensure!(
        mapped.iter().all(|event| event["ino"] == inode),
        "{mapped:#?}"
    );
    ensure!(
        mapped[0]["detail"]["path_source"] == "kernel",
        "{}",
        mapped[0]
    );
    // The libraries of Python itself, each once.
    let libc: Vec<&Value> = events
        .iter()
        .filter(|event| event["path"].as_str().unwrap_or("").contains("libc.so"))
        .filter(|event| event["pid"] == mapped[0]["pid"])
        .collect();
    ensure!(libc.len() == 1, "{libc:#?}");
    Ok(())
}

fn a_library_of_ld_preload() -> Result<()> {
    let place = Place::new()?;
    let library = library(&place)?;
    let outcome = run(
        &place,
        &[
            "/usr/bin/env",
            &format!("LD_PRELOAD={library}"),
            "/bin/true",
        ],
    )?;
    let events = outcome.events("mmap_exec")?;
    let mapped = of_file(&events, &library);
    let [one] = mapped[..] else {
        anyhow::bail!("not once: {mapped:#?}");
    };
    let exe = one["exe"].as_str().unwrap_or_default();
    ensure!(exe.ends_with("true"), "{one}");
    Ok(())
}

fn what_is_only_read_is_no_code() -> Result<()> {
    let place = Place::new()?;
    place.file("work/data", &"x".repeat(5000))?;
    let script = "import mmap, os\n\
        f = os.open('data', os.O_RDONLY)\n\
        mmap.mmap(f, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ)\n\
        mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_EXEC)";
    let outcome = run(&place, &["/usr/bin/python3", "-c", script])?;
    let events = outcome.events("mmap_exec")?;
    ensure!(!events.is_empty(), "not even its libraries");
    let paths: Vec<&str> = events
        .iter()
        .filter_map(|event| event["path"].as_str())
        .collect();
    ensure!(
        paths
            .iter()
            .all(|path| !path.ends_with("/data") && !path.is_empty()),
        "{paths:?}"
    );
    Ok(())
}
