//! Detaching, without making anybody wait for it.
//!
//! The kernel waits for two RCU grace periods when the last user of a syscall tracepoint goes
//! (`perf_trace_event_unreg`, `kernel/trace/trace_event_perf.c`), one tracepoint after the other:
//! seconds for all of them. So a process of its own keeps the descriptors when agentwatch closes its
//! own, and closes them in its own time. It does nothing else, and holds nothing of the terminal.

use std::{io, os::fd::AsRawFd as _};

use super::Probe;

impl Probe {
    /// Drops the programs; they are gone a few seconds later. Nobody should be tagged any more, so
    /// that they send nothing until then.
    ///
    /// # Errors
    ///
    /// When no process can be made; then this has waited itself.
    pub fn leave(self) -> io::Result<()> {
        let (gate, held) = io::pipe()?;
        // SAFETY: the child calls only what may be called after a fork of a process with threads.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => close_later(gate.as_raw_fd(), held.as_raw_fd()),
            child => {
                drop(gate);
                drop(self);
                // The keeper goes on when this end is closed.
                drop(held);
                // The child has handed over to a grandchild at once: no zombie stays.
                // SAFETY: a child of ours, and no status is asked for.
                unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
                Ok(())
            }
        }
    }
}

/// What the keeper does.
fn close_later(gate: i32, held: i32) -> ! {
    // SAFETY: system calls upon own descriptors, all of them async-signal-safe.
    unsafe {
        if libc::fork() != 0 {
            libc::_exit(0);
        }
        libc::setsid();
        libc::close(held);
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        for fd in 0..3 {
            libc::dup2(null, fd);
        }
        let mut nothing = 0_u8;
        while libc::read(gate, (&raw mut nothing).cast(), 1) == -1
            && *libc::__errno_location() == libc::EINTR
        {}
        // Whatever is left is closed by the kernel when this process ends.
        libc::_exit(0)
    }
}
