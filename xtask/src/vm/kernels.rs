//! Which kernels can be booted, and where Debian has them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

use super::{
    debian::{Archive, Suite, Suites},
    image,
};

/// A kernel that is known by name.
#[derive(Debug)]
pub struct Known {
    /// The beginning of its version, as in the names of Debian's packages.
    pub version: &'static str,
    suites: &'static [Suite],
}

/// The matrix: the oldest, those that Debian's stable releases run, and the newest.
pub const KNOWN: &[Known] = &[
    Known {
        version: "5.10",
        suites: &[
            (Archive::Main, "bullseye"),
            (Archive::Security, "bullseye-security"),
        ],
    },
    Known {
        version: "6.1",
        suites: &[
            (Archive::Main, "bookworm"),
            (Archive::Security, "bookworm-security"),
        ],
    },
    Known {
        version: "6.12",
        suites: &[(Archive::Main, "bookworm-backports")],
    },
    Known {
        version: "7",
        suites: &[(Archive::Main, "trixie-backports")],
    },
];

/// Where any other version is looked for.
const ELSEWHERE: &[Suite] = &[
    (Archive::Main, "bookworm-backports"),
    (Archive::Main, "trixie"),
    (Archive::Security, "trixie-security"),
    (Archive::Main, "trixie-backports"),
];

/// The versions that `--kernel` asks for, each once: `all` is the matrix, `7.x` is `7`.
pub fn versions(asked: &[String]) -> Vec<String> {
    let mut versions: Vec<String> = Vec::new();
    let mut add = |version: &str| {
        if !versions.iter().any(|known| known == version) {
            versions.push(version.to_owned());
        }
    };
    for word in asked {
        if word == "all" {
            for known in KNOWN {
                add(known.version);
            }
        } else {
            add(word.trim_end_matches(".x"));
        }
    }
    versions
}

/// The newest kernel of this version, from the cache or else from Debian's package.
pub fn kernel(version: &str) -> Result<PathBuf> {
    if version.is_empty() || !version.chars().all(|c| c.is_ascii_digit() || c == '.') {
        bail!("{version:?} is no kernel version; versions are like 6.1 or 7, or all");
    }
    let dir = image::cache_dir()?;
    let prefix = format!("vmlinuz-{version}.");
    let cached = fs::read_dir(&dir)?.flatten().map(|entry| entry.path());
    let cached = cached.filter(|path| name_of(path).starts_with(&prefix));
    if let Some(kernel) = cached.max_by_key(|path| numbers(&name_of(path))) {
        return Ok(kernel);
    }
    let known = KNOWN.iter().find(|known| known.version == version);
    let suites = known.map_or(ELSEWHERE, |known| known.suites);
    println!("vm: looking for a kernel {version} in Debian's packages");
    let packages = Suites::fetch(&dir.join(format!("apt-{version}")), suites)?;
    let pattern = format!(
        "^linux-(image|binary)-{}\\..*-cloud-amd64$",
        version.replace('.', "\\.")
    );
    let Some(package) = newest(packages.names(&pattern)?) else {
        let suites: Vec<&str> = suites.iter().map(|(_, suite)| *suite).collect();
        bail!(
            "Debian's {} have no linux-image-{version}.…-cloud-amd64",
            suites.join(", ")
        );
    };
    println!("vm: fetching {package}");
    let name =
        package
            .replacen("linux-image-", "vmlinuz-", 1)
            .replacen("linux-binary-", "vmlinuz-", 1);
    let kernel = dir.join(name);
    // boot/vmlinuz-VERSION, and since Linux 7 usr/lib/modules/VERSION/vmlinuz.
    packages.unpack_file(
        &package,
        |path| name_of(path).starts_with("vmlinuz"),
        &kernel,
    )?;
    Ok(kernel)
}

/// The package with the newest kernel. Since Linux 7 the image is in a package `linux-binary-…`, and
/// `linux-image-…` only asks for it.
fn newest(names: Vec<String>) -> Option<String> {
    names
        .into_iter()
        .max_by_key(|name| (numbers(name), name.starts_with("linux-binary-")))
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The numbers in a name, to order versions by.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_number() {
        let newest = |names: &[&str]| newest(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(
            newest(&[
                "linux-image-6.1.0-9-cloud-amd64",
                "linux-image-6.1.0-56-cloud-amd64",
                "linux-image-6.1.0-0.deb11.52-cloud-amd64",
            ])
            .as_deref(),
            Some("linux-image-6.1.0-56-cloud-amd64")
        );
    }

    #[test]
    fn the_package_with_the_image_is_taken() {
        let names = [
            "binary-7.2.9",
            "image-7.2.12",
            "binary-7.2.12",
            "image-7.2.9",
        ]
        .map(|name| format!("linux-{name}+deb13-cloud-amd64"));
        assert_eq!(
            newest(names.to_vec()).as_deref(),
            Some("linux-binary-7.2.12+deb13-cloud-amd64")
        );
    }

    #[test]
    fn all_is_the_matrix_and_nothing_is_booted_twice() {
        let asked = ["6.12", "all", "7.x", "6.6"].map(str::to_owned);
        assert_eq!(versions(&asked), ["6.12", "5.10", "6.1", "7", "6.6"]);
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for word in ["", "6.1*", "../x", "newest"] {
            let error = kernel(word).expect_err(word);
            assert!(error.to_string().contains("no kernel version"), "{error:#}");
        }
    }
}
