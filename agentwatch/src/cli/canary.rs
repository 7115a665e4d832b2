//! `agentwatch doctor --canary`: one denied operation of each kind, done for real in a cgroup of its own,
//! to see whether the kernel refuses it and says so.

use std::{
    collections::HashSet,
    ffi::CString,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use serde::Serialize;

use crate::{
    decode,
    event::{DeniedOp, Kind},
    policy::{Need, Policy},
    probe::{
        Options, Probe,
        tiers::{self, Limit},
    },
    respond::cgroup::AgentCgroup,
    source::Source,
};

/// The agent's number: there is no other one.
const AGENT: u32 = 1;

/// How long the child may take for all its operations.
const PATIENCE_SECONDS: u32 = 60;

/// A sysctl that nothing hangs on. It is written with the value that it has.
const SYSCTL: &str = "kernel/printk_ratelimit";

/// What an attempt came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Refused and told.
    Active,
    /// Told, not refused.
    ObserveOnly,
    /// Neither, or refused and not told.
    Broken,
    /// This kernel cannot.
    Unavailable,
}

impl Verdict {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::ObserveOnly => "observe-only",
            Self::Broken => "broken",
            Self::Unavailable => "unavailable",
        }
    }
}

/// How it went with one capability.
#[derive(Debug, Serialize)]
pub struct Attempt {
    /// The capability's stable name.
    pub capability: &'static str,
    /// What it rests on.
    pub tier: &'static str,
    /// What came of it.
    pub verdict: Verdict,
    /// What was done, or why it could not be.
    pub detail: String,
}

/// An operation of the child: what it is called, what it is about, and which event it should give.
struct Operation {
    need: Option<Need>,
    name: &'static str,
    op: DeniedOp,
    told_as: &'static str,
}

const fn operation(
    need: Need,
    name: &'static str,
    op: DeniedOp,
    told_as: &'static str,
) -> Operation {
    Operation {
        need: Some(need),
        name,
        op,
        told_as,
    }
}

/// In the order in which they are done. The last one after the agent was put in quarantine.
const OPERATIONS: [Operation; 15] = [
    operation(
        Need::Connect,
        "connect",
        DeniedOp::Connect,
        "a connection to loopback",
    ),
    operation(
        Need::Bind,
        "bind",
        DeniedOp::Bind,
        "a socket bound to loopback",
    ),
    operation(Need::IpSockets, "raw", DeniedOp::Socket, "a raw socket"),
    operation(
        Need::Devices,
        "device",
        DeniedOp::Device,
        "a node of /dev/full opened",
    ),
    operation(
        Need::Sysctl,
        "sysctl",
        DeniedOp::Sysctl,
        "a sysctl written with its own value",
    ),
    operation(
        Need::OtherSockets,
        "netlink",
        DeniedOp::Socket,
        "a netlink socket",
    ),
    operation(Need::Exec, "exec", DeniedOp::Exec, "a script executed"),
    operation(Need::OpenFiles, "open", DeniedOp::Read, "a file read"),
    operation(
        Need::ChangeFiles,
        "unlink",
        DeniedOp::Delete,
        "a file removed",
    ),
    operation(
        Need::Ptrace,
        "ptrace",
        DeniedOp::Ptrace,
        "an own child traced",
    ),
    operation(Need::Bpf, "bpf", DeniedOp::Bpf, "the BPF maps listed"),
    operation(Need::Mount, "mount", DeniedOp::Mount, "a tmpfs mounted"),
    operation(
        Need::ModuleLoad,
        "module",
        DeniedOp::ModuleLoad,
        "an empty module loaded",
    ),
    operation(
        Need::Protection,
        "signal",
        DeniedOp::Signal,
        "SIGCONT sent to agentwatch",
    ),
    Operation {
        need: None,
        name: "quarantine",
        op: DeniedOp::Connect,
        told_as: "a connection from quarantine",
    },
];

/// What is made for the canary. Gone when dropped.
struct Nest {
    folder: PathBuf,
    cgroup: AgentCgroup,
}

impl Nest {
    fn new() -> Result<Self> {
        let name = format!("agentwatch-canary-{}", std::process::id());
        let folder = std::env::temp_dir().join(&name);
        let cgroup = AgentCgroup::create(
            &crate::probe::support::cgroup2()?
                .join("agentwatch")
                .join(format!("canary-{}", std::process::id())),
        )?;
        // From here on everything goes again, whatever happens.
        let nest = Self { folder, cgroup };
        fs::create_dir(&nest.folder)
            .with_context(|| format!("cannot make {}", nest.folder.display()))?;
        for file in ["read", "unlink"] {
            nest.write(file, "canary")?;
        }
        nest.write("exec", "#!/bin/sh\nexit 0\n")?;
        fs::set_permissions(nest.path("exec"), fs::Permissions::from_mode(0o700))?;
        fs::create_dir(nest.path("mount"))?;
        let node = CString::new(nest.path("device").as_os_str().as_bytes())?;
        // SAFETY: a path that ends with NUL. /dev/full is 1:7 wherever there is Linux
        // (Documentation/admin-guide/devices.txt).
        if unsafe { libc::mknod(node.as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(1, 7)) } != 0 {
            return Err(std::io::Error::last_os_error()).context("cannot make a device node");
        }
        Ok(nest)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn policy(&self, denied: u16, own: u16) -> Result<Policy> {
        let folder = self.folder.display();
        let text = format!(
            "apiVersion: agentwatch/v1\nkind: Policy\nenforcement: best_effort\n\
             network: {{deny: ['127.0.0.1:{denied}'], bind: {{deny: ['127.0.0.1:{own}']}}}}\n\
             sockets: {{deny: [raw, netlink]}}\ndevices: {{deny: ['c 1:7']}}\n\
             sysctl: {{deny: ['{SYSCTL}']}}\ndeny: [ptrace, bpf, mount, module_load]\n\
             files: {{deny_exec: ['{folder}/exec'], deny_read: ['{folder}/read'], \
             deny_delete: ['{folder}/unlink']}}\n"
        );
        Ok(Policy::parse(&text, "the canary's policy")?)
    }
}

impl Drop for Nest {
    fn drop(&mut self) {
        let _ = self.cgroup.kill();
        self.cgroup.wait_empty(Duration::from_secs(5));
        self.cgroup.remove();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Tries every capability.
///
/// # Errors
///
/// When the canary itself cannot be made, or does not answer.
pub fn run(tier: Limit) -> Result<Vec<Attempt>> {
    let nest = Nest::new()?;
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen on loopback")?;
    let denied = listener.local_addr()?.port();
    let elsewhere = TcpListener::bind("127.0.0.1:0")?;
    let allowed = elsewhere.local_addr()?.port();
    // A port that is free now, and that nobody else is likely to take at once.
    let own = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let policy = nest.policy(denied, own)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let guard = runtime.enter();
    let mut probe = Probe::load(&Options {
        tier,
        ..Options::DEFAULT
    })?;
    let mut source = Source::new(probe.take_rings()?).context("cannot wait for records")?;
    let enforced = probe.enforce(AGENT, nest.cgroup.path(), &policy, &[])?;
    probe.watch(AGENT, nest.cgroup.path(), nest.cgroup.id)?;
    let mut bird = Bird::start(&nest, &[denied, own, allowed])?;
    let missing = |operation: &Operation| match operation.need {
        Some(Need::Protection) => enforced.protection.as_deref(),
        Some(need) => enforced
            .missing
            .iter()
            .find(|(missing, _)| *missing == need)
            .and_then(|(_, status)| status.missing.as_deref()),
        None => None,
    };
    let mut said = Vec::new();
    for operation in &OPERATIONS {
        if operation.need.is_none() {
            probe.quarantine(AGENT, true)?;
        }
        // What cannot be refused would happen.
        said.push(match missing(operation) {
            Some(_) => "not tried".to_owned(),
            None => bird.ask(operation.name)?,
        });
    }
    bird.end()?;
    probe.untag(&HashSet::from([AGENT]))?;
    let mut batch = Vec::new();
    source.drain(&mut batch);
    drop(guard);
    // Where no process can be made this has waited, which is all the same here.
    let _ = probe.leave();
    let told = told(&batch, denied, allowed);
    Ok(OPERATIONS
        .iter()
        .zip(said)
        .map(|(operation, said)| {
            let seen = told.iter().find(|(name, _)| *name == operation.name);
            attempt(
                operation,
                missing(operation),
                &said,
                seen.map(|(_, observed)| *observed),
            )
        })
        .collect())
}

/// Puts together what was heard of one operation.
fn attempt(
    operation: &Operation,
    missing: Option<&str>,
    said: &str,
    observed: Option<bool>,
) -> Attempt {
    let (capability, tier) = match operation.need {
        Some(need) => (tiers::name(need), tiers::tier(need).name()),
        None => ("quarantine", tiers::Tier::Cgroup.name()),
    };
    let refused = said == "EPERM";
    let what = operation.told_as;
    let (verdict, detail) = match (missing, refused, observed) {
        (Some(reason), ..) => (Verdict::Unavailable, reason.to_owned()),
        (None, true, Some(false)) => (Verdict::Active, format!("{what}: refused and told")),
        (None, false, Some(_)) => (
            Verdict::ObserveOnly,
            format!("{what}: told, but it was not refused ({said})"),
        ),
        (None, true, _) => (
            Verdict::Broken,
            format!("{what}: refused, but nothing was told"),
        ),
        (None, false, None) => (
            Verdict::Broken,
            format!("{what}: neither refused nor told ({said})"),
        ),
    };
    Attempt {
        capability,
        tier,
        verdict,
        detail,
    }
}

/// The operations that were told of, and whether they passed.
fn told(batch: &[Bytes], denied: u16, allowed: u16) -> Vec<(&'static str, bool)> {
    let mut told = Vec::new();
    for record in batch {
        let Ok(event) = decode::decode(record) else {
            continue;
        };
        let Kind::Denied(event) = event.kind else {
            continue;
        };
        let object = event.object.to_string();
        let found = OPERATIONS.iter().find(|operation| {
            operation.op == event.op
                && match operation.name {
                    "connect" => object.contains(&format!(":{denied} ")),
                    "quarantine" => object.contains(&format!(":{allowed} ")),
                    "raw" => object.starts_with("inet"),
                    "netlink" => object.starts_with("netlink"),
                    _ => true,
                }
        });
        told.extend(found.map(|operation| (operation.name, event.observed)));
    }
    told
}

/// The child that does the operations, in the canary's cgroup.
struct Bird {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Bird {
    fn start(nest: &Nest, ports: &[u16]) -> Result<Self> {
        let procs = fs::File::options()
            .write(true)
            .open(nest.cgroup.path().join("cgroup.procs"))
            .context("cannot put a process into the canary's cgroup")?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["doctor", "--canary-child"])
            .arg(&nest.folder)
            .args(ports.iter().map(u16::to_string))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let enter = move || {
            rustix::io::write(&procs, b"0")?;
            // SAFETY: a number. Ends the child where it hangs.
            unsafe { libc::alarm(PATIENCE_SECONDS) };
            Ok(())
        };
        // SAFETY: system calls only between fork and exec.
        unsafe { command.pre_exec(enter) };
        let mut child = command.spawn().context("cannot start the canary's child")?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the canary's child has no pipes");
        };
        Ok(Self {
            child,
            input,
            output: BufReader::new(output),
        })
    }

    /// Lets it do something; what it says of it.
    fn ask(&mut self, name: &str) -> Result<String> {
        writeln!(self.input, "{name}").context("the canary's child has ended")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        match line.trim_end() {
            "" => bail!("the canary's child ended at {name:?}"),
            said => Ok(said.to_owned()),
        }
    }

    fn end(mut self) -> Result<()> {
        drop(self.input);
        self.child.wait()?;
        Ok(())
    }
}

/// What the child does: for each name that it reads, the operation, and how it went.
///
/// # Errors
///
/// When it is not called as the canary calls it.
pub fn child(words: &[String]) -> Result<()> {
    let [folder, denied, own, allowed] = words else {
        bail!("this is for `doctor --canary` only");
    };
    let folder = Path::new(folder);
    let (denied, own, allowed): (u16, u16, u16) = (denied.parse()?, own.parse()?, allowed.parse()?);
    for line in std::io::stdin().lines() {
        let result = match line?.as_str() {
            "connect" => TcpStream::connect(("127.0.0.1", denied)).map(drop),
            "quarantine" => TcpStream::connect(("127.0.0.1", allowed)).map(drop),
            "bind" => TcpListener::bind(("127.0.0.1", own)).map(drop),
            "raw" => socket(libc::AF_INET, libc::IPPROTO_ICMP),
            "netlink" => socket(libc::AF_NETLINK, 0),
            "device" => fs::File::open(folder.join("device")).map(drop),
            "sysctl" => sysctl(),
            "exec" => Command::new(folder.join("exec")).status().map(drop),
            "open" => fs::File::open(folder.join("read")).map(drop),
            "unlink" => fs::remove_file(folder.join("unlink")),
            "ptrace" => trace(),
            "bpf" => list_maps(),
            "mount" => mount(&folder.join("mount")),
            "module" => load_module(),
            "signal" => signal(),
            other => bail!("what is {other:?}?"),
        };
        let said = match result {
            Ok(()) => "it went through".to_owned(),
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => "EPERM".to_owned(),
            Err(error) => error.to_string(),
        };
        super::print(&format!("{said}\n"))?;
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// The result of a system call.
fn called(result: i64) -> std::io::Result<()> {
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

fn socket(family: i32, protocol: i32) -> std::io::Result<()> {
    // SAFETY: numbers; the descriptor is closed when this process ends.
    called(unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) }.into())
}

fn sysctl() -> std::io::Result<()> {
    let path = Path::new("/proc/sys").join(SYSCTL);
    let mut value = Vec::new();
    fs::File::open(&path)?.read_to_end(&mut value)?;
    fs::File::options()
        .write(true)
        .open(&path)?
        .write_all(&value)
}

/// Takes hold of a child of its own.
fn trace() -> std::io::Result<()> {
    let mut child = Command::new("/proc/self/exe")
        .args(["doctor", "--canary-child"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let pid = libc::pid_t::try_from(child.id()).unwrap_or(0);
    let null = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: no memory is passed.
    let result = called(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, null, null) });
    child.kill()?;
    child.wait()?;
    result
}

/// Asks for the first map's id: `BPF_MAP_GET_NEXT_ID` of <linux/bpf.h>.
fn list_maps() -> std::io::Result<()> {
    let mut attributes = [0_u64; 16];
    // SAFETY: memory of the size that is passed.
    called(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            12,
            attributes.as_mut_ptr(),
            size_of_val(&attributes),
        )
    })
}

fn mount(folder: &Path) -> std::io::Result<()> {
    rustix::mount::mount(
        "tmpfs",
        folder,
        "tmpfs",
        rustix::mount::MountFlags::empty(),
        None,
    )?;
    rustix::mount::unmount(folder, rustix::mount::UnmountFlags::DETACH)?;
    Ok(())
}

/// Nothing that could be a module, but long enough to be looked at.
fn load_module() -> std::io::Result<()> {
    let image = [0_u8; 128];
    // SAFETY: memory of the size that is passed, and a string that ends with NUL.
    called(unsafe {
        libc::syscall(
            libc::SYS_init_module,
            image.as_ptr(),
            image.len(),
            c"".as_ptr(),
        )
    })
}

/// To the agentwatch that started this. It does nothing to who is not stopped.
fn signal() -> std::io::Result<()> {
    match rustix::process::getppid() {
        Some(parent) => Ok(rustix::process::kill_process(
            parent,
            rustix::process::Signal::CONT,
        )?),
        None => Err(std::io::ErrorKind::NotFound.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let verdict =
            |missing, said, observed| attempt(&OPERATIONS[0], missing, said, observed).verdict;
        assert_eq!(verdict(None, "EPERM", Some(false)), Verdict::Active);
        assert_eq!(
            verdict(None, "it went through", Some(true)),
            Verdict::ObserveOnly
        );
        assert_eq!(verdict(None, "it went through", None), Verdict::Broken);
        assert_eq!(verdict(None, "EPERM", None), Verdict::Broken);
        assert_eq!(
            verdict(Some("why"), "it went through", None),
            Verdict::Unavailable
        );
    }
}
