//! Where the history goes beside the local disk: destinations that follow it, each with a cursor of its own.
//!
//! An exporter is a thread of its own, of low priority, with one batch in memory at a time: it never slows
//! down what happens live, and after an outage it goes on where it was, as fast as the destination takes it.

pub mod fault;
pub mod http;
mod item;
mod lines;
mod otlp;
mod pause;
mod status;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tokio::{sync::watch, time::sleep};

pub use fault::{Class, Fault};
pub use lines::{Lines, LinesSettings};
pub use otlp::{Otlp, OtlpSettings};
use pause::Pause;
pub use status::{Noted, Status};

use super::{
    clickhouse::Sender,
    follow::{Batch, Follower},
};

/// The names of all destinations: of cursors, and in metrics.
pub const NAMES: [&str; 3] = [CLICKHOUSE, LINES, OTLP];
/// ClickHouse's.
pub const CLICKHOUSE: &str = "clickhouse";
/// That of JSON lines.
pub const LINES: &str = "lines";
/// That of OpenTelemetry logs.
pub const OTLP: &str = "otlp";

/// What is added to the niceness of the threads.
const NICE: i32 = 10;
/// How often is counted what waits, while there is much to deliver.
const COUNT_EVERY: Duration = Duration::from_secs(5);
/// How often one that could not begin tries again.
const BEGIN_EVERY: Duration = Duration::from_secs(30);

/// A destination.
pub enum Sink {
    /// ClickHouse.
    ClickHouse(Box<Sender>),
    /// A file, or standard output.
    Lines(Lines),
    /// A collector of OpenTelemetry logs.
    Otlp(Otlp),
}

impl Sink {
    async fn deliver(&mut self, batch: &Batch) -> Result<(), Fault> {
        match self {
            Self::ClickHouse(sender) => sender.deliver(batch).await,
            Self::Lines(lines) => lines.deliver(batch),
            Self::Otlp(otlp) => otlp.deliver(batch).await,
        }
    }
}

/// How a destination is followed.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder of the history.
    pub dir: PathBuf,
    /// The name of the cursor: `clickhouse`.
    pub name: &'static str,
    /// Most rows of a batch.
    pub batch_rows: usize,
    /// How often is looked for what is new.
    pub every: Duration,
}

/// An exporter that runs, on a thread of its own.
pub struct Exporter {
    /// How it fares.
    pub status: Arc<Status>,
    /// Its name.
    pub name: &'static str,
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Exporter {
    /// Starts one.
    ///
    /// # Errors
    ///
    /// When there can be no thread.
    pub fn start(options: Options, sink: Sink) -> Result<Self> {
        let status = Arc::new(Status::default());
        let (stop, stopped) = watch::channel(false);
        let name = options.name;
        let runtime = runtime()?;
        let thread = {
            let status = Arc::clone(&status);
            std::thread::Builder::new()
                .name(format!("to-{name}"))
                .spawn(move || {
                    // What happens live goes first. Where this is refused it only has less of the processor.
                    let _ = rustix::process::nice(NICE);
                    runtime.block_on(run(&options, sink, &status, stopped));
                })
                .with_context(|| format!("cannot start the thread that exports to {name}"))?
        };
        Ok(Self {
            status,
            name,
            stop,
            thread,
        })
    }

    /// Ends it. What is on its way is given up, and sent again by the next one.
    pub fn stop(self) {
        // It fails where the thread has ended already.
        let _ = self.stop.send(true);
        if self.thread.join().is_err() {
            tracing::error!(exporter = self.name, "the exporter's thread has failed");
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")
}

/// Delivers everything that is there, and returns how many rows that were. A failure that may pass is tried
/// again for as long as `patience`.
///
/// # Errors
///
/// When another process follows by that name, or something is not taken.
pub fn push(options: &Options, mut sink: Sink, patience: Duration) -> Result<u64> {
    let mut follower = Follower::open(&options.dir, options.name)?;
    runtime()?.block_on(async {
        let mut rows = 0;
        while let Some(batch) = follower.next(options.batch_rows)? {
            let begun = Instant::now();
            let mut pause = Pause::default();
            while let Err(fault) = sink.deliver(&batch).await {
                if fault.class.is_permanent() || begun.elapsed() > patience {
                    bail!(fault);
                }
                sleep(pause.next(false)).await;
            }
            follower.advance(&batch)?;
            rows += batch.rows.len() as u64;
        }
        Ok(rows)
    })
}

/// Follows until it is stopped.
async fn run(
    options: &Options,
    mut sink: Sink,
    status: &Status,
    mut stopped: watch::Receiver<bool>,
) {
    let work = async {
        let mut follower = loop {
            match Follower::open(&options.dir, options.name) {
                Ok(follower) => break follower,
                Err(error) => {
                    tracing::error!(exporter = options.name, "cannot begin: {error:#}");
                    sleep(BEGIN_EVERY).await;
                }
            }
        };
        Following {
            options,
            sink: &mut sink,
            status,
            follower: &mut follower,
            failing: None,
            counted: None,
        }
        .go_on()
        .await;
    };
    tokio::select! {
        () = work => {}
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
}

struct Following<'a> {
    options: &'a Options,
    sink: &'a mut Sink,
    status: &'a Status,
    follower: &'a mut Follower,
    /// Since when nothing is delivered, and the class that was told last.
    failing: Option<(jiff::Timestamp, Class)>,
    counted: Option<Instant>,
}

impl Following<'_> {
    async fn go_on(&mut self) {
        // What another one noted may be long past.
        self.note(None);
        loop {
            self.count();
            match self.follower.next(self.options.batch_rows) {
                Ok(Some(batch)) => self.deliver(&batch).await,
                Ok(None) => {
                    self.counted = None;
                    self.count();
                    sleep(self.options.every).await;
                }
                Err(error) => {
                    tracing::error!(
                        exporter = self.options.name,
                        "cannot read the history: {error:#}"
                    );
                    sleep(self.options.every.max(Duration::from_secs(1))).await;
                }
            }
            for warning in self.follower.warnings.drain(..) {
                tracing::warn!(exporter = self.options.name, "{warning}");
            }
        }
    }

    /// Delivers a batch, however long that takes.
    async fn deliver(&mut self, batch: &Batch) {
        let mut pause = Pause::default();
        while let Err(fault) = self.sink.deliver(batch).await {
            let permanent = fault.class.is_permanent();
            self.failed(fault);
            sleep(pause.next(permanent)).await;
            self.count();
        }
        self.succeeded();
        // What cannot be stored comes again by the same token, which the destination knows.
        let mut pause = Pause::default();
        while let Err(error) = self.follower.advance(batch) {
            tracing::error!(
                exporter = self.options.name,
                "cannot store what was delivered: {error:#}"
            );
            sleep(pause.next(false)).await;
        }
        self.status.delivered(batch.rows.len() as u64);
    }

    fn failed(&mut self, fault: Fault) {
        self.status.failed(fault.class);
        let (since, told) = self
            .failing
            .map_or((jiff::Timestamp::now(), None), |(since, class)| {
                (since, Some(class))
            });
        if told != Some(fault.class) {
            let name = self.options.name;
            if fault.class.is_permanent() {
                tracing::error!(exporter = name, "nothing is delivered: {fault}");
            } else {
                tracing::warn!(exporter = name, "nothing is delivered: {fault}");
            }
        }
        self.failing = Some((since, fault.class));
        self.note(Some(&Noted {
            since,
            fault: fault.clone(),
        }));
        self.status.set_fault(Some(fault));
    }

    fn succeeded(&mut self) {
        if let Some((since, _)) = self.failing.take() {
            tracing::info!(
                exporter = self.options.name,
                "delivering again, after a failure since {since:.0}"
            );
            self.status.set_fault(None);
            self.note(None);
        }
    }

    fn note(&self, noted: Option<&Noted>) {
        if let Err(error) = Noted::write(&self.options.dir, self.options.name, noted) {
            tracing::warn!(exporter = self.options.name, "{error:#}");
        }
    }

    /// Counts what waits, now and then: it looks into each file.
    fn count(&mut self) {
        if self.counted.is_some_and(|at| at.elapsed() < COUNT_EVERY) {
            return;
        }
        self.counted = Some(Instant::now());
        match self.follower.behind() {
            Ok(behind) => self
                .status
                .behind(behind.rows, behind.seconds(), behind.lost),
            Err(error) => {
                tracing::warn!(
                    exporter = self.options.name,
                    "cannot count what waits: {error:#}"
                );
            }
        }
    }
}

/// Whether an exporter of this name has noted that it cannot deliver.
///
/// # Errors
///
/// When the note cannot be read.
pub fn noted(dir: &Path, name: &str) -> Result<Option<Noted>> {
    Noted::read(dir, name)
}
