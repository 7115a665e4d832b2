//! Runs: cgroups that `agentwatch run` made, and asks the daemon to watch.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::sync::oneshot;

use super::{Daemon, runtimes};
use crate::{
    api::{
        Shared,
        model::{FoundBy, RunEnd, RunEnded, RunRequest, RunStarted},
    },
    event::ProcessKey,
    host::{Agent, Plan},
    policy::Policy,
    probe::seed,
    publish::account::Account,
    respond::cgroup::AgentCgroup,
    run::check_name,
};
use agentwatch_common::tag::agent_of_cgroup;

/// Most that is kept of what all runs ask for, bytes: it is written to the disk as a whole when anything of it
/// changes.
const REQUESTS: usize = 8 << 20;

/// What a run asks for.
pub enum Ask {
    /// To be watched.
    Start {
        /// What is to be watched, and how.
        request: Box<RunRequest>,
        /// Who asks.
        runner: Option<u32>,
        /// The agent.
        reply: oneshot::Sender<Result<RunStarted>>,
    },
    /// Its account: it has ended.
    End {
        /// Whose.
        number: u32,
        /// How it ended.
        request: RunEnd,
        /// The account.
        reply: oneshot::Sender<Result<RunEnded>>,
    },
}

impl Daemon {
    /// Does what a run asks for. Who asked may have gone away: nobody waits for the answer then.
    pub(super) fn serve_run(&mut self, ask: Ask) {
        match ask {
            Ask::Start {
                request,
                runner,
                reply,
            } => {
                let process = runner.map(|pid| ProcessKey {
                    pid,
                    start_ns: seed::stat(pid).map_or(0, |stat| stat.start_ns),
                });
                let started = self.start_run(Arc::from(request), process);
                self.publish();
                let _ = reply.send(started);
            }
            Ask::End {
                number,
                request,
                reply,
            } => {
                let ended = self.end_run(number, &request);
                self.publish();
                let _ = reply.send(ended);
            }
        }
    }

    pub(super) fn start_run(
        &mut self,
        request: Arc<RunRequest>,
        runner: Option<ProcessKey>,
    ) -> Result<RunStarted> {
        check_name(&request.name)?;
        let path = self.rules.borrow().on_disk(below_root(&request.cgroup)?);
        let id = fs::metadata(&path)
            .with_context(|| format!("there is no cgroup {}", path.display()))?
            .ino();
        ensure!(
            id == request.cgroup_id,
            "{} is cgroup {id} here, and {} where you are: the daemon sees other cgroups",
            path.display(),
            request.cgroup_id
        );
        let mut cgroup = AgentCgroup::adopt(path)?;
        if let Some(runner) = runner {
            cgroup = cgroup.protecting(runner.pid);
        }
        cgroup.refuse_protected()?;
        runtimes::refuse(&cgroup)?;
        // Before anything is changed.
        let number = agent_of_cgroup(id);
        let others = self.requests.iter().filter(|(of, _)| **of != number);
        let kept = others.map(|(_, request)| weight(request));
        ensure!(
            kept.sum::<usize>() + weight(&request) <= REQUESTS,
            "what all runs ask for is kept, and with this one takes more than {} MiB: a shorter policy or command",
            REQUESTS >> 20
        );
        let policy = policy(&request)?;
        match self.host.agent(number) {
            // The run asks again: it had lost its connection.
            Some(agent) if agent.runner.is_some() => return Ok(started(agent, &self.shared)),
            // Found by looking, before the run asked.
            Some(_) => self.end(number)?,
            None => {}
        }
        let name = self.rules.borrow_mut().name_again(id, &request.name);
        let mut outputs = self.outlets.outputs(&name, &request.command);
        outputs.account = Some(Account::new(&name, &request.command));
        let plan = Plan {
            name: name.clone(),
            cgroup,
            workspace: request.workspace.as_ref().map(PathBuf::from),
            policy: Arc::new(policy),
            policy_source: request
                .policy_source
                .clone()
                .unwrap_or_else(|| "default".into()),
            homes: request.homes.iter().map(PathBuf::from).collect(),
            found_by: FoundBy::Run {
                command: request.command.clone(),
            },
            runner,
        };
        if let Err(error) = self.host.add(plan, outputs) {
            self.rules.borrow_mut().free(&name);
            return Err(error);
        }
        self.host.pass_on_sockets(number);
        self.requests.insert(number, request);
        if let Some(saved) = self.pending.remove(&id) {
            self.recall(number, saved);
        }
        let agent = self.host.agent(number).context("it has ended meanwhile")?;
        Ok(started(agent, &self.shared))
    }

    /// Ends the watching of an agent of which nobody wants an account.
    pub(super) fn end(&mut self, number: u32) -> Result<()> {
        for ended in self.host.remove(&HashSet::from([number]))? {
            self.rules.borrow_mut().close(ended, None);
        }
        // Where its cgroup stays, agents may come to be below it.
        self.host.look_again = true;
        Ok(())
    }

    fn end_run(&mut self, number: u32, request: &RunEnd) -> Result<RunEnded> {
        let agent = self.host.agent(number).context("it has ended already")?;
        if agent.runner.is_none() {
            bail!(
                "{} is no run: its watching ends when its cgroup is removed",
                agent.name
            );
        }
        // What has happened by now is a part of it.
        self.host.pump()?;
        let mut ended = self.host.remove(&HashSet::from([number]))?;
        let mut ended = ended.pop().context("it has ended already")?;
        self.host.look_again |= request.left_running > 0;
        let mut account = ended.outputs.account.take().unwrap_or_default();
        account.tally(&ended.tally);
        account.left(request.left_running);
        let killed_by = ended.killed_by.as_ref().map(|finding| finding.id.clone());
        let status = request.exit_status.map(i32::from);
        account.ended(status, killed_by.as_deref());
        let kept = self.rules.borrow_mut().close(ended, status);
        if let Some((run, stats)) = kept {
            account.history(&self.shared.data_dir, &run, &stats);
        }
        Ok(RunEnded {
            killed_by,
            text: account.text(request.colour),
            account: serde_json::to_value(&account)?,
        })
    }

    /// Runs whose `agentwatch run` was killed: what is left of them is watched until the last process has
    /// ended; then the cgroup goes, which nobody else would remove.
    pub(super) fn sweep_runs(&mut self) -> Result<()> {
        let over: Vec<(u32, AgentCgroup)> = self
            .host
            .agents()
            .filter(|agent| {
                let is_over = |runner: ProcessKey| !seed::started_at(runner);
                agent.runner.is_some_and(is_over) && agent.cgroup().is_empty()
            })
            .map(|agent| (agent.number, agent.cgroup().clone()))
            .collect();
        for (number, cgroup) in over {
            // A process that has left the cgroup is the agent's still.
            if self.host.members(number).is_empty() {
                self.end(number)?;
                cgroup.remove();
            }
        }
        Ok(())
    }
}

/// What a run asks for takes so much memory, bytes.
fn weight(request: &RunRequest) -> usize {
    let RunRequest {
        name,
        cgroup,
        cgroup_id: _,
        command,
        policy,
        policy_source,
        workspace,
        homes,
    } = request;
    let texts = [name, cgroup].into_iter().chain(command).chain(homes);
    let more = [policy, policy_source, workspace].into_iter().flatten();
    texts
        .chain(more)
        .map(|text| text.len() + size_of::<String>())
        .sum()
}

fn started(agent: &Agent, shared: &Shared) -> RunStarted {
    RunStarted {
        id: agent.number,
        name: agent.name.to_string(),
        state: agent.standing.state(),
        run: agent.outputs.store.as_ref().map(|store| store.run.clone()),
        data_dir: shared.data_dir.display().to_string(),
        not_in_force: agent.not_in_force.clone(),
    }
}

/// A cgroup's path as it was given, if it stays below the root.
fn below_root(cgroup: &str) -> Result<&Path> {
    let path = Path::new(cgroup);
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    ensure!(
        path.components().all(plain) && path.file_name().is_some(),
        "{cgroup:?} is no cgroup's path below the root"
    );
    Ok(path)
}

fn policy(request: &RunRequest) -> Result<Policy> {
    let source = request.policy_source.as_deref().unwrap_or("the policy");
    let mut policy = match &request.policy {
        Some(text) => Policy::parse(text, source)?,
        None => Policy::default(),
    };
    for home in &request.homes {
        policy
            .sensitive
            .add_home(Path::new(home))
            .with_context(|| format!("the home folder {home} cannot stand for ~"))?;
    }
    Ok(policy)
}
