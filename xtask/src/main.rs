//! agentwatch's own commands: `cargo xtask --help`.

mod bench;
mod bpf;
mod build;
mod dashboards;
mod demo;
mod image;
mod outcome;
mod screenshot;
mod setup;
mod test;
mod verifier;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, tests and demonstrates agentwatch.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Installs what building, testing and the demonstration need and this machine lacks.
    Setup(setup::Args),
    /// Builds agentwatch with its kernel programs inside, and prints the program's path.
    Build(build::Args),
    /// Sets up, then runs every check and test.
    Test(test::Args),
    /// Runs the tests in virtual machines with other kernels.
    Vm(vm::Args),
    /// Measures what watching costs, beside running without; see BENCHMARKS.md.
    Bench(bench::Args),
    /// Prints the size of each kernel program on this kernel and others, and compares it with what is
    /// stored.
    Verifier(verifier::Args),
    /// Builds the container image around this checkout's program, and tries it.
    Image,
    /// Writes the manual pages to target/man.
    Man,
    /// Checks the dashboards: schema, links, and every query on a real ClickHouse and a real Prometheus.
    Dashboards(dashboards::Args),
    /// Draws the picture of `agentwatch top` that the README shows, from a recording.
    Screenshot,
    /// Sets up, builds, and shows an agent with a reverse tunnel being found and killed.
    Demo,
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Setup(args) => setup::run(&args).map(|()| ExitCode::SUCCESS),
        Verb::Build(args) => build::run(&args).map(|()| ExitCode::SUCCESS),
        Verb::Test(args) => Ok(test::run(&args)),
        Verb::Vm(args) => vm::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Verifier(args) => verifier::run(&args),
        Verb::Image => image::run(),
        Verb::Man => build::man().map(|()| ExitCode::SUCCESS),
        Verb::Dashboards(args) => dashboards::run(&args),
        Verb::Screenshot => screenshot::run().map(|()| ExitCode::SUCCESS),
        Verb::Demo => demo::run().map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
