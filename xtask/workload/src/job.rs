//! Small jobs as agents do them, with the programs of this machine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, ensure};

use crate::Work;

/// Files of C that are compiled.
const UNITS: usize = 16;
/// Files that go into the repository.
const FILES: usize = 300;

/// Compiles a few files of C, as many at a time as there are CPUs, and links them: so many times.
pub fn build(count: u64, dir: PathBuf) -> Result<Work> {
    for unit in 0..UNITS {
        let main = if unit == 0 {
            "int main(void) { return 0; }\n"
        } else {
            ""
        };
        let text = format!(
            "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <time.h>\n\
             int unit_{unit}(const char *s) {{ int n = 0; for (; *s; s++) n += *s ^ {unit}; \
             if (n > 7) printf(\"%d %zu\", n, strlen(s)); return n; }}\n{main}"
        );
        fs::write(dir.join(format!("{unit}.c")), text)?;
    }
    let cpus = thread::available_parallelism()?.get();
    Ok(Box::new(move || {
        for _ in 0..count {
            thread::scope(|scope| -> Result<()> {
                let share = |first: usize| {
                    let dir = &dir;
                    move || {
                        (first..UNITS)
                            .step_by(cpus)
                            .try_for_each(|n| compile(dir, n))
                    }
                };
                let threads: Vec<_> = (0..cpus).map(|first| scope.spawn(share(first))).collect();
                for thread in threads {
                    thread.join().ok().context("a thread failed")??;
                }
                Ok(())
            })?;
            let objects = (0..UNITS).map(|unit| format!("{unit}.o"));
            run(
                Command::new("cc").args(["-o", "program"]).args(objects),
                &dir,
            )?;
        }
        Ok(count)
    }))
}

fn compile(dir: &Path, unit: usize) -> Result<()> {
    let (from, to) = (format!("{unit}.c"), format!("{unit}.o"));
    run(
        Command::new("cc").args(["-O1", "-c", "-o", &to, &from]),
        dir,
    )
}

/// A repository: made, filled, changed, looked at, and removed: so many times.
pub fn git(count: u64, dir: &Path) -> Work {
    let tree = dir.join("tree");
    let git = |words: &[&str], dir: &Path| {
        run(
            Command::new("git")
                .args(["-c", "user.name=bench", "-c", "user.email=bench@localhost"])
                .args(words)
                .env("GIT_CONFIG_NOSYSTEM", "1")
                .env("GIT_CONFIG_GLOBAL", "/dev/null"),
            dir,
        )
    };
    Box::new(move || {
        for _ in 0..count {
            fs::create_dir(&tree)?;
            git(&["init", "--quiet"], &tree)?;
            for file in 0..FILES {
                fs::write(tree.join(format!("{file}.txt")), format!("{file}\n"))?;
            }
            git(&["add", "."], &tree)?;
            git(&["commit", "--quiet", "-m", "first"], &tree)?;
            git(&["checkout", "--quiet", "-b", "other"], &tree)?;
            git(&["rm", "--quiet", "1*.txt"], &tree)?;
            git(&["commit", "--quiet", "-m", "second"], &tree)?;
            git(&["checkout", "--quiet", "-"], &tree)?;
            git(&["status", "--short"], &tree)?;
            git(&["log", "--stat"], &tree)?;
            fs::remove_dir_all(&tree)?;
        }
        Ok(count)
    })
}

fn run(command: &mut Command, dir: &Path) -> Result<()> {
    let status = command
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("starting {command:?}"))?;
    ensure!(status.success(), "{command:?} failed ({status})");
    Ok(())
}
