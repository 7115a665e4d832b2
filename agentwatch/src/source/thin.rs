//! Opens that the kernel counts instead of telling them one by one: the records of those that it told,
//! kept to tell of the others by their number.

use std::{
    collections::{HashMap, HashSet},
    mem::offset_of,
};

use agentwatch_common::{
    Header,
    file::{FileOp, THIN_WINDOW_NS, ThinKey, Thinned, Touched, op, state},
    header::flag,
    kind,
};
use bytes::{Bytes, BytesMut};

/// Most records that are kept: twice as many as the kernel counts for, since it may have no room for some
/// of them.
const KEPT: usize = 8192;
/// Most bytes that are kept of a path.
const PATH: usize = 512;
/// How often is looked, and how long an open is remembered after its window, nanoseconds.
const EVERY_NS: u64 = THIN_WINDOW_NS;

/// What stands for a path that is not known.
const UNKNOWN: &[u8] = b"?";

const FILE: usize = size_of::<Header>();
const TARGET: usize = FILE + offset_of!(FileOp, target);
const REPEATS: usize = FILE + offset_of!(FileOp, repeats);
const PATH_LEN: usize = FILE + offset_of!(FileOp, path_len);
const TAIL: usize = FILE + size_of::<FileOp>();

/// The opens that were told a short while ago.
#[derive(Default)]
pub struct Told {
    opens: HashMap<ThinKey, Open>,
    looked_ns: u64,
}

struct Open {
    record: Box<[u8]>,
    /// How many of those that the kernel counted have been told.
    told: u64,
}

impl Told {
    /// Keeps a record of a file, if the kernel counts what repeats it.
    pub fn keep(&mut self, record: &[u8]) {
        let bits = number32(record, FILE + offset_of!(FileOp, state)).unwrap_or(0);
        if bits & state::THINNED == 0 {
            return;
        }
        let Some(key) = key(record) else {
            return;
        };
        if let Some(open) = self.opens.get_mut(&key) {
            open.record = short(record);
        } else if self.opens.len() < KEPT {
            let record = short(record);
            self.opens.insert(key, Open { record, told: 0 });
        }
    }

    /// Whether it is time to look again at what the kernel counted.
    pub fn is_due(&mut self, now_ns: u64) -> bool {
        let due = now_ns.saturating_sub(self.looked_ns) >= EVERY_NS;
        if due {
            self.looked_ns = now_ns;
        }
        due
    }

    /// Tells what the kernel has counted since; what it need not count on is given back, to be removed.
    pub fn sweep(
        &mut self,
        counted: impl Iterator<Item = (ThinKey, Thinned)>,
        now_ns: u64,
        batch: &mut Vec<Bytes>,
    ) -> Vec<ThinKey> {
        let (mut live, mut over) = (HashSet::new(), Vec::new());
        for (key, Thinned { at_ns, swallowed }) in counted {
            let old = now_ns.saturating_sub(at_ns) > 2 * THIN_WINDOW_NS;
            let Some(open) = self.opens.get_mut(&key) else {
                // Its record is in the ring still; or was not kept, and then there is no path.
                if old {
                    if swallowed > 0 {
                        batch.push(repeats(&nameless(&key), swallowed, now_ns));
                    }
                    over.push(key);
                }
                continue;
            };
            let new = swallowed.saturating_sub(open.told);
            if new > 0 {
                batch.push(repeats(&open.record, new, now_ns));
                open.told = swallowed;
            }
            // Past two windows the kernel adds nothing to it: it would begin another one.
            if old {
                over.push(key);
            } else {
                live.insert(key);
            }
        }
        // Of the others the kernel counts nothing: it had no room, or began anew while it was removed.
        self.opens.retain(|key, open| {
            let at_ns = number64(&open.record, offset_of!(Header, time_ns)).unwrap_or(0);
            live.contains(key) || now_ns.saturating_sub(at_ns) < 2 * THIN_WINDOW_NS
        });
        over
    }
}

/// The same open, so many times, at another time.
fn repeats(record: &[u8], number: u64, now_ns: u64) -> Bytes {
    let mut record = record.to_vec();
    put(
        &mut record,
        offset_of!(Header, time_ns),
        &now_ns.to_ne_bytes(),
    );
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    put(&mut record, REPEATS, &number.to_ne_bytes());
    set_flags(&mut record, flag::USER);
    Bytes::from(record)
}

/// A record of an open of which only the file's number is known.
fn nameless(key: &ThinKey) -> Bytes {
    let header = Header {
        flags: flag::USER | flag::PATH_CUT,
        ..super::header(kind::FILE, key.agent, key.tgid, key.start_ns, 0)
    };
    let mut file = FileOp::NONE;
    file.op = op::OPEN;
    file.target.ino = key.ino;
    file.target.dev = key.dev;
    file.open_flags = key.flags;
    file.state = state::WRITE;
    file.path_len = UNKNOWN.len() as u16;
    super::record(&mut BytesMut::new(), header, &file, &[UNKNOWN])
}

/// A record without the end of a long path, which is the root's.
fn short(record: &[u8]) -> Box<[u8]> {
    let len = number32(record, 0).map_or(record.len(), |len| len as usize);
    let record = &record[..len.min(record.len())];
    if record.len() <= TAIL + PATH {
        return record.into();
    }
    let mut record = record[..TAIL + PATH].to_vec();
    let len = record.len() as u32;
    put(&mut record, 0, &len.to_ne_bytes());
    put(&mut record, PATH_LEN, &(PATH as u16).to_ne_bytes());
    set_flags(&mut record, flag::PATH_CUT);
    record.into()
}

fn key(record: &[u8]) -> Option<ThinKey> {
    Some(ThinKey {
        ino: number64(record, TARGET + offset_of!(Touched, ino))?,
        start_ns: number64(record, offset_of!(Header, start_ns))?,
        dev: number32(record, TARGET + offset_of!(Touched, dev))?,
        tgid: number32(record, offset_of!(Header, tgid))?,
        agent: number32(record, offset_of!(Header, agent))?,
        flags: number32(record, FILE + offset_of!(FileOp, open_flags))?,
        place: number32(record, FILE + offset_of!(FileOp, place))?,
        pad: 0,
    })
}

fn set_flags(record: &mut [u8], bits: u16) {
    let at = offset_of!(Header, flags);
    if let Some(flags) = record.get_mut(at..at + 2) {
        let [low, high] = bits.to_ne_bytes();
        flags[0] |= low;
        flags[1] |= high;
    }
}

fn put(record: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(to) = record.get_mut(at..at + bytes.len()) {
        to.copy_from_slice(bytes);
    }
}

fn number32(record: &[u8], at: usize) -> Option<u32> {
    let bytes = record.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn number64(record: &[u8], at: usize) -> Option<u64> {
    let bytes = record.get(at..at + 8)?;
    Some(u64::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: ThinKey = ThinKey {
        ino: 5,
        start_ns: 6,
        dev: 7,
        tgid: 8,
        agent: 9,
        flags: 1,
        place: 0,
        pad: 0,
    };

    /// The record of [`OPEN`], with a path of so many bytes.
    fn record(at_ns: u64, path: usize) -> Vec<u8> {
        let mut record = vec![0; TAIL];
        record.extend(vec![b'p'; path]);
        let len = record.len() as u32;
        put(&mut record, 0, &len.to_ne_bytes());
        put(&mut record, PATH_LEN, &(path as u16).to_ne_bytes());
        let bits = FILE + offset_of!(FileOp, state);
        put(&mut record, bits, &state::THINNED.to_ne_bytes());
        put(
            &mut record,
            offset_of!(Header, time_ns),
            &at_ns.to_ne_bytes(),
        );
        put(
            &mut record,
            TARGET + offset_of!(Touched, ino),
            &OPEN.ino.to_ne_bytes(),
        );
        let start = offset_of!(Header, start_ns);
        put(&mut record, start, &OPEN.start_ns.to_ne_bytes());
        put(
            &mut record,
            TARGET + offset_of!(Touched, dev),
            &OPEN.dev.to_ne_bytes(),
        );
        put(
            &mut record,
            offset_of!(Header, tgid),
            &OPEN.tgid.to_ne_bytes(),
        );
        put(
            &mut record,
            offset_of!(Header, agent),
            &OPEN.agent.to_ne_bytes(),
        );
        let flags = FILE + offset_of!(FileOp, open_flags);
        put(&mut record, flags, &OPEN.flags.to_ne_bytes());
        record
    }

    /// What a sweep tells, and whether the kernel is to forget the open.
    fn swept(told: &mut Told, at_ns: u64, swallowed: u64, now_ns: u64) -> (Vec<u32>, bool) {
        let mut batch = Vec::new();
        let counted = [(OPEN, Thinned { at_ns, swallowed })].into_iter();
        let over = told.sweep(counted, now_ns, &mut batch);
        let numbers = batch
            .iter()
            .map(|record| number32(record, REPEATS).unwrap())
            .collect();
        (numbers, over == [OPEN])
    }

    #[test]
    fn what_is_counted_is_told_once() {
        let mut told = Told::default();
        let second = THIN_WINDOW_NS;
        // Its own record has not come yet: nothing is told, nothing is forgotten.
        assert_eq!(swept(&mut told, 10, 4, second), (vec![], false));
        told.keep(&record(10, 20));
        assert_eq!(swept(&mut told, 10, 4, second), (vec![4], false));
        assert_eq!(swept(&mut told, 10, 4, second), (vec![], false));
        // One whose record never comes is told without its path.
        let mut other = Told::default();
        assert_eq!(swept(&mut other, 10, 4, 4 * second), (vec![4], true));
        // It was opened again after the window, and repeated again.
        told.keep(&record(second + 10, 20));
        assert_eq!(
            swept(&mut told, second + 10, 9, 2 * second),
            (vec![5], false)
        );
        // The last ones are told before it is forgotten.
        assert_eq!(
            swept(&mut told, second + 10, 11, 4 * second),
            (vec![2], true)
        );
        assert!(told.opens.is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut told = Told::default();
        told.keep(&record(10, 4000));
        let kept = &told.opens[&OPEN].record;
        assert_eq!(kept.len(), TAIL + PATH);
        assert_eq!(number32(kept, 0), Some((TAIL + PATH) as u32));
        // The kernel never counts for it: it goes.
        told.sweep(std::iter::empty(), 3 * THIN_WINDOW_NS, &mut Vec::new());
        assert!(told.opens.is_empty());
        // What is not thinned is not kept at all.
        let mut other = record(10, 1);
        put(&mut other, FILE + offset_of!(FileOp, state), &[0; 4]);
        told.keep(&other);
        assert!(told.opens.is_empty());
    }
}
