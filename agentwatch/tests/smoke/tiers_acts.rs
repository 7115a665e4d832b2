//! What the agent does whose events are compared between tiers: every system call that is watched, once
//! well and for some once in vain.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{
            fs::PermissionsExt as _,
            net::{UnixListener, UnixStream},
        },
    },
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use io_uring::{IoUring, opcode, types};

use crate::{AGENT, myself};

const HERE: i64 = libc::AT_FDCWD as i64;
/// `fchmodat2(2)`, since Linux 6.6.
const FCHMODAT2: i64 = 452;

/// A system call by its number, with all its arguments; gives what the kernel gives.
fn sys(number: i64, arguments: &[i64]) -> i64 {
    let at = |n: usize| arguments.get(n).copied().unwrap_or(0);
    // SAFETY: pointers among the arguments come from `name`, or are meant to be none.
    let result = unsafe { libc::syscall(number, at(0), at(1), at(2), at(3), at(4), at(5)) };
    if result == -1 {
        -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
    } else {
        result
    }
}

/// A string for a system call. It lives as long as this program, which is not long.
fn name(text: &str) -> i64 {
    CString::new(text).map_or(0, |text| text.into_raw() as i64)
}

/// Makes a call that must do well.
fn well(number: i64, arguments: &[i64]) -> Result<i64> {
    let result = sys(number, arguments);
    ensure!(result >= 0, "system call {number} {arguments:?}: {result}");
    Ok(result)
}

/// Opens and closes.
fn touch(number: i64, arguments: &[i64]) -> Result<()> {
    let fd = well(number, arguments)?;
    well(libc::SYS_close, &[fd])?;
    Ok(())
}

/// Does all of it, in the current folder.
pub fn all() -> Result<()> {
    files()?;
    #[cfg(target_arch = "x86_64")]
    older()?;
    in_vain();
    sockets()?;
    unix_sockets()?;
    programs()?;
    rings();
    calls()?;
    mounts()?;
    as_nobody()
}

fn files() -> Result<()> {
    let make = i64::from(libc::O_CREAT | libc::O_WRONLY);
    let mkdirat = libc::SYS_mkdirat;
    well(mkdirat, &[HERE, name("folder"), 0o750])?;
    well(libc::SYS_symlinkat, &[name("folder"), HERE, name("link")])?;
    let (openat, file) = (libc::SYS_openat, name("folder/file"));
    touch(openat, &[HERE, file, make, 0o640])?;
    let dots = name("./folder/../folder/./file");
    touch(
        openat,
        &[HERE, dots, i64::from(libc::O_RDWR | libc::O_TRUNC)],
    )?;
    let how = [make.cast_unsigned(), 0o600, 0];
    let how = [how.as_ptr() as i64, 24];
    touch(
        libc::SYS_openat2,
        &[HERE, name("link/second"), how[0], how[1]],
    )?;
    touch(openat, &[HERE, name("target"), make, 0o600])?;
    let directory = i64::from(libc::O_RDONLY | libc::O_DIRECTORY);
    let folder = well(openat, &[HERE, name("folder"), directory])?;
    touch(openat, &[folder, name("by-descriptor"), make, 0o600])?;
    well(mkdirat, &[folder, name("deep"), 0o700])?;
    well(mkdirat, &[HERE, name("link/deeper"), 0o700])?;

    let rename = libc::SYS_renameat2;
    well(rename, &[folder, name("second"), HERE, name("moved"), 0])?;
    well(
        libc::SYS_renameat,
        &[HERE, name("moved"), folder, name("deep/back")],
    )?;
    let exchange = i64::from(libc::RENAME_EXCHANGE);
    let (back, other) = (name("link/deep/back"), name("folder/by-descriptor"));
    well(rename, &[HERE, back, HERE, other, exchange])?;
    let linkat = libc::SYS_linkat;
    well(linkat, &[HERE, file, folder, name("hard"), 0])?;
    // While a file has two names, who knows it by its inode only may tell either.
    well(libc::SYS_unlinkat, &[HERE, name("link/hard"), 0])?;
    well(
        libc::SYS_symlinkat,
        &[name("nowhere"), folder, name("soft")],
    )?;

    let fd = well(openat, &[HERE, file, i64::from(libc::O_RDWR)])?;
    well(libc::SYS_fchmod, &[fd, 0o600])?;
    well(libc::SYS_fchmodat, &[HERE, name("link/file"), 0o640])?;
    sys(FCHMODAT2, &[HERE, name("target"), 0o600, 0]);
    well(libc::SYS_fchown, &[fd, 0, 0])?;
    well(libc::SYS_fchownat, &[folder, name("file"), 0, 1, 0])?;
    well(libc::SYS_ftruncate, &[fd, 100])?;
    well(libc::SYS_truncate, &[name("link/file"), 10])?;
    let (path, key, value) = (name("folder/file"), name("trusted.agentwatch"), name("v"));
    well(libc::SYS_setxattr, &[path, key, value, 1, 0])?;
    well(libc::SYS_lsetxattr, &[path, key, value, 1, 0])?;
    well(libc::SYS_fsetxattr, &[fd, key, value, 1, 0])?;
    well(libc::SYS_removexattr, &[path, key])?;
    well(libc::SYS_setxattr, &[path, key, value, 1, 0])?;
    well(libc::SYS_lremovexattr, &[path, key])?;
    well(libc::SYS_setxattr, &[name("link/file"), key, value, 1, 0])?;
    well(libc::SYS_fremovexattr, &[fd, key])?;
    well(libc::SYS_close, &[fd])?;
    let fifo = i64::from(libc::S_IFIFO | 0o600);
    well(libc::SYS_mknodat, &[HERE, name("folder/fifo"), fifo, 0])?;

    let (unlink, dir) = (libc::SYS_unlinkat, i64::from(libc::AT_REMOVEDIR));
    for gone in ["link/fifo", "folder/soft", "folder/deep/back"] {
        well(unlink, &[HERE, name(gone), 0])?;
    }
    well(unlink, &[folder, name("deep"), dir])?;
    well(libc::SYS_close, &[folder])?;
    Ok(())
}

/// Calls that newer architectures left out.
#[cfg(target_arch = "x86_64")]
fn older() -> Result<()> {
    let make = i64::from(libc::O_CREAT | libc::O_WRONLY);
    touch(libc::SYS_open, &[name("folder/older"), make, 0o600])?;
    touch(libc::SYS_creat, &[name("folder/created"), 0o600])?;
    well(libc::SYS_mkdir, &[name("folder/old"), 0o700])?;
    well(
        libc::SYS_rename,
        &[name("folder/older"), name("folder/old/a")],
    )?;
    well(libc::SYS_link, &[name("folder/old/a"), name("link/old/b")])?;
    well(libc::SYS_unlink, &[name("folder/old/b")])?;
    well(libc::SYS_symlink, &[name("a"), name("folder/old/c")])?;
    well(libc::SYS_chmod, &[name("folder/old/a"), 0o644])?;
    well(libc::SYS_chown, &[name("folder/old/a"), 0, 0])?;
    well(libc::SYS_lchown, &[name("folder/old/c"), 0, 0])?;
    let fifo = i64::from(libc::S_IFIFO | 0o600);
    well(libc::SYS_mknod, &[name("folder/old/d"), fifo, 0])?;
    for gone in ["a", "c", "d"] {
        well(libc::SYS_unlink, &[name(&format!("folder/old/{gone}"))])?;
    }
    well(libc::SYS_rmdir, &[name("folder/old")])?;
    Ok(())
}

/// What the kernel does not do, and is told all the same.
fn in_vain() {
    let write = i64::from(libc::O_WRONLY);
    sys(libc::SYS_openat, &[HERE, name("missing/file"), write]);
    sys(libc::SYS_openat, &[HERE, 8, write]);
    sys(libc::SYS_unlinkat, &[HERE, name("missing"), 0]);
    sys(libc::SYS_unlinkat, &[999, name("missing"), 0]);
    sys(
        libc::SYS_renameat2,
        &[HERE, name("missing"), HERE, name("b"), 0],
    );
    sys(libc::SYS_mkdirat, &[HERE, name("folder"), 0o700]);
    sys(
        libc::SYS_linkat,
        &[HERE, name("missing"), HERE, name("c"), 0],
    );
    sys(libc::SYS_fchmodat, &[HERE, name("missing"), 0o777]);
    sys(libc::SYS_ftruncate, &[999, 0]);
    sys(
        libc::SYS_mount,
        &[name("none"), name("missing"), name("tmpfs")],
    );
    sys(
        libc::SYS_move_mount,
        &[999, name(""), HERE, name("folder"), 4],
    );
    sys(libc::SYS_umount2, &[name("missing"), 0]);
    sys(libc::SYS_pivot_root, &[name("missing"), name("missing")]);
    sys(libc::SYS_chroot, &[name("missing")]);
}

fn sockets() -> Result<()> {
    let raw = [i64::from(libc::AF_INET), i64::from(libc::SOCK_RAW), 1];
    let raw = well(libc::SYS_socket, &raw)?;
    well(libc::SYS_close, &[raw])?;
    sys(libc::SYS_bind, &[999, 0, 0]);
    sys(libc::SYS_listen, &[999, 1]);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut here = TcpStream::connect(listener.local_addr()?)?;
    let (mut there, _) = listener.accept()?;
    here.write_all(b"what is said here is no protocol's")?;
    let mut bytes = [0; 34];
    there.read_exact(&mut bytes)?;
    drop(here);
    there.read_to_end(&mut Vec::new())?;
    Ok(())
}

/// A unix socket by its path, and a TCP socket that comes through it.
fn unix_sockets() -> Result<()> {
    let listener = UnixListener::bind("folder/socket")?;
    let here = UnixStream::connect("link/socket")?;
    let (there, _) = listener.accept()?;
    let passed = TcpListener::bind("127.0.0.1:0")?;
    // `struct cmsghdr` with one descriptor: length 20, padded to 24.
    let mut control = [20_u64, 0, 0];
    let head = [libc::SOL_SOCKET, libc::SCM_RIGHTS, passed.as_raw_fd(), 0];
    control[1] = u64::from(head[0].cast_unsigned()) | u64::from(head[1].cast_unsigned()) << 32;
    control[2] = u64::from(head[2].cast_unsigned());
    let mut byte = [b'x'];
    let mut part = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    // SAFETY: zero is a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = 24;
    // SAFETY: a message on the stack, and descriptors that are open.
    let sent = unsafe { libc::sendmsg(here.as_raw_fd(), &raw const message, 0) };
    ensure!(sent == 1, "{}", std::io::Error::last_os_error());
    // SAFETY: as above.
    let came = unsafe { libc::recvmsg(there.as_raw_fd(), &raw mut message, 0) };
    ensure!(came == 1, "{}", std::io::Error::last_os_error());
    fs::remove_file("folder/socket")?;
    Ok(())
}

/// Programs: a script, one that has no name, a child that a signal ends.
fn programs() -> Result<()> {
    let me = std::env::current_exe()?;
    let script = format!("#!{} {AGENT}\n", me.display());
    fs::write("folder/script.sh", script)?;
    fs::set_permissions("folder/script.sh", fs::Permissions::from_mode(0o755))?;
    ensure!(Command::new("folder/script.sh").status()?.success());
    let fd = well(libc::SYS_memfd_create, &[name("nameless"), 0])?;
    // SAFETY: a descriptor that the kernel gave just now, to nobody else.
    let mut nameless = File::from(unsafe { OwnedFd::from_raw_fd(fd as i32) });
    std::io::copy(&mut File::open(&me)?, &mut nameless)?;
    // One that is open for writing is no program.
    let own = format!("/proc/self/fd/{fd}");
    let program = File::open(&own)?;
    drop(nameless);
    let own = format!("/proc/self/fd/{}", program.as_raw_fd());
    ensure!(
        Command::new(own)
            .args([AGENT, "exit", "0"])
            .status()?
            .success()
    );
    let command = myself(&["wait"])?;
    let mut child = Command::new(&command[0]).args(&command[1..]).spawn()?;
    let pid = i64::from(child.id());
    well(libc::SYS_kill, &[pid, i64::from(libc::SIGKILL)])?;
    child.wait()?;
    Ok(())
}

/// Files through a ring, where the kernel has any.
fn rings() {
    let Ok(mut ring) = IoUring::new(4) else {
        return;
    };
    let folder = types::Fd(libc::AT_FDCWD);
    let at = |text: &str| name(text) as *const libc::c_char;
    let make = libc::O_CREAT | libc::O_WRONLY;
    let entries = [
        opcode::OpenAt::new(folder, at("folder/ring"))
            .flags(make)
            .mode(0o600)
            .build(),
        opcode::UnlinkAt::new(folder, at("folder/ring")).build(),
    ];
    for entry in entries {
        // SAFETY: the names live as long as the program.
        if unsafe { ring.submission().push(&entry) }.is_ok() && ring.submit_and_wait(1).is_ok() {
            let _ = ring.completion().next();
        }
    }
}

/// Calls that are no file's and no socket's, most of them in vain: what they would do, nobody wants here.
fn calls() -> Result<()> {
    let own = i64::from(std::process::id());
    well(
        libc::SYS_prctl,
        &[i64::from(libc::PR_SET_NAME), name("renamed")],
    )?;
    well(libc::SYS_prctl, &[i64::from(libc::PR_SET_DUMPABLE), 1])?;
    sys(libc::SYS_ptrace, &[i64::from(libc::PTRACE_ATTACH), -1]);
    sys(libc::SYS_process_vm_readv, &[own, 8, 1, 8, 1]);
    sys(libc::SYS_process_vm_writev, &[own, 8, 1, 8, 1]);
    sys(libc::SYS_pidfd_getfd, &[-1, 0, 0]);
    sys(libc::SYS_setns, &[-1, i64::from(libc::CLONE_NEWNET)]);
    sys(libc::SYS_bpf, &[-1, 0, 0]);
    sys(libc::SYS_init_module, &[8, 0, 8]);
    sys(libc::SYS_finit_module, &[-1, 8, 0]);
    sys(libc::SYS_delete_module, &[name("no-such-module"), 0]);
    sys(libc::SYS_io_uring_setup, &[0, 8]);
    sys(libc::SYS_capset, &[8, 8]);
    sys(libc::SYS_perf_event_open, &[8, 0, -1, -1]);
    sys(libc::SYS_userfaultfd, &[-1]);
    sys(libc::SYS_fsopen, &[name("no-such-filesystem"), 0]);
    Ok(())
}

/// In a mount namespace of its own.
fn mounts() -> Result<()> {
    well(libc::SYS_unshare, &[i64::from(libc::CLONE_NEWNS)])?;
    let private = (libc::MS_REC | libc::MS_PRIVATE).cast_signed();
    // An initrd's root is no mount that this can be said of: told all the same.
    sys(libc::SYS_mount, &[name("none"), name("/"), 0, private]);
    let (tmpfs, place) = (name("tmpfs"), name("folder/deeper"));
    well(libc::SYS_mount, &[tmpfs, place, tmpfs, 0, 0])?;
    let make = i64::from(libc::O_CREAT | libc::O_WRONLY);
    touch(
        libc::SYS_openat,
        &[HERE, name("link/deeper/inside"), make, 0o600],
    )?;
    well(libc::SYS_unlinkat, &[HERE, name("folder/deeper/inside"), 0])?;
    well(libc::SYS_umount2, &[place, 0])?;
    well(libc::SYS_chroot, &[name("/")])?;
    Ok(())
}

/// Gives up its rights, and is refused then.
fn as_nobody() -> Result<()> {
    const NOBODY: i64 = 65534;
    well(libc::SYS_setgroups, &[0, 0])?;
    well(libc::SYS_setfsgid, &[0])?;
    well(libc::SYS_setregid, &[-1, 0])?;
    well(libc::SYS_setgid, &[0])?;
    well(libc::SYS_setresgid, &[NOBODY, NOBODY, NOBODY])?;
    well(libc::SYS_setfsuid, &[0])?;
    well(libc::SYS_setreuid, &[-1, 0])?;
    well(libc::SYS_setresuid, &[NOBODY, NOBODY, NOBODY])?;
    well(libc::SYS_setuid, &[NOBODY])?;
    for flags in [libc::O_RDONLY, libc::O_WRONLY] {
        let refused = sys(libc::SYS_openat, &[HERE, name("target"), i64::from(flags)]);
        ensure!(refused == -i64::from(libc::EACCES), "{refused}");
    }
    sys(libc::SYS_unlinkat, &[HERE, name("target"), 0]);
    File::open("/dev/null").context("not even that")?;
    Ok(())
}
