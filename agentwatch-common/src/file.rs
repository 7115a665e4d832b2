//! What was done to files.
//!
//! A *path* on the wire is what the kernel's own dentries say, leaf first: the components joined by
//! `/`, without a leading one, so `/etc/ssh/sshd_config` is `sshd_config/ssh/etc`. So a cut loses the
//! root's end, not the name. A *name* is the string that the caller passed.

/// Most bytes of a name that are sent (`PATH_MAX` of the kernel).
pub const NAME_MAX: usize = 4096;
/// Bytes of an inode's own name that are kept to tell two inodes of one call apart.
pub const LEAF_MAX: usize = 32;

/// Values of [`FileOp::op`] and [`Syscall::op`].
pub mod op {
    /// open, openat, openat2, creat
    pub const OPEN: u16 = 1;
    /// unlink, unlinkat
    pub const UNLINK: u16 = 2;
    /// rmdir, unlinkat with `AT_REMOVEDIR`
    pub const RMDIR: u16 = 3;
    /// rename, renameat, renameat2
    pub const RENAME: u16 = 4;
    /// chmod, fchmod, fchmodat, fchmodat2
    pub const CHMOD: u16 = 5;
    /// truncate, ftruncate
    pub const TRUNCATE: u16 = 6;
    /// mkdir, mkdirat
    pub const MKDIR: u16 = 7;
    /// link, linkat
    pub const LINK: u16 = 8;
    /// symlink, symlinkat
    pub const SYMLINK: u16 = 9;
    /// chown, lchown, fchown, fchownat
    pub const CHOWN: u16 = 10;
    /// setxattr, lsetxattr, fsetxattr, removexattr, lremovexattr, fremovexattr
    pub const XATTR: u16 = 11;
    /// mknod, mknodat
    pub const MKNOD: u16 = 12;
    /// mount, `move_mount`
    pub const MOUNT: u16 = 13;
    /// umount2
    pub const UMOUNT: u16 = 14;
    /// `pivot_root`
    pub const PIVOT_ROOT: u16 = 15;
    /// chroot
    pub const CHROOT: u16 = 16;
    /// mmap of a file with `PROT_EXEC`: `open_flags` and `mode` are its flags and protection.
    pub const MMAP_EXEC: u16 = 17;
}

/// An inode that the kernel changed while the call ran.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Touched {
    /// Inode number, 0 for none.
    pub ino: u64,
    /// Device, in the kernel's encoding.
    pub dev: u32,
    /// Hard links, before the last of this call's changes may have been made.
    pub nlink: u32,
    /// Mode (`st_mode`).
    pub mode: u32,
    /// Bytes of its name, 0 for none.
    pub leaf_len: u32,
    /// The beginning of its name.
    pub leaf: [u8; LEAF_MAX],
}

const _: () = assert!(size_of::<Touched>() == 56);

impl Touched {
    /// None.
    pub const NONE: Self = Self {
        ino: 0,
        dev: 0,
        nlink: 0,
        mode: 0,
        leaf_len: 0,
        leaf: [0; LEAF_MAX],
    };
}

/// A call upon a file returned. The tail, in this order: path, base, name, base2, name2.
///
/// For an open that succeeded only `path` is there, from the descriptor it gave. Else `base` (a
/// path) is the directory that the call was relative to and `name` what the caller passed; `base2`
/// and `name2` are the second ones of a rename or link. `path` is there as well where the kernel
/// told which dentry it changed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FileOp {
    /// The inode opened, or the first that the call changed.
    pub target: Touched,
    /// The second inode that the call changed: a rename's victim, say.
    pub second: Touched,
    /// Size of the file after the call, bytes; 0 where it is not known.
    pub size: u64,
    /// What the call returned: 0 or a descriptor, or a negative errno.
    pub result: i32,
    /// open: the flags of the call. unlinkat, renameat2, linkat: theirs.
    pub open_flags: u32,
    /// open, chmod, mkdir, mknod: the mode that was asked for. chown: the user.
    pub mode: u32,
    /// Bits of [`state`].
    pub state: u32,
    /// mknod, and open of a device: the device, in the kernel's encoding (mknod: the user's). chown:
    /// the group.
    pub extra: u32,
    /// 0: the record tells of one call. Else it stands for so many that were not told one by one: see
    /// [`Thinned`].
    pub repeats: u32,
    /// One of [`op`].
    pub op: u16,
    /// Bytes of the path in the tail.
    pub path_len: u16,
    /// Bytes of the base in the tail.
    pub base_len: u16,
    /// Bytes of the name in the tail.
    pub name_len: u16,
    /// Bytes of the second base in the tail.
    pub base2_len: u16,
    /// Bytes of the second name in the tail.
    pub name2_len: u16,
    /// An open: [`ThinKey::place`].
    pub place: u32,
}

const _: () = assert!(size_of::<FileOp>() == 160);

impl FileOp {
    /// Nothing is known of it.
    pub const NONE: Self = Self {
        target: Touched::NONE,
        second: Touched::NONE,
        size: 0,
        result: 0,
        open_flags: 0,
        mode: 0,
        state: 0,
        extra: 0,
        repeats: 0,
        op: 0,
        path_len: 0,
        base_len: 0,
        name_len: 0,
        base2_len: 0,
        name2_len: 0,
        place: 0,
    };
}

/// A file that a process has mapped as code, as key of a set.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MappedKey {
    /// Inode number.
    pub ino: u64,
    /// Start of the process, `CLOCK_BOOTTIME` nanoseconds.
    pub start_ns: u64,
    /// Device, in the kernel's encoding.
    pub dev: u32,
    /// The process.
    pub tgid: u32,
}

const _: () = assert!(size_of::<MappedKey>() == 24);

/// A request of io_uring that a record told of has ended.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UringDone {
    /// Which: see [`state::IN_FLIGHT`].
    pub request: u64,
    /// The result: a negative errno where it failed.
    pub result: i64,
}

const _: () = assert!(size_of::<UringDone>() == 16);

/// Bits of [`FileOp::state`].
pub mod state {
    /// The open made the file (`FMODE_CREATED`).
    pub const CREATED: u32 = 1 << 0;
    /// Opened for writing.
    pub const WRITE: u32 = 1 << 1;
    /// `name` is absolute, so `base` is the root directory of the caller.
    pub const ABSOLUTE: u32 = 1 << 2;
    /// `name2` is absolute.
    pub const ABSOLUTE2: u32 = 1 << 3;
    /// Sent because the path may be one that the policy calls sensitive.
    pub const SENSITIVE: u32 = 1 << 4;
    /// `path` is that of the first inode changed, by its own dentry.
    pub const PATH_OF_INODE: u32 = 1 << 5;
    /// The opened file is a device; `extra` says which.
    pub const DEVICE: u32 = 1 << 6;
    /// `name2` is no path: an attribute's name, the source of a mount.
    pub const PLAIN2: u32 = 1 << 7;
    /// Through io_uring.
    pub const URING: u32 = 1 << 8;
    /// It has not returned: `size` is the request, and a record [`super::UringDone`] tells of the end.
    /// The source joins the two.
    pub const IN_FLIGHT: u32 = 1 << 9;
    /// `base` is the folder that the kernel found; of `name` only the last component counts.
    pub const BASE_RESOLVED: u32 = 1 << 10;
    /// The same of `base2` and `name2`.
    pub const BASE2_RESOLVED: u32 = 1 << 11;
    /// What repeats this open within a window is counted in [`super::Thinned`], and told by a record of
    /// the source's.
    pub const THINNED: u32 = 1 << 12;
}

/// How long opens that repeat one are only counted after that one was sent, nanoseconds.
pub const THIN_WINDOW_NS: u64 = 1_000_000_000;

/// Which opens are one to who looks at them: of one process, of one file by one path, in one way.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ThinKey {
    /// Inode number.
    pub ino: u64,
    /// Start of the process, `CLOCK_BOOTTIME` nanoseconds.
    pub start_ns: u64,
    /// Device, in the kernel's encoding.
    pub dev: u32,
    /// The process.
    pub tgid: u32,
    /// The agent.
    pub agent: u32,
    /// The flags of the call.
    pub flags: u32,
    /// Some bits of where the file was found, its name in its folder and the mount: they tell hard links
    /// and bind mounts apart.
    pub place: u32,
    /// Zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<ThinKey>() == 40);

/// Opens that were not told one by one. The kernel only adds to `swallowed`, and userspace only reads it
/// and tells what is new: so none is told twice or never, whoever adds meanwhile.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Thinned {
    /// When the last one was sent, `CLOCK_BOOTTIME` nanoseconds.
    pub at_ns: u64,
    /// How many were not, in all.
    pub swallowed: u64,
}

const _: () = assert!(size_of::<Thinned>() == 16);

/// How to read the arguments of a system call: one row of the table that userspace fills, so that a
/// call is added without a new program. Indices of arguments, [`Syscall::NONE`] for none.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Syscall {
    /// One of [`op`], 0 for a call that is not watched.
    pub op: u16,
    /// The directory descriptor that the name is relative to.
    pub dir: u8,
    /// The name.
    pub name: u8,
    /// The second directory descriptor.
    pub dir2: u8,
    /// The second name.
    pub name2: u8,
    /// The flags.
    pub flags: u8,
    /// The mode.
    pub mode: u8,
    /// A descriptor of the file itself.
    pub fd: u8,
    /// `flags` points to a `struct open_how` (openat2).
    pub how: u8,
    /// What goes into [`FileOp::extra`].
    pub extra: u8,
    /// The second name is no path.
    pub plain2: u8,
    /// Bits that the flags have without being passed (creat).
    pub fixed_flags: u32,
}

const _: () = assert!(size_of::<Syscall>() == 16);

impl Syscall {
    /// "There is no such argument."
    pub const NONE: u8 = 0xff;
    /// A call that is not watched.
    pub const UNWATCHED: Self = Self {
        op: 0,
        dir: Self::NONE,
        name: Self::NONE,
        dir2: Self::NONE,
        name2: Self::NONE,
        flags: Self::NONE,
        mode: Self::NONE,
        fd: Self::NONE,
        how: 0,
        extra: Self::NONE,
        plain2: 0,
        fixed_flags: 0,
    };
}

/// Size of the table of system calls: more than any number in use (467 in Linux 6.18).
pub const SYSCALLS: u32 = 512;

/// Key of the set of names that make a read worth sending: the beginning of a component.
pub type NameKey = [u8; LEAF_MAX];

/// An inode, as key of a set.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct InodeKey {
    /// Inode number.
    pub ino: u64,
    /// Device, in the kernel's encoding.
    pub dev: u32,
    /// Zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<InodeKey>() == 16);

crate::pod!(Syscall, InodeKey, MappedKey, ThinKey, Thinned);
