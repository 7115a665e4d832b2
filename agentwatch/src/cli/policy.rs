//! `agentwatch policy`: checks policies and shows what they come to.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::{Output, agents::Daemon};
use crate::{
    api::{
        client::{Client, percent},
        model::PolicyInForce,
    },
    policy::Policy,
    text::escape,
};

/// Check policies, and show what they come to.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentwatch policy check strict.yaml
  agentwatch policy show > strict.yaml      # the one that ships, to begin with
  agentwatch policy show --agent rollout-7  # the one in force, and why

Exit status: 0; 1 where a policy that is checked is not right; 125 where one cannot be read, or the daemon
does not answer.")]
pub struct PolicyArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say whether policies are right, and where they are not.
    ///
    /// Exit status 1 where one is not.
    Check {
        /// The policies
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// How it is written
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Print a policy with everything that it leaves out: of a file, or the one that an agent is under.
    Show {
        /// The policy [default: the one that ships]
        file: Option<PathBuf>,
        /// The one that the daemon has this agent under, and why
        #[arg(long, value_name = "NAME", conflicts_with = "file")]
        agent: Option<String>,
        #[command(flatten)]
        daemon: Daemon,
        /// How it is written
        #[arg(short, long, value_enum, default_value_t = Format::Yaml)]
        output: Format,
    },
}

/// How a policy is written.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// As policies are.
    Yaml,
    /// One object.
    Json,
}

/// Runs `agentwatch policy`.
pub fn run(args: &PolicyArgs) -> Result<ExitCode> {
    match &args.verb {
        Verb::Check { files, output } => {
            let mut right = true;
            for file in files {
                let (ok, said) = check(file, *output)?;
                super::print(&said)?;
                right &= ok;
            }
            Ok(if right {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        Verb::Show {
            agent: Some(agent),
            daemon,
            output,
            ..
        } => {
            let client = Client::new(daemon.socket.as_deref())?;
            let path = format!("/v1/policy/{}", percent(agent));
            let policy: PolicyInForce = client.get(&path)?;
            super::print(&match output {
                Format::Yaml => in_force(&policy)?,
                Format::Json => serde_json::to_string(&policy)? + "\n",
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Show { file, output, .. } => {
            let policy = file
                .as_deref()
                .map_or_else(|| Ok(Policy::default()), Policy::load)?;
            super::print(&match output {
                Format::Yaml => serde_saphyr::to_string(&policy)?,
                Format::Json => serde_json::to_string(&policy)? + "\n",
            })?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The policy that an agent is under: why, as comments, so that all of it is a policy.
fn in_force(policy: &PolicyInForce) -> Result<String> {
    let missing = policy.not_in_force.iter();
    let missing = missing.map(|missing| format!("NOT in force on this kernel: {missing}"));
    let mut out = format!("# of {}\n", policy.agent);
    for line in policy.why().into_iter().chain(missing) {
        let _ = writeln!(out, "# {line}");
    }
    out += &serde_saphyr::to_string(&policy.policy)?;
    Ok(out)
}

/// Whether a policy is right, and what there is to say about it.
fn check(file: &Path, output: Output) -> Result<(bool, String)> {
    let result = Policy::load(file);
    let name = escape(file.as_os_str().as_encoded_bytes());
    if let Some(form) = output.form() {
        let object = match &result {
            Ok(policy) => json!({"file": name, "ok": true, "warnings": policy.warnings}),
            Err(error) => json!({"file": name, "ok": false, "error": error}),
        };
        return Ok((result.is_ok(), form.text(&object)?));
    }
    let said: String = match &result {
        Ok(policy) => {
            let warnings = policy
                .warnings
                .iter()
                .map(|w| format!("{name}: warning: {w}\n"));
            warnings.chain([format!("{name}: ok")]).collect()
        }
        Err(error) => error.to_string(),
    };
    Ok((result.is_ok(), said + "\n"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn checked(text: &str, output: Output) -> (bool, String) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.yaml");
        fs::write(&file, text).unwrap();
        let (ok, said) = check(&file, output).unwrap();
        (
            ok,
            said.replace(&format!("{}/", folder.path().display()), ""),
        )
    }

    const GOOD: &str = "apiVersion: agentwatch/v1\nkind: Policy\n";
    const COSTLY: &str = "apiVersion: agentwatch/v1\nkind: Policy\nsensitive_paths: [/data/**]\n";
    const BAD: &str = "apiVersion: agentwatch/v1\nkind: Policy\nmod: enforce\n";

    #[test]
    fn said_to_people() {
        assert_eq!(checked(GOOD, Output::Table), (true, "p.yaml: ok\n".into()));
        assert_eq!(
            checked(COSTLY, Output::Table),
            (
                true,
                "p.yaml: warning: sensitive_paths: `/data/**` has no fixed name among its last \
                 three components, so the kernel sends every open for reading; this costs more\n\
                 p.yaml: ok\n"
                    .into()
            )
        );
        assert_eq!(
            checked(BAD, Output::Table),
            (
                false,
                "p.yaml:3:1: unknown field `mod`; did you mean `mode`?\n  |\n3 | mod: enforce\n  | ^\n"
                    .into()
            )
        );
    }

    #[test]
    fn said_to_programs() {
        assert_eq!(
            checked(GOOD, Output::Json),
            (
                true,
                "{\"file\":\"p.yaml\",\"ok\":true,\"warnings\":[]}\n".into()
            )
        );
        let (ok, said) = checked(BAD, Output::Json);
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert!(!ok);
        assert_eq!(
            said,
            json!({"file": "p.yaml", "ok": false, "error": {
                "line": 3, "column": 1,
                "message": "unknown field `mod`; did you mean `mode`?"
            }})
        );
    }
}
