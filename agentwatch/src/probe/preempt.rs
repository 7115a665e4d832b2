//! Whether this kernel may stop a task that is in the kernel to run another one.
//!
//! A program at a kernel function may be stopped like anything else there, and until it goes on the kernel
//! does not run the same program again on that CPU: what the other task does is not seen
//! (`__bpf_prog_enter_recur`, `kernel/bpf/trampoline.c`). An agent of several processes could count on
//! that. Tracepoints run with preemption off.

use std::fs;

use anyhow::{Result, bail};

use super::support;

/// Says so as an error, if it may.
pub(super) fn never() -> Result<()> {
    let version = support::version();
    let mode = if version.contains("PREEMPT_DYNAMIC") {
        mode().unwrap_or_else(|| "unknown, since debugfs cannot be read".to_owned())
    } else if version.contains("PREEMPT") {
        "full".to_owned()
    } else {
        "none".to_owned()
    };
    if mode == "none" || mode == "voluntary" {
        return Ok(());
    }
    bail!(
        "this kernel may stop a program there for another task, whose calls would go unseen \
         (preemption: {mode}; not so with preempt=voluntary on its command line)"
    )
}

/// The mode of a kernel that can be switched.
fn mode() -> Option<String> {
    let debugfs = support::read_from("debugfs", "/sys/kernel/debug", "sched/preempt");
    if let Some(mode) = debugfs.as_deref().and_then(chosen) {
        return Some(mode.to_owned());
    }
    // A kernel that is locked down does not show that file, even to root.
    let words = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    if let Some(mode) = words
        .split_whitespace()
        .rev()
        .find_map(|word| word.strip_prefix("preempt="))
    {
        return Some(mode.to_owned());
    }
    let path = format!("/boot/config-{}", support::release());
    let config = fs::read_to_string(path).unwrap_or_default();
    ["NONE", "VOLUNTARY"]
        .into_iter()
        .find(|mode| {
            config
                .lines()
                .any(|line| line == format!("CONFIG_PREEMPT_{mode}=y"))
        })
        .map(str::to_ascii_lowercase)
}

/// The word in brackets: `none (voluntary) full`.
fn chosen(modes: &str) -> Option<&str> {
    let (_, rest) = modes.split_once('(')?;
    Some(rest.split_once(')')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_in_force_is_in_brackets() {
        assert_eq!(chosen("none (voluntary) full \n"), Some("voluntary"));
        assert_eq!(chosen("full (lazy) \n"), Some("lazy"));
        assert_eq!(chosen("(undefined"), None);
        assert_eq!(chosen(""), None);
    }
}
