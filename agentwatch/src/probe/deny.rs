//! Denial: fills the kernel's maps from a policy, and attaches the programs that refuse.

use std::{
    collections::HashSet,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use agentwatch_common::{
    deny::{
        Denied, DeniedInode, DeniedKey, DeniedName, DeviceKey, DeviceRule, Enforcement, PeerKey,
        PeerRules, Repeat, RepeatKey, SYSCTL_NAME, SysctlKey, enforce, scope,
        section::{self, rule},
    },
    file::LEAF_MAX,
    kind, tag,
};
use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    Btf,
    maps::{
        Array, HashMap, MapData,
        lpm_trie::{Key, LpmTrie},
    },
    programs::{Program, ProgramError},
};
use bytes::{Bytes, BytesMut};

use super::{
    Probe, explain, support,
    tiers::{self, Limit, Place, Status},
};
use crate::{
    policy::{Need, Node, Policy, Rules},
    respond::protected::{self, Protected},
    source::{header, record},
};

/// The LSM programs that are attached, once for all agents.
pub struct LsmState {
    btf: Option<Arc<Btf>>,
    attached: HashSet<&'static str>,
    limit: Limit,
}

impl LsmState {
    /// With the kernel's types, where they have been read.
    pub(super) fn new(btf: Option<Arc<Btf>>, limit: Limit) -> Self {
        Self {
            btf,
            attached: HashSet::new(),
            limit,
        }
    }

    /// Nothing more is to be loaded now; the types are read again if that changes.
    pub(super) fn forget_btf(&mut self) {
        self.btf = None;
    }

    /// The kernel's types, read once.
    pub(super) fn btf(&mut self) -> Result<&Arc<Btf>> {
        if self.btf.is_none() {
            let btf = Btf::from_sys_fs().context("cannot read the kernel's BTF")?;
            self.btf = Some(Arc::new(btf));
        }
        self.btf.as_ref().context("just read")
    }
}

/// What is in force after [`Probe::enforce`].
#[derive(Debug, Default)]
pub struct Enforced {
    /// What the policy asks for and this kernel cannot do.
    pub missing: Vec<(Need, Status)>,
    /// What else its author may want to know.
    pub notes: Vec<String>,
    /// Why agents may send signals to agentwatch, where the kernel cannot refuse it.
    pub protection: Option<String>,
}

impl Enforced {
    /// What is missing, in words.
    pub fn explain(&self) -> String {
        let said: Vec<String> = self
            .missing
            .iter()
            .map(|(need, status)| {
                format!(
                    "{} ({}) needs {}: {}",
                    tiers::asked_by(*need),
                    status.capability,
                    status.tier.name(),
                    status.missing.as_deref().unwrap_or("")
                )
            })
            .collect();
        said.join("; ")
    }
}

impl Probe {
    /// Puts a policy's denials in force for an agent, before it runs.
    ///
    /// # Errors
    ///
    /// When there are more rules than the maps hold, or the cgroup cannot be opened. What the kernel
    /// cannot refuse is no error here: the caller knows whether that matters.
    pub fn enforce(
        &mut self,
        agent: u32,
        cgroup: &Path,
        policy: &Policy,
        homes: &[PathBuf],
    ) -> Result<Enforced> {
        let rules = policy.denials().map_err(anyhow::Error::msg)?;
        let mut enforced = Enforced::default();
        self.fill_peers(agent, &rules)?;
        let map: HashMap<_, u32, Enforcement> = self.map("ENFORCED")?.try_into()?;
        let before = map.get(&agent, 0).unwrap_or(Enforcement::NONE);
        let cut_off = before.flags & enforce::QUARANTINE;
        if cut_off != 0 {
            self.keep_no_others(agent, &rules.keep)?;
        }
        self.fill_devices(agent, policy, &mut enforced)?;
        self.fill_sysctls(agent, policy)?;
        self.fill_files(agent, policy, homes, &mut enforced)?;
        self.protect(&mut enforced);
        for need in &rules.needs {
            let status = self.hold(*need, Some((agent, cgroup)));
            if status.missing.is_some() {
                enforced.missing.push((*need, status));
            }
        }
        if rules.wire.flags != 0 {
            let mut wire = rules.wire;
            // Not for a moment is an agent let in that is cut off.
            wire.flags |= cut_off;
            self.set_enforcement(agent, wire)?;
        }
        Ok(enforced)
    }

    /// Cuts an agent off from the network but for what its policy keeps, or lets it in again.
    ///
    /// # Errors
    ///
    /// When the maps cannot be written.
    pub fn quarantine(&mut self, agent: u32, cut_off: bool) -> Result<()> {
        let map: HashMap<_, u32, Enforcement> = self.map("ENFORCED")?.try_into()?;
        let mut wire = map.get(&agent, 0).unwrap_or(Enforcement::NONE);
        if cut_off {
            wire.flags |= enforce::QUARANTINE;
        } else {
            wire.flags &= !enforce::QUARANTINE;
        }
        self.set_enforcement(agent, wire)
    }

    /// How it is with a capability on this kernel, without attaching anything.
    pub fn status(&mut self, need: Need) -> Status {
        self.hold(need, None)
    }

    /// Denials that were counted and not told one by one since the last one that was: how many, by rule.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn untold(&mut self, agent: u32) -> Result<Vec<(u32, Repeat)>> {
        let map: HashMap<_, RepeatKey, Repeat> = self.map("REPEATS")?.try_into()?;
        Ok(map
            .iter()
            .filter_map(Result::ok)
            .filter(|(key, repeat)| key.agent == agent && repeat.held > 0)
            .map(|(key, repeat)| (key.rule, repeat))
            .collect())
    }

    /// Loads the programs of a capability, and attaches those of a cgroup to it.
    fn hold(&mut self, need: Need, cgroup: Option<(u32, &Path)>) -> Status {
        let mut missing = None;
        for hook in tiers::hooks(need) {
            let result = match hook.place {
                // Loaded with all others, or nothing would be watched.
                Place::Always => Ok(()),
                Place::Cgroup => self
                    .hold_cgroup(hook.program, cgroup)
                    .map_err(|error| explain(&error)),
                Place::Lsm(name) => self.hold_lsm(hook.program, name, cgroup.is_some()),
            };
            match result {
                Ok(()) => {}
                Err(_) if hook.optional => {}
                Err(error) => {
                    missing.get_or_insert(error.to_string());
                    // The others would be refused for the same reason.
                    break;
                }
            }
        }
        Status {
            capability: tiers::name(need),
            tier: tiers::tier(need),
            missing,
        }
    }

    /// Loads an LSM program, and attaches it if that is wanted and has not been done.
    pub(super) fn hold_lsm(&mut self, name: &'static str, hook: &str, attach: bool) -> Result<()> {
        self.lsm.limit.allows(Limit::Lsm)?;
        // A program of a module that is not active loads and attaches, and is never asked.
        support::bpf_lsm_is_active()?;
        let btf = self.lsm.btf()?.clone();
        let Program::Lsm(program) = self.program(name)? else {
            bail!("{name} is no LSM program");
        };
        match program.load(hook, &btf) {
            Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
            Err(error) => bail!("{hook}: {}", explain(&error)),
        }
        if attach && !self.lsm.attached.contains(name) {
            let Program::Lsm(program) = self.program(name)? else {
                bail!("{name} is no LSM program");
            };
            program
                .attach()
                .map_err(|error| anyhow!("{hook}: {}", explain(&error)))?;
            self.lsm.attached.insert(name);
        }
        Ok(())
    }

    fn hold_cgroup(
        &mut self,
        name: &str,
        cgroup: Option<(u32, &Path)>,
    ) -> Result<(), ProgramError> {
        let loaded = match self.program(name)? {
            Program::CgroupSockAddr(program) => program.load(),
            Program::CgroupSock(program) => program.load(),
            Program::CgroupDevice(program) => program.load(),
            Program::CgroupSysctl(program) => program.load(),
            _ => Err(ProgramError::UnexpectedProgramType),
        };
        match loaded {
            Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
            Err(error) => return Err(error),
        }
        let Some((agent, cgroup)) = cgroup else {
            return Ok(());
        };
        let folder = File::open(cgroup).map_err(ProgramError::IOError)?;
        self.attach_to(agent, name, &folder)
    }

    fn set_enforcement(&mut self, agent: u32, wire: Enforcement) -> Result<()> {
        let mut map: HashMap<_, u32, Enforcement> = self.map("ENFORCED")?.try_into()?;
        map.insert(agent, wire, 0)
            .context("cannot put an agent's denials in force")?;
        self.switch_packet_rules(enforce::CONNECT | enforce::QUARANTINE)
    }

    /// Has packets judged only while an agent has rules about them: any of `flags`.
    pub(super) fn switch_packet_rules(&mut self, flags: u32) -> Result<()> {
        let map: HashMap<_, u32, Enforcement> = self.map("ENFORCED")?.try_into()?;
        let any = map
            .iter()
            .filter_map(Result::ok)
            .any(|(_, wire)| wire.flags & flags != 0);
        let mut switch: Array<_, u32> = self.map("PACKET_RULES")?.try_into()?;
        switch
            .set(0, u32::from(any), 0)
            .context("cannot switch the rules upon packets")
    }

    fn fill_peers(&mut self, agent: u32, rules: &Rules) -> Result<()> {
        let mut map: LpmTrie<_, PeerKey, PeerRules> = self.map("DENIED_PEERS")?.try_into()?;
        let mut fill = |scope: u32, nodes: &[Node]| -> Result<()> {
            for (bits, address, rules) in nodes {
                let key = PeerKey {
                    agent,
                    scope,
                    address: *address,
                };
                map.insert(&Key::new(PeerKey::BITS_BEFORE + bits, key), rules, 0)
                    .context("too many networks in the policy: at most 16384 of all agents")?;
            }
            Ok(())
        };
        fill(scope::CONNECT, &rules.connect)?;
        fill(scope::BIND, &rules.bind)?;
        fill(scope::KEEP, &rules.keep)
    }

    /// Removes what an agent that is cut off kept of the network by another policy, and by this one does not.
    fn keep_no_others(&mut self, agent: u32, keep: &[Node]) -> Result<()> {
        let mut map: LpmTrie<_, PeerKey, PeerRules> = self.map("DENIED_PEERS")?.try_into()?;
        let kept: HashSet<_> = keep
            .iter()
            .map(|(bits, address, _)| (PeerKey::BITS_BEFORE + bits, *address))
            .collect();
        let others: Vec<_> = map
            .keys()
            .filter_map(Result::ok)
            .filter(|key| {
                let of: PeerKey = key.data();
                of.agent == agent
                    && of.scope == scope::KEEP
                    && !kept.contains(&(key.prefix_len(), of.address))
            })
            .collect();
        for key in others {
            let _ = map.remove(&key);
        }
        Ok(())
    }

    fn fill_devices(&mut self, agent: u32, policy: &Policy, enforced: &mut Enforced) -> Result<()> {
        let mut map: HashMap<_, DeviceKey, DeviceRule> = self.map("DENIED_DEVICES")?.try_into()?;
        for (index, device) in policy.devices.deny.iter().enumerate() {
            let numbers = match device.resolve() {
                Ok(numbers) => numbers,
                Err(error) => {
                    enforced.notes.push(format!(
                        "devices.deny[{index}]: {}: {error}; nothing is denied for it",
                        device.text()
                    ));
                    continue;
                }
            };
            let key = DeviceKey {
                agent,
                kind: numbers.kind,
                major: numbers.major,
                minor: numbers.minor,
            };
            // The same device twice, with other accesses: all of them.
            let before = map.get(&key, 0).ok();
            let rule = DeviceRule {
                access: device.access | before.map_or(0, |rule| rule.access),
                rule: before.map_or_else(
                    || rule(section::DEVICES, u16::try_from(index).unwrap_or(u16::MAX)),
                    |rule| rule.rule,
                ),
            };
            map.insert(key, rule, 0)
                .context("too many devices in the policy: at most 8192 of all agents")?;
        }
        Ok(())
    }

    fn fill_files(
        &mut self,
        agent: u32,
        policy: &Policy,
        homes: &[PathBuf],
        enforced: &mut Enforced,
    ) -> Result<()> {
        if policy.files.is_empty() {
            return Ok(());
        }
        let found = policy.files.resolve(homes);
        if found.truncated {
            bail!("files: the patterns stand for more files and folders than the kernel is given");
        }
        for path in found.unresolved {
            enforced.notes.push(format!(
                "files: {path}: neither it nor its folder is there; nothing is denied for it"
            ));
        }
        let mut map: HashMap<_, DeniedKey, DeniedInode> = self.map("DENIED_INODES")?.try_into()?;
        for ((dev, ino), denied) in found.inodes {
            map.insert(DeniedKey { ino, dev, agent }, denied, 0)
                .context("too many denied files: at most 65536 of all agents")?;
        }
        let mut map: HashMap<_, DeniedName, DeniedInode> = self.map("DENIED_NAMES")?.try_into()?;
        for ((dev, ino, bytes), denied) in found.names {
            let mut name = [0; LEAF_MAX];
            name[..bytes.len()].copy_from_slice(&bytes);
            let folder = DeniedKey { ino, dev, agent };
            map.insert(DeniedName { folder, name }, denied, 0)
                .context("too many denied names: at most 65536 of all agents")?;
        }
        Ok(())
    }

    /// Names the processes that no agent may have, before anything is tagged.
    pub(super) fn name_protected(&mut self) {
        self.spare(&protected::known());
    }

    /// Names processes that no agent may have.
    pub fn spare(&mut self, list: &[Protected]) {
        let Ok(mut map) = self.protected() else {
            return;
        };
        for Protected { process, .. } in list {
            let protected = tag::Protected {
                start_ticks: process.start_ns / tag::Protected::TICK_NS,
                own: u64::from(process.pid == std::process::id()),
            };
            // Full: the farthest ancestors, which come last, are left out.
            if map.insert(process.pid, protected, 0).is_err() {
                break;
            }
        }
    }

    /// Takes back the names of all but those of agentwatch itself and these.
    pub fn spare_only<'a>(&mut self, list: impl Iterator<Item = &'a Protected>) {
        let mut stay: HashSet<u32> = list.map(|one| one.process.pid).collect();
        stay.extend(protected::known().iter().map(|one| one.process.pid));
        let Ok(mut map) = self.protected() else {
            return;
        };
        let gone: Vec<u32> = map
            .keys()
            .filter_map(Result::ok)
            .filter(|pid| !stay.contains(pid))
            .collect();
        for pid in gone {
            let _ = map.remove(&pid);
        }
    }

    fn protected(&mut self) -> Result<HashMap<&mut MapData, u32, tag::Protected>> {
        Ok(self.map("PROTECTED")?.try_into()?)
    }

    /// Has the kernel kill, or not, a process of an agent that moves one of those into a cgroup of the agent's.
    ///
    /// # Errors
    ///
    /// When there are too many agents.
    pub fn defend(&mut self, agent: u32, defends: bool) -> Result<()> {
        let mut map: HashMap<_, u32, u8> = self.map("DEFENDED")?.try_into()?;
        if !defends {
            // It is not there unless the policy was another one before.
            let _ = map.remove(&agent);
            return Ok(());
        }
        map.insert(agent, 1, 0)
            .context("too many agents: at most 1024")
    }

    /// Keeps agents' hands off this process, where the kernel can.
    fn protect(&mut self, enforced: &mut Enforced) {
        enforced.protection = self
            .hold(Need::Protection, Some((0, Path::new(""))))
            .missing;
    }

    fn fill_sysctls(&mut self, agent: u32, policy: &Policy) -> Result<()> {
        let mut map: LpmTrie<_, SysctlKey, u32> = self.map("DENIED_SYSCTLS")?.try_into()?;
        for (index, sysctl) in policy.sysctl.deny.iter().enumerate() {
            let mut name = [0; SYSCTL_NAME];
            name[..sysctl.key().len()].copy_from_slice(sysctl.key());
            let bits = u32::try_from((size_of::<u32>() + sysctl.key().len()) * 8)?;
            let rule = rule(section::SYSCTL, u16::try_from(index).unwrap_or(u16::MAX));
            map.insert(&Key::new(bits, SysctlKey { agent, name }), rule, 0)
                .context("too many sysctls in the policy: at most 8192 of all agents")?;
        }
        Ok(())
    }
}

/// The record of denials that were only counted, as the kernel would have sent it.
pub fn untold_record(agent: u32, number: u32, repeat: &Repeat, now_ns: u64) -> Bytes {
    let denied = Denied {
        rule: number,
        // This record is one itself.
        repeats: repeat.held.saturating_sub(1),
        op: u16::try_from(repeat.op).unwrap_or(0),
        ..Denied::NONE
    };
    let header = header(kind::DENIED, agent, repeat.tgid, repeat.start_ns, now_ns);
    record(&mut BytesMut::new(), header, &denied, &[])
}
