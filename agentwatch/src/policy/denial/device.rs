//! Devices, by path or by number.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::PathBuf,
};

use agentwatch_common::deny::DeviceKey;
use serde::{Deserialize, Serialize};

/// One entry: the path of a node, or numbers as in the kernel's device cgroups (`c 195:*`); then which
/// access, `rwm` where it does not say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Device {
    /// As the policy writes it.
    text: String,
    what: What,
    /// 1 mknod, 2 read, 4 write (`BPF_DEVCG_ACC_*`).
    pub access: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Path(PathBuf),
    Numbers(DeviceNumbers),
}

/// Devices by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceNumbers {
    /// 1 block, 2 character.
    pub kind: u32,
    /// [`DeviceKey::ANY`] for each.
    pub major: u32,
    /// Likewise.
    pub minor: u32,
}

impl TryFrom<String> for Device {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let words: Vec<&str> = text.split(' ').collect();
        let (what, access) = match words[..] {
            [path] if path.starts_with('/') => (What::Path(path.into()), "rwm"),
            [path, access] if path.starts_with('/') => (What::Path(path.into()), access),
            [kind @ ("b" | "c"), numbers_] => (numbers(&text, kind, numbers_)?, "rwm"),
            [kind @ ("b" | "c"), numbers_, access] => (numbers(&text, kind, numbers_)?, access),
            _ => {
                return Err(format!(
                    "`{text}` is no device; write the path of its node (/dev/kvm) or its numbers (c 195:*), \
                     and if need be r, w, m or more of them"
                ));
            }
        };
        let mut bits = 0;
        for letter in access.chars() {
            bits |= match letter {
                'm' => 1,
                'r' => 2,
                'w' => 4,
                _ => {
                    return Err(format!(
                        "`{text}`: `{access}` is no access; r reads, w writes, m makes its node"
                    ));
                }
            };
        }
        if bits == 0 {
            return Err(format!("`{text}` ends with a space"));
        }
        Ok(Self {
            what,
            access: bits,
            text,
        })
    }
}

fn numbers(text: &str, kind: &str, numbers: &str) -> Result<What, String> {
    let number = |word: &str, most: u32| match word {
        "*" => Some(DeviceKey::ANY),
        word => word.parse().ok().filter(|n| *n <= most),
    };
    let parsed = numbers
        .split_once(':')
        .and_then(|(major, minor)| Some((number(major, 0xfff)?, number(minor, 0xf_ffff)?)));
    match parsed {
        Some((DeviceKey::ANY, minor)) if minor != DeviceKey::ANY => Err(format!(
            "`{text}`: a minor number means nothing without its major number"
        )),
        Some((major, minor)) => Ok(What::Numbers(DeviceNumbers {
            kind: if kind == "b" { 1 } else { 2 },
            major,
            minor,
        })),
        None => Err(format!(
            "`{text}`: `{numbers}` are no numbers of a device; write MAJOR:MINOR, each a number or `*`"
        )),
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.text
    }
}

impl Device {
    /// Its numbers on this machine.
    ///
    /// # Errors
    ///
    /// When its node is not there or is none.
    pub fn resolve(&self) -> io::Result<DeviceNumbers> {
        let path = match &self.what {
            What::Numbers(numbers) => return Ok(*numbers),
            What::Path(path) => path,
        };
        let metadata = fs::metadata(path)?;
        let kind = metadata.file_type();
        if !kind.is_block_device() && !kind.is_char_device() {
            return Err(io::Error::other("not a device node"));
        }
        Ok(DeviceNumbers {
            kind: if kind.is_block_device() { 1 } else { 2 },
            major: libc::major(metadata.rdev()),
            minor: libc::minor(metadata.rdev()),
        })
    }

    /// As the policy writes it.
    pub fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(text: &str) -> Result<Device, String> {
        Device::try_from(text.to_owned())
    }

    #[test]
    fn by_path_and_by_number() {
        let null = device("/dev/null rw").unwrap();
        assert_eq!(null.access, 6);
        let numbers = DeviceNumbers {
            kind: 2,
            major: 1,
            minor: 3,
        };
        assert_eq!(null.resolve().unwrap(), numbers);
        assert_eq!(device("c 1:3 m").unwrap().resolve().unwrap(), numbers);
        let any = device("b *:*").unwrap();
        assert_eq!(any.access, 7);
        assert_eq!(any.resolve().unwrap().major, DeviceKey::ANY);
        assert!(device("/dev").unwrap().resolve().is_err());
        assert!(device("/dev/none-such").unwrap().resolve().is_err());
    }

    #[test]
    fn bad_entries_say_why() {
        for (bad, why) in [
            ("kvm", "is no device"),
            ("c 195", "are no numbers of a device"),
            ("c 4096:0", "are no numbers of a device"),
            ("c *:5", "means nothing without its major number"),
            ("/dev/kvm x", "`x` is no access"),
            ("/dev/kvm ", "ends with a space"),
            ("", "is no device"),
        ] {
            let error = device(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
