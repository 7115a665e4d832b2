//! What is timed, and what is asked of it.

/// What a setting may cost.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// Workload CPU at most this many times that without agentwatch.
    Ratio(f64),
    /// At most this many nanoseconds of workload CPU more for an operation.
    AddedNs(f64),
}

/// A work of `agentwatch-workload`.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// As the workload and the command line call it.
    pub name: &'static str,
    /// What one operation is.
    pub operation: &'static str,
    /// Operations in one cell: some tenths of a second.
    pub count: u64,
    /// With the load outside any agent.
    pub outside: Option<Target>,
    /// With the load as the agent.
    pub agent: Option<Target>,
    /// The policy has each repetition told by itself.
    pub each: bool,
}

/// All of them. The targets are what a minimal C program costs that watches the same events by
/// tracepoints and writes them to a file.
pub const WORKS: &[Work] = &[
    Work {
        name: "exec",
        operation: "fork, exec of a static program, exit",
        count: 1_000,
        outside: Some(Target::Ratio(1.06)),
        agent: Some(Target::Ratio(1.08)),
        each: false,
    },
    Work {
        name: "open-read",
        operation: "open for reading (counted, not sent), close",
        count: 100_000,
        outside: Some(Target::Ratio(1.22)),
        agent: Some(Target::Ratio(1.40)),
        each: false,
    },
    Work {
        name: "open-write",
        operation: "open for writing (repetitions told by their number), close",
        count: 50_000,
        outside: Some(Target::Ratio(1.22)),
        agent: Some(Target::Ratio(1.40)),
        each: false,
    },
    Work {
        name: "open-each",
        operation: "open for writing (each an event), close",
        count: 50_000,
        outside: None,
        agent: Some(Target::Ratio(1.75)),
        each: true,
    },
    Work {
        name: "unlink",
        operation: "a file made and deleted",
        count: 20_000,
        outside: Some(Target::Ratio(1.10)),
        agent: Some(Target::Ratio(1.20)),
        each: false,
    },
    Work {
        name: "connect",
        operation: "TCP connection over loopback, and its end",
        count: 5_000,
        outside: Some(Target::Ratio(1.02)),
        agent: Some(Target::Ratio(1.05)),
        each: false,
    },
    Work {
        name: "udp",
        operation: "datagram of 64 bytes",
        count: 50_000,
        outside: None,
        agent: None,
        each: false,
    },
    Work {
        name: "bulk",
        operation: "MiB over one TCP connection",
        count: 500,
        outside: None,
        agent: None,
        each: false,
    },
    Work {
        name: "getppid",
        operation: "a system call that nobody watches",
        count: 2_000_000,
        outside: Some(Target::AddedNs(55.0)),
        agent: None,
        each: false,
    },
    Work {
        name: "build",
        operation: "16 files compiled in parallel, linked",
        count: 1,
        outside: Some(Target::Ratio(1.02)),
        agent: Some(Target::Ratio(1.02)),
        each: false,
    },
    Work {
        name: "git",
        operation: "a repository of 300 files: init to log",
        count: 5,
        outside: Some(Target::Ratio(1.02)),
        agent: Some(Target::Ratio(1.02)),
        each: false,
    },
];

/// The name of the test of the rate that is held: no ratio, so not among the others.
pub const RATE: &str = "rate";
/// Events a second that must be held for a minute.
pub const RATE_EVENTS: u64 = 300_000;
/// Most CPU of agentwatch for an event, µs.
pub const RATE_CPU_US: f64 = 1.0;
/// Most memory at that rate, and idle: MB.
pub const RATE_RSS_MB: (f64, f64) = (48.0, 25.0);
