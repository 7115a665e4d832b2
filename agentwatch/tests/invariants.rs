//! The invariants of ARCHITECTURE.md that can be read off the code.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where a file grows past its subject.
const LINES: usize = 600;

/// The code of every Rust file below a folder, without its tests and comments.
fn code(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut todo = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(
                fs::read_dir(&path)
                    .expect("the sources can be read")
                    .map(|entry| entry.expect("the sources can be read").path()),
            );
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && path.file_name().is_some_and(|name| name != "tests.rs")
        {
            let text = fs::read_to_string(&path).expect("the sources can be read");
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            let lines = code
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            found.push((path, lines.collect::<Vec<_>>().join("\n")));
        }
    }
    assert!(
        !found.is_empty(),
        "{folder} has no code: the test looks in the wrong place"
    );
    found
}

/// Which files below `folder` have one of the words, but for those that may.
fn having(folder: &str, words: &[&str], allowed: &[&str]) -> Vec<String> {
    code(folder)
        .into_iter()
        .filter(|(path, _)| {
            !allowed
                .iter()
                .any(|part| path.to_string_lossy().contains(part))
        })
        .filter(|(_, code)| words.iter().any(|word| code.contains(word)))
        .map(|(path, _)| path.display().to_string())
        .collect()
}

#[test]
fn only_probe_and_source_name_aya() {
    assert_eq!(
        having(
            "src",
            &["aya::", "aya_log"],
            &["src/probe/", "src/source.rs"]
        ),
        [""; 0]
    );
    // And they do: else this looks for the wrong word.
    assert!(!having("src", &["aya::"], &[]).is_empty());
}

#[test]
fn only_its_folder_speaks_to_clickhouse() {
    let words = [
        "clickhouse::Client",
        "use clickhouse::{",
        "clickhouse::error",
    ];
    assert_eq!(having("src", &words, &["src/store/clickhouse/"]), [""; 0]);
    assert!(!having("src", &words, &[]).is_empty());
}

#[test]
fn only_respond_sends_signals_and_writes_cgroups() {
    let words = [
        "kill_process",
        "pidfd_send_signal",
        "libc::kill",
        "cgroup.kill\"",
        "cgroup.freeze\"",
    ];
    // run.rs passes signals on to its own command; doctor looks whether the files are there; the
    // canary's child plays an agent.
    let allowed = [
        "src/respond/",
        "src/run.rs",
        "src/cli/doctor.rs",
        "src/cli/canary.rs",
    ];
    assert_eq!(having("src", &words, &allowed), [""; 0]);
    assert!(!having("src", &words, &[]).is_empty());
}

#[test]
fn decode_and_detect_do_no_input_or_output() {
    let words = [
        "std::fs",
        "std::io",
        "std::process",
        "SystemTime",
        "Instant",
        "rustix",
        "println!",
    ];
    for folder in ["src/decode", "src/detect"] {
        assert_eq!(having(folder, &words, &[]), [""; 0]);
    }
}

#[test]
fn the_wire_is_not_serialized() {
    assert_eq!(
        having("../agentwatch-common/src", &["serde", "Serialize"], &[]),
        [""; 0]
    );
}

#[test]
fn files_stay_small() {
    let large: Vec<String> = [
        "src",
        "tests",
        "../agentwatch-common/src",
        "../agentwatch-ebpf/src",
        "../xtask/src",
    ]
    .into_iter()
    .flat_map(code)
    .map(|(path, _)| {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        (path, lines)
    })
    .filter(|(_, lines)| *lines > LINES)
    .map(|(path, lines)| format!("{} has {lines} lines", path.display()))
    .collect();
    assert_eq!(large, [""; 0]);
}
