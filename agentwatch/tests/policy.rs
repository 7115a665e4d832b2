//! Policies that are right, and policies that are not with all that is said about them.

use std::{fs, path::PathBuf, time::Duration};

use agentwatch::{
    finding::Action,
    policy::{Mode, Policy, Prefilter, file::MAX_BYTES},
};

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/policies")
        .join(name)
}

fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(self::folder(folder)).expect("a folder of policies");
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("a name in UTF-8")
        })
        .collect();
    names.sort();
    names
}

fn valid(name: &str) -> Policy {
    Policy::load(&folder("valid").join(name)).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn valid_policies_are_read() {
    for name in names("valid") {
        let policy = valid(&name);
        let shown = serde_saphyr::to_string(&policy).unwrap();
        let again = Policy::parse(&shown, &name).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(serde_saphyr::to_string(&again).unwrap(), shown);
    }
}

#[test]
fn every_field_is_heeded() {
    let policy = valid("full.yaml");
    assert_eq!(policy.mode, Mode::Observe);
    assert!(policy.destinations.is_limited());
    for (ip, port, allowed) in [
        ("10.1.2.3", 9, true),
        ("192.0.2.7", 22, true),
        ("192.0.2.7", 23, false),
        ("2001:db8::1", 443, true),
        ("2001:db8::1", 444, false),
        ("2001:db8::7", 444, true),
        ("203.0.113.1", 53, true),
        ("127.0.0.1", 80, false),
    ] {
        assert_eq!(
            policy.destinations.allows(ip.parse().unwrap(), port),
            allowed,
            "{ip} {port}"
        );
    }
    assert!(policy.sensitive.matches("/home/ann/.ssh/id_rsa"));
    assert!(!policy.sensitive.matches("/home/ann/.ssh/id_rsa.pub"));
    assert!(policy.sensitive.matches("/etc/gshadow"));
    assert!(!policy.sensitive.matches("/etc/passwd"));
    assert!(!policy.disposable.matches("/w/node_modules/x"));
    assert!(policy.detectors.reverse_tunnel.enabled);
    assert_eq!(policy.detectors.reverse_tunnel.action, Action::Alert);
    let mass_deletion = policy.detectors.mass_deletion;
    assert!(!mass_deletion.enabled);
    assert_eq!(mass_deletion.action, Action::Log);
    assert_eq!(mass_deletion.window, Duration::from_millis(500));
    assert_eq!(mass_deletion.max_files, 0);
    assert_eq!(mass_deletion.workspace_max_files, u64::MAX);
}

#[test]
fn costly_patterns_are_warned_of() {
    let policy = valid("costly.yaml");
    assert_eq!(
        policy.sensitive.prefilter(),
        Prefilter::Everything {
            because: "/data/**".into()
        }
    );
    assert_eq!(policy.warnings.len(), 1);
    assert!(valid("anchors.yaml").warnings.is_empty());
}

#[test]
fn invalid_policies_are_refused_with_these_words() {
    let mut expected = SAID.trim().split("\n\n");
    for name in names("invalid") {
        let text = fs::read_to_string(folder("invalid").join(&name)).unwrap();
        let error = Policy::parse(&text, &name).expect_err(&name);
        assert_eq!(error.to_string(), expected.next().unwrap_or_default());
    }
    assert_eq!(expected.next(), None);
}

#[test]
fn what_is_no_text_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let load = |name: &str| {
        let error = Policy::load(&folder.join(name))
            .expect_err(name)
            .to_string();
        error.replace(&format!("{}/", folder.display()), "")
    };
    fs::write(
        folder.join("binary"),
        b"apiVersion: agentwatch/v1\n\x7fELF\xff\xfe",
    )
    .unwrap();
    fs::write(folder.join("zeros"), [0; 64]).unwrap();
    fs::create_dir(folder.join("dir")).unwrap();
    fs::File::create(folder.join("large"))
        .unwrap()
        .set_len(MAX_BYTES * 100)
        .unwrap();

    assert_eq!(
        load("none"),
        "none: cannot open it: No such file or directory (os error 2)"
    );
    assert_eq!(load("dir"), "dir: this is a directory; a policy is a file");
    assert_eq!(load("large"), "large: larger than 1 MiB; this is no policy");
    assert_eq!(
        load("binary"),
        "binary: not UTF-8 text (at byte 30); this is no policy"
    );
    assert!(
        load("zeros").starts_with("zeros:1:1: unexpected character"),
        "{}",
        load("zeros")
    );
    let error = Policy::load("/dev/zero".as_ref()).unwrap_err().to_string();
    assert_eq!(error, "/dev/zero: larger than 1 MiB; this is no policy");
}

#[test]
fn floods_of_aliases_are_refused() {
    let flood = "apiVersion: agentwatch/v1\nkind: Policy\ndisposable: [&a /x".to_owned()
        + &", *a".repeat(100_000)
        + "]\n";
    let error = Policy::parse(&flood, "flood").unwrap_err().to_string();
    let message = "flood:3:200021: more values, aliases or levels than a policy has\n";
    assert!(error.starts_with(message), "{error}");
}

#[test]
fn large_but_legal_files_are_read_in_time() {
    let start = std::time::Instant::now();
    let mut text = String::from("apiVersion: agentwatch/v1\nkind: Policy\ndisposable:\n");
    while text.len() < 900_000 {
        text.push_str("  - \"**/some-cache-{a,b,c}/**\"\n");
    }
    let error = Policy::parse(&text, "large").unwrap_err().to_string();
    assert!(error.contains("stands for more than 4096 paths"), "{error}");
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn the_default_knows_what_is_sensitive() {
    let policy = Policy::default();
    for path in [
        "/root/.ssh/id_ed25519",
        "/tmp/t1/home/.ssh/id_work",
        "/home/ann/.aws/credentials",
        "/home/ann/.aws/sso/cache/d033e22ae348aeb5660fc2140aec35850c4da997.json",
        "/home/ann/.kube/config",
        "/home/ann/.config/gcloud/application_default_credentials.json",
        "/home/ann/.cache/huggingface/token",
        "/home/ann/.docker/config.json",
        "/home/ann/.netrc",
        "/home/ann/.npmrc",
        "/home/ann/.mozilla/firefox/x.default/logins.json",
        "/home/ann/.config/google-chrome/Default/Login Data",
        "/etc/shadow",
        "/etc/shadow-",
        "/etc/ssh/ssh_host_ed25519_key",
        "/proc/1/environ",
        "/proc/1/task/7/mem",
        "/run/secrets/kubernetes.io/serviceaccount/..2026_01_01/token",
        "/run/secrets/kubernetes.io/serviceaccount/token",
    ] {
        assert!(policy.sensitive.matches(path), "{path}");
    }
    for path in [
        "/root/.ssh/known_hosts",
        "/root/.ssh/config",
        "/root/.ssh/id_ed25519.pub",
        "/home/ann/.aws/config",
        "/etc/passwd",
        "/etc/ssh/ssh_host_ed25519_key.pub",
        "/etc/ssl/certs/ca-certificates.crt",
        "/proc/1/stat",
        "/home/ann/project/.npmrc",
        "/home/ann/.cache/huggingface/hub/models/config.json",
    ] {
        assert!(!policy.sensitive.matches(path), "{path}");
    }
    assert!(matches!(policy.sensitive.prefilter(), Prefilter::Names(names) if names.len() < 200));
}

#[test]
fn the_default_knows_what_is_disposable() {
    let disposable = Policy::default().disposable;
    for path in [
        "/w/node_modules/a/b.js",
        "/w/a/__pycache__/m.cpython-311.pyc",
        "/w/target/debug/deps/x",
        "/w/target/x86_64-unknown-linux-gnu/release/x",
        "/home/ann/.cache/pip/x",
        "/w/.venv/bin/python",
        "/var/cache/apt/archives/x.deb",
        "/w/src/main.o",
    ] {
        assert!(disposable.matches(path), "{path}");
    }
    for path in [
        "/w/src/main.c",
        "/w/target/results.csv",
        "/w/build/x",
        "/w/.git/objects/aa/bb",
        "/home/ann/mail/1",
        "/var/lib/x",
    ] {
        assert!(!disposable.matches(path), "{path}");
    }
}

/// What is said of the files in `policies/invalid`, in the order of their names.
const SAID: &str = r#"
all-commented-out.yaml:3:16: no value; for an empty list write `[]`
  |
3 | sensitive_paths:
  |                ^

another-kind.yaml:1:13: unknown value `v1`; known are `agentwatch/v1`
  |
1 | apiVersion: v1
  |             ^

bad-cidr.yaml:6:7: `10.0.0.0/40`: `/40` is not between /0 and /32
  |
6 |     - 10.0.0.0/40
  |       ^

bad-enabled.yaml:5:14: expected `true` or `false`
  |
5 |     enabled: yes
  |              ^

bad-glob.yaml:5:5: `/srv/[a-/key`: a `[` is not closed
  |
5 |   - "/srv/[a-/key"
  |     ^

bad-number.yaml:5:16: expected a whole number, 0 or more
  |
5 |     max_files: -1
  |                ^

bad-window.yaml:5:13: `60` is no duration; write a whole number and ms, s, m or h, such as 60s
  |
5 |     window: 60
  |             ^

bomb.yaml:5:8: expected text, and this begins a list; put the whole item in quotes
  |
5 |   - &a [x, x, x, x, x, x, x, x, x, x]
  |        ^

deep.yaml:3:273: recursion limit exceeded
  |
3 | …[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[
  |                                                              ^

denied-name.yaml:5:7: `example.com:443`: `example.com` is no IP address; write an address, a network such as 10.0.0.0/8, or `*`, and if need be a port: 192.0.2.7:22, [2001:db8::/32]:443, "*:443"
  |
5 |     - tcp example.com:443
  |       ^

empty-window.yaml:5:11: no value; text that begins with `!`, `#` or `~` alone needs quotes
  |
5 |     window:
  |           ^

empty.yaml: there is nothing in it; a policy begins with `apiVersion: agentwatch/v1` and `kind: Policy`

host-bits.yaml:4:11: `10.1.2.3/8`: 10.1.2.3 is not the first address of its network; did you mean `10.0.0.0/8`?
  |
4 |   allow: [10.1.2.3/8]
  |           ^

hostile.yaml:3:1: unknown field `mo\x1b[2Jde\u{202e}`; known are `apiVersion`, `kind`, `mode`, `on_stop`, `destinations`, `sensitive_paths`, `disposable`, `events`, `detectors`, `enforcement`, `network`, `sockets`, `devices`, `sysctl`, `files`, `deny`
  |
3 | "mo\\e[2Jde\\u202e": enforce
  | ^

name-as-destination.yaml:5:7: `example.com:443`: `example.com` is no IP address; write an address, a network such as 10.0.0.0/8, or `*`, and if need be a port: 192.0.2.7:22, [2001:db8::/32]:443, "*:443"
  |
5 |     - example.com:443
  |       ^

next-version.yaml:1:13: unknown value `agentwatch/v2`; did you mean `agentwatch/v1`?
  |
1 | apiVersion: agentwatch/v2
  |             ^

no-kind.yaml:1:1: missing field `kind`
  |
1 | apiVersion: agentwatch/v1
  | ^

not-a-list.yaml:3:18: expected a list here (`- item`, each on a line)
  |
3 | sensitive_paths: /etc/shadow
  |                  ^

not-a-mapping.yaml:4:3: expected fields here (`name: value`)
  |
4 |   - reverse-tunnel
  |   ^

nothing-allowed-forgotten.yaml:4:8: no value; for an empty list write `[]`
  |
4 |   allow:
  |        ^

only-comments.yaml: there is nothing in it; a policy begins with `apiVersion: agentwatch/v1` and `kind: Policy`

only-text.yaml:1:1: expected fields here (`name: value`)
  |
1 | enforce
  | ^

open-denied-path.yaml:4:15: `**/.ssh`: `**` can only be last here, since the kernel is given files that are there
  |
4 |   deny_read: ["**/.ssh"]
  |               ^

relative-glob.yaml:4:5: `node_modules/**`: a pattern begins with `/`, `~/` or `**/`, since paths are absolute
  |
4 |   - node_modules/**
  |     ^

tab.yaml:4:2: tabs disallowed within this context (block indentation)
  |
4 | \treverse-tunnel: { action: kill }
  |   ^

twice.yaml:4:1: `mode` is there twice
  |
4 | mode: observe
  | ^

two-documents.yaml:4:1: a second YAML document begins here; a policy is one
  |
4 | apiVersion: agentwatch/v1
  | ^

unclosed.yaml:3:18: unclosed bracket '['
  |
3 | sensitive_paths: [/etc/shadow
  |                  ^

unknown-action.yaml:5:13: unknown value `klil`; did you mean `kill`?
  |
5 |     action: klil
  |             ^

unknown-detector-field.yaml:5:5: unknown field `max_file`; did you mean `max_files`?
  |
5 |     max_file: 5
  |     ^

unknown-detector.yaml:4:3: unknown detector `reverse-tunel`; did you mean `reverse-tunnel`?
  |
4 |   reverse-tunel: { action: kill }
  |   ^

unknown-field.yaml:4:1: unknown field `sensitve_paths`; did you mean `sensitive_paths`?
  |
4 | sensitve_paths:
  | ^

unknown-mode.yaml:3:7: unknown value `Enforced`; did you mean `enforce`?
  |
3 | mode: Enforced
  |       ^

unknown-socket.yaml:4:15: unknown value `pakcet`; did you mean `packet`?
  |
4 |   deny: [tcp, pakcet]
  |               ^

unlike-any-field.yaml:5:5: unknown field `frobnicate`; known are `enabled`, `action`
  |
5 |     frobnicate: true
  |     ^

unquoted-brackets.yaml:5:7: expected text, and this begins a list; put the whole item in quotes
  |
5 |     - [2001:db8::/32]:443
  |       ^

unquoted-negation.yaml:4:14: no value; text that begins with `!`, `#` or `~` alone needs quotes
  |
4 |   - !**/*.pub
  |              ^

unquoted-star-port.yaml:5:7: text that begins with `*` needs quotes
  |
5 |     - *:443
  |       ^

unquoted-star.yaml:4:5: text that begins with `*` needs quotes
  |
4 |   - **/node_modules/**
  |     ^

zero-window.yaml:4:42: `0s` is out of range; it is more than 0 and at most 24h
  |
4 |   mass-deletion: { max_files: 5, window: 0s }
  |                                          ^
"#;
