//! `struct sock`, reached from a descriptor.

use agentwatch_common::flow::{Endpoint, direction};

use super::{offset, read};

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
