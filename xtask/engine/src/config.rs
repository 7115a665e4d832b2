//! The server's configuration.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use crate::{PASSWORD, READER, USER};

/// Listens, and then waits as long as it can.
const START: &str = "\
SYSTEM START LISTEN HTTP;
SYSTEM START LISTEN TCP;
SELECT sleepEachRow(1) FROM numbers(1000000000) FORMAT Null
    SETTINGS max_block_size = 1, function_sleep_max_microseconds_per_block = 0;
";

/// Writes the files of a configuration into the folder of the data.
pub fn write(folder: &Path, http: u16, native: u16) -> Result<()> {
    let dir = folder.display();
    let config = format!(
        "<clickhouse>
  <logger><level>warning</level><log>{dir}/server.log</log></logger>
  <path>{dir}/data/</path>
  <listen_host>127.0.0.1</listen_host>
  <http_port>{http}</http_port>
  <tcp_port>{native}</tcp_port>
  <users_config>{dir}/users.xml</users_config>
  <user_directories><users_xml><path>{dir}/users.xml</path></users_xml></user_directories>
  <mark_cache_size>67108864</mark_cache_size>
  <query_log><database>system</database><table>query_log</table></query_log>
</clickhouse>
"
    );
    let networks = "<networks><ip>127.0.0.0/8</ip></networks>";
    let users = format!(
        "<clickhouse>
  <profiles><default/><readonly><readonly>2</readonly></readonly></profiles>
  <users>
    <default><password/>{networks}<profile>default</profile><quota>default</quota></default>
    <{USER}><password>{PASSWORD}</password>{networks}<profile>default</profile><quota>default</quota></{USER}>
    <{READER}><password/>{networks}<profile>readonly</profile><quota>default</quota></{READER}>
  </users>
  <quotas><default/></quotas>
</clickhouse>
"
    );
    for (name, text) in [
        ("config.xml", &*config),
        ("users.xml", &users),
        ("start.sql", START),
    ] {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
