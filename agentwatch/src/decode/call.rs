//! Records of calls that are no file's and no flow's.

use agentwatch_common::{
    call::{self, op},
    header::flag,
};

use super::{
    DecodeError,
    bytes::{Reader, Wire, text},
};
use crate::event::{Call, CallOp, Credentials, ProcessKey, Signal, SocketAddress};

// SAFETY: `repr(C)` structures of integers, asserted to have no padding.
unsafe impl Wire for call::Call {}
// SAFETY: as above.
unsafe impl Wire for call::Signal {}

pub fn call(reader: &mut Reader<'_>, flags: u16) -> Result<Call, DecodeError> {
    let call::Call {
        args,
        credentials,
        result,
        op,
        text_len,
        address_len,
        pad: _,
    } = reader.take()?;
    let name = reader.bytes(text_len)?;
    let address = reader.bytes(address_len)?;
    Ok(Call {
        op: operation(op)?,
        args,
        result,
        credentials: self::credentials(&credentials),
        text: (!name.is_empty()).then(|| {
            let cut = flags & flag::NAME_CUT != 0;
            text(name) + if cut { "…" } else { "" }
        }),
        address: (!address.is_empty()).then(|| socket_address(address)),
    })
}

pub fn credentials(credentials: &call::Credentials) -> Credentials {
    let call::Credentials {
        caps,
        uid,
        euid,
        gid,
        egid,
    } = *credentials;
    Credentials {
        caps,
        uid,
        euid,
        gid,
        egid,
    }
}

pub fn signal(reader: &mut Reader<'_>) -> Result<Signal, DecodeError> {
    let call::Signal {
        target_start_ns,
        target,
        target_agent,
        signal,
        result,
    } = reader.take()?;
    Ok(Signal {
        target: ProcessKey {
            pid: target,
            start_ns: target_start_ns,
        },
        target_agent,
        signal,
        delivered: result == 0,
    })
}

fn operation(value: u16) -> Result<CallOp, DecodeError> {
    Ok(match value {
        op::SOCKET => CallOp::Socket,
        op::BIND => CallOp::Bind,
        op::CONNECT => CallOp::Connect,
        op::PTRACE => CallOp::Ptrace,
        op::PROCESS_VM_READ => CallOp::ProcessVmRead,
        op::PROCESS_VM_WRITE => CallOp::ProcessVmWrite,
        op::PIDFD_GETFD => CallOp::PidfdGetfd,
        op::UNSHARE => CallOp::Unshare,
        op::SETNS => CallOp::Setns,
        op::MEMFD_CREATE => CallOp::MemfdCreate,
        op::PRCTL => CallOp::Prctl,
        op::BPF => CallOp::Bpf,
        op::MODULE_LOAD => CallOp::ModuleLoad,
        op::MODULE_UNLOAD => CallOp::ModuleUnload,
        op::IO_URING_SETUP => CallOp::IoUringSetup,
        op::SETUID => CallOp::Setuid,
        op::SETGID => CallOp::Setgid,
        op::CAPSET => CallOp::Capset,
        op::PERF_EVENT_OPEN => CallOp::PerfEventOpen,
        op::USERFAULTFD => CallOp::Userfaultfd,
        op::KEXEC => CallOp::Kexec,
        op::FSOPEN => CallOp::Fsopen,
        other => {
            return Err(DecodeError::Value {
                what: "a call",
                value: u64::from(other),
            });
        }
    })
}

/// A `struct sockaddr` as the caller passed it, of any length.
fn socket_address(bytes: &[u8]) -> SocketAddress {
    let u16_at = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let family = u16_at(0).unwrap_or(0);
    parse(bytes, family, u16_at, u32_at).unwrap_or(SocketAddress::Other(family))
}

/// ip(7), ipv6(7), unix(7), netlink(7), packet(7), vsock(7).
fn parse(
    bytes: &[u8],
    family: u16,
    u16_at: impl Fn(usize) -> Option<u16>,
    u32_at: impl Fn(usize) -> Option<u32>,
) -> Option<SocketAddress> {
    Some(match i32::from(family) {
        libc::AF_INET => {
            let ip: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            SocketAddress::ip(ip.into(), u16::from_be(u16_at(2)?))
        }
        libc::AF_INET6 => {
            let ip: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            let ip = std::net::Ipv6Addr::from(ip).to_canonical();
            SocketAddress::ip(ip, u16::from_be(u16_at(2)?))
        }
        libc::AF_UNIX => SocketAddress::Unix(match bytes.get(2..)? {
            [] => String::new(),
            // In the abstract namespace every byte is part of the name.
            [0, name @ ..] => format!("@{}", text(name)),
            path => text(path.split(|b| *b == 0).next().unwrap_or(path)),
        }),
        libc::AF_NETLINK => SocketAddress::Netlink {
            port: u32_at(4)?,
            groups: u32_at(8)?,
        },
        libc::AF_PACKET => SocketAddress::Packet {
            protocol: u16::from_be(u16_at(2)?),
            interface: u32_at(4)?,
        },
        libc::AF_VSOCK => SocketAddress::Vsock {
            port: u32_at(4)?,
            cid: u32_at(8)?,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(family: i32, rest: &[u8]) -> String {
        let mut bytes = u16::try_from(family).unwrap().to_ne_bytes().to_vec();
        bytes.extend_from_slice(rest);
        socket_address(&bytes).to_string()
    }

    #[test]
    fn socket_addresses() {
        assert_eq!(
            address(libc::AF_INET, &[0, 80, 127, 0, 0, 1]),
            "127.0.0.1:80"
        );
        let mut six = vec![1, 187, 0, 0, 0, 0];
        six.extend_from_slice(&std::net::Ipv6Addr::LOCALHOST.octets());
        assert_eq!(address(libc::AF_INET6, &six), "[::1]:443");
        assert_eq!(
            address(libc::AF_UNIX, b"/run/docker.sock\0junk"),
            "/run/docker.sock"
        );
        assert_eq!(address(libc::AF_UNIX, b"\0dbus\x1b"), "@dbus\\x1b");
        assert_eq!(address(libc::AF_UNIX, b""), "");
        let mut vsock = vec![0, 0];
        vsock.extend_from_slice(&5000u32.to_ne_bytes());
        vsock.extend_from_slice(&2u32.to_ne_bytes());
        assert_eq!(address(libc::AF_VSOCK, &vsock), "vsock 2:5000");
    }

    #[test]
    fn a_cut_address_is_no_panic() {
        for family in [0, 1, 2, 10, 16, 17, 40, 0xffff] {
            for len in 0..28 {
                let mut bytes = vec![0xff; len];
                for (to, from) in bytes.iter_mut().zip(u16::to_ne_bytes(family)) {
                    *to = from;
                }
                let _ = socket_address(&bytes).to_string();
            }
        }
    }
}
