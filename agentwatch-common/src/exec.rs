//! A process replaced its program.

use crate::call::Credentials;

/// Most bytes of the argument vector that are sent.
pub const ARGV_MAX: usize = 4096;
/// Most bytes of the environment that are sent.
pub const ENV_MAX: usize = 4096;

/// What descriptor 0, 1 or 2 of a program is when it is started.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Stream {
    /// Inode number: both ends of a pipe have the same, the two sockets of a pair have not.
    pub ino: u64,
    /// Of a socket, its cookie; 0 where the kernel has not given it one yet.
    pub cookie: u64,
    /// Of a device node, the device, in the kernel's encoding (`major << 20 | minor`).
    pub rdev: u32,
    /// File type and mode (`st_mode`); 0 for a descriptor that is closed.
    pub mode: u16,
    /// Of a socket, its address family.
    pub family: u16,
}

impl Stream {
    /// A closed one.
    pub const CLOSED: Self = Self {
        ino: 0,
        cookie: 0,
        rdev: 0,
        mode: 0,
        family: 0,
    };
}

const _: () = assert!(size_of::<Stream>() == 24);

/// `execve` succeeded. The tail holds, in this order and without separators: the standard streams (three
/// of [`Stream`], where they could be read), the path of the binary and the working directory (both leaf first, see [`crate::file`]), the file name as the
/// caller gave it, the interpreter (the file that the kernel loads in the end: for a script, what
/// its first line names), the argument vector and the environment (each string of them ends with NUL).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Exec {
    /// What the process may do from now on.
    pub credentials: Credentials,
    /// Inode number of the binary.
    pub ino: u64,
    /// Bytes of the argument vector in the process, before any cut.
    pub argv_total: u64,
    /// Device of the binary, in the kernel's encoding (`major << 20 | minor`).
    pub dev: u32,
    /// Hard links of the binary: 0 means that it has no name any more (deleted, memfd).
    pub nlink: u32,
    /// Number of arguments.
    pub argc: u32,
    /// Mode of the binary (`st_mode`).
    pub mode: u32,
    /// Bytes of the binary's path in the tail.
    pub path_len: u16,
    /// Bytes of the working directory in the tail.
    pub cwd_len: u16,
    /// Bytes of the file name in the tail.
    pub filename_len: u16,
    /// Bytes of the interpreter's name in the tail.
    pub interp_len: u16,
    /// Bytes of the argument vector in the tail.
    pub argv_len: u16,
    /// Bytes of the environment in the tail.
    pub env_len: u16,
    /// Bytes of the standard streams in the tail.
    pub streams_len: u16,
    /// Zero.
    pub pad: u16,
}

const _: () = assert!(size_of::<Exec>() == 72);
