//! Records of denials.

use agentwatch_common::{
    deny::{self, op},
    header::flag,
};

use super::{
    DecodeError,
    bytes::{self, Reader, Wire, reversed_path},
    flow,
};
use crate::event::{Denied, DeniedObject, DeniedOp, Inode};

// SAFETY: a `repr(C)` structure of integers and byte arrays, asserted to have no padding.
unsafe impl Wire for deny::Denied {}

pub fn denied(reader: &mut Reader<'_>, flags: u16) -> Result<Denied, DecodeError> {
    let deny::Denied {
        address,
        ino,
        dev,
        rule,
        repeats,
        errno,
        target,
        op,
        port,
        protocol,
        family,
        kind,
        access,
        text_len,
        observed,
        pad: _,
    } = reader.take()?;
    let op = operation(op)?;
    let text = reader.bytes(text_len)?;
    let object = match op {
        // What the kernel only counted: of the last ones no object is known.
        _ if flags & flag::USER != 0 => DeniedObject::Nothing,
        DeniedOp::Connect
        | DeniedOp::Sendmsg
        | DeniedOp::Bind
        | DeniedOp::PacketOut
        | DeniedOp::PacketIn => DeniedObject::Address(
            flow::address(address, port),
            flow::protocol(u8::try_from(protocol).unwrap_or(u8::MAX)),
        ),
        DeniedOp::Socket => DeniedObject::Socket {
            family,
            kind,
            protocol,
        },
        DeniedOp::Device => DeniedObject::Device {
            block: kind == 1,
            major: dev >> 20,
            minor: dev & 0xf_ffff,
            access,
        },
        DeniedOp::Sysctl => DeniedObject::Sysctl(bytes::until_nul(text)),
        DeniedOp::Exec
        | DeniedOp::Read
        | DeniedOp::Write
        | DeniedOp::Delete
        | DeniedOp::Rename
        | DeniedOp::Mount
            if !text.is_empty() =>
        {
            DeniedObject::File(
                reversed_path(text, flags & flag::PATH_CUT != 0),
                Inode { dev, ino },
            )
        }
        DeniedOp::Ptrace | DeniedOp::Signal => DeniedObject::Process(target),
        _ => DeniedObject::Nothing,
    };
    Ok(Denied {
        op,
        object,
        rule,
        repeats,
        errno,
        observed: observed != 0,
    })
}

fn operation(value: u16) -> Result<DeniedOp, DecodeError> {
    Ok(match value {
        op::CONNECT => DeniedOp::Connect,
        op::SENDMSG => DeniedOp::Sendmsg,
        op::BIND => DeniedOp::Bind,
        op::SOCKET => DeniedOp::Socket,
        op::DEVICE => DeniedOp::Device,
        op::SYSCTL => DeniedOp::Sysctl,
        op::PACKET_OUT => DeniedOp::PacketOut,
        op::PACKET_IN => DeniedOp::PacketIn,
        op::EXEC => DeniedOp::Exec,
        op::READ => DeniedOp::Read,
        op::WRITE => DeniedOp::Write,
        op::DELETE => DeniedOp::Delete,
        op::RENAME => DeniedOp::Rename,
        op::PTRACE => DeniedOp::Ptrace,
        op::BPF => DeniedOp::Bpf,
        op::MOUNT => DeniedOp::Mount,
        op::MODULE_LOAD => DeniedOp::ModuleLoad,
        op::SIGNAL => DeniedOp::Signal,
        other => {
            return Err(DecodeError::Value {
                what: "a denied operation",
                value: u64::from(other),
            });
        }
    })
}
