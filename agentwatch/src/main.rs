//! The program: see `cli`.

fn main() -> std::process::ExitCode {
    agentwatch::cli::main()
}
