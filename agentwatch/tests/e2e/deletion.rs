//! `mass-deletion`: of what the agent did not make.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::{
    support::{Agent, Place, program, python},
    tests,
};

tests! {
    a_tree_outside_the_workspace;
    by_many_processes needs "xargs";
    by_truncation_and_by_a_symbolic_link;
    moved_into_an_own_folder_first needs "/usr/bin/python3";
    exchanged_with_own_files_first needs "/usr/bin/python3";
    own_build_output;
    what_is_disposable;
    git_checkout_in_the_workspace needs "git";
    disposable_on_a_terminal needs "/usr/bin/python3";
}

fn files_below(folder: &std::path::Path) -> Result<usize> {
    let list = Command::new("find")
        .arg(folder)
        .args(["-type", "f", "-size", "+0"])
        .output()?;
    Ok(String::from_utf8_lossy(&list.stdout).lines().count())
}

fn a_tree_outside_the_workspace() -> Result<()> {
    let place = Place::new()?;
    let mail = place.tree("mail", 5000)?;
    let outcome = Agent::new(&place).run(&["rm", "-rf", &place.text("mail")])?;
    let finding = outcome.is_killed("mass-deletion")?;
    ensure!(finding["severity"] == "critical", "{finding}");
    ensure!(
        finding["message"].to_string().contains(&place.text("mail")),
        "{finding}"
    );
    at_most_50_gone(&mail)?;
    let stopped = outcome.events("stopped")?;
    ensure!(stopped.len() == 1, "{stopped:#?}");
    Ok(())
}

/// Of 5,000.
fn at_most_50_gone(folder: &std::path::Path) -> Result<()> {
    let gone = 5000 - files_below(folder)?;
    ensure!(gone <= 50, "{gone} files are gone");
    Ok(())
}

/// Eight at once: each may be in a call when the budget is used up.
fn by_many_processes() -> Result<()> {
    let place = Place::new()?;
    let mail = place.tree("mail", 5000)?;
    let script = format!(
        "find {} -type f -print0 | xargs -0 -P8 -n100 rm -f",
        place.text("mail")
    );
    let outcome = Agent::new(&place).sh(&script)?;
    outcome.is_killed("mass-deletion")?;
    at_most_50_gone(&mail)
}

fn by_truncation_and_by_a_symbolic_link() -> Result<()> {
    let place = Place::new()?;
    let mail = place.tree("mail", 5000)?;
    let script = format!(
        "ln -s {} m; for f in m/*/*; do : > $f; done; sleep 20",
        place.text("mail")
    );
    let outcome = Agent::new(&place).sh(&script)?;
    let finding = outcome.is_killed("mass-deletion")?;
    ensure!(
        finding["evidence"][0]["what"]
            .to_string()
            .contains("truncated"),
        "{finding}"
    );
    at_most_50_gone(&mail)
}

/// What is taken from outside is lost there, wherever it is deleted in the end.
fn taken(how: &str) -> Result<()> {
    let place = Place::new()?;
    place.tree("mail", 300)?;
    let script = place.file(
        "work/take.py",
        &format!(
            "import ctypes, glob, os, time\n\
             libc = ctypes.CDLL(None, use_errno=True)\n\
             os.mkdir('own')\n\
             for n, path in enumerate(glob.glob('{}/*/*')):\n\
             \x20   to = 'own/%d' % n\n\
             \x20   {how}\n\
             \x20   os.unlink(to); time.sleep(.002)\n\
             time.sleep(20)\n",
            place.text("mail"),
        ),
    )?;
    let outcome = Agent::new(&place).run(&["/usr/bin/python3", &script])?;
    let finding = outcome.is_killed("mass-deletion")?;
    let first = finding["evidence"][0]["what"].to_string();
    ensure!(
        first.contains("moved away") && first.contains("/mail/"),
        "{first}"
    );
    Ok(())
}

fn moved_into_an_own_folder_first() -> Result<()> {
    taken("os.rename(path, to)")
}

/// renameat2(2) is number 316 on x86-64 and 276 elsewhere; 2 is `RENAME_EXCHANGE`.
fn exchanged_with_own_files_first() -> Result<()> {
    taken(
        "open(to, 'w').close(); \
         libc.syscall(316 if os.uname().machine == 'x86_64' else 276, -100, path.encode(), -100, to.encode(), 2)",
    )
}

/// Made in the run, and removed again: by its own path, and by one with a symbolic link in it.
fn own_build_output() -> Result<()> {
    let place = Place::new()?;
    std::os::unix::fs::symlink(place.path("work"), place.path("link"))?;
    let script = format!(
        "mkdir b; for i in $(seq 1500); do : > b/$i; done; rm -rf b; \
         cd {0}; for i in $(seq 500); do : > {0}/x$i; done; rm -f {0}/x*; \
         mkdir {1}/out; for i in $(seq 200); do echo $i > {1}/out/$i; done; rm -rf {1}/out",
        place.text("link"),
        place.text("")
    );
    Agent::new(&place).sh(&script)?.is_quiet()
}

fn what_is_disposable() -> Result<()> {
    let place = Place::new()?;
    place.tree("other/node_modules", 800)?;
    let gone = place.text("other/node_modules");
    Agent::new(&place).run(&["rm", "-rf", &gone])?.is_quiet()?;
    ensure!(
        !place.path("other/node_modules").exists(),
        "it is there still"
    );
    Ok(())
}

fn git_checkout_in_the_workspace() -> Result<()> {
    let place = Place::new()?;
    place.tree("work/d", 800)?;
    let made = Command::new("sh")
        .args(["-ec", "git init -q -b main; git config user.name a; git config user.email a@b; git add .; \
            git commit -qm 1; git checkout -qb b; git rm -rqf d; echo 1 >x; git add .; git commit -qm 2; \
            git checkout -q main"])
        .current_dir(place.path("work"))
        .status()?;
    ensure!(made.success(), "making the repository");
    Agent::new(&place)
        .sh("git checkout -q b && git checkout -q main")?
        .is_quiet()
}

/// The kernel stops the command at its budget: that is not Ctrl-Z, so agentwatch goes on, and lets the
/// command go on.
fn disposable_on_a_terminal() -> Result<()> {
    let place = Place::new()?;
    place.tree("other/node_modules", 300)?;
    let script = "import os, pty, sys\n\
        os.chdir(sys.argv[2])\n\
        status = pty.spawn([sys.argv[1], 'run', '--no-history', '--', 'rm', '-rf', sys.argv[3]])\n\
        sys.exit(os.waitstatus_to_exitcode(status))";
    let output = python(
        script,
        &[
            &program().display().to_string(),
            &place.text("work"),
            &place.text("other/node_modules"),
        ],
    )
    .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{:?}: {said}", output.status);
    ensure!(
        !place.path("other/node_modules").exists(),
        "it is there still: {said}"
    );
    Ok(())
}
