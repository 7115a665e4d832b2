//! Sockets: who talked to whom, how much, and how it began.

/// Most payload bytes of an ordinary flow that are sent, for each direction.
pub const HEAD_MAX: usize = 256;
/// Most packets of an ordinary flow, for each direction, whose payload is sent.
pub const HEAD_PACKETS: u8 = 8;
/// The same as [`HEAD_MAX`] where the bytes begin like something that names who is talked to, and the
/// most of any one packet: a TLS ClientHello has some 1,800 bytes with a post-quantum key share
/// (X25519MLKEM768: 1,216 of them), in any order of its extensions; resolvers ask for DNS answers of
/// at most 1,232 bytes over UDP (DNS flag day 2020), glibc for 1,200.
pub const HEAD_WIDE: usize = 2048;
/// The same as [`HEAD_PACKETS`] there: what is sent in small pieces is seen too.
pub const HEAD_WIDE_PACKETS: u8 = 32;
/// DNS over UDP: most messages of a flow that are sent, for each direction and each
/// 2^[`DNS_WINDOW_SHIFT`] nanoseconds (1.07 s). A resolver keeps one socket for days, so there is no
/// bound over its whole life; a tunnel through DNS is seen by its bytes, and by these.
pub const DNS_MESSAGES: u8 = 64;
/// See [`DNS_MESSAGES`].
pub const DNS_WINDOW_SHIFT: u32 = 30;
/// DNS over TCP: most payload bytes of a flow that are sent, for each direction.
pub const DNS_STREAM: usize = 16 * 1024;
/// DNS over TCP: most packets of a flow whose payload is sent, for each direction.
pub const DNS_STREAM_PACKETS: u8 = 128;
/// The port of DNS (RFC 1035, 4.2).
pub const DNS_PORT: u16 = 53;
/// Bytes of the payload that a [`Trigger`] keeps.
pub const TRIGGER_HEAD: usize = 64;

/// Values of [`Endpoint::direction`] and [`FlowData::direction`].
pub mod direction {
    /// Not known: the flow was there before the agent was watched.
    pub const UNKNOWN: u8 = 0;
    /// The agent opened the flow; bytes that it sends.
    pub const OUT: u8 = 1;
    /// The agent took the flow; bytes that it gets.
    pub const IN: u8 = 2;
}

/// What identifies a flow in the kernel's map: the socket, and for UDP the peer.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FlowKey {
    /// The kernel's socket cookie: never used twice while the machine runs.
    pub cookie: u64,
    /// Address of the peer for UDP (IPv4 as `::ffff:a.b.c.d`), zero for TCP.
    pub remote: [u8; 16],
    /// Port of the peer for UDP, zero for TCP.
    pub remote_port: u16,
    /// IP protocol number.
    pub proto: u16,
    /// Zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<FlowKey>() == 32);

/// A socket's two ends.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Endpoint {
    /// The kernel's socket cookie.
    pub cookie: u64,
    /// Own address, IPv4 as `::ffff:a.b.c.d`; zero where it is not bound yet.
    pub local: [u8; 16],
    /// The peer's address, likewise; zero for a listener.
    pub remote: [u8; 16],
    /// Own port.
    pub local_port: u16,
    /// The peer's port.
    pub remote_port: u16,
    /// IP protocol number: 6 TCP, 17 UDP.
    pub proto: u8,
    /// One of [`direction`].
    pub direction: u8,
    /// 4 or 6: the IP version on the wire.
    pub version: u8,
    /// Zero.
    pub pad: u8,
}

const _: () = assert!(size_of::<Endpoint>() == 48);

/// The last payload that a process got on a TCP connection which it had opened. With it, a
/// connection or a payload that follows can be seen to be an answer to what came from outside.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Trigger {
    /// The flow, 0 for none.
    pub cookie: u64,
    /// When it came, `CLOCK_BOOTTIME` nanoseconds.
    pub at_ns: u64,
    /// Bytes that came with that packet.
    pub len: u32,
    /// How many of them are in `head`.
    pub head_len: u32,
    /// Their beginning.
    pub head: [u8; TRIGGER_HEAD],
}

const _: () = assert!(size_of::<Trigger>() == 88);

/// A process asked for a connection (TCP), or fixed the peer of a UDP socket.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Connect {
    /// The local end is not known yet.
    pub endpoint: Endpoint,
    /// What came before.
    pub trigger: Trigger,
}

const _: () = assert!(size_of::<Connect>() == 136);

/// Payload of one of the first packets of a flow, or of DNS any. The tail is the payload's beginning.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FlowData {
    /// The flow.
    pub endpoint: Endpoint,
    /// For bytes sent: what the process had got last.
    pub trigger: Trigger,
    /// Payload bytes of this flow in this direction before this packet. Not the sum of what was sent
    /// before it where a packet was not sent, came out of order, or repeats some bytes.
    pub offset: u64,
    /// Payload bytes that came with this packet and were not counted before.
    pub len: u32,
    /// How many bytes of the packet are in the tail.
    pub data_len: u16,
    /// One of [`direction`]: of these bytes, not of the flow.
    pub direction: u8,
    /// Zero.
    pub pad: u8,
}

const _: () = assert!(size_of::<FlowData>() == 152);

/// A flow ended.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FlowClose {
    /// The flow.
    pub endpoint: Endpoint,
    /// Payload bytes that the agent got: retransmissions are counted once.
    pub bytes_in: u64,
    /// Payload bytes that the agent sent.
    pub bytes_out: u64,
    /// When it began, `CLOCK_BOOTTIME` nanoseconds.
    pub open_ns: u64,
    /// Bits of [`close`].
    pub state: u32,
    /// TCP segments that were sent again, where [`close::RETRANSMITS`] says that they were counted.
    pub retransmits: u32,
}

const _: () = assert!(size_of::<FlowClose>() == 80);

/// Bits of [`FlowClose::state`].
pub mod close {
    /// The connection was established at some time.
    pub const ESTABLISHED: u32 = 1 << 0;
    /// It is open still: the watching ended, not the flow.
    pub const ALIVE: u32 = 1 << 1;
    /// [`super::FlowClose::retransmits`] is set.
    pub const RETRANSMITS: u32 = 1 << 2;
    /// The agent got the socket by a message; the bytes are those since.
    pub const RECEIVED: u32 = 1 << 3;
    /// The agent had the socket when it came to be watched, or it comes from a listener that it had; the
    /// bytes are those since.
    pub const INHERITED: u32 = 1 << 4;
    /// The agent had the socket a moment before its bytes were counted: there may have been more.
    pub const PARTIAL: u32 = 1 << 5;
}

/// What the kernel keeps of a flow that is open. Userspace reads it when the watching ends.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FlowState {
    /// Start of the process that opened it, `CLOCK_BOOTTIME` nanoseconds.
    pub start_ns: u64,
    /// When the flow began, `CLOCK_BOOTTIME` nanoseconds.
    pub open_ns: u64,
    /// Payload bytes in.
    pub bytes_in: u64,
    /// Payload bytes out.
    pub bytes_out: u64,
    /// The agent.
    pub agent: u32,
    /// The process that opened it, 0 where it is not known.
    pub tgid: u32,
    /// Its parent.
    pub ppid: u32,
    /// Its user.
    pub uid: u32,
    /// The next TCP sequence number that has not been counted, in.
    pub seq_in: u32,
    /// The same, out.
    pub seq_out: u32,
    /// Bits of [`state`].
    pub flags: u32,
    /// Payload bytes sent to userspace, in. For DNS over UDP: the window of [`DNS_MESSAGES`].
    pub head_in: u16,
    /// The same, out.
    pub head_out: u16,
    /// Packets whose payload was sent to userspace, in. For DNS over UDP: in this window.
    pub packets_in: u8,
    /// The same, out.
    pub packets_out: u8,
    /// Own port.
    pub local_port: u16,
    /// The peer's port.
    pub remote_port: u16,
    /// 4 or 6.
    pub version: u8,
    /// One of [`direction`].
    pub direction: u8,
    /// Own address.
    pub local: [u8; 16],
    /// The peer's address.
    pub remote: [u8; 16],
}

const _: () = assert!(size_of::<FlowState>() == 104);

/// Bits of [`FlowState::flags`].
pub mod state {
    /// `seq_in` is set.
    pub const SEQ_IN: u32 = 1 << 0;
    /// `seq_out` is set.
    pub const SEQ_OUT: u32 = 1 << 1;
    /// The connection is, or was, established.
    pub const ESTABLISHED: u32 = 1 << 2;
    /// [`super::HEAD_WIDE`] bytes are sent of what comes in.
    pub const WIDE_IN: u32 = 1 << 3;
    /// The same, out.
    pub const WIDE_OUT: u32 = 1 << 4;
    /// It is DNS: by its port, or its first packet is a question.
    pub const DNS: u32 = 1 << 5;
}

/// A TCP or UDP socket that somebody outside made, and that an agent uses: the programs of the agent's
/// cgroup do not see its packets.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Borrowed {
    /// Start of the process that got it, `CLOCK_BOOTTIME` nanoseconds; 0 where it is not known.
    pub start_ns: u64,
    /// When, `CLOCK_BOOTTIME` nanoseconds.
    pub since_ns: u64,
    /// The `struct socket` that it belongs to, as a number to tell it from another one in the same memory.
    pub socket: u64,
    /// TCP: payload bytes that had come in by then, by the socket's own count. UDP: that have come in since, to
    /// the agent.
    pub bytes_in: u64,
    /// The same, out.
    pub bytes_out: u64,
    /// The two ends, and what it is called.
    pub endpoint: Endpoint,
    /// The agent.
    pub agent: u32,
    /// The process that got it, 0 where it is not known.
    pub tgid: u32,
    /// Its parent.
    pub ppid: u32,
    /// Its user.
    pub uid: u32,
    /// Segments that had been sent again by then.
    pub retransmits: u32,
    /// [`close::RECEIVED`] or [`close::INHERITED`], and perhaps [`close::PARTIAL`].
    pub how: u32,
}

const _: () = assert!(size_of::<Borrowed>() == 112);

impl Borrowed {
    /// No socket.
    pub const NONE: Self = Self {
        start_ns: 0,
        since_ns: 0,
        socket: 0,
        bytes_in: 0,
        bytes_out: 0,
        endpoint: Endpoint {
            cookie: 0,
            local: [0; 16],
            remote: [0; 16],
            local_port: 0,
            remote_port: 0,
            proto: 0,
            direction: 0,
            version: 0,
            pad: 0,
        },
        agent: 0,
        tgid: 0,
        ppid: 0,
        uid: 0,
        retransmits: 0,
        how: 0,
    };
}

/// The key of an entry that is no socket's: it is there while what goes through UDP sockets is counted.
pub const COUNTING: u64 = 0;

/// A cookie of a socket for which the kernel has none has this bit: the kernel's own are small numbers.
pub const OWN_COOKIE: u64 = 1 << 63;

const _: () = assert!(HEAD_MAX.is_power_of_two() && HEAD_WIDE.is_power_of_two());
const _: () = assert!(DNS_STREAM <= u16::MAX as usize);

crate::pod!(FlowKey, FlowState, Borrowed);
