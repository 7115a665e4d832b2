//! Where the history goes beside the local disk.

use std::time::Duration;

use anyhow::Result;

use crate::{
    config::Config,
    store::{
        clickhouse::Sender,
        export::{CLICKHOUSE, Exporter, Options, Sink},
    },
};

/// Starts what the configuration asks for. What is wrong with a destination does not keep the daemon from
/// watching: it is tried again, and told.
pub fn start(config: &Config) -> Result<Vec<Exporter>> {
    let mut started = Vec::new();
    if let Some(settings) = &config.clickhouse {
        if let Some(warning) = settings.warning() {
            tracing::warn!(exporter = CLICKHOUSE, "{warning}");
        }
        let options = Options {
            dir: config.data_dir.clone(),
            name: CLICKHOUSE,
            batch_rows: settings.batch_rows as usize,
            every: Duration::from_secs(settings.every_seconds.into()),
        };
        let sink = Sink::ClickHouse(Sender::new(settings, &config.node));
        started.push(Exporter::start(options, sink)?);
    }
    Ok(started)
}
