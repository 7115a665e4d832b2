//! What aya does not do: a program of a few instructions for each of many kernel functions. By bpf(2)
//! itself (`include/uapi/linux/bpf.h`).

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

/// Commands of bpf(2).
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_int = 17;
/// `BPF_PROG_TYPE_TRACING`.
const TRACING: u32 = 26;

/// Where a program is attached at a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum End {
    /// `BPF_TRACE_FENTRY`
    Entry = 24,
    /// `BPF_TRACE_FEXIT`
    Exit = 25,
}

/// `struct bpf_insn`.
#[repr(C)]
struct Instruction {
    code: u8,
    /// The destination in the low half, the source in the high one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, registers: u8, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers,
        offset: 0,
        immediate,
    }
}

/// `union bpf_attr` of `BPF_PROG_LOAD`, up to what is used here: the kernel takes the rest for zero.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
    attach_prog_fd: u32,
    pad: u32,
}

/// `union bpf_attr` of `BPF_RAW_TRACEPOINT_OPEN`.
#[repr(C)]
#[derive(Default)]
struct Open {
    name: u64,
    prog_fd: u32,
    pad: u32,
}

/// Loads a program for one end of a kernel function, by its id in the kernel's BTF, that goes on with a
/// program of an array: the verifier has taken that one already.
///
/// # Errors
///
/// When the kernel does not take it.
pub fn load_stub(end: End, function: u32, array: BorrowedFd<'_>, slot: u32) -> io::Result<OwnedFd> {
    // The context stays in r1. `BPF_PSEUDO_MAP_FD` is 1; helper 12 is `bpf_tail_call(ctx, array, slot)`,
    // which does not come back unless the slot is empty.
    let program = [
        instruction(0x18, 0x12, array.as_raw_fd()), // r2 = array (two instructions)
        instruction(0, 0, 0),
        instruction(0xb7, 0x03, slot.cast_signed()), // r3 = slot
        instruction(0x85, 0, 12),                    // call
        instruction(0xb7, 0x00, 0),                  // r0 = 0
        instruction(0x95, 0, 0),                     // exit
    ];
    let mut prog_name = [0; 16];
    prog_name[..15].copy_from_slice(b"agentwatch_stub");
    let load = Load {
        prog_type: TRACING,
        insn_cnt: 6,
        insns: program.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        prog_name,
        expected_attach_type: end as u32,
        attach_btf_id: function,
        ..Load::default()
    };
    // SAFETY: the structure that this command takes; what it points to lives until the call is over.
    let error = match unsafe { bpf(BPF_PROG_LOAD, &load) } {
        Ok(program) => return Ok(program),
        Err(error) => error,
    };
    // Once more, to hear why.
    let mut log = [0_u8; 1024];
    let load = Load {
        log_level: 1,
        log_size: log.len() as u32,
        log_buf: log.as_mut_ptr() as u64,
        ..load
    };
    // SAFETY: as above.
    let _ = unsafe { bpf(BPF_PROG_LOAD, &load) };
    let said = log.split(|byte| *byte == 0).next().unwrap_or_default();
    let said = String::from_utf8_lossy(said);
    Err(match said.lines().next() {
        Some(line) => io::Error::new(error.kind(), format!("{error}: {line}")),
        None => error,
    })
}

/// Attaches such a program; it is detached when the descriptor that comes back is closed.
///
/// # Errors
///
/// When the kernel does not let it.
pub fn attach(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let open = Open {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        ..Open::default()
    };
    // SAFETY: the structure that this command takes; without a name the program says where it belongs.
    unsafe { bpf(BPF_RAW_TRACEPOINT_OPEN, &open) }
}

/// bpf(2), of which a descriptor comes back.
///
/// # Safety
///
/// `attributes` is the structure of this command, and all that it points to is valid.
unsafe fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that the kernel gave just now, to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}
