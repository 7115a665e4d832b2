//! Recorded incidents, and recorded ordinary work, replayed: the same findings, without root and
//! without the machine. `tests/e2e/recordings.rs` tells how the recordings are made.

use std::{fs, path::PathBuf};

use agentwatch::{
    cli::replay,
    finding::{Action, Finding, Severity},
    policy::{Policy, PolicyError},
    recording::Recording,
};

/// A finding: detector, severity, part of the message.
type Found = (&'static str, Severity, &'static str);

/// Each recording, and what is found in it.
const EXPECTED: [(&str, Option<Found>); 9] = [
    (
        "ssh-reverse",
        Some((
            "reverse-tunnel",
            Severity::Critical,
            "opens connections on its server's request, the first to 127.0.0.1:",
        )),
    ),
    (
        "python-relay",
        Some((
            "reverse-tunnel",
            Severity::Critical,
            "relays between 198.51.100.",
        )),
    ),
    (
        "socat-relay",
        Some((
            "reverse-tunnel",
            Severity::Critical,
            "relays between 198.51.100.",
        )),
    ),
    (
        "mass-deletion",
        Some((
            "mass-deletion",
            Severity::Critical,
            "removed 41 files that the agent did not make, outside its workspace",
        )),
    ),
    ("git-clone", None),
    ("nginx-proxy", None),
    ("names", None),
    ("tls", None),
    ("miner", None),
];

fn recorded(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/recordings")
        .join(format!("{name}.awrec"));
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Replays what there is, with a policy of one's own.
fn replayed(bytes: &[u8], policy: Policy) -> anyhow::Result<Vec<Finding>> {
    let mut recording = Recording::new(bytes, "recording".to_owned())?;
    replay::findings(&mut recording, policy)
}

fn policy(rest: &str) -> Result<Policy, PolicyError> {
    let text = format!("apiVersion: agentwatch/v1\nkind: Policy\n{rest}");
    Policy::parse(&text, "policy")
}

#[test]
fn findings_are_as_they_were() {
    for (name, expected) in EXPECTED {
        let findings = replayed(&recorded(name), Policy::default()).unwrap();
        let found: Vec<_> = findings
            .iter()
            .map(|finding| (finding.detector, finding.severity))
            .collect();
        let wanted: Vec<_> = expected
            .iter()
            .map(|(detector, severity, _)| (*detector, *severity))
            .collect();
        assert_eq!(found, wanted, "{name}: {findings:#?}");
        for (finding, (_, _, part)) in findings.iter().zip(expected) {
            assert!(finding.message.contains(part), "{name}: {finding:#?}");
            assert!(!finding.evidence.is_empty(), "{name}: {finding:#?}");
            assert!(
                finding
                    .evidence
                    .iter()
                    .all(|piece| piece.time_ns <= finding.time_ns),
                "{name}: evidence from after the finding: {finding:#?}"
            );
            assert!(
                finding.process.member
                    && finding.process.pid > 1
                    && !finding.process.exe.is_empty(),
                "{name}: {finding:#?}"
            );
            assert_eq!(finding.response.requested, Action::Kill);
            assert_eq!(
                finding.response.taken,
                Action::Alert,
                "a replay acts on nothing"
            );
        }
    }
}

/// What the kernel refused is told, whatever policy the replay has.
#[test]
fn a_refusal_stays_one() {
    let findings = replayed(&recorded("denied"), Policy::default()).unwrap();
    let told: Vec<_> = findings
        .iter()
        .map(|finding| {
            let rule = finding.message.rsplit_once('(').unwrap().1;
            (finding.detector, finding.severity, rule)
        })
        .collect();
    let violation = |rule| ("policy-violation", Severity::Medium, rule);
    assert_eq!(
        told,
        [violation("network.default)"), violation("network.deny[0])")]
    );
}

#[test]
fn twice_is_the_same() {
    for (name, _) in EXPECTED {
        let bytes = recorded(name);
        let [one, two] =
            [(); 2].map(|()| serde_json::to_string(&replayed(&bytes, Policy::default()).unwrap()));
        assert_eq!(one.unwrap(), two.unwrap(), "{name}");
    }
}

#[test]
fn another_policy_finds_something_else() {
    // SSH to where the policy does not allow it: in ordinary work with git too.
    let strict = policy("destinations:\n  allow: [127.0.0.0/8]\n").unwrap();
    for name in ["ssh-reverse", "git-clone"] {
        let findings = replayed(&recorded(name), strict.clone()).unwrap();
        assert!(
            findings
                .first()
                .is_some_and(|finding| finding.detector == "reverse-tunnel"
                    && finding.severity == Severity::High),
            "{name}: {findings:#?}"
        );
    }
    let lenient = policy("detectors:\n  mass-deletion:\n    max_files: 1000000\n").unwrap();
    assert_eq!(replayed(&recorded("mass-deletion"), lenient).unwrap(), []);
    let off = policy("detectors:\n  reverse-tunnel:\n    enabled: false\n").unwrap();
    for name in ["ssh-reverse", "python-relay", "socat-relay"] {
        assert_eq!(
            replayed(&recorded(name), off.clone()).unwrap(),
            [],
            "{name}"
        );
    }
}

/// What a crash leaves of a recording: it is read up to there, and nothing else is found in it than
/// in the whole.
#[test]
fn a_recording_cut_anywhere_is_read_up_to_there() {
    for (name, _) in EXPECTED {
        let bytes = recorded(name);
        let whole = replayed(&bytes, Policy::default()).unwrap();
        // Every byte of the short ones, and of the beginning of the others.
        let step = 1 + bytes.len() / 100;
        let cuts = (0..bytes.len().min(1200)).chain((1200..bytes.len()).step_by(step));
        for cut in cuts {
            match replayed(&bytes[..cut], Policy::default()) {
                Ok(findings) => {
                    assert!(
                        whole.starts_with(&findings),
                        "{name} cut at {cut}: {findings:#?}"
                    );
                }
                Err(error) => assert!(cut < 16, "{name} cut at {cut}: {error:#}"),
            }
        }
    }
}

/// A damaged recording may give anything but a panic.
#[test]
fn a_damaged_recording_is_survived() {
    for (name, _) in EXPECTED {
        let bytes = recorded(name);
        let step = 1 + bytes.len() / 100;
        for at in (0..bytes.len()).step_by(step) {
            for change in [0x01, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= change;
                let _ = replayed(&damaged, Policy::default());
            }
        }
    }
}

/// Recordings are for everybody: nothing of the machine that they were made on is in them.
#[test]
fn recordings_tell_nothing_of_their_machine() {
    let names = EXPECTED.iter().map(|(name, _)| *name);
    for name in names.chain(["denied"]) {
        let mut bytes = &recorded(name)[..];
        let mut recording = Recording::new(&mut bytes, name.to_owned()).unwrap();
        while let Some(record) = recording.read().unwrap() {
            // The environment of who made it, say.
            let text = String::from_utf8_lossy(&record);
            assert!(
                !text.contains("CARGO") && !text.contains("/root/."),
                "{name}: {text}"
            );
            let event = agentwatch::decode::decode(&record).unwrap();
            if let agentwatch::event::Kind::Seed(seed) = event.kind {
                assert!(seed.member, "{name} has an ancestor: {seed:?}");
            }
        }
    }
}
