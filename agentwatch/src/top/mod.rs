//! `agentwatch top`: a live view of the agents.
//!
//! `feed` (a daemon) or `player` (a recording) tell what is new; `state` has all that is known and
//! looked at; `input` changes that by keys; `draw` shows it and changes nothing.

pub mod draw;
pub mod export;
mod feed;
pub mod input;
pub mod player;
mod screen;
pub mod state;
pub mod svg;
pub mod theme;

use std::{
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use jiff::Timestamp;
use ratatui::crossterm::event::{self, Event};
use tokio::signal::unix::{SignalKind, signal};

use screen::Screen;
use state::{Order, State, Update};
use theme::Theme;

/// What waits to be looked at; who has more waits for room.
const QUEUE: usize = 256;
/// Orders that wait to be done.
const ORDERS: usize = 16;
/// How often the screen is drawn at most: more is not seen, and costs a slow line.
const FRAME: Duration = Duration::from_millis(33);
/// How often it is drawn at least: the clock goes on.
const CLOCK: Duration = Duration::from_secs(1);

/// What the screen waits for.
pub(crate) enum Input {
    /// Something is new.
    Update(Box<Update>),
    /// The terminal tells something.
    Terminal(Event),
    /// The terminal, or a signal, ends it; why, where that is an error.
    End(Option<String>),
}

/// Where the data comes from.
#[derive(Debug, Clone)]
pub enum From {
    /// A daemon, at a socket.
    Daemon(PathBuf),
    /// A recording.
    Recording(Box<player::Plan>),
}

/// Shows the live view until somebody ends it.
///
/// # Errors
///
/// When there is no terminal, or it goes away.
pub fn run(mut state: State, theme: &Theme, from: From) -> Result<()> {
    let (to, inputs) = sync_channel(QUEUE);
    let (order_to, orders) = sync_channel(ORDERS);
    // Before the terminal is taken: what does not work can be read then.
    signals(to.clone())?;
    match from {
        From::Daemon(socket) => feed::start(socket, to.clone(), orders)?,
        From::Recording(plan) => player::start(&plan, to.clone(), orders)?,
    }
    let mut screen = Screen::take()?;
    let size = screen.terminal.size().context("cannot use the terminal")?;
    state.size = (size.width, size.height);
    keys(to)?;
    let ended = show(&mut screen, &mut state, theme, &inputs, &order_to);
    drop(screen);
    ended
}

/// Draws, and takes what comes, until the end.
fn show(
    screen: &mut Screen,
    state: &mut State,
    theme: &Theme,
    inputs: &Receiver<Input>,
    orders: &SyncSender<Order>,
) -> Result<()> {
    loop {
        state.tick(Timestamp::now().as_millisecond());
        let drawn = Instant::now();
        anyhow::ensure!(
            !screen::panicked(),
            "a part of it has failed; what is above says where"
        );
        screen
            .terminal
            .draw(|frame| {
                let area = frame.area();
                state.size = (area.width, area.height);
                draw::draw(state, theme, frame);
            })
            .context("cannot draw on the terminal")?;
        let mut wait = CLOCK;
        // All that comes until the next frame is due.
        loop {
            match inputs.recv_timeout(wait) {
                Ok(Input::End(why)) => return why.map_or(Ok(()), |why| Err(anyhow!(why))),
                Ok(Input::Update(update)) => state.take(*update),
                Ok(Input::Terminal(event)) => match input::take(state, &event) {
                    Some(Order::Quit) => return Ok(()),
                    Some(Order::Export) => match export::write(state) {
                        Ok(path) => {
                            let said = format!("written to {}", path.display());
                            state.say(false, said);
                        }
                        Err(error) => state.say(true, format!("not exported: {error:#}")),
                    },
                    Some(order) => hand_on(state, orders, order),
                    None => {}
                },
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            let Some(left) = FRAME.checked_sub(drawn.elapsed()) else {
                break;
            };
            wait = left;
        }
    }
}

/// Has an order done by who feeds the state.
fn hand_on(state: &mut State, orders: &SyncSender<Order>, order: Order) {
    if orders.try_send(order).is_err() {
        state.say(true, "too much is asked for at once: not done");
    }
}

/// Reads the terminal, on a thread that ends with the program.
fn keys(to: SyncSender<Input>) -> Result<()> {
    let read = move || {
        loop {
            let input = match event::read() {
                Ok(event) => Input::Terminal(event),
                Err(error) => Input::End(Some(format!("the terminal cannot be read: {error}"))),
            };
            let over = matches!(input, Input::End(_));
            if to.send(input).is_err() || over {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("top-keys".to_owned())
        .spawn(read)
        .context("cannot start a thread")?;
    Ok(())
}

/// Signals that end it, so that the terminal is given back before.
fn signals(to: SyncSender<Input>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let (mut term, mut hangup, mut interrupt) = runtime.block_on(async {
        let on = |kind| signal(kind).context("cannot wait for signals");
        anyhow::Ok((
            on(SignalKind::terminate())?,
            on(SignalKind::hangup())?,
            on(SignalKind::interrupt())?,
        ))
    })?;
    let wait = move || {
        runtime.block_on(async {
            tokio::select! {
                _ = term.recv() => {}
                _ = hangup.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        // Whoever reads it has gone: then it is over too.
        let _ = to.send(Input::End(None));
    };
    thread::Builder::new()
        .name("top-signals".to_owned())
        .spawn(wait)
        .context("cannot start a thread")?;
    Ok(())
}
