//! Whether a file, or a folder above it, is denied: by device and inode number, so that no other name
//! leads around; and by folder and name, for what comes later.

use agentwatch_common::{
    deny::{DENIED_PATH, DeniedInode, DeniedKey, DeniedName, section},
    file::LEAF_MAX,
};

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;

use crate::{
    emit::mask,
    kernel::{offset, path::Path, read_bytes},
    maps::{DENIED_INODES, DENIED_NAMES},
};

/// Most folders above a file, and mounts crossed. What lies deeper is refused to an agent that has rules
/// upon files: nobody could say that it is allowed.
const DEPTH: usize = 40;
/// Most components of the path in a record.
const SHOWN: usize = 16;
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

/// A word of a structure, 0 where it cannot be read.
///
/// <verifier: too complex> Without a look at whether it could: in a loop each branch multiplies what the
/// verifier has to follow.
#[inline(always)]
fn word(base: u64, offset: u32) -> u64 {
    let mut value = 0_u64;
    // The helper fills the memory with zeros where it fails.
    let _ = read_bytes(
        (&raw mut value).cast(),
        size_of::<u64>(),
        base + u64::from(offset),
    );
    value
}

/// The same of 32 bits.
#[inline(always)]
fn half(base: u64, offset: u32) -> u32 {
    let mut value = 0_u32;
    let _ = read_bytes(
        (&raw mut value).cast(),
        size_of::<u32>(),
        base + u64::from(offset),
    );
    value
}

/// Copies the name of a dentry, with its NUL; how many bytes that were, at most `most`.
///
/// # Safety
///
/// `to` has `most` bytes.
#[inline(always)]
unsafe fn name(to: *mut u8, most: u32, dentry: u64) -> i64 {
    let from = word(dentry, offset!(dentry_name) + offset!(qstr_name));
    // SAFETY: the caller's promise; the helper checks the kernel's address.
    unsafe { bpf_probe_read_kernel_str(to.cast(), most, from as *const _) }
}

/// Goes one folder up, or from the root of a mount to the place where it is mounted. False at the end.
#[inline(always)]
fn up(place: &mut Path, child: &mut u64) -> bool {
    let Path { dentry, mount } = *place;
    let parent = word(dentry, offset!(dentry_parent));
    if dentry != word(mount, offset!(vfsmount_root)) {
        *child = dentry;
        place.dentry = parent;
        // The root of a file system that this mount does not show.
        return parent != dentry;
    }
    let own = mount - u64::from(offset!(mount_mnt));
    let above = word(own, offset!(mount_parent));
    *child = 0;
    place.dentry = word(own, offset!(mount_mountpoint));
    place.mount = above + u64::from(offset!(mount_mnt));
    above != own && above != 0
}

/// The rule that denies a file.
#[inline(always)]
pub fn rule(agent: u32, mut place: Path, which: Which) -> Option<u32> {
    let mut child = 0_u64;
    for _ in 0..DEPTH {
        let inode = word(place.dentry, offset!(dentry_inode));
        let folder = DeniedKey {
            ino: word(inode, offset!(inode_ino)),
            dev: half(word(inode, offset!(inode_sb)), offset!(sb_dev)),
            agent,
        };
        let mut found = by_inode(&folder, which);
        if found == 0 && child != 0 {
            found = by_name(folder, child, which);
        }
        if found != 0 {
            return Some(found);
        }
        if !up(&mut place, &mut child) {
            return None;
        }
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
    // SAFETY: the size of the name.
    let len = unsafe { name(key.name.as_mut_ptr(), LEAF_MAX as u32, child) };
    // One that fills the room may be cut.
    if len <= 0 || len as usize >= LEAF_MAX {
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
    let inode = word(dentry, offset!(dentry_inode));
    (
        half(word(inode, offset!(inode_sb)), offset!(sb_dev)),
        word(inode, offset!(inode_ino)),
    )
}

/// Writes a path, its last component first. What is too long is cut at the root's end.
///
/// `to` has [`DENIED_PATH`] bytes and one component more.
#[inline(always)]
pub fn write(to: *mut u8, mut place: Path) -> u16 {
    let mut pos = 0_usize;
    for _ in 0..SHOWN {
        let mut child = 0;
        let more = up(&mut place, &mut child);
        if child != 0 && more {
            if pos >= DENIED_PATH {
                break;
            }
            // <verifier: invalid access to memory> As in `emit.rs`: the bound on the register that is
            // used.
            let at = mask::<{ DENIED_PATH - 1 }>(pos);
            // SAFETY: at < DENIED_PATH, and 256 bytes follow.
            let len = unsafe { name(to.add(at), COMPONENT_MAX as u32 + 1, child) };
            if len <= 1 {
                break;
            }
            let len = mask::<COMPONENT_MAX>(len as usize - 1);
            // SAFETY: as above. In the place of the NUL.
            unsafe { to.add(at + len).write(b'/') };
            pos = at + len + 1;
        }
        if !more {
            break;
        }
    }
    pos as u16
}
