//! The system calls, watched at the kernel functions that do them: the trampoline tier. A syscall
//! tracepoint makes every system call of every process a little slower; this costs nothing but in the
//! calls that are watched.
//!
//! The kernel verifies a program of this kind for one function, and there are about ninety. So each of
//! the few programs is verified once and put into an array, and each function gets a stub that goes on
//! there. The kernel allows that where the functions have the same prototype (`bpf_prog_map_compatible`,
//! `kernel/bpf/core.c`), and these have one of two, which differ by the name of the argument: so there are
//! two copies of some programs.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use agentwatch_common::{file::op, offsets::Offsets};
use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    maps::{Map, ProgramArray},
    programs::{Program, ProgramFd},
};

use super::{
    Probe,
    bpf::{self, End},
    calls, explain, hooks,
    offsets::Layout,
    parallel, preempt, support, syscalls,
    tiers::Limit,
};

/// What the functions' names begin with (`SYSCALL_DEFINEx` of `arch/*/include/asm/syscall_wrapper.h`).
#[cfg(target_arch = "x86_64")]
pub const PREFIX: &str = "__x64_sys_";
#[cfg(target_arch = "aarch64")]
pub const PREFIX: &str = "__arm64_sys_";
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub const PREFIX: &str = "__sys_of_an_unknown_architecture_";

/// The programs at the entry of functions, by their place in the array `AT_ENTRY`.
const ENTRIES: [&str; 2] = ["fn_file_enter", "fn_mmap"];
/// The programs at their exit, by their place in `AT_EXIT`.
const EXITS: [&str; 6] = [
    "fn_file_exit",
    "fn_open",
    "fn_call",
    "fn_listen",
    "fn_accept",
    "fn_recvmsg",
];

/// Copies of these for functions of another prototype, by their place in `AT_EXIT_2`. Calls upon files need
/// none: no kernel is without them.
const SECONDS: [Option<&str>; EXITS.len()] = [
    None,
    None,
    Some("fn_call_2"),
    Some("fn_listen_2"),
    Some("fn_accept_2"),
    Some("fn_recvmsg_2"),
];
const AT_ENTRY: &str = "AT_ENTRY";
const AT_EXIT: &str = "AT_EXIT";
const AT_EXIT_2: &str = "AT_EXIT_2";

/// All of them, what takes the verifier longest first.
pub fn programs() -> impl Iterator<Item = &'static str> {
    EXITS.into_iter().chain(ENTRIES)
}

/// The function that a call is done by.
pub fn name(call: &str) -> String {
    format!("{PREFIX}{call}")
}

/// A call, and what is attached to its function.
#[derive(Debug)]
pub struct Site {
    call: &'static str,
    /// What it gives, for `doctor`.
    pub gives: &'static str,
    entry: Option<&'static str>,
    exit: Option<&'static str>,
}

impl Site {
    /// The kernel function.
    pub fn function_name(&self) -> String {
        name(self.call)
    }

    /// Where programs are attached to it.
    pub fn ends(&self) -> &'static str {
        match (self.entry, self.exit) {
            (Some(_), Some(_)) => "fentry and fexit",
            (Some(_), None) => "fentry",
            (None, _) => "fexit",
        }
    }
}

/// All calls that are watched.
fn sites() -> Vec<Site> {
    let files = syscalls::rows().map(|row| {
        let opens = row.call.op == op::OPEN;
        Site {
            call: row.name,
            gives: hooks::FILE_CALLS,
            // What changes a file is told of by the kernel while the call is under way.
            entry: (!opens).then_some("fn_file_enter"),
            exit: Some(if opens { "fn_open" } else { "fn_file_exit" }),
        }
    });
    let others = calls::rows().map(|row| (row.name, hooks::OTHER_CALLS, "fn_call"));
    let sockets = [
        ("listen", "fn_listen"),
        ("accept", "fn_accept"),
        ("accept4", "fn_accept"),
        ("recvmsg", "fn_recvmsg"),
    ]
    .map(|(call, exit)| (call, hooks::LISTENERS, exit));
    let others = others.chain(sockets).map(|(call, gives, exit)| Site {
        call,
        gives,
        entry: None,
        exit: Some(exit),
    });
    // Every program of the host makes this call often, and whether it does well is of no interest.
    let maps = Site {
        call: "mmap",
        gives: hooks::CODE,
        entry: Some("fn_mmap"),
        exit: None,
    };
    files.chain(others).chain([maps]).collect()
}

/// The functions to which programs can be attached.
pub struct Chosen(Vec<(Site, Vec<u32>)>);

/// The programs at their functions.
pub struct Functions {
    /// What was attached where.
    pub sites: Vec<Site>,
    /// Closed, they are detached.
    pub links: Vec<OwnedFd>,
}

impl Probe {
    /// Finds out whether this tier may be used, by asking and by trying one program.
    pub(super) fn choose_functions(&mut self, layout: &Layout, limit: Limit) -> Result<Chosen> {
        limit.allows(Limit::Trampoline)?;
        ensure!(
            layout.offsets.regs_number != Offsets::MISSING,
            "where this architecture has a system call's arguments is not known"
        );
        let mut chosen = Vec::new();
        for site in sites() {
            let Some(function) = layout.functions.get(site.call) else {
                // A kernel without the call has neither: nobody can make it.
                ensure!(
                    !support::has_call(site.call),
                    "this kernel's BTF has no function {}",
                    site.function_name()
                );
                continue;
            };
            chosen.push((site, function.clone()));
        }
        ensure!(
            !chosen.is_empty(),
            "this kernel's BTF has no functions {PREFIX}*"
        );
        let btf = self.lsm.btf()?.clone();
        let trial = self.program(ENTRIES[0])?;
        parallel::load_at(trial, &name("openat"), &btf).map_err(|error| explain(&error))?;
        preempt::never()?;
        Ok(Chosen(chosen))
    }

    /// Attaches all, or none.
    pub(super) fn attach_functions(&mut self, chosen: Chosen) -> Result<Functions> {
        let any = name("openat");
        for (slot, program) in ENTRIES.iter().enumerate() {
            self.fill(AT_ENTRY, slot, program, &any)?;
        }
        for (slot, program) in EXITS.iter().enumerate() {
            self.fill(AT_EXIT, slot, program, &any)?;
        }
        let mut functions = Functions {
            sites: Vec::new(),
            links: Vec::new(),
        };
        let mut seconds = [false; EXITS.len()];
        for (site, ids) in chosen.0 {
            let at = || format!("cannot attach to {}", site.function_name());
            // The exit first: a call under way then has no entry, and is left alone.
            if let Some(program) = site.exit {
                let slot = place(&EXITS, program)?;
                let mut stub = self.stub(End::Exit, &ids, AT_EXIT, slot);
                // The kernel says so where the function has another prototype than the array's programs.
                if let Err(error) = &stub
                    && error.kind() == io::ErrorKind::InvalidInput
                    && let Some(program) = SECONDS[slot]
                {
                    if !seconds[slot] {
                        self.fill(AT_EXIT_2, slot, program, &site.function_name())?;
                        seconds[slot] = true;
                    }
                    stub = self.stub(End::Exit, &ids, AT_EXIT_2, slot);
                }
                let link = stub.and_then(|stub| bpf::attach(stub.as_fd()));
                functions.links.push(link.with_context(at)?);
            }
            if let Some(program) = site.entry {
                let slot = place(&ENTRIES, program)?;
                let stub = self.stub(End::Entry, &ids, AT_ENTRY, slot);
                let link = stub.and_then(|stub| bpf::attach(stub.as_fd()));
                functions.links.push(link.with_context(at)?);
            }
            functions.sites.push(site);
        }
        Ok(functions)
    }

    /// Loads a stub for a function, by whichever of its ids has the prototype that the array's programs
    /// have, that goes on with one of them.
    fn stub(&self, end: End, ids: &[u32], array: &str, slot: usize) -> io::Result<OwnedFd> {
        let Some(Map::ProgramArray(array)) = self.ebpf.map(array) else {
            return Err(io::Error::other(format!("no program array {array}")));
        };
        let array = array.fd().as_fd();
        let mut refused = io::Error::from(io::ErrorKind::NotFound);
        for id in ids {
            match bpf::load_stub(end, *id, array, slot as u32) {
                Ok(stub) => return Ok(stub),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    /// Puts a program into an array, loading it for a function if it is not yet.
    fn fill(&mut self, array: &str, slot: usize, name: &str, function: &str) -> Result<()> {
        let btf = self.lsm.btf()?.clone();
        let program = self.program(name)?;
        parallel::load_at(program, function, &btf).map_err(|error| explain(&error))?;
        let fd: ProgramFd = match program {
            Program::FEntry(program) => program.fd()?.try_clone()?,
            Program::FExit(program) => program.fd()?.try_clone()?,
            _ => bail!("{name} is no program of a function"),
        };
        let mut array: ProgramArray<_> = self.map(array)?.try_into()?;
        array
            .set(slot as u32, &fd, 0)
            .map_err(|error| explain(&error))
            .with_context(|| format!("cannot have {name} called"))
    }
}

/// A program's place in its array.
fn place(programs: &[&str], program: &str) -> Result<usize> {
    let place = programs.iter().position(|name| *name == program);
    place.with_context(|| format!("{program} has no place"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_has_a_place() {
        let sites = sites();
        for site in &sites {
            assert!(
                site.exit.is_none_or(|name| EXITS.contains(&name)),
                "{site:?}"
            );
            assert!(
                site.entry.is_none_or(|name| ENTRIES.contains(&name)),
                "{site:?}"
            );
        }
        // The arrays in the kernel have eight places.
        assert!(ENTRIES.len() <= 8 && EXITS.len() <= 8);
        assert!(programs().all(|name| {
            sites
                .iter()
                .any(|s| s.exit == Some(name) || s.entry == Some(name))
        }));
    }
}
