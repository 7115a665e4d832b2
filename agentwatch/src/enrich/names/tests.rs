use super::*;
use crate::{
    decode::payload::dns::{Answer, Data, Question as Asked},
    enrich::tests::*,
    event::Protocol,
};

const S: u64 = 1_000_000_000;
const PEER: &str = "192.0.2.9";

fn message(id: u16, name: &str, answer: Option<(&str, u32)>) -> Dns {
    Dns {
        id,
        is_answer: answer.is_some(),
        question: Some(Asked {
            name: name.to_owned(),
            kind: "A".to_owned(),
        }),
        rcode: None,
        answers: answer
            .into_iter()
            .map(|(ip, ttl_s)| Answer {
                name: name.to_owned(),
                kind: "A".to_owned(),
                ttl_s,
                data: Data::Address(ip.parse().expect("an address")),
            })
            .collect(),
        cut: false,
    }
}

fn said(time_ns: u64, direction: Direction, dns: Dns) -> Event {
    let mut endpoint = endpoint(7, 53);
    endpoint.protocol = Protocol::Udp;
    let payload = Payload {
        endpoint,
        direction,
        offset: 0,
        message: Message::Dns(dns),
    };
    Event {
        time_ns,
        ..event(Kind::Payload(Box::new(payload)))
    }
}

/// Asks, and answers a moment later.
fn resolve(names: &mut Names, time_ns: u64, name: &str, ip: &str, ttl_s: u32) {
    names.observe(&said(time_ns, Direction::Out, message(1, name, None)));
    let answer = message(1, name, Some((ip, ttl_s)));
    names.observe(&said(time_ns + 1, Direction::In, answer));
}

fn of(names: &Names, ip: &str, time_ns: u64) -> Option<String> {
    let ip = ip.parse().expect("an address");
    Some(names.of(1, ip, time_ns)?.name)
}

#[test]
fn the_latest_answer_counts_while_it_lasts() {
    let mut names = Names::default();
    resolve(&mut names, 0, "a.example.org", PEER, 1000);
    resolve(&mut names, 10 * S, "B.example.ORG", PEER, 20);
    assert_eq!(of(&names, PEER, 11 * S).as_deref(), Some("b.example.org"));
    let ip = PEER.parse().expect("an address");
    assert!(names.has(1, ip, "a.example.org", 11 * S));
    // The shorter one is kept for five minutes, and then the other is the latest.
    assert_eq!(of(&names, PEER, 309 * S).as_deref(), Some("b.example.org"));
    assert_eq!(of(&names, PEER, 311 * S).as_deref(), Some("a.example.org"));
    assert_eq!(of(&names, PEER, 1001 * S), None);
    assert!(!names.has(1, ip, "a.example.org", 1001 * S));
    // It is no other agent's.
    assert_eq!(names.of(2, ip, 11 * S), None);
    // Nobody's TTL lasts longer than a day.
    resolve(&mut names, 2000 * S, "c.example.org", PEER, u32::MAX);
    assert_eq!(of(&names, PEER, 90_000 * S), None);
}

#[test]
fn an_answer_that_nobody_asked_for_names_nothing() {
    let mut names = Names::default();
    let answer = || message(1, "a.example.org", Some((PEER, 60)));
    names.observe(&said(0, Direction::In, answer()));
    assert_eq!(of(&names, PEER, 1), None);
    // Another number, another name.
    names.observe(&said(1, Direction::Out, message(2, "a.example.org", None)));
    names.observe(&said(2, Direction::In, answer()));
    names.observe(&said(3, Direction::Out, message(1, "b.example.org", None)));
    names.observe(&said(4, Direction::In, answer()));
    assert_eq!(of(&names, PEER, 5), None);
    // One that the agent gives as a server.
    names.observe(&said(6, Direction::In, message(1, "a.example.org", None)));
    names.observe(&said(7, Direction::Out, answer()));
    assert_eq!(of(&names, PEER, 8), None);
    resolve(&mut names, 9, "a.example.org", PEER, 60);
    assert_eq!(of(&names, PEER, 11).as_deref(), Some("a.example.org"));
}

#[test]
fn memory_is_bounded() {
    let mut names = Names::default();
    for n in 0..10_000_u32 {
        let ip = std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string();
        resolve(
            &mut names,
            u64::from(n),
            "many.example.org",
            &ip,
            600 + n % 7,
        );
        resolve(
            &mut names,
            u64::from(n),
            &format!("n{n}.example.org"),
            PEER,
            600,
        );
        let questions = message(2, &format!("q{n}"), None);
        names.observe(&said(0, Direction::Out, questions));
        let told = &names.agents[&1];
        assert!(told.names.len() <= ADDRESSES && told.asked.len() <= QUESTIONS);
        assert!(told.names.values().all(|names| names.len() <= NAMES));
        // What came last is there.
        assert_eq!(
            of(&names, &ip, u64::from(n) + 1).as_deref(),
            Some("many.example.org")
        );
    }
}
