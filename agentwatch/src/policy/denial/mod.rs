//! What the kernel refuses an agent: as the policy says it, and as the kernel's maps have it.

mod device;
mod files;
mod network;
mod sysctl;

use std::collections::BTreeSet;

use agentwatch_common::deny::{Enforcement as Wire, enforce, operation, section, socket};
use serde::{Deserialize, Serialize};

pub use self::{
    device::{Device, DeviceNumbers},
    files::{DeniedPath, Files, ResolvedFiles},
    network::{Network, Node, Peer},
    sysctl::Sysctl,
};

/// Whether a denial that this kernel cannot hold is an error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Enforcement {
    /// It is: nothing starts.
    #[default]
    Required,
    /// It is said, and the rest is in force.
    BestEffort,
}

/// `sockets`: kinds of sockets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sockets {
    /// Those that may not be made.
    #[serde(deserialize_with = "super::list")]
    pub deny: Vec<SocketKind>,
}

/// A kind of sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SocketKind {
    /// Streams of IP.
    Tcp,
    /// Datagrams of IP.
    Udp,
    /// ICMP without raw sockets, as some `ping`s do.
    Icmp,
    /// Raw IP.
    Raw,
    /// SCTP.
    Sctp,
    /// Other protocols over IP.
    OtherIp,
    /// Unix sockets.
    Unix,
    /// Netlink.
    Netlink,
    /// Whole packets of an interface.
    Packet,
    /// The kernel's cryptography.
    Alg,
    /// To virtual machines and their host.
    Vsock,
    /// `AF_XDP`
    Xdp,
}

impl SocketKind {
    fn index(self) -> usize {
        match self {
            Self::Tcp => socket::TCP,
            Self::Udp => socket::UDP,
            Self::Icmp => socket::ICMP,
            Self::Raw => socket::RAW,
            Self::Sctp => socket::SCTP,
            Self::OtherIp => socket::OTHER_IP,
            Self::Unix => socket::UNIX,
            Self::Netlink => socket::NETLINK,
            Self::Packet => socket::PACKET,
            Self::Alg => socket::ALG,
            Self::Vsock => socket::VSOCK,
            Self::Xdp => socket::XDP,
        }
    }
}

/// `devices`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Devices {
    /// Those that may not be used.
    #[serde(deserialize_with = "super::list")]
    pub deny: Vec<Device>,
}

/// `sysctl`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sysctls {
    /// Those that may not be written.
    #[serde(deserialize_with = "super::list")]
    pub deny: Vec<Sysctl>,
}

/// What can be denied as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Taking hold of another process.
    Ptrace,
    /// bpf(2)
    Bpf,
    /// Mounting file systems.
    Mount,
    /// Loading kernel modules.
    ModuleLoad,
}

impl Operation {
    fn index(self) -> usize {
        match self {
            Self::Ptrace => operation::PTRACE,
            Self::Bpf => operation::BPF,
            Self::Mount => operation::MOUNT,
            Self::ModuleLoad => operation::MODULE_LOAD,
        }
    }
}

/// Something that the kernel must be able to refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Need {
    /// Connections and datagrams.
    Connect,
    /// Own addresses.
    Bind,
    /// IP sockets.
    IpSockets,
    /// Sockets of other families.
    OtherSockets,
    /// Devices.
    Devices,
    /// Writing sysctls.
    Sysctl,
    /// Executing files.
    Exec,
    /// Reading and writing files.
    OpenFiles,
    /// Removing, renaming, linking files.
    ChangeFiles,
    /// See [`Operation::Ptrace`].
    Ptrace,
    /// See [`Operation::Bpf`].
    Bpf,
    /// See [`Operation::Mount`].
    Mount,
    /// See [`Operation::ModuleLoad`].
    ModuleLoad,
    /// Signals to agentwatch, and taking hold of it. No policy asks for it: it is there where it can be.
    Protection,
}

/// The denials of a policy in the kernel's form, but for what must be looked up on this machine.
#[derive(Clone)]
pub struct Rules {
    /// What is in force.
    pub wire: Wire,
    /// What the kernel must be able to do for it.
    pub needs: BTreeSet<Need>,
    /// Rules upon peers.
    pub connect: Vec<Node>,
    /// Rules upon own addresses.
    pub bind: Vec<Node>,
    /// What is left in quarantine.
    pub keep: Vec<Node>,
}

impl super::Policy {
    /// The denials in the kernel's form.
    ///
    /// # Errors
    ///
    /// When there are more than the kernel's maps hold.
    pub fn denials(&self) -> Result<Rules, String> {
        let mut wire = Wire::NONE;
        let mut needs = BTreeSet::new();
        let connect = self.network.connect_nodes()?;
        let bind = self.network.bind_nodes()?;
        let mut add = |is: bool, flag: u32, need: Need| {
            if is {
                wire.flags |= flag;
                needs.insert(need);
            }
        };
        add(!connect.is_empty(), enforce::CONNECT, Need::Connect);
        add(!bind.is_empty(), enforce::BIND, Need::Bind);
        add(
            !self.devices.deny.is_empty(),
            enforce::DEVICES,
            Need::Devices,
        );
        add(!self.sysctl.deny.is_empty(), enforce::SYSCTL, Need::Sysctl);
        let Files {
            deny_read,
            deny_write,
            deny_delete: _,
            deny_exec,
        } = &self.files;
        add(!deny_exec.is_empty(), enforce::FILES, Need::Exec);
        add(
            !deny_read.is_empty() || !deny_write.is_empty(),
            enforce::FILES,
            Need::OpenFiles,
        );
        // What may not be read or written may not be moved to where it could be.
        add(!self.files.is_empty(), enforce::FILES, Need::ChangeFiles);
        for (index, kind) in self.sockets.deny.iter().enumerate() {
            let at = kind.index();
            if wire.sockets[at] == Wire::ALLOWED {
                wire.sockets[at] = short(index, "sockets.deny")?;
            }
            wire.flags |= enforce::SOCKETS;
            needs.insert(if at < socket::FIRST_LSM {
                Need::IpSockets
            } else {
                Need::OtherSockets
            });
        }
        for (index, operation) in self.deny.iter().enumerate() {
            let at = operation.index();
            if wire.operations[at] == Wire::ALLOWED {
                wire.operations[at] = short(index, "deny")?;
            }
            wire.flags |= enforce::OPERATIONS;
            needs.insert(match operation {
                Operation::Ptrace => Need::Ptrace,
                Operation::Bpf => Need::Bpf,
                Operation::Mount => Need::Mount,
                Operation::ModuleLoad => Need::ModuleLoad,
            });
        }
        if self.mode == super::Mode::Observe {
            wire.flags |= enforce::OBSERVE;
        }
        Ok(Rules {
            wire,
            needs,
            connect,
            bind,
            keep: self.network.keep_nodes()?,
        })
    }
}

/// An index as a rule's number has it.
fn short(index: usize, list: &str) -> Result<u16, String> {
    u16::try_from(index)
        .ok()
        .filter(|index| *index != Wire::ALLOWED)
        .ok_or_else(|| format!("{list} is too long"))
}

/// Where a rule stands in the policy, by its number in a record.
pub fn rule_name(rule: u32) -> String {
    let index = rule & 0xffff;
    let list = match u16::try_from(rule >> 16).unwrap_or(0) {
        section::NETWORK_DENY => "network.deny",
        section::NETWORK_DEFAULT => return "network.default".to_owned(),
        section::BIND_DENY => "network.bind.deny",
        section::BIND_DEFAULT => return "network.bind.default".to_owned(),
        section::QUARANTINE => return "quarantine".to_owned(),
        section::SOCKETS => "sockets.deny",
        section::DEVICES => "devices.deny",
        section::SYSCTL => "sysctl.deny",
        section::FILES_READ => "files.deny_read",
        section::FILES_WRITE => "files.deny_write",
        section::FILES_DELETE => "files.deny_delete",
        section::FILES_EXEC => "files.deny_exec",
        section::OPERATIONS => "deny",
        section::FILES_TOO_DEEP => return "files (deeper than can be followed)".to_owned(),
        section::PROTECTION => return "protection".to_owned(),
        _ => return format!("rule {rule:#x}"),
    };
    format!("{list}[{index}]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;

    fn rules(text: &str) -> Rules {
        let head = "apiVersion: agentwatch/v1\nkind: Policy\n";
        Policy::parse(&format!("{head}{text}"), "p")
            .unwrap()
            .denials()
            .unwrap()
    }

    #[test]
    fn the_default_policy_denies_nothing() {
        let rules = Policy::default().denials().unwrap();
        assert_eq!(rules.wire.flags, 0);
        assert!(rules.needs.is_empty());
    }

    #[test]
    fn what_is_needed_follows_from_what_is_denied() {
        let rules = rules(
            "network: {deny: [10.0.0.0/8], bind: {default: deny}}\n\
             sockets: {deny: [packet, raw, raw]}\ndeny: [mount]\n\
             files: {deny_read: [/etc/shadow]}\nmode: observe\n",
        );
        let needs: Vec<Need> = rules.needs.iter().copied().collect();
        assert_eq!(
            needs,
            [
                Need::Connect,
                Need::Bind,
                Need::IpSockets,
                Need::OtherSockets,
                Need::OpenFiles,
                Need::ChangeFiles,
                Need::Mount
            ]
        );
        assert_eq!(
            rules.wire.flags,
            enforce::OBSERVE
                | enforce::CONNECT
                | enforce::BIND
                | enforce::SOCKETS
                | enforce::FILES
                | enforce::OPERATIONS
        );
        assert_eq!(rules.wire.sockets[socket::RAW], 1);
        assert_eq!(rules.wire.sockets[socket::PACKET], 0);
        assert_eq!(rules.wire.sockets[socket::TCP], Wire::ALLOWED);
        assert_eq!(rules.wire.operations[operation::MOUNT], 0);
    }

    #[test]
    fn rules_have_the_names_of_their_places() {
        assert_eq!(
            rule_name(section::rule(section::NETWORK_DENY, 3)),
            "network.deny[3]"
        );
        assert_eq!(
            rule_name(section::rule(section::BIND_DEFAULT, 0)),
            "network.bind.default"
        );
        assert_eq!(rule_name(0), "rule 0x0");
    }
}
