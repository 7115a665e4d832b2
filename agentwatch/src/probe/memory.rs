//! What the kernel's maps take, and how large they are made.
//!
//! Rings and most maps of what is in use all the time are there in full from the start; the others grow
//! with what is in them, up to their bound. What counts is the most that they can take, since an agent can
//! have that in a second.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    EbpfLoader,
    maps::{Map, MapData, MapType},
};

use super::Probe;

/// What the maps that an agent can fill may take at most where nothing else is asked for, MiB: on a
/// machine with few processors, since what each of them has of its own comes on top.
pub const DEFAULT_MIB: u32 = 32;
/// The least and the most that can be asked for, MiB.
pub const MIB: std::ops::RangeInclusive<i64> = 8..=1024;

/// The maps whose sizes follow from what may be taken, and their entries at [`DEFAULT_MIB`]: bytes of a
/// ring. All of them are powers of two, and stay so.
const SCALED: &[(&str, u32)] = &[
    ("EVENTS_BULK", 4 << 20),
    ("EVENTS_PRIO", 1 << 20),
    ("TASKS", 32768),
    ("CGROUPS", 16384),
    ("FLOWS", 16384),
    ("OWNERS", 8192),
    ("TRIGGERS", 4096),
    ("OWN", 32768),
    ("MAPPED", 4096),
    ("PENDING", 8192),
    ("CALLS", 8192),
    ("URING", 4096),
    ("RECEIVING", 4096),
];

/// The maps that only a policy fills: with as much as it denies or calls sensitive.
const OF_POLICIES: &[&str] = &[
    "BUDGETS",
    "DENIED_DEVICES",
    "DENIED_INODES",
    "DENIED_NAMES",
    "DENIED_PEERS",
    "DENIED_SYSCTLS",
    "ENFORCED",
    "SENSITIVE_INODES",
    "SENSITIVE_NAMES",
];

/// `BPF_F_NO_PREALLOC` of include/uapi/linux/bpf.h.
const NO_PREALLOC: u32 = 1;
/// `sizeof(struct htab_elem)` and of `struct bucket` (`kernel/bpf/hashtab.c`).
const ELEMENT: u64 = 48;
const BUCKET: u64 = 16;
/// `sizeof(struct lpm_trie_node)` (`kernel/bpf/lpm_trie.c`).
const NODE: u64 = 40;
/// What the kernel's allocator puts before each piece, and the sizes that it has
/// (`kernel/bpf/memalloc.c`).
const LINK: u64 = 8;
const PIECES: [u64; 11] = [16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096];

/// What a map takes.
#[derive(Debug, Clone)]
pub struct MapMemory {
    /// Its name.
    pub name: String,
    /// Bytes that it takes now.
    pub now: u64,
    /// Bytes that it takes when it is full.
    pub full: u64,
    /// How many entries it holds; of a ring, bytes.
    pub entries: u32,
    /// Only a policy fills it.
    pub of_policies: bool,
}

/// Makes the maps so large that what an agent can fill stays below so many MiB.
pub(super) fn scale(loader: &mut EbpfLoader<'_>, mib: u32) {
    for (name, entries) in SCALED {
        loader.map_max_entries(name, scaled(*entries, mib));
    }
}

/// So many entries for the nearest power of two of the default below `mib`.
fn scaled(entries: u32, mib: u32) -> u32 {
    let (mut have, mut entries) = (DEFAULT_MIB, entries);
    while have > mib {
        (have, entries) = (have / 2, entries / 2);
    }
    while have <= mib / 2 {
        (have, entries) = (have * 2, entries * 2);
    }
    entries
}

impl Probe {
    /// What each map takes, the largest first. Only of those that nobody has taken: before
    /// [`Probe::take_rings`], of all.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell of a map.
    pub fn memory(&self) -> Result<Vec<MapMemory>> {
        let mut maps: Vec<MapMemory> = self
            .ebpf
            .maps()
            .map(|(name, map)| {
                of_map(name, data(map)?).with_context(|| format!("cannot ask about the map {name}"))
            })
            .collect::<Result<_>>()?;
        maps.sort_by_key(|map| std::cmp::Reverse(map.full));
        Ok(maps)
    }
}

fn data(map: &Map) -> Result<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data)
        | Map::ProgramArray(data)
        | Map::RingBuf(data) => Ok(data),
        _ => Err(anyhow!("a map of a sort that is not known here")),
    }
}

fn of_map(name: &str, data: &MapData) -> Result<MapMemory> {
    let info = data.info()?;
    let at = format!("/proc/self/fdinfo/{}", data.fd().as_fd().as_raw_fd());
    let text = fs::read_to_string(&at).with_context(|| format!("cannot read {at}"))?;
    let now = text
        .lines()
        .find_map(|line| line.strip_prefix("memlock:"))
        .and_then(|bytes| bytes.trim().parse().ok())
        .with_context(|| format!("{at} has no line memlock"))?;
    let grows = info.map_flags() & NO_PREALLOC != 0;
    let entries = u64::from(info.max_entries());
    let (key, value) = (u64::from(info.key_size()), u64::from(info.value_size()));
    let full = match info.map_type()? {
        MapType::RingBuf => entries,
        MapType::Hash if grows => {
            let element = ELEMENT + key.next_multiple_of(8) + value.next_multiple_of(8);
            entries.next_power_of_two() * BUCKET + entries * piece(element)
        }
        // A node has no prefix length of its own, and in the worst case there is one more between two.
        MapType::LpmTrie => entries * (piece(NODE + key - 4 + value) + piece(NODE + key - 4)),
        _ => 0,
    };
    Ok(MapMemory {
        name: name.to_owned(),
        now,
        full: full.max(now),
        entries: info.max_entries(),
        of_policies: OF_POLICIES.contains(&name),
    })
}

/// What the kernel takes for a piece of so many bytes.
fn piece(bytes: u64) -> u64 {
    let bytes = bytes + LINK;
    PIECES
        .into_iter()
        .find(|piece| *piece >= bytes)
        .unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_what_may_be_taken() {
        assert_eq!(scaled(8192, 32), 8192);
        assert_eq!(scaled(8192, 63), 8192);
        assert_eq!(scaled(8192, 64), 16384);
        assert_eq!(scaled(8192, 1024), 32 * 8192);
        assert_eq!(scaled(8192, 31), 4096);
        assert_eq!(scaled(8192, 8), 2048);
        // A ring is a power of two of pages.
        for mib in [8, 20, 100, 1024] {
            for (name, entries) in SCALED {
                assert!(scaled(*entries, mib).is_power_of_two(), "{name}");
            }
            assert!(scaled(1 << 20, mib) >= 4096);
        }
    }

    #[test]
    fn a_piece_is_of_a_size_that_the_kernel_has() {
        assert_eq!(piece(72), 96);
        assert_eq!(piece(88), 96);
        assert_eq!(piece(89), 128);
        assert_eq!(piece(5000), 5008);
    }
}
