//! Programs are verified by the kernel side by side, before they are attached one after the other: the
//! verifier is what a start takes longest for, and holds no lock for root (`bpf_check` of
//! `kernel/bpf/verifier.c`).

use std::{
    sync::{Mutex, PoisonError},
    thread,
};

use aya::{
    Btf,
    programs::{Program, ProgramError},
};

use super::{Probe, functions, hooks};

/// More at a time are not faster: one program takes as long as all others.
const THREADS: usize = 2;

impl Probe {
    /// Loads what is attached at every start. What fails is left as it is: attaching it tries again, and
    /// says why. Without trampolines for `paths` and at the `functions` of system calls, tracepoints take
    /// their place.
    pub(super) fn verify(&mut self, paths: bool, functions: bool) {
        let mut wanted: Vec<&str> = Vec::new();
        // First what takes longest.
        if functions {
            wanted.extend(functions::programs());
        } else {
            wanted.push(hooks::OPENS[1].0);
            wanted.extend(hooks::FILES.iter().rev().map(|(program, _)| program));
        }
        if !paths {
            wanted.extend(hooks::INODE_CHANGES.iter().map(|(program, _)| program));
        }
        wanted.extend(hooks::CGROUP);
        wanted.extend(hooks::RAW.iter().map(|hook| hook.program));
        if !functions {
            wanted.extend(hooks::SOCKETS.iter().map(|hook| hook.program));
            wanted.push(hooks::MAPPED.program);
            wanted.extend(hooks::CALLS.iter().map(|(program, _)| program));
        }
        let btf = self.lsm.btf().ok().cloned();
        let rank = |name: &str| wanted.iter().position(|it| *it == name);
        let mut programs: Vec<(usize, &mut Program)> = self
            .ebpf
            .programs_mut()
            .filter_map(|(name, program)| Some((rank(name)?, program)))
            .collect();
        programs.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
        let queue = Mutex::new(programs);
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    while let Some((_, program)) = next() {
                        // Said when it is attached.
                        let _ = match (&*program, &btf) {
                            (Program::FEntry(_) | Program::FExit(_), Some(btf)) => {
                                load_at(program, &functions::name("openat"), btf)
                            }
                            _ => load(program),
                        };
                    }
                });
            }
        });
    }
}

/// Loads a program of a kind that needs nothing else to be known. One that is loaded stays so.
pub(super) fn load(program: &mut Program) -> Result<(), ProgramError> {
    let loaded = match program {
        Program::TracePoint(program) => program.load(),
        Program::RawTracePoint(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::SockOps(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    match loaded {
        Err(ProgramError::AlreadyLoaded) => Ok(()),
        loaded => loaded,
    }
}

/// Loads a program for a kernel function. One that is loaded stays so.
pub(super) fn load_at(
    program: &mut Program,
    function: &str,
    btf: &Btf,
) -> Result<(), ProgramError> {
    let loaded = match program {
        Program::FEntry(program) => program.load(function, btf),
        Program::FExit(program) => program.load(function, btf),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    match loaded {
        Err(ProgramError::AlreadyLoaded) => Ok(()),
        loaded => loaded,
    }
}
