//! Watching a command from its start to its end, by this process or by the daemon.

use std::{ffi::OsString, io, path::PathBuf, task::Poll};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    Leftover,
    guest::{Asked, Guest},
};
use crate::{
    api::model::{RunEnded, RunRequest},
    event::Tally,
    finding::Finding,
    host::{self, Outputs, Plan},
    probe,
    publish::{account::Account, notice::Notices},
    recording::Recorder,
    respond::{EMPTY_WITHIN, cgroup::AgentCgroup},
    run::{Change, Job, User},
    session::Session,
    store::Store,
};

/// What is watched.
pub enum Task<'a> {
    /// A command, from its start to its end.
    Command {
        command: &'a [OsString],
        user: Option<&'a User>,
        leftover: Leftover,
    },
    /// What is in the cgroup, until somebody says it is enough, or the cgroup is gone.
    Cgroup,
}

/// What it takes to watch without a daemon.
pub struct Alone {
    pub options: probe::Options,
    pub plan: Plan,
    pub command: Vec<String>,
    /// The folder of the history, if there is to be one.
    pub history: Option<PathBuf>,
    pub recorder: Option<Recorder>,
}

/// How it ended.
pub struct Ended {
    pub change: Option<Change>,
    /// Why the command could not be started, and which.
    pub failure: Option<(io::Error, String)>,
    pub left: usize,
    pub told: Told,
}

/// What is known of it, by who watched.
pub enum Told {
    /// This process.
    Own {
        outputs: Box<Outputs>,
        /// The folder of the history.
        history: Option<PathBuf>,
        tally: Tally,
        killed_by: Option<Box<Finding>>,
    },
    /// The daemon; without an account where that has gone away.
    Daemon {
        notices: Notices,
        ended: Option<RunEnded>,
    },
}

/// Watches from the start to the end. With a daemon at the socket that is one, it does.
pub fn watch(
    alone: Alone,
    notices: Notices,
    daemon: Option<(PathBuf, RunRequest)>,
    task: &Task<'_>,
) -> Result<Ended> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(async {
        // Signals are ours from here on: none may end agentwatch while an agent runs.
        let mut signals = Signals::new()?;
        let cgroup = alone.plan.cgroup.clone();
        let mut watcher = Watcher::start(alone, notices, daemon).await?;
        if matches!(task, Task::Command { .. })
            && let Watcher::Own(session, _) = &mut watcher
        {
            session.pass_on_sockets();
        }
        let (change, failure, left) = match task {
            Task::Command {
                command,
                user,
                leftover,
            } => match Job::spawn(command, &cgroup, *user) {
                Ok(job) => {
                    let ended =
                        command_to_end(&mut watcher, &cgroup, job, &mut signals, *leftover).await;
                    let (change, left) = match ended {
                        Ok(ended) => ended,
                        Err(error) => return Err(watcher.give_up(&cgroup, error).await),
                    };
                    (Some(change), None, left)
                }
                Err(error) => {
                    let program = command.first().map(|program| program.as_encoded_bytes());
                    let program = crate::text::escape(program.unwrap_or_default());
                    (None, Some((error, program)), 0)
                }
            },
            Task::Cgroup => {
                until_told(&mut watcher, &cgroup, &mut signals).await?;
                (None, None, 0)
            }
        };
        let told = watcher.end(change.map(Change::status), left).await?;
        Ok(Ended {
            change,
            failure,
            left,
            told,
        })
    })
}

/// Who watches.
enum Watcher {
    Own(Box<Session>, Option<PathBuf>),
    Daemon(Box<Guest>, Box<Alone>),
    /// Nobody any more.
    Over,
}

impl Watcher {
    async fn start(
        alone: Alone,
        notices: Notices,
        daemon: Option<(PathBuf, RunRequest)>,
    ) -> Result<Self> {
        let Some((socket, request)) = daemon else {
            return alone.start(notices);
        };
        let cgroup = alone.plan.cgroup.clone();
        match Guest::ask(socket, request, cgroup, notices).await? {
            Asked::Watched(guest) => Ok(Self::Daemon(guest, Box::new(alone))),
            Asked::Nobody(notices) => alone.start(notices),
        }
    }

    /// Waits until something wants to be looked at, a tick at most.
    async fn wait(&mut self) {
        match self {
            Self::Own(session, _) => session.wait().await,
            Self::Daemon(guest, _) => guest.wait().await,
            Self::Over => {}
        }
    }

    /// Takes in what has happened. Where the daemon has gone away for good, this process watches from here on.
    async fn pump(&mut self) -> Result<()> {
        match self {
            Self::Own(session, _) => session.pump(),
            Self::Daemon(guest, _) => {
                if guest.pump().await? {
                    return Ok(());
                }
                let Self::Daemon(mut guest, alone) = std::mem::replace(self, Self::Over) else {
                    return Ok(());
                };
                let (mut notices, stays_frozen) = guest.hand_over();
                notices.write("agentwatch: no daemon; watching without one from here on\n");
                let history = Some(guest.data_dir());
                *self = match (Alone { history, ..*alone }).start(notices) {
                    Ok(own) => own,
                    Err(error) => {
                        // Nobody watches it, and nobody would let it go on.
                        guest.cgroup().kill()?;
                        return Err(error);
                    }
                };
                if !stays_frozen {
                    guest.cgroup().freeze(false)?;
                } else if let Self::Own(session, _) = self {
                    session.stands_still();
                }
                Ok(())
            }
            Self::Over => Ok(()),
        }
    }

    fn notices(&mut self) -> Option<&mut Notices> {
        match self {
            Self::Own(session, _) => session.notices(),
            Self::Daemon(guest, _) => Some(guest.notices()),
            Self::Over => None,
        }
    }

    fn is_killed(&self) -> bool {
        match self {
            Self::Own(session, _) => session.is_killed(),
            Self::Daemon(guest, _) => guest.is_killed(),
            Self::Over => false,
        }
    }

    fn is_frozen(&self) -> bool {
        match self {
            Self::Own(session, _) => session.is_frozen(),
            Self::Daemon(guest, _) => guest.is_frozen(),
            Self::Over => false,
        }
    }

    async fn members(&self) -> usize {
        match self {
            Self::Own(session, _) => session.members().len(),
            Self::Daemon(guest, _) => guest.members().await,
            Self::Over => 0,
        }
    }

    async fn end_members(&self) -> Result<()> {
        match self {
            Self::Own(session, _) => session.end_members(),
            Self::Daemon(guest, _) => guest.end_members().await,
            Self::Over => Ok(()),
        }
    }

    /// Ends an agent that nobody would watch from here on; tells why.
    async fn give_up(&self, cgroup: &AgentCgroup, error: anyhow::Error) -> anyhow::Error {
        // At least what is in the cgroup.
        let ended = self.end_members().await.or_else(|_| cgroup.kill());
        let ended = ended.and_then(|()| {
            ensure!(cgroup.wait_empty(EMPTY_WITHIN), "some of it is still alive");
            Ok(())
        });
        error.context(match ended {
            Ok(()) => "the agent was ended, since it cannot be watched any more".to_owned(),
            Err(why) => {
                format!("the agent runs on and is not watched, since it cannot be ended: {why:#}")
            }
        })
    }

    async fn end(self, exit_status: Option<u8>, left: usize) -> Result<Told> {
        match self {
            Self::Own(session, history) => {
                let (outputs, tally, killed_by) = session.end()?;
                Ok(Told::Own {
                    outputs: Box::new(outputs),
                    history,
                    tally,
                    killed_by: killed_by.map(Box::new),
                })
            }
            Self::Daemon(guest, _) => {
                let (notices, ended) = guest.end(exit_status, left).await;
                Ok(Told::Daemon { notices, ended })
            }
            Self::Over => anyhow::bail!("the agent is not watched"),
        }
    }
}

impl Alone {
    fn start(self, notices: Notices) -> Result<Watcher> {
        let Self {
            options,
            plan,
            command,
            history,
            recorder,
        } = self;
        let store = history
            .as_deref()
            .map(|dir| Store::open(dir, &plan.name, &command, host::wall_offset_ns()))
            .transpose()?;
        let outputs = Outputs {
            store,
            recorder,
            account: Some(Account::new(&plan.name, &command)),
            notices,
            stream: None,
        };
        let session = Session::start(&options, plan, outputs)?;
        Ok(Watcher::Own(Box::new(session), history))
    }
}

/// The signals that are passed on, and that of a child.
struct Signals {
    child: tokio::signal::unix::Signal,
    others: [(Signal, tokio::signal::unix::Signal); 6],
}

impl Signals {
    fn new() -> Result<Self> {
        let on = |kind| signal(kind).context("cannot handle signals");
        Ok(Self {
            child: on(SignalKind::child())?,
            others: [
                (Signal::INT, on(SignalKind::interrupt())?),
                (Signal::TERM, on(SignalKind::terminate())?),
                (Signal::HUP, on(SignalKind::hangup())?),
                (Signal::QUIT, on(SignalKind::quit())?),
                (Signal::USR1, on(SignalKind::user_defined1())?),
                (Signal::USR2, on(SignalKind::user_defined2())?),
            ],
        })
    }

    /// The next signal that is to be passed on; `None` for that of a child.
    async fn next(&mut self) -> Option<Signal> {
        let Self { child, others } = self;
        let any = std::future::poll_fn(|context| {
            for (signal, stream) in others.iter_mut() {
                if stream.poll_recv(context).is_ready() {
                    return Poll::Ready(*signal);
                }
            }
            Poll::Pending
        });
        tokio::select! {
            _ = child.recv() => None,
            signal = any => Some(signal),
        }
    }
}

/// Watches until the command has ended, and what it left has too.
async fn command_to_end(
    watcher: &mut Watcher,
    cgroup: &AgentCgroup,
    mut job: Job,
    signals: &mut Signals,
    leftover: Leftover,
) -> Result<(Change, usize)> {
    let change = loop {
        tokio::select! {
            biased;
            passed_on = signals.next() => {
                match passed_on {
                    // What is frozen hears no signal but the last one.
                    Some(Signal::INT | Signal::TERM | Signal::HUP) if watcher.is_frozen() => {
                        watcher.end_members().await?;
                    }
                    Some(signal) => job.signal(signal),
                    None => {}
                }
            }
            () = watcher.wait() => {}
        }
        watcher.pump().await?;
        match job.poll()? {
            Some(Change::Stopped) => job.stop(cgroup)?,
            Some(ended) => break ended,
            None => {}
        }
    };
    drop(job);
    watcher.pump().await?;
    let left = watcher.members().await;
    if left == 0 || watcher.is_killed() {
        return Ok((change, 0));
    }
    if leftover == Leftover::Wait {
        if let Some(notices) = watcher.notices() {
            notices.write(&format!(
                "agentwatch: the command ended and left {left} running; waiting for them, Ctrl-C ends them\n"
            ));
        }
        while watcher.members().await > 0 {
            tokio::select! {
                biased;
                passed_on = signals.next() => if passed_on.is_some() { break },
                () = watcher.wait() => {}
            }
            watcher.pump().await?;
        }
    }
    watcher.end_members().await?;
    watcher.pump().await?;
    Ok((change, left))
}

/// Watches until a signal comes or the cgroup is gone.
async fn until_told(
    watcher: &mut Watcher,
    cgroup: &AgentCgroup,
    signals: &mut Signals,
) -> Result<()> {
    loop {
        tokio::select! {
            biased;
            signal = signals.next() => if signal.is_some() { break },
            () = watcher.wait() => {}
        }
        watcher.pump().await?;
        if !cgroup.path().exists() {
            break;
        }
    }
    Ok(())
}
