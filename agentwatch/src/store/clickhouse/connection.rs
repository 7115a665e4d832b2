//! A connection to a server.

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use clickhouse::Client;
use serde_json::Value;
use tokio::time::timeout;

use super::{
    block::Encoded,
    fault::{of, timeout as too_slow},
    schema::quoted,
    settings::{Compression, Password, Settings},
};
use crate::store::export::{Class, Fault, http};

/// How long a question may take, and a statement that makes a table.
const QUESTION: Duration = Duration::from_secs(60);
/// How long sending a batch may take, with its answer: on a line of a megabit a second a batch needs a
/// minute.
const INSERT: Duration = Duration::from_secs(180);

/// A server and a database of it.
pub struct Connection {
    client: Client,
    database: String,
    insert_within: Duration,
}

impl Connection {
    /// A connection, which is made when it is used first.
    ///
    /// # Errors
    ///
    /// When the settings make no sense, or a file that they name cannot be read.
    pub fn new(settings: &Settings, password: &Password) -> Result<Self> {
        settings.check()?;
        let http = http::client(settings.ca_file.as_deref())?;
        let mut client = Client::with_http_client(http)
            .with_url(&settings.url)
            .with_product_info("agentwatch", env!("CARGO_PKG_VERSION"))
            .with_compression(match settings.compression {
                Compression::None => clickhouse::Compression::None,
                Compression::Lz4 => clickhouse::Compression::Lz4,
                Compression::Zstd => clickhouse::Compression::zstd(),
            });
        if let Some(user) = &settings.user {
            client = client.with_user(user);
        }
        if !password.0.is_empty() {
            client = client.with_password(&password.0);
        }
        if settings.async_insert {
            client = client
                .with_setting("async_insert", "1")
                .with_setting("wait_for_async_insert", "1")
                .with_setting("async_insert_deduplicate", "1");
        }
        Ok(Self {
            client,
            database: settings.database.clone(),
            insert_within: INSERT,
        })
    }

    /// How long sending a batch may take, with its answer.
    #[must_use]
    pub fn insert_within(mut self, limit: Duration) -> Self {
        self.insert_within = limit;
        self
    }

    /// Runs a statement.
    ///
    /// # Errors
    ///
    /// When the server does not.
    pub async fn execute(&self, sql: &str) -> Result<(), Fault> {
        let run = self.client.query_raw(sql).execute();
        Ok(timeout(QUESTION, run).await.map_err(|_| too_slow())??)
    }

    /// Asks, and returns each row as a JSON object.
    ///
    /// # Errors
    ///
    /// When the server does not answer, or with something else.
    pub async fn rows(&self, sql: &str) -> Result<Vec<Value>, Fault> {
        let ask = async {
            let mut answer = self
                .client
                .query_raw(sql)
                .with_setting("output_format_json_quote_64bit_integers", "0")
                .fetch_bytes("JSONEachRow")?;
            answer.collect().await
        };
        let answer: Bytes = timeout(QUESTION, ask).await.map_err(|_| too_slow())??;
        let damaged = |_| of(Class::Damaged, "an answer that is no JSON");
        serde_json::Deserializer::from_slice(&answer)
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(damaged)
    }

    /// Puts a block of rows into a table: all or none, and once however often it is sent by that token.
    ///
    /// # Errors
    ///
    /// When the server did not say yes: it may have the rows or not.
    pub async fn insert(&self, table: &str, block: &Encoded, token: &str) -> Result<(), Fault> {
        let sql = format!(
            "INSERT INTO {}.{} ({}) FORMAT Native",
            quoted(&self.database),
            quoted(table),
            block.names
        );
        let send = async {
            let mut insert = self
                .client
                .insert_formatted_with(sql)
                .with_setting("insert_deduplication_token", token)
                // The sums too: one that failed half-way is completed by the second time.
                .with_setting("deduplicate_blocks_in_dependent_materialized_views", "1")
                // On a cluster the answer comes when the shard has it.
                .with_setting("distributed_foreground_insert", "1");
            for piece in block.pieces() {
                insert.send(piece).await?;
            }
            insert.end().await
        };
        Ok(timeout(self.insert_within, send)
            .await
            .map_err(|_| too_slow())??)
    }
}
