//! Ordinary work: nothing is found, nothing is lost.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::{
    outside::Outside,
    support::{Agent, Background, Place, is_listening, port, python, until},
    tests,
};

tests! {
    ssh_command needs "ssh", "sshd";
    git_over_ssh needs "git", "sshd";
    scp_and_rsync needs "scp", "rsync", "sshd";
    web_server_before_a_database needs "nginx", "curl";
    pip needs "/usr/bin/pip3";
    apt needs "apt-get", "dpkg-deb", "dpkg-scanpackages";
}

fn ssh_command() -> Result<()> {
    let place = Place::new()?;
    let outside = Outside::with_sshd(&place)?;
    let options = Outside::ssh_options(&place);
    let outcome = Agent::new(&place).sh(&format!(
        "ssh {options} root@{} echo hello",
        outside.address
    ))?;
    ensure!(
        outcome.stdout == "hello\n",
        "{:?} {}",
        outcome.stdout,
        outcome.stderr
    );
    outcome.is_quiet()
}

fn git_over_ssh() -> Result<()> {
    let place = Place::new()?;
    let outside = Outside::with_sshd(&place)?;
    place.tree("source/d", 200)?;
    let made = Command::new("sh")
        .args([
            "-ec",
            "git init -q -b main source; cd source; git add .; \
            git -c user.name=a -c user.email=a@b commit -qm 1; git clone -q --bare . ../bare.git",
        ])
        .current_dir(place.path(""))
        .status()?;
    ensure!(made.success(), "making the repository");
    let outcome = Agent::new(&place).sh(&format!(
        "export GIT_SSH_COMMAND='ssh {}'; git clone -q root@{}:{} clone && cd clone && \
         git -c user.name=a -c user.email=a@b commit -q --allow-empty -m 2 && git push -q",
        Outside::ssh_options(&place),
        outside.address,
        place.text("bare.git"),
    ))?;
    outcome.is_quiet()
}

fn scp_and_rsync() -> Result<()> {
    let place = Place::new()?;
    let outside = Outside::with_sshd(&place)?;
    place.tree("there", 50)?;
    let options = Outside::ssh_options(&place);
    let (host, there) = (&outside.address, place.text("there"));
    let outcome = Agent::new(&place).sh(&format!(
        "scp -q -r {options} root@{host}:{there} . && rsync -a --delete -e 'ssh {options}' there/ root@{host}:{there}2"
    ))?;
    ensure!(
        place.path("there2/000/000049").exists(),
        "nothing was copied: {}",
        outcome.stderr
    );
    outcome.is_quiet()
}

/// The agent is an nginx; its clients and its database are outside the agent.
fn web_server_before_a_database() -> Result<()> {
    let place = Place::new()?;
    let (web, database) = (port(), port());
    let mut server = python(
        "import http.server, sys\n\
         class H(http.server.BaseHTTPRequestHandler):\n\
         \x20 protocol_version = 'HTTP/1.1'\n\
         \x20 def do_GET(s): s.send_response(200); s.send_header('Content-Length', '4'); s.end_headers(); s.wfile.write(b'rows')\n\
         \x20 def log_message(s, *a): pass\n\
         http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()",
        &[&database.to_string()],
    );
    let _database = Background::start(&mut server)?;
    let dir = place.text("");
    let config = place.file("nginx.conf", &format!(
        "daemon off; master_process on; worker_processes 2; pid {dir}pid; error_log /dev/null;\n\
         events {{}}\n\
         http {{ access_log off; client_body_temp_path {dir}b; proxy_temp_path {dir}p; fastcgi_temp_path {dir}f;\n\
         uwsgi_temp_path {dir}u; scgi_temp_path {dir}s;\n\
         upstream db {{ server 127.0.0.1:{database}; keepalive 4; }}\n\
         server {{ listen 127.0.0.1:{web}; location / {{ proxy_pass http://db; proxy_http_version 1.1;\n\
         proxy_set_header Connection ''; }} }} }}\n"
    ))?;
    let agent = Agent::new(&place);
    let running = agent
        .command(&["nginx", "-c", &config])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    until("nginx", || is_listening(web))?;
    for _ in 0..20 {
        let page = Command::new("curl")
            .args(["-s", &format!("http://127.0.0.1:{web}/")])
            .output()?;
        ensure!(page.stdout == b"rows", "no page: {page:?}");
    }
    let pid = std::fs::read_to_string(place.path("pid"))?;
    ensure!(
        Command::new("kill")
            .args(["-QUIT", pid.trim()])
            .status()?
            .success(),
        "stopping nginx"
    );
    let outcome = agent.outcome(&running.wait_with_output()?)?;
    ensure!(
        outcome.events("accept")?.len() >= 20,
        "the requests were not seen"
    );
    outcome.is_quiet()
}

/// From an index on loopback, and uninstalled again.
fn pip() -> Result<()> {
    let place = Place::new()?;
    let index = port();
    std::fs::create_dir_all(place.path("index/mp"))?;
    // A wheel is a zip with a few files in it (PEP 427).
    let wheel = "import zipfile, sys\n\
        with zipfile.ZipFile(sys.argv[1], 'w') as z:\n\
        \x20 z.writestr('mp/__init__.py', '')\n\
        \x20 z.writestr('mp-1.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: mp\\nVersion: 1\\n')\n\
        \x20 z.writestr('mp-1.dist-info/WHEEL', 'Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n\
        \x20 z.writestr('mp-1.dist-info/RECORD', 'mp/__init__.py,,\\nmp-1.dist-info/METADATA,,\\nmp-1.dist-info/WHEEL,,\\nmp-1.dist-info/RECORD,,\\n')\n";
    let made = python(wheel, &[&place.text("index/mp/mp-1-py3-none-any.whl")]).status()?;
    ensure!(made.success(), "making the wheel");
    let mut server = python(
        "import http.server, sys, functools\n\
         class H(http.server.SimpleHTTPRequestHandler):\n\
         \x20 def log_message(s, *a): pass\n\
         http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), functools.partial(H, directory=sys.argv[2])).serve_forever()",
        &[&index.to_string(), &place.text("index")],
    );
    let _server = Background::start(&mut server)?;
    until("the index", || is_listening(index))?;
    let outcome = Agent::new(&place).sh(&format!(
        "/usr/bin/python3 -m pip --isolated --no-cache-dir install -q --no-deps --target t \
         --index-url http://127.0.0.1:{index}/ mp && test -f t/mp/__init__.py && rm -rf t"
    ))?;
    outcome.is_quiet()
}

/// A repository on loopback, and folders of its own, so that the host's packages stay as they are.
fn apt() -> Result<()> {
    let place = Place::new()?;
    let repository = port();
    let made = Command::new("sh")
        .args(["-ec", "mkdir -p repo p/DEBIAN p/usr/share/mp; echo x >p/usr/share/mp/x; \
            printf 'Package: mp\\nVersion: 1\\nArchitecture: all\\nMaintainer: a <a@b>\\nDescription: x\\n' >p/DEBIAN/control; \
            dpkg-deb -b p repo/mp_1_all.deb >/dev/null; cd repo; dpkg-scanpackages . 2>/dev/null >Packages; \
            mkdir -p ../apt/lists/partial ../apt/cache/archives/partial ../apt/etc; : >../apt/status; chmod -R a+rwX ../apt"])
        .current_dir(place.path(""))
        .status()?;
    ensure!(made.success(), "making the repository");
    let mut server = python(
        "import http.server, sys, functools\n\
         class H(http.server.SimpleHTTPRequestHandler):\n\
         \x20 def log_message(s, *a): pass\n\
         http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), functools.partial(H, directory=sys.argv[2])).serve_forever()",
        &[&repository.to_string(), &place.text("repo")],
    );
    let _server = Background::start(&mut server)?;
    until("the repository", || is_listening(repository))?;
    let apt = place.text("apt");
    let list = place.file(
        "sources.list",
        &format!("deb [trusted=yes] http://127.0.0.1:{repository}/ ./\n"),
    )?;
    let options = format!(
        "-q -o Dir::State={apt} -o Dir::State::Lists={apt}/lists -o Dir::State::status={apt}/status -o Dir::Cache={apt}/cache \
         -o Dir::Etc::sourcelist={list} -o Dir::Etc::sourceparts=- -o APT::Sandbox::User=root -o Acquire::http::Proxy=DIRECT"
    );
    let outcome = Agent::new(&place).sh(&format!(
        "apt-get {options} update && apt-get {options} download mp && test -f mp_1_all.deb"
    ))?;
    outcome.is_quiet()
}
