//! The tables of a server: made, brought to this version, and looked at.

use serde_json::Value;

use super::{
    Connection,
    fault::of,
    schema::{MIGRATIONS, Target, VERSION, quoted, text},
};
use crate::store::export::{Class, Fault};

/// The tables that have a line in a report of what is stored.
pub const TABLES: [&str; 6] = [
    "events",
    "findings",
    "actions",
    "agents",
    "gpu_samples",
    "audit_heads",
];

/// What is stored in a table.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Stored {
    /// Its name.
    pub table: String,
    /// Its rows.
    pub rows: u64,
    /// On the disk, compressed, bytes.
    pub bytes: u64,
}

impl Connection {
    /// The version of the tables; 0 where there are none.
    ///
    /// # Errors
    ///
    /// When the server does not say.
    pub async fn version(&self, target: &Target) -> Result<u32, Fault> {
        let there = format!(
            "SELECT count() AS n FROM system.tables WHERE database = {} AND name = 'migrations'",
            text(&target.database)
        );
        if number(&self.rows(&there).await?, "n")? == 0 {
            return Ok(0);
        }
        let newest = format!(
            "SELECT max(version) AS n FROM {}.migrations",
            quoted(&target.database)
        );
        let version = number(&self.rows(&newest).await?, "n")?;
        Ok(u32::try_from(version).unwrap_or(u32::MAX))
    }

    /// Makes what is not there yet, step by step; the versions that were made. A step that failed half-way
    /// is completed by the next try.
    ///
    /// # Errors
    ///
    /// When the server refuses it, or its tables are of a newer version.
    pub async fn migrate(&self, target: &Target) -> Result<Vec<u32>, Fault> {
        for statement in target.preparation() {
            self.execute(&statement).await?;
        }
        let version = self.version(target).await?;
        if version > VERSION {
            return Err(of(
                Class::Schema,
                &format!(
                    "the tables are of version {version}, this agentwatch knows version {VERSION}"
                ),
            ));
        }
        let mut made = Vec::new();
        for migration in MIGRATIONS.iter().filter(|m| m.version > version) {
            for statement in target.statements(migration) {
                self.execute(&statement).await?;
            }
            self.execute(&target.note(migration)).await?;
            made.push(migration.version);
        }
        Ok(made)
    }

    /// What is stored, of each table.
    ///
    /// # Errors
    ///
    /// When the server does not say.
    pub async fn stored(&self, target: &Target) -> Result<Vec<Stored>, Fault> {
        let suffix = if target.cluster.is_some() {
            "_local"
        } else {
            ""
        };
        let names = TABLES.map(|table| text(&format!("{table}{suffix}")));
        let answer = self
            .rows(&format!(
                "SELECT name, sum(p.rows) AS rows, sum(p.bytes_on_disk) AS bytes FROM system.tables AS t \
                 LEFT JOIN (SELECT table, rows, bytes_on_disk FROM system.parts WHERE database = {db} AND active) AS p \
                 ON p.table = t.name WHERE t.database = {db} AND t.name IN ({names}) GROUP BY name ORDER BY bytes DESC, name",
                db = text(&target.database),
                names = names.join(", ")
            ))
            .await?;
        let table = |row: &Value| {
            let name = row["name"].as_str().unwrap_or_default();
            Stored {
                table: name.trim_end_matches(suffix).to_owned(),
                rows: row["rows"].as_u64().unwrap_or(0),
                bytes: row["bytes"].as_u64().unwrap_or(0),
            }
        };
        Ok(answer.iter().map(table).collect())
    }

    /// The server's version.
    ///
    /// # Errors
    ///
    /// When it does not say.
    pub async fn server(&self) -> Result<String, Fault> {
        let answer = self.rows("SELECT version() AS v").await?;
        let version = answer.first().and_then(|row| row["v"].as_str());
        Ok(version.unwrap_or_default().to_owned())
    }
}

fn number(answer: &[Value], name: &str) -> Result<u64, Fault> {
    let number = answer.first().and_then(|row| row[name].as_u64());
    number.ok_or_else(|| of(Class::Damaged, "an answer without the number asked for"))
}
