//! Bytes → [`Event`]. Pure and total: any bytes give an event or an error, never a panic, and nothing
//! is read that is not there.

mod bytes;
mod call;
mod denied;
mod exec;
mod file;
mod flow;
pub mod payload;

use agentwatch_common::{budget, header::Header, header::flag, kind, loss, process};

use crate::event::{
    AgentInfo, Carried, Event, Exit, Kind, ProcessKey, Removed, Seed, Stopped, Tally, Usage,
};
use bytes::{Reader, Wire, words};

/// Why bytes are not an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The record ends before its payload does.
    #[error("the record ends too early: {need} bytes are needed at offset {at} of {len}")]
    Short {
        /// Where.
        at: usize,
        /// How many bytes.
        need: usize,
        /// Bytes of the record.
        len: usize,
    },
    /// The length in the header is not that of the record.
    #[error("the header says {said} bytes, the record has {len}")]
    Length {
        /// In the header.
        said: u32,
        /// In truth.
        len: usize,
    },
    /// A kind that this version does not know.
    #[error("records of kind {0} are not known to this version")]
    Kind(u16),
    /// A value that has no meaning.
    #[error("{what} cannot be {value}")]
    Value {
        /// Which.
        what: &'static str,
        /// The value.
        value: u64,
    },
}

/// When a record was made, `CLOCK_BOOTTIME` nanoseconds; `None` where it is too short to tell.
pub fn time_ns(record: &[u8]) -> Option<u64> {
    let header: Header = Reader::new(record).take().ok()?;
    Some(header.time_ns)
}

/// Decodes one record.
///
/// # Errors
///
/// When the bytes are not a whole record of a kind that is known.
pub fn decode(record: &[u8]) -> Result<Event, DecodeError> {
    let mut reader = Reader::new(record);
    let header: Header = reader.take()?;
    let Header {
        len,
        kind,
        flags,
        time_ns,
        start_ns,
        cgroup,
        agent,
        tgid,
        tid,
        ppid,
        uid,
        gid,
        comm,
    } = header;
    if usize::try_from(len) != Ok(record.len()) {
        return Err(DecodeError::Length {
            said: len,
            len: record.len(),
        });
    }
    let kind = payload(kind, flags, ppid, &mut reader)?;
    Ok(Event {
        time_ns,
        agent,
        process: ProcessKey {
            pid: tgid,
            start_ns,
        },
        tid,
        ppid,
        uid,
        gid,
        cgroup,
        comm: bytes::until_nul(&comm),
        partial: flags & !flag::USER != 0,
        domain: None,
        kind,
    })
}

/// Whether a record is of an open for reading that worked, of no device: then only the policy's
/// sensitive paths make it an event. Its path is put into `path`: nothing is allocated for what is
/// neither kept nor shown, once `path` is long enough. What is no whole record is none of these.
pub fn plain_read(record: &[u8], path: &mut String) -> bool {
    path.clear();
    let mut reader = Reader::new(record);
    let Ok(Header {
        len, kind, flags, ..
    }) = reader.take::<Header>()
    else {
        return false;
    };
    kind == kind::FILE
        && usize::try_from(len) == Ok(record.len())
        && file::plain_read(&mut reader, flags, path)
}

fn payload(kind: u16, flags: u16, ppid: u32, reader: &mut Reader<'_>) -> Result<Kind, DecodeError> {
    Ok(match kind {
        kind::EXEC => Kind::Exec(Box::new(exec::exec(reader, flags)?)),
        kind::FORK => {
            let process::Fork {
                parent_start_ns,
                child_cgroup,
                namespaces,
                pad: _,
            } = reader.take()?;
            Kind::Fork {
                parent: ProcessKey {
                    pid: ppid,
                    start_ns: parent_start_ns,
                },
                namespaces,
                cgroup: child_cgroup,
            }
        }
        kind::EXIT => Kind::Exit(exit(reader)?),
        kind::CGROUP_MOVE => {
            let process::CgroupMove {
                to,
                to_agent,
                moved,
            } = reader.take()?;
            Kind::CgroupMove {
                moved,
                to,
                to_agent,
                protected: flags & flag::PROTECTED != 0,
            }
        }
        kind::CONNECT => Kind::Connect(Box::new(flow::connect(reader)?)),
        kind::ACCEPT => Kind::Accept(flow::endpoint(reader)?),
        kind::SOCKET_RECEIVED => Kind::SocketReceived(flow::endpoint(reader)?),
        kind::SOCKET_INHERITED => Kind::SocketInherited(flow::endpoint(reader)?),
        kind::LISTEN => Kind::Listen(flow::endpoint(reader)?),
        kind::FLOW_OPEN => Kind::FlowOpen(flow::endpoint(reader)?),
        kind::FLOW_DATA => Kind::FlowData(Box::new(flow::data(reader)?)),
        kind::FLOW_CLOSE => Kind::FlowClose(flow::close(reader)?),
        kind::FLOW_ALIVE => Kind::FlowAlive(flow::close(reader)?),
        kind::USAGE => {
            let process::Usage {
                cpu_ns,
                recent_cpu_ns,
                recent_ns,
                read_bytes,
                written_bytes,
            } = reader.take()?;
            Kind::Usage(Usage {
                cpu_ns,
                recent_cpu_ns,
                recent_ns,
                read_bytes,
                written_bytes,
            })
        }
        kind::FILE => Kind::File(Box::new(file::file(reader, flags)?)),
        kind::CALL => Kind::Call(Box::new(call::call(reader, flags)?)),
        kind::SIGNAL => Kind::Signal(call::signal(reader)?),
        kind::STOPPED => {
            let budget::Stopped { place, stopped } = reader.take()?;
            Kind::Stopped(Stopped {
                workspace: place == budget::place::WORKSPACE as u32,
                stopped: stopped != 0,
            })
        }
        kind::DENIED => Kind::Denied(Box::new(denied::denied(reader, flags)?)),
        kind::SEED => Kind::Seed(Box::new(seed(reader)?)),
        kind::AGENT => Kind::Agent(Box::new(agent(reader)?)),
        kind::TALLY => Kind::Tally(Box::new(tally(reader)?)),
        kind::CARRIED => {
            let budget::Carried { removed, last_ns } = reader.take()?;
            let at = |place: usize| Removed {
                files: removed[place],
                last_ns: last_ns[place],
            };
            Kind::Carried(Carried {
                outside: at(budget::place::OUTSIDE),
                workspace: at(budget::place::WORKSPACE),
            })
        }
        // SOCK_CLOSE never leaves the source.
        other => return Err(DecodeError::Kind(other)),
    })
}

/// Splits a status as wait(2) has it.
fn exit(reader: &mut Reader<'_>) -> Result<Exit, DecodeError> {
    let process::Exit {
        utime_ns,
        stime_ns,
        max_rss_pages,
        status,
        pad: _,
    } = reader.take()?;
    let signal = (status & 0x7f) as u8;
    Ok(Exit {
        code: (signal == 0).then_some((status >> 8 & 0xff) as u8),
        signal: (signal != 0).then_some(signal),
        utime_ns,
        stime_ns,
        max_rss_pages,
    })
}

fn seed(reader: &mut Reader<'_>) -> Result<Seed, DecodeError> {
    let process::Seed {
        member,
        path_len,
        cwd_len,
        argv_len,
        pad: _,
    } = reader.take()?;
    Ok(Seed {
        member: member != 0,
        path: bytes::text(reader.bytes(path_len)?),
        cwd: bytes::text(reader.bytes(cwd_len)?),
        argv: words(reader.bytes(argv_len)?, usize::MAX),
    })
}

fn agent(reader: &mut Reader<'_>) -> Result<AgentInfo, DecodeError> {
    let process::AgentInfo {
        cgroup,
        wall_offset_ns,
        name_len,
        cgroup_len,
        workspace_len,
        pad: _,
    } = reader.take()?;
    Ok(AgentInfo {
        name: bytes::text(reader.bytes(name_len)?),
        cgroup_path: bytes::text(reader.bytes(cgroup_len)?),
        cgroup,
        workspace: match reader.bytes(workspace_len)? {
            [] => None,
            bytes => Some(bytes::text(bytes)),
        },
        wall_offset_ns,
    })
}

/// The reasons of a loss, from [`loss::counter::LOST_FIRST`] on.
pub const LOSS_REASONS: [&str; 7] = [
    "urgent ring full",
    "bulk ring full",
    "too many calls in flight",
    "too many flows",
    "no scratch memory",
    "more than the agent's share",
    "too much before it was known whose it is",
];

/// Those of them that say that more came than was read.
pub const UNREAD: [&str; 4] = [
    LOSS_REASONS[0],
    LOSS_REASONS[1],
    LOSS_REASONS[5],
    LOSS_REASONS[6],
];

fn tally(reader: &mut Reader<'_>) -> Result<Tally, DecodeError> {
    Ok(Tally::from(&reader.take::<loss::Tally>()?))
}

impl From<&loss::Tally> for Tally {
    fn from(tally: &loss::Tally) -> Self {
        let loss::Tally {
            emitted,
            delivered,
            lost,
            thinned,
            cut,
            faults,
            untagged,
            opens_read,
            opens_write,
        } = *tally;
        Self {
            emitted,
            delivered,
            lost: LOSS_REASONS
                .into_iter()
                .zip(lost)
                .filter(|(_, n)| *n > 0)
                .collect(),
            thinned,
            cut,
            faults,
            untagged,
            opens_read,
            opens_write,
        }
    }
}

// SAFETY: `repr(C)` structures of integers and byte arrays, asserted to have no padding: every bit
// pattern is a value.
unsafe impl Wire for Header {}
// SAFETY: as above.
unsafe impl Wire for budget::Stopped {}
// SAFETY: as above.
unsafe impl Wire for budget::Carried {}
// SAFETY: as above.
unsafe impl Wire for process::Fork {}
// SAFETY: as above.
unsafe impl Wire for process::Exit {}
// SAFETY: likewise.
unsafe impl Wire for process::Usage {}
// SAFETY: as above.
unsafe impl Wire for process::CgroupMove {}
// SAFETY: as above.
unsafe impl Wire for process::Seed {}
// SAFETY: as above.
unsafe impl Wire for process::AgentInfo {}
// SAFETY: as above.
unsafe impl Wire for loss::Tally {}

#[cfg(test)]
mod tests;
