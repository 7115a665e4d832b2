//! `tests/recordings`, made again:
//! `env -i PATH=… AGENTWATCH_RECORDINGS=DIR target/debug/deps/e2e-… NAME`: an agent's environment is in its
//! recording, so it gets no other.

use std::{
    cell::Cell,
    env, fs,
    io::BufReader,
    path::{Path, PathBuf},
};

use agentwatch::{decode::decode, event::Kind, recording};
use anyhow::Result;

thread_local! {
    /// The test that this thread runs: libtest-mimic's threads have no names.
    pub static TEST: Cell<&'static str> = const { Cell::new("") };
}

/// Which tests are recorded, and the names of the files.
const RECORDED: [(&str, &str); 10] = [
    ("tunnels::openssh", "ssh-reverse"),
    ("tunnels::python_relay", "python-relay"),
    ("tunnels::socat_relay", "socat-relay"),
    ("deletion::a_tree_outside_the_workspace", "mass-deletion"),
    ("quiet::git_over_ssh", "git-clone"),
    ("quiet::web_server_before_a_database", "nginx-proxy"),
    ("names::by_glibc", "names"),
    ("payload::tls_names_its_server", "tls"),
    ("payload::a_miner_and_its_pool", "miner"),
    ("denial::network::only_what_is_allowed", "denied"),
];

/// The recording that this test is to make, if so.
pub fn wanted() -> Option<PathBuf> {
    let dir = env::var_os("AGENTWATCH_RECORDINGS")?;
    let (_, name) = RECORDED.iter().find(|(test, _)| *test == TEST.get())?;
    std::path::absolute(dir)
        .ok()
        .map(|dir| dir.join(format!("{name}.awrec")))
}

/// Takes the ancestors of the agent out of a recording: their arguments tell of the machine that it
/// was made on, and recordings are for everybody.
pub fn without_ancestors(file: &Path) -> Result<()> {
    let bytes = fs::read(file)?;
    let mut recording = recording::Recording::new(BufReader::new(&bytes[..]), "it".to_owned())?;
    let mut kept = recording::MAGIC.to_vec();
    while let Some(record) = recording.read()? {
        let ancestor = decode(&record)
            .is_ok_and(|event| matches!(event.kind, Kind::Seed(seed) if !seed.member));
        if !ancestor {
            kept.extend_from_slice(&record);
        }
    }
    Ok(fs::write(file, kept)?)
}
