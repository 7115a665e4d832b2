//! The image, built without a registry around a program of this checkout, and the daemon in a container of
//! it: it watches a cgroup of this test's own outside, and kills what is in it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    outcome::{Outcome, Tally},
    setup, workspace,
};

/// Builds and runs it, by itself.
pub fn run() -> Result<process::ExitCode> {
    setup::ensure(&[setup::Group::Bpf, setup::Group::Image])?;
    match test(&mut Tally::default())? {
        Outcome::Passed => println!("the image is well: its daemon watched an agent and killed it"),
        Outcome::Skipped(reason) => bail!("cannot try the image: {reason}"),
    }
    Ok(process::ExitCode::SUCCESS)
}

/// Builds and runs it, as a step of the tests.
pub fn test(tally: &mut Tally) -> Result<Outcome> {
    for program in ["buildah", "podman", "runc"] {
        if !workspace::has_program(program) {
            return Ok(Outcome::Skipped(format!("{program} is not installed")));
        }
    }
    if !workspace::is_root()? {
        return Ok(Outcome::Skipped("this is not root".to_owned()));
    }
    let folder = workspace::target_dir()?.join("image");
    let image = Image {
        name: format!("localhost/agentwatch-test:{}", process::id()),
    };
    image.build(&folder)?;
    let scene = Scene::new(&folder)?;
    let container = Container::start(&image, &scene)?;
    container.try_it()?;
    tally.passed += 1;
    Ok(Outcome::Passed)
}

struct Image {
    name: String,
}

/// A command whose images and containers are below the test's own folder, and go with it.
fn stored(program: &str, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .arg("--root")
        .arg(folder.join("storage"))
        .arg("--runroot")
        .arg(folder.join("storage-run"))
        .args(["--storage-driver", "vfs"]);
    command
}

impl Image {
    fn build(&self, folder: &Path) -> Result<()> {
        let mut cargo = workspace::cargo()?;
        // What is linked is all that differs, so only that is made again.
        cargo
            .args(["rustc", "--package", "agentwatch", "--bin", "agentwatch"])
            .args(["--", "-Ctarget-feature=+crt-static", "-Cstrip=symbols"])
            .env_remove("CARGO_BUILD_TARGET");
        workspace::run(&mut cargo)?;
        let _ = fs::remove_dir_all(folder);
        let context = folder.join("context");
        fs::create_dir_all(&context).with_context(|| format!("making {}", context.display()))?;
        let built = workspace::target_dir()?.join("debug/agentwatch");
        fs::copy(&built, context.join("agentwatch"))
            .with_context(|| format!("copying {}", built.display()))?;
        let mut buildah = stored("buildah", folder);
        buildah
            .args([
                "bud",
                "--quiet",
                "--isolation",
                "chroot",
                "--build-arg",
                "FROM=prebuilt",
            ])
            .arg("-f")
            .arg(workspace::root()?.join("deploy/Dockerfile"))
            .args(["-t", &self.name])
            .arg(&context)
            .stdout(Stdio::null());
        workspace::run(&mut buildah)
    }
}

/// A cgroup with a process in it, and the folders that the container gets.
struct Scene {
    root: PathBuf,
    cgroup: PathBuf,
    folder: PathBuf,
    agent: process::Child,
}

impl Scene {
    fn new(folder: &Path) -> Result<Self> {
        let root = cgroup2()?;
        let cgroup = root.join(format!("awt-image-{}", process::id()));
        for made in [&folder.join("run"), &folder.join("data"), &cgroup.join("a")] {
            fs::create_dir_all(made).with_context(|| format!("making {}", made.display()))?;
        }
        let name = cgroup.file_name().unwrap_or_default().to_string_lossy();
        fs::write(
            folder.join("config.yaml"),
            format!("apiVersion: agentwatch/v1\nkind: Config\nagents:\n  - cgroup: /{name}/*\n"),
        )?;
        let script = format!(
            "echo $$ > {}/a/cgroup.procs; exec sleep 300",
            cgroup.display()
        );
        let agent = Command::new("sh").args(["-c", &script]).spawn()?;
        Ok(Self {
            root,
            cgroup,
            folder: folder.to_owned(),
            agent,
        })
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        let _ = self.agent.kill();
        let _ = self.agent.wait();
        let _ = fs::remove_dir(self.cgroup.join("a"));
        let _ = fs::remove_dir(&self.cgroup);
        for storage in ["storage", "storage-run"] {
            let _ = fs::remove_dir_all(self.folder.join(storage));
        }
    }
}

/// The daemon's container, as the manifest for Kubernetes has it.
struct Container<'a> {
    name: String,
    scene: &'a Scene,
}

/// podman, on machines with cgroup v1 beside v2 and without systemd too.
fn podman(folder: &Path) -> Command {
    let mut podman = stored("podman", folder);
    podman
        .args(["--runtime", "runc", "--cgroup-manager", "cgroupfs"])
        .args(["--events-backend", "file"]);
    podman
}

impl<'a> Container<'a> {
    fn start(image: &Image, scene: &'a Scene) -> Result<Self> {
        let container = Self {
            name: format!("agentwatch-test-{}", process::id()),
            scene,
        };
        let root = scene.root.display();
        let folder = scene.folder.display();
        let mut run = podman(&scene.folder);
        run.args([
            "run",
            "--detach",
            "--read-only",
            "--privileged",
            "--pid=host",
        ])
        .args([
            "--network=host",
            "--cgroupns=host",
            "--name",
            &container.name,
        ])
        .args([
            "--ulimit",
            "nofile=1024:1024",
            "--ulimit",
            "nproc=4096:4096",
        ])
        .args(["--env", "AGENTWATCH_NODE=node-of-the-test"])
        .args(["-v", &format!("{root}:{root}")])
        .args(["-v", "/sys/kernel/tracing:/sys/kernel/tracing"])
        .args(["-v", &format!("{folder}:/etc/agentwatch:ro")])
        .args(["-v", &format!("{folder}/data:/var/lib/agentwatch")])
        .args(["-v", &format!("{folder}/run:/run/agentwatch")])
        .arg(&image.name);
        workspace::run(run.stdout(Stdio::null()))?;
        Ok(container)
    }

    fn try_it(&self) -> Result<()> {
        let well = (0..60).any(|_| {
            let well = self
                .exec(&["health"])
                .is_ok_and(|said| said.contains("node-of-the-test"));
            if !well {
                thread::sleep(Duration::from_millis(500));
            }
            well
        });
        if !well {
            let _ = podman(&self.scene.folder)
                .args(["logs", &self.name])
                .status();
            bail!("the daemon in the container is not well; what it says is above");
        }
        let agents = self.exec(&["agents"])?;
        ensure!(agents.contains("watched"), "no agent is seen: {agents}");
        self.exec(&["kill", "a"])?;
        let left = fs::read_to_string(self.scene.cgroup.join("a/cgroup.procs"))?;
        ensure!(left.is_empty(), "killed, and there are still {left}");
        Ok(())
    }

    /// Runs a verb in it.
    fn exec(&self, words: &[&str]) -> Result<String> {
        let output = podman(&self.scene.folder)
            .args(["exec", &self.name, "/usr/bin/agentwatch"])
            .args(words)
            .output()?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(output.status.success(), "{}: {said}", words.join(" "));
        Ok(said)
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ =
            quietly(podman(&self.scene.folder).args(["rm", "--force", "--time", "5", &self.name]));
    }
}

fn quietly(command: &mut Command) -> std::io::Result<process::ExitStatus> {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status()
}

/// Where cgroup v2 is mounted: field 5 of `/proc/self/mountinfo` (proc(5)).
fn cgroup2() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading the mounts")?;
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    let path = mount.and_then(|line| line.split(' ').nth(4));
    Ok(path.context("cgroup v2 is not mounted")?.into())
}
