//! End-to-end tests: the program, on this kernel, with real programs as agents.
//!
//! They need root and a kernel that takes the programs; where those or a program are missing a test
//! is skipped, with the reason, and counted as skipped. What a test makes (network namespaces,
//! cgroups, processes, folders) is gone afterwards, also when it fails. Traffic stays on loopback and
//! in the namespaces.

mod aliases;
mod borrowed;
mod calls;
mod daemon;
mod deletion;
mod denial;
mod deploy;
mod files;
mod flows;
mod history;
mod loss;
mod mapped;
mod names;
mod outside;
mod payload;
mod processes;
mod quiet;
mod recordings;
mod run;
mod sends;
mod support;
mod thinning;
mod tunnels;
mod uring;

use libtest_mimic::{Arguments, Failed, Trial};

/// A test, and the programs without which it is skipped.
pub struct Test {
    name: &'static str,
    needs: &'static [&'static str],
    run: fn() -> anyhow::Result<()>,
}

/// A test, by the path of its function.
#[macro_export]
macro_rules! tests {
    ($($name:ident $(needs $($program:literal),+)?;)+) => {
        pub const TESTS: &[$crate::Test] = &[$($crate::Test {
            name: concat!(module_path!(), "::", stringify!($name)),
            needs: &[$($($program),+)?],
            run: $name,
        }),+];
    };
}

fn main() {
    if let Ok(deed) = std::env::var(uring::HELPER) {
        uring::help(&deed).unwrap_or_else(|error| panic!("{deed}: {error:#}"));
        return;
    }
    let mut arguments = Arguments::from_args();
    // Each test runs several programs itself.
    arguments.test_threads.get_or_insert(2);
    let unusable = if arguments.list {
        None
    } else {
        support::unusable()
    };
    let all = [
        tunnels::TESTS,
        quiet::TESTS,
        deletion::TESTS,
        files::TESTS,
        processes::TESTS,
        flows::TESTS,
        payload::TESTS,
        names::TESTS,
        run::TESTS,
        history::TESTS,
        loss::TESTS,
        calls::TESTS,
        daemon::agents::TESTS,
        daemon::apart::TESTS,
        daemon::api::TESTS,
        daemon::discovery::TESTS,
        daemon::clients::TESTS,
        daemon::docs::TESTS,
        daemon::follow::TESTS,
        daemon::looks::TESTS,
        daemon::many::TESTS,
        daemon::metrics::TESTS,
        daemon::node::TESTS,
        daemon::openapi::TESTS,
        daemon::prometheus::TESTS,
        daemon::recovery::TESTS,
        daemon::runs::TESTS,
        daemon::service::TESTS,
        daemon::top::TESTS,
        aliases::TESTS,
        sends::TESTS,
        borrowed::TESTS,
        mapped::TESTS,
        thinning::TESTS,
        uring::TESTS,
        denial::network::TESTS,
        denial::others::TESTS,
        deploy::TESTS,
    ];
    let trials = all
        .into_iter()
        .flatten()
        .map(|test| trial(test, unusable.as_deref()))
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

fn trial(test: &'static Test, unusable: Option<&str>) -> Trial {
    let name = test.name.trim_start_matches("e2e::");
    let missing = test
        .needs
        .iter()
        .find(|program| !support::is_there(program));
    let reason = unusable
        .map(str::to_owned)
        .or_else(|| missing.map(|program| format!("{program} is not installed")));
    if let Some(reason) = &reason {
        eprintln!("skipped {name}: {reason}");
    }
    Trial::test(name, move || {
        recordings::TEST.set(name);
        (test.run)().map_err(|error| Failed::from(format!("{error:?}")))
    })
    .with_ignored_flag(reason.is_some())
}
