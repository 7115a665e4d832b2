//! What the daemon says of itself: on standard error, for people on a terminal, else one object a line.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::filter::LevelFilter;

use crate::{
    cli::Form,
    config::{Level, Log, LogFormat},
    publish::notice::Format,
};

/// How findings are written beside it.
pub fn findings(log: Log) -> Format {
    if is_text(log) {
        Format::Text { colour: colour() }
    } else {
        Format::Object(Form::Json)
    }
}

fn is_text(log: Log) -> bool {
    match log.format {
        LogFormat::Auto => io::stderr().is_terminal(),
        LogFormat::Text => true,
        LogFormat::Json => false,
    }
}

fn colour() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Begins to write. Once in a process; what follows changes nothing.
pub fn start(log: Log) {
    let level = match log.level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
    };
    let to = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_target(false);
    let started = if is_text(log) {
        to.with_ansi(colour()).try_init()
    } else {
        to.json().flatten_event(true).try_init()
    };
    // The only way to fail: it has begun already.
    drop(started);
}
