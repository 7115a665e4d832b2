use proptest::prelude::*;

use super::{bytes::reversed_path, *};

/// A record with a header that is right, and any payload.
fn record(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; size_of::<Header>()];
    bytes.extend_from_slice(payload);
    let len = u32::try_from(bytes.len()).expect("short");
    bytes[..4].copy_from_slice(&len.to_ne_bytes());
    bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
    bytes
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn any_payload_is_decoded_or_refused(
        kind in 0u16..70,
        payload in proptest::collection::vec(any::<u8>(), 0..6000),
    ) {
        if let Ok(event) = decode(&record(kind, &payload)) {
            // What comes out can be printed.
            let shown = format!("{event:?}");
            prop_assert!(!shown.chars().any(char::is_control));
        }
    }

    /// Zeroes give the lengths 0, so the fixed part alone is enough: every shorter record is refused.
    #[test]
    fn short_records_are_refused(kind in prop::sample::select(&[1u16, 2, 3, 4, 5, 6, 16, 17, 18, 19, 20, 21, 32, 33, 64, 65, 66][..]), cut in 1usize..100) {
        let fixed = match kind {
            1 => size_of::<agentwatch_common::exec::Exec>(),
            2 => size_of::<process::Fork>(),
            3 => size_of::<process::Exit>(),
            4 => size_of::<process::CgroupMove>(),
            5 => size_of::<agentwatch_common::call::Call>(),
            6 => size_of::<agentwatch_common::call::Signal>(),
            16 => size_of::<agentwatch_common::flow::Connect>(),
            17..=19 => size_of::<agentwatch_common::flow::Endpoint>(),
            20 => size_of::<agentwatch_common::flow::FlowData>(),
            21 => size_of::<agentwatch_common::flow::FlowClose>(),
            32 => size_of::<agentwatch_common::file::FileOp>(),
            33 => size_of::<budget::Stopped>(),
            64 => size_of::<process::Seed>(),
            67 => size_of::<budget::Carried>(),
            65 => size_of::<process::AgentInfo>(),
            _ => size_of::<loss::Tally>(),
        };
        let mut payload = vec![0; fixed];
        // Operation 0 means nothing.
        match kind {
            5 => payload[std::mem::offset_of!(agentwatch_common::call::Call, op)] = 1,
            32 => payload[std::mem::offset_of!(agentwatch_common::file::FileOp, op)] = 1,
            _ => {}
        }
        prop_assert!(decode(&record(kind, &payload)).is_ok());
        payload.truncate(fixed - cut.min(fixed));
        let short = matches!(decode(&record(kind, &payload)), Err(DecodeError::Short { .. }));
        prop_assert!(short);
    }
}

#[test]
fn unknown_kinds_and_wrong_lengths_are_refused() {
    assert_eq!(
        decode(&record(999, &[])).unwrap_err(),
        DecodeError::Kind(999)
    );
    let mut bytes = record(kind::FORK, &[0; 24]);
    bytes[0] ^= 1;
    assert_eq!(
        decode(&bytes).unwrap_err(),
        DecodeError::Length { said: 97, len: 96 }
    );
}

#[test]
fn arguments_are_split_and_bounded() {
    assert_eq!(words(b"a\0b c\0\0", 9), ["a", "b c", ""]);
    assert_eq!(words(b"a\0b\0extra\0", 2), ["a", "b"]);
    assert!(words(b"", 3).is_empty());
    assert_eq!(
        reversed_path(b"sshd_config/ssh/etc/", false),
        "/etc/ssh/sshd_config"
    );
    assert_eq!(reversed_path(b"", false), "/");
    assert_eq!(reversed_path(b"c/b/", true), "…/b/c");
}
