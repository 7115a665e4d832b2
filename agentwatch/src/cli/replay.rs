//! `agentwatch replay`: everything after the kernel, on a recording.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Args;

use super::Output;
use crate::{
    enrich::World,
    event::{Event, Kind, ProcessKey, Stopped},
    finding::Finding,
    pipeline::{Pipeline, Sink},
    policy::Policy,
    publish::{
        account::Account,
        notice::{Format, Notices},
    },
    recording::Recording,
    respond::{Means, cgroup::AgentCgroup},
};

/// Replay a recording against a policy, without root: the findings that it would give.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentwatch replay incident.awrec
  agentwatch replay incident.awrec --policy stricter.yaml -o json | jq .detector

Exit status: 0 if there are no findings, 3 if there are some, 125 if the recording cannot be read.")]
pub struct ReplayArgs {
    /// The recording, made by `agentwatch record` or `agentwatch run --record`
    file: PathBuf,
    /// The policy [default: the one that ships]
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// How findings are written, on standard output
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// The exit status where there are findings.
const FOUND: u8 = 3;

/// Collects what a replay gives.
struct Collected {
    account: Account,
    findings: Vec<Finding>,
}

impl Sink for Collected {
    fn event(&mut self, event: &Event, world: &World) {
        if let Kind::Agent(info) = &event.kind {
            self.account.agent.clone_from(&info.name);
        }
        if let Kind::Tally(tally) = &event.kind {
            self.account.tally(tally);
        }
        if let Some(row) = crate::host::row_of(event, world) {
            self.account.observe(&row);
        }
    }

    fn finding(&mut self, finding: &Finding) {
        self.account.finding(finding);
        self.findings.push(finding.clone());
    }

    fn free_hostages(&mut self) {}

    fn resume(&mut self, _: &Event, _: Stopped, _: u64) {}
}

impl Means for Collected {
    fn cgroup(&self) -> Option<&AgentCgroup> {
        None
    }

    fn members(&self) -> Vec<ProcessKey> {
        Vec::new()
    }

    fn quarantine(&mut self, _: bool) -> Result<()> {
        Ok(())
    }
}

/// Replays a recording; the findings in order.
///
/// # Errors
///
/// When the recording cannot be read.
pub fn findings(
    recording: &mut Recording<impl std::io::Read>,
    policy: Policy,
) -> Result<Vec<Finding>> {
    Ok(replay(recording, policy)?.0.findings)
}

fn replay(
    recording: &mut Recording<impl std::io::Read>,
    policy: Policy,
) -> Result<(Collected, u64)> {
    let mut pipeline = Pipeline::new(policy);
    let mut collected = Collected {
        account: Account::new("", &[]),
        findings: Vec::new(),
    };
    while let Some(record) = recording.read()? {
        pipeline.step(&record, &mut collected);
    }
    Ok((collected, pipeline.undecodable))
}

/// Runs `agentwatch replay`.
pub fn run(args: &ReplayArgs) -> Result<ExitCode> {
    let policy = match &args.policy {
        Some(path) => Policy::load(path)?,
        None => Policy::default(),
    };
    let mut recording = Recording::open(&args.file)?;
    let (collected, undecodable) = replay(&mut recording, policy)?;
    let Collected { account, findings } = collected;
    if recording.cut > 0 {
        eprintln!(
            "agentwatch: {} ends in the middle of a record: its last {} bytes are not read",
            args.file.display(),
            recording.cut
        );
    }
    if undecodable > 0 {
        eprintln!(
            "agentwatch: {undecodable} records were not understood: made by another version?"
        );
    }
    if let Some(form) = args.output.form() {
        for finding in &findings {
            super::print(&form.text(finding)?)?;
        }
    } else {
        let colour = super::colour();
        let mut notices = Notices::new(Format::Text { colour }, None);
        for finding in &findings {
            notices.finding(finding);
        }
        notices.flush();
        super::print(&account.text(colour))?;
    }
    Ok(if findings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FOUND)
    })
}
