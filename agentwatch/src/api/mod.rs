//! The daemon's API: HTTP/1.1 on a unix socket, on a thread of its own. It gets copies of what is known
//! and asks through a queue, so that whoever uses it costs the way of the events nothing.

mod accept;
mod actions;
mod asked;
pub mod client;
mod figures;
mod flows;
mod listener;
mod metrics;
pub mod model;
mod past;
mod processes;
mod routes;
mod runs;
pub mod sse;
mod stream;

use std::{path::PathBuf, sync::Arc, thread::JoinHandle, time::Duration};

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::sync::{Semaphore, mpsc, watch};

pub use listener::{Listener, listen};
pub use past::change;

use crate::{
    daemon::runs::Ask,
    host::watch::{Order, Snapshot, StreamEnd},
    probe::{
        Probe,
        gauge::Gauge,
        support,
        tiers::{self, Status, Tier},
    },
    store::{ActionLog, export},
};
use figures::Figures;
use metrics::Meter;
use model::{Check, Doctor};
use stream::Hub;

/// How often figures are taken.
const EVERY: Duration = Duration::from_secs(1);
/// Threads for what waits for a disk or for the kernel.
const BLOCKING: usize = 4;
/// How many of them only actions have.
const FOR_ACTIONS: usize = 2;

/// What is added to the niceness of its threads.
const NICE: i32 = 5;

/// What the daemon and the API have together.
pub struct Shared {
    /// What is known of the agents.
    pub snapshot: ArcSwap<Snapshot>,
    /// Where questions go.
    pub ask: mpsc::Sender<Order>,
    /// Where runs that want to be watched go.
    pub runs: mpsc::Sender<Ask>,
    /// Where actions are written down.
    pub actions: ActionLog,
    /// Where the history goes beside the local disk: names, and how it goes.
    pub exports: Vec<(&'static str, Arc<export::Status>)>,
    /// The node's name.
    pub node: String,
    /// The folder of the history.
    pub data_dir: PathBuf,
    /// Where the cgroup2 file system is mounted.
    pub root: String,
    /// Running since.
    pub since: Timestamp,
    /// What the kernel let the daemon do.
    pub doctor: Doctor,
}

/// What the handlers have.
pub(crate) struct State {
    shared: Arc<Shared>,
    figures: ArcSwap<Figures>,
    gauge: Arc<Gauge>,
    hub: Hub,
    meter: Meter,
    asked: asked::Asked,
    before: processes::Before,
    /// Room for questions to the history and to the kernel: one that is given up by who asked runs to its
    /// end. The other threads are for actions.
    past: Arc<Semaphore>,
}

/// The thread that serves.
pub struct Server {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Server {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// When there can be no more threads.
    pub fn start(
        listener: Listener,
        shared: Arc<Shared>,
        gauge: Gauge,
        stream: StreamEnd,
    ) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING)
            .build()
            .context("cannot start the API")?;
        let thread = std::thread::Builder::new()
            .name("api".to_owned())
            .spawn(move || {
                // On a busy machine the way of the events comes first.
                let _ = rustix::process::nice(NICE);
                runtime.block_on(serve(listener, shared, gauge, stream, stopped));
                // A question that waits for a disk is not waited for.
                runtime.shutdown_timeout(Duration::from_secs(2));
            })
            .context("cannot start the API's thread")?;
        Ok(Self { stop, thread })
    }

    /// Ends it. What is being answered is cut off.
    pub fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.thread.join();
    }
}

async fn serve(
    listener: Listener,
    shared: Arc<Shared>,
    gauge: Gauge,
    stream: StreamEnd,
    mut stopped: watch::Receiver<bool>,
) {
    let hub = Hub::start(stream);
    let gauge = Arc::new(gauge);
    let state = Arc::new(State {
        shared,
        figures: ArcSwap::from_pointee(Figures::default()),
        gauge: Arc::clone(&gauge),
        hub,
        meter: Meter::default(),
        asked: asked::Asked::default(),
        before: processes::Before::default(),
        past: Arc::new(Semaphore::new(BLOCKING - FOR_ACTIONS)),
    });
    let router = routes::router(Arc::clone(&state));
    let served = listener.serve(router, routes::for_prometheus(Arc::clone(&state)), &gauge);
    let figured = async {
        let mut figures = Arc::new(Figures::default());
        loop {
            let snapshot = state.shared.snapshot.load_full();
            figures = Arc::new(figures.next(&gauge, &snapshot));
            state.figures.store(Arc::clone(&figures));
            tokio::time::sleep(EVERY).await;
        }
    };
    tokio::select! {
        _ = stopped.changed() => {}
        () = served => {}
        () = figured => {}
    }
}

/// What was tried when the kernel programs were loaded.
pub fn doctor(probe: &mut Probe) -> Doctor {
    let quarantine = Status {
        capability: "quarantine",
        tier: Tier::Cgroup,
        missing: None,
    };
    let denials: Vec<Check> = tiers::NEEDS
        .map(|need| probe.status(need))
        .into_iter()
        .chain([quarantine])
        .map(denial)
        .collect();
    let checks = probe.capabilities.iter().map(|tried| Check {
        what: tried.hook.clone(),
        gives: tried.gives.clone(),
        tier: tried.tier.name().to_owned(),
        required: tried.required,
        ok: tried.missing.is_none(),
        missing: tried.missing.clone(),
        lower: tried.lower.as_deref().map(str::to_owned),
    });
    Doctor {
        kernel: support::release(),
        checks: checks.chain(denials).collect(),
    }
}

/// Something that a policy may ask to be refused.
fn denial(status: Status) -> Check {
    let Status {
        capability,
        tier,
        missing,
    } = status;
    Check {
        what: capability.to_owned(),
        gives: capability.to_owned(),
        tier: tier.name().to_owned(),
        required: false,
        ok: missing.is_none(),
        missing,
        lower: None,
    }
}
