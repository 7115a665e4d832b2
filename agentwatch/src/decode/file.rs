//! Records of files: what path is meant.

use agentwatch_common::{
    file::{self, Touched, op, state},
    header::flag,
};

use super::{
    DecodeError,
    bytes::{Reader, Wire, reversed_path, reversed_path_into},
};
use crate::{
    event::{Device, File, FileOp, Inode, PathSource},
    text::{escape, escape_into},
};

// SAFETY: a `repr(C)` structure of integers and byte arrays, asserted to have no padding.
unsafe impl Wire for file::FileOp {}

pub fn file(reader: &mut Reader<'_>, flags: u16) -> Result<File, DecodeError> {
    let file::FileOp {
        target,
        second,
        size,
        result,
        open_flags,
        mode,
        state: bits,
        extra,
        repeats,
        op,
        path_len,
        base_len,
        name_len,
        base2_len,
        name2_len,
        place: _,
    } = reader.take()?;
    let resolved = reader.bytes(path_len)?;
    let base = reader.bytes(base_len)?;
    let name = reader.bytes(name_len)?;
    let base2 = reader.bytes(base2_len)?;
    let name2 = reader.bytes(name2_len)?;
    let op = operation(op)?;
    let base_cut = flags & flag::BASE_CUT != 0;

    // In a folder that the kernel found, only the last component of the caller's string counts.
    let name = if bits & state::BASE_RESOLVED == 0 {
        name
    } else {
        last(name)
    };
    let name2 = if bits & state::BASE2_RESOLVED == 0 {
        name2
    } else {
        last(name2)
    };
    let by_caller = || join(base, name, base_cut);
    // The second name is always the caller's: nothing tells of a name that is to be.
    let plain2 = bits & state::PLAIN2 != 0;
    let path2 = (!name2.is_empty()).then(|| {
        if plain2 {
            escape(name2)
        } else {
            join(base2, name2, base_cut)
        }
    });
    // The kernel changes up to two inodes: which is which, their names tell.
    let (own, other) = assign(&target, &second, name, name2, op);
    let by_inode = bits & state::PATH_OF_INODE != 0;
    // These follow a link in the last component, so its name may be any.
    let follows = matches!(
        op,
        FileOp::Chmod | FileOp::Chown | FileOp::Xattr | FileOp::Truncate
    );
    let by_kernel = !resolved.is_empty()
        && (!by_inode || follows || (own.ino == target.ino && is_leaf(&target, name)));
    let (path, path_source) = if op == FileOp::Symlink {
        (escape(name), PathSource::Caller)
    } else if by_kernel {
        (
            reversed_path(resolved, flags & flag::PATH_CUT != 0),
            PathSource::Kernel,
        )
    } else if bits & state::BASE_RESOLVED != 0 {
        (by_caller(), PathSource::Kernel)
    } else {
        (by_caller(), PathSource::Caller)
    };
    let (attribute, path2) = if op == FileOp::Xattr {
        (path2, None)
    } else {
        (None, path2)
    };
    let mut file = File {
        attribute,
        device: device(op, extra, bits),
        owner: (op == FileOp::Chown).then(|| (owner(mode), owner(extra))),
        op,
        result,
        path,
        path_source,
        path2,
        inode: inode(own),
        replaced: inode(other),
        nlink: own.nlink,
        file_mode: own.mode,
        mode,
        flags: open_flags,
        size,
        count: repeats.max(1),
        created: bits & state::CREATED != 0,
        write: bits & state::WRITE != 0,
        uring: bits & state::URING != 0,
    };
    if file.exchanges() {
        file.replaced = None;
    }
    Ok(file)
}

/// See [`super::plain_read`].
pub fn plain_read(reader: &mut Reader<'_>, flags: u16, path: &mut String) -> bool {
    let Ok(file::FileOp {
        result,
        state: bits,
        op,
        path_len,
        ..
    }) = reader.take()
    else {
        return false;
    };
    // A path that is not the descriptor's own is for the whole decoder.
    let other = state::WRITE | state::DEVICE | state::PATH_OF_INODE;
    if op != op::OPEN || result < 0 || bits & other != 0 || path_len == 0 {
        return false;
    }
    let Ok(resolved) = reader.bytes(path_len) else {
        return false;
    };
    reversed_path_into(path, resolved, flags & flag::PATH_CUT != 0);
    true
}

fn operation(value: u16) -> Result<FileOp, DecodeError> {
    Ok(match value {
        op::OPEN => FileOp::Open,
        op::UNLINK => FileOp::Unlink,
        op::RMDIR => FileOp::Rmdir,
        op::RENAME => FileOp::Rename,
        op::CHMOD => FileOp::Chmod,
        op::TRUNCATE => FileOp::Truncate,
        op::MKDIR => FileOp::Mkdir,
        op::LINK => FileOp::Link,
        op::SYMLINK => FileOp::Symlink,
        op::CHOWN => FileOp::Chown,
        op::XATTR => FileOp::Xattr,
        op::MKNOD => FileOp::Mknod,
        op::MOUNT => FileOp::Mount,
        op::UMOUNT => FileOp::Umount,
        op::PIVOT_ROOT => FileOp::PivotRoot,
        op::CHROOT => FileOp::Chroot,
        op::MMAP_EXEC => FileOp::MmapExec,
        other => {
            return Err(DecodeError::Value {
                what: "a file operation",
                value: u64::from(other),
            });
        }
    })
}

/// The device that was opened, in the kernel's encoding (`include/linux/kdev_t.h`), or made, in that of
/// the call (`new_decode_dev` there).
fn device(op: FileOp, extra: u32, bits: u32) -> Option<Device> {
    if op == FileOp::Open && bits & state::DEVICE != 0 {
        return Some(Device {
            major: extra >> 20,
            minor: extra & 0xf_ffff,
        });
    }
    (op == FileOp::Mknod && extra != 0).then_some(Device {
        major: extra >> 8 & 0xfff,
        minor: extra & 0xff | extra >> 12 & 0xf_ff00,
    })
}

/// A user or group of chown(2): -1 for one that stays.
fn owner(id: u32) -> Option<u32> {
    (id != u32::MAX).then_some(id)
}

/// Which of the changed inodes the call was about, and which a rename replaced.
fn assign<'a>(
    first: &'a Touched,
    second: &'a Touched,
    name: &[u8],
    name2: &[u8],
    op: FileOp,
) -> (&'a Touched, &'a Touched) {
    if op != FileOp::Rename {
        return (first, second);
    }
    let old = |touched: &Touched| is_leaf(touched, name);
    let new = |touched: &Touched| is_leaf(touched, name2);
    // tmpfs tells of the replaced file first, ext4 of the renamed one.
    if second.ino != 0 && new(first) && old(second) && !(old(first) && new(second)) {
        (second, first)
    } else {
        (first, second)
    }
}

/// The last component of a string.
fn last(name: &[u8]) -> &[u8] {
    name.rsplit(|b| *b == b'/')
        .find(|component| !component.is_empty())
        .unwrap_or(&[])
}

/// Whether an inode's name is the last component of a string.
fn is_leaf(touched: &Touched, name: &[u8]) -> bool {
    let len = usize::try_from(touched.leaf_len).unwrap_or(usize::MAX);
    let kept = len.min(touched.leaf.len());
    let leaf = last(name);
    len > 0 && leaf.len() == len && leaf[..kept.min(leaf.len())] == touched.leaf[..kept]
}

fn inode(touched: &Touched) -> Option<Inode> {
    (touched.ino != 0).then_some(Inode {
        dev: touched.dev,
        ino: touched.ino,
    })
}

/// The path that a name means below a base (leaf first), without `.` and `..`. Symbolic links are
/// not followed: nothing here may look at a file system.
fn join(base: &[u8], name: &[u8], cut: bool) -> String {
    // A path of this length has no more parts, mostly: so it is allocated once.
    let mut parts: Vec<&[u8]> = Vec::with_capacity(16);
    parts.extend(base.rsplit(|b| *b == b'/').filter(|c| !c.is_empty()));
    for component in name.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    if parts.is_empty() {
        return "/".to_owned();
    }
    let mut out = String::with_capacity(base.len() + name.len() + 4);
    if cut {
        out.push('…');
    }
    for part in parts {
        out.push('/');
        escape_into(&mut out, part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_joined_without_dots() {
        assert_eq!(join(b"b/a/", b"c", false), "/a/b/c");
        assert_eq!(join(b"b/a/", b"c", true), "…/a/b/c");
        assert_eq!(join(b"b/a/", b"../c/./d//e", false), "/a/c/d/e");
        assert_eq!(join(b"", b"/../../x", false), "/x");
        assert_eq!(join(b"", b"/", false), "/");
        assert_eq!(
            join(b"jail/srv/", b"/etc/passwd", false),
            "/srv/jail/etc/passwd"
        );
    }
}
