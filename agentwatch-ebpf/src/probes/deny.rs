//! Denial by the cgroup programs: connect, sendmsg, bind, socket, devices, sysctls. On every kernel.
//!
//! Each answers whether it may be. What is refused is told first, at most some times a second for
//! each rule, so that who tries in a loop floods nobody.

use agentwatch_common::{
    Header,
    deny::{
        Denied, DeviceKey, DeviceRule, Enforcement, PeerKey, Repeat, RepeatKey, SENT_PER_SECOND,
        SYSCTL_NAME, SysctlKey, enforce, op, scope, section, socket, verdict,
    },
    kind,
    loss::counter,
    tag::Task,
};
use aya_ebpf::{
    helpers::{bpf_get_current_cgroup_id, generated::bpf_sysctl_get_name},
    maps::lpm_trie::Key,
    programs::{DeviceContext, SockAddrContext, SockContext, SysctlContext},
};

use crate::{
    emit,
    kernel::{
        config,
        sock::{mapped, words},
    },
    maps::{DENIED_DEVICES, DENIED_PEERS, DENIED_SYSCTLS, ENFORCED, REPEATS},
    tag,
};

/// `EPERM`: what a caller gets that is refused.
pub const EPERM: u32 = 1;

const ICMP: u16 = 1;
const TCP: u16 = 6;
const UDP: u16 = 17;
const ICMPV6: u16 = 58;
const SCTP: u16 = 132;

/// Types of sockets, of <sys/socket.h>.
const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
pub const SOCK_RAW: u32 = 3;

/// The loopback address that a connection to address 0 goes to (`ip_route_output_key_hash_rcu`,
/// `tcp_v6_connect`), and `::1`.
const LOOPBACK: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1];
const LOOPBACK6: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// A denial of nothing yet.
pub const NOTHING: Denied = Denied {
    errno: EPERM,
    ..Denied::NONE
};

/// A [`Denied`] with room for its name.
#[repr(C)]
pub struct Named<const N: usize> {
    pub fixed: Denied,
    pub text: [u8; N],
}

/// What is in force for an agent, if anything is of these bits.
#[inline(always)]
pub fn enforced(agent: u32, bits: u32) -> Option<&'static Enforcement> {
    // SAFETY: read field by field at once; userspace replaces the whole entry, and the old one stays
    // until an RCU grace period has passed.
    let found = unsafe { ENFORCED.get(&agent) }?;
    (found.flags & bits != 0).then_some(found)
}

/// The rule that denies a peer, if one does.
#[inline(always)]
pub fn judge(agent: u32, scope: u32, address: [u8; 16], port: u16, protocol: u16) -> Option<u32> {
    let protocol = if protocol == ICMPV6 { ICMP } else { protocol };
    let key = Key::new(
        PeerKey::BITS,
        PeerKey {
            agent,
            scope,
            address,
        },
    );
    let rules = DENIED_PEERS.get(&key)?;
    for rule in &rules.rules {
        if rule.verdict == verdict::END {
            return None;
        }
        let fits = (rule.protocol == 0 || u16::from(rule.protocol) == protocol)
            && port >= rule.first_port
            && port <= rule.last_port;
        if fits {
            return (rule.verdict == verdict::DENY).then_some(rule.rule);
        }
    }
    None
}

/// Where a packet to this address goes: address 0 means this machine.
#[inline(always)]
fn destination(address: [u8; 16]) -> [u8; 16] {
    let (mut high, mut low) = ([0; 8], [0; 8]);
    high.copy_from_slice(&address[..8]);
    low.copy_from_slice(&address[8..]);
    match (u64::from_be_bytes(high), u64::from_be_bytes(low)) {
        (0, 0) => LOOPBACK6,
        (0, 0xffff_0000_0000) => LOOPBACK,
        _ => address,
    }
}

/// Whether this denial is to be sent, and how many were not before it. `None`: it is only counted.
#[inline(always)]
pub fn to_send(header: &Header, rule: u32, op: u16) -> Option<u32> {
    emit::count(header.agent, counter::DENIED);
    let key = RepeatKey {
        agent: header.agent,
        rule,
    };
    let now = emit::now_ns();
    let Some(repeat) = REPEATS.get_ptr_mut(&key) else {
        let first = Repeat {
            since_ns: now,
            sent: 1,
            held: 0,
            op: u32::from(op),
            tgid: header.tgid,
            start_ns: header.start_ns,
        };
        let _ = REPEATS.insert(&key, &first, 0);
        return Some(0);
    };
    // SAFETY: an entry of the map. Two at once may send one more, or count one less: a bound, no sum.
    let repeat = unsafe { &mut *repeat };
    if now - repeat.since_ns > 1_000_000_000 {
        repeat.since_ns = now;
        repeat.sent = 0;
    }
    repeat.op = u32::from(op);
    repeat.tgid = header.tgid;
    repeat.start_ns = header.start_ns;
    if repeat.sent >= SENT_PER_SECOND {
        repeat.held += 1;
        return None;
    }
    repeat.sent += 1;
    let held = repeat.held;
    repeat.held = 0;
    Some(held)
}

/// Tells of a denial by the current task; whether the request passes all the same.
#[inline(always)]
pub fn refuse(own: &Task, flags: u32, denied: Denied) -> bool {
    refuse_as(emit::header(kind::DENIED, own), flags, denied)
}

/// The same for whom a header names.
#[inline(always)]
pub fn refuse_as(header: Header, flags: u32, denied: Denied) -> bool {
    let observed = flags & enforce::OBSERVE != 0;
    if let Some(repeats) = to_send(&header, denied.rule, denied.op) {
        emit::prio(header, |to: *mut Denied| {
            // SAFETY: reserved memory of this type.
            unsafe { to.write(outcome(denied, repeats, observed)) };
        });
    }
    observed
}

/// A denial with what came of it.
#[inline(always)]
pub fn outcome(denied: Denied, repeats: u32, observed: bool) -> Denied {
    Denied {
        repeats,
        observed: u16::from(observed),
        errno: if observed { 0 } else { denied.errno },
        ..denied
    }
}

/// The IPv4 address of the context.
#[inline(always)]
pub fn address4(ctx: &SockAddrContext) -> [u8; 16] {
    // SAFETY: the context, in fields that these attach types allow.
    mapped(unsafe { (&raw const (*ctx.sock_addr).user_ip4).read_volatile() })
}

/// The IPv6 address of the context.
#[inline(always)]
pub fn address6(ctx: &SockAddrContext) -> [u8; 16] {
    let at = ctx.sock_addr;
    // SAFETY: as above; each word by itself, as the verifier wants them.
    words(unsafe {
        [
            (&raw const (*at).user_ip6[0]).read_volatile(),
            (&raw const (*at).user_ip6[1]).read_volatile(),
            (&raw const (*at).user_ip6[2]).read_volatile(),
            (&raw const (*at).user_ip6[3]).read_volatile(),
        ]
    })
}

/// Whether the current task may go to an address: for connect and sendmsg.
#[inline(always)]
pub fn may_go(ctx: &SockAddrContext, own: &Task, op: u16, address: [u8; 16]) -> bool {
    let Some(rules) = enforced(own.agent, enforce::CONNECT | enforce::QUARANTINE) else {
        return true;
    };
    // Cut off is cut off, whatever else is allowed.
    if rules.flags & enforce::QUARANTINE != 0
        && !may(ctx, own, rules.flags, op, scope::KEEP, address)
    {
        return false;
    }
    rules.flags & enforce::CONNECT == 0 || may(ctx, own, rules.flags, op, scope::CONNECT, address)
}

/// Whether the current task may take an own address.
#[inline(always)]
pub fn may_bind(ctx: &SockAddrContext, address: [u8; 16]) -> bool {
    let Some(own) = tag::current_or_cgroup() else {
        return true;
    };
    let Some(rules) = enforced(own.agent, enforce::BIND) else {
        return true;
    };
    may(ctx, &own, rules.flags, op::BIND, scope::BIND, address)
}

#[inline(always)]
fn may(
    ctx: &SockAddrContext,
    own: &Task,
    flags: u32,
    op: u16,
    scope: u32,
    address: [u8; 16],
) -> bool {
    // SAFETY: the context, in fields that these attach types allow.
    let (port, protocol, family) = unsafe {
        (
            u16::from_be((&raw const (*ctx.sock_addr).user_port).read_volatile() as u16),
            (&raw const (*ctx.sock_addr).protocol).read_volatile() as u16,
            (&raw const (*ctx.sock_addr).user_family).read_volatile() as u16,
        )
    };
    let judged = if scope == scope::BIND {
        address
    } else {
        destination(address)
    };
    let Some(rule) = judge(own.agent, scope, judged, port, protocol) else {
        return true;
    };
    let denied = Denied {
        address,
        rule,
        op,
        port,
        protocol,
        family,
        ..NOTHING
    };
    refuse(own, flags, denied)
}

/// `BPF_CGROUP_INET_SOCK_CREATE`: IP sockets only. `AF_PACKET`, `AF_VSOCK` and others have no such
/// hook: an LSM program sees them.
#[inline(always)]
pub fn may_make(ctx: &SockContext) -> bool {
    let Some(own) = tag::current_or_cgroup() else {
        return true;
    };
    let Some(rules) = enforced(own.agent, enforce::SOCKETS) else {
        return true;
    };
    // SAFETY: the context, in fields that this attach type allows.
    let (family, kind, protocol) = unsafe {
        (
            (&raw const (*ctx.sock).family).read_volatile(),
            (&raw const (*ctx.sock).type_).read_volatile(),
            (&raw const (*ctx.sock).protocol).read_volatile(),
        )
    };
    let index = rules.sockets[of_ip(kind, protocol as u16)];
    if index == Enforcement::ALLOWED {
        return true;
    }
    let denied = Denied {
        rule: section::rule(section::SOCKETS, index),
        op: op::SOCKET,
        family: family as u16,
        kind: kind as u16,
        protocol: protocol as u16,
        ..NOTHING
    };
    refuse(&own, rules.flags, denied)
}

/// What kind of socket of IP this is.
#[inline(always)]
fn of_ip(kind: u32, protocol: u16) -> usize {
    match (kind, protocol) {
        (SOCK_RAW, _) => socket::RAW,
        (_, SCTP) => socket::SCTP,
        (SOCK_STREAM, _) => socket::TCP,
        (SOCK_DGRAM, 0 | UDP) => socket::UDP,
        (SOCK_DGRAM, ICMP | ICMPV6) => socket::ICMP,
        _ => socket::OTHER_IP,
    }
}

/// Who uses a device or a sysctl.
#[inline(always)]
fn user() -> Option<Task> {
    if config::device_process() {
        tag::current_or_cgroup()
    } else {
        tag::by_current_cgroup()
    }
}

/// The header of a record about that.
#[inline(always)]
fn header(own: &Task) -> Header {
    if config::device_process() {
        return emit::header(kind::DENIED, own);
    }
    Header {
        // SAFETY: no arguments.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        ..emit::bare_header(kind::DENIED, own)
    }
}

/// `BPF_CGROUP_DEVICE`: a device node is opened or made.
#[inline(always)]
pub fn may_use(ctx: &DeviceContext) -> bool {
    let Some(own) = user() else {
        return true;
    };
    let Some(rules) = enforced(own.agent, enforce::DEVICES) else {
        return true;
    };
    // SAFETY: the context.
    let (access_type, major, minor) = unsafe {
        (
            (&raw const (*ctx.device).access_type).read_volatile(),
            (&raw const (*ctx.device).major).read_volatile(),
            (&raw const (*ctx.device).minor).read_volatile(),
        )
    };
    // `access_type`: access << 16 | type (include/uapi/linux/bpf.h).
    let (access, kind) = (access_type >> 16, access_type & 0xffff);
    let key = |major, minor| DeviceKey {
        agent: own.agent,
        kind,
        major,
        minor,
    };
    let any = DeviceKey::ANY;
    let Some(rule) = denied_device(&key(major, minor), access)
        .or_else(|| denied_device(&key(major, any), access))
        .or_else(|| denied_device(&key(any, any), access))
    else {
        return true;
    };
    let denied = Denied {
        rule,
        op: op::DEVICE,
        dev: major << 20 | minor,
        kind: kind as u16,
        access: access as u16,
        ..NOTHING
    };
    refuse_as(header(&own), rules.flags, denied)
}

#[inline(always)]
fn denied_device(key: &DeviceKey, access: u32) -> Option<u32> {
    // SAFETY: copied out at once.
    let DeviceRule {
        access: denied,
        rule,
    } = *unsafe { DENIED_DEVICES.get(key) }?;
    (denied & access != 0).then_some(rule)
}

/// `BPF_CGROUP_SYSCTL`: a file below /proc/sys is read or written.
#[inline(always)]
pub fn may_set(ctx: &SysctlContext) -> bool {
    // SAFETY: the context.
    if unsafe { (&raw const (*ctx.sysctl).write).read_volatile() } == 0 {
        return true;
    }
    let Some(own) = user() else {
        return true;
    };
    let Some(rules) = enforced(own.agent, enforce::SYSCTL) else {
        return true;
    };
    let mut key = Key::new(
        (size_of::<SysctlKey>() * 8) as u32,
        SysctlKey {
            agent: own.agent,
            name: [0; SYSCTL_NAME],
        },
    );
    // A name that is too long is cut, and its beginning is what is compared.
    // SAFETY: the buffer is of the size that is passed.
    let result = unsafe {
        bpf_sysctl_get_name(
            ctx.sysctl,
            (&raw mut key.data.name).cast(),
            SYSCTL_NAME as u64,
            0,
        )
    };
    let Some(rule) = DENIED_SYSCTLS.get(&key).copied() else {
        return true;
    };
    let observed = rules.flags & enforce::OBSERVE != 0;
    let header = header(&own);
    let Some(repeats) = to_send(&header, rule, op::SYSCTL) else {
        return observed;
    };
    let len = if result < 0 {
        SYSCTL_NAME - 1
    } else {
        result as usize
    };
    let denied = Denied {
        rule,
        op: op::SYSCTL,
        text_len: len as u16,
        ..NOTHING
    };
    emit::prio(header, |to: *mut Named<SYSCTL_NAME>| {
        // SAFETY: reserved memory of this type, written whole.
        unsafe {
            (&raw mut (*to).fixed).write(outcome(denied, repeats, observed));
            (&raw mut (*to).text).write(key.data.name);
        }
    });
    observed
}

/// Whether a protocol has a program of its own that judges where it goes.
#[inline(always)]
pub fn is_judged_before(protocol: u16) -> bool {
    matches!(protocol, TCP | UDP)
}
