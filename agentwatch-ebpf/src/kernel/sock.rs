//! `struct sock`, reached from a descriptor.

use agentwatch_common::flow::{Endpoint, direction};

use super::{member, offset, read};

pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;

/// The bytes before an IPv4 address in its IPv4-mapped IPv6 form (RFC 4291, 2.5.5.2).
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// An IPv4 address (network byte order, as in memory) as `::ffff:a.b.c.d`.
#[inline(always)]
pub fn mapped(address: u32) -> [u8; 16] {
    let mut out = [0; 16];
    out[..12].copy_from_slice(&MAPPED);
    out[12..].copy_from_slice(&address.to_ne_bytes());
    out
}

/// An IPv6 address as the contexts have it: four words in network byte order.
#[inline(always)]
pub fn words(address: [u32; 4]) -> [u8; 16] {
    let mut out = [0; 16];
    out[..4].copy_from_slice(&address[0].to_ne_bytes());
    out[4..8].copy_from_slice(&address[1].to_ne_bytes());
    out[8..12].copy_from_slice(&address[2].to_ne_bytes());
    out[12..].copy_from_slice(&address[3].to_ne_bytes());
    out
}

/// 4 for an IPv4-mapped address, else 6.
#[inline(always)]
pub fn version(address: &[u8; 16]) -> u8 {
    if address[10] == 0xff && address[11] == 0xff && address[0] == 0 && address[1] == 0 {
        4
    } else {
        6
    }
}

/// `TCP_CLOSE` of `include/net/tcp_states.h`.
pub const CLOSED: i32 = 7;
/// `SOCK_DONE` of `enum sock_flags` (include/net/sock.h): the peer has said that no more comes.
const SOCK_DONE: u64 = 1 << 1;

/// The `struct sock` behind a `struct file` of a socket.
#[inline(always)]
pub fn behind(file: u64) -> Option<u64> {
    let socket: u64 = read(file, offset!(file_private_data))?;
    read(socket, offset!(socket_sk))
}

/// The `struct socket` that it belongs to: null once it is closed.
#[inline(always)]
pub fn socket(sk: u64) -> u64 {
    read(sk, offset!(sk_socket)).unwrap_or(0)
}

/// The v2 id of the cgroup that a socket belongs to: that of its maker.
#[inline(always)]
pub fn cgroup(sk: u64) -> Option<u64> {
    let data = member(sk, offset!(sk_cgroup_data))?;
    let cgroup: u64 = read(data, offset!(cgroup_data_cgroup))?;
    // Before 5.15 the lowest bits say whether it is another thing.
    if cgroup & 1 != 0 {
        return None;
    }
    super::cgroup::id(cgroup & !3)
}

/// One of `TCP_*` of `include/net/tcp_states.h`.
#[inline(always)]
pub fn state(sk: u64) -> i32 {
    i32::from(read::<u8>(sk, offset!(skc_state)).unwrap_or(0))
}

/// The peer's address and port.
#[inline(always)]
pub fn remote(sk: u64) -> Option<([u8; 16], u16)> {
    let family: u16 = read(sk, offset!(skc_family))?;
    let remote = if family == AF_INET {
        mapped(read(sk, offset!(skc_daddr))?)
    } else {
        read(sk, offset!(skc_v6_daddr))?
    };
    Some((remote, u16::from_be(read(sk, offset!(skc_dport))?)))
}

/// Payload bytes that have come in. The kernel counts the peer's FIN as one.
#[inline(always)]
pub fn bytes_received(sk: u64) -> u64 {
    let bytes: u64 = read(sk, offset!(tcp_bytes_received)).unwrap_or(0);
    let flags: u64 = read(sk, offset!(skc_flags)).unwrap_or(0);
    bytes.saturating_sub(u64::from(flags & SOCK_DONE != 0))
}

/// Payload bytes that have gone out, those that were sent again counted once.
#[inline(always)]
pub fn bytes_sent(sk: u64) -> u64 {
    let bytes: u64 = read(sk, offset!(tcp_bytes_sent)).unwrap_or(0);
    let again: u64 = read(sk, offset!(tcp_bytes_retrans)).unwrap_or(0);
    bytes.saturating_sub(again)
}

/// Segments that were sent again.
#[inline(always)]
pub fn retransmits(sk: u64) -> u32 {
    read(sk, offset!(tcp_total_retrans)).unwrap_or(0)
}

/// The two ends of the socket behind a `struct file`; `None` unless it is an IP socket.
#[inline(always)]
pub fn of_file(file: u64) -> Option<Endpoint> {
    // `sockfd_lookup` checks the file's operations; here the family must do, and a file of another
    // kind gives a family that is not IP's or cannot be read. Only called on results of accept and
    // arguments of listen, which are sockets.
    let socket: u64 = read(file, offset!(file_private_data))?;
    let sk: u64 = read(socket, offset!(socket_sk))?;
    let family: u16 = read(sk, offset!(skc_family))?;
    if family != AF_INET && family != AF_INET6 {
        return None;
    }
    let proto: u8 = read::<u16>(sk, offset!(sk_protocol))? as u8;
    let (local, remote) = if family == AF_INET {
        (
            mapped(read(sk, offset!(skc_rcv_saddr))?),
            mapped(read(sk, offset!(skc_daddr))?),
        )
    } else {
        (
            read(sk, offset!(skc_v6_rcv_saddr))?,
            read(sk, offset!(skc_v6_daddr))?,
        )
    };
    Some(Endpoint {
        cookie: read(sk, offset!(skc_cookie))?,
        local,
        remote,
        local_port: read(sk, offset!(skc_num))?,
        remote_port: u16::from_be(read(sk, offset!(skc_dport))?),
        proto,
        direction: direction::UNKNOWN,
        version: version(&local),
        pad: 0,
    })
}
