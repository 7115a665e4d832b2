//! File events: the path that the kernel resolved, the inode, the result.

use std::{fs, os::unix::fs::MetadataExt as _};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    support::{Agent, Outcome, Place},
    tests,
};

tests! {
    paths_are_what_the_kernel_resolved;
    inodes_are_those_of_the_files;
    failures_have_their_errno;
    reads_of_secrets;
}

fn has(events: &[Value], kind: &str, path: &str) -> Result<Value> {
    let found = events
        .iter()
        .find(|event| event["kind"] == kind && event["path"] == path);
    found.cloned().with_context(|| {
        let paths: Vec<String> = events
            .iter()
            .map(|event| format!("{} {}", event["kind"], event["path"]))
            .collect();
        format!("no {kind} of {path} among:\n{}", paths.join("\n"))
    })
}

/// The same, of a call that succeeded.
fn done(events: &[Value], kind: &str, path: &str) -> Result<Value> {
    let good: Vec<Value> = events
        .iter()
        .filter(|event| event["result"].as_i64() >= Some(0))
        .cloned()
        .collect();
    has(&good, kind, path)
}

fn events(outcome: &Outcome) -> Result<Vec<Value>> {
    outcome.events("open,unlink,rmdir,rename,chmod,truncate,mkdir,link,symlink")
}

fn paths_are_what_the_kernel_resolved() -> Result<()> {
    let place = Place::new()?;
    fs::create_dir(place.path("work/real"))?;
    std::os::unix::fs::symlink("real", place.path("work/link"))?;
    let outcome = Agent::new(&place).sh(
        "echo 1 > link/../real/./a; echo 2 > link/b; cd real; echo 3 > ../link/c; exec 3> d; echo 4 > /proc/self/fd/3; \
         ln a hard; echo 5 > hard; mkdir sub; ln -s a soft; mv b moved; chmod 600 ../link/c; truncate -s 9 c; \
         rm ../link/moved; rmdir sub",
    )?;
    outcome.is_quiet()?;
    let events = events(&outcome)?;
    let real = |name: &str| place.text(&format!("work/real/{name}"));
    for name in ["a", "b", "c", "d", "hard"] {
        ensure!(
            done(&events, "open", &real(name))?["detail"]["path_source"] == "kernel",
            "{name}"
        );
    }
    ensure!(
        done(&events, "open", &real("a"))?["detail"]["created"] == true,
        "a was made"
    );
    ensure!(
        done(&events, "open", &real("hard"))?["detail"]["created"].is_null(),
        "hard was there"
    );
    done(&events, "mkdir", &real("sub"))?;
    done(&events, "rmdir", &real("sub"))?;
    ensure!(
        done(&events, "link", &real("a"))?["path2"] == real("hard"),
        "the hard link"
    );
    ensure!(
        done(&events, "symlink", "a")?["path2"] == real("soft"),
        "the symbolic link"
    );
    ensure!(
        done(&events, "rename", &real("b"))?["path2"] == real("moved"),
        "the rename"
    );
    done(&events, "truncate", &real("c"))?;
    // By a symbolic link in the caller's string: only where the kernel tells what it changed.
    if tells_of_inodes() {
        done(&events, "chmod", &real("c"))?;
        done(&events, "unlink", &real("moved"))?;
    }
    Ok(())
}

/// Since Linux 6.13 the kernel tells which inode a call changed.
fn tells_of_inodes() -> bool {
    std::path::Path::new("/sys/kernel/tracing/events/timestamp/ctime_ns_xchg").exists()
}

fn inodes_are_those_of_the_files() -> Result<()> {
    let place = Place::new()?;
    for name in ["old", "victim", "gone", "mode"] {
        place.file(&format!("work/{name}"), "x")?;
    }
    let inode = |name: &str| -> Result<u64> {
        Ok(fs::metadata(place.path(&format!("work/{name}")))?.ino())
    };
    let (old, victim, gone, mode) = (
        inode("old")?,
        inode("victim")?,
        inode("gone")?,
        inode("mode")?,
    );
    let device = fs::metadata(place.path("work"))?.dev();
    let outcome =
        Agent::new(&place).sh("mv -f old victim; rm gone; chmod 640 mode; echo x >> mode")?;
    let events = events(&outcome)?;
    let at = |name: &str| place.text(&format!("work/{name}"));
    let opened = done(&events, "open", &at("mode"))?;
    ensure!(opened["ino"] == mode, "open: {opened}");
    let kernel_device = (u64::from(libc::major(device)) << 20) | u64::from(libc::minor(device));
    ensure!(
        opened["dev"] == kernel_device,
        "device {kernel_device}: {opened}"
    );
    if tells_of_inodes() {
        let renamed = done(&events, "rename", &at("old"))?;
        ensure!(renamed["ino"] == old, "rename {old}: {renamed}");
        ensure!(
            renamed["detail"]["replaced"]["ino"] == victim,
            "rename over {victim}: {renamed}"
        );
        ensure!(
            done(&events, "unlink", &at("gone"))?["ino"] == gone,
            "unlink"
        );
        ensure!(done(&events, "chmod", &at("mode"))?["ino"] == mode, "chmod");
    }
    Ok(())
}

fn failures_have_their_errno() -> Result<()> {
    let place = Place::new()?;
    let outcome =
        Agent::new(&place).sh("rm nothing; mkdir a/b; mv x y; chmod 1 z; : > no/where; true")?;
    let events = events(&outcome)?;
    let at = |name: &str| place.text(&format!("work/{name}"));
    for (kind, name) in [("mkdir", "a/b"), ("rename", "x"), ("open", "no/where")] {
        let event = has(&events, kind, &at(name))?;
        ensure!(event["result"] == -libc::ENOENT, "{event}");
    }
    Ok(())
}

fn reads_of_secrets() -> Result<()> {
    let place = Place::new()?;
    fs::create_dir_all(place.path("home/.ssh"))?;
    let key = place.file("home/.ssh/id_ed25519", "x")?;
    let other = place.file("work/notes", "x")?;
    let outcome = Agent::new(&place).sh(&format!("cat {key} {other} >/dev/null; cat {other}"))?;
    outcome.is_quiet()?;
    let events = events(&outcome)?;
    let read = has(&events, "open", &key)?;
    ensure!(
        read["detail"]["write"].is_null() && read["result"].as_i64() >= Some(0),
        "{read}"
    );
    ensure!(
        has(&events, "open", &other).is_err(),
        "an ordinary read is counted, not sent"
    );
    let counted = outcome.account["events"]["opens_read"].as_u64();
    ensure!(counted >= Some(3), "opens counted: {counted:?}");
    ensure!(
        outcome.account["sensitive_reads"][0] == key,
        "{}",
        outcome.account
    );
    Ok(())
}
