//! Agents that are found by their unit of systemd, and by their container's label.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixListener,
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{Daemon, Tree};
use crate::{
    support::{Background, Place, until},
    tests,
};

tests! {
    by_unit;
    by_label;
    by_label_of_a_runtime_that_is_down;
    by_label_of_containerd needs "containerd", "ctr", "runc", "busybox";
    by_label_of_podman needs "podman", "runc", "busybox";
}

fn by_unit() -> Result<()> {
    let tree = Tree::new("unit")?;
    let unit = format!("awt{}-*.service", std::process::id());
    let name = unit.replace('*', "1");
    let mut daemon = Daemon::start(&format!("  - unit: '{unit}'\n"), "")?;
    fs::create_dir(tree.0.join("x.slice"))?;
    let _first = tree.start(&format!("x.slice/{name}"), "/bin/true first; exec sleep 60")?;
    let _second = tree.start("x.slice/other.service", "/bin/true other; exec sleep 60")?;
    until("the agent", || daemon.is(&name, "watched"))?;
    let agent = daemon.agent(&name).context("no agent")?;
    ensure!(
        agent["found_by"] == json!({"by": "unit", "glob": unit}),
        "{agent}"
    );
    ensure!(
        daemon.get("/v1/agents")?.as_array().map(Vec::len) == Some(1),
        "more than one agent"
    );
    daemon.stop()?;
    first_exec(&daemon, &name, "first")
}

/// The first program of an agent is in the history, and of nobody else anything.
fn first_exec(daemon: &Daemon, name: &str, word: &str) -> Result<()> {
    let execs = daemon.events(&["exec"])?;
    ensure!(
        execs
            .iter()
            .any(|row| row.agent == name && row.argv() == ["/bin/true", word]),
        "{execs:#?}"
    );
    ensure!(execs.iter().all(|row| row.agent == name), "{execs:#?}");
    Ok(())
}

const AGENT: &str = "a1aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const OTHER: &str = "b2bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const DOWN: &str = "f6ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";
const UNKNOWN: &str = "c3cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc";

/// Answers as docker does, and takes its time. It has one container that is an agent.
fn runtime(socket: &Path, agent: &'static str) -> Result<()> {
    let listener = UnixListener::bind(socket)?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut head = [0; 4096];
                let n = stream.read(&mut head).unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..n]).into_owned();
                thread::sleep(Duration::from_millis(300));
                let (status, body) = if head.starts_with(&format!("GET /containers/{agent}/json")) {
                    let labels = json!({"agentwatch.io/agent": "true", "app": "web/1"});
                    let answer =
                        json!({"Id": agent, "Name": "/nice", "Config": {"Labels": labels}});
                    ("200 OK", answer)
                } else if head.contains(OTHER) {
                    let labels = json!({"agentwatch.io/agent": "false"});
                    let answer = json!({"Id": OTHER, "Name": "/not", "Config": {"Labels": labels}});
                    ("200 OK", answer)
                } else {
                    ("404 Not Found", json!({"message": "No such container"}))
                };
                let body = body.to_string();
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
            });
        }
    });
    Ok(())
}

fn by_label() -> Result<()> {
    let tree = Tree::new("label")?;
    let place = Place::new()?;
    let socket = place.path("docker.sock");
    runtime(&socket, AGENT)?;
    let agents = "  - container: {label: agentwatch.io/agent=true}\n    name: 'box-{label:app}'\n";
    let more = format!(
        "container_sockets: [{}, {}]\n",
        place.text("none"),
        socket.display()
    );
    let there = format!("docker-{AGENT}.scope");
    let mut daemon = Daemon::start(agents, &more)?;
    // All at once: what is asked of one does not hold up another.
    let mut all = Vec::new();
    for (name, word) in [
        (there.as_str(), "first"),
        (&format!("libpod-{OTHER}"), "other"),
        (UNKNOWN, "unknown"),
    ] {
        all.push(tree.start(name, &format!("/bin/true {word}; exec sleep 60"))?);
    }
    until("the agent", || daemon.is("box-web-1", "watched")).with_context(|| daemon.said())?;
    let agent = daemon.agent("box-web-1").context("no agent")?;
    ensure!(
        agent["found_by"]
            == json!({"by": "container", "label": "agentwatch.io/agent=true", "id": AGENT, "name": "nice",
                "runtime": socket.display().to_string()}),
        "{agent}"
    );
    // The others are let go: the kernel has no tag of them.
    let processes = agent["processes"].as_u64();
    until("the others to be let go", || {
        daemon.get("/v1/health").is_ok_and(|health| {
            health["maps"]["TASKS"].as_u64() <= Some(1) && health["maps"]["CGROUPS"] == 1
        })
    })
    .with_context(|| format!("{processes:?} {:?}", daemon.get("/v1/health")))?;
    daemon.stop()?;
    first_exec(&daemon, "box-web-1", "first")
}

/// The runtime is started again just now: its containers run on, and are asked for again. Until then the next
/// match holds.
fn by_label_of_a_runtime_that_is_down() -> Result<()> {
    let tree = Tree::new("down")?;
    let place = Place::new()?;
    let socket = place.path("docker.sock");
    drop(UnixListener::bind(&socket)?);
    let strict = place.file(
        "strict.yaml",
        "apiVersion: agentwatch/v1\nkind: Policy\non_stop: freeze\n",
    )?;
    let agents = format!(
        "  - container: {{label: agentwatch.io/agent=true}}\n    policy: {strict}\n    name: box\n  \
         - cgroup: {}/in/*\n    name: lax\n",
        tree.cgroup()
    );
    let daemon = Daemon::start(
        &agents,
        &format!("container_sockets: [{}]\n", socket.display()),
    )?;
    let _lax = tree.start(&format!("in/docker-{DOWN}.scope"), "exec sleep 60")?;
    let _none = tree.start(&format!("out/docker-{DOWN}.scope"), "exec sleep 60")?;
    until("the next match to hold", || daemon.is("lax", "watched"))
        .with_context(|| daemon.said())?;
    ensure!(daemon.agent("box").is_none(), "{:?}", daemon.agent("box"));
    fs::remove_file(&socket)?;
    runtime(&socket, DOWN)?;
    until("the container", || daemon.is("box", "watched")).with_context(|| daemon.said())?;
    let has_strict = || {
        daemon
            .agent("lax")
            .is_some_and(|agent| agent["policy"] == strict)
    };
    until("the policy of the container's match", has_strict).with_context(|| daemon.said())?;
    let said = daemon.said();
    let in_vain = said
        .lines()
        .filter(|line| line.contains(DOWN) && line.contains("is asked for again"));
    ensure!(in_vain.count() == 1, "{said}");
    Ok(())
}

/// The same with podman itself.
fn by_label_of_podman() -> Result<()> {
    let place = Place::new()?;
    let tree = Tree::new("podman")?;
    let podman = Podman::start(&place, tree.cgroup())?;
    let agents = "  - container: {label: agentwatch.io/agent=true}\n";
    let more = format!("container_sockets: [{}]\n", place.text("podman.sock"));
    let mut daemon = Daemon::start(agents, &more)?;
    let suffix = std::process::id();
    let (agent, other) = (format!("awt-agent-{suffix}"), format!("awt-other-{suffix}"));
    podman.run(&agent, "agentwatch.io/agent=true", "first")?;
    podman.run(&other, "agentwatch.io/agent=no", "other")?;
    until("the agent", || daemon.is(&agent, "watched")).with_context(|| daemon.said())?;
    ensure!(
        daemon.get("/v1/agents")?.as_array().map(Vec::len) == Some(1),
        "more than one agent"
    );
    let (ok, said) = daemon.verb(&["kill", &agent])?;
    ensure!(ok, "{said}");
    podman.ended(&agent)?;
    drop(podman);
    daemon.stop()?;
    first_exec(&daemon, &agent, "first")
}

/// The same with containerd, in a namespace that is neither docker's nor Kubernetes'.
fn by_label_of_containerd() -> Result<()> {
    let place = Place::new()?;
    let tree = Tree::new("containerd")?;
    rootfs(&place.path("rootfs"))?;
    let (socket, config) = (place.text("containerd.sock"), place.path("containerd.toml"));
    fs::write(
        &config,
        format!(
            "version = 2\nroot = '{}'\nstate = '{}'\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\n  address = '{socket}'\n[plugins.\"io.containerd.internal.v1.opt\"]\n  path = '{}'\n",
            place.text("root"),
            place.text("state"),
            place.text("opt")
        ),
    )?;
    let log = fs::File::create(place.path("containerd.log"))?;
    let containerd = Background::start(
        Command::new("containerd")
            .arg("--config")
            .arg(&config)
            .stderr(log),
    )?;
    let mut made = Containers {
        socket: socket.clone(),
        ids: Vec::new(),
    };
    until("containerd", || made.ctr(&["version"]).is_ok())?;
    // Of its own: all daemons of the machine see these cgroups.
    let [agent, other] = ["d4", "e5"].map(|id| format!("{id}{:062x}", std::process::id()));
    let agents = "  - container: {label: agentwatch.io/agent=true}\n    name: 'box-{label:app}'\n";
    let mut daemon = Daemon::start(agents, &format!("container_sockets: [{socket}]\n"))?;
    for (id, is_agent, word) in [(&agent, "true", "first"), (&other, "no", "other")] {
        let cgroup = format!("{}/{id}", tree.cgroup());
        let label = format!("agentwatch.io/agent={is_agent}");
        let script = format!("/bin/true {word}; sleep 60");
        made.ids.push(id.clone());
        made.ctr(&[
            "run",
            "--detach",
            "--rootfs",
            "--cgroup",
            &cgroup,
            "--label",
            &label,
            "--label",
            "app=web",
            &place.text("rootfs"),
            id,
            "/bin/sh",
            "-c",
            &script,
        ])?;
    }
    until("the agent", || daemon.is("box-web", "watched")).with_context(|| daemon.said())?;
    ensure!(
        daemon.get("/v1/agents")?.as_array().map(Vec::len) == Some(1),
        "more than one agent"
    );
    let (ok, said) = daemon.verb(&["kill", "box-web"])?;
    ensure!(ok, "{said}");
    daemon.stop()?;
    drop(made);
    drop(containerd);
    first_exec(&daemon, "box-web", "first")
}

/// Containers of a test's own containerd. Gone, and their shims with them, when this is dropped.
struct Containers {
    socket: String,
    ids: Vec<String>,
}

impl Containers {
    fn ctr(&self, words: &[&str]) -> Result<()> {
        let output = Command::new("ctr")
            .args(["--address", &self.socket, "--namespace", "awt"])
            .args(words)
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "ctr {words:?}: {said}");
        Ok(())
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        for id in &self.ids {
            let _ = self.ctr(&["task", "delete", "--force", id]);
            let _ = self.ctr(&["container", "delete", id]);
        }
    }
}

/// A file system for containers, with a shell in it.
fn rootfs(at: &Path) -> Result<()> {
    for folder in ["bin", "proc", "dev", "sys", "etc", "run", "tmp"] {
        fs::create_dir_all(at.join(folder))?;
    }
    fs::copy("/bin/busybox", at.join("bin/busybox"))?;
    for applet in ["sh", "true", "sleep"] {
        std::os::unix::fs::symlink("busybox", at.join("bin").join(applet))?;
    }
    Ok(())
}

/// podman with all it keeps in a test's folder. Its containers are gone when it is dropped.
struct Podman {
    root: Vec<String>,
    /// The cgroup above those of its containers.
    cgroup: String,
    _service: Background,
}

impl Podman {
    fn start(place: &Place, cgroup: String) -> Result<Self> {
        rootfs(&place.path("rootfs"))?;
        let mut root = Vec::new();
        for (option, folder) in [
            ("--root", "storage"),
            ("--runroot", "run"),
            ("--tmpdir", "tmp"),
        ] {
            root.extend([option.to_owned(), place.text(folder)]);
        }
        for option in [
            "--runtime=runc",
            "--cgroup-manager=cgroupfs",
            "--events-backend=file",
            "--storage-driver=vfs",
        ] {
            root.push(option.to_owned());
        }
        let socket = format!("unix://{}", place.text("podman.sock"));
        let service = Background::start(
            Command::new("podman")
                .args(&root)
                .args(["system", "service", "--time=0", &socket]),
        )?;
        let podman = Self {
            root,
            cgroup,
            _service: service,
        };
        until("podman's API", || place.path("podman.sock").exists())?;
        Ok(podman)
    }

    fn command(&self, words: &[&str]) -> Result<String> {
        let output = Command::new("podman")
            .args(&self.root)
            .args(words)
            .output()?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(output.status.success(), "podman {words:?}: {said}");
        Ok(said)
    }

    fn run(&self, name: &str, label: &str, word: &str) -> Result<()> {
        let storage = Path::new(&self.root[1]);
        let rootfs = storage.with_file_name("rootfs").display().to_string();
        self.command(&[
            "run",
            "--detach",
            "--network=none",
            "--cgroup-parent",
            &self.cgroup,
            "--ulimit=nofile=1024:1024",
            "--ulimit=nproc=4096:4096",
            "--name",
            name,
            "--label",
            label,
            "--rootfs",
            &rootfs,
            "/bin/sh",
            "-c",
            &format!("/bin/true {word}; sleep 60"),
        ])?;
        Ok(())
    }

    fn ended(&self, name: &str) -> Result<()> {
        until("the container to have ended", || {
            self.command(&["inspect", "--format={{.State.Running}}", name])
                .is_ok_and(|said| said.trim() == "false")
        })
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.command(&["rm", "--all", "--force", "--time=0"]);
    }
}
