//! `agentwatch top`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use jiff::{Timestamp, tz::TimeZone};
use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{Event, KeyCode, KeyEvent},
};

use super::{Form, Output, agents::Daemon};
use crate::{
    api::client::Client,
    policy::Policy,
    top::{
        self, From, export, player,
        state::{
            Order, Source, State, Update,
            choice::{Filter, Sort},
        },
        theme::{Choice, Theme},
    },
};

/// Watch the agents live, and act upon them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agentwatch top
  agentwatch top --filter 'state:frozen findings>0' --sort cpu
  agentwatch top --once -o json | jq -r 'select(.findings.critical > 0) | .name'
  agentwatch top --replay incident.awrec --speed 4

? shows the keys. NO_COLOR switches colours off. Who may only read the socket can look, and not act.

Exit status: 0; 125 if there is no terminal, no daemon (--once), or the recording cannot be read.")]
pub struct TopArgs {
    #[command(flatten)]
    daemon: Daemon,
    /// What the list is sorted by
    #[arg(long, value_enum, default_value_t)]
    sort: Sort,
    /// Only agents that fit: words of the name, cgroup, state or policy; `state:frozen`, `cpu>50`
    #[arg(long, value_name = "WORDS", default_value = "")]
    filter: String,
    /// Print the agents once, and end
    #[arg(long)]
    once: bool,
    /// How --once prints
    #[arg(short, long, value_enum, default_value_t = Output::Table, requires = "once")]
    output: Output,
    /// Play a recording instead; with --once: its end
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    replay: Option<PathBuf>,
    /// How fast it is played; 1 is as it happened
    #[arg(long, value_name = "N", default_value_t = 1.0, requires = "replay")]
    speed: f64,
    /// The policy that a recording is judged by [default: the one that ships]
    #[arg(long, value_name = "FILE", requires = "replay")]
    policy: Option<PathBuf>,
    /// Which of the terminal's colours are used
    #[arg(long, value_enum, default_value_t)]
    theme: Choice,
    /// Show times in UTC
    #[arg(long)]
    utc: bool,
    /// Print the screen of a recording's agent, at its first finding, as SVG: columns and lines
    #[arg(long, hide = true, value_name = "WxH", requires = "replay")]
    picture: Option<String>,
}

/// Runs `agentwatch top`.
pub fn run(args: &TopArgs) -> Result<ExitCode> {
    ensure!(
        args.speed.is_finite() && (0.01..=10_000.0).contains(&args.speed),
        "--speed is {}; it is 0.01 to 10000",
        args.speed
    );
    let (source, from) = if let Some(file) = &args.replay {
        let plan = plan(args, file.clone())?;
        let source = Source::Recording {
            file: crate::text::escape(plan.file.as_os_str().as_encoded_bytes()),
            speed: plan.speed,
            over: false,
        };
        (source, From::Recording(Box::new(plan)))
    } else {
        let socket = crate::api::client::socket(args.daemon.socket.as_deref());
        let shown = crate::text::escape(socket.as_os_str().as_encoded_bytes());
        (Source::Daemon { socket: shown }, From::Daemon(socket))
    };
    let zone = if args.utc {
        TimeZone::UTC
    } else {
        TimeZone::system()
    };
    let mut state = State::new(source, zone);
    state.sort = args.sort;
    state.filter = Filter::new(&args.filter);
    if let (Some(size), From::Recording(plan)) = (&args.picture, &from) {
        let theme = Theme::new(args.theme, |_| None);
        super::print(&picture(state, plan, size, &theme)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.once {
        return once(state, &from, args.output);
    }
    let theme = Theme::new(args.theme, |name| std::env::var(name).ok());
    top::run(state, &theme, from)?;
    Ok(ExitCode::SUCCESS)
}

fn plan(args: &TopArgs, file: PathBuf) -> Result<player::Plan> {
    let (policy, policy_source) = match &args.policy {
        Some(path) => (Policy::load(path)?, path.display().to_string()),
        None => (Policy::default(), "default".to_owned()),
    };
    Ok(player::Plan {
        file,
        policy,
        policy_source,
        speed: args.speed,
    })
}

/// Prints what the list would show.
fn once(mut state: State, from: &From, output: Output) -> Result<ExitCode> {
    match from {
        From::Daemon(socket) => {
            let agents = Client::new(Some(socket))?.agents()?;
            state.take(Update::Agents {
                at_ms: Timestamp::now().as_millisecond(),
                agents,
                health: None,
            });
        }
        From::Recording(plan) => {
            let wrong = player::at_once(plan, |_, update| state.take(update))?;
            if let Some(wrong) = wrong {
                eprintln!("agentwatch: {wrong}");
            }
        }
    }
    super::print(&match output {
        Output::Json => export::lines(&state)?,
        Output::Yaml => {
            let lines = export::lines(&state)?;
            let documents = lines.lines().map(|line| {
                let object: serde_json::Value = serde_json::from_str(line)?;
                Form::Yaml.text(&object)
            });
            documents.collect::<Result<String>>()?
        }
        Output::Table => export::table(&state),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The screen of a recording's agent at its first finding, else at the end.
fn picture(mut state: State, plan: &player::Plan, size: &str, theme: &Theme) -> Result<String> {
    let size = size.split_once('x');
    let size = size.and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)));
    state.size = size.context("a size is like 120x40")?;
    let mut player = player::Player::open(plan)?;
    let mut more = true;
    while more && state.findings(None).next().is_none() {
        let (updates, on) = player.step(100)?;
        more = on;
        for update in updates {
            state.take(update);
        }
    }
    let enter = Event::Key(KeyEvent::from(KeyCode::Enter));
    if let Some(Order::Watch(watched)) = top::input::take(&mut state, &enter) {
        for update in player.watch(watched) {
            state.take(update);
        }
    }
    let mut terminal = Terminal::new(TestBackend::new(state.size.0, state.size.1))?;
    terminal.draw(|frame| top::draw::draw(&state, theme, frame))?;
    Ok(top::svg::svg(terminal.backend().buffer()))
}
