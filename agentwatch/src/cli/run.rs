//! `agentwatch run`, `agentwatch record`: watch a command, or a cgroup that is there.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    task::Poll,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

use super::{Live, TierArgs};
use crate::{
    api::model::FoundBy,
    event::Tally,
    finding::Finding,
    host::{self, Outputs, Plan},
    policy::Policy,
    probe::{self, support},
    publish::{
        account::Account,
        notice::{Format, Notices},
    },
    recording::Recorder,
    respond::cgroup::AgentCgroup,
    run::{self, Change, Job, User},
    session::Session,
    store::{Stats, Store, default_data_dir},
};

/// What happens to what the command leaves running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Leftover {
    /// End it: nobody would watch it.
    Kill,
    /// Wait until it ends by itself.
    Wait,
}

/// Run a command as an agent, and watch it.
///
/// The command runs in a cgroup of its own with the terminal, its signals and its exit status passed
/// through. Findings are shown on standard error as they happen, or when a program that draws its
/// own screen has given it back; at the end comes an account of what the agent did.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo agentwatch run -- claude
  sudo agentwatch run --user ada --policy strict.yaml -- python3 agent.py
  sudo agentwatch run -o json --log findings.jsonl -- ./rollout.sh

Exit status: the command's (128 + N if signal N ended it); 137 if agentwatch killed the agent;
125 if agentwatch itself failed, 126 if the command cannot be run, 127 if there is none.")]
pub struct RunArgs {
    /// The agent's name [default: the command's]
    #[arg(long)]
    name: Option<String>,
    /// The policy [default: the one that ships, see `agentwatch policy show`]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The folder of the history [default: /var/lib/agentwatch]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Keep no history
    #[arg(long, conflicts_with = "data_dir")]
    no_history: bool,
    /// How findings and the account are written
    #[arg(short, long, value_enum, default_value_t = Live::Table)]
    output: Live,
    /// Write findings and the account to this file instead of standard error
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Run the command as this user
    #[arg(long)]
    user: Option<String>,
    /// The folder that is the agent's own to change [default: the current one]
    #[arg(long, value_name = "DIR")]
    workspace: Option<PathBuf>,
    /// Make a recording too, for `agentwatch replay`
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// What happens to what the command leaves running
    #[arg(long, value_enum, default_value_t = Leftover::Kill)]
    leftover: Leftover,
    #[command(flatten)]
    tier: TierArgs,
    /// Show the kernel programs' own diagnostics: 1 errors … 5 traces
    #[arg(long, value_name = "LEVEL", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=5))]
    kernel_log: u8,
    /// What the kernel's maps may take at most, MiB: more where an agent has very many processes,
    /// connections or events at once. The nearest power of two below it counts
    #[arg(long, value_name = "MIB", default_value_t = probe::memory::DEFAULT_MIB, value_parser = clap::value_parser!(u32).range(probe::memory::MIB))]
    map_memory: u32,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Record what an agent does, to replay it later.
///
/// Nothing is acted upon: the policy only observes. Watches a command, or a cgroup with what is in
/// it until Ctrl-C.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo agentwatch record --to incident.awrec -- ./agent.sh
  sudo agentwatch record --to pod.awrec --cgroup /sys/fs/cgroup/kubepods.slice/…
  agentwatch replay incident.awrec --policy stricter.yaml

Exit status: the command's; 125 if agentwatch itself failed, 126 if the command cannot be run, 127 if there
is none.")]
pub struct RecordArgs {
    /// The file to make
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Watch this cgroup instead of a command
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    cgroup: Option<PathBuf>,
    /// The agent's name [default: the command's, or the cgroup's]
    #[arg(long)]
    name: Option<String>,
    /// Run the command as this user
    #[arg(long, conflicts_with = "cgroup")]
    user: Option<String>,
    #[command(flatten)]
    tier: TierArgs,
    /// The command and its arguments
    #[arg(last = true, required_unless_present = "cgroup", value_name = "CMD")]
    command: Vec<OsString>,
}

/// Runs `agentwatch run`.
pub fn run(args: &RunArgs) -> Result<ExitCode> {
    ready()?;
    let mut policy = match &args.policy {
        Some(path) => Policy::load(path)?,
        None => Policy::default(),
    };
    for warning in &policy.warnings {
        eprintln!("agentwatch: {warning}");
    }
    let name = args
        .name
        .clone()
        .unwrap_or_else(|| run::name_of(&args.command));
    run::check_name(&name)?;
    let user = args.user.as_deref().map(User::find).transpose()?;
    let workspace = workspace(args.workspace.as_deref())?;
    let command = shown(&args.command);
    let dir = args.data_dir.clone().unwrap_or_else(default_data_dir);
    let recorder = args.record.as_deref().map(Recorder::create).transpose()?;
    let notices = notices(args.output, args.log.as_deref())?;
    let homes = homes(user.as_ref());
    for home in &homes {
        policy
            .sensitive
            .add_home(home)
            .with_context(|| format!("the home folder {} cannot stand for ~", home.display()))?;
    }
    let store = if args.no_history {
        None
    } else {
        Some(Store::open(&dir, &name, &command, host::wall_offset_ns())?)
    };
    let outputs = Outputs {
        store,
        recorder,
        account: Some(Account::new(&name, &command)),
        notices,
        stream: None,
    };
    // Last: from here on it is removed again, whatever happens.
    let cgroup = AgentCgroup::create(&cgroup_of(&name)?)?;
    let plan = Plan {
        name,
        cgroup: cgroup.clone(),
        workspace: Some(workspace),
        policy: Arc::new(policy),
        policy_source: args
            .policy
            .as_ref()
            .map_or_else(|| "default".to_owned(), |path| path.display().to_string()),
        homes,
        found_by: FoundBy::Run { command },
    };
    let options = probe::Options {
        kernel_log: args.kernel_log,
        map_mib: args.map_memory,
        tier: args.tier.tier,
        ..probe::Options::DEFAULT
    };
    let task = Task::Command {
        command: &args.command,
        user: user.as_ref(),
        leftover: args.leftover,
    };
    let result = watch(&options, plan, outputs, &task);
    cgroup.remove();
    let (mut outputs, ended) = result?;
    let history = outputs.store.take().map(|store| {
        let killed = ended.killed_by.as_ref().map(|finding| finding.id.as_str());
        let run = store.run.clone();
        (
            dir,
            run,
            store.finish(
                ended.change.map(|change| i32::from(change.status())),
                killed,
                &ended.tally,
            ),
        )
    });
    Ok(account(outputs, &ended, history.as_ref()))
}

/// Runs `agentwatch record`.
pub fn record(args: RecordArgs) -> Result<ExitCode> {
    ready()?;
    let user = args.user.as_deref().map(User::find).transpose()?;
    let mut policy = Policy::default();
    policy.mode = crate::policy::Mode::Observe;
    let made = args.cgroup.is_none();
    let name = match (&args.name, &args.cgroup) {
        (Some(name), _) => name.clone(),
        (None, Some(cgroup)) => run::name_of(&[cgroup.clone().into_os_string()]),
        (None, None) => run::name_of(&args.command),
    };
    run::check_name(&name)?;
    let outputs = Outputs {
        store: None,
        recorder: Some(Recorder::create(&args.to)?),
        account: Some(Account::new(&name, &shown(&args.command))),
        notices: notices(Live::Table, None)?,
        stream: None,
    };
    let workspace = if made { Some(workspace(None)?) } else { None };
    // Last: from here on it is removed again, whatever happens.
    let cgroup = match args.cgroup {
        Some(path) => AgentCgroup::adopt(path)?,
        None => AgentCgroup::create(&cgroup_of(&name)?)?,
    };
    let plan = Plan {
        name,
        cgroup: cgroup.clone(),
        workspace,
        policy: Arc::new(policy),
        policy_source: "default, observing".to_owned(),
        homes: homes(user.as_ref()),
        found_by: FoundBy::Run {
            command: shown(&args.command),
        },
    };
    let task = if made {
        Task::Command {
            command: &args.command,
            user: user.as_ref(),
            leftover: Leftover::Kill,
        }
    } else {
        eprintln!(
            "agentwatch: recording {}; Ctrl-C ends it",
            cgroup.path().display()
        );
        Task::Cgroup
    };
    let options = probe::Options {
        tier: args.tier.tier,
        ..probe::Options::DEFAULT
    };
    let result = watch(&options, plan, outputs, &task);
    if made {
        cgroup.remove();
    }
    let (outputs, ended) = result?;
    let status = account(outputs, &ended, None);
    eprintln!("agentwatch: recorded to {}", args.to.display());
    Ok(status)
}

/// What is watched.
enum Task<'a> {
    /// A command, from its start to its end.
    Command {
        command: &'a [OsString],
        user: Option<&'a User>,
        leftover: Leftover,
    },
    /// What is in the cgroup, until somebody says it is enough, or the cgroup is gone.
    Cgroup,
}

/// How it ended.
struct Ended {
    change: Option<Change>,
    failure: Option<io::Error>,
    left: usize,
    tally: Tally,
    killed_by: Option<Finding>,
}

/// Root, or nothing: said before anything is made.
fn ready() -> Result<()> {
    if !support::is_root() {
        bail!(
            "watching needs root, to load programs into the kernel; try: sudo agentwatch {}",
            std::env::args().nth(1).unwrap_or_default()
        );
    }
    Ok(())
}

/// What `~` stands for in the policy, beside /root and /home: the homes that the command knows.
fn homes(user: Option<&User>) -> Vec<PathBuf> {
    let own = std::env::var_os("HOME")
        .filter(|home| !home.is_empty())
        .map(PathBuf::from);
    [
        Some("/root".into()),
        own,
        user.map(|user| user.home.clone()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A new place among the cgroups, one for each run.
fn cgroup_of(name: &str) -> Result<PathBuf> {
    Ok(support::cgroup2()?
        .join("agentwatch")
        .join(format!("{name}-{}", std::process::id())))
}

fn workspace(given: Option<&Path>) -> Result<PathBuf> {
    let folder = given.map_or_else(|| PathBuf::from("."), Path::to_path_buf);
    folder
        .canonicalize()
        .with_context(|| format!("cannot use {} as the workspace", folder.display()))
}

/// A command as it is shown and stored.
fn shown(command: &[OsString]) -> Vec<String> {
    command
        .iter()
        .map(|word| crate::text::escape(word.as_encoded_bytes()))
        .collect()
}

fn notices(output: Live, log: Option<&Path>) -> Result<Notices> {
    let file = log
        .map(|path| File::create(path).with_context(|| format!("cannot write {}", path.display())))
        .transpose()?;
    let format = match output {
        Live::Json => Format::Json,
        Live::Table => Format::Text {
            colour: file.is_none()
                && io::stderr().is_terminal()
                && std::env::var_os("NO_COLOR").is_none(),
        },
    };
    Ok(Notices::new(format, file))
}

/// Watches from the start to the end.
fn watch(
    options: &probe::Options,
    plan: Plan,
    outputs: Outputs,
    task: &Task<'_>,
) -> Result<(Outputs, Ended)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(async {
        // Signals are ours from here on: none may end agentwatch while an agent runs.
        let mut signals = Signals::new()?;
        let mut session = Session::start(options, plan, outputs)?;
        if matches!(task, Task::Command { .. }) {
            session.pass_on_sockets();
        }
        let (change, failure, left) = match task {
            Task::Command {
                command,
                user,
                leftover,
            } => match Job::spawn(command, session.cgroup(), *user) {
                Ok(job) => {
                    let (change, left) =
                        command_to_end(&mut session, job, &mut signals, *leftover).await?;
                    (Some(change), None, left)
                }
                Err(error) => (None, Some(error), 0),
            },
            Task::Cgroup => {
                until_told(&mut session, &mut signals).await?;
                (None, None, 0)
            }
        };
        let (outputs, tally, killed_by) = session.end()?;
        Ok((
            outputs,
            Ended {
                change,
                failure,
                left,
                tally,
                killed_by,
            },
        ))
    })
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
    session: &mut Session,
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
                    Some(Signal::INT | Signal::TERM | Signal::HUP) if session.is_frozen() => {
                        session.end_members()?;
                    }
                    Some(signal) => job.signal(signal),
                    None => {}
                }
            }
            () = session.wait() => {}
        }
        session.pump()?;
        match job.poll()? {
            Some(Change::Stopped) => job.stop(session.cgroup())?,
            Some(ended) => break ended,
            None => {}
        }
    };
    drop(job);
    session.pump()?;
    let left = session.members().len();
    if left == 0 || session.is_killed() {
        return Ok((change, 0));
    }
    if leftover == Leftover::Wait {
        if let Some(notices) = session.notices() {
            notices.write(&format!(
                "agentwatch: the command ended and left {left} running; waiting for them, Ctrl-C ends them\n"
            ));
        }
        while !session.members().is_empty() {
            tokio::select! {
                biased;
                passed_on = signals.next() => if passed_on.is_some() { break },
                () = session.wait() => {}
            }
            session.pump()?;
        }
    }
    session.end_members()?;
    session.pump()?;
    Ok((change, left))
}

/// Watches until a signal comes or the cgroup is gone.
async fn until_told(session: &mut Session, signals: &mut Signals) -> Result<()> {
    loop {
        tokio::select! {
            biased;
            signal = signals.next() => if signal.is_some() { break },
            () = session.wait() => {}
        }
        session.pump()?;
        if !session.cgroup().path().exists() {
            break;
        }
    }
    Ok(())
}

/// Says how it ended, and gives the exit status for it.
fn account(
    outputs: Outputs,
    ended: &Ended,
    history: Option<&(PathBuf, String, Stats)>,
) -> ExitCode {
    let Outputs {
        account,
        mut notices,
        ..
    } = outputs;
    let mut account = account.unwrap_or_default();
    notices.flush();
    if let Some(error) = &ended.failure {
        let (status, what) = match error.kind() {
            io::ErrorKind::NotFound => (127, "there is no such command"),
            io::ErrorKind::PermissionDenied => (126, "it may not be run"),
            _ => (126, "it cannot be run"),
        };
        let command = account.command.first().cloned().unwrap_or_default();
        notices.write(&format!("agentwatch: {command}: {what} ({error})\n"));
        return ExitCode::from(status);
    }
    account.tally(&ended.tally);
    account.left(ended.left);
    if let Some((dir, run, stats)) = history {
        account.history(dir, run, stats);
    }
    let status = match (&ended.killed_by, ended.change) {
        (Some(_), _) => 137,
        (None, Some(change)) => change.status(),
        (None, None) => 0,
    };
    let killed_by = ended.killed_by.as_ref().map(|finding| finding.id.as_str());
    account.ended(
        ended.change.map(|change| i32::from(change.status())),
        killed_by,
    );
    let text = match notices.format() {
        Format::Text { colour } => account.text(colour),
        Format::Json => account.json(),
    };
    notices.write(&text);
    ExitCode::from(status)
}
