//! Where the history goes beside the local disk.

use std::time::Duration;

use anyhow::Result;

use crate::{
    config::Config,
    store::{
        clickhouse::Sender,
        export::{CLICKHOUSE, Exporter, LINES, Lines, OTLP, Options, Otlp, Sink},
    },
};

/// How often is looked for what is new, where a look costs the destination nothing.
const SOON: Duration = Duration::from_secs(1);
/// Most rows that are written to a file at once.
const LINES_ROWS: usize = 5000;

/// Starts what the configuration asks for. What is wrong with a destination does not keep the daemon from
/// watching: it is tried again, and told.
pub fn start(config: &Config) -> Result<Vec<Exporter>> {
    let mut started = Vec::new();
    let options = |name, batch_rows, every| Options {
        dir: config.data_dir.clone(),
        name,
        batch_rows,
        every,
    };
    if let Some(settings) = &config.clickhouse {
        if let Some(warning) = settings.warning() {
            tracing::warn!(exporter = CLICKHOUSE, "{warning}");
        }
        let every = Duration::from_secs(settings.every_seconds.into());
        let options = options(CLICKHOUSE, settings.batch_rows as usize, every);
        let sink = Sink::ClickHouse(Box::new(Sender::new(settings, &config.node)));
        started.push(Exporter::start(options, sink)?);
    }
    if let Some(settings) = &config.lines {
        let sink = Sink::Lines(Lines::new(settings, &config.node));
        started.push(Exporter::start(options(LINES, LINES_ROWS, SOON), sink)?);
    }
    if let Some(settings) = &config.otlp {
        let sink = Sink::Otlp(Otlp::new(settings, &config.node));
        let options = options(OTLP, settings.batch_rows as usize, SOON);
        started.push(Exporter::start(options, sink)?);
    }
    Ok(started)
}
