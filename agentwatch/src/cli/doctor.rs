//! `agentwatch doctor`: what this kernel offers, what works, what does not and why.

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use super::{Output, TierArgs, canary};
use crate::{
    config::ENVIRONMENT,
    probe::{Capability, Options, Probe, memory::MapMemory, offsets, support, tiers},
    store::{default_data_dir, export},
};

/// Say what works on this kernel, what does not and why.
///
/// Loads the kernel programs and attaches them for a moment. Exit status 0 only where agents can be
/// watched and stopped.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo agentwatch doctor
  sudo agentwatch doctor --canary -o json

Exit status: 0 where agents can be watched and stopped, and with --canary nothing is broken; else 1.")]
pub struct DoctorArgs {
    /// How it is written
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Do one denied operation of each kind, in a cgroup of its own, to see that it is refused and told
    ///
    /// What is active is refused and told; observe-only: told, not refused; broken: neither;
    /// unavailable: this kernel cannot. Exit status 0 only where nothing is broken.
    #[arg(long)]
    canary: bool,
    #[command(flatten)]
    tier: TierArgs,
    /// What the canary's child is called with
    #[arg(long, hide = true, num_args = 0.., value_name = "WORD", conflicts_with = "canary")]
    canary_child: Option<Vec<String>>,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// Missing, and not needed for the main job.
    Partial,
    Missing,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Check {
    what: String,
    state: State,
    /// What a capability rests on.
    #[serde(skip_serializing_if = "Option::is_none")]
    tier: Option<&'static str>,
    detail: String,
}

fn check(what: &str, state: State, detail: impl Into<String>) -> Check {
    Check {
        what: what.to_owned(),
        state,
        tier: None,
        detail: detail.into(),
    }
}

/// A capability: something that is seen or refused.
fn tiered(what: &str, state: State, tier: &'static str, detail: impl Into<String>) -> Check {
    Check {
        tier: Some(tier),
        ..check(what, state, detail)
    }
}

/// Runs `agentwatch doctor`.
pub fn run(args: &DoctorArgs) -> Result<ExitCode> {
    if let Some(words) = &args.canary_child {
        canary::child(words)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.canary {
        return sing(args.output, args.tier.tier);
    }
    let mut checks = all(args.tier.tier);
    checks.extend(exports());
    if let Some(form) = args.output.form() {
        for check in &checks {
            super::print(&form.text(check)?)?;
        }
    } else {
        table(&checks)?;
    }
    let missing = checks
        .iter()
        .filter(|check| check.state == State::Missing)
        .count();
    if args.output == Output::Table {
        super::print(if missing == 0 {
            "\nAgents can be watched and stopped on this kernel.\n"
        } else {
            "\nAgents cannot be watched here until what is missing is there.\n"
        })?;
    }
    Ok(ExitCode::from(u8::from(missing > 0)))
}

fn table(checks: &[Check]) -> Result<()> {
    let width = checks.iter().map(|check| check.what.len()).max();
    let width = width.unwrap_or(0);
    for Check {
        what,
        state,
        tier,
        detail,
    } in checks
    {
        let mark = match state {
            State::Ok => "ok     ",
            State::Partial => "partial",
            State::Missing => "missing",
        };
        let tier = tier.unwrap_or("");
        super::print(&format!("{mark}  {what:width$}  {tier:10}  {detail}\n"))?;
    }
    Ok(())
}

/// What a daemon here cannot deliver, of the history that it exports.
fn exports() -> Vec<Check> {
    let said = std::env::var_os(ENVIRONMENT[2]).filter(|dir| !dir.is_empty());
    let dir = said.map_or_else(default_data_dir, Into::into);
    let mut checks = Vec::new();
    for name in export::NAMES {
        let detail = match export::noted(&dir, name) {
            Ok(Some(noted)) => format!(
                "nothing is delivered since {:.0}: {}",
                noted.since, noted.fault
            ),
            Ok(None) => continue,
            Err(error) => format!("{error:#}"),
        };
        checks.push(check(&format!("export to {name}"), State::Partial, detail));
    }
    checks
}

fn all(tier: tiers::Limit) -> Vec<Check> {
    let mut checks = vec![check("kernel", State::Ok, support::release())];
    checks.push(if support::is_root() {
        check("root", State::Ok, "yes")
    } else {
        check(
            "root",
            State::Missing,
            "programs are loaded into the kernel as root: sudo agentwatch doctor",
        )
    });
    checks.push(btf());
    checks.extend(cgroups());
    checks.push(match support::bpf_lsm_is_active() {
        Ok(()) => check("security modules", State::Ok, support::lsm()),
        Err(error) => check("security modules", State::Partial, format!("{error:#}")),
    });
    if support::is_root() {
        checks.extend(programs(tier));
    }
    checks
}

fn btf() -> Check {
    match offsets::read(Path::new(offsets::BTF)) {
        Ok(_) => check(
            "BTF",
            State::Ok,
            format!("{}, every field that is needed is in it", offsets::BTF),
        ),
        Err(error) => check("BTF", State::Missing, format!("{error:#}")),
    }
}

fn cgroups() -> Vec<Check> {
    let mount = match support::cgroup2() {
        Ok(mount) => mount,
        Err(error) => return vec![check("cgroup v2", State::Missing, format!("{error:#}"))],
    };
    let mut checks = vec![check("cgroup v2", State::Ok, mount.display().to_string())];
    // The root has neither file; look at one of our own making, where that is allowed.
    let own = mount.join(format!("agentwatch-doctor-{}", std::process::id()));
    if fs::create_dir(&own).is_ok() {
        checks.push(if own.join("cgroup.kill").exists() {
            check("kill", State::Ok, "cgroup.kill: the whole agent at once")
        } else {
            check(
                "kill",
                State::Partial,
                "no cgroup.kill (before Linux 5.14): frozen, then killed one by one",
            )
        });
        checks.push(if own.join("cgroup.freeze").exists() {
            check("freeze", State::Ok, "cgroup.freeze")
        } else {
            check(
                "freeze",
                State::Missing,
                "no cgroup.freeze (before Linux 5.2)",
            )
        });
        let _ = fs::remove_dir(&own);
    }
    let left: Vec<String> = fs::read_dir(mount.join("agentwatch"))
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter(|entry| {
            let pid = entry
                .file_name()
                .to_string_lossy()
                .rsplit('-')
                .next()
                .and_then(|pid| pid.parse::<u32>().ok());
            pid.is_none_or(|pid| !Path::new("/proc").join(pid.to_string()).exists())
        })
        .map(|entry| entry.path().display().to_string())
        .collect();
    if !left.is_empty() {
        checks.push(check(
            "left-over agents",
            State::Partial,
            format!(
                "their agentwatch was killed, nobody watches them: {}",
                left.join(", ")
            ),
        ));
    }
    checks
}

/// Loads and attaches everything, and says how each went: those that went well together.
fn programs(tier: tiers::Limit) -> Vec<Check> {
    let mut probe = match Probe::load(&Options {
        tier,
        ..Options::DEFAULT
    }) {
        Ok(probe) => probe,
        Err(error) => {
            return vec![check(
                "kernel programs",
                State::Missing,
                format!("{error:#}"),
            )];
        }
    };
    probe.try_following();
    let mut checks = vec![memory(&probe)];
    let mut seen: Vec<&str> = Vec::new();
    for capability in &probe.capabilities {
        let gives = capability.gives.as_str();
        if seen.contains(&gives) {
            continue;
        }
        seen.push(gives);
        let of_it: Vec<_> = probe
            .capabilities
            .iter()
            .filter(|c| c.gives == gives)
            .collect();
        // What is missing for one reason is said together.
        let mut missing: Vec<(&str, Vec<&str>)> = Vec::new();
        for capability in &of_it {
            let Some(reason) = capability.missing.as_deref() else {
                continue;
            };
            match missing.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, hooks)) => hooks.push(&capability.hook),
                None => missing.push((reason, vec![&capability.hook])),
            }
        }
        checks.push(if missing.is_empty() {
            let hook = match of_it[..] {
                [one] => one.hook.clone(),
                _ => format!("{} hooks", of_it.len()),
            };
            let detail = match of_it.iter().find_map(|hook| hook.lower.as_deref()) {
                Some(reason) => format!("{hook}; no trampolines: {reason}"),
                None => hook,
            };
            tiered(gives, State::Ok, tier_of(&of_it), detail)
        } else {
            let mut why: Vec<String> = missing
                .iter()
                .map(|(reason, hooks)| format!("{reason}: {}", hooks.join(", ")))
                .collect();
            let lower = of_it.iter().find_map(|hook| hook.lower.as_deref());
            why.extend(lower.map(|reason| format!("no trampolines: {reason}")));
            tiered(gives, State::Partial, tier_of(&of_it), why.join("; "))
        });
    }
    for need in tiers::NEEDS {
        let status = probe.status(need);
        let (state, detail) = match status.missing {
            None => (State::Ok, "can be refused".to_owned()),
            Some(reason) => (State::Partial, reason),
        };
        checks.push(tiered(status.capability, state, status.tier.name(), detail));
    }
    checks.push(tiered(
        "quarantine",
        State::Ok,
        tiers::Tier::Cgroup.name(),
        "can be refused",
    ));
    // Where no process can be made this has waited, which is all the same here.
    let _ = probe.leave();
    checks
}

/// How many maps are named.
const LARGEST: usize = 4;

/// What the maps take.
fn memory(probe: &Probe) -> Check {
    let what = "memory of maps";
    let maps = match probe.memory() {
        Ok(maps) => maps,
        Err(error) => return check(what, State::Partial, format!("not known: {error:#}")),
    };
    let mib = |bytes: u64| format!("{}.{} MiB", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20);
    let sum = |of: &dyn Fn(&MapMemory) -> u64| mib(maps.iter().map(of).sum());
    let of_agents: Vec<&MapMemory> = maps.iter().filter(|map| !map.of_policies).collect();
    let full = of_agents.iter().map(|map| map.full).sum();
    let largest: Vec<String> = of_agents
        .iter()
        .take(LARGEST)
        .map(|map| {
            let unit = if map.name.starts_with("EVENTS_") {
                ""
            } else {
                " entries"
            };
            format!("{} {} ({}{unit})", map.name, mib(map.full), map.entries)
        })
        .collect();
    check(
        what,
        State::Ok,
        format!(
            "{} now; {} when agents have filled what they can, and what a policy denies at most {} more; \
             the largest: {}; `run --map-memory` changes it",
            sum(&|map| map.now),
            mib(full),
            sum(&|map| if map.of_policies { map.full } else { 0 }),
            largest.join(", ")
        ),
    )
}

/// What the hooks of a capability that work, or else all of them, rest on.
fn tier_of(hooks: &[&Capability]) -> &'static str {
    let works = hooks.iter().find(|hook| hook.missing.is_none());
    works
        .or(hooks.first())
        .map_or("", |capability| capability.tier.name())
}

/// Runs the canary, and says how it went.
fn sing(output: Output, tier: tiers::Limit) -> Result<ExitCode> {
    if !support::is_root() {
        bail!(
            "the canary loads programs into the kernel as root; try: sudo agentwatch doctor --canary"
        );
    }
    let attempts = canary::run(tier)?;
    for attempt in &attempts {
        super::print(&match output.form() {
            Some(form) => form.text(attempt)?,
            None => format!(
                "{:12}  {:18}  {:6}  {}\n",
                attempt.verdict.name(),
                attempt.capability,
                attempt.tier,
                attempt.detail
            ),
        })?;
    }
    let broken = attempts
        .iter()
        .any(|attempt| attempt.verdict == canary::Verdict::Broken);
    Ok(ExitCode::from(u8::from(broken)))
}
