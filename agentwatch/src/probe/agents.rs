//! Agents in the kernel's maps: tagged, given their share, and forgotten again.

use std::{
    any::Any,
    collections::{HashMap as Map, HashSet},
    fs::{self, File},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::Path,
};

use agentwatch_common::{
    budget::Budget,
    deny::{
        DeniedInode, DeniedKey, DeniedName, DeviceKey, DeviceRule, Enforcement, PeerKey, PeerRules,
        Repeat, RepeatKey, SysctlKey, enforce, scope,
    },
    flow::Borrowed,
    loss::Share,
    tag::{Task, agent_of_cgroup},
};
use anyhow::{Context as _, Result, anyhow, ensure};
use aya::{
    Pod,
    maps::{HashMap, MapData, lpm_trie::LpmTrie},
    programs::{CgroupAttachMode, CgroupSkbAttachType, Program, ProgramError},
};

use super::{Probe, explain, hooks, support};

/// `BPF_NOEXIST` of include/uapi/linux/bpf.h: only where there is no entry.
const NO_EXIST: u64 = 1;
/// `BPF_EXIST`: only where there is one.
const EXIST: u64 = 2;

/// Programs that are attached to the cgroups of agents: detached when they are dropped.
#[derive(Default)]
pub(super) struct Links(Map<u32, Map<String, Box<dyn Any>>>);

impl Links {
    fn add(&mut self, agent: u32, program: &str, link: Box<dyn Any>) {
        let links = self.0.entry(agent).or_default();
        links.insert(program.to_owned(), link);
    }

    fn has(&self, agent: u32, program: &str) -> bool {
        self.0
            .get(&agent)
            .is_some_and(|links| links.contains_key(program))
    }
}

impl Probe {
    /// Tags a cgroup and attaches the socket programs to it.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the cgroup cannot be opened.
    pub fn watch(&mut self, agent: u32, cgroup: &Path, id: u64) -> Result<()> {
        let folder = File::open(cgroup)
            .with_context(|| format!("cannot open the cgroup {}", cgroup.display()))?;
        ensure!(
            folder.metadata()?.ino() == id,
            "the cgroup {} is another one by now",
            cgroup.display()
        );
        for name in hooks::CGROUP {
            self.attach_to(agent, name, &folder)
                .map_err(|error| explain(&error))
                .with_context(|| format!("cannot attach {name} to {}", cgroup.display()))?;
        }
        self.tag_cgroup(agent, id).context("cannot tag the cgroup")
    }

    /// Attaches a program to an agent's cgroup, once.
    pub(super) fn attach_to(
        &mut self,
        agent: u32,
        name: &str,
        folder: &File,
    ) -> Result<(), ProgramError> {
        if self.links.has(agent, name) {
            return Ok(());
        }
        let (fd, mode) = (folder.as_fd(), CgroupAttachMode::Single);
        // The links are ours and not the program's: an agent's go when it goes.
        macro_rules! attach {
            ($program:expr, $($argument:expr),+) => {{
                let id = $program.attach($($argument),+)?;
                Box::new($program.take_link(id)?)
            }};
        }
        let link: Box<dyn Any> = match self.program(name)? {
            Program::CgroupSockAddr(p) => attach!(p, fd, mode),
            Program::CgroupSock(p) => attach!(p, fd, mode),
            Program::SockOps(p) => attach!(p, fd, mode),
            Program::CgroupDevice(p) => attach!(p, fd, mode),
            Program::CgroupSysctl(p) => attach!(p, fd, mode),
            Program::CgroupSkb(p) if name == "packet_in" => {
                attach!(p, fd, CgroupSkbAttachType::Ingress, mode)
            }
            Program::CgroupSkb(p) => attach!(p, fd, CgroupSkbAttachType::Egress, mode),
            _ => return Err(ProgramError::UnexpectedProgramType),
        };
        self.links.add(agent, name, link);
        Ok(())
    }

    /// Has the kernel tag new cgroups at once that may be agents': `levels` says how far below this one,
    /// see `agentwatch_common::tag::below`.
    ///
    /// # Errors
    ///
    /// When the map is full.
    pub fn look_below(&mut self, id: u64, levels: u32) -> Result<()> {
        let mut parents: HashMap<_, u64, u32> = self.map("PARENTS")?.try_into()?;
        let before = parents.get(&id, 0).unwrap_or(0);
        parents
            .insert(id, before | levels, 0)
            .context("there are more than 16384 cgroups below which agents may be")
    }

    /// Has it look for none below these any more: they are an agent's.
    ///
    /// # Errors
    ///
    /// When the map is missing.
    pub fn look_no_more_below(&mut self, ids: impl Iterator<Item = u64>) -> Result<()> {
        let mut parents: HashMap<_, u64, u32> = self.map("PARENTS")?.try_into()?;
        for id in ids {
            // Most of them are not in it.
            let _ = parents.remove(&id);
        }
        Ok(())
    }

    /// Tags a cgroup below one that is watched and was there before.
    ///
    /// # Errors
    ///
    /// When the map is full.
    pub fn tag_cgroup(&mut self, agent: u32, id: u64) -> Result<()> {
        let mut cgroups: HashMap<_, u64, u32> = self.map("CGROUPS")?.try_into()?;
        Ok(cgroups.insert(id, agent, 0)?)
    }

    /// Tags a process that ran already. False where the kernel has tagged it meanwhile: it knows better.
    ///
    /// # Errors
    ///
    /// When the map is full.
    pub fn tag(&mut self, pid: u32, task: Task) -> Result<bool> {
        let mut tasks: HashMap<_, u32, Task> = self.map("TASKS")?.try_into()?;
        match tasks.insert(pid, task, NO_EXIST) {
            Ok(()) => Ok(true),
            Err(_) if tasks.get(&pid, 0).is_ok() => Ok(false),
            Err(error) => Err(error).context("cannot tag a process"),
        }
    }

    /// Takes away the tag of a process that has ended.
    ///
    /// # Errors
    ///
    /// When the map is missing.
    pub fn forget_process(&mut self, pid: u32) -> Result<()> {
        let mut tasks: HashMap<_, u32, Task> = self.map("TASKS")?.try_into()?;
        // The kernel may have done it.
        let _ = tasks.remove(&pid);
        Ok(())
    }

    /// The process ids that carry an agent's tag.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn tagged(&self, agent: u32) -> Result<Vec<(u32, Task)>> {
        let map = self
            .ebpf
            .map("TASKS")
            .ok_or_else(|| anyhow!("no map TASKS"))?;
        let tasks: HashMap<_, u32, Task> = HashMap::try_from(map)?;
        Ok(tasks
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, task)| task.agent == agent)
            .collect())
    }

    /// The agent whose process this is.
    pub fn agent_of(&self, pid: u32) -> Option<u32> {
        let tasks: HashMap<_, u32, Task> = self.ebpf.map("TASKS")?.try_into().ok()?;
        tasks.get(&pid, 0).ok().map(|task| task.agent)
    }

    /// The agents that have a process.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn with_processes(&self) -> Result<HashSet<u32>> {
        Ok(self
            .tasks()?
            .into_iter()
            .map(|(_, task)| task.agent)
            .collect())
    }

    /// Every process that is tagged, by its id.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn tasks(&self) -> Result<Vec<(u32, Task)>> {
        let map = self
            .ebpf
            .map("TASKS")
            .ok_or_else(|| anyhow!("no map TASKS"))?;
        let tasks: HashMap<_, u32, Task> = HashMap::try_from(map)?;
        Ok(tasks.iter().filter_map(Result::ok).collect())
    }

    /// Takes the tags of agents away: nothing is sent of them any more.
    ///
    /// # Errors
    ///
    /// When a map cannot be read.
    pub fn untag(&mut self, agents: &HashSet<u32>) -> Result<()> {
        let mut cgroups: HashMap<_, u64, u32> = self.map("CGROUPS")?.try_into()?;
        remove(&mut cgroups, |_, agent| agents.contains(agent));
        let mut tasks: HashMap<_, u32, Task> = self.map("TASKS")?.try_into()?;
        remove(&mut tasks, |_, task| agents.contains(&task.agent));
        Ok(())
    }

    /// Takes the tag of a cgroup away, where it is this agent's.
    ///
    /// # Errors
    ///
    /// When the map is missing.
    pub fn untag_cgroup(&mut self, id: u64, agent: u32) -> Result<()> {
        let mut cgroups: HashMap<_, u64, u32> = self.map("CGROUPS")?.try_into()?;
        if cgroups.get(&id, 0).is_ok_and(|tag| tag == agent) {
            let _ = cgroups.remove(&id);
        }
        Ok(())
    }

    /// Takes the tags of an agent's processes away; those in a cgroup that has another tag get that one.
    ///
    /// # Errors
    ///
    /// When a map cannot be read.
    pub fn untag_tasks(&mut self, agent: u32) -> Result<()> {
        self.hand_down_tasks(agent)?;
        let mut tasks: HashMap<_, u32, Task> = self.map("TASKS")?.try_into()?;
        remove(&mut tasks, |_, task| task.agent == agent);
        Ok(())
    }

    /// Takes the tag of a cgroup that is no agent's away, and from those below it: `own` become agents of their
    /// own, of `known` the others are nobody's. One that is not known has come to be since that was looked up,
    /// or is no more: it stays as it is, or where this is the `last` time becomes its own, of which its own
    /// record tells. How many stay comes back.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn hand_down(
        &mut self,
        number: u32,
        own: &HashSet<u64>,
        known: &HashSet<u64>,
        last: bool,
    ) -> Result<usize> {
        let mut cgroups: HashMap<_, u64, u32> = self.map("CGROUPS")?.try_into()?;
        let tagged: Vec<u64> = cgroups
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, agent)| *agent == number)
            .map(|(id, _)| id)
            .collect();
        let mut left = 0;
        for id in tagged {
            let itself = agent_of_cgroup(id);
            if itself != number && (own.contains(&id) || (last && !known.contains(&id))) {
                // Gone meanwhile: nothing to tag.
                let _ = cgroups.insert(id, itself, EXIST);
            } else if itself == number || known.contains(&id) {
                let _ = cgroups.remove(&id);
            } else {
                left += 1;
            }
        }
        Ok(left)
    }

    /// The same for its processes: those in a cgroup that has a tag get that one.
    ///
    /// # Errors
    ///
    /// When a map cannot be read.
    pub fn hand_down_tasks(&mut self, number: u32) -> Result<()> {
        for (pid, task) in self.tagged(number)? {
            let cgroups: HashMap<_, u64, u32> = self.map("CGROUPS")?.try_into()?;
            let agent = cgroup_of(pid).and_then(|id| cgroups.get(&id, 0).ok());
            let mut tasks: HashMap<_, u32, Task> = self.map("TASKS")?.try_into()?;
            // What has ended meanwhile is there no more.
            if let Some(agent) = agent.filter(|agent| *agent != number) {
                let _ = tasks.insert(pid, Task { agent, ..task }, EXIST);
            }
        }
        Ok(())
    }

    /// Limits what an agent may have unread in the rings, to a part of each: so that with others watched
    /// beside it a flood costs none of them an event.
    ///
    /// # Errors
    ///
    /// When there are too many agents.
    pub fn share(&mut self, agent: u32, prio_bytes: u64, bulk_bytes: u64) -> Result<()> {
        let share = Share {
            limit: [prio_bytes, bulk_bytes],
            sent: [0; 2],
        };
        let mut shares: HashMap<_, u32, Share> = self.map("SHARES")?.try_into()?;
        // It may have it since it was asked whose its cgroup is: what it has sent since counts.
        match shares.insert(agent, share, NO_EXIST) {
            Err(_) if shares.get(&agent, 0).is_ok() => Ok(()),
            given => given.context(
                "cannot give the agent its share of the rings: 1024 agents are watched already",
            ),
        }
    }

    /// Removes agents that were untagged from every map, and detaches what is attached to their cgroups.
    /// Not from those where the least recently used goes by itself, nor from those that the source has
    /// ([`super::Rings::forget`]).
    ///
    /// # Errors
    ///
    /// When a map cannot be read.
    pub fn forget(&mut self, agents: &HashSet<u32>) -> Result<()> {
        for agent in agents {
            self.links.0.remove(agent);
        }
        let mut shares: HashMap<_, u32, Share> = self.map("SHARES")?.try_into()?;
        for agent in agents {
            let _ = shares.remove(agent);
        }
        let mut budgets: HashMap<_, u32, Budget> = self.map("BUDGETS")?.try_into()?;
        for agent in agents {
            let _ = budgets.remove(agent);
        }
        let mut unthinned: HashMap<_, u32, u8> = self.map("UNTHINNED")?.try_into()?;
        for agent in agents {
            let _ = unthinned.remove(agent);
        }
        let mut defended: HashMap<_, u32, u8> = self.map("DEFENDED")?.try_into()?;
        for agent in agents {
            let _ = defended.remove(agent);
        }
        let mut borrowed: HashMap<_, u64, Borrowed> = self.map("BORROWED")?.try_into()?;
        remove(&mut borrowed, |_, socket| agents.contains(&socket.agent));
        let denied: Vec<u32> = {
            let enforced: HashMap<_, u32, Enforcement> = self.map("ENFORCED")?.try_into()?;
            let with = |agent: &&u32| enforced.get(agent, 0).is_ok();
            agents.iter().filter(with).copied().collect()
        };
        if !denied.is_empty() {
            let mut enforced: HashMap<_, u32, Enforcement> = self.map("ENFORCED")?.try_into()?;
            for agent in &denied {
                let _ = enforced.remove(agent);
            }
            self.forget_denials(&denied.into_iter().collect())?;
        }
        Ok(())
    }

    /// Takes back what the policies of agents deny. Who is cut off from the network stays so, but for the same as
    /// before ([`Probe::enforce`] puts what is new in its place).
    ///
    /// # Errors
    ///
    /// When a map cannot be read.
    pub fn forget_denials(&mut self, agents: &HashSet<u32>) -> Result<()> {
        let of = |agent: u32| agents.contains(&agent);
        let mut enforced: HashMap<_, u32, Enforcement> = self.map("ENFORCED")?.try_into()?;
        let is_cut_off = |wire: &Enforcement| wire.flags & enforce::QUARANTINE != 0;
        let mut cut_off = HashSet::new();
        for agent in agents {
            if enforced.get(agent, 0).is_ok_and(|wire| is_cut_off(&wire)) {
                cut_off.insert(*agent);
                let only = Enforcement {
                    flags: enforce::QUARANTINE,
                    ..Enforcement::NONE
                };
                enforced.insert(agent, only, EXIST)?;
            }
        }
        remove(&mut enforced, |agent, wire| of(*agent) && !is_cut_off(wire));
        let mut peers: LpmTrie<_, PeerKey, PeerRules> = self.map("DENIED_PEERS")?.try_into()?;
        let gone: Vec<_> = peers
            .keys()
            .filter_map(Result::ok)
            .filter(|key| {
                let PeerKey { agent, scope, .. } = key.data();
                of(agent) && !(scope == scope::KEEP && cut_off.contains(&agent))
            })
            .collect();
        for key in gone {
            let _ = peers.remove(&key);
        }
        let mut sysctls: LpmTrie<_, SysctlKey, u32> = self.map("DENIED_SYSCTLS")?.try_into()?;
        let gone: Vec<_> = sysctls
            .keys()
            .filter_map(Result::ok)
            .filter(|key| of({ key.data() }.agent))
            .collect();
        for key in gone {
            let _ = sysctls.remove(&key);
        }
        let mut devices: HashMap<_, DeviceKey, DeviceRule> =
            self.map("DENIED_DEVICES")?.try_into()?;
        remove(&mut devices, |key, _| of(key.agent));
        let mut inodes: HashMap<_, DeniedKey, DeniedInode> =
            self.map("DENIED_INODES")?.try_into()?;
        remove(&mut inodes, |key, _| of(key.agent));
        let mut names: HashMap<_, DeniedName, DeniedInode> =
            self.map("DENIED_NAMES")?.try_into()?;
        remove(&mut names, |key, _| of(key.folder.agent));
        let mut repeats: HashMap<_, RepeatKey, Repeat> = self.map("REPEATS")?.try_into()?;
        remove(&mut repeats, |key, _| of(key.agent));
        self.switch_packet_rules(enforce::CONNECT | enforce::QUARANTINE)
    }
}

/// Removes the entries that are meant. What is gone already, or comes meanwhile, does not matter: nobody
/// makes new ones for an agent without tags.
fn remove<K: Pod, V: Pod>(map: &mut HashMap<&mut MapData, K, V>, meant: impl Fn(&K, &V) -> bool) {
    let gone: Vec<K> = map
        .iter()
        .filter_map(Result::ok)
        .filter(|(key, value)| meant(key, value))
        .map(|(key, _)| key)
        .collect();
    for key in gone {
        let _ = map.remove(&key);
    }
}

/// The id of the cgroup that a process is in.
fn cgroup_of(pid: u32) -> Option<u64> {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let folder = support::cgroup2().ok()?.join(path);
    fs::metadata(folder).ok().map(|folder| folder.ino())
}
