//! The calls that are no file's and no flow's, and where their arguments are. A new call is a row here.

use agentwatch_common::call::{CallRow, op};

/// One call: the name of its tracepoints, its number, its arguments.
pub struct Row {
    /// `sys_enter_NAME`, `sys_exit_NAME`.
    pub name: &'static str,
    /// The number on this architecture.
    pub number: libc::c_long,
    /// What the kernel program is told.
    pub call: CallRow,
}

const fn row(name: &'static str, number: libc::c_long, call: CallRow) -> Row {
    Row { name, number, call }
}

/// A call that is told whenever it is made, at once.
const fn call(op: u16) -> CallRow {
    CallRow {
        op,
        urgent: 1,
        ..CallRow::UNWATCHED
    }
}

/// Bits of [`CallRow::told`].
const fn bits(values: &[u32]) -> u64 {
    let mut bits = 0;
    let mut at = 0;
    while at < values.len() {
        bits |= 1 << values[at];
        at += 1;
    }
    bits
}

/// ptrace(2) requests that take hold of a process, or change its memory or registers. What a debugger
/// does besides (reading, continuing) follows from these.
const PTRACE_TOLD: u64 = bits(&[
    libc::PTRACE_TRACEME,
    libc::PTRACE_POKETEXT,
    libc::PTRACE_POKEDATA,
    libc::PTRACE_POKEUSER,
    libc::PTRACE_SETREGS,
    libc::PTRACE_ATTACH,
]);

/// prctl(2) options that change what a process is or may do.
const PRCTL_TOLD: u64 = bits(&[
    libc::PR_SET_NAME.cast_unsigned(),
    libc::PR_SET_DUMPABLE.cast_unsigned(),
    libc::PR_SET_KEEPCAPS.cast_unsigned(),
    libc::PR_SET_SECCOMP.cast_unsigned(),
    libc::PR_CAPBSET_DROP.cast_unsigned(),
    libc::PR_SET_SECUREBITS.cast_unsigned(),
    libc::PR_SET_MM.cast_unsigned(),
    libc::PR_SET_CHILD_SUBREAPER.cast_unsigned(),
    libc::PR_SET_NO_NEW_PRIVS.cast_unsigned(),
    libc::PR_CAP_AMBIENT.cast_unsigned(),
]);

const SETUID: CallRow = call(op::SETUID);
const SETGID: CallRow = call(op::SETGID);

const ROWS: &[Row] = &[
    row(
        "socket",
        libc::SYS_socket,
        CallRow {
            urgent: 0,
            ..call(op::SOCKET)
        },
    ),
    row(
        "bind",
        libc::SYS_bind,
        CallRow {
            address: 1,
            address_len: 2,
            ..call(op::BIND)
        },
    ),
    row(
        "connect",
        libc::SYS_connect,
        CallRow {
            address: 1,
            address_len: 2,
            ..call(op::CONNECT)
        },
    ),
    row(
        "ptrace",
        libc::SYS_ptrace,
        CallRow {
            filter: 0,
            told: PTRACE_TOLD,
            also: libc::PTRACE_SEIZE,
            ..call(op::PTRACE)
        },
    ),
    row(
        "process_vm_readv",
        libc::SYS_process_vm_readv,
        call(op::PROCESS_VM_READ),
    ),
    row(
        "process_vm_writev",
        libc::SYS_process_vm_writev,
        call(op::PROCESS_VM_WRITE),
    ),
    row("pidfd_getfd", libc::SYS_pidfd_getfd, call(op::PIDFD_GETFD)),
    row("unshare", libc::SYS_unshare, call(op::UNSHARE)),
    row("setns", libc::SYS_setns, call(op::SETNS)),
    row(
        "memfd_create",
        libc::SYS_memfd_create,
        CallRow {
            text: 0,
            ..call(op::MEMFD_CREATE)
        },
    ),
    row(
        "prctl",
        libc::SYS_prctl,
        CallRow {
            filter: 0,
            told: PRCTL_TOLD,
            also: libc::PR_SET_PTRACER.cast_unsigned(),
            text: 1,
            text_if: libc::PR_SET_NAME as u8,
            urgent: 0,
            ..call(op::PRCTL)
        },
    ),
    row("bpf", libc::SYS_bpf, call(op::BPF)),
    row("init_module", libc::SYS_init_module, call(op::MODULE_LOAD)),
    row(
        "finit_module",
        libc::SYS_finit_module,
        call(op::MODULE_LOAD),
    ),
    row(
        "delete_module",
        libc::SYS_delete_module,
        CallRow {
            text: 0,
            ..call(op::MODULE_UNLOAD)
        },
    ),
    row(
        "io_uring_setup",
        libc::SYS_io_uring_setup,
        call(op::IO_URING_SETUP),
    ),
    row("setuid", libc::SYS_setuid, SETUID),
    row("setreuid", libc::SYS_setreuid, SETUID),
    row("setresuid", libc::SYS_setresuid, SETUID),
    row("setfsuid", libc::SYS_setfsuid, SETUID),
    row("setgid", libc::SYS_setgid, SETGID),
    row("setregid", libc::SYS_setregid, SETGID),
    row("setresgid", libc::SYS_setresgid, SETGID),
    row("setfsgid", libc::SYS_setfsgid, SETGID),
    row("setgroups", libc::SYS_setgroups, SETGID),
    row("capset", libc::SYS_capset, call(op::CAPSET)),
    row(
        "perf_event_open",
        libc::SYS_perf_event_open,
        call(op::PERF_EVENT_OPEN),
    ),
    row("userfaultfd", libc::SYS_userfaultfd, call(op::USERFAULTFD)),
    row("kexec_load", libc::SYS_kexec_load, call(op::KEXEC)),
    row(
        "kexec_file_load",
        libc::SYS_kexec_file_load,
        call(op::KEXEC),
    ),
    row(
        "fsopen",
        libc::SYS_fsopen,
        CallRow {
            text: 0,
            ..call(op::FSOPEN)
        },
    ),
];

/// All calls that are watched.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    ROWS.iter()
}
