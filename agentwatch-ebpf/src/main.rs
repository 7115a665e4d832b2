//! agentwatch's kernel programs: what is attached where. Each program leaves after one map look-up
//! when the task is no agent's; the work is in [`probes`].
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    clippy::inline_always,
    reason = "what is not inlined is a call between BPF functions, which the verifier checks with less \
              knowledge, and before 5.10 not everywhere"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the attribute macros hand the context over by value"
)]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "keys and values go to the kernel by address, and the next aya takes references only"
)]
#![expect(
    clippy::cast_sign_loss,
    reason = "registers and system call arguments are both"
)]
#![expect(
    clippy::similar_names,
    reason = "pid, ppid and tgid are the kernel's words"
)]

mod emit;
mod kernel;
mod maps;
mod probes;
mod tag;

use aya_ebpf::{
    macros::{
        cgroup_device, cgroup_skb, cgroup_sock, cgroup_sock_addr, cgroup_sysctl, fentry, fexit,
        raw_tracepoint, sock_ops, tracepoint,
    },
    programs::{
        DeviceContext, FEntryContext, FExitContext, RawTracePointContext, SkBuffContext,
        SockAddrContext, SockContext, SockOpsContext, SysctlContext, TracePointContext,
    },
};

use probes::syscall::Function;

/// What a cgroup program answers: let it pass.
const PASS: i32 = 1;
/// What a cgroup program answers for a packet: it goes no further.
const DROP: i32 = 0;

// Processes. Raw tracepoints: their arguments are the kernel's own structures, and they are there
// on every kernel since 4.17.

#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn process_exec(ctx: RawTracePointContext) -> i32 {
    probes::exec::exec(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "sched_process_fork")]
fn process_fork(ctx: RawTracePointContext) -> i32 {
    probes::process::fork(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn process_exit(ctx: RawTracePointContext) -> i32 {
    probes::process::exit(&ctx);
    0
}

// Cgroups.

#[raw_tracepoint(tracepoint = "cgroup_mkdir")]
fn cgroup_mkdir(ctx: RawTracePointContext) -> i32 {
    probes::cgroup::mkdir(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "cgroup_rmdir")]
fn cgroup_rmdir(ctx: RawTracePointContext) -> i32 {
    probes::cgroup::rmdir(&ctx);
    0
}

// `release`, not `rmdir`: until then a task that is leaving may still be accounted to the cgroup.
#[raw_tracepoint(tracepoint = "cgroup_release")]
fn cgroup_release(ctx: RawTracePointContext) -> i32 {
    probes::cgroup::release(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "cgroup_attach_task")]
fn cgroup_attach_task(ctx: RawTracePointContext) -> i32 {
    probes::cgroup::attach_task(&ctx);
    0
}

// Files. One pair of programs for all the system calls that name files, and one at the exit of those that
// open one: userspace attaches them to each and tells in a table where its arguments are.

#[tracepoint]
fn file_enter(ctx: TracePointContext) -> u32 {
    probes::file::enter(&ctx);
    0
}

#[tracepoint]
fn open_exit(ctx: TracePointContext) -> u32 {
    probes::open::exit(&ctx);
    0
}

#[tracepoint]
fn file_exit(ctx: TracePointContext) -> u32 {
    probes::file::exit(&ctx);
    0
}

#[tracepoint]
fn mmap_enter(ctx: TracePointContext) -> u32 {
    probes::mapped::enter(&ctx);
    0
}

// Since 6.13 the kernel tells of each change of an inode's ctime. Between entry and exit of a call
// upon a file that is the inode which the call changed, whatever the caller's string said.

#[raw_tracepoint(tracepoint = "inode_set_ctime_to_ts")]
fn inode_ctime_set(ctx: RawTracePointContext) -> i32 {
    probes::inode::changed(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "ctime_ns_xchg")]
fn inode_ctime_xchg(ctx: RawTracePointContext) -> i32 {
    probes::inode::changed(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "ctime_xchg_skip")]
fn inode_ctime_skip(ctx: RawTracePointContext) -> i32 {
    probes::inode::changed(&ctx);
    0
}

// The trampoline tier of the same: what the kernel tells its security modules.

#[fentry(function = "security_path_unlink")]
fn path_unlink(ctx: FEntryContext) -> u32 {
    probes::path::unlink(&ctx);
    0
}

#[fentry(function = "security_path_rename")]
fn path_rename(ctx: FEntryContext) -> u32 {
    probes::path::rename(&ctx);
    0
}

#[fentry(function = "security_path_rmdir")]
fn path_rmdir(ctx: FEntryContext) -> u32 {
    probes::path::rmdir(&ctx);
    0
}

#[fentry(function = "security_path_mkdir")]
fn path_mkdir(ctx: FEntryContext) -> u32 {
    probes::path::make(&ctx);
    0
}

#[fentry(function = "security_path_mknod")]
fn path_mknod(ctx: FEntryContext) -> u32 {
    probes::path::make(&ctx);
    0
}

#[fentry(function = "security_path_symlink")]
fn path_symlink(ctx: FEntryContext) -> u32 {
    probes::path::make(&ctx);
    0
}

#[fentry(function = "security_path_link")]
fn path_link(ctx: FEntryContext) -> u32 {
    probes::path::link(&ctx);
    0
}

#[fentry(function = "security_path_chmod")]
fn path_chmod(ctx: FEntryContext) -> u32 {
    probes::path::change(&ctx);
    0
}

#[fentry(function = "security_path_chown")]
fn path_chown(ctx: FEntryContext) -> u32 {
    probes::path::change(&ctx);
    0
}

#[fentry(function = "security_path_truncate")]
fn path_truncate(ctx: FEntryContext) -> u32 {
    probes::path::change(&ctx);
    0
}

#[fentry(function = "security_inode_setxattr")]
fn path_setxattr(ctx: FEntryContext) -> u32 {
    probes::path::attribute(&ctx);
    0
}

#[fentry(function = "security_inode_removexattr")]
fn path_remxattr(ctx: FEntryContext) -> u32 {
    probes::path::attribute(&ctx);
    0
}

#[fentry(function = "security_inode_set_acl")]
fn path_set_acl(ctx: FEntryContext) -> u32 {
    probes::path::attribute(&ctx);
    0
}

#[fentry(function = "security_inode_remove_acl")]
fn path_rem_acl(ctx: FEntryContext) -> u32 {
    probes::path::attribute(&ctx);
    0
}

// Sockets: cgroup programs, attached to the agent's cgroup, so that nobody else pays.

#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    i32::from(probes::connect::connect4(&ctx))
}

#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    i32::from(probes::connect::connect6(&ctx))
}

#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    i32::from(probes::connect::sendmsg4(&ctx))
}

#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    i32::from(probes::connect::sendmsg6(&ctx))
}

#[sock_ops]
fn tcp_state(ctx: SockOpsContext) -> u32 {
    probes::tcp::event(&ctx);
    PASS as u32
}

#[cgroup_sock(sock_release)]
fn sock_release(ctx: SockContext) -> i32 {
    probes::socket::release(&ctx);
    PASS
}

#[cgroup_skb(ingress)]
fn packet_in(ctx: SkBuffContext) -> i32 {
    if !probes::deny_packet::may_pass(&ctx, false) {
        return DROP;
    }
    probes::packet::ingress(&ctx);
    PASS
}

#[cgroup_skb(egress)]
fn packet_out(ctx: SkBuffContext) -> i32 {
    if !probes::deny_packet::may_pass(&ctx, true) {
        return DROP;
    }
    probes::packet::egress(&ctx);
    PASS
}

#[tracepoint]
fn listen_enter(ctx: TracePointContext) -> u32 {
    probes::socket::listen_enter(&ctx);
    0
}

#[tracepoint]
fn listen_exit(ctx: TracePointContext) -> u32 {
    probes::socket::listen_exit(&ctx);
    0
}

#[tracepoint]
fn accept_exit(ctx: TracePointContext) -> u32 {
    probes::socket::accept_exit(&ctx);
    0
}

#[tracepoint]
fn recvmsg_enter(ctx: TracePointContext) -> u32 {
    probes::passed::enter(&ctx);
    0
}

#[tracepoint]
fn recvmsg_exit(ctx: TracePointContext) -> u32 {
    probes::passed::exit(&ctx);
    0
}

// Sockets that somebody outside made. The tracepoints are used while an agent has such sockets; the
// others are run by userspace, with what it passes as arguments.

#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
fn socket_state(ctx: RawTracePointContext) -> i32 {
    probes::borrowed::state(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "sock_send_length")]
fn socket_sent(ctx: RawTracePointContext) -> i32 {
    probes::borrowed::sent(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "sock_recv_length")]
fn socket_got(ctx: RawTracePointContext) -> i32 {
    probes::borrowed::got(&ctx);
    0
}

#[raw_tracepoint]
fn socket_inherited(ctx: RawTracePointContext) -> i32 {
    probes::borrowed::inherited(&ctx);
    0
}

#[raw_tracepoint]
fn socket_ask(ctx: RawTracePointContext) -> i32 {
    probes::borrowed::ask(&ctx);
    0
}

// Calls that are no file's and no flow's, by a table as well.

#[tracepoint]
fn call_enter(ctx: TracePointContext) -> u32 {
    probes::call::enter(&ctx);
    0
}

#[tracepoint]
fn call_exit(ctx: TracePointContext) -> u32 {
    probes::call::exit(&ctx);
    0
}

// The trampoline tier of all system calls above: at the functions that do them, so that no other call of
// the host pays. Each is loaded once and called by a stub of its own at every function
// (`probe/functions.rs`); `openat` here stands for any of them. Most calls need the exit only, where
// their arguments still are.

#[fentry(function = "sys_openat")]
fn fn_file_enter(ctx: FEntryContext) -> u32 {
    probes::file::enter(&Function::entry(&ctx));
    0
}

#[fentry(function = "sys_openat")]
fn fn_mmap(ctx: FEntryContext) -> u32 {
    probes::mapped::enter(&Function::entry(&ctx));
    0
}

#[fexit(function = "sys_openat")]
fn fn_file_exit(ctx: FExitContext) -> u32 {
    probes::file::exit(&Function::exit(&ctx));
    0
}

#[fexit(function = "sys_openat")]
fn fn_open(ctx: FExitContext) -> u32 {
    probes::open::exit(&Function::exit(&ctx));
    0
}

#[fexit(function = "sys_openat")]
fn fn_call(ctx: FExitContext) -> u32 {
    probes::call::exit(&Function::exit(&ctx));
    0
}

#[fexit(function = "sys_openat")]
fn fn_listen(ctx: FExitContext) -> u32 {
    probes::socket::listen_whole(&Function::exit(&ctx));
    0
}

#[fexit(function = "sys_openat")]
fn fn_accept(ctx: FExitContext) -> u32 {
    probes::socket::accept_exit(&Function::exit(&ctx));
    0
}

#[fexit(function = "sys_openat")]
fn fn_recvmsg(ctx: FExitContext) -> u32 {
    probes::passed::whole(&Function::exit(&ctx));
    0
}

// The same again for functions whose prototype has another name for the argument, `__unused`: a kernel can
// be built without these calls, and has a substitute for each then (`COND_SYSCALL`), of which the type
// information tells in place of the function.

#[fexit(function = "sys_socket")]
fn fn_call_2(ctx: FExitContext) -> u32 {
    probes::call::exit(&Function::exit(&ctx));
    0
}

#[fexit(function = "sys_listen")]
fn fn_listen_2(ctx: FExitContext) -> u32 {
    probes::socket::listen_whole(&Function::exit(&ctx));
    0
}

#[fexit(function = "sys_accept")]
fn fn_accept_2(ctx: FExitContext) -> u32 {
    probes::socket::accept_exit(&Function::exit(&ctx));
    0
}

#[fexit(function = "sys_recvmsg")]
fn fn_recvmsg_2(ctx: FExitContext) -> u32 {
    probes::passed::whole(&Function::exit(&ctx));
    0
}

#[raw_tracepoint(tracepoint = "signal_generate")]
fn signal_generate(ctx: RawTracePointContext) -> i32 {
    probes::signal::generate(&ctx);
    0
}

// Requests of io_uring, which make no system call of their own.

#[raw_tracepoint(tracepoint = "io_uring_submit_req")]
fn uring_submit(ctx: RawTracePointContext) -> i32 {
    probes::uring::submit(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "io_uring_complete")]
fn uring_complete(ctx: RawTracePointContext) -> i32 {
    probes::uring::complete(&ctx);
    0
}

// Denial, beyond what the programs above refuse: attached only where a policy wants it. A cgroup
// program answers 1 for what may be, 0 for what gets EPERM.

#[cgroup_sock_addr(bind4)]
fn bind4(ctx: SockAddrContext) -> i32 {
    i32::from(probes::deny::may_bind(&ctx, probes::deny::address4(&ctx)))
}

#[cgroup_sock_addr(bind6)]
fn bind6(ctx: SockAddrContext) -> i32 {
    i32::from(probes::deny::may_bind(&ctx, probes::deny::address6(&ctx)))
}

#[cgroup_sock(sock_create)]
fn sock_create(ctx: SockContext) -> i32 {
    i32::from(probes::deny::may_make(&ctx))
}

#[cgroup_device]
fn device(ctx: DeviceContext) -> i32 {
    i32::from(probes::deny::may_use(&ctx))
}

#[cgroup_sysctl]
fn sysctl(ctx: SysctlContext) -> i32 {
    i32::from(probes::deny::may_set(&ctx))
}

/// A reachable panic is an endless loop, which the verifier refuses: so there is none.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The helpers used are for programs that are GPL compatible.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
