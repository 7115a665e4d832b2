//! What the kernel refused, or would have.

use std::fmt;

use serde_json::{Value, json};

use super::{Address, Inode, Protocol, call};

/// What was to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeniedOp {
    /// A connection.
    Connect,
    /// A datagram to a peer that the call names.
    Sendmsg,
    /// An own address taken.
    Bind,
    /// A socket made.
    Socket,
    /// A device used.
    Device,
    /// A sysctl written.
    Sysctl,
    /// A packet sent.
    PacketOut,
    /// A packet received.
    PacketIn,
    /// A program executed.
    Exec,
    /// A file opened for reading.
    Read,
    /// A file opened for writing, or its attributes changed.
    Write,
    /// A file removed.
    Delete,
    /// A file renamed or given a second name.
    Rename,
    /// Another process taken hold of.
    Ptrace,
    /// bpf(2)
    Bpf,
    /// A file system mounted.
    Mount,
    /// A kernel module loaded.
    ModuleLoad,
    /// A signal to agentwatch.
    Signal,
}

impl DeniedOp {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Sendmsg => "sendmsg",
            Self::Bind => "bind",
            Self::Socket => "socket",
            Self::Device => "device",
            Self::Sysctl => "sysctl",
            Self::PacketOut => "packet_out",
            Self::PacketIn => "packet_in",
            Self::Exec => "exec",
            Self::Read => "read",
            Self::Write => "write",
            Self::Delete => "delete",
            Self::Rename => "rename",
            Self::Ptrace => "ptrace",
            Self::Bpf => "bpf",
            Self::Mount => "mount",
            Self::ModuleLoad => "module_load",
            Self::Signal => "signal",
        }
    }

    /// What somebody tried who tried this.
    pub fn verb(self) -> &'static str {
        match self {
            Self::Connect => "connect to",
            Self::Sendmsg | Self::PacketOut => "send to",
            Self::PacketIn => "receive from",
            Self::Bind => "bind a socket to",
            Self::Socket => "make a socket:",
            Self::Device => "use the device",
            Self::Sysctl => "write the sysctl",
            Self::Exec => "execute",
            Self::Read => "read",
            Self::Write => "write",
            Self::Delete => "remove",
            Self::Rename => "rename or link",
            Self::Ptrace => "take hold of",
            Self::Bpf => "use bpf",
            Self::Mount => "mount a file system",
            Self::ModuleLoad => "load a kernel module",
            Self::Signal => "send a signal to",
        }
    }
}

/// What it was about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeniedObject {
    /// A peer, or an own address.
    Address(Address, Protocol),
    /// A kind of sockets, as socket(2) names it.
    Socket {
        /// Address family.
        family: u16,
        /// Type.
        kind: u16,
        /// Protocol.
        protocol: u16,
    },
    /// A device.
    Device {
        /// It is one of blocks.
        block: bool,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
        /// 1 mknod, 2 read, 4 write, or-ed.
        access: u16,
    },
    /// A sysctl.
    Sysctl(String),
    /// A file.
    File(String, Inode),
    /// A process, by its id.
    Process(u32),
    /// The whole of it.
    Nothing,
}

impl fmt::Display for DeniedObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address, protocol) if address.port == 0 => {
                write!(f, "{} ({protocol})", address.ip)
            }
            Self::Address(address, protocol) => write!(f, "{address} ({protocol})"),
            Self::Socket {
                family,
                kind,
                protocol,
            } => {
                let (family, kind) = (
                    named(call::family(u64::from(*family))),
                    named(call::socket_type(u64::from(*kind))),
                );
                write!(f, "{family} {kind} {protocol}")
            }
            Self::Device {
                block,
                major,
                minor,
                access,
            } => {
                let kind = if *block { 'b' } else { 'c' };
                write!(f, "{kind} {major}:{minor} ")?;
                for (bit, letter) in [(2, 'r'), (4, 'w'), (1, 'm')] {
                    if access & bit != 0 {
                        write!(f, "{letter}")?;
                    }
                }
                Ok(())
            }
            Self::Sysctl(name) => f.write_str(name),
            Self::File(path, _) => f.write_str(path),
            Self::Process(pid) => write!(f, "process {pid}"),
            Self::Nothing => Ok(()),
        }
    }
}

/// A name, or the number of what has none.
fn named(value: Value) -> String {
    match value {
        Value::String(name) => name,
        other => other.to_string(),
    }
}

/// A denial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// What was to be done.
    pub op: DeniedOp,
    /// What it was about.
    pub object: DeniedObject,
    /// The rule's number: see [`crate::policy::rule_name`].
    pub rule: u32,
    /// The same again, by the same rule, that were not told one by one before this one.
    pub repeats: u32,
    /// The errno that the caller got; 0 where it passed.
    pub errno: u32,
    /// It passed, since the policy only observes.
    pub observed: bool,
}

impl Denied {
    /// What was tried, in words.
    pub fn what(&self) -> String {
        match (&self.object, self.op) {
            (DeniedObject::Nothing, DeniedOp::Mount | DeniedOp::Bpf | DeniedOp::ModuleLoad) => {
                self.op.verb().to_owned()
            }
            (DeniedObject::Nothing, op) => format!("{} something", op.verb()),
            (object, op) => format!("{} {object}", op.verb()),
        }
    }

    /// What is known of it, by name, but for what has a column.
    pub fn facts(&self) -> Value {
        let mut facts = json!({
            "operation": self.op.name(), "rule": crate::policy::rule_name(self.rule),
            "verdict": if self.observed { "would_deny" } else { "deny" },
            "target": self.object.to_string(),
        });
        if self.repeats > 0 {
            facts["repeats"] = self.repeats.into();
        }
        facts
    }
}
