//! Denial: what the kernel refuses an agent, and how it says so.
//!
//! Userspace compiles a policy into the maps whose keys and values are here; the programs look a
//! request up, refuse it (or, where the policy only observes, let it pass) and send a [`Denied`].

use crate::file::LEAF_MAX;

/// What was to be done: [`Denied::op`].
pub mod op {
    /// connect(2) of an IP socket.
    pub const CONNECT: u16 = 1;
    /// A datagram to a peer that the call names.
    pub const SENDMSG: u16 = 2;
    /// bind(2) of an IP socket.
    pub const BIND: u16 = 3;
    /// socket(2)
    pub const SOCKET: u16 = 4;
    /// A device opened or its node made.
    pub const DEVICE: u16 = 5;
    /// A sysctl written.
    pub const SYSCTL: u16 = 6;
    /// A packet sent.
    pub const PACKET_OUT: u16 = 7;
    /// A packet received.
    pub const PACKET_IN: u16 = 8;
    /// A program executed, or mapped to be.
    pub const EXEC: u16 = 9;
    /// A file opened for reading.
    pub const READ: u16 = 10;
    /// A file opened for writing, truncated, or its attributes changed.
    pub const WRITE: u16 = 11;
    /// A file or folder removed.
    pub const DELETE: u16 = 12;
    /// A file or folder renamed, or given a second name.
    pub const RENAME: u16 = 13;
    /// Another process taken hold of.
    pub const PTRACE: u16 = 14;
    /// bpf(2)
    pub const BPF: u16 = 15;
    /// A file system mounted.
    pub const MOUNT: u16 = 16;
    /// A kernel module loaded.
    pub const MODULE_LOAD: u16 = 17;
    /// A signal sent to agentwatch.
    pub const SIGNAL: u16 = 18;
}

/// Where a rule stands in the policy: the upper half of a rule's number, whose lower half is the
/// index in that list. So a record tells its rule without any table.
pub mod section {
    /// `network.deny`
    pub const NETWORK_DENY: u16 = 1;
    /// `network.default`
    pub const NETWORK_DEFAULT: u16 = 2;
    /// `network.bind.deny`
    pub const BIND_DENY: u16 = 3;
    /// `network.bind.default`
    pub const BIND_DEFAULT: u16 = 4;
    /// The agent is in quarantine, and `network.keep` does not name the peer.
    pub const QUARANTINE: u16 = 5;
    /// `sockets.deny`
    pub const SOCKETS: u16 = 6;
    /// `devices.deny`
    pub const DEVICES: u16 = 7;
    /// `sysctl.deny`
    pub const SYSCTL: u16 = 8;
    /// `files.deny_read`
    pub const FILES_READ: u16 = 9;
    /// `files.deny_write`
    pub const FILES_WRITE: u16 = 10;
    /// `files.deny_delete`
    pub const FILES_DELETE: u16 = 11;
    /// `files.deny_exec`
    pub const FILES_EXEC: u16 = 12;
    /// `deny`
    pub const OPERATIONS: u16 = 13;
    /// agentwatch protects itself, whatever the policy says.
    pub const PROTECTION: u16 = 14;

    /// A file deeper than the kernel's programs follow, for an agent with rules upon files.
    pub const FILES_TOO_DEEP: u16 = 15;

    /// A rule's number.
    pub const fn rule(section: u16, index: u16) -> u32 {
        (section as u32) << 16 | index as u32
    }
}

/// What is in force for one agent. Without an entry nothing is.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Enforcement {
    /// Bits of [`enforce`].
    pub flags: u32,
    /// Index in `sockets.deny` by [`socket`] kind, [`Enforcement::ALLOWED`] for what it does not name.
    pub sockets: [u16; socket::KINDS],
    /// Index in `deny` by [`operation`], likewise.
    pub operations: [u16; operation::KINDS],
}

const _: () = assert!(size_of::<Enforcement>() == 44);

impl Enforcement {
    /// "Not denied."
    pub const ALLOWED: u16 = 0xffff;
    /// Nothing is denied.
    pub const NONE: Self = Self {
        flags: 0,
        sockets: [Self::ALLOWED; socket::KINDS],
        operations: [Self::ALLOWED; operation::KINDS],
    };
}

/// Bits of [`Enforcement::flags`].
pub mod enforce {
    /// Nothing is refused; what would have been is told.
    pub const OBSERVE: u32 = 1 << 0;
    /// There are rules of [`super::scope::CONNECT`].
    pub const CONNECT: u32 = 1 << 1;
    /// There are rules of [`super::scope::BIND`].
    pub const BIND: u32 = 1 << 2;
    /// Some kinds of sockets are denied.
    pub const SOCKETS: u32 = 1 << 3;
    /// There are rules upon devices.
    pub const DEVICES: u32 = 1 << 4;
    /// There are rules upon sysctls.
    pub const SYSCTL: u32 = 1 << 5;
    /// The agent is cut off, but for [`super::scope::KEEP`].
    pub const QUARANTINE: u32 = 1 << 6;
    /// There are inodes that are denied.
    pub const FILES: u32 = 1 << 7;
    /// Some [`super::operation`] is denied.
    pub const OPERATIONS: u32 = 1 << 8;
}

/// Kinds of sockets that a policy can deny: an index each.
pub mod socket {
    /// `SOCK_STREAM` of IP.
    pub const TCP: usize = 0;
    /// `SOCK_DGRAM` of IP.
    pub const UDP: usize = 1;
    /// `SOCK_DGRAM` of IP with the protocol ICMP.
    pub const ICMP: usize = 2;
    /// `SOCK_RAW` of IP.
    pub const RAW: usize = 3;
    /// SCTP, of any type.
    pub const SCTP: usize = 4;
    /// What is of IP and none of these.
    pub const OTHER_IP: usize = 5;
    /// The first kind that only an LSM program sees.
    pub const FIRST_LSM: usize = UNIX;
    /// `AF_UNIX`
    pub const UNIX: usize = 6;
    /// `AF_NETLINK`
    pub const NETLINK: usize = 7;
    /// `AF_PACKET`
    pub const PACKET: usize = 8;
    /// `AF_ALG`
    pub const ALG: usize = 9;
    /// `AF_VSOCK`
    pub const VSOCK: usize = 10;
    /// `AF_XDP`
    pub const XDP: usize = 11;
    /// How many kinds there are.
    pub const KINDS: usize = 12;
}

/// What a policy's `deny` can name: an index each.
pub mod operation {
    /// Taking hold of another process.
    pub const PTRACE: usize = 0;
    /// bpf(2)
    pub const BPF: usize = 1;
    /// Mounting file systems.
    pub const MOUNT: usize = 2;
    /// Loading kernel modules.
    pub const MODULE_LOAD: usize = 3;
    /// How many there are.
    pub const KINDS: usize = 8;
}

/// Values of [`PeerKey::scope`].
pub mod scope {
    /// Where an agent may send to.
    pub const CONNECT: u32 = 1;
    /// Which own addresses it may take.
    pub const BIND: u32 = 2;
    /// What is left to it in quarantine.
    pub const KEEP: u32 = 3;
}

/// Key of the trie of addresses. All of agent and scope and the first bits of the address count.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PeerKey {
    /// The agent.
    pub agent: u32,
    /// One of [`scope`].
    pub scope: u32,
    /// IPv4 as `::ffff:a.b.c.d`.
    pub address: [u8; 16],
}

const _: () = assert!(size_of::<PeerKey>() == 24);

impl PeerKey {
    /// Bits before the address.
    pub const BITS_BEFORE: u32 = 64;
    /// Bits of a whole key.
    pub const BITS: u32 = Self::BITS_BEFORE + 128;
}

/// Most rules that apply to one address.
pub const PEER_RULES: usize = 32;

/// All rules that apply to the addresses of one prefix, of longer and shorter ones too: the first
/// that fits decides.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerRules {
    /// Ended by [`verdict::END`].
    pub rules: [PeerRule; PEER_RULES],
}

/// One of them.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerRule {
    /// The rule's number, see [`section`].
    pub rule: u32,
    /// First port.
    pub first_port: u16,
    /// Last port.
    pub last_port: u16,
    /// IP protocol number, 0 for each; 1 stands for `ICMPv6` too.
    pub protocol: u8,
    /// One of [`verdict`].
    pub verdict: u8,
    /// Zero.
    pub pad: u16,
}

const _: () = assert!(size_of::<PeerRule>() == 12);
const _: () = assert!(size_of::<PeerRules>() == 12 * PEER_RULES);

impl PeerRule {
    /// No rule.
    pub const END: Self = Self {
        rule: 0,
        first_port: 0,
        last_port: 0,
        protocol: 0,
        verdict: verdict::END,
        pad: 0,
    };
}

/// Values of [`PeerRule::verdict`].
pub mod verdict {
    /// There are no more rules: allowed.
    pub const END: u8 = 0;
    /// Allowed.
    pub const ALLOW: u8 = 1;
    /// Denied.
    pub const DENY: u8 = 2;
}

/// Key of the map of devices.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DeviceKey {
    /// The agent.
    pub agent: u32,
    /// 1 block, 2 character (`BPF_DEVCG_DEV_*`).
    pub kind: u32,
    /// Major number, [`DeviceKey::ANY`] for each.
    pub major: u32,
    /// Minor number, likewise.
    pub minor: u32,
}

const _: () = assert!(size_of::<DeviceKey>() == 16);

impl DeviceKey {
    /// Each number.
    pub const ANY: u32 = u32::MAX;
}

/// What is denied of a device.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct DeviceRule {
    /// 1 mknod, 2 read, 4 write (`BPF_DEVCG_ACC_*`), or-ed.
    pub access: u32,
    /// The rule's number.
    pub rule: u32,
}

const _: () = assert!(size_of::<DeviceRule>() == 8);

/// Most bytes of a sysctl's name, its end included.
pub const SYSCTL_NAME: usize = 128;

/// Key of the trie of sysctls; the value is the rule's number. A whole name has its NUL within the
/// prefix, the beginning of names has not.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SysctlKey {
    /// The agent.
    pub agent: u32,
    /// `net/ipv4/ip_forward`, then zeros.
    pub name: [u8; SYSCTL_NAME],
}

const _: () = assert!(size_of::<SysctlKey>() == 132);

/// Key of the set of inodes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DeniedKey {
    /// Inode number.
    pub ino: u64,
    /// Device, in the kernel's encoding.
    pub dev: u32,
    /// The agent, 0 for all.
    pub agent: u32,
}

const _: () = assert!(size_of::<DeniedKey>() == 16);

/// Key of the set of names in folders.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DeniedName {
    /// The folder.
    pub folder: DeniedKey,
    /// The name, then at least two zeros. Longer ones are not looked up.
    pub name: [u8; LEAF_MAX],
}

const _: () = assert!(size_of::<DeniedName>() == 48);

/// What is denied of an inode and of all that is below it: the rules' numbers, 0 for none.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeniedInode {
    /// Opening for reading.
    pub read: u32,
    /// Opening for writing, truncating, changing attributes.
    pub write: u32,
    /// Removing and renaming.
    pub delete: u32,
    /// Executing.
    pub exec: u32,
}

const _: () = assert!(size_of::<DeniedInode>() == 16);

impl DeniedInode {
    /// Nothing.
    pub const NONE: Self = Self {
        read: 0,
        write: 0,
        delete: 0,
        exec: 0,
    };
}

/// Most bytes of the name in a record about a file.
pub const DENIED_PATH: usize = 1024;

/// Something was denied, or would have been. The tail: `text_len` bytes of a name.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Denied {
    /// Sockets and packets: the address, IPv4 as `::ffff:a.b.c.d`.
    pub address: [u8; 16],
    /// Files: the inode's number.
    pub ino: u64,
    /// Files: the device that they are on. Devices: major << 20 | minor.
    pub dev: u32,
    /// The rule's number, see [`section`].
    pub rule: u32,
    /// The same again, by the same rule, that were not sent before this one.
    pub repeats: u32,
    /// What the caller got: an errno. 0 where it passed since the policy only observes.
    pub errno: u32,
    /// Signals, ptrace: the process meant.
    pub target: u32,
    /// One of [`op`].
    pub op: u16,
    /// Sockets and packets: the port.
    pub port: u16,
    /// Sockets and packets: the IP protocol.
    pub protocol: u16,
    /// Sockets: the address family.
    pub family: u16,
    /// Sockets: the type. Devices: 1 block, 2 character. Signals: the signal.
    pub kind: u16,
    /// Devices: 1 mknod, 2 read, 4 write, or-ed.
    pub access: u16,
    /// Bytes of the name in the tail: a sysctl's, or a path, its last component first.
    pub text_len: u16,
    /// 1: it passed, since the policy only observes.
    pub observed: u16,
    /// Zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<Denied>() == 64);

impl Denied {
    /// Nothing yet.
    pub const NONE: Self = Self {
        address: [0; 16],
        ino: 0,
        dev: 0,
        rule: 0,
        repeats: 0,
        errno: 0,
        target: 0,
        op: 0,
        port: 0,
        protocol: 0,
        family: 0,
        kind: 0,
        access: 0,
        text_len: 0,
        observed: 0,
        pad: 0,
    };
}

/// Key of the map that bounds how often a denial is told.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RepeatKey {
    /// The agent.
    pub agent: u32,
    /// The rule's number.
    pub rule: u32,
}

const _: () = assert!(size_of::<RepeatKey>() == 8);

/// How often a denial was told lately.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Repeat {
    /// When this second began, `CLOCK_BOOTTIME` nanoseconds.
    pub since_ns: u64,
    /// How many were sent in it.
    pub sent: u32,
    /// How many were not sent since the last one that was.
    pub held: u32,
    /// [`Denied::op`] of the last one.
    pub op: u32,
    /// Its process.
    pub tgid: u32,
    /// Start of that process, `CLOCK_BOOTTIME` nanoseconds.
    pub start_ns: u64,
}

const _: () = assert!(size_of::<Repeat>() == 32);

/// How many denials by one rule are sent in a second; the others are counted.
pub const SENT_PER_SECOND: u32 = 16;

crate::pod!(
    Enforcement,
    PeerKey,
    PeerRules,
    DeviceKey,
    DeviceRule,
    SysctlKey,
    DeniedKey,
    DeniedName,
    DeniedInode,
    RepeatKey,
    Repeat,
);
