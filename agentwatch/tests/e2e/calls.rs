//! What processes may do, and do to each other; sockets of every family; devices, owners, mounts.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{
    support::{Agent, Outcome, Place},
    tests,
};

tests! {
    sockets_of_every_family needs "/usr/bin/python3";
    what_is_done_to_other_processes needs "/usr/bin/python3";
    credentials_and_capabilities needs "/usr/bin/python3";
    namespaces_and_mounts needs "unshare", "mount", "umount";
    ways_to_run_a_program needs "/usr/bin/python3";
    owners_attributes_and_nodes needs "/usr/bin/python3";
    a_script_shows_the_environment_that_changes_it needs "/usr/bin/python3";
}

fn python(place: &Place, script: &str) -> Result<Outcome> {
    let script = place.file("work/agent.py", script)?;
    let outcome = Agent::new(place).run(&["/usr/bin/python3", &script])?;
    outcome.is_quiet()?;
    Ok(outcome)
}

/// The first event with these members, wherever they are.
fn find(events: &[Value], members: &Value) -> Result<Value> {
    let wanted = members.as_object().context("no object")?;
    let has = |event: &Value| {
        wanted
            .iter()
            .all(|(name, value)| event[name] == *value || event["detail"][name] == *value)
    };
    let found = events.iter().find(|event| has(event));
    found
        .cloned()
        .with_context(|| format!("no event with {members} among {events:#?}"))
}

fn sockets_of_every_family() -> Result<()> {
    let place = Place::new()?;
    let outcome = python(
        &place,
        "import socket as s, os\n\
         a = s.socket(s.AF_UNIX); a.bind('sock'); a.listen(1)\n\
         b = s.socket(s.AF_UNIX); b.connect('sock')\n\
         c = s.socket(s.AF_UNIX, s.SOCK_DGRAM); c.bind('\\0name of no file')\n\
         s.socket(s.AF_INET, s.SOCK_RAW, 1)\n\
         s.socket(s.AF_PACKET, s.SOCK_RAW)\n\
         n = s.socket(s.AF_NETLINK, s.SOCK_RAW, 0); n.bind((0, 1))\n\
         t = s.socket(); t.bind(('127.0.0.1', 0)); print(t.getsockname()[1])\n\
         u = s.socket(s.AF_INET6); u.bind(('::1', 0)); print(u.getsockname()[1])\n\
         try: s.socket(s.AF_UNIX).connect('/nonexistent')\n\
         except OSError: pass\n\
         try:\n\
         \x20   v = s.socket(s.AF_VSOCK); v.settimeout(.5); v.connect((1, 5000))\n\
         except OSError: pass\n",
    )?;
    let sockets = outcome.events("socket")?;
    for (family, kind) in [
        ("unix", "stream"),
        ("unix", "dgram"),
        ("inet", "raw"),
        ("packet", "raw"),
        ("netlink", "raw"),
        ("vsock", "stream"),
    ] {
        find(&sockets, &json!({"family": family, "type": kind}))?;
    }
    let binds = outcome.events("bind")?;
    find(&binds, &json!({"protocol": "unix", "path": "sock"}))?;
    find(
        &binds,
        &json!({"protocol": "unix", "path": "@name of no file"}),
    )?;
    find(&binds, &json!({"protocol": "netlink", "result": 0}))?;
    // The port that the kernel chose.
    let mut ports = outcome.stdout.lines();
    for address in ["127.0.0.1", "[::1]"] {
        let port = ports.next().context("no port")?;
        find(&binds, &json!({"local": format!("{address}:{port}")}))?;
    }
    let connects = outcome.events("connect")?;
    find(&connects, &json!({"path": "sock", "result": 0}))?;
    let refused = json!({"path": "/nonexistent", "result": -libc::ENOENT});
    find(&connects, &refused)?;
    find(
        &connects,
        &json!({"protocol": "vsock", "remote": "vsock 1:5000"}),
    )?;
    Ok(())
}

fn what_is_done_to_other_processes() -> Result<()> {
    let place = Place::new()?;
    let outcome = python(
        &place,
        "import ctypes, os, signal, time\n\
         libc = ctypes.CDLL(None, use_errno=True)\n\
         buf = ctypes.create_string_buffer(8)\n\
         class iov(ctypes.Structure): _fields_ = [('p', ctypes.c_void_p), ('n', ctypes.c_size_t)]\n\
         v = iov(ctypes.addressof(buf), 8)\n\
         p = os.fork()\n\
         if p == 0: time.sleep(30); os._exit(0)\n\
         print(p)\n\
         libc.process_vm_readv(p, ctypes.byref(v), 1, ctypes.byref(v), 1, 0)\n\
         libc.process_vm_writev(p, ctypes.byref(v), 1, ctypes.byref(v), 1, 0)\n\
         libc.ptrace(16, p, 0, 0); os.waitpid(p, 0); libc.ptrace(17, p, 0, 0)\n\
         os.kill(p, 0); os.kill(p, signal.SIGUSR1); os.waitpid(p, 0)\n\
         os.close(os.memfd_create('secret name'))\n\
         libc.prctl(15, b'kworker/0:1', 0, 0, 0)\n",
    )?;
    let target: u64 = outcome.stdout.trim().parse()?;
    let all =
        outcome.events("process_vm_read,process_vm_write,ptrace,signal,memfd_create,prctl")?;
    for kind in ["process_vm_read", "process_vm_write"] {
        find(
            &all,
            &json!({"kind": kind, "target_pid": target, "result": 8}),
        )?;
    }
    let attach = json!({"kind": "ptrace", "request": "attach", "target_pid": target, "result": 0});
    find(&all, &attach)?;
    let usr1 = json!({"kind": "signal", "signal": 10, "target_pid": target});
    let usr1 = find(&all, &usr1)?;
    ensure!(usr1["detail"]["target_agent"].as_u64() > Some(0), "{usr1}");
    let asked = |event: &Value| event["kind"] == "signal" && event["detail"]["signal"] == 0;
    ensure!(!all.iter().any(asked), "signal 0 is no signal: {all:#?}");
    find(
        &all,
        &json!({"kind": "memfd_create", "name": "secret name"}),
    )?;
    let renamed = json!({"kind": "prctl", "option": "set_name", "name": "kworker/0:1"});
    find(&all, &renamed)?;
    Ok(())
}

fn credentials_and_capabilities() -> Result<()> {
    let place = Place::new()?;
    let outcome = python(
        &place,
        "import os\n\
         p = os.fork()\n\
         if p == 0:\n\
         \x20   os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n\
         \x20   try: os.setuid(0)\n\
         \x20   except OSError: os._exit(0)\n\
         os.waitpid(p, 0)\n",
    )?;
    let all = outcome.events("setuid,setgid")?;
    find(
        &all,
        &json!({"kind": "setgid", "gid": 65534, "egid": 65534, "result": 0}),
    )?;
    let nobody = json!({"kind": "setuid", "euid": 65534, "result": 0, "caps": "0000000000000000"});
    find(&all, &nobody)?;
    find(
        &all,
        &json!({"kind": "setuid", "euid": 65534, "result": -libc::EPERM}),
    )?;
    Ok(())
}

fn namespaces_and_mounts() -> Result<()> {
    let place = Place::new()?;
    let folder = place.text("work/mnt");
    let outcome = Agent::new(&place).sh(&format!(
        "mkdir {folder}; unshare -m -n --fork sh -c 'mount -t tmpfs no-device {folder}; umount {folder}'"
    ))?;
    outcome.is_quiet()?;
    let unshared = outcome.events("unshare")?;
    find(
        &unshared,
        &json!({"namespaces": ["mnt", "net"], "result": 0}),
    )?;
    let mounts = outcome.events("mount,umount")?;
    find(
        &mounts,
        &json!({"kind": "mount", "path": folder, "path2": "no-device", "result": 0}),
    )?;
    find(
        &mounts,
        &json!({"kind": "umount", "path": folder, "result": 0}),
    )?;
    // By clone(2), which no call of its own tells of.
    let cloned = Agent::new(&place).run(&[
        "/usr/bin/python3",
        "-c",
        "import ctypes, os\nlibc = ctypes.CDLL(None)\nnr = 56 if os.uname().machine == 'x86_64' else 220\n\
         p = libc.syscall(nr, 0x40000000 | 17, 0, 0, 0, 0)\n\
         if p == 0: os._exit(0)\n\
         os.waitpid(p, 0)",
    ])?;
    cloned.is_quiet()?;
    find(&cloned.events("fork")?, &json!({"namespaces": ["net"]}))?;
    Ok(())
}

fn ways_to_run_a_program() -> Result<()> {
    let place = Place::new()?;
    let script = place.file("work/script.sh", "#!/bin/sh -e\ntrue\n")?;
    let outcome = python(
        &place,
        "import glob, os, shutil, subprocess\n\
         def run(f, *a):\n\
         \x20   p = os.fork()\n\
         \x20   if p == 0: os.execve(f, list(a), {})\n\
         \x20   os.waitpid(p, 0)\n\
         m = os.memfd_create('x'); os.write(m, open('/bin/true', 'rb').read())\n\
         run(f'/proc/self/fd/{m}', 'by-memfd')\n\
         run(os.open('/bin/true', os.O_RDONLY), 'by-descriptor')\n\
         shutil.copy('/bin/true', 'gone'); f = os.open('gone', os.O_RDONLY); os.unlink('gone')\n\
         run(f, 'by-deleted')\n\
         ld = (glob.glob('/lib*/ld-linux*') + glob.glob('/lib/*/ld-linux*'))[0]\n\
         run(ld, 'by-loader', '/bin/true')\n\
         os.chmod('script.sh', 0o755); run('./script.sh', 'by-script')\n",
    )?;
    let execs = outcome.events("exec")?;
    let by = |means: &str| find(&execs, &json!({"means": means}));
    ensure!(
        by("memfd")?["path"].to_string().contains("memfd:x"),
        "{execs:#?}"
    );
    ensure!(
        by("descriptor")?["path"].to_string().contains("/true"),
        "{execs:#?}"
    );
    ensure!(by("deleted")?["detail"]["nameless"] == true, "{execs:#?}");
    ensure!(
        by("loader")?["detail"]["program"] == "/bin/true",
        "{execs:#?}"
    );
    let by_script = by("script")?;
    ensure!(
        by_script["detail"]["script"] == "./script.sh",
        "{by_script}"
    );
    ensure!(
        by_script["detail"]["interpreter"] == "/bin/sh",
        "{by_script}"
    );
    ensure!(!script.is_empty());
    Ok(())
}

fn owners_attributes_and_nodes() -> Result<()> {
    let place = Place::new()?;
    let outcome = python(
        &place,
        "import os\n\
         open('f', 'w').close(); os.symlink('f', 'link')\n\
         os.chown('link', 1234, -1)\n\
         os.setxattr('f', 'user.note', b'1')\n\
         os.mkfifo('fifo'); os.mknod('node', 0o600 | 0o020000, os.makedev(195, 255))\n\
         try: open('node')\n\
         except OSError: pass\n\
         try: os.close(os.open('/dev/kmsg', os.O_RDONLY))\n\
         except OSError: pass\n\
         os.close(os.open('/dev/null', os.O_RDONLY))\n",
    )?;
    let all = outcome.events("chown,xattr,mknod,open")?;
    // By a symbolic link, and told of what it leads to where the kernel says.
    let chown = find(&all, &json!({"kind": "chown", "owner": {"uid": 1234}}))?;
    if chown["detail"]["path_source"] == "kernel" {
        ensure!(chown["path"] == place.text("work/f"), "{chown}");
    }
    find(
        &all,
        &json!({"kind": "xattr", "path": place.text("work/f"), "attribute": "user.note"}),
    )?;
    find(
        &all,
        &json!({"kind": "mknod", "path": place.text("work/node"), "device": "195:255"}),
    )?;
    find(
        &all,
        &json!({"kind": "open", "path": "/dev/kmsg", "device": "1:11"}),
    )?;
    ensure!(
        !all.iter().any(|event| event["path"] == "/dev/null"),
        "{all:#?}"
    );
    Ok(())
}

fn a_script_shows_the_environment_that_changes_it() -> Result<()> {
    let place = Place::new()?;
    let outcome = Agent::new(&place).sh("LD_LIBRARY_PATH=/tmp/x TOKEN=secret exec true")?;
    outcome.is_quiet()?;
    let execs = outcome.events("exec")?;
    find(&execs, &json!({"env": {"LD_LIBRARY_PATH": "/tmp/x"}}))?;
    ensure!(
        !execs
            .iter()
            .any(|event| event.to_string().contains("secret\"")),
        "{execs:#?}"
    );
    Ok(())
}
