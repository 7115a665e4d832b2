//! The system calls upon files, and where their arguments are. A new call is a row here.

use agentwatch_common::file::{Syscall, op};

/// One call: the name of its tracepoints, its number, its arguments.
pub struct Row {
    /// `sys_enter_NAME`, `sys_exit_NAME`.
    pub name: &'static str,
    /// The number on this architecture.
    pub number: libc::c_long,
    /// What the kernel program is told.
    pub call: Syscall,
}

const fn row(name: &'static str, number: libc::c_long, call: Syscall) -> Row {
    Row { name, number, call }
}

const fn call(op: u16) -> Syscall {
    Syscall {
        op,
        ..Syscall::UNWATCHED
    }
}

/// setxattr(2) and its kin: a name or a descriptor, then the attribute.
const fn xattr(fd: u8, flags: u8) -> Syscall {
    Syscall {
        fd,
        name: if fd == Syscall::NONE {
            0
        } else {
            Syscall::NONE
        },
        name2: 1,
        flags,
        plain2: 1,
        ..call(op::XATTR)
    }
}

/// fchmodat2(2), since Linux 6.6; the number is the same on every architecture.
const SYS_FCHMODAT2: libc::c_long = 452;
/// `O_CREAT | O_WRONLY | O_TRUNC`, which creat(2) stands for.
const CREAT_FLAGS: u32 = (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC).cast_unsigned();

/// Calls that every architecture has.
const COMMON: &[Row] = &[
    row(
        "openat",
        libc::SYS_openat,
        Syscall {
            dir: 0,
            name: 1,
            flags: 2,
            mode: 3,
            ..call(op::OPEN)
        },
    ),
    row(
        "openat2",
        libc::SYS_openat2,
        Syscall {
            dir: 0,
            name: 1,
            flags: 2,
            how: 1,
            ..call(op::OPEN)
        },
    ),
    row(
        "unlinkat",
        libc::SYS_unlinkat,
        Syscall {
            dir: 0,
            name: 1,
            flags: 2,
            ..call(op::UNLINK)
        },
    ),
    row(
        "renameat2",
        libc::SYS_renameat2,
        Syscall {
            dir: 0,
            name: 1,
            dir2: 2,
            name2: 3,
            flags: 4,
            ..call(op::RENAME)
        },
    ),
    row(
        "renameat",
        libc::SYS_renameat,
        Syscall {
            dir: 0,
            name: 1,
            dir2: 2,
            name2: 3,
            ..call(op::RENAME)
        },
    ),
    row(
        "fchmod",
        libc::SYS_fchmod,
        Syscall {
            fd: 0,
            mode: 1,
            ..call(op::CHMOD)
        },
    ),
    row(
        "fchmodat",
        libc::SYS_fchmodat,
        Syscall {
            dir: 0,
            name: 1,
            mode: 2,
            ..call(op::CHMOD)
        },
    ),
    row(
        "fchmodat2",
        SYS_FCHMODAT2,
        Syscall {
            dir: 0,
            name: 1,
            mode: 2,
            flags: 3,
            ..call(op::CHMOD)
        },
    ),
    row(
        "truncate",
        libc::SYS_truncate,
        Syscall {
            name: 0,
            ..call(op::TRUNCATE)
        },
    ),
    row(
        "ftruncate",
        libc::SYS_ftruncate,
        Syscall {
            fd: 0,
            ..call(op::TRUNCATE)
        },
    ),
    row(
        "mkdirat",
        libc::SYS_mkdirat,
        Syscall {
            dir: 0,
            name: 1,
            mode: 2,
            ..call(op::MKDIR)
        },
    ),
    row(
        "linkat",
        libc::SYS_linkat,
        Syscall {
            dir: 0,
            name: 1,
            dir2: 2,
            name2: 3,
            flags: 4,
            ..call(op::LINK)
        },
    ),
    row(
        "symlinkat",
        libc::SYS_symlinkat,
        Syscall {
            dir2: 1,
            name: 0,
            name2: 2,
            ..call(op::SYMLINK)
        },
    ),
    row(
        "fchownat",
        libc::SYS_fchownat,
        Syscall {
            dir: 0,
            name: 1,
            mode: 2,
            extra: 3,
            flags: 4,
            ..call(op::CHOWN)
        },
    ),
    row(
        "fchown",
        libc::SYS_fchown,
        Syscall {
            fd: 0,
            mode: 1,
            extra: 2,
            ..call(op::CHOWN)
        },
    ),
    row("setxattr", libc::SYS_setxattr, xattr(Syscall::NONE, 4)),
    row("lsetxattr", libc::SYS_lsetxattr, xattr(Syscall::NONE, 4)),
    row("fsetxattr", libc::SYS_fsetxattr, xattr(0, 4)),
    row(
        "removexattr",
        libc::SYS_removexattr,
        xattr(Syscall::NONE, Syscall::NONE),
    ),
    row(
        "lremovexattr",
        libc::SYS_lremovexattr,
        xattr(Syscall::NONE, Syscall::NONE),
    ),
    row(
        "fremovexattr",
        libc::SYS_fremovexattr,
        xattr(0, Syscall::NONE),
    ),
    row(
        "mknodat",
        libc::SYS_mknodat,
        Syscall {
            dir: 0,
            name: 1,
            mode: 2,
            extra: 3,
            ..call(op::MKNOD)
        },
    ),
    row(
        "mount",
        libc::SYS_mount,
        Syscall {
            name: 1,
            name2: 0,
            flags: 3,
            plain2: 1,
            ..call(op::MOUNT)
        },
    ),
    row(
        "move_mount",
        libc::SYS_move_mount,
        Syscall {
            dir: 2,
            name: 3,
            dir2: 0,
            name2: 1,
            flags: 4,
            ..call(op::MOUNT)
        },
    ),
    row(
        "umount",
        libc::SYS_umount2,
        Syscall {
            name: 0,
            flags: 1,
            ..call(op::UMOUNT)
        },
    ),
    row(
        "pivot_root",
        libc::SYS_pivot_root,
        Syscall {
            name: 0,
            name2: 1,
            ..call(op::PIVOT_ROOT)
        },
    ),
    row(
        "chroot",
        libc::SYS_chroot,
        Syscall {
            name: 0,
            ..call(op::CHROOT)
        },
    ),
];

/// Calls that newer architectures left out.
#[cfg(target_arch = "x86_64")]
const OLDER: &[Row] = &[
    row(
        "open",
        libc::SYS_open,
        Syscall {
            name: 0,
            flags: 1,
            mode: 2,
            ..call(op::OPEN)
        },
    ),
    row(
        "creat",
        libc::SYS_creat,
        Syscall {
            name: 0,
            mode: 1,
            fixed_flags: CREAT_FLAGS,
            ..call(op::OPEN)
        },
    ),
    row(
        "unlink",
        libc::SYS_unlink,
        Syscall {
            name: 0,
            ..call(op::UNLINK)
        },
    ),
    row(
        "rmdir",
        libc::SYS_rmdir,
        Syscall {
            name: 0,
            ..call(op::RMDIR)
        },
    ),
    row(
        "rename",
        libc::SYS_rename,
        Syscall {
            name: 0,
            name2: 1,
            ..call(op::RENAME)
        },
    ),
    row(
        "chmod",
        libc::SYS_chmod,
        Syscall {
            name: 0,
            mode: 1,
            ..call(op::CHMOD)
        },
    ),
    row(
        "mkdir",
        libc::SYS_mkdir,
        Syscall {
            name: 0,
            mode: 1,
            ..call(op::MKDIR)
        },
    ),
    row(
        "link",
        libc::SYS_link,
        Syscall {
            name: 0,
            name2: 1,
            ..call(op::LINK)
        },
    ),
    row(
        "symlink",
        libc::SYS_symlink,
        Syscall {
            name: 0,
            name2: 1,
            ..call(op::SYMLINK)
        },
    ),
    row(
        "chown",
        libc::SYS_chown,
        Syscall {
            name: 0,
            mode: 1,
            extra: 2,
            ..call(op::CHOWN)
        },
    ),
    row(
        "lchown",
        libc::SYS_lchown,
        Syscall {
            name: 0,
            mode: 1,
            extra: 2,
            ..call(op::CHOWN)
        },
    ),
    row(
        "mknod",
        libc::SYS_mknod,
        Syscall {
            name: 0,
            mode: 1,
            extra: 2,
            ..call(op::MKNOD)
        },
    ),
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[Row] = &[];

/// All calls that are watched.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    COMMON.iter().chain(OLDER)
}
