//! `agentwatch daemon`, `agentwatch config`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use crate::{
    config::{Config, EXAMPLE_YAML, Match},
    daemon::{self, logs},
    policy::PolicyError,
    probe::support,
};

/// Watch all agents of this host.
///
/// Finds agents by their cgroups, as they come and go, and serves the API that `agentwatch agents`,
/// `freeze`, `kill` and the others use. Findings go to standard error, one JSON object a line where that
/// is no terminal, and to the history. SIGHUP has it read its configuration and the policies again; what is
/// wrong is refused, and the old one holds. When it is stopped (SIGTERM, Ctrl-C) the agents are left as
/// their policies say.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentwatch config show > /etc/agentwatch/config.yaml     # a configuration to begin with
  agentwatch config check /etc/agentwatch/config.yaml
  sudo agentwatch daemon --config /etc/agentwatch/config.yaml

Environment, which counts more than the file:
  AGENTWATCH_NODE      the node's name
  AGENTWATCH_SOCKET    where the API listens
  AGENTWATCH_DATA_DIR  the folder of the history
  AGENTWATCH_LOG       how bad it must be to be said: error, warn, info, debug

Exit status: 0 when it was told to stop; 125 where it cannot start, or what is needed fails.")]
pub struct DaemonArgs {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Check the daemon's configuration, and show what it comes to.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentwatch config show > config.yaml      # an example, with every field explained
  agentwatch config check config.yaml

Exit status: 0; 1 where a configuration that is checked is not right; 125 where it cannot be read.")]
pub struct ConfigArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say whether a configuration and the policies that it names are right, and where they are not.
    ///
    /// Exit status 1 where they are not.
    Check {
        /// The configuration
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print a configuration with everything that it leaves out, and what the environment says.
    ///
    /// Without a file: an example, in which every field is explained.
    Show {
        /// The configuration
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

/// Reads the configuration, with the environment.
fn load(file: &std::path::Path) -> Result<Config, PolicyError> {
    Config::load(file)?.with_environment(|name| std::env::var(name).ok())
}

/// Runs `agentwatch daemon`.
pub fn run(args: &DaemonArgs) -> Result<ExitCode> {
    let config = load(&args.config)?;
    if !support::is_root() {
        bail!(
            "watching needs root, to load programs into the kernel; try: sudo agentwatch daemon --config {}",
            args.config.display()
        );
    }
    if config.agents.is_empty() {
        bail!(
            "{}: `agents` names no cgroups, so nothing would be watched",
            args.config.display()
        );
    }
    logs::start(config.log);
    daemon::run(&config, &|| load(&args.config))?;
    Ok(ExitCode::SUCCESS)
}

/// Runs `agentwatch config`.
pub fn config(args: &ConfigArgs) -> Result<ExitCode> {
    match &args.verb {
        Verb::Check { file } => {
            let checked = load(file).and_then(|config| Ok((config.policies()?, config)));
            match checked {
                Ok((policies, config)) => {
                    let mut said = Vec::new();
                    for (policy, source) in &policies {
                        for warning in &policy.warnings {
                            let line = format!("{source}: warning: {warning}\n");
                            if !said.contains(&line) {
                                said.push(line);
                            }
                        }
                    }
                    let globs: Vec<String> = config.agents.iter().map(Match::text).collect();
                    said.push(format!(
                        "{}: ok: agents are {}\n",
                        file.display(),
                        if globs.is_empty() {
                            "none".to_owned()
                        } else {
                            globs.join(", ")
                        }
                    ));
                    super::print(&said.concat())?;
                    Ok(ExitCode::SUCCESS)
                }
                Err(error) => {
                    super::print(&format!("{error}\n"))?;
                    Ok(ExitCode::FAILURE)
                }
            }
        }
        Verb::Show { file } => {
            match file {
                Some(file) => super::print(&serde_saphyr::to_string(&load(file)?)?)?,
                None => super::print(EXAMPLE_YAML)?,
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}
