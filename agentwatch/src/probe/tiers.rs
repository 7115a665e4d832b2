//! What the kernel can refuse, by capability: which programs hold it, in which tier, and why it is not
//! held where it is not.

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::policy::Need;

/// What a capability rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Tracepoints: on every kernel.
    Tracepoint,
    /// Programs of a cgroup: on every kernel.
    Cgroup,
    /// Programs at the entry of kernel functions.
    Trampoline,
    /// BPF among the Linux security modules.
    Lsm,
}

/// The best that may be used. What is better is left alone, as if the kernel refused it: for a kernel on
/// which it misbehaves, and for comparing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Limit {
    /// Tracepoints and programs of a cgroup, which are there on every kernel
    Tracepoint,
    /// Programs at kernel functions as well: they cost other processes less, and know paths better
    Trampoline,
    /// Programs among the security modules as well: without them less can be denied
    Lsm,
}

impl Limit {
    /// Whether a tier may be used.
    ///
    /// # Errors
    ///
    /// When it may not; the error says so.
    pub fn allows(self, tier: Self) -> Result<()> {
        let name = |limit| match limit {
            Self::Tracepoint => Tier::Tracepoint.name(),
            Self::Trampoline => Tier::Trampoline.name(),
            Self::Lsm => Tier::Lsm.name(),
        };
        ensure!(tier <= self, "--tier {} leaves it out", name(self));
        Ok(())
    }
}

impl Tier {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tracepoint => "tracepoint",
            Self::Cgroup => "cgroup",
            Self::Trampoline => "trampoline",
            Self::Lsm => "lsm",
        }
    }
}

/// How it is with a capability on this kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Its stable name.
    pub capability: &'static str,
    /// What it rests on.
    pub tier: Tier,
    /// Why the kernel does not have it; `None` where it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// A program that refuses.
pub struct DenyHook {
    /// Its name in the object.
    pub program: &'static str,
    /// Where it is attached.
    pub place: Place,
    /// Kernels have it by configuration or since some version: what else refuses the same is enough.
    pub optional: bool,
}

/// Where a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// To the agent's cgroup.
    Cgroup,
    /// To the agent's cgroup, with all other programs that are always there: see
    /// [`super::hooks::CGROUP`].
    Always,
    /// To this hook of the security modules, for all the host.
    Lsm(&'static str),
}

/// All that can be needed.
pub const NEEDS: [Need; 14] = [
    Need::Connect,
    Need::Bind,
    Need::IpSockets,
    Need::Devices,
    Need::Sysctl,
    Need::OtherSockets,
    Need::Exec,
    Need::OpenFiles,
    Need::ChangeFiles,
    Need::Ptrace,
    Need::Bpf,
    Need::Mount,
    Need::ModuleLoad,
    Need::Protection,
];

/// The stable name of a capability.
pub fn name(need: Need) -> &'static str {
    match need {
        Need::Connect => "deny-network",
        Need::Bind => "deny-bind",
        Need::IpSockets => "deny-ip-sockets",
        Need::OtherSockets => "deny-other-sockets",
        Need::Devices => "deny-devices",
        Need::Sysctl => "deny-sysctl",
        Need::Exec => "deny-exec",
        Need::OpenFiles => "deny-file-open",
        Need::ChangeFiles => "deny-file-delete",
        Need::Ptrace => "deny-ptrace",
        Need::Bpf => "deny-bpf",
        Need::Mount => "deny-mount",
        Need::ModuleLoad => "deny-module-load",
        Need::Protection => "protection",
    }
}

/// The fields of a policy that ask for a capability.
pub fn asked_by(need: Need) -> &'static str {
    match need {
        Need::Connect => "network",
        Need::Bind => "network.bind",
        Need::IpSockets | Need::OtherSockets => "sockets.deny",
        Need::Devices => "devices.deny",
        Need::Sysctl => "sysctl.deny",
        Need::Exec => "files.deny_exec",
        Need::OpenFiles => "files.deny_read, files.deny_write",
        Need::ChangeFiles => "files",
        Need::Ptrace | Need::Bpf | Need::Mount | Need::ModuleLoad => "deny",
        Need::Protection => "agentwatch itself",
    }
}

/// Its tier.
pub fn tier(need: Need) -> Tier {
    match need {
        Need::Connect | Need::Bind | Need::IpSockets | Need::Devices | Need::Sysctl => Tier::Cgroup,
        Need::OtherSockets
        | Need::Exec
        | Need::OpenFiles
        | Need::ChangeFiles
        | Need::Ptrace
        | Need::Bpf
        | Need::Mount
        | Need::ModuleLoad
        | Need::Protection => Tier::Lsm,
    }
}

const fn hook(program: &'static str, place: Place) -> DenyHook {
    DenyHook {
        program,
        place,
        optional: false,
    }
}

const fn lsm(program: &'static str, name: &'static str) -> DenyHook {
    hook(program, Place::Lsm(name))
}

/// One that newer kernels ask in place of another one here.
const fn since(program: &'static str, name: &'static str) -> DenyHook {
    DenyHook {
        optional: true,
        ..lsm(program, name)
    }
}

/// The programs that a capability rests on.
pub fn hooks(need: Need) -> &'static [DenyHook] {
    match need {
        Need::Connect => {
            const {
                &[
                    hook("connect4", Place::Always),
                    hook("connect6", Place::Always),
                    hook("sendmsg4", Place::Always),
                    hook("sendmsg6", Place::Always),
                    hook("packet_out", Place::Always),
                ]
            }
        }
        Need::Bind => const { &[hook("bind4", Place::Cgroup), hook("bind6", Place::Cgroup)] },
        Need::IpSockets => const { &[hook("sock_create", Place::Cgroup)] },
        Need::Devices => const { &[hook("device", Place::Cgroup)] },
        Need::Sysctl => const { &[hook("sysctl", Place::Cgroup)] },
        Need::OtherSockets => const { &[lsm("lsm_socket_create", "socket_create")] },
        Need::Exec => {
            const {
                &[
                    lsm("lsm_bprm_check", "bprm_check_security"),
                    lsm("lsm_mmap_file", "mmap_file"),
                ]
            }
        }
        Need::OpenFiles => {
            const {
                &[
                    lsm("lsm_file_open", "file_open"),
                    lsm("lsm_path_truncate", "path_truncate"),
                    since("lsm_file_truncate", "file_truncate"),
                    lsm("lsm_path_chmod", "path_chmod"),
                    lsm("lsm_path_chown", "path_chown"),
                    lsm("lsm_path_mknod", "path_mknod"),
                    lsm("lsm_path_mkdir", "path_mkdir"),
                    lsm("lsm_path_symlink", "path_symlink"),
                    lsm("lsm_inode_setxattr", "inode_setxattr"),
                    since("lsm_inode_set_acl", "inode_set_acl"),
                ]
            }
        }
        Need::ChangeFiles => {
            const {
                &[
                    lsm("lsm_path_unlink", "path_unlink"),
                    lsm("lsm_path_rmdir", "path_rmdir"),
                    lsm("lsm_path_rename", "path_rename"),
                    lsm("lsm_path_rename_to", "path_rename"),
                    lsm("lsm_path_link", "path_link"),
                    lsm("lsm_path_link_to", "path_link"),
                ]
            }
        }
        Need::Ptrace => {
            const {
                &[
                    lsm("lsm_ptrace", "ptrace_access_check"),
                    lsm("lsm_ptrace_traceme", "ptrace_traceme"),
                ]
            }
        }
        Need::Bpf => const { &[lsm("lsm_bpf", "bpf")] },
        Need::Mount => {
            const {
                &[
                    lsm("lsm_sb_mount", "sb_mount"),
                    lsm("lsm_move_mount", "move_mount"),
                ]
            }
        }
        Need::ModuleLoad => {
            const {
                &[
                    lsm("lsm_module_request", "kernel_module_request"),
                    lsm("lsm_read_file", "kernel_read_file"),
                    lsm("lsm_load_data", "kernel_load_data"),
                ]
            }
        }
        Need::Protection => {
            const {
                &[
                    lsm("lsm_task_kill", "task_kill"),
                    lsm("lsm_ptrace", "ptrace_access_check"),
                ]
            }
        }
    }
}
