//! Whether a file, or a folder above it, is denied: by device and inode number, so that no other name
//! leads around; and by folder and name, for what comes later.

use agentwatch_common::{
    deny::{DENIED_PATH, DeniedInode, DeniedKey, DeniedName, section},
    file::LEAF_MAX,
};

use crate::{
    emit::mask,
    kernel::{
        offset,
        path::{self, Path},
        read, read_bytes,
    },
    maps::{DENIED_INODES, DENIED_NAMES},
};

/// Most folders above a file, and mounts crossed. What lies deeper is refused to an agent that has rules
/// upon files: nobody could say that it is allowed.
const DEPTH: usize = 64;
/// Most components of the path in a record.
const SHOWN: usize = 24;
/// The longest component (`NAME_MAX` of the kernel).
const COMPONENT_MAX: usize = 255;

/// Which rules are asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Read,
    Write,
    ReadWrite,
    Delete,
    Exec,
    /// Writing or removing.
    Change,
    /// Each.
    Any,
}

/// The rule among those of an inode that denies it; 0 for none.
#[inline(always)]
fn pick(found: &DeniedInode, which: Which) -> u32 {
    let DeniedInode {
        read,
        write,
        delete,
        exec,
    } = *found;
    let first = |a: u32, b: u32| if a == 0 { b } else { a };
    match which {
        Which::Read => read,
        Which::Write => write,
        Which::ReadWrite => first(write, read),
        Which::Delete => delete,
        Which::Exec => exec,
        Which::Change => first(write, delete),
        Which::Any => first(first(delete, write), first(read, exec)),
    }
}

/// The rule that denies a file.
#[inline(always)]
pub fn rule(agent: u32, place: Path, which: Which) -> Option<u32> {
    let Path {
        mut dentry,
        mut mount,
    } = place;
    let mut child = 0_u64;
    for _ in 0..DEPTH {
        let inode: u64 = read(dentry, offset!(dentry_inode)).unwrap_or(0);
        if let Some(key) = path::inode_key(inode) {
            let key = DeniedKey {
                ino: key.ino,
                dev: key.dev,
                agent,
            };
            let by_inode = by_inode(&key, which);
            if by_inode != 0 {
                return Some(by_inode);
            }
            if child != 0 {
                let by_name = by_name(key, child, which);
                if by_name != 0 {
                    return Some(by_name);
                }
            }
        }
        let parent: u64 = read(dentry, offset!(dentry_parent)).unwrap_or(dentry);
        let root: u64 = read(mount, offset!(vfsmount_root)).unwrap_or(0);
        if dentry == root || dentry == parent {
            // The root of a mount: go on at the place where it is mounted.
            let own = mount - u64::from(offset!(mount_mnt));
            let above: u64 = read(own, offset!(mount_parent)).unwrap_or(own);
            if mount == 0 || above == own || dentry != root {
                return None;
            }
            dentry = read(own, offset!(mount_mountpoint)).unwrap_or(0);
            mount = above + u64::from(offset!(mount_mnt));
            child = 0;
            continue;
        }
        child = dentry;
        dentry = parent;
    }
    Some(section::rule(section::FILES_TOO_DEEP, 0))
}

#[inline(always)]
fn by_inode(key: &DeniedKey, which: Which) -> u32 {
    // SAFETY: read at once.
    match unsafe { DENIED_INODES.get(key) } {
        Some(found) => pick(found, which),
        None => 0,
    }
}

#[inline(always)]
fn by_name(folder: DeniedKey, child: u64, which: Which) -> u32 {
    let mut key = DeniedName {
        folder,
        name: [0; LEAF_MAX],
    };
    let len = path::name_key(child, &mut key.name);
    if len == 0 || len as usize > LEAF_MAX {
        return 0;
    }
    // SAFETY: read at once.
    match unsafe { DENIED_NAMES.get(&key) } {
        Some(found) => pick(found, which),
        None => 0,
    }
}

/// Device and number of what a dentry stands for; zeros for what is not there yet.
#[inline(always)]
pub fn inode(dentry: u64) -> (u32, u64) {
    let inode: u64 = read(dentry, offset!(dentry_inode)).unwrap_or(0);
    path::inode_key(inode).map_or((0, 0), |key| (key.dev, key.ino))
}

/// Writes a path, its last component first. What is too long is cut at the root's end.
///
/// `to` has [`DENIED_PATH`] bytes and one component more.
#[inline(always)]
pub fn write(to: *mut u8, place: Path) -> u16 {
    let Path {
        mut dentry,
        mut mount,
    } = place;
    let mut pos = 0_usize;
    for _ in 0..SHOWN {
        let parent: u64 = read(dentry, offset!(dentry_parent)).unwrap_or(dentry);
        let root: u64 = read(mount, offset!(vfsmount_root)).unwrap_or(0);
        if dentry == root || dentry == parent {
            let own = mount - u64::from(offset!(mount_mnt));
            let above: u64 = read(own, offset!(mount_parent)).unwrap_or(own);
            if mount == 0 || above == own || dentry != root {
                break;
            }
            dentry = read(own, offset!(mount_mountpoint)).unwrap_or(0);
            mount = above + u64::from(offset!(mount_mnt));
            continue;
        }
        if pos >= DENIED_PATH {
            break;
        }
        let Some((len, bytes)) = path::name(dentry) else {
            break;
        };
        // <verifier: invalid access to memory> As in `emit.rs`: the bound on the register that is used.
        let at = mask::<{ DENIED_PATH - 1 }>(pos);
        let len = mask::<COMPONENT_MAX>(len as usize);
        // SAFETY: at < DENIED_PATH, and 256 bytes follow.
        unsafe {
            if len == 0 || !read_bytes(to.add(at), len, bytes) {
                break;
            }
            to.add(at + len).write(b'/');
        }
        pos = at + len + 1;
        dentry = parent;
    }
    pos as u16
}
