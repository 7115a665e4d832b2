//! Calls that are no file's and no flow's.

use std::{fmt, net::IpAddr};

use serde::Serialize;
use serde_json::{Value, json};

use super::{Address, ProcessKey};

/// What was called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CallOp {
    /// A socket made.
    Socket,
    /// A socket given an address.
    Bind,
    /// A socket that is none of IP's connected.
    Connect,
    /// Took hold of another process, or changed it.
    Ptrace,
    /// Read another process's memory.
    ProcessVmRead,
    /// Wrote into another process's memory.
    ProcessVmWrite,
    /// Took a descriptor from another process.
    PidfdGetfd,
    /// Went into new namespaces.
    Unshare,
    /// Went into the namespaces of others.
    Setns,
    /// Made a file that has no name.
    MemfdCreate,
    /// Changed what it is or may do.
    Prctl,
    /// Used BPF.
    Bpf,
    /// Loaded a kernel module.
    ModuleLoad,
    /// Unloaded a kernel module.
    ModuleUnload,
    /// Made a ring for asynchronous operations.
    IoUringSetup,
    /// Changed its user.
    Setuid,
    /// Changed its groups.
    Setgid,
    /// Changed its capabilities.
    Capset,
    /// Opened a performance counter.
    PerfEventOpen,
    /// Takes page faults in its own hands.
    Userfaultfd,
    /// Loaded another kernel.
    Kexec,
    /// Prepared to mount a file system.
    Fsopen,
}

impl CallOp {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Bind => "bind",
            Self::Connect => "connect",
            Self::Ptrace => "ptrace",
            Self::ProcessVmRead => "process_vm_read",
            Self::ProcessVmWrite => "process_vm_write",
            Self::PidfdGetfd => "pidfd_getfd",
            Self::Unshare => "unshare",
            Self::Setns => "setns",
            Self::MemfdCreate => "memfd_create",
            Self::Prctl => "prctl",
            Self::Bpf => "bpf",
            Self::ModuleLoad => "module_load",
            Self::ModuleUnload => "module_unload",
            Self::IoUringSetup => "io_uring_setup",
            Self::Setuid => "setuid",
            Self::Setgid => "setgid",
            Self::Capset => "capset",
            Self::PerfEventOpen => "perf_event_open",
            Self::Userfaultfd => "userfaultfd",
            Self::Kexec => "kexec",
            Self::Fsopen => "fsopen",
        }
    }
}

/// Who a process is to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Credentials {
    /// Effective capabilities, a bit each (capabilities(7)).
    pub caps: u64,
    /// Real user id.
    pub uid: u32,
    /// Effective user id.
    pub euid: u32,
    /// Real group id.
    pub gid: u32,
    /// Effective group id.
    pub egid: u32,
}

/// A call.
#[derive(Debug, Clone)]
pub struct Call {
    /// Which.
    pub op: CallOp,
    /// The arguments, as passed.
    pub args: [u64; 6],
    /// What it returned: a negative errno where it failed.
    pub result: i64,
    /// The caller's credentials after it.
    pub credentials: Credentials,
    /// Its string argument: a name.
    pub text: Option<String>,
    /// Its socket address.
    pub address: Option<SocketAddress>,
}

impl Call {
    /// What the arguments say, by name.
    pub fn facts(&self) -> Value {
        let a = self.args;
        // A process id, a descriptor, flags: the low half of the register.
        let low = |at: usize| a[at] & 0xffff_ffff;
        let cred = self.credentials;
        match self.op {
            CallOp::Socket => json!({
                // socket(2): the type shares its number with two flags.
                "family": family(low(0)), "type": socket_type(low(1)), "protocol": low(2),
            }),
            CallOp::Bind | CallOp::Connect => json!({"fd": low(0)}),
            CallOp::Ptrace => json!({"request": ptrace(low(0)), "target_pid": low(1)}),
            CallOp::ProcessVmRead | CallOp::ProcessVmWrite => json!({"target_pid": low(0)}),
            CallOp::PidfdGetfd => json!({"pidfd": low(0), "target_fd": low(1)}),
            CallOp::Unshare => json!({"namespaces": namespaces(low(0))}),
            CallOp::Setns => json!({"fd": low(0), "namespaces": namespaces(low(1))}),
            CallOp::MemfdCreate => json!({"flags": low(1)}),
            CallOp::Prctl => json!({"option": prctl(low(0)), "value": a[1]}),
            CallOp::Bpf => json!({"command": bpf(low(0))}),
            CallOp::IoUringSetup => json!({"entries": low(0)}),
            CallOp::Setuid | CallOp::Setgid | CallOp::Capset => json!({
                "uid": cred.uid, "euid": cred.euid, "gid": cred.gid, "egid": cred.egid,
                "caps": format!("{:016x}", cred.caps),
            }),
            CallOp::PerfEventOpen => json!({"target_pid": low(1).cast_signed() as i32}),
            CallOp::ModuleLoad
            | CallOp::ModuleUnload
            | CallOp::Userfaultfd
            | CallOp::Kexec
            | CallOp::Fsopen => json!({}),
        }
    }
}

/// A signal that a process sent to another one.
#[derive(Debug, Clone, Copy)]
pub struct Signal {
    /// To whom.
    pub target: ProcessKey,
    /// The target's agent, 0 for none's.
    pub target_agent: u32,
    /// Which.
    pub signal: u32,
    /// It was: not ignored, and not pending already.
    pub delivered: bool,
}

/// Where a socket is, or goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketAddress {
    /// IP.
    Ip(Address),
    /// A path, `@name` in the abstract namespace, empty for none.
    Unix(String),
    /// A virtual machine's context id, and a port.
    Vsock {
        /// The context id: 2 is the host.
        cid: u32,
        /// The port.
        port: u32,
    },
    /// To the kernel.
    Netlink {
        /// The port: 0 is the kernel.
        port: u32,
        /// Groups that are listened to, a bit each.
        groups: u32,
    },
    /// Whole packets of an interface.
    Packet {
        /// Ethernet protocol number; 3 is all.
        protocol: u16,
        /// The interface's number, 0 for all.
        interface: u32,
    },
    /// Another family, by its number; or an address that is cut.
    Other(u16),
}

impl SocketAddress {
    /// An IP address and port.
    pub fn ip(ip: IpAddr, port: u16) -> Self {
        Self::Ip(Address { ip, port })
    }

    /// The family's name, in the column where IP's protocols are.
    pub fn protocol(&self) -> &'static str {
        match self {
            Self::Ip(_) => "ip",
            Self::Unix(_) => "unix",
            Self::Vsock { .. } => "vsock",
            Self::Netlink { .. } => "netlink",
            Self::Packet { .. } => "packet",
            Self::Other(_) => "other",
        }
    }
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => f.write_str(path),
            Self::Vsock { cid, port } => write!(f, "vsock {cid}:{port}"),
            Self::Netlink { port, groups } => write!(f, "netlink {port} groups {groups:#x}"),
            Self::Packet {
                protocol,
                interface,
            } => write!(f, "packet {protocol:#06x} interface {interface}"),
            Self::Other(family) => write!(f, "family {family}"),
        }
    }
}

/// A number by the name that it has in a header, where it has one.
fn named(value: u64, names: &[(libc::c_int, &str)]) -> Value {
    let name = names
        .iter()
        .find(|(number, _)| i64::from(*number) == value.cast_signed());
    name.map_or_else(|| value.into(), |(_, name)| (*name).into())
}

/// socket(2).
pub(super) fn family(value: u64) -> Value {
    named(
        value,
        &[
            (libc::AF_UNIX, "unix"),
            (libc::AF_INET, "inet"),
            (libc::AF_INET6, "inet6"),
            (libc::AF_NETLINK, "netlink"),
            (libc::AF_PACKET, "packet"),
            (libc::AF_ALG, "alg"),
            (libc::AF_VSOCK, "vsock"),
            (libc::AF_XDP, "xdp"),
            (libc::AF_BLUETOOTH, "bluetooth"),
        ],
    )
}

/// socket(2): the type, without `SOCK_NONBLOCK` and `SOCK_CLOEXEC`.
pub(super) fn socket_type(value: u64) -> Value {
    named(
        value & 0xf,
        &[
            (libc::SOCK_STREAM, "stream"),
            (libc::SOCK_DGRAM, "dgram"),
            (libc::SOCK_RAW, "raw"),
            (libc::SOCK_RDM, "rdm"),
            (libc::SOCK_SEQPACKET, "seqpacket"),
        ],
    )
}

/// ptrace(2).
fn ptrace(value: u64) -> Value {
    named(
        value,
        &[
            (0, "traceme"),
            (4, "poketext"),
            (5, "pokedata"),
            (6, "pokeuser"),
            (13, "setregs"),
            (16, "attach"),
            (0x4206, "seize"),
        ],
    )
}

/// prctl(2).
fn prctl(value: u64) -> Value {
    named(
        value,
        &[
            (libc::PR_SET_NAME, "set_name"),
            (libc::PR_SET_DUMPABLE, "set_dumpable"),
            (libc::PR_SET_KEEPCAPS, "set_keepcaps"),
            (libc::PR_SET_SECCOMP, "set_seccomp"),
            (libc::PR_CAPBSET_DROP, "capbset_drop"),
            (libc::PR_SET_SECUREBITS, "set_securebits"),
            (libc::PR_SET_MM, "set_mm"),
            (libc::PR_SET_CHILD_SUBREAPER, "set_child_subreaper"),
            (libc::PR_SET_NO_NEW_PRIVS, "set_no_new_privs"),
            (libc::PR_CAP_AMBIENT, "cap_ambient"),
            (libc::PR_SET_PTRACER, "set_ptracer"),
        ],
    )
}

/// bpf(2), the commands that have been there since 5.8 (include/uapi/linux/bpf.h).
fn bpf(value: u64) -> Value {
    named(
        value,
        &[
            (0, "map_create"),
            (1, "map_lookup_elem"),
            (2, "map_update_elem"),
            (3, "map_delete_elem"),
            (4, "map_get_next_key"),
            (5, "prog_load"),
            (6, "obj_pin"),
            (7, "obj_get"),
            (8, "prog_attach"),
            (9, "prog_detach"),
            (10, "prog_test_run"),
            (13, "prog_get_fd_by_id"),
            (14, "map_get_fd_by_id"),
            (15, "obj_get_info_by_fd"),
            (17, "raw_tracepoint_open"),
            (18, "btf_load"),
            (28, "link_create"),
            (29, "link_update"),
            (34, "link_detach"),
        ],
    )
}

/// The namespaces in a set of `CLONE_NEW…` flags (namespaces(7)).
pub fn namespaces(flags: u64) -> Vec<&'static str> {
    const NAMES: &[(u64, &str)] = &[
        (0x80, "time"),
        (0x0002_0000, "mnt"),
        (0x0200_0000, "cgroup"),
        (0x0400_0000, "uts"),
        (0x0800_0000, "ipc"),
        (0x1000_0000, "user"),
        (0x2000_0000, "pid"),
        (0x4000_0000, "net"),
    ];
    NAMES
        .iter()
        .filter(|(bit, _)| flags & bit != 0)
        .map(|(_, name)| *name)
        .collect()
}
