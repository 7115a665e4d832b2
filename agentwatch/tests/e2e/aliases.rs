//! A file by all the names that it can have: the event has the kernel's path and the file's inode.

use std::{fs, os::unix::fs::MetadataExt as _};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    support::{Agent, Outcome, Place},
    tests,
};

tests! {
    opened_by_any_alias needs "/usr/bin/python3";
    in_other_mount_namespaces_and_roots needs "unshare", "mount", "chroot";
    long_names_and_deep_folders needs "/usr/bin/python3";
    deeper_than_can_be_told needs "/usr/bin/python3";
    deleted_while_open needs "/usr/bin/python3";
}

fn writes(outcome: &Outcome) -> Result<Vec<Value>> {
    let mut events = outcome.events("open")?;
    events.retain(|event| event["result"].as_i64() >= Some(0));
    Ok(events)
}

fn python(place: &Place, script: &str) -> Result<Outcome> {
    let script = place.file("work/agent.py", script)?;
    let outcome = Agent::new(place).run(&["/usr/bin/python3", &script])?;
    outcome.is_quiet()?;
    Ok(outcome)
}

fn opened_by_any_alias() -> Result<()> {
    let place = Place::new()?;
    fs::create_dir_all(place.path("work/d/e"))?;
    let file = place.file("work/d/file", "x")?;
    let inode = fs::metadata(&file)?.ino();
    let outcome = python(
        &place,
        "import ctypes, os, struct\n\
         libc = ctypes.CDLL(None, use_errno=True)\n\
         os.symlink('d', 'l'); os.symlink('l/file', 'll'); os.link('d/file', 'hard')\n\
         W = os.O_WRONLY; here = os.getcwd(); fd = os.open('d', os.O_RDONLY)\n\
         def o(p, **k): os.close(os.open(p, W, **k))\n\
         o('d/file'); o('./d/e/../../d/./file'); o('ll'); o('hard'); o(here + '/l/file')\n\
         o('file', dir_fd=fd); o(f'/proc/self/fd/{fd}/file'); o('/proc/self/root' + here + '/d/file')\n\
         o('/proc/self/cwd/d/file')\n\
         f = os.open('d/file', os.O_RDONLY); o(f'/proc/self/fd/{f}'); o(f'/dev/fd/{f}')\n\
         # openat2 with RESOLVE_BENEATH, and with RESOLVE_IN_ROOT: the root of that call is d.\n\
         for name, resolve in [(b'e/../file', 8), (b'/file', 16)]:\n\
         \x20   how = struct.pack('QQQ', W, 0, resolve)\n\
         \x20   r = libc.syscall(437, fd, name, how, len(how)); assert r >= 0, ctypes.get_errno(); os.close(r)\n",
    )?;
    let events = writes(&outcome)?;
    let of: Vec<&Value> = events
        .iter()
        .filter(|event| event["ino"] == inode)
        .collect();
    // Those by the same path follow one another closely: some are told by their number.
    let opens = |event: &Value| event["detail"]["count"].as_u64().unwrap_or(1);
    let number: u64 = of.iter().map(|event| opens(event)).sum();
    ensure!(number == 13, "{number} of 13: {of:#?}");
    for event in &of {
        let hard = event["path"] == place.text("work/hard");
        ensure!(hard || event["path"] == file, "{event}");
    }
    ensure!(
        of.iter().filter(|event| event["path"] != file).count() == 1,
        "the hard link has its own name: {of:#?}"
    );
    Ok(())
}

fn in_other_mount_namespaces_and_roots() -> Result<()> {
    let place = Place::new()?;
    fs::create_dir_all(place.path("work/real"))?;
    fs::create_dir_all(place.path("work/bind"))?;
    let file = place.file("work/real/file", "x")?;
    let inode = fs::metadata(&file)?.ino();
    let work = place.text("work");
    let outcome = Agent::new(&place).sh(&format!(
        "unshare -m sh -c 'mount --bind {work}/real {work}/bind; echo 1 >> {work}/bind/file; \
           mkdir -p {work}/jail/bin {work}/jail/lib {work}/jail/lib64 {work}/jail/usr; \
           mount --rbind /bin {work}/jail/bin; mount --rbind /lib {work}/jail/lib; \
           mount --rbind /lib64 {work}/jail/lib64; mount --rbind /usr {work}/jail/usr; \
           chroot {work}/jail sh -c \"echo 2 > /inside\"'"
    ))?;
    outcome.is_quiet()?;
    let events = writes(&outcome)?;
    // Where it is mounted, it is; the inode tells that it is the same.
    let bound = events
        .iter()
        .find(|event| event["path"] == format!("{work}/bind/file"))
        .with_context(|| format!("{events:#?}"))?;
    ensure!(bound["ino"] == inode, "{bound}");
    // A path is whole, out of a chroot too.
    let inside = format!("{work}/jail/inside");
    ensure!(
        events.iter().any(|event| event["path"] == inside),
        "{events:#?}"
    );
    Ok(())
}

fn long_names_and_deep_folders() -> Result<()> {
    let place = Place::new()?;
    let outcome = python(
        &place,
        "import os\n\
         n = 'n' * 255\n\
         for k in range(14): os.mkdir(n); os.chdir(n)\n\
         open('f' * 255, 'w').close(); os.unlink('f' * 255)\n",
    )?;
    let expected = format!(
        "{}{}/{}",
        place.text("work"),
        format!("/{}", "n".repeat(255)).repeat(14),
        "f".repeat(255)
    );
    for kind in ["open", "unlink"] {
        let events = outcome.events(kind)?;
        let event = events
            .iter()
            .find(|event| event["path"] == expected)
            .with_context(|| format!("no {kind} of it: {}", events.len()))?;
        ensure!(event["detail"]["partial"].is_null(), "{event}");
    }
    Ok(())
}

/// Then the file's end of the path is there, and the event says that it is cut.
fn deeper_than_can_be_told() -> Result<()> {
    let place = Place::new()?;
    let outcome = python(
        &place,
        "import os\n\
         for k in range(120): os.mkdir(f'd{k}'); os.chdir(f'd{k}')\n\
         open('leaf', 'w').close()\n",
    )?;
    let events = writes(&outcome)?;
    let event = events
        .iter()
        .find(|event| event["path"].to_string().contains("/d118/d119/leaf"))
        .with_context(|| format!("{events:#?}"))?;
    ensure!(event["detail"]["partial"] == true, "{event}");
    ensure!(event["path"].to_string().starts_with("\"…/d"), "{event}");
    ensure!(
        outcome.account["events"]["cut"].as_u64() > Some(0),
        "{}",
        outcome.account["events"]
    );
    Ok(())
}

fn deleted_while_open() -> Result<()> {
    let place = Place::new()?;
    let outcome = python(
        &place,
        "import os\n\
         f = os.open('gone', os.O_CREAT | os.O_RDWR); os.unlink('gone')\n\
         os.close(os.open(f'/proc/self/fd/{f}', os.O_WRONLY)); os.fchmod(f, 0o600); os.ftruncate(f, 1)\n",
    )?;
    let gone = place.text("work/gone");
    let events = outcome.events("open,unlink,chmod,truncate")?;
    for kind in ["open", "unlink", "chmod", "truncate"] {
        ensure!(
            events
                .iter()
                .any(|event| event["kind"] == kind && event["path"] == *gone),
            "no {kind}: {events:#?}"
        );
    }
    Ok(())
}
