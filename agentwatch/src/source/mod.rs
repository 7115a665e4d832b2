//! Ring buffers → records, with loss counted; and what the kernel cannot say itself: UDP flows that
//! ended, flows that are open at the end, processes that were there before.

mod alive;
mod thin;
mod uring;

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    io,
    mem::offset_of,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::PathBuf,
};

use agentwatch_common::{
    Header,
    flow::{self, FlowKey, FlowState},
    header::{COMM_LEN, flag},
    kind,
    loss::{Read, Tally, ring},
    process::CgroupMade,
    tag::agent_of_cgroup,
};
use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{
    Interest,
    unix::{AsyncFd, AsyncFdReadyGuard},
};

use crate::{probe::Rings, respond};
use alive::Alive;
use thin::Told;
use uring::Held;

/// Most UDP sockets whose peers are remembered. Flows of further ones end when the watching does.
const UDP_SOCKETS: usize = 16 * 1024;

/// How often is looked whether something was lost, nanoseconds.
const COUNT_EVERY_NS: u64 = 1_000_000_000;

/// Bytes of a piece of the arena that records are copied to: as many as one allocation is worth.
const PIECE: usize = 64 * 1024;

/// What was read of an agent.
struct Got {
    records: u64,
    read: Read,
    /// The kernel has not been told.
    news: bool,
}

const NOTHING: Got = Got {
    records: 0,
    read: Read { bytes: [0; 2] },
    news: false,
};

/// The records of a running kernel.
pub struct Source {
    rings: Rings,
    fds: [AsyncFd<OwnedFd>; 2],
    arena: BytesMut,
    got: HashMap<u32, Got>,
    udp: HashMap<u64, Vec<FlowKey>>,
    uring: Held,
    told: Told,
    losses: HashMap<u32, u64>,
    counted_ns: u64,
    alive: Alive,
}

impl Source {
    /// Reads from the kernel's rings.
    ///
    /// # Errors
    ///
    /// When the rings cannot be waited for. Panics outside a tokio runtime.
    pub fn new(rings: Rings) -> io::Result<Self> {
        let [prio, bulk] = rings.fds()?;
        let wait = |fd| {
            // SAFETY: an owned descriptor, which stays open as long as this registration.
            unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
                .map_err(io::Error::from)
        };
        Ok(Self {
            fds: [wait(prio)?, wait(bulk)?],
            rings,
            arena: BytesMut::new(),
            got: HashMap::new(),
            udp: HashMap::new(),
            uring: Held::default(),
            told: Told::default(),
            losses: HashMap::new(),
            counted_ns: 0,
            alive: Alive::default(),
        })
    }

    /// Waits until a record wants to be read at once. Bulk records do not: read now and then too.
    pub async fn readable(&self) {
        let [prio, bulk] = &self.fds;
        tokio::select! {
            ready = prio.readable() => clear(ready),
            ready = bulk.readable() => clear(ready),
        }
    }

    /// Moves all records that are there to `batch`, ordered by time. Two rings are read one after the
    /// other, so what one read gives may be a little older than what the read before gave.
    pub fn drain(&mut self, batch: &mut Vec<Bytes>) {
        let start = batch.len();
        let Self {
            rings,
            arena,
            got,
            udp,
            uring,
            told,
            fds: _,
            losses: _,
            counted_ns: _,
            alive: _,
        } = self;
        let Rings {
            prio,
            bulk,
            flows,
            read,
            ..
        } = rings;
        for (which, ring) in [(ring::PRIO, prio), (ring::BULK, bulk)] {
            while let Some(item) = ring.next() {
                let record: &[u8] = &item;
                let Some(head) = Head::of(record) else {
                    continue; // not ours; cannot happen
                };
                let got = got.entry(head.agent).or_insert(NOTHING);
                got.records += 1;
                got.read.bytes[which] += record.len() as u64;
                got.news = true;
                if head.kind == kind::SOCK_CLOSE {
                    for key in udp.remove(&head.cookie).unwrap_or_default() {
                        if let Ok(state) = flows.get(&key, 0) {
                            batch.push(close(arena, &key, &state, head.time_ns, 0));
                        }
                        let _ = flows.remove(&key);
                    }
                    continue;
                }
                if head.kind == kind::FLOW_OPEN
                    && let Some(key) = udp_key(record)
                    && (udp.len() < UDP_SOCKETS || udp.contains_key(&key.cookie))
                {
                    udp.entry(key.cookie).or_default().push(key);
                }
                if head.kind == kind::URING_DONE {
                    batch.extend(uring.done(record));
                    continue;
                }
                if head.kind == kind::FILE {
                    if Held::holds(record) {
                        batch.extend(uring.hold(head.time_ns, record));
                        continue;
                    }
                    told.keep(record);
                }
                // What is reserved in the ring may be more than what was written.
                let len =
                    usize::try_from(head.len).map_or(record.len(), |len| len.min(record.len()));
                if arena.capacity() < len {
                    arena.reserve(PIECE.max(len));
                }
                arena.put_slice(&record[..len]);
                batch.push(arena.split().freeze());
            }
        }
        // What was read makes room in the agents' shares.
        for (agent, got) in got.iter_mut().filter(|(_, got)| got.news) {
            got.news = false;
            // Full only with more agents than can be watched: they have no share then.
            let _ = read.insert(agent, got.read, 0);
        }
        batch.extend(uring.overdue(respond::now_ns()));
        batch[start..].sort_by_key(|record| time_ns(record));
    }

    /// Tells of the opens that the kernel only counted, once in a while; with `all` of all of them, now.
    /// After [`Self::drain`], which tells what was opened.
    pub fn repeats(&mut self, now_ns: u64, all: bool, batch: &mut Vec<Bytes>) {
        if !self.told.is_due(now_ns) && !all {
            return;
        }
        let counted = &mut self.rings.thinned;
        let entries = counted.iter().filter_map(Result::ok);
        for key in self.told.sweep(entries, now_ns, batch) {
            // Not there any more: then it is as it should be.
            let _ = counted.remove(&key);
        }
    }

    /// Closes, in the stream, every flow that agents have open.
    pub fn open_flows(&mut self, agents: &HashSet<u32>, now_ns: u64, batch: &mut Vec<Bytes>) {
        // What has not returned by now will not be heard of.
        for agent in agents {
            batch.extend(self.uring.of_agent(*agent));
        }
        let open: Vec<(FlowKey, FlowState)> = self
            .rings
            .flows
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, state)| agents.contains(&state.agent))
            .collect();
        for (key, state) in open {
            batch.push(close(
                &mut self.arena,
                &key,
                &state,
                now_ns,
                flow::close::ALIVE,
            ));
            let _ = self.rings.flows.remove(&key);
            self.udp.remove(&key.cookie);
        }
    }

    /// Keeps nothing more of agents that have ended.
    pub fn forget(&mut self, agents: &HashSet<u32>) {
        for agent in agents {
            self.got.remove(agent);
            self.losses.remove(agent);
        }
        self.rings.forget(agents);
    }

    /// The agents of which something was read.
    pub fn agents(&self) -> impl Iterator<Item = u32> {
        self.got.keys().copied()
    }

    /// Counts records of an agent as lost that were read and could not be kept.
    pub fn not_kept(&mut self, agent: u32, records: u64) {
        if records > 0
            && let Some(got) = self.got.get_mut(&agent)
        {
            got.records = got.records.saturating_sub(records);
            self.rings.not_kept(agent, records);
        }
    }

    /// How many of an agent's records were delivered.
    pub fn delivered(&self, agent: u32) -> u64 {
        self.got.get(&agent).map_or(0, |got| got.records)
    }

    /// Says, once a second, what has been lost of these agents, where that has become more.
    pub fn losses(&mut self, agents: &[u32], now_ns: u64, batch: &mut Vec<Bytes>) {
        if now_ns.saturating_sub(self.counted_ns) < COUNT_EVERY_NS {
            return;
        }
        self.counted_ns = now_ns;
        for &agent in agents {
            let tally = self.tally(agent);
            let lost = tally.lost.iter().sum();
            if lost > self.losses.insert(agent, lost).unwrap_or(0) {
                let head = header(kind::TALLY, agent, 0, 0, now_ns);
                batch.push(record(&mut self.arena, head, &tally, &[]));
            }
        }
    }

    /// An agent's counters, and how many of its records were delivered.
    pub fn tally(&self, agent: u32) -> Tally {
        Tally {
            delivered: self.got.get(&agent).map_or(0, |got| got.records),
            ..self.rings.tally(agent)
        }
    }
}

/// Whose a record is, and what it tells of cgroups: what is not for the detectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// A record of this agent.
    Agent(u32),
    /// A cgroup came to be that may be an agent's.
    Made {
        /// The number whose tag it got: its own, or that of the cgroup above it.
        agent: u32,
        /// Its cgroup v2 id.
        id: u64,
        /// Its path, from the root of the hierarchy.
        path: PathBuf,
    },
    /// The cgroup of this agent was removed.
    Gone(u32),
}

/// Where a record belongs; `None` for what is none.
pub fn route(record: &[u8]) -> Option<Route> {
    let head = Head::of(record)?;
    Some(match head.kind {
        kind::CGROUP_MADE => {
            let at = size_of::<Header>() + size_of::<CgroupMade>();
            let len = record.get(at - 8..at - 4)?;
            let len = usize::try_from(u32::from_ne_bytes(len.try_into().ok()?)).ok()?;
            let path = record.get(at..at.checked_add(len)?)?;
            Route::Made {
                agent: head.agent,
                id: head.cookie,
                path: OsStr::from_bytes(path).into(),
            }
        }
        kind::CGROUP_GONE => Route::Gone(head.agent),
        _ => Route::Agent(head.agent),
    })
}

/// Whether it tells of the end of a process.
pub fn is_exit(record: &[u8]) -> bool {
    Head::of(record).is_some_and(|head| head.kind == kind::EXIT)
}

/// A record of another agent. Of a cgroup that is an agent's own and was taken for a part of one that turned
/// out to be none: the number of that agent, and the record as its own.
pub fn of_cgroup(record: &[u8]) -> Option<(u32, Bytes)> {
    let at = offset_of!(Header, cgroup);
    let id = u64::from_ne_bytes(record.get(at..at + 8)?.try_into().ok()?);
    if id == 0 {
        return None;
    }
    let number = agent_of_cgroup(id);
    let mut record = record.to_vec();
    let at = offset_of!(Header, agent);
    record
        .get_mut(at..at + 4)?
        .copy_from_slice(&number.to_ne_bytes());
    Some((number, record.into()))
}

/// When a record was made, `CLOCK_BOOTTIME` nanoseconds.
pub fn time_ns(record: &[u8]) -> u64 {
    Head::of(record).map_or(0, |head| head.time_ns)
}

/// What is there is read after this, so a record that comes now wakes again.
fn clear(ready: io::Result<AsyncFdReadyGuard<'_, OwnedFd>>) {
    if let Ok(mut ready) = ready {
        ready.clear_ready();
    }
}

/// The few fields that the source itself looks at.
struct Head {
    len: u32,
    kind: u16,
    time_ns: u64,
    agent: u32,
    /// The first word of the payload: the cookie of a socket, or the id of a cgroup.
    cookie: u64,
}

impl Head {
    fn of(record: &[u8]) -> Option<Self> {
        let header = size_of::<Header>();
        Some(Self {
            len: u32::from_ne_bytes(record.get(..4)?.try_into().ok()?),
            kind: u16::from_ne_bytes(record.get(4..6)?.try_into().ok()?),
            time_ns: u64::from_ne_bytes(record.get(8..16)?.try_into().ok()?),
            agent: u32::from_ne_bytes(record.get(32..36)?.try_into().ok()?),
            cookie: u64::from_ne_bytes(record.get(header..header + 8)?.try_into().ok()?),
        })
    }
}

/// The key of a UDP flow from the record that says it came to be.
fn udp_key(record: &[u8]) -> Option<FlowKey> {
    let at = size_of::<Header>();
    let end = record.get(at..at + size_of::<flow::Endpoint>())?;
    // SAFETY: the slice has the size of an `Endpoint`, which is made of integers and bytes only.
    let endpoint = unsafe { end.as_ptr().cast::<flow::Endpoint>().read_unaligned() };
    (endpoint.proto == 17).then_some(FlowKey {
        cookie: endpoint.cookie,
        remote: endpoint.remote,
        remote_port: endpoint.remote_port,
        proto: 17,
        pad: 0,
    })
}

/// Makes the record that says a flow ended, from what the kernel kept of it.
fn close(arena: &mut BytesMut, key: &FlowKey, state: &FlowState, now_ns: u64, bits: u32) -> Bytes {
    flow_record(arena, kind::FLOW_CLOSE, key, state, now_ns, bits)
}

/// Makes a record of what went over a flow.
fn flow_record(
    arena: &mut BytesMut,
    kind: u16,
    key: &FlowKey,
    state: &FlowState,
    now_ns: u64,
    bits: u32,
) -> Bytes {
    let established = state.flags & flow::state::ESTABLISHED != 0;
    let payload = flow::FlowClose {
        endpoint: flow::Endpoint {
            cookie: key.cookie,
            local: state.local,
            remote: state.remote,
            local_port: state.local_port,
            remote_port: state.remote_port,
            proto: key.proto as u8,
            direction: state.direction,
            version: state.version,
            pad: 0,
        },
        bytes_in: state.bytes_in,
        bytes_out: state.bytes_out,
        open_ns: state.open_ns,
        state: bits
            | if established {
                flow::close::ESTABLISHED
            } else {
                0
            },
        // What the kernel counts is told at the end only.
        retransmits: 0,
    };
    let header = Header {
        ppid: state.ppid,
        uid: state.uid,
        ..header(kind, state.agent, state.tgid, state.start_ns, now_ns)
    };
    record(arena, header, &payload, &[])
}

/// A header of a record that userspace makes.
pub fn header(kind: u16, agent: u32, pid: u32, start_ns: u64, time_ns: u64) -> Header {
    Header {
        len: 0,
        kind,
        flags: flag::USER,
        time_ns,
        start_ns,
        cgroup: 0,
        agent,
        tgid: pid,
        tid: 0,
        ppid: 0,
        uid: 0,
        gid: 0,
        comm: [0; COMM_LEN],
    }
}

/// A record that userspace makes: header, payload, tail. A tail too long for a record is cut.
pub fn record<T: Copy>(
    arena: &mut BytesMut,
    mut header: Header,
    payload: &T,
    tail: &[&[u8]],
) -> Bytes {
    let len = size_of::<Header>() + size_of::<T>() + tail.iter().map(|t| t.len()).sum::<usize>();
    header.len = u32::try_from(len).unwrap_or(u32::MAX);
    put(arena, &header);
    put(arena, payload);
    for piece in tail {
        arena.put_slice(piece);
    }
    arena.split().freeze()
}

/// Appends a wire structure.
fn put<T: Copy>(arena: &mut BytesMut, value: &T) {
    // SAFETY: wire structures have no padding (asserted where they are defined): each of their bytes
    // is set.
    let bytes =
        unsafe { std::slice::from_raw_parts((&raw const *value).cast::<u8>(), size_of::<T>()) };
    arena.put_slice(bytes);
}
