//! Requests of io_uring: one record when it is submitted, with its names, one when it is complete, with
//! its result. Here they become one.

use std::{collections::HashMap, mem::offset_of};

use agentwatch_common::{
    Header,
    file::{FileOp, UringDone, state},
    header::flag,
};
use bytes::Bytes;

/// A request that asks for no completion is never said to be complete: after this it counts as done.
const OVERDUE_NS: u64 = 200_000_000;
/// Most requests that are held: more are passed on as they are, done or not.
const HELD: usize = 16 * 1024;

const STATE: usize = size_of::<Header>() + offset_of!(FileOp, state);
const SIZE: usize = size_of::<Header>() + offset_of!(FileOp, size);
const RESULT: usize = size_of::<Header>() + offset_of!(FileOp, result);
const FLAGS: usize = offset_of!(Header, flags);
const AGENT: usize = offset_of!(Header, agent);
const TIME: usize = offset_of!(Header, time_ns);

/// Records of requests that have not returned, by request.
#[derive(Default)]
pub struct Held(HashMap<u64, (u64, Vec<u8>)>);

impl Held {
    /// Whether a record of a file is one of a request in flight.
    pub fn holds(record: &[u8]) -> bool {
        number32(record, STATE).is_some_and(|bits| bits & state::IN_FLIGHT != 0)
    }

    /// Keeps a record until its request is complete. What it pushes out comes back.
    pub fn hold(&mut self, time_ns: u64, record: &[u8]) -> Option<Bytes> {
        let request = number64(record, SIZE)?;
        if self.0.len() >= HELD && !self.0.contains_key(&request) {
            return Some(whole(record.to_vec(), None));
        }
        // The kernel uses the memory of a request again when it is done: the one before was.
        self.0
            .insert(request, (time_ns, record.to_vec()))
            .map(|(_, before)| whole(before, None))
    }

    /// A request is complete: its record, with time and result of its end.
    pub fn done(&mut self, record: &[u8]) -> Option<Bytes> {
        let at = size_of::<Header>();
        let request = number64(record, at + offset_of!(UringDone, request))?;
        let result = number64(record, at + offset_of!(UringDone, result))?;
        let time_ns = number64(record, TIME)?;
        let (_, held) = self.0.remove(&request)?;
        Some(whole(held, Some((time_ns, result.cast_signed()))))
    }

    /// The records of an agent's requests: what has not returned when it ends will not be heard of.
    pub fn of_agent(&mut self, agent: u32) -> Vec<Bytes> {
        self.0
            .extract_if(|_, (_, record)| number32(record, AGENT) == Some(agent))
            .map(|(_, (_, record))| whole(record, None))
            .collect()
    }

    /// The records of requests that were submitted long before `now_ns`.
    pub fn overdue(&mut self, now_ns: u64) -> Vec<Bytes> {
        if self.0.is_empty() {
            return Vec::new();
        }
        self.0
            .extract_if(|_, (time_ns, _)| now_ns.saturating_sub(*time_ns) > OVERDUE_NS)
            .map(|(_, (_, record))| whole(record, None))
            .collect()
    }
}

/// Makes a record of a request one of a call that returned. Without a result it is marked as not
/// whole, and taken to have worked.
fn whole(mut record: Vec<u8>, end: Option<(u64, i64)>) -> Bytes {
    if let Some((time_ns, result)) = end {
        put(&mut record, TIME, &time_ns.to_ne_bytes());
        let result = i32::try_from(result).unwrap_or(i32::MIN);
        put(&mut record, RESULT, &result.to_ne_bytes());
    } else if let Some(bytes) = record.get_mut(FLAGS..FLAGS + 2) {
        bytes[0] |= flag::FAULT as u8;
    }
    if let Some(bits) = number32(&record, STATE) {
        put(
            &mut record,
            STATE,
            &(bits & !state::IN_FLIGHT).to_ne_bytes(),
        );
    }
    put(&mut record, SIZE, &0u64.to_ne_bytes());
    record.into()
}

fn put(record: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(to) = record.get_mut(at..at + bytes.len()) {
        to.copy_from_slice(bytes);
    }
}

fn number64(record: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(record.get(at..at + 8)?.try_into().ok()?))
}

fn number32(record: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(record.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn submitted(request: u64, time_ns: u64) -> Vec<u8> {
        let mut record = vec![0; size_of::<Header>() + size_of::<FileOp>() + 8];
        put(&mut record, TIME, &time_ns.to_ne_bytes());
        put(&mut record, SIZE, &request.to_ne_bytes());
        put(
            &mut record,
            STATE,
            &(state::URING | state::IN_FLIGHT).to_ne_bytes(),
        );
        record
    }

    fn completed(request: u64, time_ns: u64, result: i64) -> Vec<u8> {
        let mut record = vec![0; size_of::<Header>() + size_of::<UringDone>()];
        put(&mut record, TIME, &time_ns.to_ne_bytes());
        let at = size_of::<Header>();
        put(&mut record, at, &request.to_ne_bytes());
        put(&mut record, at + 8, &result.to_ne_bytes());
        record
    }

    #[test]
    fn a_request_and_its_end_are_one_record() {
        let mut held = Held::default();
        let record = submitted(7, 100);
        assert!(Held::holds(&record));
        assert_eq!(held.hold(100, &record), None);
        assert_eq!(held.done(&completed(8, 150, 0)), None);
        let whole = held.done(&completed(7, 150, -2)).unwrap();
        assert!(!Held::holds(&whole));
        assert_eq!(number64(&whole, TIME), Some(150));
        assert_eq!(number32(&whole, RESULT).map(u32::cast_signed), Some(-2));
        assert_eq!(held.done(&completed(7, 150, -2)), None);
    }

    #[test]
    fn one_that_is_never_complete_is_told_all_the_same() {
        let mut held = Held::default();
        assert_eq!(held.hold(100, &submitted(7, 100)), None);
        assert!(held.overdue(100 + OVERDUE_NS).is_empty());
        let late = held.overdue(101 + OVERDUE_NS);
        assert_eq!(late.len(), 1);
        assert_ne!(late[0][FLAGS] & flag::FAULT as u8, 0);
        assert!(held.overdue(u64::MAX).is_empty());
    }

    #[test]
    fn what_is_too_short_is_no_panic() {
        let mut held = Held::default();
        for len in 0..size_of::<Header>() + size_of::<FileOp>() {
            let record = vec![0xff; len];
            let _ = (
                Held::holds(&record),
                held.hold(0, &record),
                held.done(&record),
            );
        }
    }
}
