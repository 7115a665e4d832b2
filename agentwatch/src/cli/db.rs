//! `agentwatch db`: the history in SQL, and the tables in ClickHouse.

use std::{fmt::Write as _, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    Output,
    query::{self, QueryArgs},
};
use crate::{
    config::{Config, host_name},
    store::{
        clickhouse::{
            Connection, Password, Sender, Settings,
            schema::{Target, VERSION},
        },
        default_data_dir,
        export::{self, CLICKHOUSE, Fault, Options, Sink},
        follow::Follower,
    },
};

/// Ask the history in SQL; make and look at the tables in ClickHouse to which it goes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentwatch db query \"SELECT agent, kind, count(*) FROM events GROUP BY 1, 2\"
  agentwatch db init --config /etc/agentwatch/config.yaml
  agentwatch db init --print --cluster fleet > tables.sql     # to be read, or run by hand
  agentwatch db status --url http://127.0.0.1:8123

Environment, which counts more than the configuration:
  AGENTWATCH_CLICKHOUSE_URL       where ClickHouse is
  AGENTWATCH_CLICKHOUSE_USER      the user
  AGENTWATCH_CLICKHOUSE_PASSWORD  the user's password

Exit status: 0; 1 where `status` finds that something has to be done; 125 where ClickHouse does not answer or
refuses.")]
pub struct DbArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Query(QueryArgs),
    /// Make the database and its tables.
    ///
    /// What is there already stays as it is, so it can be run at any time.
    Init(TableArgs),
    /// Bring the tables to the version of this agentwatch.
    ///
    /// The same as `init`, but for a database that is there.
    Migrate(TableArgs),
    /// Send what the history has and ClickHouse has not got yet, and return.
    ///
    /// For who runs no daemon with a section `clickhouse`; where one runs, it does that itself.
    Push(PushArgs),
    /// Say the version of the tables, what is stored in them, and how far this node is behind.
    Status(StatusArgs),
}

/// The folder of the history.
#[derive(Debug, Args)]
struct HistoryArgs {
    /// The folder of the history [default: the configuration's, else the usual one]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl HistoryArgs {
    fn dir(&self, config: Option<&Config>) -> PathBuf {
        let said = || env("AGENTWATCH_DATA_DIR").filter(|dir| !dir.is_empty());
        self.data_dir
            .clone()
            .or_else(|| config.map(|config| config.data_dir.clone()))
            .or_else(|| said().map(Into::into))
            .unwrap_or_else(default_data_dir)
    }
}

#[derive(Debug, Args)]
struct PushArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    history: HistoryArgs,
    /// The name of this host [default: the configuration's, else the host's]
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

/// Which ClickHouse.
#[derive(Debug, Args)]
struct ServerArgs {
    /// The daemon's configuration, which says in `clickhouse` where it is
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Its HTTP interface: `http://HOST:8123` or `https://HOST:8443`
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// A file with the user's password
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// A PEM file with the certificates that vouch for the server's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// The database [default: agentwatch]
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// The cluster, as the server's configuration calls it: tables are replicated, and one is over all of
    /// them
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
}

#[derive(Debug, Args)]
struct TableArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// How long events are kept, days
    #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    keep_events: u32,
    /// How long findings, actions, agents and sums per hour are kept, days
    #[arg(long, value_name = "DAYS", default_value_t = 730, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    keep_findings: u32,
    /// Print the SQL, and do nothing
    #[arg(long)]
    print: bool,
}

#[derive(Debug, Args)]
struct StatusArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    history: HistoryArgs,
    /// How it is written
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Runs `agentwatch db`.
pub fn run(args: &DbArgs) -> Result<ExitCode> {
    match &args.verb {
        Verb::Query(args) => query::run(args),
        Verb::Init(args) => make(args, false),
        Verb::Migrate(args) => make(args, true),
        Verb::Push(args) => push(args),
        Verb::Status(args) => status(args),
    }
}

/// What a command line, a configuration and the environment come to.
struct Server {
    settings: Settings,
    password: Password,
    target: Target,
}

impl ServerArgs {
    fn settings(&self, config: Option<&Config>) -> Option<Settings> {
        let of_config = config.and_then(|config| config.clickhouse.clone());
        let url = self
            .url
            .clone()
            .or_else(|| env("AGENTWATCH_CLICKHOUSE_URL"));
        let mut settings = match (of_config, url) {
            (Some(settings), _) => settings,
            (None, Some(url)) => Settings::new(&url),
            (None, None) => return None,
        };
        settings = settings.with_environment(env);
        if let Some(url) = &self.url {
            settings.url.clone_from(url);
        }
        if let Some(database) = &self.database {
            settings.database.clone_from(database);
        }
        settings.user = self.user.clone().or(settings.user);
        settings.password_file = self.password_file.clone().or(settings.password_file);
        settings.ca_file = self.ca_file.clone().or(settings.ca_file);
        Some(settings)
    }

    fn target(&self, settings: Option<&Settings>, days: (u32, u32)) -> Target {
        let database = self
            .database
            .clone()
            .or_else(|| settings.map(|settings| settings.database.clone()));
        Target {
            database: database.unwrap_or_else(|| "agentwatch".to_owned()),
            cluster: self.cluster.clone(),
            events_days: days.0,
            findings_days: days.1,
        }
    }

    fn config(&self) -> Result<Option<Config>> {
        let Some(file) = &self.config else {
            return Ok(None);
        };
        Ok(Some(Config::load(file)?.with_environment(env)?))
    }

    fn server(&self, config: Option<&Config>, days: (u32, u32)) -> Result<Server> {
        let Some(settings) = self.settings(config) else {
            bail!(
                "which ClickHouse? Name it with --url http://HOST:8123, or with --config FILE where that has \
                 a section `clickhouse`"
            );
        };
        settings.check()?;
        let password = settings.password(env)?;
        Ok(Server {
            target: self.target(Some(&settings), days),
            password,
            settings,
        })
    }
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")
}

fn make(args: &TableArgs, only_there: bool) -> Result<ExitCode> {
    let config = args.server.config()?;
    let days = (args.keep_events, args.keep_findings);
    if args.print {
        let settings = args.server.settings(config.as_ref());
        super::print(&args.server.target(settings.as_ref(), days).script())?;
        return Ok(ExitCode::SUCCESS);
    }
    let server = args.server.server(config.as_ref(), days)?;
    let Server {
        settings,
        password,
        target,
    } = &server;
    let connection = Connection::new(settings, password)?;
    let made = runtime()?
        .block_on(async {
            if only_there && connection.version(target).await? == 0 {
                return Ok(None);
            }
            connection.migrate(target).await.map(Some)
        })
        .with_context(|| settings.url.clone())?;
    let database = &target.database;
    let Some(made) = made else {
        bail!(
            "{}: there are no tables in the database {database}: `agentwatch db init` makes them",
            settings.url
        );
    };
    super::print(&match made.as_slice() {
        [] => format!("{database}: the tables are of version {VERSION} already\n"),
        [1, ..] => format!("{database}: made the tables, version {VERSION}\n"),
        [first, ..] => format!("{database}: from version {} to {VERSION}\n", first - 1),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// How long what may pass is tried again.
const PATIENCE: Duration = Duration::from_secs(30);

fn push(args: &PushArgs) -> Result<ExitCode> {
    let config = args.server.config()?;
    let Server {
        mut settings,
        target,
        ..
    } = args.server.server(config.as_ref(), (0, 0))?;
    settings.database = target.database;
    let of_config = config.as_ref().map(|config| config.node.clone());
    let node = args.node.clone().or(of_config).unwrap_or_else(host_name);
    let options = Options {
        dir: args.history.dir(config.as_ref()),
        name: CLICKHOUSE,
        batch_rows: settings.batch_rows as usize,
        every: Duration::ZERO,
    };
    let sink = Sink::ClickHouse(Box::new(Sender::new(&settings, &node)));
    let rows = export::push(&options, sink, PATIENCE).with_context(|| settings.url.clone())?;
    super::print(&format!("{rows} rows sent\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn status(args: &StatusArgs) -> Result<ExitCode> {
    let config = args.server.config()?;
    let server = args.server.server(config.as_ref(), (0, 0))?;
    let Server {
        settings,
        password,
        target,
    } = &server;
    let connection = Connection::new(settings, password)?;
    let asked = runtime()?.block_on(async {
        let version = connection.version(target).await?;
        let stored = match version {
            0 => Vec::new(),
            _ => connection.stored(target).await?,
        };
        Ok::<_, Fault>((connection.server().await?, version, stored))
    });
    let (software, version, stored) = asked.with_context(|| settings.url.clone())?;
    let dir = args.history.dir(config.as_ref());
    let behind = Follower::look(&dir, CLICKHOUSE)?;
    let noted = export::noted(&dir, CLICKHOUSE)?;
    let right = version == VERSION && noted.is_none();
    let text = if let Some(form) = args.output.form() {
        form.text(&json!({
            "url": settings.url, "server": software, "database": target.database,
            "version": version, "known_version": VERSION, "tables": stored,
            "lag_rows": behind.map(|behind| behind.rows),
            "lag_seconds": behind.map(|behind| behind.seconds()),
            "lost_rows": behind.map(|behind| behind.lost),
            "fault": noted,
        }))?
    } else {
        let mut text = format!("{}: ClickHouse {software}\n", settings.url);
        let _ = match version {
            0 => writeln!(
                text,
                "{}: no tables; `agentwatch db init` makes them",
                target.database
            ),
            VERSION => writeln!(text, "{}: tables of version {version}", target.database),
            old if old < VERSION => writeln!(
                text,
                "{}: tables of version {old}; `agentwatch db migrate` brings them to {VERSION}",
                target.database
            ),
            new => writeln!(
                text,
                "{}: tables of version {new}; this agentwatch knows {VERSION}",
                target.database
            ),
        };
        for table in &stored {
            let _ = writeln!(
                text,
                "  {:<12} {:>14} rows {:>16} bytes",
                table.table, table.rows, table.bytes
            );
        }
        let _ = match behind {
            Some(behind) => writeln!(
                text,
                "{}: {} rows are not sent yet, the oldest for {:.0} s; {} were removed before they were sent",
                dir.display(),
                behind.rows,
                behind.seconds(),
                behind.lost
            ),
            None => writeln!(text, "{}: nothing was sent from there", dir.display()),
        };
        if let Some(noted) = &noted {
            let _ = writeln!(
                text,
                "nothing is delivered since {:.0}: {}",
                noted.since, noted.fault
            );
        }
        text
    };
    super::print(&text)?;
    Ok(if right {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
