//! What this kernel's verifier says of each kernel program by itself, for `cargo xtask verifier`.
//!
//! Other than [`Probe::load`], which takes of each capability the best that the kernel offers, this
//! loads every program of the object, one after the other, attaches none, and goes on after a refusal.
//!
//! [`Probe::load`]: super::Probe::load

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use aya::{
    Btf,
    programs::{Program, ProgramError, ProgramInfo},
};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SymbolSection};
use serde::Serialize;

use super::{OBJECT, Options, explain, functions, open, support};

/// What became of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The verifier takes it.
    Accepted,
    /// The verifier, or the kernel before it, does not take it.
    Refused,
    /// This host's policy does not allow this type of program, whatever is in it.
    Forbidden,
    /// This kernel does not have what the program would be attached to.
    Absent,
}

/// One program on this kernel.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// The program's name in the object.
    pub program: String,
    /// The section it is in, which tells its type: `fentry/security_path_unlink`.
    pub section: String,
    /// What became of it.
    pub state: State,
    /// Instructions after the verifier has rewritten them (`bpf_prog_info.xlated_prog_len` / 8).
    pub xlated: Option<u32>,
    /// Instructions that the verifier followed (`bpf_prog_info.verified_insns`, since Linux 5.16).
    pub verified: Option<u32>,
    /// Why it is not accepted.
    pub reason: Option<String>,
}

/// Loads every program of the object, and says how each went, by name.
///
/// # Errors
///
/// When not even the maps can be made, or the kernel's type information cannot be read.
pub fn verdicts() -> Result<Vec<Verdict>> {
    support::ensure_tracefs()?;
    let sections = sections()?;
    let (mut ebpf, _, btf) = open(&Options::DEFAULT)?;
    let btf = btf.context("cannot read the kernel's BTF")?;
    let mut verdicts: Vec<Verdict> = ebpf
        .programs_mut()
        .map(|(name, program)| {
            let section = sections.get(name).cloned().unwrap_or_default();
            let target = section.split_once('/').map_or("", |(_, target)| target);
            let target = match target.strip_prefix("sys_") {
                Some(call) => functions::name(call),
                None => target.to_owned(),
            };
            let info = load(program, &target, &btf).and_then(|()| program.info());
            verdict(name, section, info)
        })
        .collect();
    verdicts.sort_by(|a, b| a.program.cmp(&b.program));
    Ok(verdicts)
}

/// Loads a program by its type. What it would be attached to is asked only of types that the verifier
/// checks against it.
fn load(program: &mut Program, target: &str, btf: &Btf) -> Result<(), ProgramError> {
    match program {
        Program::TracePoint(p) => p.load(),
        Program::RawTracePoint(p) => p.load(),
        Program::BtfTracePoint(p) => p.load(target, btf),
        Program::FEntry(p) => p.load(target, btf),
        Program::FExit(p) => p.load(target, btf),
        Program::Lsm(p) => p.load(target, btf),
        Program::KProbe(p) => p.load(),
        Program::UProbe(p) => p.load(),
        Program::PerfEvent(p) => p.load(),
        Program::SockOps(p) => p.load(),
        Program::CgroupSkb(p) => p.load(),
        Program::CgroupSock(p) => p.load(),
        Program::CgroupSockAddr(p) => p.load(),
        Program::CgroupSockopt(p) => p.load(),
        Program::CgroupDevice(p) => p.load(),
        Program::CgroupSysctl(p) => p.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn verdict(name: &str, section: String, info: Result<ProgramInfo, ProgramError>) -> Verdict {
    let mut verdict = Verdict {
        program: name.to_owned(),
        section,
        state: State::Accepted,
        xlated: None,
        verified: None,
        reason: None,
    };
    match info {
        Ok(info) => {
            verdict.xlated = info.size_translated().map(|bytes| bytes / INSTRUCTION);
            verdict.verified = info.verified_instruction_count();
        }
        Err(error) => {
            verdict.state = state(&error);
            verdict.reason = Some(explain(&error).to_string());
        }
    }
    verdict
}

/// Bytes of a BPF instruction.
const INSTRUCTION: u32 = 8;

/// Why a program was not loaded.
fn state(error: &ProgramError) -> State {
    match error {
        ProgramError::Btf(aya::BtfError::UnknownBtfTypeName { .. }) => State::Absent,
        // The verifier itself says EACCES or EINVAL, and writes why.
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } if io_error.raw_os_error() == Some(libc::EPERM)
            && verifier_log.to_string().trim().is_empty() =>
        {
            State::Forbidden
        }
        _ => State::Refused,
    }
}

/// The section of each program of the object.
fn sections() -> Result<HashMap<String, String>> {
    let file = object::File::parse(OBJECT).context("the kernel object is no ELF file")?;
    let mut sections = HashMap::new();
    for symbol in file.symbols() {
        if let SymbolSection::Section(index) = symbol.section()
            && let (Ok(name), Ok(section)) = (symbol.name(), file.section_by_index(index))
            && let Ok(section) = section.name()
        {
            sections.insert(name.to_owned(), section.to_owned());
        }
    }
    Ok(sections)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_tell_what_programs_are_attached_to() {
        let sections = sections().unwrap();
        assert_eq!(sections["path_unlink"], "fentry/security_path_unlink");
        assert_eq!(sections["connect4"], "cgroup/connect4");
        assert_eq!(sections["file_enter"], "tracepoint");
    }

    #[test]
    fn what_a_kernel_does_not_have_is_no_refusal() {
        let absent = ProgramError::Btf(aya::BtfError::UnknownBtfTypeName {
            type_name: "security_file_truncate".to_owned(),
        });
        assert_eq!(state(&absent), State::Absent);
        assert_eq!(state(&ProgramError::UnexpectedProgramType), State::Refused);
    }
}
