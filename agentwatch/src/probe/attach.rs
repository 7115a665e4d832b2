//! Attaches what sees the whole host, and writes down how each attempt went.

use std::sync::Arc;

use agentwatch_common::file::op;
use anyhow::{Result, bail};
use aya::programs::{ProgramError, RawTracePoint, TracePoint};

use super::{
    Capability, Probe, calls, explain, functions::Functions, hooks, offsets::Layout, parallel,
    support, syscalls, tiers::Tier,
};

impl Probe {
    pub(super) fn attach_host(&mut self) -> Result<()> {
        for hook in hooks::RAW {
            let result = self.attach_raw(hook.program, hook.tracepoint);
            self.note(
                &format!("raw tracepoint {}", hook.tracepoint),
                Tier::Tracepoint,
                hook.gives,
                hook.required,
                result,
            )?;
        }
        Ok(())
    }

    /// The system calls: by the functions that do them where that went well, else by their tracepoints.
    pub(super) fn attach_calls(&mut self, functions: Result<Functions>) -> Result<()> {
        let refused = match functions {
            Ok(functions) => {
                self.functions = functions.links;
                for site in functions.sites {
                    let hook = format!("{} {}", site.ends(), site.function_name());
                    self.note(&hook, Tier::Trampoline, site.gives, false, Ok(()))?;
                }
                return Ok(());
            }
            Err(error) => format!("{error:#}"),
        };
        let first = self.capabilities.len();
        for hook in hooks::SOCKETS {
            let result = self.attach_syscall(hook.program, hook.tracepoint);
            self.note(
                &format!("tracepoint {}", hook.tracepoint),
                Tier::Tracepoint,
                hooks::LISTENERS,
                true,
                result,
            )?;
        }
        let result = self.attach_syscall(hooks::MAPPED.program, hooks::MAPPED.tracepoint);
        let hook = format!("tracepoint {}", hooks::MAPPED.tracepoint);
        self.note(&hook, Tier::Tracepoint, hooks::CODE, false, result)?;
        for row in syscalls::rows() {
            let opens = row.call.op == op::OPEN;
            for (program, prefix) in if opens { hooks::OPENS } else { hooks::FILES } {
                if opens && prefix == hooks::ENTER && self.args_at_exit {
                    continue;
                }
                let tracepoint = format!("{prefix}{}", row.name);
                let result = self.attach_syscall(program, &tracepoint);
                // A kernel older than the call has no tracepoint for it, and nobody can call it.
                let required = row.name != "fchmodat2";
                self.note(
                    &format!("tracepoint {tracepoint}"),
                    Tier::Tracepoint,
                    hooks::FILE_CALLS,
                    required,
                    result,
                )?;
            }
        }
        // A kernel may be built without a call (modules, kexec): then nobody can make it.
        for row in calls::rows().filter(|row| support::has_call(row.name)) {
            for (program, prefix) in hooks::CALLS {
                if prefix == hooks::ENTER && self.args_at_exit {
                    continue;
                }
                let tracepoint = format!("{prefix}{}", row.name);
                let result = self.attach_syscall(program, &tracepoint);
                self.note(
                    &format!("tracepoint {tracepoint}"),
                    Tier::Tracepoint,
                    hooks::OTHER_CALLS,
                    false,
                    result,
                )?;
            }
        }
        self.lower(first, &refused);
        Ok(())
    }

    /// The programs that see what is done through io_uring.
    pub(super) fn attach_uring(&mut self, layout: &Layout) -> Result<()> {
        let submit = layout.uring_submit;
        for (program, tracepoint) in [
            ("uring_submit", submit.unwrap_or("io_uring_submit_req")),
            ("uring_complete", "io_uring_complete"),
        ] {
            let result = match submit {
                Some(_) => self.attach_raw(program, tracepoint),
                None => Err(ProgramError::NotLoaded),
            };
            let hook = format!("raw tracepoint {tracepoint}");
            self.note(&hook, Tier::Tracepoint, hooks::URING, false, result)?;
        }
        Ok(())
    }

    pub(super) fn attach_raw(
        &mut self,
        program: &str,
        tracepoint: &str,
    ) -> Result<(), ProgramError> {
        let program = self.program(program)?;
        parallel::load(program)?;
        let program: &mut RawTracePoint = program.try_into()?;
        program.attach(tracepoint)?;
        Ok(())
    }

    fn attach_syscall(&mut self, program: &str, tracepoint: &str) -> Result<(), ProgramError> {
        let program = self.program(program)?;
        parallel::load(program)?;
        let program: &mut TracePoint = program.try_into()?;
        program.attach("syscalls", tracepoint)?;
        Ok(())
    }

    pub(super) fn load_cgroup_programs(&mut self) -> Result<()> {
        for name in hooks::CGROUP {
            let result = self.program(name).and_then(parallel::load);
            let hook = format!("cgroup program {name}");
            self.note(&hook, Tier::Cgroup, "flows", true, result)?;
        }
        Ok(())
    }

    /// Writes down how an attempt went, and fails if nothing works without it.
    pub(super) fn note(
        &mut self,
        hook: &str,
        tier: Tier,
        gives: &str,
        required: bool,
        result: Result<(), ProgramError>,
    ) -> Result<()> {
        let missing = result.err().map(|error| explain(&error).to_string());
        self.capabilities.push(Capability {
            hook: hook.to_owned(),
            tier,
            gives: gives.to_owned(),
            required,
            missing: missing.clone(),
            lower: None,
        });
        match missing {
            Some(reason) if required => bail!("cannot attach the {hook} ({gives}): {reason}"),
            _ => Ok(()),
        }
    }

    /// Writes down why what was noted since rests on no trampoline.
    pub(super) fn lower(&mut self, since: usize, reason: &str) {
        let reason: Arc<str> = reason.into();
        for capability in self.capabilities.iter_mut().skip(since) {
            capability.lower = Some(Arc::clone(&reason));
        }
    }
}
