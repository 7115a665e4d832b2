//! The tables as SQL: files in `migrations/`, with what differs from server to server filled in.
//!
//! A file is made of statements, each of which ends with `;` at the end of a line. In them stand for
//! something:
//!
//! - `{db}`: the database.
//! - `{engine:NAME(ARGUMENTS)}`: the engine; on a cluster the replicated one.
//! - `{local}`: on a cluster `_local`, for the table on each server. Beside it there is one without, of the
//!   engine `Distributed`, which is what one reads from and writes to.
//! - `{on_cluster}`: on a cluster ` ON CLUSTER NAME`.
//! - `{events_days}`, `{findings_days}`: how long rows are kept.
//! - `{deduplicate}`: how many blocks the server remembers, to know one that is sent again.

use std::fmt::Write as _;

/// A step from one version of the tables to the next.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// The version after it.
    pub version: u32,
    /// What it makes.
    pub name: &'static str,
    sql: &'static str,
}

macro_rules! migrations {
    ($($version:literal $name:literal),+ $(,)?) => {
        [$(Migration {
            version: $version,
            name: $name,
            sql: include_str!(concat!("migrations/", $name, ".sql")),
        }),+]
    };
}

/// All of them, in order. One that was released is never changed: what changes is a new one.
pub const MIGRATIONS: [Migration; 5] = migrations![
    1 "0001_events",
    2 "0002_findings",
    3 "0003_agents",
    4 "0004_gpu",
    5 "0005_rollups",
];

/// The version that this agentwatch writes to.
pub const VERSION: u32 = MIGRATIONS[MIGRATIONS.len() - 1].version;

/// Blocks that a server remembers of each table. A block is a batch of one node: with a thousand nodes that
/// send one a second each, a batch that is sent again is known for some 100 seconds.
const REMEMBERED: u32 = 100_000;

/// For whom the SQL is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The database.
    pub database: String,
    /// The cluster's name in the server's configuration, where it is one.
    pub cluster: Option<String>,
    /// How long events are kept, days.
    pub events_days: u32,
    /// How long findings, actions, agents and sums per hour are kept, days.
    pub findings_days: u32,
}

impl Target {
    fn on_cluster(&self) -> String {
        let name = self.cluster.as_ref();
        name.map_or(String::new(), |name| {
            format!(" ON CLUSTER {}", quoted(name))
        })
    }

    fn engine(&self, text: &str) -> String {
        if self.cluster.is_none() {
            return text.to_owned();
        }
        let (name, arguments) = text.split_once('(').unwrap_or((text, ")"));
        let arguments = arguments.trim_end_matches(')');
        let comma = if arguments.is_empty() { "" } else { ", " };
        format!(
            "Replicated{name}('/clickhouse/tables/{{shard}}/{{database}}/{{table}}', '{{replica}}'{comma}{arguments})"
        )
    }

    fn deduplicate(&self) -> String {
        if self.cluster.is_none() {
            return format!("non_replicated_deduplication_window = {REMEMBERED}");
        }
        // By default a batch is forgotten after an hour.
        let days = 7 * 86_400;
        format!(
            "replicated_deduplication_window = {REMEMBERED}, replicated_deduplication_window_seconds = {days}"
        )
    }

    /// Fills in what stands for something.
    fn fill(&self, sql: &str) -> String {
        let mut text = sql
            .replace("{db}", &quoted(&self.database))
            .replace(
                "{local}",
                if self.cluster.is_some() { "_local" } else { "" },
            )
            .replace("{on_cluster}", &self.on_cluster())
            .replace("{events_days}", &self.events_days.to_string())
            .replace("{findings_days}", &self.findings_days.to_string())
            .replace("{deduplicate}", &self.deduplicate());
        while let Some((before, rest)) = text.split_once("{engine:") {
            let Some((engine, after)) = rest.split_once('}') else {
                break;
            };
            text = format!("{before}{}{after}", self.engine(engine));
        }
        text
    }

    /// The table over those of all servers, for a statement that makes one on each.
    fn distributed(&self, statement: &str) -> Option<String> {
        let cluster = self.cluster.as_ref()?;
        let rest = statement.strip_prefix("CREATE TABLE IF NOT EXISTS {db}.")?;
        let (table, _) = rest.split_once("{local}")?;
        // All of a node on one shard: its batches are known there when they come again.
        Some(format!(
            "CREATE TABLE IF NOT EXISTS {db}.{table}{on} AS {db}.{table}_local\n\
             ENGINE = Distributed({cluster}, {db_text}, {table}_local, cityHash64(node))",
            db = quoted(&self.database),
            on = self.on_cluster(),
            cluster = text(cluster),
            db_text = text(&self.database),
        ))
    }

    /// What makes the database, and the table of versions, where they are not there.
    pub fn preparation(&self) -> Vec<String> {
        let statements = [
            "CREATE DATABASE IF NOT EXISTS {db}{on_cluster}",
            "CREATE TABLE IF NOT EXISTS {db}.migrations{on_cluster} (
    version UInt32 COMMENT 'The version of the tables since then',
    name String COMMENT 'What was made',
    applied DateTime('UTC') DEFAULT now() COMMENT 'When'
) ENGINE = {engine:MergeTree}
ORDER BY version",
        ];
        statements.iter().map(|sql| self.fill(sql)).collect()
    }

    /// The statements of a migration.
    pub fn statements(&self, migration: &Migration) -> Vec<String> {
        let mut made = Vec::new();
        for statement in split(migration.sql) {
            made.push(self.fill(&statement));
            made.extend(self.distributed(&statement));
        }
        made
    }

    /// What notes that a migration is done.
    pub fn note(&self, migration: &Migration) -> String {
        format!(
            "INSERT INTO {}.migrations (version, name) VALUES ({}, {})",
            quoted(&self.database),
            migration.version,
            text(migration.name)
        )
    }

    /// All of it, to be read or run by hand.
    pub fn script(&self) -> String {
        let mut script = String::new();
        for statement in self.preparation() {
            let _ = writeln!(script, "{statement};\n");
        }
        for migration in &MIGRATIONS {
            let _ = writeln!(script, "-- {}\n", migration.name);
            for statement in self.statements(migration) {
                let _ = writeln!(script, "{statement};\n");
            }
            let _ = writeln!(script, "{};\n", self.note(migration));
        }
        script
    }
}

/// A name in SQL.
pub fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

/// Text in SQL.
pub fn text(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// The statements of a file, without comments.
fn split(sql: &str) -> Vec<String> {
    let code: Vec<&str> = sql
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"))
        .collect();
    code.join("\n")
        .split(";\n")
        .map(|statement| statement.trim().trim_end_matches(';').to_owned())
        .filter(|statement| !statement.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(cluster: Option<&str>) -> Target {
        Target {
            database: "aw".to_owned(),
            cluster: cluster.map(str::to_owned),
            events_days: 90,
            findings_days: 730,
        }
    }

    #[test]
    fn everything_is_filled_in_and_can_be_done_twice() {
        for cluster in [None, Some("fleet")] {
            let target = target(cluster);
            for migration in &MIGRATIONS {
                for statement in target.statements(migration) {
                    assert!(statement.contains(" IF NOT EXISTS `aw`."), "{statement}");
                    let left = statement.replace("{shard}", "").replace("{replica}", "");
                    let left = left.replace("{database}", "").replace("{table}", "");
                    // In a regular expression.
                    let left = left.replace("{1,3}", "");
                    assert!(!left.contains(['{', '}']), "{statement}");
                }
            }
        }
        let versions: Vec<u32> = MIGRATIONS
            .iter()
            .map(|migration| migration.version)
            .collect();
        assert_eq!(versions, (1..=VERSION).collect::<Vec<_>>());
    }

    #[test]
    fn a_cluster_has_replicated_tables_and_one_over_all_of_them() {
        let one = target(None).script();
        assert!(one.contains("ENGINE = MergeTree\n"), "{one}");
        assert!(!one.contains("_local") && !one.contains("CLUSTER"), "{one}");
        let fleet = target(Some("fleet")).script();
        for piece in [
            "CREATE TABLE IF NOT EXISTS `aw`.events_local ON CLUSTER `fleet` (",
            "ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')",
            "ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')",
            "CREATE TABLE IF NOT EXISTS `aw`.events ON CLUSTER `fleet` AS `aw`.events_local\n\
             ENGINE = Distributed('fleet', 'aw', events_local, cityHash64(node))",
            "events_to_minute_local ON CLUSTER `fleet` TO `aw`.events_per_minute_local AS",
            "FROM `aw`.events_local AS e",
            "CREATE TABLE IF NOT EXISTS `aw`.events_per_hour ON CLUSTER `fleet` AS `aw`.events_per_hour_local",
        ] {
            assert!(fleet.contains(piece), "{piece}\n\n{fleet}");
        }
        assert!(!fleet.contains("ENGINE = MergeTree"), "{fleet}");
    }

    #[test]
    fn names_and_texts_stay_what_they_are() {
        assert_eq!(quoted("a`b\\"), "`a\\`b\\\\`");
        assert_eq!(text("it's"), "'it\\'s'");
    }
}
