use proptest::prelude::*;

use super::*;
use crate::{
    domain::DomainSource,
    enrich::{World, tests::*},
};

const HELLO: &[u8] = include_bytes!("../../../tests/payloads/firefox135.tls");
const REQUEST: &[u8] = include_bytes!("../../../tests/payloads/curl-connect.http");
const ANSWER: &[u8] = include_bytes!("../../../tests/payloads/dig-cname.answer.dns");

/// What is said, in short: where in the flow, and what kind.
fn said(events: &[Event]) -> Vec<(u64, &'static str, bool)> {
    let payload = |event: &Event| match &event.kind {
        Kind::Payload(payload) => (payload.offset, payload.message.name(), event.partial),
        other => panic!("{other:?}"),
    };
    events.iter().map(payload).collect()
}

/// The whole of a stream in pieces of one size.
fn pieces(bytes: &[u8], size: usize) -> Vec<Event> {
    let mut conversations = Conversations::default();
    let mut found = Vec::new();
    let mut offset = 0;
    for piece in bytes.chunks(size) {
        found.extend(conversations.observe(&data(1, 443, Direction::Out, offset, piece)));
        offset += piece.len() as u64;
    }
    assert_eq!((conversations.held, conversations.begun.len()), (0, 0));
    found
}

#[test]
fn a_hello_in_pieces() {
    for size in [1, 2, 5, 100, 1448, 4096] {
        let found = pieces(HELLO, size);
        assert_eq!(said(&found), [(0, "tls", false)], "{size}");
        assert!(format!("{found:?}").contains("www.example.org"));
    }
}

#[test]
fn a_hello_behind_a_proxys_connect() {
    let at = REQUEST.len() as u64;
    let mut conversations = Conversations::default();
    let mut found = conversations.observe(&data(1, 3128, Direction::Out, 0, REQUEST));
    found.extend(conversations.observe(&data(1, 3128, Direction::Out, at, &HELLO[..999])));
    let at = at + 999;
    found.extend(conversations.observe(&data(1, 3128, Direction::Out, at, &HELLO[999..])));
    let expected = [(0, "http", false), (REQUEST.len() as u64, "tls", false)];
    assert_eq!(said(&found), expected);
    // And both at once.
    let at_once = pieces(&[REQUEST, HELLO].concat(), 5000);
    assert_eq!(said(&at_once), expected);
}

#[test]
fn what_is_missing_ends_a_message_and_what_is_repeated_does_not_count() {
    let mut conversations = Conversations::default();
    let send = |conversations: &mut Conversations, at: usize, end: usize| {
        conversations.observe(&data(1, 443, Direction::Out, at as u64, &HELLO[at..end]))
    };
    assert_eq!(said(&send(&mut conversations, 0, 900)), []);
    assert_eq!(said(&send(&mut conversations, 300, 1200)), []);
    assert_eq!(said(&send(&mut conversations, 100, 200)), []);
    let rest = send(&mut conversations, 1200, HELLO.len());
    assert_eq!(said(&rest), [(0, "tls", false)]);

    assert_eq!(said(&send(&mut conversations, 0, 900)), []);
    assert_eq!(
        said(&send(&mut conversations, 1000, HELLO.len())),
        [(0, "tls", true)]
    );
    assert_eq!(conversations.held, 0);
}

#[test]
fn the_end_of_a_flow_ends_a_message() {
    let mut conversations = Conversations::default();
    let begun = data(1, 443, Direction::Out, 0, &HELLO[..1000]);
    assert_eq!(said(&conversations.observe(&begun)), []);
    let other = conversations.observe(&closed(2, 443));
    assert_eq!(said(&other), []);
    assert_eq!(
        said(&conversations.observe(&closed(1, 443))),
        [(0, "tls", true)]
    );
    assert_eq!((conversations.held, conversations.begun.len()), (0, 0));
}

/// A packet of which the kernel sent a part only.
#[test]
fn a_packet_that_is_cut_ends_a_message() {
    let mut conversations = Conversations::default();
    let mut event = data(1, 443, Direction::Out, 0, &HELLO[..1500]);
    if let Kind::FlowData(data) = &mut event.kind {
        data.len = 1837;
    }
    assert_eq!(said(&conversations.observe(&event)), [(0, "tls", true)]);
    assert_eq!(conversations.held, 0);
}

#[test]
fn dns_over_tcp_in_pieces() {
    let len = u16::try_from(ANSWER.len()).expect("short").to_be_bytes();
    let stream = [&len[..], ANSWER, &len[..], ANSWER].concat();
    for size in [1, 2, 50, 91, 1000] {
        let mut conversations = Conversations::default();
        let mut found = Vec::new();
        for (n, piece) in stream.chunks(size).enumerate() {
            let at = (n * size) as u64;
            found.extend(conversations.observe(&data(1, 53, Direction::In, at, piece)));
        }
        assert_eq!(
            said(&found),
            [(0, "dns", false), (91, "dns", false)],
            "{size}"
        );
    }
}

/// A port proves nothing.
#[test]
fn a_hello_at_the_port_of_dns() {
    let mut conversations = Conversations::default();
    let first = data(1, 53, Direction::Out, 0, &HELLO[..700]);
    assert_eq!(said(&conversations.observe(&first)), []);
    let rest = data(1, 53, Direction::Out, 700, &HELLO[700..]);
    assert_eq!(said(&conversations.observe(&rest)), [(0, "tls", false)]);
}

#[test]
fn ssh_behind_a_proxy_is_ssh() {
    let mut world = World::default();
    observe(&mut world, connect(1, 3128));
    observe(&mut world, data(1, 3128, Direction::Out, 0, REQUEST));
    assert!(!world.flows.get(1, 1).expect("a flow").ssh);
    let at = REQUEST.len() as u64;
    observe(
        &mut world,
        data(1, 3128, Direction::Out, at, b"SSH-2.0-x\r\n"),
    );
    assert!(world.flows.get(1, 1).expect("a flow").ssh);
}

#[test]
fn memory_is_bounded() {
    let mut conversations = Conversations::default();
    let begun = |n: u64| data(n, 443, Direction::Out, 0, &HELLO[..1800]);
    let mut cut = 0;
    for n in 0..10_000 {
        cut += conversations.observe(&begun(n)).len();
        assert!(conversations.held <= BYTES && conversations.begun.len() <= MESSAGES);
    }
    assert_eq!(cut + conversations.begun.len(), 10_000, "none is lost");
    // A whole one is read nonetheless.
    let whole = data(10_001, 443, Direction::Out, 0, HELLO);
    assert_eq!(said(&conversations.observe(&whole)), [(0, "tls", false)]);
}

#[test]
fn a_connection_has_the_name_that_it_says_first() {
    let mut world = World::default();
    observe(&mut world, connect(1, 443));
    assert_eq!(world.domain(&connect(1, 443)), None);
    observe(&mut world, data(1, 443, Direction::Out, 0, HELLO));
    let domain = world.domain(&closed(1, 443)).expect("a name");
    assert_eq!(
        (domain.name.as_str(), domain.source),
        ("www.example.org", DomainSource::Sni)
    );
    // Behind a proxy it is the name of somebody else.
    observe(&mut world, connect(2, 3128));
    observe(&mut world, data(2, 3128, Direction::Out, 0, REQUEST));
    let at = REQUEST.len() as u64;
    observe(&mut world, data(2, 3128, Direction::Out, at, HELLO));
    assert_eq!(world.domain(&closed(2, 3128)), None);
}

proptest! {
    /// Any packets of a few flows, in any order: nothing panics, and the account of memory is right.
    #[test]
    fn any_packets_are_survived(
        packets in proptest::collection::vec(
            (0u64..3, 0u64..4000, 0usize..2000, 0usize..2000, any::<bool>(), any::<bool>(), any::<bool>()),
            0..60,
        ),
    ) {
        let bytes = [REQUEST, HELLO].concat();
        let mut conversations = Conversations::default();
        for (flow, offset, from, len, out, dns, end) in packets {
            let way = if out { Direction::Out } else { Direction::In };
            let port = if dns { 53 } else { 443 };
            let to = (from + len).min(bytes.len());
            let piece = &bytes[from.min(to)..to];
            let _ = conversations.observe(&data(flow, port, way, offset, piece));
            if end {
                let _ = conversations.observe(&closed(flow, port));
            }
            let held: usize = conversations.begun.values().map(|begun| begun.bytes.len()).sum();
            prop_assert_eq!(held, conversations.held);
        }
    }
}
