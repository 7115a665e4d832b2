//! Batches of the history into ClickHouse.

use std::time::Duration;

use super::{Connection, Settings, fault::of, tables};
use crate::store::{
    export::{Class, Fault},
    follow::Batch,
};

/// Sends batches.
pub struct Sender {
    settings: Settings,
    node: String,
    within: Option<Duration>,
    connection: Option<Connection>,
}

impl Sender {
    /// A sender for this node. Files that the settings name are read when it begins, and again after the
    /// server has refused the password, which may have become another.
    pub fn new(settings: &Settings, node: &str) -> Self {
        Self {
            settings: settings.clone(),
            node: node.to_owned(),
            within: None,
            connection: None,
        }
    }

    /// How long a batch may take, with its answer.
    #[must_use]
    pub fn within(self, limit: Duration) -> Self {
        Self {
            within: Some(limit),
            ..self
        }
    }

    /// Sends a batch. It is there once, however often it is sent.
    ///
    /// # Errors
    ///
    /// When the server did not say yes.
    pub async fn deliver(&mut self, batch: &Batch) -> Result<(), Fault> {
        let (table, block) = tables::encode(&batch.rows, &self.node);
        // What is left of a batch whose rows are all damaged.
        if block.rows == 0 {
            return Ok(());
        }
        let token = batch.range.to_string();
        let sent = self.connection()?.insert(table, &block, &token).await;
        if matches!(&sent, Err(fault) if fault.class == Class::Authentication) {
            self.connection = None;
        }
        sent
    }

    fn connection(&mut self) -> Result<&Connection, Fault> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        Ok(self.connection.insert(connection))
    }

    fn connect(&self) -> Result<Connection, Fault> {
        let password = self
            .settings
            .password(|name| std::env::var(name).ok())
            .map_err(|error| of(Class::Authentication, &format!("{error:#}")))?;
        let connection = Connection::new(&self.settings, &password)
            .map_err(|error| of(Class::Certificate, &format!("{error:#}")))?;
        Ok(match self.within {
            Some(limit) => connection.insert_within(limit),
            None => connection,
        })
    }
}
