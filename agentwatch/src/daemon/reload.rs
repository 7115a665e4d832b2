//! The configuration and the policies, read again while the daemon runs.

use std::{path::Path, sync::Arc};

use anyhow::{Result, bail};

use super::{Daemon, door::Found, policies, service};
use crate::{
    config::Config,
    policy::{Policy, PolicyError},
};

impl Daemon {
    /// Reads them again. Where they are not right, all stays as it is; once they are, they hold: what cannot
    /// be done for one agent is said, and done for the others.
    pub(super) fn reload(&mut self, load: &dyn Fn() -> Result<Config, PolicyError>) {
        service::reloading();
        match load()
            .map_err(Into::into)
            .and_then(|config| self.change(config))
        {
            Ok(()) => tracing::info!("the configuration was read again"),
            Err(error) => tracing::error!("the configuration stays as it was: {error:#}"),
        }
        service::ready(self.host.agents().count());
        self.stale = true;
    }

    fn change(&mut self, config: Config) -> Result<()> {
        if config.agents.is_empty() {
            bail!("`agents` names no cgroups, so nothing would be watched");
        }
        let new = policies(&config)?;
        for field in fixed(&self.config, &config) {
            tracing::warn!("{field} has changed, which takes a restart");
        }
        // A policy that is the same stays the same to the kernel too.
        let known: Vec<Arc<Policy>> = self.rules.borrow().policies().cloned().collect();
        let policies = new
            .into_iter()
            .map(|(policy, source)| {
                let text = text(&policy);
                let same = known.iter().find(|known| self::text(known) == text);
                (same.cloned().unwrap_or(policy), source)
            })
            .collect();
        if self.config.history != config.history {
            self.writer.keep(config.history)?;
            self.config.history = config.history;
        }
        self.rules
            .borrow_mut()
            .replace(config.agents.clone(), policies);
        self.config.agents = config.agents;
        let found: Vec<u32> = self
            .host
            .agents()
            .filter(|agent| agent.runner.is_none())
            .map(|agent| agent.number)
            .collect();
        for number in found {
            self.judge_again(number);
        }
        if let Err(error) = self.look() {
            tracing::error!("it cannot be looked for new agents: {error:#}");
        }
        Ok(())
    }

    /// An agent that was found by looking gets the policy that is its own now, or is none any more and is left
    /// alone.
    pub(super) fn judge_again(&mut self, number: u32) {
        let Some(agent) = self.host.agent(number) else {
            return;
        };
        let (name, before) = (agent.name.clone(), agent.pipeline.policy());
        let wanted = {
            let rules = self.rules.borrow();
            let cgroup = rules.below_root(agent.cgroup().path());
            match rules.find(&cgroup) {
                Found::Is(at, container) => {
                    for field in rules.kept(at, container, &cgroup, agent) {
                        tracing::warn!(
                            agent = &*name,
                            "{field} has changed, which holds for agents that come from now on: this one \
                             keeps its own"
                        );
                    }
                    Some(rules.policy(at))
                }
                Found::No => None,
                // What the runtime said is not known any more: it holds.
                Found::Ask(_) => return,
            }
        };
        let Some((policy, source)) = wanted else {
            tracing::info!(agent = &*name, "is no agent any more");
            if let Err(error) = self.end(number) {
                tracing::error!(agent = &*name, "its watching cannot be ended: {error:#}");
            }
            return;
        };
        if Arc::ptr_eq(&policy, before) {
            return;
        }
        let homes = [Path::new("/root").to_owned()];
        match self.host.change_policy(number, &policy, &source, &homes) {
            Ok(()) => tracing::info!(agent = &*name, policy = source, "has another policy now"),
            Err(error) => tracing::error!(
                agent = &*name,
                policy = source,
                "keeps the policy that it had: {error:#}"
            ),
        }
    }
}

/// What cannot change while the daemon runs, and has.
fn fixed(before: &Config, now: &Config) -> Vec<&'static str> {
    let changed = [
        ("node", before.node != now.node),
        ("socket", before.socket != now.socket),
        ("socket_group", before.socket_group != now.socket_group),
        ("metrics", before.metrics != now.metrics),
        ("data_dir", before.data_dir != now.data_dir),
        (
            "container_sockets",
            before.container_sockets != now.container_sockets,
        ),
        (
            "map_memory_mib",
            before.map_memory_mib != now.map_memory_mib,
        ),
        ("log", before.log != now.log),
        ("clickhouse", before.clickhouse != now.clickhouse),
        ("lines", before.lines != now.lines),
        ("otlp", before.otlp != now.otlp),
    ];
    let names = changed.into_iter().filter(|(_, changed)| *changed);
    names.map(|(name, _)| name).collect()
}

/// All of a policy, to compare it.
fn text(policy: &Policy) -> String {
    serde_saphyr::to_string(policy).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each field that a running daemon cannot change is named, and no other.
    #[test]
    fn what_takes_a_restart_is_named() {
        let read = |lines: &str| -> Config {
            let head =
                "apiVersion: agentwatch/v1\nkind: Config\nnode: n\nagents: [{cgroup: /a/*}]\n";
            serde_saphyr::from_str(&format!("{head}{lines}")).unwrap()
        };
        let before = read("");
        assert_eq!(fixed(&before, &read("")), Vec::<&str>::new());
        for (field, lines) in [
            ("socket", "socket: /run/other.sock"),
            ("socket_group", "socket_group: adm"),
            ("metrics", "metrics: 127.0.0.1:9464"),
            ("data_dir", "data_dir: /srv/history"),
            ("container_sockets", "container_sockets: [/run/x.sock]"),
            ("map_memory_mib", "map_memory_mib: 100"),
            ("log", "log: {level: debug}"),
            ("log", "log: {format: json}"),
        ] {
            assert_eq!(fixed(&before, &read(lines)), [field], "{lines}");
        }
        let mut other = before.clone();
        other.node = "m".to_owned();
        assert_eq!(fixed(&before, &other), ["node"]);
        other = before.clone();
        other.agents = read("").agents.into_iter().chain(read("").agents).collect();
        assert_eq!(fixed(&before, &other), Vec::<&str>::new());
    }
}
