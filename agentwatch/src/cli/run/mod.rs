//! `agentwatch run`, `agentwatch record`: watch a command, or a cgroup that is there.

mod guest;
mod watching;

use std::{
    ffi::OsString,
    fs::File,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use super::{Form, Output, TierArgs};
use crate::{
    api::{
        client,
        model::{FoundBy, RunRequest},
    },
    event::ProcessKey,
    host::{Outputs, Plan},
    policy::Policy,
    probe::{self, support, tiers::Limit},
    publish::notice::{Format, Notices},
    recording::Recorder,
    respond::cgroup::AgentCgroup,
    run::{self, Change, User},
    store::default_data_dir,
};
use watching::{Alone, Ended, Task, Told, watch};

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
///
/// Where a daemon runs, it does the watching: the agent is in its list, and what happens is in its history.
/// Should the daemon go away meanwhile, the agent stands still until it is back; after ten seconds without
/// one, `agentwatch run` watches by itself.
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
    /// Watch without the daemon, also where one runs
    ///
    /// So it is too with --data-dir, --no-history, --record, --tier, --kernel-log or --map-memory, which the
    /// daemon has for all agents.
    #[arg(long, conflicts_with = "socket")]
    standalone: bool,
    /// The daemon's socket [default: that of `AGENTWATCH_SOCKET`, else /run/agentwatch/agentwatch.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The folder of the history [default: /var/lib/agentwatch]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Keep no history
    #[arg(long, conflicts_with = "data_dir")]
    no_history: bool,
    /// How findings and the account are written
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
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
    /// How findings and the account are written
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
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
    let recorder = args.record.as_deref().map(Recorder::create).transpose()?;
    let mut notices = notices(args.output, args.log.as_deref())?;
    let homes = homes(user.as_ref());
    for home in &homes {
        policy
            .sensitive
            .add_home(home)
            .with_context(|| format!("the home folder {} cannot stand for ~", home.display()))?;
    }
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
        found_by: FoundBy::Run {
            command: command.clone(),
        },
        runner: Some(own()),
    };
    let options = probe::Options {
        kernel_log: args.kernel_log,
        map_mib: args.map_memory,
        tier: args.tier.tier,
        ..probe::Options::DEFAULT
    };
    let daemon = daemon(args, &plan, &command, &mut notices);
    let alone = Alone {
        options,
        plan,
        command,
        history: (!args.no_history).then(|| args.data_dir.clone().unwrap_or_else(default_data_dir)),
        recorder,
    };
    let task = Task::Command {
        command: &args.command,
        user: user.as_ref(),
        leftover: args.leftover,
    };
    let ended = daemon.and_then(|daemon| watch(alone, notices, daemon, &task));
    cgroup.remove();
    Ok(account(ended?))
}

/// The daemon that is to watch, and what is asked of it; `None` where it is not to be asked.
fn daemon(
    args: &RunArgs,
    plan: &Plan,
    command: &[String],
    notices: &mut Notices,
) -> Result<Option<(PathBuf, RunRequest)>> {
    let alone = args.standalone
        || args.data_dir.is_some()
        || args.no_history
        || args.record.is_some()
        || args.tier.tier != Limit::Lsm
        || args.kernel_log > 0
        || args.map_memory != probe::memory::DEFAULT_MIB;
    if alone {
        return Ok(None);
    }
    let socket = client::socket(args.socket.as_deref());
    if !socket.exists() {
        if args.socket.is_some() {
            notices.write(&format!(
                "agentwatch: no daemon listens at {}; watching without one\n",
                socket.display()
            ));
        }
        return Ok(None);
    }
    // What is no text cannot be asked for.
    let text = |path: &Path| path.to_str().map(str::to_owned);
    let root = support::cgroup2()?;
    let below = plan.cgroup.path().strip_prefix(&root);
    let request = || {
        Some(RunRequest {
            name: plan.name.clone(),
            cgroup: format!("/{}", below.ok()?.to_str()?),
            cgroup_id: plan.cgroup.id,
            command: command.to_vec(),
            policy: None,
            policy_source: args.policy.as_deref().and_then(text),
            workspace: match &plan.workspace {
                Some(folder) => Some(text(folder)?),
                None => None,
            },
            homes: plan
                .homes
                .iter()
                .map(|home| text(home))
                .collect::<Option<_>>()?,
        })
    };
    let Some(mut request) = request() else {
        notices.write(
            "agentwatch: the workspace or a home folder is no UTF-8 text; watching without the daemon\n",
        );
        return Ok(None);
    };
    if let Some(file) = &args.policy {
        let read = std::fs::read_to_string(file);
        request.policy =
            Some(read.with_context(|| format!("cannot read {} again", file.display()))?);
    }
    Ok(Some((socket, request)))
}

/// This process.
fn own() -> ProcessKey {
    let pid = std::process::id();
    ProcessKey {
        pid,
        start_ns: probe::seed::stat(pid).map_or(0, |stat| stat.start_ns),
    }
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
    let recorder = Some(Recorder::create(&args.to)?);
    let notices = notices(args.output, None)?;
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
        runner: Some(own()),
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
    let alone = Alone {
        options,
        plan,
        command: shown(&args.command),
        history: None,
        recorder,
    };
    let ended = watch(alone, notices, None, &task);
    if made {
        cgroup.remove();
    }
    let status = account(ended?);
    eprintln!("agentwatch: recorded to {}", args.to.display());
    Ok(status)
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

fn notices(output: Output, log: Option<&Path>) -> Result<Notices> {
    let file = log
        .map(|path| File::create(path).with_context(|| format!("cannot write {}", path.display())))
        .transpose()?;
    let colour =
        file.is_none() && io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let format = output
        .form()
        .map_or(Format::Text { colour }, Format::Object);
    Ok(Notices::new(format, file))
}

/// The account, which is JSON.
fn object(form: Form, json: &str) -> String {
    form.again(json)
        .unwrap_or_else(|error| format!("agentwatch: the account cannot be written: {error:#}\n"))
}

/// Says how it ended, and gives the exit status for it.
fn account(ended: Ended) -> ExitCode {
    let Ended {
        change,
        failure,
        left,
        told,
    } = ended;
    let status = change.map(Change::status);
    let (mut notices, text, killed) = match told {
        Told::Own {
            outputs,
            history,
            tally,
            killed_by,
        } => {
            let Outputs {
                store,
                account,
                notices,
                ..
            } = *outputs;
            let mut account = account.unwrap_or_default();
            let killed_by = killed_by.map(|finding| finding.id);
            account.tally(&tally);
            account.left(left);
            account.ended(status.map(i32::from), killed_by.as_deref());
            if let Some((store, dir)) = store.zip(history) {
                let run = store.run.clone();
                let kept = store.finish(status.map(i32::from), killed_by.as_deref(), &tally);
                account.history(&dir, &run, &kept);
            }
            let text = match notices.format() {
                Format::Text { colour } => account.text(colour),
                Format::Object(form) => object(form, &account.json()),
            };
            (notices, text, killed_by.is_some())
        }
        Told::Daemon { notices, ended } => {
            let text = ended.as_ref().map(|ended| match notices.format() {
                Format::Text { .. } => ended.text.clone(),
                Format::Object(form) => object(form, &ended.account.to_string()),
            });
            let killed = ended.is_some_and(|ended| ended.killed_by.is_some());
            (notices, text.unwrap_or_default(), killed)
        }
    };
    notices.flush();
    if let Some((error, command)) = failure {
        let (status, what) = match error.kind() {
            io::ErrorKind::NotFound => (127, "there is no such command"),
            io::ErrorKind::PermissionDenied => (126, "it may not be run"),
            _ => (126, "it cannot be run"),
        };
        notices.write(&format!("agentwatch: {command}: {what} ({error})\n"));
        return ExitCode::from(status);
    }
    notices.write(&text);
    ExitCode::from(if killed { 137 } else { status.unwrap_or(0) })
}
