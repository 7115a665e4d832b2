//! Batches of the history into ClickHouse.

use anyhow::Result;

use super::{Connection, Password, Settings, tables};
use crate::store::{export::Fault, follow::Batch};

/// Sends batches.
pub struct Sender {
    connection: Connection,
    node: String,
}

impl Sender {
    /// A sender for this node.
    ///
    /// # Errors
    ///
    /// When the settings make no sense, or a file that they name cannot be read.
    pub fn new(settings: &Settings, password: &Password, node: &str) -> Result<Self> {
        Ok(Self::over(Connection::new(settings, password)?, node))
    }

    /// A sender over this connection.
    pub fn over(connection: Connection, node: &str) -> Self {
        Self {
            connection,
            node: node.to_owned(),
        }
    }

    /// Sends a batch. It is there once, however often it is sent.
    ///
    /// # Errors
    ///
    /// When the server did not say yes.
    pub async fn deliver(&self, batch: &Batch) -> Result<(), Fault> {
        let (table, block) = tables::encode(&batch.rows, &self.node);
        // What is left of a batch whose rows are all damaged.
        if block.rows == 0 {
            return Ok(());
        }
        let token = batch.range.to_string();
        self.connection.insert(table, &block, &token).await
    }
}
