//! Offsets of structure members, from the running kernel's BTF.

use std::{collections::HashMap, fs, path::Path};

use agentwatch_common::offsets::Offsets;
use anyhow::{Context as _, Result, anyhow};
use btfparse::{Error, ErrorKind, Offset, Readable, TypeInformation, TypeVariant};

use super::functions::PREFIX;

/// Where the kernel shows its own types.
pub const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Structures that a kernel may be without, with the programs that need them: io_uring can be left out
/// of a kernel.
fn is_optional(structure: &str) -> bool {
    structure.starts_with("io_") || structure == "pt_regs"
}

/// Members that some kernels call otherwise: since Linux 7 the union of `struct dentry` that begins with
/// `d_alias` has no name.
const OTHERWISE: &[(&str, &str, &str)] = &[
    ("dentry", "d_u", "d_alias"),
    // Before 5.15 a number that holds the pointer.
    ("sock_cgroup_data", "cgroup", "val"),
];

/// What the running kernel's BTF tells.
pub struct Layout {
    /// Where the members of its structures are.
    pub offsets: Offsets,
    /// The tracepoint at the submission of an io_uring request, where it passes the request.
    pub uring_submit: Option<&'static str>,
    /// Whether the tracepoint at its end passes the `struct io_uring_cqe`.
    pub uring_cqe: bool,
    /// Whether tracepoints tell how much goes through a socket.
    pub sock_lengths: bool,
    /// The functions that do system calls: the call's name, and the function's id in the BTF. Some kernels
    /// have two, with names for the argument that differ.
    pub functions: HashMap<String, Vec<u32>>,
}

/// Reads the offsets that the kernel programs need.
///
/// # Errors
///
/// When the BTF cannot be read, or lacks a member without which the programs would see nothing.
pub fn read(path: &Path) -> Result<Layout> {
    let bytes = fs::read(path).with_context(|| {
        format!(
            "cannot read {}: the kernel shows no BTF type information (CONFIG_DEBUG_INFO_BTF); \
             agentwatch needs it to find the fields of the kernel's structures",
            path.display()
        )
    })?;
    let types = TypeInformation::new(&Image(bytes))
        .map_err(|error| anyhow!("{} is not valid BTF: {error:?}", path.display()))?;
    // By kind, not by name alone: a function or a typedef may have the name of a structure.
    let structures: HashMap<String, u32> = types
        .get()
        .iter()
        .filter_map(|(id, kind)| match kind {
            TypeVariant::Struct(s) => s.name().clone().map(|name| (name, *id)),
            _ => None,
        })
        .collect();
    let mut missing = Vec::new();
    let offsets = Offsets::from_fn(|structure, member| {
        let other = OTHERWISE
            .iter()
            .find(|(of, name, _)| (*of, *name) == (structure, member))
            .map(|(_, _, other)| *other);
        let found = structures
            .get(structure)
            .and_then(|id| {
                let names = [Some(member), other].into_iter().flatten();
                names.flat_map(|name| types.offset_of(*id, name)).next()
            })
            .and_then(|(_, offset)| match offset {
                Offset::ByteOffset(bytes) => Some(bytes),
                Offset::BitOffsetAndSize(bits, _) => (bits % 8 == 0).then_some(bits / 8),
            });
        if found.is_none() && !is_optional(structure) {
            missing.push(format!("{structure}.{member}"));
        }
        found
    });
    if missing.is_empty() {
        // The tracepoint's name has changed, and what it passes: `void *`, then its arguments.
        let uring_submit = ["io_uring_submit_req", "io_uring_submit_sqe"]
            .into_iter()
            .find(|name| passes(&types, name, 1, "io_kiocb"));
        let uring_cqe = passes(&types, "io_uring_complete", 3, "io_uring_cqe");
        let sock_lengths = passes(&types, "sock_send_length", 1, "sock");
        Ok(Layout {
            offsets,
            uring_submit,
            uring_cqe,
            sock_lengths,
            functions: functions(&types),
        })
    } else {
        Err(anyhow!(
            "this kernel's BTF has no {}: agentwatch does not know this kernel",
            missing.join(", ")
        ))
    }
}

/// The functions that do system calls.
fn functions(types: &TypeInformation) -> HashMap<String, Vec<u32>> {
    let of_call = |(id, kind): (&u32, &TypeVariant)| {
        let TypeVariant::Func(function) = kind else {
            return None;
        };
        let name = function.name().as_deref()?.strip_prefix(PREFIX)?;
        Some((name.to_owned(), *id))
    };
    let mut functions: HashMap<_, Vec<u32>> = HashMap::new();
    for (call, id) in types.get().iter().filter_map(of_call) {
        functions.entry(call).or_default().push(id);
    }
    functions
}

/// Whether a tracepoint passes a pointer to a structure as its nth argument; the 0th is always `void
/// *`. By the typedef that the kernel makes for each (`__DEFINE_EVENT` of
/// `include/trace/bpf_probe.h`).
fn passes(types: &TypeInformation, tracepoint: &str, nth: usize, structure: &str) -> bool {
    argument(types, tracepoint, nth).is_some_and(|name| name == structure)
}

/// The structure that an argument of a tracepoint points to.
fn argument(types: &TypeInformation, tracepoint: &str, nth: usize) -> Option<String> {
    let wanted = format!("btf_trace_{tracepoint}");
    let types = types.get();
    let pointer = types.values().find_map(|kind| match kind {
        TypeVariant::Typedef(t) if t.name().as_deref() == Some(&wanted) => Some(*t.tid()),
        _ => None,
    })?;
    let TypeVariant::Ptr(pointer) = types.get(&pointer)? else {
        return None;
    };
    let TypeVariant::FuncProto(function) = types.get(pointer.tid())? else {
        return None;
    };
    let TypeVariant::Ptr(pointer) = types.get(&function.parameter_list().get(nth)?.tid())? else {
        return None;
    };
    match types.get(pointer.tid())? {
        TypeVariant::Struct(structure) => structure.name().clone(),
        _ => None,
    }
}

/// The BTF in memory.
struct Image(Vec<u8>);

impl Readable for Image {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> btfparse::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        match start
            .checked_add(buffer.len())
            .and_then(|end| self.0.get(start..end))
        {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(Error::new(
                ErrorKind::IOError,
                "the BTF ends before it should",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_btf_is_told_so() {
        let error = read(Path::new("/nonexistent/btf")).err().unwrap();
        let text = format!("{error:#}");
        assert!(text.contains("CONFIG_DEBUG_INFO_BTF"), "{text}");
    }

    #[test]
    fn what_is_no_btf_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for junk in [&b""[..], b"\x9f\xeb", &[0xff; 4096]] {
            fs::write(file.path(), junk).unwrap();
            let error = read(file.path()).err().unwrap();
            assert!(error.to_string().contains("not valid BTF"), "{error:#}");
        }
    }
}
