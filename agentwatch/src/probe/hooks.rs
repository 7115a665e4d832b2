//! What is attached where, and what is lost without it.

/// A raw tracepoint and the program for it.
pub struct RawTracepoint {
    /// The program's name in the object.
    pub program: &'static str,
    /// The tracepoint.
    pub tracepoint: &'static str,
    /// What it gives, for `doctor`.
    pub gives: &'static str,
    /// Without it the main job cannot be done.
    pub required: bool,
}

const fn raw(
    program: &'static str,
    tracepoint: &'static str,
    gives: &'static str,
    required: bool,
) -> RawTracepoint {
    RawTracepoint {
        program,
        tracepoint,
        gives,
        required,
    }
}

/// What `doctor` says of those that tell which file a call is about.
pub const INODES: &str = "device:inode of what is deleted, renamed or changed";

/// The trampoline tier of that: programs at the entry of kernel functions.
pub const PATHS: &[(&str, &str)] = &[
    ("path_unlink", "security_path_unlink"),
    ("path_rename", "security_path_rename"),
    ("path_rmdir", "security_path_rmdir"),
    ("path_mkdir", "security_path_mkdir"),
    ("path_mknod", "security_path_mknod"),
    ("path_symlink", "security_path_symlink"),
    ("path_link", "security_path_link"),
    ("path_chmod", "security_path_chmod"),
    ("path_chown", "security_path_chown"),
    ("path_truncate", "security_path_truncate"),
    ("path_setxattr", "security_inode_setxattr"),
    ("path_remxattr", "security_inode_removexattr"),
];

/// More of them, for access control lists, since 6.2: before, those went as other attributes do.
pub const PATHS_OF_ACL: &[(&str, &str)] = &[
    ("path_set_acl", "security_inode_set_acl"),
    ("path_rem_acl", "security_inode_remove_acl"),
];

/// LSM programs that hold a call past the deletion budget, and their hooks.
pub const DELETIONS: &[(&str, &str)] = &[
    ("hold_unlink", "path_unlink"),
    ("hold_rename", "path_rename"),
    ("hold_truncate", "path_truncate"),
];

/// The tracepoint tier of that.
pub const INODE_CHANGES: &[(&str, &str)] = &[
    ("inode_ctime_set", "inode_set_ctime_to_ts"),
    ("inode_ctime_xchg", "ctime_ns_xchg"),
    ("inode_ctime_skip", "ctime_xchg_skip"),
];

/// Raw tracepoints.
pub const RAW: &[RawTracepoint] = &[
    raw("process_exec", "sched_process_exec", "exec", true),
    raw(
        "process_fork",
        "sched_process_fork",
        "fork, tags inherited",
        true,
    ),
    raw("process_exit", "sched_process_exit", "exit", true),
    raw(
        "cgroup_mkdir",
        "cgroup_mkdir",
        "cgroups below an agent's, and new agents",
        true,
    ),
    raw("cgroup_rmdir", "cgroup_rmdir", "agents that end", true),
    raw("cgroup_release", "cgroup_release", "cgroups removed", true),
    raw(
        "cgroup_attach_task",
        "cgroup_attach_task",
        "moves between cgroups",
        true,
    ),
    raw(
        "signal_generate",
        "signal_generate",
        "signals to other processes",
        true,
    ),
];

/// A syscall tracepoint of a call that is no file's.
pub struct SyscallTracepoint {
    /// The program's name in the object.
    pub program: &'static str,
    /// The tracepoint, in the category `syscalls`.
    pub tracepoint: &'static str,
}

/// What `doctor` says of [`SOCKETS`].
pub const LISTENERS: &str = "listen, accept, sockets passed between processes";

/// What `doctor` says of [`FILES`].
pub const FILE_CALLS: &str = "files";

/// Syscall tracepoints of sockets.
pub const SOCKETS: &[SyscallTracepoint] = &[
    SyscallTracepoint {
        program: "listen_enter",
        tracepoint: "sys_enter_listen",
    },
    SyscallTracepoint {
        program: "listen_exit",
        tracepoint: "sys_exit_listen",
    },
    SyscallTracepoint {
        program: "accept_exit",
        tracepoint: "sys_exit_accept",
    },
    SyscallTracepoint {
        program: "accept_exit",
        tracepoint: "sys_exit_accept4",
    },
    SyscallTracepoint {
        program: "recvmsg_enter",
        tracepoint: "sys_enter_recvmsg",
    },
    SyscallTracepoint {
        program: "recvmsg_exit",
        tracepoint: "sys_exit_recvmsg",
    },
];

/// The syscall tracepoint of files that become code, and what `doctor` says of it.
pub const MAPPED: SyscallTracepoint = SyscallTracepoint {
    program: "mmap_enter",
    tracepoint: "sys_enter_mmap",
};
/// See [`MAPPED`].
pub const CODE: &str = "files mapped as code";

/// Programs at both ends of every call of [`super::syscalls`] that opens no file.
pub const FILES: [(&str, &str); 2] = [("file_enter", ENTER), ("file_exit", EXIT)];

/// The same of those that do.
pub const OPENS: [(&str, &str); 2] = [("file_enter", ENTER), ("open_exit", EXIT)];

/// What the names of tracepoints at the exit of system calls begin with.
const EXIT: &str = "sys_exit_";

/// What the names of tracepoints at the entry of system calls begin with.
pub const ENTER: &str = "sys_enter_";

/// What `doctor` says of the programs for sockets that an agent uses and did not make.
pub const BORROWED: &str = "bytes of sockets that others made";

/// Why those of UDP are not known.
pub const NO_LENGTHS: &str =
    "this kernel does not tell how much goes through UDP sockets (since 6.3)";

/// What `doctor` says of the tracepoints of io_uring.
pub const URING: &str = "files and connections through io_uring";

/// What `doctor` says of [`CALLS`].
pub const OTHER_CALLS: &str = "sockets, credentials, namespaces, ptrace, bpf";

/// Programs at both ends of every call of [`super::calls`].
pub const CALLS: [(&str, &str); 2] = [("call_enter", ENTER), ("call_exit", EXIT)];

/// Programs that are attached to each agent's cgroup.
pub const CGROUP: &[&str] = &[
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "tcp_state",
    "sock_release",
    "packet_in",
    "packet_out",
];
