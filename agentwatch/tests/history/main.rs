//! The history in ClickHouse, on the real engine: what comes of lines that break and servers that die.
//!
//! Needs no root. Where the engine is not installed (`cargo xtask setup --only clickhouse`) the tests are
//! skipped and say so. Everything is on loopback and in folders that go with the test.

mod failures;
mod filling;
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
    let missing = agentwatch_engine::find().err();
    if let (Some(error), false) = (&missing, arguments.list) {
        eprintln!("skipped: {error}");
    }
    let trials = [tables::TESTS, failures::TESTS, tls::TESTS]
        .into_iter()
        .flatten()
        .map(|(name, run)| {
            let name = name.trim_start_matches("history::");
            Trial::test(name, move || {
                run().map_err(|error| Failed::from(format!("{error:?}")))
            })
            .with_ignored_flag(missing.is_some())
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}
