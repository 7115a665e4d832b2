//! What the service manager is told: see `sd_notify(3)`. Without one, nothing is.

use sd_notify::{NotifyState, notify};

/// The daemon watches so many agents.
pub fn ready(agents: usize) {
    tell(&[NotifyState::Ready, NotifyState::Status(&status(agents))]);
}

/// The same, later.
pub fn watching(agents: usize) {
    tell(&[NotifyState::Status(&status(agents))]);
}

/// The configuration is being read again.
pub fn reloading() {
    let mut state = vec![NotifyState::Reloading];
    state.extend(NotifyState::monotonic_usec_now());
    tell(&state);
}

/// The daemon stops.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// The daemon is alive: said from its main loop, and nowhere else.
pub fn alive() {
    if sd_notify::watchdog_enabled().is_some() {
        tell(&[NotifyState::Watchdog]);
    }
}

fn status(agents: usize) -> String {
    format!("watching {agents} agents")
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = notify(state) {
        tracing::debug!("the service manager is not told: {error}");
    }
}
