//! The kernel programs: loading, attaching, filling their maps. With `source.rs` the only place that
//! names aya.

mod agents;
mod attach;
pub mod borrowed;
mod bpf;
mod budget;
pub mod calls;
pub mod deny;
mod functions;
pub mod gauge;
pub mod hooks;
mod leave;
mod log;
pub mod memory;
pub mod offsets;
mod parallel;
mod paths;
mod preempt;
mod rings;
pub mod seed;
pub mod support;
pub mod syscalls;
pub mod tiers;
pub mod verifier;

use std::{io, os::fd::OwnedFd, path::Path, sync::Arc};

use agentwatch_common::{
    call::CallRow,
    config::Config,
    file::{InodeKey, LEAF_MAX, NameKey, Syscall},
    offsets::Offsets,
};
use anyhow::{Context as _, Result, anyhow};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, HashMap},
    programs::{Program, ProgramError, ProgramType},
    sys::{BpfHelper, is_helper_supported},
};
use aya_log::EbpfLogger;

pub use self::log::KernelLog;
use self::log::Stderr;
use offsets::Layout;
pub use rings::Rings;

/// The kernel programs, compiled by build.rs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/agentwatch.bpf.o"));

/// How the kernel programs are to be loaded.
#[derive(Debug, Clone)]
pub struct Options {
    /// Send every open for reading: see [`Config::send_all_reads`].
    pub send_all_reads: bool,
    /// The kernel programs' own diagnostics: 0 none, 1 errors … 5 traces. At 0 the verifier removes
    /// them.
    pub kernel_log: u8,
    /// What the maps that an agent can fill may take at most, MiB: see [`memory`].
    pub map_mib: u32,
    /// Bytes of the bulk ring, a power of two of pages; `None` for the default.
    pub bulk_bytes: Option<u32>,
    /// Bytes of the urgent ring, likewise.
    pub prio_bytes: Option<u32>,
    /// Nothing better than this is used.
    pub tier: tiers::Limit,
}

impl Options {
    /// The usual.
    pub const DEFAULT: Self = Self {
        send_all_reads: false,
        kernel_log: 0,
        map_mib: memory::DEFAULT_MIB,
        bulk_bytes: None,
        prio_bytes: None,
        tier: tiers::Limit::Lsm,
    };
}

/// Something that was tried at load: what it gives, and why it is not there where it is not.
#[derive(Debug, Clone)]
pub struct Capability {
    /// What is attached.
    pub hook: String,
    /// What it rests on.
    pub tier: tiers::Tier,
    /// What it gives.
    pub gives: String,
    /// Without it the main job cannot be done.
    pub required: bool,
    /// Why it is missing.
    pub missing: Option<String>,
    /// Why it rests on nothing better, where there is something better.
    pub lower: Option<Arc<str>>,
}

/// The loaded kernel programs. They are detached when this is dropped.
pub struct Probe {
    ebpf: Ebpf,
    /// What was tried.
    pub capabilities: Vec<Capability>,
    /// Opens need no tracepoint at their entry.
    args_at_exit: bool,
    /// Denial by security modules.
    lsm: deny::LsmState,
    following: borrowed::Following,
    /// What is attached to each agent's cgroup.
    links: agents::Links,
    /// The programs at the functions that do system calls, where they are in place of tracepoints.
    functions: Vec<OwnedFd>,
}

impl Probe {
    /// Loads the programs and attaches those that see the whole host.
    ///
    /// # Errors
    ///
    /// When the kernel refuses something without which nothing can be watched.
    pub fn load(options: &Options) -> Result<Self> {
        support::ensure_tracefs()?;
        let (ebpf, layout, btf) = open(options)?;
        let mut probe = Self {
            ebpf,
            capabilities: Vec::new(),
            lsm: deny::LsmState::new(btf, options.tier),
            following: borrowed::Following::new(layout.sock_lengths),
            links: agents::Links::default(),
            functions: Vec::new(),
            args_at_exit: args_at_exit(&layout),
        };
        probe.fill_syscalls()?;
        probe.name_protected();
        let paths = probe.attach_trampolines(options.tier);
        let functions = probe.choose_functions(&layout, options.tier);
        probe.verify(paths.is_ok(), functions.is_ok());
        let functions = functions.and_then(|chosen| probe.attach_functions(chosen));
        probe.attach_host()?;
        probe.attach_calls(functions)?;
        probe.attach_uring(&layout)?;
        probe.attach_paths(paths)?;
        probe.load_cgroup_programs()?;
        Ok(probe)
    }

    /// Gives back the memory that only loading and attaching need: most of what agentwatch takes.
    pub fn settle(&mut self) {
        self.lsm.forget_btf();
        // The allocator keeps what was freed between what is not.
        #[cfg(target_env = "gnu")]
        // SAFETY: no arguments but a number; it only gives free pages back to the kernel.
        unsafe {
            libc::malloc_trim(0);
        }
    }

    fn fill_syscalls(&mut self) -> Result<()> {
        let mut table: Array<_, Syscall> = self.map("SYSCALLS")?.try_into()?;
        for row in syscalls::rows() {
            table.set(u32::try_from(row.number)?, row.call, 0)?;
        }
        let mut table: Array<_, CallRow> = self.map("CALL_ROWS")?.try_into()?;
        for row in calls::rows() {
            table.set(u32::try_from(row.number)?, row.call, 0)?;
        }
        Ok(())
    }

    /// Names and inodes that make an open for reading worth sending.
    ///
    /// # Errors
    ///
    /// When there are more than the maps hold.
    pub fn sensitive<'a>(
        &mut self,
        names: impl Iterator<Item = &'a str>,
        inodes: impl Iterator<Item = (u32, u64)>,
    ) -> Result<()> {
        let mut map: HashMap<_, NameKey, u8> = self.map("SENSITIVE_NAMES")?.try_into()?;
        for name in names {
            map.insert(name_key(name), 1, 0).with_context(|| {
                format!("too many sensitive paths at {name:?}: at most 1024 names")
            })?;
        }
        let mut map: HashMap<_, InodeKey, u8> = self.map("SENSITIVE_INODES")?.try_into()?;
        for (dev, ino) in inodes {
            map.insert(InodeKey { ino, dev, pad: 0 }, 1, 0)
                .context("too many sensitive files: at most 4096")?;
        }
        Ok(())
    }

    /// The kernel programs' own diagnostics. `None` where they are off.
    ///
    /// # Errors
    ///
    /// When their ring buffer is missing.
    pub fn logger(&mut self) -> Result<KernelLog> {
        Ok(KernelLog(EbpfLogger::init_with_logger(
            &mut self.ebpf,
            Stderr,
        )?))
    }

    fn program(&mut self, name: &str) -> Result<&mut Program, ProgramError> {
        // A name that is not in the object is a mistake of ours: said as one.
        self.ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)
    }

    fn map(&mut self, name: &str) -> Result<&mut aya::maps::Map> {
        self.ebpf
            .map_mut(name)
            .ok_or_else(|| anyhow!("the kernel object has no map {name}"))
    }

    fn take(&mut self, name: &str) -> Result<aya::maps::Map> {
        self.ebpf
            .take_map(name)
            .ok_or_else(|| anyhow!("the kernel object has no map {name}"))
    }
}

/// Whether the kernel programs can read the arguments of a system call at its exit.
fn args_at_exit(layout: &Layout) -> bool {
    let helper = BpfHelper::BPF_FUNC_task_pt_regs;
    layout.offsets.regs_arg0 != Offsets::MISSING
        && is_helper_supported(ProgramType::TracePoint, helper).unwrap_or(false)
}

/// Whether programs for devices and sysctls can ask for the current process.
fn device_process() -> bool {
    let helper = BpfHelper::BPF_FUNC_get_current_pid_tgid;
    [ProgramType::CgroupDevice, ProgramType::CgroupSysctl]
        .into_iter()
        .all(|kind| is_helper_supported(kind, helper).unwrap_or(false))
}

/// The object with its maps made and its globals set, no program of it loaded yet; and the kernel's types,
/// where aya can read them.
fn open(options: &Options) -> Result<(Ebpf, Layout, Option<Arc<Btf>>)> {
    // Both read all of the kernel's types, which takes a while: aya for itself.
    let (layout, btf) = std::thread::scope(|scope| {
        let btf = scope.spawn(|| Btf::from_sys_fs().ok().map(Arc::new));
        let layout = offsets::read(Path::new(offsets::BTF));
        (layout, btf.join().ok().flatten())
    });
    let layout = layout?;
    let config = Config {
        send_all_reads: u32::from(options.send_all_reads),
        uring_cqe: u32::from(layout.uring_cqe),
        sock_lengths: u32::from(layout.sock_lengths),
        args_at_exit: u32::from(args_at_exit(&layout)),
        device_process: u32::from(device_process()),
        ..Config::DEFAULT
    };
    let mut loader = EbpfLoader::new();
    loader
        .btf(btf.as_deref())
        .override_global("OFFSETS", &layout.offsets, true)
        .override_global("CONFIG", &config, true)
        .override_global(aya_log::LEVEL, &options.kernel_log, true);
    memory::scale(&mut loader, options.map_mib);
    if let Some(bytes) = options.bulk_bytes {
        loader.map_max_entries("EVENTS_BULK", bytes);
    }
    if let Some(bytes) = options.prio_bytes {
        loader.map_max_entries("EVENTS_PRIO", bytes);
    }
    let ebpf = loader
        .load(OBJECT)
        .map_err(|error| explain(&error))
        .context("the kernel does not take agentwatch's programs")?;
    Ok((ebpf, layout, btf))
}

/// A name as the kernel programs look it up.
fn name_key(name: &str) -> NameKey {
    let mut key = [0; LEAF_MAX];
    for (to, from) in key.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    key
}

/// An error with its causes in one line. The verifier's log is many lines, of which the end tells.
fn explain(error: &(dyn std::error::Error + 'static)) -> anyhow::Error {
    let is_absent = |error: &(dyn std::error::Error + 'static)| {
        error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    if std::iter::successors(Some(error), |error| error.source()).any(is_absent) {
        return anyhow!("this kernel does not have it");
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    // Refused before it was looked at.
    let text_len = text.trim_end().trim_end_matches("Verifier output:").len();
    text.truncate(text_len);
    let mut text = text.trim_end_matches([' ', '.']).to_owned();
    if std::env::var_os("AGENTWATCH_VERIFIER_LOG").is_none() && text.lines().count() > 8 {
        let lines: Vec<&str> = text.lines().collect();
        let first = lines.first().copied().unwrap_or_default();
        text = format!(
            "{} … {} (AGENTWATCH_VERIFIER_LOG=1 shows all of the verifier's log)",
            first.split("Verifier output").next().unwrap_or(first),
            lines[lines.len().saturating_sub(6)..].join(" | ")
        );
    }
    anyhow!(text)
}
