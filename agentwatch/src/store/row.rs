//! An event as a row.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    detail::{Detail, FileFacts},
    said,
};
use crate::event::{
    self, Call, CallOp, Denied, DeniedObject, DeniedOp, Endpoint, Event, Exec, ExecMeans, File,
    FlowClose, Inode, Kind, Protocol, SocketAddress, Stdio,
};

/// Most bytes of a payload that are shown as they are. Of what is longer the message is shown.
const HEAD: usize = agentwatch_common::flow::HEAD_MAX;

/// A row of the table of events, and a line of `agentwatch events -o json`: the names of the fields
/// are a contract. What an event does not have is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Row {
    /// Unix time, nanoseconds.
    #[serde(
        serialize_with = "rfc3339",
        deserialize_with = "from_rfc3339",
        rename = "time"
    )]
    pub time_ns: i64,
    /// The run.
    pub run: String,
    /// The agent's name.
    pub agent: String,
    /// See [`Kind::NAMES`].
    pub kind: String,
    /// Process id.
    pub pid: u32,
    /// Start of the process, `CLOCK_BOOTTIME` nanoseconds.
    pub start_ns: u64,
    /// The parent's process id.
    pub ppid: u32,
    /// User id.
    pub uid: u32,
    /// The task's name.
    pub comm: String,
    /// Path of the process's binary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// The file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The second file of a rename or link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path2: Option<String>,
    /// What the call returned: a negative errno where it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<i32>,
    /// Device of the file, in the kernel's encoding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dev: Option<u32>,
    /// Inode number of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ino: Option<u64>,
    /// `tcp`, `udp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// `out`: the agent opened it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// Own address and port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
    /// The peer's address and port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// The peer's port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_port: Option<u16>,
    /// Payload bytes that the agent got.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_in: Option<u64>,
    /// Payload bytes that it sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_out: Option<u64>,
    /// The kernel's cookie of the socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<u64>,
    /// What else there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<Detail>,
}

/// Unix nanoseconds as RFC 3339.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde calls"
)]
fn rfc3339<S: serde::Serializer>(time_ns: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    let time = jiff::Timestamp::from_nanosecond(i128::from(*time_ns)).unwrap_or_default();
    serializer.collect_str(&format_args!("{time:.9}"))
}

fn from_rfc3339<'de, D: serde::Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    let text = String::deserialize(from)?;
    let time: jiff::Timestamp = text.parse().map_err(serde::de::Error::custom)?;
    i64::try_from(time.as_nanosecond()).map_err(serde::de::Error::custom)
}

impl Row {
    /// Makes a row of an event, of no run yet.
    pub fn new(event: &Event, exe: Option<&str>, agent: &str, wall_offset_ns: u64) -> Self {
        let mut row = Self {
            time_ns: i64::try_from(event.time_ns.saturating_add(wall_offset_ns))
                .unwrap_or(i64::MAX),
            agent: agent.to_owned(),
            kind: event.kind.name().to_owned(),
            pid: event.process.pid,
            start_ns: event.process.start_ns,
            ppid: event.ppid,
            uid: event.uid,
            comm: event.comm.clone(),
            exe: exe.map(str::to_owned),
            ..Self::default()
        };
        row.fill(&event.kind, event.cgroup);
        if event.partial {
            row.detail()["partial"] = Value::Bool(true);
        }
        if let Some(domain) = &event.domain {
            let detail = row.detail();
            detail["destination.domain"] = domain.name.clone().into();
            detail["destination.domain_source"] = domain.source.name().into();
        }
        row
    }

    fn detail(&mut self) -> &mut Value {
        self.detail
            .get_or_insert_with(|| json!({}).into())
            .value_mut()
    }

    fn fill(&mut self, kind: &Kind, own_cgroup: u64) {
        match kind {
            Kind::Exec(exec) => self.exec(exec),
            Kind::Fork {
                parent,
                namespaces,
                cgroup,
            } => {
                self.ppid = parent.pid;
                let namespaces = event::namespaces(u64::from(*namespaces));
                if !namespaces.is_empty() {
                    self.detail()["namespaces"] = namespaces.into();
                }
                // The header has its parent's.
                if *cgroup != own_cgroup {
                    self.detail()["cgroup"] = (*cgroup).into();
                }
            }
            Kind::Exit(exit) => {
                self.result = exit.code.map(i32::from);
                let mut detail = json!({
                    "user_ns": exit.utime_ns, "system_ns": exit.stime_ns,
                    "max_rss_pages": exit.max_rss_pages,
                });
                if let Some(signal) = exit.signal {
                    detail["signal"] = signal.into();
                }
                self.detail = Some(detail.into());
            }
            Kind::CgroupMove {
                moved,
                to,
                to_agent,
                protected,
            } => {
                self.detail = Some(
                    json!({
                        "moved": moved, "to": to, "to_agent": to_agent, "protected": protected,
                    })
                    .into(),
                );
            }
            Kind::Connect(connect) => self.endpoint(&connect.endpoint),
            Kind::Accept(endpoint)
            | Kind::SocketReceived(endpoint)
            | Kind::SocketInherited(endpoint)
            | Kind::Listen(endpoint)
            | Kind::FlowOpen(endpoint) => {
                self.endpoint(endpoint);
            }
            Kind::FlowData(data) => {
                self.endpoint(&data.endpoint);
                self.detail = Some(
                    json!({
                        "way": data.direction.name(), "offset": data.offset, "len": data.len,
                        "head": crate::text::escape(&data.data[..data.data.len().min(HEAD)]),
                    })
                    .into(),
                );
            }
            Kind::Payload(payload) => {
                self.endpoint(&payload.endpoint);
                let mut detail = said::detail(&payload.message);
                detail["way"] = payload.direction.name().into();
                self.detail = Some(detail.into());
            }
            Kind::FlowClose(close) | Kind::FlowAlive(close) => self.flow_close(close),
            Kind::Usage(usage) => self.detail = Some(json!(usage).into()),
            Kind::File(file) => self.file_call(file),
            Kind::Stopped(stopped) => {
                self.detail = Some(
                    json!({
                        "workspace": stopped.workspace, "stopped": stopped.stopped,
                    })
                    .into(),
                );
            }
            Kind::Call(call) => self.call(call),
            Kind::Denied(denied) => self.denied(denied),
            Kind::Signal(signal) => {
                self.detail = Some(
                    json!({
                        "signal": signal.signal, "target_pid": signal.target.pid,
                        "target_start_ns": signal.target.start_ns,
                        "target_agent": signal.target_agent, "delivered": signal.delivered,
                    })
                    .into(),
                );
            }
            Kind::Seed(seed) => {
                self.path = Some(seed.path.clone());
                self.detail =
                    Some(json!({"argv": seed.argv, "cwd": seed.cwd, "member": seed.member}).into());
            }
            Kind::Agent(_) | Kind::Tally(_) | Kind::Carried(_) => {}
        }
    }

    fn flow_close(&mut self, close: &FlowClose) {
        self.endpoint(&close.endpoint);
        self.bytes_in = Some(close.bytes_in);
        self.bytes_out = Some(close.bytes_out);
        self.detail = Some(
            json!({
                "open_ns": close.open_ns, "established": close.established, "alive": close.alive,
            })
            .into(),
        );
        if let Some(origin) = close.origin {
            self.detail()["origin"] = origin.name().into();
        }
        if close.partial {
            self.detail()["partial"] = true.into();
        }
        if let Some(number) = close.retransmits {
            self.detail()["retransmits"] = number.into();
        }
    }

    fn exec(&mut self, exec: &Exec) {
        self.path = Some(exec.path.clone());
        self.file(Some(exec.file));
        let mut detail = json!({"argv": exec.argv, "cwd": exec.cwd, "filename": exec.filename});
        if exec.interpreter != exec.filename {
            detail["interpreter"] = exec.interpreter.clone().into();
        }
        if exec.argv_cut {
            detail["argv_bytes"] = exec.argv_total.into();
            detail["argv_cut"] = true.into();
        }
        if exec.nlink == 0 {
            detail["nameless"] = true.into();
        }
        if exec.means != ExecMeans::File {
            detail["means"] = exec.means.name().into();
        }
        match &exec.means {
            ExecMeans::Script { script } => detail["script"] = script.clone().into(),
            ExecMeans::Loader { program } => detail["program"] = program.clone().into(),
            _ => {}
        }
        if exec.stdio != [Stdio::Unknown; 3] {
            let told = exec.stdio.map(|stream| match stream.id() {
                Some(id) => format!("{} {id}", stream.name()),
                None => stream.name().to_owned(),
            });
            detail["stdio"] = told.as_slice().into();
        }
        if exec.credentials.euid != exec.credentials.uid {
            detail["euid"] = exec.credentials.euid.into();
        }
        for (name, value) in &exec.environment {
            detail["env"][name] = value.clone().into();
        }
        self.detail = Some(detail.into());
    }

    fn file_call(&mut self, file: &File) {
        self.path = Some(file.path.clone());
        self.path2.clone_from(&file.path2);
        self.result = Some(file.result);
        self.file(file.inode);
        self.detail = Some(Detail::File(FileFacts::from(file)));
        if let Some(attribute) = &file.attribute {
            self.detail()["attribute"] = attribute.clone().into();
        }
        if let Some(device) = file.device {
            self.detail()["device"] = device.to_string().into();
        }
        let (user, group) = file.owner.unwrap_or_default();
        for (name, id) in [("uid", user), ("gid", group)] {
            if let Some(id) = id {
                self.detail()["owner"][name] = id.into();
            }
        }
    }

    fn call(&mut self, call: &Call) {
        self.result = Some(i32::try_from(call.result).unwrap_or(0));
        let mut detail = call.facts();
        if let Some(text) = &call.text {
            detail["name"] = text.clone().into();
        }
        if let Some(address) = &call.address {
            self.protocol = Some(address.protocol().to_owned());
            let text = Some(address.to_string());
            match (call.op, address) {
                // Where a unix socket is, is a file.
                (_, SocketAddress::Unix(path)) => self.path = Some(path.clone()),
                (CallOp::Bind, _) => self.local = text,
                _ => self.remote = text,
            }
        }
        self.detail = Some(detail.into());
    }

    fn denied(&mut self, denied: &Denied) {
        self.result = Some(-i32::try_from(denied.errno).unwrap_or(0));
        match &denied.object {
            DeniedObject::Address(address, protocol) => {
                self.protocol = Some(protocol.to_string());
                let text = Some(address.to_string());
                if denied.op == DeniedOp::Bind {
                    self.local = text;
                } else {
                    self.remote = text;
                    self.remote_port = Some(address.port);
                }
            }
            DeniedObject::File(path, inode) => {
                self.path = Some(path.clone());
                self.file(Some(*inode));
            }
            _ => {}
        }
        self.detail = Some(denied.facts().into());
    }

    fn file(&mut self, inode: Option<Inode>) {
        if let Some(Inode { dev, ino }) = inode {
            self.dev = Some(dev);
            self.ino = Some(ino);
        }
    }

    fn endpoint(&mut self, endpoint: &Endpoint) {
        self.protocol = Some(endpoint.protocol.to_string());
        self.direction = Some(endpoint.direction.name().to_owned());
        self.cookie = Some(endpoint.cookie);
        if endpoint.local.port != 0 {
            self.local = Some(endpoint.local.to_string());
        }
        if endpoint.remote.port != 0 || matches!(endpoint.protocol, Protocol::Other(_)) {
            self.remote = Some(endpoint.remote.to_string());
            self.remote_port = Some(endpoint.remote.port);
        }
    }

    /// One thing of `detail`, as text.
    pub fn told(&self, name: &str) -> Option<&str> {
        self.detail.as_ref()?.told(name)
    }

    /// One thing of `detail`, as a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.detail.as_ref()?.number(name)
    }

    /// Whether a thing of `detail` is true.
    pub fn is(&self, name: &str) -> bool {
        self.detail.as_ref().is_some_and(|detail| detail.is(name))
    }

    /// One list of `detail`, as text with commas.
    pub fn list(&self, name: &str) -> String {
        self.words(name).collect::<Vec<_>>().join(",")
    }

    /// The arguments.
    pub fn argv(&self) -> Vec<&str> {
        self.words("argv").collect()
    }

    fn words(&self, name: &str) -> impl Iterator<Item = &str> {
        let list = self
            .detail
            .as_ref()
            .map_or(&[][..], |detail| detail.list(name));
        list.iter().filter_map(Value::as_str)
    }
}
