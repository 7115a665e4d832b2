//! Paths by the kernel's own dentries, as `d_path` makes them (`fs/d_path.c`), but leaf first and
//! beyond a chroot: from the file to the root of the mount namespace.

use agentwatch_common::{
    file::{InodeKey, LEAF_MAX, NameKey, Touched},
    header::flag,
};

use super::{member, offset, read, read_bytes};
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
            let mut key: NameKey = [0; LEAF_MAX];
            if name_key(dentry, &mut key) == 0 {
                return false;
            }
            if SENSITIVE_NAMES.get_ptr(&key).is_some() {
                return true;
            }
            dentry = read(dentry, offset!(dentry_parent)).unwrap_or(0);
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
        for _ in 0..DEPTH {
            let (Some(parent), Some(mount_root)) = (
                read::<u64>(dentry, offset!(dentry_parent)),
                read::<u64>(mount, offset!(vfsmount_root)),
            ) else {
                to.flag(flag::FAULT);
                done = true;
                break;
            };
            if dentry == mount_root || dentry == parent {
                // The root of a mount: go on at the place where it is mounted.
                let own = mount - u64::from(offset!(mount_mnt));
                let above: u64 = read(own, offset!(mount_parent)).unwrap_or(own);
                if above == own || dentry != mount_root {
                    // The root of all, or a file system that this mount does not show.
                    walk.whole = dentry == mount_root;
                    if to.position() == start {
                        // A pipe, a socket, a memfd have a name and no place.
                        append(to, dentry);
                    }
                    done = true;
                    break;
                }
                dentry = read(own, offset!(mount_mountpoint)).unwrap_or(0);
                mount = above + u64::from(offset!(mount_mnt));
                continue;
            }
            if !append(to, dentry) {
                break;
            }
            dentry = parent;
        }
        if !done {
            to.flag(cut);
        }
        walk.len = (to.position() - start) as u16;
        walk
    }
}

/// Appends the name of one dentry and a `/`. False when there is no room.
#[inline(always)]
fn append<T>(to: &Builder<T>, dentry: u64) -> bool {
    let Some((len, bytes)) = name(dentry) else {
        to.flag(flag::FAULT);
        return true;
    };
    let Some(at) = to.room() else {
        return false;
    };
    let len = mask::<COMPONENT_MAX>(len as usize);
    if len == 0 || !read_bytes(at, len, bytes) {
        to.flag(flag::FAULT);
        return true;
    }
    // SAFETY: `room` gives PIECE_MAX bytes, of which at most 255 are used so far.
    unsafe { at.add(len).write(b'/') };
    to.advance(len + 1);
    true
}

/// Length and address of the name of a dentry.
#[inline(always)]
pub fn name(dentry: u64) -> Option<(u32, u64)> {
    let name = member(dentry, offset!(dentry_name))?;
    Some((
        read(name, offset!(qstr_len))?,
        read(name, offset!(qstr_name))?,
    ))
}

/// Copies the beginning of the name of a dentry; its whole length is returned, 0 for none.
#[inline(always)]
pub fn name_key(dentry: u64, key: &mut NameKey) -> u32 {
    let Some((len, bytes)) = name(dentry) else {
        return 0;
    };
    let kept = if len as usize > LEAF_MAX {
        LEAF_MAX
    } else {
        len as usize
    };
    let kept = mask::<{ 2 * LEAF_MAX - 1 }>(kept);
    let kept = if kept > LEAF_MAX { LEAF_MAX } else { kept };
    if read_bytes(key.as_mut_ptr(), kept, bytes) {
        len
    } else {
        0
    }
}

/// Device and number of an inode.
#[inline(always)]
pub fn inode_key(inode: u64) -> Option<InodeKey> {
    let sb: u64 = read(inode, offset!(inode_sb))?;
    Some(InodeKey {
        ino: read(inode, offset!(inode_ino))?,
        dev: read(sb, offset!(sb_dev))?,
        pad: 0,
    })
}

/// Fills in what is sent of an inode, but its name. False where it cannot be read.
#[inline(always)]
pub fn touch(to: &mut Touched, inode: u64) -> bool {
    let Some(key) = inode_key(inode) else {
        return false;
    };
    to.ino = key.ino;
    to.dev = key.dev;
    to.nlink = read(inode, offset!(inode_nlink)).unwrap_or(0);
    to.mode = u32::from(read::<u16>(inode, offset!(inode_mode)).unwrap_or(0));
    true
}

/// No inode.
pub const UNTOUCHED: Touched = Touched::NONE;
