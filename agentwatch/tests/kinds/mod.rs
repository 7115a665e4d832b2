//! Events of every kind, to be stored and read again.

use agentwatch::{
    decode::payload::{self, Message, Parsed, Payload},
    event::{
        Address, Call, CallOp, Connect, Credentials, Denied, DeniedObject, DeniedOp, Direction,
        Endpoint, Event, Exec, ExecMeans, Exit, File, FileOp, FlowClose, FlowData, Inode, Kind,
        PathSource, ProcessKey, Protocol, Seed, Signal, SocketAddress, SocketOrigin, Stdio,
        Stopped, Usage,
    },
};

/// An event of that kind, of a shell.
pub fn event(time_ns: u64, kind: Kind) -> Event {
    Event {
        time_ns,
        agent: 1,
        process: ProcessKey {
            pid: 42,
            start_ns: 7,
        },
        tid: 42,
        ppid: 1,
        uid: 1000,
        gid: 1000,
        cgroup: 9,
        comm: "sh".to_owned(),
        partial: false,
        domain: None,
        kind,
    }
}

fn endpoint() -> Endpoint {
    let address = |ip: &str, port| Address {
        ip: ip.parse().unwrap(),
        port,
    };
    Endpoint {
        cookie: u64::MAX,
        local: address("::1", 4000),
        remote: address("2001:db8::1", 443),
        protocol: Protocol::Tcp,
        direction: Direction::Out,
    }
}

/// One call of each sort, but for connect, which has the name of a flow's.
fn calls() -> impl Iterator<Item = Kind> {
    const ALL: [CallOp; 21] = [
        CallOp::Socket,
        CallOp::Bind,
        CallOp::Ptrace,
        CallOp::ProcessVmRead,
        CallOp::ProcessVmWrite,
        CallOp::PidfdGetfd,
        CallOp::Unshare,
        CallOp::Setns,
        CallOp::MemfdCreate,
        CallOp::Prctl,
        CallOp::Bpf,
        CallOp::ModuleLoad,
        CallOp::ModuleUnload,
        CallOp::IoUringSetup,
        CallOp::Setuid,
        CallOp::Setgid,
        CallOp::Capset,
        CallOp::PerfEventOpen,
        CallOp::Userfaultfd,
        CallOp::Kexec,
        CallOp::Fsopen,
    ];
    ALL.into_iter().map(|op| {
        Kind::Call(Box::new(Call {
            op,
            args: [2, 1, 6, 0, 0, 0],
            result: 0,
            credentials: NOBODY,
            text: None,
            address: (op == CallOp::Bind).then(|| SocketAddress::Unix("/run/x.sock".to_owned())),
        }))
    })
}

const NOBODY: Credentials = Credentials {
    caps: 0,
    uid: 65534,
    euid: 65534,
    gid: 65534,
    egid: 65534,
};

/// A real message of each protocol.
fn messages() -> impl Iterator<Item = Kind> {
    let stream = |bytes: &[u8]| match payload::stream(bytes) {
        Parsed::Whole(message, _) => message,
        other => panic!("{other:?}"),
    };
    let answer = include_bytes!("../payloads/dig-cname.answer.dns");
    let messages = [
        stream(include_bytes!("../payloads/firefox135.tls")),
        stream(include_bytes!("../payloads/curl.http")),
        stream(include_bytes!("../payloads/ssh.ssh")),
        stream(b"{\"id\":1,\"method\":\"mining.subscribe\",\"params\":[\"cpuminer/2.5.1\"]}\n"),
        Message::Dns(payload::dns::datagram(answer, true, false).unwrap()),
    ];
    messages.into_iter().map(|message| {
        Kind::Payload(Box::new(Payload {
            endpoint: endpoint(),
            direction: Direction::Out,
            offset: 0,
            message,
        }))
    })
}

/// One event of every kind that is stored.
#[expect(clippy::too_many_lines, reason = "one of each, in full")]
pub fn every_kind() -> Vec<Kind> {
    let file = |op| {
        Kind::File(Box::new(File {
            attribute: None,
            device: None,
            owner: None,
            uring: false,
            op,
            result: -13,
            path: "/w/a\\n".to_owned(),
            path_source: PathSource::Kernel,
            path2: Some("/w/b".to_owned()),
            inode: Some(Inode {
                dev: u32::MAX,
                ino: u64::MAX,
            }),
            replaced: Some(Inode { dev: 1, ino: 2 }),
            nlink: 1,
            file_mode: 0o100_644,
            mode: 0o600,
            flags: 1,
            size: 9,
            count: 3,
            created: true,
            write: true,
        }))
    };
    let mut kinds = vec![
        Kind::Exec(Box::new(Exec {
            means: ExecMeans::File,
            credentials: NOBODY,
            stdio: [Stdio::Pipe(7), Stdio::Inet(8), Stdio::Closed],
            environment: Vec::new(),
            path: "/bin/sh".to_owned(),
            filename: "x.sh".to_owned(),
            interpreter: "/bin/sh".to_owned(),
            argv: vec!["x.sh".to_owned(), String::new(), "ä \u{1f600}".to_owned()],
            argv_total: 5000,
            argv_cut: true,
            cwd: "/w".to_owned(),
            file: Inode { dev: 1, ino: 2 },
            nlink: 0,
        })),
        Kind::Signal(Signal {
            target: ProcessKey {
                pid: 1,
                start_ns: 2,
            },
            target_agent: 0,
            signal: 9,
            delivered: true,
        }),
        Kind::Stopped(Stopped {
            workspace: false,
            stopped: true,
        }),
        Kind::Fork {
            namespaces: 0,
            cgroup: 0,
            parent: ProcessKey {
                pid: 1,
                start_ns: 2,
            },
        },
        Kind::Exit(Exit {
            max_rss_pages: 0,
            code: None,
            signal: Some(9),
            utime_ns: u64::MAX,
            stime_ns: 0,
        }),
        Kind::CgroupMove {
            moved: 3,
            to: u64::MAX,
            to_agent: 0,
            protected: true,
        },
        Kind::Connect(Box::new(Connect {
            endpoint: endpoint(),
            trigger: None,
        })),
        Kind::Accept(endpoint()),
        Kind::Listen(endpoint()),
        Kind::SocketReceived(endpoint()),
        Kind::SocketInherited(endpoint()),
        Kind::Denied(Box::new(Denied {
            op: DeniedOp::Sysctl,
            object: DeniedObject::Sysctl("kernel/x".to_owned()),
            rule: 8 << 16,
            repeats: 0,
            errno: 1,
            observed: false,
        })),
        Kind::FlowOpen(endpoint()),
        Kind::FlowData(Box::new(FlowData {
            endpoint: endpoint(),
            direction: Direction::In,
            offset: 0,
            len: 4,
            data: b"\x1b[2J\xff\0".to_vec(),
            trigger: None,
        })),
        Kind::FlowClose(FlowClose {
            partial: false,
            endpoint: endpoint(),
            bytes_in: 0,
            bytes_out: u64::MAX,
            open_ns: 1,
            established: true,
            alive: false,
            retransmits: Some(2),
            origin: Some(SocketOrigin::Received),
        }),
        Kind::FlowAlive(FlowClose {
            partial: false,
            endpoint: endpoint(),
            bytes_in: 0,
            bytes_out: u64::MAX,
            open_ns: 1,
            established: true,
            alive: true,
            retransmits: Some(2),
            origin: Some(SocketOrigin::Received),
        }),
        Kind::Usage(Usage {
            cpu_ns: u64::MAX,
            recent_cpu_ns: 4_000_000_000,
            recent_ns: 10_000_000_000,
            read_bytes: 1,
            written_bytes: 0,
        }),
        Kind::Seed(Box::new(Seed {
            member: true,
            path: "/bin/sh".to_owned(),
            cwd: "/".to_owned(),
            argv: Vec::new(),
        })),
    ];
    kinds.extend(
        [
            FileOp::Open,
            FileOp::Unlink,
            FileOp::Rmdir,
            FileOp::Rename,
            FileOp::Chmod,
            FileOp::Truncate,
            FileOp::Mkdir,
            FileOp::Link,
            FileOp::Symlink,
            FileOp::Chown,
            FileOp::Xattr,
            FileOp::Mknod,
            FileOp::Mount,
            FileOp::Umount,
            FileOp::PivotRoot,
            FileOp::Chroot,
            FileOp::MmapExec,
        ]
        .map(file),
    );
    kinds.extend(calls());
    kinds.extend(messages());
    kinds
}
