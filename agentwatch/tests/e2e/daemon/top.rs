//! `agentwatch top` in a terminal of tmux: keys are pressed, and what is on the screen is read.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Daemon, Tree, deletes};
use crate::{
    support::{Place, program, until},
    tests,
};

tests! {
    keys_act_upon_an_agent needs "tmux";
    a_finding_appears_as_it_happens needs "tmux";
    a_daemon_that_is_started_again needs "tmux";
    who_may_only_read_is_refused needs "tmux", "setpriv";
    the_terminal_is_given_back needs "tmux";
    a_recording_is_played_and_exported needs "tmux";
}

/// A terminal of 80×24 in a tmux server of its own, which ends when dropped.
struct Terminal {
    socket: String,
}

impl Terminal {
    /// Runs a shell command in it.
    fn new(place: &Place, command: &str) -> Result<Self> {
        let socket = place.text("tmux");
        let work = place.text("work");
        let terminal = Self { socket };
        terminal.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "80",
            "-y",
            "24",
            "-c",
            &work,
            command,
        ])?;
        Ok(terminal)
    }

    fn tmux(&self, words: &[&str]) -> Result<String> {
        let output = Command::new("tmux")
            .args(["-u", "-S", &self.socket])
            .args(words)
            .env_remove("TMUX")
            .output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "tmux {words:?}: {error}");
        Ok(String::from_utf8(output.stdout)?)
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"]).unwrap_or_default()
    }

    /// Waits until a text is on the screen.
    fn see(&self, text: &str) -> Result<String> {
        until(&format!("{text:?} on the screen"), || {
            self.screen().contains(text)
        })
        .with_context(|| self.screen())?;
        Ok(self.screen())
    }

    /// Presses keys, by tmux's names.
    fn press(&self, keys: &[&str]) -> Result<()> {
        self.tmux(&[&["send-keys"], keys].concat()).map(drop)
    }

    fn write(&self, text: &str) -> Result<()> {
        self.press(&["-l", text])
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]);
    }
}

/// The command that shows a daemon.
fn top(daemon: &Daemon) -> String {
    let socket = daemon.place.text("socket");
    format!("{} top --socket {socket}", program().display())
}

fn watched(name: &str) -> Result<(Tree, Daemon)> {
    let tree = Tree::new(name)?;
    let daemon = Daemon::start(&format!("  - cgroup: {}/*\n", tree.cgroup()), "")?;
    Ok((tree, daemon))
}

fn keys_act_upon_an_agent() -> Result<()> {
    let (tree, daemon) = watched("topkeys")?;
    let _agent = tree.start("worker", "while :; do /bin/true; sleep .1; done")?;
    until("the agent", || daemon.is("worker", "watched"))?;
    let terminal = Terminal::new(&daemon.place, &top(&daemon))?;
    terminal.see("● live")?;
    terminal.see("worker ")?;
    terminal.press(&["F"])?;
    terminal.see("freeze worker?")?;
    terminal.write("look")?;
    terminal.press(&["Enter"])?;
    terminal.see("freeze worker: all its processes stand still")?;
    ensure!(
        daemon.is("worker", "frozen"),
        "{:?}",
        daemon.agent("worker")
    );
    terminal.see("1 frozen")?;
    terminal.press(&["T", "Enter"])?;
    terminal.see("thaw worker: its processes go on")?;
    // One agent, by its tree of processes.
    terminal.press(&["Enter"])?;
    terminal.see("1 processes")?;
    terminal.see("-c echo")?;
    terminal.press(&["5"])?;
    terminal.see("mass-deletion")?;
    // A kill that is not meant.
    terminal.press(&["K", "Enter"])?;
    terminal.see("kill worker: y does it")?;
    terminal.press(&["n"])?;
    terminal.see("worker is left as it is")?;
    ensure!(
        daemon.is("worker", "watched"),
        "{:?}",
        daemon.agent("worker")
    );
    terminal.press(&["K"])?;
    terminal.write("enough")?;
    terminal.press(&["Enter", "y"])?;
    terminal.see("kill worker: its processes have ended")?;
    ensure!(
        daemon.is("worker", "killed"),
        "{:?}",
        daemon.agent("worker")
    );
    until("all actions in the history", || {
        let actions = daemon.get("/v1/actions?agent=worker");
        actions.is_ok_and(|all| all.as_array().map(Vec::len) == Some(3))
    })?;
    let actions = daemon.get("/v1/actions?agent=worker")?;
    let told: Vec<(&str, &str)> = actions
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|action| Some((action["action"].as_str()?, action["reason"].as_str()?)))
        .collect();
    let meant = [("freeze", "look"), ("thaw", ""), ("kill", "enough")];
    ensure!(told == meant, "{told:?}");
    terminal.press(&["q"])?;
    until("the end of the terminal", || terminal.screen().is_empty())
}

fn a_finding_appears_as_it_happens() -> Result<()> {
    let (tree, daemon) = watched("topfind")?;
    let folder = daemon.place.tree("tree", 400)?;
    let (script, go) = deletes(&daemon.place, &folder);
    let _agent = tree.start("cleaner", &script)?;
    until("the agent", || daemon.is("cleaner", "watched"))?;
    let terminal = Terminal::new(&daemon.place, &top(&daemon))?;
    terminal.see("nothing found")?;
    terminal.see("● live")?;
    fs::write(go, "")?;
    let screen = terminal.see("critical cleaner")?;
    ensure!(screen.contains("mass-deletion"), "{screen}");
    terminal.see("killed      1C")?;
    terminal.press(&["Enter", "4"])?;
    terminal.see("killed the agent: ordered")?;
    Ok(())
}

fn a_daemon_that_is_started_again() -> Result<()> {
    let (tree, mut daemon) = watched("topagain")?;
    let _agent = tree.start("steady", "exec sleep 60")?;
    until("the agent", || daemon.is("steady", "watched"))?;
    let terminal = Terminal::new(&daemon.place, &top(&daemon))?;
    terminal.see("● live")?;
    daemon.stop()?;
    terminal.see("no daemon since")?;
    daemon.child = Daemon::child(&daemon.place)?;
    terminal.see("the daemon was started again at")?;
    terminal.see("● live")?;
    Ok(())
}

fn who_may_only_read_is_refused() -> Result<()> {
    let tree = Tree::new("topread")?;
    let agents = format!("  - cgroup: {}/*\n", tree.cgroup());
    let daemon = Daemon::start(&agents, "socket_group: '65534'\n")?;
    // The test's folder is its owner's, and so may be the one that the program is in.
    let folder = daemon.place.path("");
    Command::new("chmod").arg("755").arg(&folder).status()?;
    let own = daemon.place.text("program");
    fs::copy(program(), &own)?;
    let _agent = tree.start("worker", "exec sleep 60")?;
    until("the agent", || daemon.is("worker", "watched"))?;
    let terminal = Terminal::new(
        &daemon.place,
        &format!(
            "exec setpriv --reuid=65534 --regid=65534 --clear-groups {own} top --socket {}",
            daemon.place.text("socket")
        ),
    )?;
    terminal.see("worker ")?;
    terminal.press(&["F", "Enter"])?;
    let screen = terminal.see("freeze worker: NOT done")?;
    ensure!(screen.contains("root"), "{screen}");
    ensure!(
        daemon.is("worker", "watched"),
        "{:?}",
        daemon.agent("worker")
    );
    Ok(())
}

fn the_terminal_is_given_back() -> Result<()> {
    let (_tree, daemon) = watched("topterm")?;
    let pid = daemon.place.path("pid");
    let script = format!(
        "sh -c 'echo $$ > {}; exec {}'; echo ended $?; stty -a; exec sleep 60",
        pid.display(),
        top(&daemon)
    );
    let terminal = Terminal::new(&daemon.place, &script)?;
    terminal.see("● live")?;
    let flags = || terminal.tmux(&["display-message", "-p", "#{alternate_on} #{mouse_any_flag}"]);
    ensure!(flags()? == "1 1\n", "{}", flags()?);
    Command::new("kill")
        .args(["-TERM", fs::read_to_string(pid)?.trim()])
        .status()?;
    let screen = terminal.see("ended 0")?;
    terminal.see("icanon")?;
    ensure!(!terminal.screen().contains("-icanon"), "{screen}");
    ensure!(flags()? == "0 0\n", "{}", flags()?);
    Ok(())
}

fn a_recording_is_played_and_exported() -> Result<()> {
    let place = Place::new()?;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings/ssh-reverse.awrec");
    let command = format!(
        "exec {} top --speed 50 --replay {}",
        program().display(),
        file.display()
    );
    let terminal = Terminal::new(&place, &command)?;
    terminal.see("end of the recording")?;
    terminal.see("reverse-tunnel")?;
    terminal.press(&["K"])?;
    terminal.see("this is a recording")?;
    terminal.press(&["Enter"])?;
    terminal.see("4 findings 1")?;
    terminal.press(&["e"])?;
    terminal.see("written to")?;
    let written = fs::read_dir(place.path("work"))?
        .next()
        .context("no file")??;
    let seen: Value = serde_json::from_str(&fs::read_to_string(written.path())?)?;
    ensure!(
        seen["findings"][0]["detector"] == "reverse-tunnel",
        "{seen}"
    );
    ensure!(seen["agent"]["name"] == "sh", "{seen}");
    Ok(())
}
