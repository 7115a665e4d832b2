//! What is only counted costs no memory: opens for reading that the policy does not call sensitive are
//! the most frequent thing that an agent does.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use agentwatch::{
    enrich::World,
    event::{Event, ProcessKey, Stopped},
    finding::Finding,
    pipeline::{Pipeline, Sink},
    policy::Policy,
    respond::cgroup::AgentCgroup,
    source,
};
use agentwatch_common::{
    file::{FileOp, LEAF_MAX, Touched, op, state},
    kind,
};
use bytes::{Bytes, BytesMut};

/// The system's allocator, with a count of what this thread asked for.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to the system's allocator; a thread's counter, which needs no memory
// and no destructor, is all that is added.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Counts events.
#[derive(Default)]
struct Events(u64);

impl Sink for Events {
    fn event(&mut self, _: &Event, _: &World) {
        self.0 += 1;
    }

    fn finding(&mut self, finding: &Finding) {
        panic!("a finding: {finding:?}");
    }

    fn cgroup(&self) -> Option<&AgentCgroup> {
        None
    }

    fn free_hostages(&mut self) {}

    fn resume(&mut self, _: &Event, _: Stopped, _: u64) {}

    fn survivors(&self, _: u32) -> Vec<ProcessKey> {
        Vec::new()
    }
}

/// An open, as the kernel sends it: the path leaf first.
fn open(path: &[u8], state: u32) -> Bytes {
    const NOTHING: Touched = Touched {
        ino: 0,
        dev: 0,
        nlink: 0,
        mode: 0,
        leaf_len: 0,
        leaf: [0; LEAF_MAX],
    };
    let payload = FileOp {
        target: NOTHING,
        second: NOTHING,
        size: 0,
        result: 3,
        open_flags: 0,
        mode: 0,
        state,
        extra: 0,
        repeats: 0,
        op: op::OPEN,
        path_len: u16::try_from(path.len()).expect("a short path"),
        base_len: 0,
        name_len: 0,
        base2_len: 0,
        name2_len: 0,
        place: 0,
    };
    let header = source::header(kind::FILE, 1, 42, 7, 1_000);
    source::record(&mut BytesMut::new(), header, &payload, &[path])
}

/// Allocations and events of taking a record a hundred times, after it was taken once.
fn cost(record: &Bytes) -> (u64, u64) {
    let mut pipeline = Pipeline::new(Policy::default());
    pipeline.step(record, &mut Events::default());
    let mut events = Events::default();
    let before = ALLOCATIONS.get();
    for _ in 0..100 {
        pipeline.step(record, &mut events);
    }
    assert_eq!(pipeline.undecodable, 0);
    (ALLOCATIONS.get() - before, events.0)
}

#[test]
fn what_is_only_counted_allocates_nothing() {
    // The leaf is that of a sensitive path, the whole is not; a name that has to be escaped.
    for path in [
        &b"credentials/project/ada/home"[..],
        b"main.rs/src/a\n\xff\\b/tmp",
    ] {
        assert_eq!(cost(&open(path, state::SENSITIVE)), (0, 0));
    }
}

#[test]
fn what_is_an_event_is_one() {
    for (path, state) in [
        (&b"credentials/.aws/ada/home"[..], state::SENSITIVE),
        (b"notes/ada/home", state::WRITE),
        (b"null/dev", state::DEVICE),
    ] {
        let (allocations, events) = cost(&open(path, state));
        assert_eq!(events, 100, "{path:?}");
        assert!(allocations > 0, "its texts are kept: {path:?}");
    }
}
