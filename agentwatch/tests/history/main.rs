//! The history in ClickHouse, on the real engine: what comes of lines that break and servers that die.
//!
//! Needs no root. Where the engine is not installed (`cargo xtask setup --only clickhouse`) the tests are
//! skipped and say so. Everything is on loopback and in folders that go with the test.

mod failures;
mod filling;
mod otlp;
mod proxy;
mod tables;
mod tls;

use libtest_mimic::{Arguments, Failed, Trial};

/// A test, by the path of its function.
#[macro_export]
macro_rules! tests {
    ($($name:ident;)+) => {
        pub const TESTS: &[(&str, fn() -> anyhow::Result<()>)] =
            &[$((concat!(module_path!(), "::", stringify!($name)), $name)),+];
    };
}

fn main() {
    let mut arguments = Arguments::from_args();
    // Each starts a server.
    arguments.test_threads.get_or_insert(2);
    let trial = |name: &'static str, run: fn() -> anyhow::Result<()>| {
        Trial::test(name.trim_start_matches("history::"), move || {
            run().map_err(|error| Failed::from(format!("{error:#}")))
        })
    };
    let missing = agentwatch_engine::find().err();
    if let (Some(error), false) = (&missing, arguments.list) {
        eprintln!("skipped: {error}");
    }
    let with_engine = [tables::TESTS, failures::TESTS, tls::TESTS];
    let trials = with_engine
        .into_iter()
        .flatten()
        .map(|(name, run)| trial(name, *run).with_ignored_flag(missing.is_some()))
        .chain(otlp::TESTS.iter().map(|(name, run)| trial(name, *run)))
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}
