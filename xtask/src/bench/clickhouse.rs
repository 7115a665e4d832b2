//! The history into ClickHouse: `agentwatch/benches/clickhouse.rs`, which prints its figures.

use anyhow::Result;

use crate::{
    setup::{self, Group},
    workspace,
};

/// The name of these measurements. Nothing is watched for them.
pub const CLICKHOUSE: &str = "clickhouse";

/// Measures and prints.
pub fn measure() -> Result<()> {
    setup::ensure(&[Group::Clickhouse])?;
    let mut cargo = workspace::cargo()?;
    cargo.args(["bench", "--quiet", "--package", "agentwatch"]);
    workspace::run(cargo.args(["--bench", CLICKHOUSE]))
}
