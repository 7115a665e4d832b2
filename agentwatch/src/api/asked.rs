//! What only the thread that watches knows of an agent's flows and processes. However often clients ask, it is
//! asked rarely.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio::sync::{Mutex, oneshot};

use super::Shared;
use crate::host::watch::{Known, Order};

/// It is asked of an agent once in so long.
const EVERY: Duration = Duration::from_millis(500);

/// The answers, and since when they are known.
#[derive(Default)]
pub struct Asked(Mutex<HashMap<u32, (Instant, Arc<Known>)>>);

impl Asked {
    /// What is known of an agent.
    ///
    /// # Errors
    ///
    /// When the daemon is stopping.
    pub async fn of(&self, shared: &Shared, number: u32) -> Result<Arc<Known>> {
        let mut all = self.0.lock().await;
        all.retain(|_, (since, _)| since.elapsed() < EVERY);
        if let Some((_, known)) = all.get(&number) {
            return Ok(Arc::clone(known));
        }
        let (reply, answer) = oneshot::channel();
        let asked = shared.ask.send(Order::Known { number, reply }).await;
        asked.ok().context("the daemon is stopping")?;
        let known = Arc::new(answer.await.context("the daemon is stopping")?);
        all.insert(number, (Instant::now(), Arc::clone(&known)));
        Ok(known)
    }
}
