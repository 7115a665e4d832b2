//! io_uring: what is done without a system call of its own is seen as what it is.
//!
//! The agent is this test program itself, started with [`HELPER`] set.

use std::{
    env,
    ffi::CString,
    fs,
    net::{Ipv4Addr, SocketAddrV4, TcpListener},
    os::fd::{AsRawFd as _, IntoRawFd as _, RawFd},
};

use anyhow::{Context as _, Result, bail, ensure};
use io_uring::{IoUring, opcode, squeue, types};
use serde_json::Value;

use crate::{
    support::{Agent, Outcome, Place, echo, port},
    tests,
};

/// Set in the environment where this program is the agent: what it shall do.
pub const HELPER: &str = "AGENTWATCH_E2E_URING";

tests! {
    files_through_a_ring needs "io_uring";
    a_deletion_that_asks_for_no_completion_is_seen needs "io_uring";
    connections_through_a_ring needs "io_uring", "/usr/bin/python3";
    a_mass_deletion_through_a_ring needs "io_uring";
}

fn agent(place: &Place, deed: &str, argument: &str) -> Result<Outcome> {
    let program = env::current_exe()?.display().to_string();
    let setting = format!("{HELPER}={deed}");
    Agent::new(place).run(&["env", &setting, &program, argument])
}

fn find<'a>(events: &'a [Value], kind: &str, path: &str) -> Result<&'a Value> {
    events
        .iter()
        .find(|event| event["kind"] == kind && event["path"].to_string().contains(path))
        .with_context(|| format!("no {kind} of {path}: {events:#?}"))
}

fn files_through_a_ring() -> Result<()> {
    let place = Place::new()?;
    let outcome = agent(&place, "files", &place.text("work"))?;
    outcome.is_quiet()?;
    ensure!(
        !outcome.events("io_uring_setup")?.is_empty(),
        "no set-up was seen"
    );
    let events = outcome.events("open,mkdir,rename,link,symlink,unlink")?;
    let events: Vec<Value> = events
        .into_iter()
        .filter(|event| event["detail"]["io_uring"] == true)
        .collect();
    let work = place.text("work");
    for (kind, path) in [
        ("open", "/made"),
        ("mkdir", "/folder"),
        ("rename", "/made"),
        ("link", "/folder/renamed"),
        ("unlink", "/folder/renamed"),
    ] {
        let event = find(&events, kind, &format!("{work}{path}"))?;
        ensure!(event["result"].as_i64() >= Some(0), "{event}");
    }
    let opened = find(&events, "open", "/made")?;
    ensure!(opened["detail"]["created"] == true, "{opened}");
    ensure!(opened["detail"]["path_source"] == "kernel", "{opened}");
    let renamed = find(&events, "rename", "/made")?;
    ensure!(
        renamed["path2"] == format!("{work}/folder/renamed"),
        "{renamed}"
    );
    let failed = find(&events, "unlink", "/missing")?;
    ensure!(failed["result"] == -libc::ENOENT, "{failed}");
    Ok(())
}

fn a_deletion_that_asks_for_no_completion_is_seen() -> Result<()> {
    let place = Place::new()?;
    place.file("work/victim", "x")?;
    let outcome = agent(&place, "silent", &place.text("work/victim"))?;
    ensure!(outcome.status == Some(0), "{}", outcome.stderr);
    ensure!(!place.path("work/victim").exists(), "it is there still");
    find(&outcome.events("unlink")?, "unlink", "work/victim")?;
    Ok(())
}

fn connections_through_a_ring() -> Result<()> {
    let place = Place::new()?;
    let port = port();
    let _server = echo(port)?;
    let outcome = agent(&place, "connect", &port.to_string())?;
    outcome.is_quiet()?;
    let remote = format!("127.0.0.1:{port}");
    let connects = outcome.events("connect")?;
    ensure!(
        connects.iter().any(|event| event["remote"] == *remote),
        "{connects:#?}"
    );
    let closed = outcome.events("flow_close")?;
    let flow = closed
        .iter()
        .find(|event| event["remote"] == *remote)
        .with_context(|| format!("{closed:#?}"))?;
    ensure!(flow["bytes_out"] == 5 && flow["bytes_in"] == 5, "{flow}");
    let accepts = outcome.events("accept")?;
    ensure!(accepts.len() == 1, "{accepts:#?}");
    Ok(())
}

fn a_mass_deletion_through_a_ring() -> Result<()> {
    let place = Place::new()?;
    let mail = place.tree("mail", 5000)?;
    let outcome = agent(&place, "unlink", &mail.display().to_string())?;
    outcome.is_killed("mass-deletion")?;
    let left = fs::read_dir(&mail)?
        .filter_map(|folder| fs::read_dir(folder.ok()?.path()).ok())
        .map(Iterator::count)
        .sum::<usize>();
    ensure!(left >= 4950, "{} files are gone", 5000 - left);
    Ok(())
}

/// What the agent does.
pub fn help(deed: &str) -> Result<()> {
    let argument = env::args().nth(1).context("no argument")?;
    let mut ring = IoUring::new(64)?;
    match deed {
        "files" => files(&mut ring, &argument),
        "silent" => {
            let path = CString::new(argument)?;
            let entry = opcode::UnlinkAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr()).build();
            // Without a completion there is nothing to wait for but the end.
            submit(&mut ring, &entry.flags(squeue::Flags::SKIP_SUCCESS))?;
            for _ in 0..200 {
                if !fs::exists(path.to_str()?)? {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            Ok(())
        }
        "connect" => connect(&mut ring, argument.parse()?),
        "unlink" => {
            for n in 0..5000 {
                let path = CString::new(format!("{argument}/{:03}/{n:06}", n / 200))?;
                let entry = opcode::UnlinkAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr());
                go(&mut ring, &entry.build())?;
            }
            Ok(())
        }
        other => bail!("no such deed: {other}"),
    }
}

fn submit(ring: &mut IoUring, entry: &squeue::Entry) -> Result<()> {
    // SAFETY: what the entry points to lives until `go` has seen its end; in "silent" until the file is
    // gone.
    unsafe { ring.submission().push(entry) }?;
    ring.submit()?;
    Ok(())
}

/// Submits one request and waits for its result.
fn go(ring: &mut IoUring, entry: &squeue::Entry) -> Result<i32> {
    submit(ring, entry)?;
    ring.submit_and_wait(1)?;
    let end = ring.completion().next().context("no completion")?;
    Ok(end.result())
}

fn files(ring: &mut IoUring, folder: &str) -> Result<()> {
    env::set_current_dir(folder)?;
    let (made, sub, renamed) = (c"./x/../made", c"folder", c"folder/renamed");
    let (second, missing) = (c"folder/second", c"missing");
    let here = types::Fd(libc::AT_FDCWD);
    fs::create_dir("x")?;
    let open = opcode::OpenAt::new(here, made.as_ptr())
        .flags(libc::O_CREAT | libc::O_WRONLY)
        .mode(0o644);
    ensure!(go(ring, &open.build())? >= 0, "open");
    for (what, entry) in [
        ("mkdir", opcode::MkDirAt::new(here, sub.as_ptr()).build()),
        (
            "rename",
            opcode::RenameAt::new(here, made.as_ptr(), here, renamed.as_ptr()).build(),
        ),
        (
            "link",
            opcode::LinkAt::new(here, renamed.as_ptr(), here, second.as_ptr()).build(),
        ),
        (
            "unlink",
            opcode::UnlinkAt::new(here, renamed.as_ptr()).build(),
        ),
    ] {
        let result = go(ring, &entry)?;
        ensure!(result == 0, "{what}: {result}");
    }
    let failed = go(ring, &opcode::UnlinkAt::new(here, missing.as_ptr()).build())?;
    ensure!(failed == -libc::ENOENT, "unlink of nothing: {failed}");
    Ok(())
}

/// Out to a server, and in from itself.
fn connect(ring: &mut IoUring, port: u16) -> Result<()> {
    // SAFETY: no pointers.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) };
    connect_to(ring, socket, SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    let mut answer = [0; 5];
    let send = opcode::Send::new(types::Fd(socket), b"hello".as_ptr(), 5).build();
    ensure!(go(ring, &send)? == 5, "send");
    let receive = opcode::Recv::new(types::Fd(socket), answer.as_mut_ptr(), 5).build();
    ensure!(go(ring, &receive)? == 5 && &answer == b"hello", "receive");

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let own = std::net::TcpStream::connect(listener.local_addr()?)?;
    let accept = opcode::Accept::new(
        types::Fd(listener.as_raw_fd()),
        std::ptr::null_mut(),
        std::ptr::null_mut(),
    );
    ensure!(go(ring, &accept.build())? >= 0, "accept");
    let _ = own.into_raw_fd();
    Ok(())
}

fn connect_to(ring: &mut IoUring, socket: RawFd, to: SocketAddrV4) -> Result<()> {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(*to.ip()).to_be(),
        },
        sin_zero: [0; 8],
    };
    let entry = opcode::Connect::new(
        types::Fd(socket),
        (&raw const address).cast(),
        size_of::<libc::sockaddr_in>() as libc::socklen_t,
    );
    let result = go(ring, &entry.build())?;
    ensure!(result == 0, "connect: {result}");
    Ok(())
}
