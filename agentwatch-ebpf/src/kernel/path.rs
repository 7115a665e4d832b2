//! Paths by the kernel's own dentries, as `d_path` makes them (`fs/d_path.c`), but leaf first and
//! beyond a chroot: from the file to the root of the mount namespace.

use agentwatch_common::{
    file::{InodeKey, LEAF_MAX, NameKey, Touched},
    header::flag,
};

use super::{Head, member, offset, read, read_bytes};
use crate::{
    emit::{Builder, mask},
    maps::SENSITIVE_NAMES,
};

/// Most components (and mounts crossed) of a path. What is deeper is cut and said to be.
const DEPTH: usize = 56;
/// How many components, from the leaf, are compared with the sensitive names.
const SENSITIVE_DEPTH: usize = 3;
/// The longest component (`NAME_MAX` of the kernel).
const COMPONENT_MAX: usize = 255;

/// A `struct path`: a dentry, and the mount that it was reached through.
#[derive(Clone, Copy)]
pub struct Path {
    pub dentry: u64,
    pub mount: u64,
}

/// What was found on the way from a leaf to the root.
#[derive(Clone, Copy)]
pub struct Walk {
    /// Bytes written.
    pub len: u16,
    /// The root was reached by the mount that was given.
    pub whole: bool,
}

impl Path {
    /// Reads the `struct path` at an address.
    #[inline(always)]
    pub fn at(path: u64) -> Option<Self> {
        Some(Self {
            mount: read(path, offset!(path_mnt))?,
            dentry: read(path, offset!(path_dentry))?,
        })
    }

    /// The path of a `struct file`.
    #[inline(always)]
    pub fn of_file(file: u64) -> Option<Self> {
        Self::at(member(file, offset!(file_path))?)
    }

    /// The same, of one that has been read.
    #[inline(always)]
    pub fn of_head<const N: usize>(file: &Head<N>) -> Option<Self> {
        let at = offset!(file_path);
        Some(Self {
            mount: file.get(at + offset!(path_mnt))?,
            dentry: file.get(at + offset!(path_dentry))?,
        })
    }

    /// The super block of the mount.
    #[inline(always)]
    pub fn super_block(&self) -> Option<u64> {
        read(self.mount, offset!(vfsmount_sb))
    }

    /// Whether one of the last components is in the set of sensitive names.
    #[inline(always)]
    pub fn has_sensitive_name(&self) -> bool {
        let mut dentry = self.dentry;
        for _ in 0..SENSITIVE_DEPTH {
            let Some(entry) = Entry::of(dentry) else {
                return false;
            };
            let mut key: NameKey = [0; LEAF_MAX];
            if entry.key(&mut key) == 0 {
                return false;
            }
            if SENSITIVE_NAMES.get_ptr(&key).is_some() {
                return true;
            }
            dentry = entry.parent;
        }
        false
    }

    /// Appends the path, leaf first. `cut` is the flag to set where it was cut.
    #[inline(always)]
    pub fn write<T>(&self, to: &Builder<T>, cut: u16) -> Walk {
        let start = to.position();
        let Self {
            mut dentry,
            mut mount,
        } = *self;
        let mut walk = Walk {
            len: 0,
            whole: false,
        };
        let mut done = false;
        let mut mount_root: u64 = read(mount, offset!(vfsmount_root)).unwrap_or(0);
        for _ in 0..DEPTH {
            let Some(entry) = Entry::of(dentry).filter(|_| mount_root != 0) else {
                to.flag(flag::FAULT);
                done = true;
                break;
            };
            if dentry == mount_root || dentry == entry.parent {
                // The root of a mount: go on at the place where it is mounted.
                let own = mount - u64::from(offset!(mount_mnt));
                let above: u64 = read(own, offset!(mount_parent)).unwrap_or(own);
                if above == own || dentry != mount_root {
                    // The root of all, or a file system that this mount does not show.
                    walk.whole = dentry == mount_root;
                    if to.position() == start {
                        // A pipe, a socket, a memfd have a name and no place.
                        entry.append(to);
                    }
                    done = true;
                    break;
                }
                dentry = read(own, offset!(mount_mountpoint)).unwrap_or(0);
                mount = above + u64::from(offset!(mount_mnt));
                mount_root = read(mount, offset!(vfsmount_root)).unwrap_or(0);
                continue;
            }
            if !entry.append(to) {
                break;
            }
            dentry = entry.parent;
        }
        if !done {
            to.flag(cut);
        }
        walk.len = (to.position() - start) as u16;
        walk
    }
}

/// What is read of a dentry on the way.
#[derive(Clone, Copy)]
struct Entry {
    parent: u64,
    /// Length and address of its name.
    len: u32,
    bytes: u64,
}

impl Entry {
    #[inline(always)]
    fn of(dentry: u64) -> Option<Self> {
        // Nearly everywhere the name comes right after the parent, its length in the upper half of a word:
        // so one read does. The verifier knows the offsets, and removes the way that is not taken.
        if offset!(dentry_name) == offset!(dentry_parent) + 8
            && offset!(qstr_len) == 4
            && offset!(qstr_name) == 8
        {
            let [parent, hash_len, bytes]: [u64; 3] = read(dentry, offset!(dentry_parent))?;
            return Some(Self {
                parent,
                len: (hash_len >> 32) as u32,
                bytes,
            });
        }
        let name = member(dentry, offset!(dentry_name))?;
        Some(Self {
            parent: read(dentry, offset!(dentry_parent))?,
            len: read(name, offset!(qstr_len))?,
            bytes: read(name, offset!(qstr_name))?,
        })
    }

    /// Appends the name and a `/`. False when there is no room.
    #[inline(always)]
    fn append<T>(&self, to: &Builder<T>) -> bool {
        let Some(at) = to.room() else {
            return false;
        };
        let len = mask::<COMPONENT_MAX>(self.len as usize);
        if len == 0 || !read_bytes(at, len, self.bytes) {
            to.flag(flag::FAULT);
            return true;
        }
        // SAFETY: `room` gives PIECE_MAX bytes, of which at most 255 are used so far.
        unsafe { at.add(len).write(b'/') };
        to.advance(len + 1);
        true
    }

    /// Copies the beginning of the name; its whole length is returned, 0 for none.
    #[inline(always)]
    fn key(&self, key: &mut NameKey) -> u32 {
        let kept = if self.len as usize > LEAF_MAX {
            LEAF_MAX
        } else {
            self.len as usize
        };
        let kept = mask::<{ 2 * LEAF_MAX - 1 }>(kept);
        let kept = if kept > LEAF_MAX { LEAF_MAX } else { kept };
        if read_bytes(key.as_mut_ptr(), kept, self.bytes) {
            self.len
        } else {
            0
        }
    }
}

/// Copies the beginning of the name of a dentry; its whole length is returned, 0 for none.
#[inline(always)]
pub fn name_key(dentry: u64, key: &mut NameKey) -> u32 {
    Entry::of(dentry).map_or(0, |entry| entry.key(key))
}

/// What is read of a `struct inode`. All that is asked for lies in its first [`INODE_WORDS`], mostly.
pub struct Inode<const N: usize>(Head<N>);

/// See [`Inode`].
pub const INODE_WORDS: usize = 11;

impl<const N: usize> Inode<N> {
    #[inline(always)]
    pub fn new() -> Self {
        Self(Head::new())
    }

    /// Reads the one at this address. False where it cannot be read.
    #[inline(always)]
    pub fn fill(&mut self, inode: u64) -> bool {
        self.0.fill(inode)
    }

    /// Kind and permissions.
    #[inline(always)]
    pub fn mode(&self) -> u32 {
        u32::from(self.0.get::<u16>(offset!(inode_mode)).unwrap_or(0))
    }

    /// Bytes.
    #[inline(always)]
    pub fn size(&self) -> u64 {
        self.0.get(offset!(inode_size)).unwrap_or(0)
    }

    /// The device that it stands for, in the kernel's encoding.
    #[inline(always)]
    pub fn device(&self) -> u32 {
        self.0.get(offset!(inode_rdev)).unwrap_or(0)
    }

    /// Device and number.
    #[inline(always)]
    pub fn key(&self) -> Option<InodeKey> {
        Some(InodeKey {
            ino: self.0.get(offset!(inode_ino))?,
            dev: read(self.0.get(offset!(inode_sb))?, offset!(sb_dev))?,
            pad: 0,
        })
    }

    /// Fills in what is sent of it, but its name. False where it cannot be read.
    #[inline(always)]
    pub fn touch(&self, to: &mut Touched) -> bool {
        let Some(key) = self.key() else {
            return false;
        };
        to.ino = key.ino;
        to.dev = key.dev;
        to.nlink = self.0.get(offset!(inode_nlink)).unwrap_or(0);
        to.mode = self.mode();
        true
    }
}

/// Device and number of an inode.
#[inline(always)]
pub fn inode_key(inode: u64) -> Option<InodeKey> {
    let mut read = Inode::<INODE_WORDS>::new();
    if read.fill(inode) { read.key() } else { None }
}

/// Fills in what is sent of an inode, but its name. False where it cannot be read.
#[inline(always)]
pub fn touch(to: &mut Touched, inode: u64) -> bool {
    let mut read = Inode::<INODE_WORDS>::new();
    read.fill(inode) && read.touch(to)
}

/// No inode.
pub const UNTOUCHED: Touched = Touched::NONE;
