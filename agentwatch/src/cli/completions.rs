//! `agentwatch completions`, and `agentwatch man`, hidden: made from the command line's own definition.

use std::{fs, io, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Args, CommandFactory as _, ValueEnum};
use clap_complete::{Shell, generate};

use super::Cli;

/// Print what a shell needs to complete agentwatch's words.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentwatch completions bash > /etc/bash_completion.d/agentwatch
  agentwatch completions zsh > /usr/local/share/zsh/site-functions/_agentwatch
  agentwatch completions fish > ~/.config/fish/completions/agentwatch.fish

Exit status: 0.")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Known,
}

/// A shell.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Known {
    /// Bash
    Bash,
    /// Zsh
    Zsh,
    /// Fish
    Fish,
}

/// Write a manual page for each verb.
///
/// For `cargo xtask man`.
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct ManArgs {
    /// The folder, which is made
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

/// Runs `agentwatch completions`.
pub fn run(args: &CompletionsArgs) -> Result<ExitCode> {
    let shell = match args.shell {
        Known::Bash => Shell::Bash,
        Known::Zsh => Shell::Zsh,
        Known::Fish => Shell::Fish,
    };
    let mut text = Vec::new();
    generate(shell, &mut Cli::command(), "agentwatch", &mut text);
    super::print(&String::from_utf8(text)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs `agentwatch man`.
pub fn man(args: &ManArgs) -> Result<ExitCode> {
    let to = &args.to;
    let written = || -> io::Result<()> {
        fs::create_dir_all(to)?;
        clap_mangen::generate_to(Cli::command(), to)
    };
    written().with_context(|| format!("cannot write the manual pages to {}", to.display()))?;
    Ok(ExitCode::SUCCESS)
}
