//! On real messages: `tests/payloads` has what OpenSSL 3.0 and 3.5, curl, BoringSSL as Chrome and
//! Firefox set it up, ssh, dropbear, dig and dnsmasq sent on loopback.

use std::net::IpAddr;

use proptest::prelude::*;

use super::{dns::Dns, http::Request, stratum::Stratum, tls::ClientHello, *};

macro_rules! payload {
    ($name:literal) => {
        include_bytes!(concat!("../../../tests/payloads/", $name))
    };
}

const HELLOS: [&[u8]; 7] = [
    payload!("openssl.tls"),
    payload!("openssl-tls12.tls"),
    payload!("openssl-noname.tls"),
    payload!("openssl-pq.tls"),
    payload!("curl.tls"),
    payload!("chrome136.tls"),
    payload!("firefox135.tls"),
];
const REQUESTS: [&[u8]; 5] = [
    payload!("curl.http"),
    payload!("curl-post.http"),
    payload!("curl-connect.http"),
    payload!("curl-proxy.http"),
    payload!("curl-h2.http"),
];
const BANNERS: [&[u8]; 2] = [payload!("ssh.ssh"), payload!("dropbear.ssh")];
const DNS: [&[u8]; 8] = [
    payload!("dig-cname.query.dns"),
    payload!("dig-cname.answer.dns"),
    payload!("dig-aaaa.query.dns"),
    payload!("dig-aaaa.answer.dns"),
    payload!("dig-txt.query.dns"),
    payload!("dig-txt.answer.dns"),
    payload!("dig-nx.query.dns"),
    payload!("dig-nx.answer.dns"),
];
/// As the mining programs' and pools' documentation has them.
const LINES: [&[u8]; 4] = [
    b"{\"id\": 1, \"method\": \"mining.subscribe\", \"params\": [\"cpuminer/2.5.1\"]}\n",
    b"{\"id\":2,\"method\":\"mining.authorize\",\"params\":[\"bc1qwallet.rig1\",\"secret\"]}\n",
    b"{\"id\":1,\"jsonrpc\":\"2.0\",\"method\":\"login\",\"params\":{\"login\":\"48edfHu7\",\"pass\":\"secret\",\
      \"agent\":\"XMRig/6.21.0 (Linux x86_64)\",\"algo\":[\"rx/0\",\"cn/2\"]}}\n",
    b"{\"id\":1,\"jsonrpc\":\"2.0\",\"error\":null,\"result\":{\"id\":\"x\",\"job\":{\"blob\":\"0e0e\",\
      \"job_id\":\"1\",\"target\":\"b88d0600\"},\"status\":\"OK\"}}\n",
];

fn whole(bytes: &[u8]) -> (Message, usize) {
    match stream(bytes) {
        Parsed::Whole(message, len) => (message, len),
        other => panic!("{other:?} of {bytes:?}"),
    }
}

fn hello(bytes: &[u8]) -> ClientHello {
    match whole(bytes) {
        (Message::Tls(hello), len) if len == bytes.len() => hello,
        other => panic!("{other:?}"),
    }
}

fn request(bytes: &[u8]) -> Request {
    match whole(bytes).0 {
        Message::Http(request) => request,
        other => panic!("{other:?}"),
    }
}

#[test]
fn client_hellos() {
    type Hello = (
        Option<&'static str>,
        &'static [&'static str],
        &'static [&'static str],
        bool,
    );
    let web = &["h2", "http/1.1"][..];
    let both = &["1.3", "1.2"][..];
    let expected: [Hello; 7] = [
        (Some("www.example.org"), web, both, false),
        (Some("old.example.org"), &[], &["1.2"], false),
        (None, &[], both, false),
        (Some("pq.example.org"), &["h2"], both, false),
        (Some("www.example.org"), web, both, false),
        (Some("www.example.org"), web, both, true),
        (Some("www.example.org"), web, both, true),
    ];
    for (bytes, (name, alpn, versions, ech)) in HELLOS.into_iter().zip(expected) {
        let read = hello(bytes);
        assert_eq!(read.server_name.as_deref(), name);
        assert_eq!(read.alpn, alpn, "{name:?}");
        let offered: Vec<&str> = read.versions.iter().map(String::as_str).collect();
        assert!(offered.starts_with(versions), "{name:?}: {offered:?}");
        assert_eq!((read.ech, read.cut), (ech, false), "{name:?}");
    }
}

/// A handshake message may be spread over records, and its name with it (RFC 8446, 5.1).
#[test]
fn a_hello_in_many_records() {
    for bytes in HELLOS {
        for size in [1, 7, 100] {
            let mut records = Vec::new();
            for piece in bytes[5..].chunks(size) {
                records.extend([0x16, 3, 1]);
                records.extend(u16::try_from(piece.len()).expect("short").to_be_bytes());
                records.extend(piece);
            }
            assert_eq!(hello(&records), hello(bytes));
        }
    }
}

#[test]
fn requests() {
    let expected = [
        (
            Some("GET"),
            Some("/path?query=1"),
            Some("www.example.org"),
            false,
        ),
        (Some("POST"), Some("/api"), None, false),
        (
            Some("CONNECT"),
            Some("www.example.org:443"),
            Some("www.example.org:443"),
            true,
        ),
        (
            Some("GET"),
            Some("http://www.example.org/page"),
            Some("www.example.org"),
            true,
        ),
        (None, None, None, false),
    ];
    for (bytes, (method, target, host, proxy)) in REQUESTS.into_iter().zip(expected) {
        let read = request(bytes);
        assert_eq!(read.method.as_deref(), method);
        assert_eq!(read.target.as_deref(), target);
        if let Some(host) = host {
            assert_eq!(read.host.as_deref(), Some(host));
        }
        assert_eq!((read.is_for_proxy(), read.cut), (proxy, false));
    }
    assert_eq!(request(REQUESTS[4]).version, "2");
    assert_eq!(whole(REQUESTS[4]).1, 24);
    // Later requests on the same connection begin where one ends.
    let (_, len) = whole(REQUESTS[0]);
    assert_eq!(len, REQUESTS[0].len());
}

#[test]
fn a_request_that_is_cut_has_its_target() {
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(3000));
    for end in [100, 2048] {
        let read = http::cut(&long.as_bytes()[..end]).expect("a request");
        let target = read.target.expect("a target");
        assert!(target.starts_with("/xxx") && target.len() <= 1024 && read.cut);
    }
    let read = http::cut(&REQUESTS[0][..60]).expect("a request");
    assert_eq!(read.target.as_deref(), Some("/path?query=1"));
}

#[test]
fn banners() {
    let software = |bytes: &[u8]| match whole(bytes) {
        (Message::Ssh(banner), len) => (banner.version, banner.software, len),
        other => panic!("{other:?}"),
    };
    let (version, name, len) = software(BANNERS[0]);
    assert_eq!((version.as_str(), len), ("2.0", BANNERS[0].len()));
    assert_eq!(name, "OpenSSH_9.2p1 Debian-2+deb12u10");
    assert_eq!(software(BANNERS[1]).1, "dropbear_2022.83");
    // Servers may say something before it.
    let (_, name, len) = software(b"Welcome\r\nto this host\r\nSSH-2.0-x-y z\r\nrest");
    assert_eq!((name.as_str(), len), ("x-y z", 38));
    for other in [
        &b"SSH-\xff\xff-\n"[..],
        b"SSH-x-y\n",
        b"\0\nSSH-2.0-x\r\n",
        b"ssh-2.0-x\r\n",
    ] {
        assert_eq!(ssh::banner(other), Parsed::Other, "{other:?}");
    }
    let endless = [b"SSH-2.0-".as_slice(), &[b'a'; 300]].concat();
    assert_eq!(ssh::banner(&endless), Parsed::Other);
}

#[test]
fn miners_and_pools() {
    let expected = [
        ("mining.subscribe", None, Some("cpuminer/2.5.1")),
        ("mining.authorize", Some("bc1qwallet.rig1"), None),
        (
            "login",
            Some("48edfHu7"),
            Some("XMRig/6.21.0 (Linux x86_64)"),
        ),
        ("job", None, None),
    ];
    for (bytes, (method, user, software)) in LINES.into_iter().zip(expected) {
        for bytes in [bytes, bytes.trim_ascii_end()] {
            let (Message::Stratum(read), len) = whole(bytes) else {
                panic!("{bytes:?}");
            };
            assert_eq!(
                (read.version, read.method.as_str(), len),
                (1, method, bytes.len())
            );
            assert_eq!(read.user.as_deref(), user);
            assert_eq!(read.software.as_deref(), software);
            assert!(!format!("{read:?}").contains("secret"));
        }
    }
    // The same without its end.
    let cut = |line: &[u8]| stratum::cut(line).map(|read| (read.method, read.user, read.software));
    let login = (
        "login".to_owned(),
        Some("48edfHu7".to_owned()),
        Some("XMRig/6.21.0 (Linux x86_64)".to_owned()),
    );
    assert_eq!(cut(&LINES[2][..130]), Some(login));
    assert_eq!(cut(&LINES[2][..60]), None);
    for other in [
        &b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"initialize\",\"params\":{}}\n"[..],
        b"{\"method\":\"login\",\"params\":{\"login\":\"ada\"}}\n",
        b"{\"id\":7,\"result\":true,\"error\":null}\n",
        b"[1]\n",
        b"{]\n",
    ] {
        assert_eq!(stratum::line(other), Parsed::Other, "{other:?}");
    }
}

#[test]
fn version_2_of_stratum_where_it_is_plain() {
    let mut body = vec![0, 2, 0, 2, 0, 0, 0, 0, 0];
    let string = |body: &mut Vec<u8>, text: &str| {
        body.push(u8::try_from(text.len()).expect("short"));
        body.extend(text.as_bytes());
    };
    string(&mut body, "pool.example.org");
    body.extend(3336_u16.to_le_bytes());
    for text in ["Bitmain", "S9i", "braiins-os", "rig"] {
        string(&mut body, text);
    }
    let mut frame = vec![0, 0, 0, u8::try_from(body.len()).expect("short"), 0, 0];
    frame.extend(&body);
    let expected = Stratum {
        version: 2,
        method: "SetupConnection".to_owned(),
        software: Some("Bitmain braiins-os".to_owned()),
        ..Stratum::default()
    };
    assert_eq!(whole(&frame), (Message::Stratum(expected), frame.len()));
    frame[6] = 9;
    assert_eq!(stream(&frame), Parsed::Other);
}

fn datagram(bytes: &[u8]) -> Dns {
    let read = dns::datagram(bytes, false, false).unwrap_or_else(|| panic!("{bytes:?}"));
    assert_eq!(dns::datagram(bytes, true, false).as_ref(), Some(&read));
    read
}

#[test]
fn questions_and_answers() {
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    let asked = |dns: &Dns| {
        let question = dns.question.clone().expect("a question");
        (question.name, question.kind)
    };
    for (n, name, kind, resolved) in [
        (0, "www.example.org", "A", Some(ip("192.0.2.7"))),
        (2, "www.example.org", "AAAA", Some(ip("2001:db8::7"))),
        (4, "t.example.org", "TXT", None),
        (6, "no.nx.example.org", "A", None),
    ] {
        let (query, answer) = (datagram(DNS[n]), datagram(DNS[n + 1]));
        assert_eq!(asked(&query), (name.to_owned(), kind.to_owned()));
        assert_eq!(asked(&answer), asked(&query));
        assert_eq!((query.is_answer, answer.is_answer), (false, true));
        assert_eq!((query.id, query.rcode), (answer.id, None));
        let rcode = if n == 6 { "NXDOMAIN" } else { "NOERROR" };
        assert_eq!(answer.rcode.as_deref(), Some(rcode));
        let ips: Vec<IpAddr> = answer.resolved().into_iter().map(|(ip, _)| ip).collect();
        assert_eq!(ips, Vec::from_iter(resolved));
        assert!(!answer.cut);
    }
    assert_eq!(datagram(DNS[5]).answers[0].data, dns::Data::Other(402));
}

/// The same messages over TCP, and one whose end is missing.
#[test]
fn dns_over_tcp() {
    for bytes in DNS {
        let len = u16::try_from(bytes.len()).expect("short").to_be_bytes();
        let framed = [&len[..], bytes, b"more"].concat();
        assert_eq!(
            dns::stream(&framed),
            Parsed::Whole(datagram(bytes), bytes.len() + 2)
        );
        assert_eq!(dns::any_stream(&framed), dns::stream(&framed));
        for end in 14..bytes.len() + 2 {
            assert_eq!(dns::any_stream(&framed[..end]), Parsed::Begun);
        }
        for end in 0..bytes.len() + 2 {
            assert_eq!(dns::stream(&framed[..end]), Parsed::Begun);
        }
    }
    let len = u16::try_from(DNS[1].len()).expect("short").to_be_bytes();
    let framed = [&len[..], &DNS[1][..80]].concat();
    let read = dns::cut_stream(&framed).expect("a message");
    assert!(read.cut && read.resolved().len() == 1, "{read:?}");
}

/// Only addresses of the name that was asked, and of its aliases, count: a server could add others.
#[test]
fn addresses_of_other_names_are_not_believed() {
    let mut answer = datagram(DNS[1]);
    assert_eq!(answer.resolved().len(), 1);
    answer.answers.reverse();
    assert_eq!(answer.resolved().len(), 1, "in any order");
    answer.answers.retain(|answer| answer.kind == "A");
    assert_eq!(answer.resolved(), []);
    // Aliases in a circle end.
    let alias = |name: &str, to: &str| dns::Answer {
        name: name.to_owned(),
        kind: "CNAME".to_owned(),
        ttl_s: 1,
        data: dns::Data::Alias(to.to_owned()),
    };
    answer.answers = vec![alias("www.example.org", "b"), alias("b", "WWW.example.org")];
    assert_eq!(answer.resolved(), []);
}

/// Up to its last byte a message is begun, never another one.
#[test]
fn a_message_that_is_not_whole_is_begun() {
    for bytes in HELLOS {
        for end in 1..bytes.len() {
            assert_eq!(stream(&bytes[..end]), Parsed::Begun, "{end}");
        }
    }
    for bytes in REQUESTS.into_iter().chain(LINES).chain(BANNERS) {
        let (_, len) = whole(bytes);
        // A body, and a whole JSON value without its end of line, are no beginnings.
        let ends = if bytes[0] == b'{' { len - 1 } else { len };
        for end in 1..ends {
            assert_eq!(stream(&bytes[..end]), Parsed::Begun, "{end} of {bytes:?}");
        }
    }
}

/// What there is of a cut one is as in the whole.
#[test]
fn a_cut_hello_says_nothing_else() {
    for bytes in HELLOS {
        let whole = hello(bytes);
        let mut named = false;
        for end in 1..bytes.len() {
            let Some(read) = tls::cut(&bytes[..end]) else {
                continue;
            };
            assert!(read.cut);
            if read.server_name.is_some() {
                assert_eq!(read.server_name, whole.server_name, "{end}");
                named = true;
            }
        }
        assert_eq!(named, whole.server_name.is_some());
    }
}

#[test]
fn names_cannot_reach_the_terminal() {
    let mut bytes = HELLOS[0].to_vec();
    let at = bytes
        .windows(4)
        .position(|w| w == b"www.")
        .expect("its name");
    bytes[at..at + 4].copy_from_slice(b"\x1b[2J");
    let read = hello(&bytes);
    assert_eq!(read.server_name.as_deref(), Some("\\x1b[2Jexample.org"));
    let mut bytes = DNS[0].to_vec();
    let at = bytes
        .windows(3)
        .position(|w| w == b"www")
        .expect("its name");
    bytes[at..at + 3].copy_from_slice(b"\x1b\x07\xff");
    let shown = format!("{:?}", datagram(&bytes));
    assert!(shown.contains("example.org") && !shown.chars().any(char::is_control));
}

/// Every parser, in every way; what they say can be printed.
fn read_all(bytes: &[u8]) {
    let mut datagrams = Vec::new();
    for cut in [false, true] {
        for own_port in [false, true] {
            let read = dns::datagram(bytes, own_port, cut);
            let resolved = read.as_ref().map(Dns::resolved);
            datagrams.push((read, resolved));
        }
    }
    let streams = (stream(bytes), cut_stream(bytes));
    let dns = (
        dns::stream(bytes),
        dns::any_stream(bytes),
        dns::cut_stream(bytes),
    );
    let shown = format!("{streams:?} {datagrams:?} {dns:?}");
    assert!(!shown.chars().any(char::is_control), "{shown}");
    if let Parsed::Whole(_, len) = stream(bytes) {
        assert!(len > 0 && len <= bytes.len());
    }
}

fn real() -> Vec<&'static [u8]> {
    let all = HELLOS
        .into_iter()
        .chain(REQUESTS)
        .chain(BANNERS)
        .chain(LINES);
    all.chain(DNS).collect()
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        read_all(&bytes);
    }

    #[test]
    fn real_messages_with_damage_are_read_or_not(
        bytes in prop::sample::select(real()),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        end in any::<prop::sample::Index>(),
    ) {
        let mut bytes = bytes.to_vec();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        read_all(&bytes[..end.index(bytes.len() + 1)]);
    }
}
