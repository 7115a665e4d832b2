//! Every map and global, its size, and what it means that it is full. What agents can fill takes less than
//! 32 MiB in all; userspace makes those maps smaller or larger where it is asked to (`probe/memory.rs`).

use agentwatch_common::{
    budget::{Budget, OwnKey},
    call::CallRow,
    config::Config,
    deny::{
        DeniedInode, DeniedKey, DeniedName, DeviceKey, DeviceRule, Enforcement, PeerKey, PeerRules,
        Repeat, RepeatKey, SysctlKey,
    },
    file::{InodeKey, MappedKey, NameKey, SYSCALLS as SYSCALLS_LEN, Syscall, ThinKey, Thinned},
    flow::{Borrowed, FlowKey, FlowState, Trigger},
    loss::{CounterKey, Read, Share},
    offsets::Offsets,
    tag::{Protected, Task},
};
use aya_ebpf::{
    Global,
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{
        Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, ProgramArray, RingBuf,
    },
};

use crate::probes::{call::Entered, file::Pending, thin::Slot, uring::Request};

/// Where the running kernel's structure members are.
#[unsafe(no_mangle)]
pub static OFFSETS: Global<Offsets> = Global::new(Offsets::NONE);

/// The settings.
#[unsafe(no_mangle)]
pub static CONFIG: Global<Config> = Global::new(Config::DEFAULT);

/// Urgent records: exec, exit, connections, what decides findings. Full: counted as
/// `LOST_PRIO_FULL`.
#[map]
pub static EVENTS_PRIO: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// All other records. Full: counted as `LOST_BULK_FULL`.
#[map]
pub static EVENTS_BULK: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// Cgroup v2 id → agent. Full: counted as `CGROUPS_FULL`; tasks keep their own tags.
#[map]
pub static CGROUPS: HashMap<u64, u32> = HashMap::with_max_entries(16384, BPF_F_NO_PREALLOC);

/// Cgroup v2 id → where below it the cgroups of agents may come to be, see `agentwatch_common::tag::below`.
/// Userspace puts in what the configuration names, `cgroup_mkdir` what lies between, and userspace takes out
/// what is below an agent's. Full: counted as `CGROUPS_FULL` of nobody; while it is, userspace looks at all
/// cgroups every few seconds.
#[map]
pub static PARENTS: HashMap<u64, u32> = HashMap::with_max_entries(16384, BPF_F_NO_PREALLOC);

/// Process id → its tag. Full: counted as `TASKS_FULL`; the process is not seen.
#[map]
pub static TASKS: HashMap<u32, Task> = HashMap::with_max_entries(32768, BPF_F_NO_PREALLOC);

/// System calls in flight, by `pid_tgid`. Full: the call is counted as `LOST_CALLS_FULL`.
#[map]
pub static PENDING: HashMap<u64, Pending> = HashMap::with_max_entries(8192, 0);

/// How many calls upon files the agents are in, now (`IN_FLIGHT_CALLS`), and whether any of their processes
/// deletes through io_uring (`IN_FLIGHT_URING`): where both are 0, as nearly always, nobody else pays for
/// looking into [`PENDING`].
#[map]
pub static IN_FLIGHT: Array<u64> = Array::with_max_entries(2, 0);
/// See [`IN_FLIGHT`].
pub const IN_FLIGHT_CALLS: u32 = 0;
/// See [`IN_FLIGHT`].
pub const IN_FLIGHT_URING: u32 = 1;

/// Flows that are open. Full: counted as `LOST_FLOWS_FULL`; the flow's bytes are not seen, its
/// connect and accept are.
#[map]
pub static FLOWS: HashMap<FlowKey, FlowState> = HashMap::with_max_entries(16384, 0);

/// Socket cookie → the process that named a peer last. The least recently used goes when it is
/// full: its flow has no process then, until the process sends again.
#[map]
pub static OWNERS: LruHashMap<u64, Owner> = LruHashMap::with_max_entries(8192, 0);

/// `struct sock` → a socket that an agent uses and did not make. Full: its bytes are not told.
#[map]
pub static BORROWED: HashMap<u64, Borrowed> = HashMap::with_max_entries(2048, BPF_F_NO_PREALLOC);

/// Process id → what it got last on a connection that it had opened. The least recently used goes
/// when it is full: evidence is missing, no event.
#[map]
pub static TRIGGERS: LruHashMap<u32, Trigger> = LruHashMap::with_max_entries(4096, 0);

/// Names (the beginnings of path components) that make an open for reading worth sending. Filled
/// by userspace from the policy's sensitive paths, which it refuses to overfill.
#[map]
pub static SENSITIVE_NAMES: HashMap<NameKey, u8> = HashMap::with_max_entries(1024, 0);

/// Inodes that make an open for reading worth sending, whatever their name. As above.
#[map]
pub static SENSITIVE_INODES: HashMap<InodeKey, u8> = HashMap::with_max_entries(4096, 0);

/// System call number → where its arguments are. Filled by userspace.
#[map]
pub static SYSCALLS: Array<Syscall> = Array::with_max_entries(SYSCALLS_LEN, 0);

/// System call number → how to read a call that is no file's. Filled by userspace.
#[map]
pub static CALL_ROWS: Array<CallRow> = Array::with_max_entries(SYSCALLS_LEN, 0);

/// Such calls in flight, by `pid_tgid`. Full: counted as `LOST_CALLS_FULL`.
#[map]
pub static CALLS: HashMap<u64, Entered> = HashMap::with_max_entries(8192, BPF_F_NO_PREALLOC);

/// The programs at the entry of functions that do system calls, which the stubs there call, by the number
/// that `probe/functions.rs` gives them. Userspace fills it and refuses to overfill.
#[map]
pub static AT_ENTRY: ProgramArray = ProgramArray::with_max_entries(8, 0);

/// The same at their exit: the kernel takes programs of one kind only in one array.
#[map]
pub static AT_EXIT: ProgramArray = ProgramArray::with_max_entries(8, 0);

/// The same where the prototype is another one.
#[map]
pub static AT_EXIT_2: ProgramArray = ProgramArray::with_max_entries(8, 0);

/// Agent → what it may still take away. Filled by userspace; without an entry there is no budget.
#[map]
pub static BUDGETS: HashMap<u32, Budget> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);

/// What the agents made. The least recently used goes when it is full: it counts against the budget
/// then, and userspace, which remembers more, lets the process go on.
#[map]
pub static OWN: LruHashMap<OwnKey, u8> = LruHashMap::with_max_entries(32768, 0);

/// Opens that were sent a short while ago, and how often each has been repeated since. Userspace takes
/// out what is old, once a second. Full: what is not in it is not thinned.
#[map]
pub static THINNED: HashMap<ThinKey, Thinned> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// Where the key of an open is put together: there is no room on the stack. As [`SCRATCH`].
#[map]
pub static THIN_SLOT: PerCpuArray<Slot> = PerCpuArray::with_max_entries(1, 0);

/// What processes have mapped as code. The least recently used goes when it is full: then it may be told
/// once more.
#[map]
pub static MAPPED: LruHashMap<MappedKey, u8> = LruHashMap::with_max_entries(4096, 0);

/// Agents whose policy wants every open told by itself. Filled by userspace; there are no more agents
/// than it has room for.
#[map]
pub static UNTHINNED: HashMap<u32, u8> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);

/// Requests of io_uring that are in flight, by their address. Full: counted as `LOST_CALLS_FULL`.
#[map]
pub static URING: HashMap<u64, Request> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// Processes that delete through io_uring. The least recently used goes when it is full: their
/// deletions are told, and do not count against the budget.
#[map]
pub static URING_DELETES: LruHashMap<u32, u8> = LruHashMap::with_max_entries(1024, 0);

/// Agent → its share of the rings. Filled by userspace for the agents that it watches, which it refuses
/// to overfill.
#[map]
pub static SHARES: HashMap<u32, Share> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);

/// Agent → what userspace has read. As above.
#[map]
pub static READ: HashMap<u32, Read> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);

/// Thread → where the message is that it receives. Full: sockets that come with it are not told.
#[map]
pub static RECEIVING: HashMap<u64, u64> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// Counters by agent. Full: new agents are not counted; there is room for 4096 / ~12 of them.
#[map]
pub static COUNTERS: PerCpuHashMap<CounterKey, u64> = PerCpuHashMap::with_max_entries(4096, 0);

/// Where records with a tail are put together. Only tracepoint programs use it: they run with
/// preemption off and do not nest.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Where in the urgent ring the last record ends that did not wake userspace.
#[map]
pub static LAZY: Array<u64> = Array::with_max_entries(1, 0);

/// When this CPU woke userspace last for records that can wait, `CLOCK_BOOTTIME` nanoseconds.
#[map]
pub static LAST_WAKEUP: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The process behind a socket.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Owner {
    pub task: Task,
    pub tgid: u32,
    pub uid: u32,
}

/// A record's tail may begin anywhere below `SCRATCH_MASK + 1`, and each piece is at most
/// `PIECE_MAX` long: so no write is out of bounds, which is what the verifier has to see.
pub const SCRATCH_MASK: usize = 0x3fff;
/// The longest piece of a tail.
pub const PIECE_MAX: usize = 4096;

/// See [`SCRATCH`].
#[repr(C, align(8))]
pub struct Scratch {
    /// Length of the record so far. Here, not in a register: what is read from a map is any number
    /// to the verifier, so that it need not follow every length that a path may have.
    pub pos: u64,
    pub bytes: [u8; SCRATCH_MASK + 1 + PIECE_MAX],
}

// Denial. Userspace fills these from the policy, and refuses a policy that does not fit.

/// Agent → what is in force for it. No entry: nothing is denied.
#[map]
pub static ENFORCED: HashMap<u32, Enforcement> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);

/// Agent, scope and prefix → the rules upon addresses.
#[map]
pub static DENIED_PEERS: LpmTrie<PeerKey, PeerRules> = LpmTrie::with_max_entries(16384, 0);

/// Agent and device → what is denied of it.
#[map]
pub static DENIED_DEVICES: HashMap<DeviceKey, DeviceRule> =
    HashMap::with_max_entries(8192, BPF_F_NO_PREALLOC);

/// Agent and beginning of a name → the rule that denies writing it.
#[map]
pub static DENIED_SYSCTLS: LpmTrie<SysctlKey, u32> = LpmTrie::with_max_entries(8192, 0);

/// Whether any agent has rules about packets: 0 for none.
#[map]
pub static PACKET_RULES: Array<u32> = Array::with_max_entries(1, 0);

/// Agent and rule → how often that was told lately. The least recently used goes when it is full:
/// then a denial may be told once more.
#[map]
pub static REPEATS: LruHashMap<RepeatKey, Repeat> = LruHashMap::with_max_entries(4096, 0);

/// Agent and inode → what is denied of it and below it.
#[map]
pub static DENIED_INODES: HashMap<DeniedKey, DeniedInode> =
    HashMap::with_max_entries(65536, BPF_F_NO_PREALLOC);

/// Agent, folder and name → what is denied of what has that name there, and below it.
#[map]
pub static DENIED_NAMES: HashMap<DeniedName, DeniedInode> =
    HashMap::with_max_entries(65536, BPF_F_NO_PREALLOC);

/// Process id → a process that is no agent's, whoever moves it where: agentwatch, pid 1 and what agentwatch
/// was started by. Filled by userspace; full, the farthest ancestors are left out.
#[map]
pub static PROTECTED: HashMap<u32, Protected> = HashMap::with_max_entries(64, BPF_F_NO_PREALLOC);

/// Agents whose process dies on the spot when it takes one of those hostage. Filled by userspace for the
/// agents that it watches, which it refuses to overfill.
#[map]
pub static DEFENDED: HashMap<u32, u8> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);
