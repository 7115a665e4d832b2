//! Records of programs that are started.

use agentwatch_common::{exec, header::flag};

use super::{
    DecodeError,
    bytes::{Reader, Wire, reversed_path, text, words},
    call::credentials,
};
use crate::event::{Device, ENVIRONMENT, Exec, ExecMeans, Inode, Stdio};

// SAFETY: a `repr(C)` structure of integers, asserted to have no padding.
unsafe impl Wire for exec::Exec {}
// SAFETY: likewise.
unsafe impl Wire for exec::Stream {}

/// File types of `st_mode`, inode(7).
const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFIFO: u32 = 0o010_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFBLK: u32 = 0o060_000;
const S_IFSOCK: u32 = 0o140_000;
/// Address families of socket(2).
const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

pub fn exec(reader: &mut Reader<'_>, flags: u16) -> Result<Exec, DecodeError> {
    let exec::Exec {
        credentials: cred,
        ino,
        argv_total,
        dev,
        nlink,
        argc,
        mode: _,
        path_len,
        cwd_len,
        filename_len,
        interp_len,
        argv_len,
        env_len,
        streams_len,
        pad: _,
    } = reader.take()?;
    let stdio = stdio(reader.bytes(streams_len)?);
    let path = reversed_path(reader.bytes(path_len)?, flags & flag::PATH_CUT != 0);
    let cwd = reversed_path(reader.bytes(cwd_len)?, flags & flag::BASE_CUT != 0);
    let filename = text(reader.bytes(filename_len)?);
    let interpreter = text(reader.bytes(interp_len)?);
    let argv = words(
        reader.bytes(argv_len)?,
        usize::try_from(argc).unwrap_or(usize::MAX),
    );
    let environment = environment(reader.bytes(env_len)?);
    Ok(Exec {
        means: means(&path, &filename, &interpreter, &argv, nlink),
        path,
        filename,
        interpreter,
        argv,
        argv_total,
        argv_cut: flags & flag::ARGV_CUT != 0,
        cwd,
        file: Inode { dev, ino },
        nlink,
        credentials: credentials(&cred),
        stdio,
        environment,
    })
}

/// What the standard streams are.
fn stdio(bytes: &[u8]) -> [Stdio; 3] {
    let mut reader = Reader::new(bytes);
    [(); 3].map(|()| reader.take().map_or(Stdio::Unknown, stream))
}

fn stream(stream: exec::Stream) -> Stdio {
    let exec::Stream {
        ino,
        cookie,
        rdev,
        mode,
        family,
    } = stream;
    let device = Device {
        major: rdev >> 20,
        minor: rdev & 0xf_ffff,
    };
    match u32::from(mode) & S_IFMT {
        _ if mode == 0 => Stdio::Closed,
        S_IFREG | S_IFDIR | S_IFBLK => Stdio::File,
        S_IFIFO => Stdio::Pipe(ino),
        S_IFSOCK => match family {
            AF_UNIX => Stdio::Unix(ino),
            AF_INET | AF_INET6 => Stdio::Inet(cookie),
            other => Stdio::Socket(other),
        },
        // Documentation/admin-guide/devices.txt: null; terminals, consoles, serial lines and the slaves of
        // pseudoterminals.
        S_IFCHR => match (device.major, device.minor) {
            (1, 3) => Stdio::Null,
            (5, 2) => Stdio::Device(device), // ptmx
            (4 | 5 | 136..=143 | 204, _) => Stdio::Tty(device),
            _ => Stdio::Device(device),
        },
        _ => Stdio::Other,
    }
}

/// How the program came to run. What the kernel knows goes before what the caller wrote: a memfd can
/// be run by any name, a script through a descriptor.
fn means(path: &str, filename: &str, interpreter: &str, argv: &[String], nlink: u32) -> ExecMeans {
    // The kernel replaces the interpreter's name only for scripts and binfmt_misc (fs/exec.c,
    // `bprm_change_interp`).
    if interpreter != filename {
        return ExecMeans::Script {
            script: filename.to_owned(),
        };
    }
    if nlink == 0 {
        // Where memfds have their names, nothing else has (mm/memfd.c).
        return if path.starts_with("/memfd:") {
            ExecMeans::Memfd
        } else {
            ExecMeans::Deleted
        };
    }
    if is_loader(path)
        && let Some(program) = loaded(argv)
    {
        return ExecMeans::Loader {
            program: program.to_owned(),
        };
    }
    // execveat(2) with an empty path gives `/dev/fd/N` (fs/exec.c, `alloc_bprm`).
    let by_descriptor = filename.starts_with("/dev/fd/")
        || filename
            .strip_prefix("/proc/")
            .is_some_and(|rest| rest.contains("/fd/"));
    if by_descriptor {
        return ExecMeans::Descriptor;
    }
    ExecMeans::File
}

/// Whether a path is a dynamic loader's, by the names that glibc's and musl's have.
fn is_loader(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.starts_with("ld-linux")
        || name.starts_with("ld-musl")
        || name.starts_with("ld-2.")
        || name == "ld.so"
        || name == "ld64.so.2"
        || name == "ld.so.1"
}

/// What the loader was told to run: the first argument that is no option of its own (ld.so(8)).
fn loaded(argv: &[String]) -> Option<&str> {
    const WITH_VALUE: [&str; 6] = [
        "--library-path",
        "--inhibit-rpath",
        "--audit",
        "--preload",
        "--argv0",
        "--glibc-hwcaps-prepend",
    ];
    let mut words = argv.iter().skip(1);
    while let Some(word) = words.next() {
        if !word.starts_with("--") {
            return Some(word);
        }
        if WITH_VALUE.contains(&word.as_str()) {
            words.next();
        }
    }
    None
}

/// The chosen ones of the environment, each once.
fn environment(bytes: &[u8]) -> Vec<(&'static str, String)> {
    let mut chosen: Vec<(&'static str, String)> = Vec::new();
    for pair in bytes.split(|b| *b == 0) {
        let Some(at) = pair.iter().position(|b| *b == b'=') else {
            continue;
        };
        let (name, value) = (&pair[..at], &pair[at + 1..]);
        if let Some(name) = ENVIRONMENT.iter().find(|chosen| chosen.as_bytes() == name)
            && chosen.iter().all(|(known, _)| known != name)
        {
            chosen.push((name, text(value)));
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, filename: &str, interpreter: &str, argv: &[&str], nlink: u32) -> ExecMeans {
        let argv: Vec<String> = argv.iter().map(|word| (*word).to_owned()).collect();
        means(path, filename, interpreter, &argv, nlink)
    }

    #[test]
    fn means_are_told_apart() {
        assert_eq!(
            of("/bin/sh", "/bin/sh", "/bin/sh", &["sh"], 1),
            ExecMeans::File
        );
        assert_eq!(
            of("/bin/dash", "./x.sh", "/bin/sh", &["/bin/sh", "./x.sh"], 1),
            ExecMeans::Script {
                script: "./x.sh".to_owned()
            }
        );
        let loader = "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";
        assert_eq!(
            of(
                loader,
                loader,
                loader,
                &["ld.so", "--argv0", "ls", "/tmp/x", "-l"],
                1
            ),
            ExecMeans::Loader {
                program: "/tmp/x".to_owned()
            }
        );
        assert_eq!(
            of(loader, loader, loader, &["ld.so", "--list-tunables"], 1),
            ExecMeans::File
        );
        assert_eq!(
            of("/memfd:x", "/dev/fd/3", "/dev/fd/3", &["x"], 0),
            ExecMeans::Memfd
        );
        assert_eq!(
            of("/tmp/x", "/tmp/x", "/tmp/x", &["x"], 0),
            ExecMeans::Deleted
        );
        let fd = "/proc/self/fd/3";
        assert_eq!(of("/bin/true", fd, fd, &["x"], 1), ExecMeans::Descriptor);
    }

    #[test]
    fn of_the_environment_only_chosen_names_are_kept() {
        let bytes =
            b"HOME=/root\0LD_PRELOAD=/tmp/x.so\0SECRET=1\0=\0LD_PRELOAD=second\0PYTHONPATH=";
        let expected = [
            ("LD_PRELOAD", "/tmp/x.so".to_owned()),
            ("PYTHONPATH", String::new()),
        ];
        assert_eq!(environment(bytes), expected);
    }
}
