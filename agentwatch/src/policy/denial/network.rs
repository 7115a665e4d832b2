//! Where an agent may send to and which own addresses it may take: what the kernel refuses.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use agentwatch_common::deny::{
    PEER_RULES, PeerRule, PeerRules,
    section::{self, rule},
    verdict,
};
use serde::{Deserialize, Serialize};

use crate::policy::destination::{Prefix, mask, parse_prefix, split_port};

/// `network`: connections and datagrams.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// What becomes of a peer that no rule names.
    pub default: Unnamed,
    /// Peers that are allowed.
    #[serde(deserialize_with = "crate::policy::list")]
    pub allow: Vec<Peer>,
    /// Peers that are denied.
    #[serde(deserialize_with = "crate::policy::list")]
    pub deny: Vec<Peer>,
    /// Own addresses and ports.
    pub bind: Bind,
    /// Peers that are left to an agent in quarantine.
    #[serde(deserialize_with = "crate::policy::list")]
    pub keep: Vec<Peer>,
}

/// `network.bind`: own addresses and ports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bind {
    /// What becomes of an address that no rule names.
    pub default: Unnamed,
    /// Addresses that are allowed.
    #[serde(deserialize_with = "crate::policy::list")]
    pub allow: Vec<Peer>,
    /// Addresses that are denied.
    #[serde(deserialize_with = "crate::policy::list")]
    pub deny: Vec<Peer>,
}

/// What becomes of what no rule names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unnamed {
    /// It may be.
    #[default]
    Allow,
    /// It is refused.
    Deny,
}

/// One entry: a network, an address or `*`; before it a protocol or none, after it a port, ports or
/// none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Peer {
    /// As the policy writes it.
    text: String,
    /// IP protocol number; 0: every one.
    protocol: u8,
    /// `None`: every address.
    prefix: Option<Prefix>,
    /// First and last port.
    ports: (u16, u16),
}

/// Every port, also of protocols that have none.
const ALL_PORTS: (u16, u16) = (0, u16::MAX);

/// Protocols by name. The kernel's programs take 1 for `ICMPv6` too.
const PROTOCOLS: [(&str, u8); 4] = [("tcp", 6), ("udp", 17), ("icmp", 1), ("sctp", 132)];

impl TryFrom<String> for Peer {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (protocol, rest) = match text.split_once(' ') {
            Some((name, rest)) => match PROTOCOLS.iter().find(|(known, _)| *known == name) {
                Some((_, number)) => (*number, rest),
                None => {
                    return Err(format!(
                        "`{text}`: `{name}` is no protocol; known are tcp, udp, icmp, sctp"
                    ));
                }
            },
            None => (0, text.as_str()),
        };
        let (network, port) = split_port(rest)?;
        let ports = match port {
            None | Some("*") => ALL_PORTS,
            Some(_) if protocol == 1 => {
                return Err(format!("`{text}`: icmp has no ports"));
            }
            Some(port) => ports(port).ok_or_else(|| {
                format!("`{text}`: `{port}` is no port; write 443, or 8000-8099, or leave it out")
            })?,
        };
        let prefix = match network {
            "*" => None,
            network => Some(parse_prefix(rest, network)?),
        };
        Ok(Self {
            text,
            protocol,
            prefix,
            ports,
        })
    }
}

impl From<Peer> for String {
    fn from(peer: Peer) -> Self {
        peer.text
    }
}

/// `443`, `8000-8099`.
fn ports(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| text.parse().ok().filter(|port| *port != 0);
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    (first <= last).then_some((first, last))
}

impl Peer {
    /// Whether it applies to all addresses of a prefix.
    fn covers(&self, node: &Prefix) -> bool {
        self.prefix.is_none_or(|own| {
            own.address.is_ipv4() == node.address.is_ipv4()
                && own.length <= node.length
                && mask(node.address, own.length) == own.address
        })
    }

    /// Bits that it fixes: what names less addresses comes first.
    fn bits(&self) -> u32 {
        self.prefix.map_or(0, |prefix| prefix.length + 1)
    }

    fn rule(&self, number: u32, verdict: u8) -> PeerRule {
        PeerRule {
            rule: number,
            first_port: self.ports.0,
            last_port: self.ports.1,
            protocol: self.protocol,
            verdict,
            pad: 0,
        }
    }
}

/// An entry of the kernel's trie: bits of the address, the address, the rules in order.
pub type Node = (u32, [u8; 16], PeerRules);

/// The kernel's form of the rules of one scope.
struct Lists<'a> {
    name: &'a str,
    allow: &'a [Peer],
    deny: &'a [Peer],
    section: u16,
    /// The rule's number where the default is to deny.
    default: Option<u32>,
}

impl Network {
    /// Where the agent may send to; nothing where everything is allowed.
    ///
    /// # Errors
    ///
    /// When more rules than the kernel holds apply to one address.
    pub fn connect_nodes(&self) -> Result<Vec<Node>, String> {
        compile(&Lists {
            name: "network",
            allow: &self.allow,
            deny: &self.deny,
            section: section::NETWORK_DENY,
            default: (self.default == Unnamed::Deny).then_some(rule(section::NETWORK_DEFAULT, 0)),
        })
    }

    /// Which own addresses it may take.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn bind_nodes(&self) -> Result<Vec<Node>, String> {
        let Bind {
            default,
            allow,
            deny,
        } = &self.bind;
        compile(&Lists {
            name: "network.bind",
            allow,
            deny,
            section: section::BIND_DENY,
            default: (*default == Unnamed::Deny).then_some(rule(section::BIND_DEFAULT, 0)),
        })
    }

    /// What is left to it in quarantine.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn keep_nodes(&self) -> Result<Vec<Node>, String> {
        compile(&Lists {
            name: "network.keep",
            allow: &self.keep,
            deny: &[],
            section: section::QUARANTINE,
            default: Some(rule(section::QUARANTINE, 0)),
        })
    }
}

/// For each prefix that is named, all rules that apply to it: the kernel finds the longest prefix
/// only. The one with the most bits comes first, and of two alike the one that denies.
fn compile(lists: &Lists<'_>) -> Result<Vec<Node>, String> {
    let Lists {
        name,
        allow,
        deny,
        section,
        default,
    } = lists;
    if deny.is_empty() && default.is_none() {
        return Ok(Vec::new());
    }
    let mut rules: Vec<(&Peer, PeerRule)> = Vec::new();
    for (index, peer) in deny.iter().enumerate() {
        let index = u16::try_from(index).map_err(|_| format!("{name}.deny is too long"))?;
        rules.push((peer, peer.rule(rule(*section, index), verdict::DENY)));
    }
    rules.extend(
        allow
            .iter()
            .map(|peer| (peer, peer.rule(0, verdict::ALLOW))),
    );
    rules.sort_by_key(|(peer, rule)| {
        (
            std::cmp::Reverse(peer.bits()),
            rule.verdict != verdict::DENY,
        )
    });
    let all = |address: IpAddr| Prefix { address, length: 0 };
    let mut prefixes: BTreeSet<Prefix> = [
        all(Ipv4Addr::UNSPECIFIED.into()),
        all(Ipv6Addr::UNSPECIFIED.into()),
    ]
    .into();
    prefixes.extend(rules.iter().filter_map(|(peer, _)| peer.prefix));
    let mut nodes = Vec::new();
    for prefix in prefixes {
        let mut fitting: Vec<PeerRule> = Vec::new();
        for (_, rule) in rules.iter().filter(|(peer, _)| peer.covers(&prefix)) {
            fitting.push(*rule);
            if rule.protocol == 0 && (rule.first_port, rule.last_port) == ALL_PORTS {
                break; // the rest is never asked
            }
        }
        fitting.extend(default.map(|rule| PeerRule {
            rule,
            first_port: 0,
            last_port: u16::MAX,
            protocol: 0,
            verdict: verdict::DENY,
            pad: 0,
        }));
        if fitting.len() > PEER_RULES {
            return Err(format!(
                "{name}: {} rules apply to {}/{}; the kernel holds at most {PEER_RULES} for one address",
                fitting.len(),
                prefix.address,
                prefix.length
            ));
        }
        let mut rules = [PeerRule::END; PEER_RULES];
        rules[..fitting.len()].copy_from_slice(&fitting);
        let (bits, address) = wire(&prefix);
        nodes.push((bits, address, PeerRules { rules }));
    }
    Ok(nodes)
}

/// A prefix as the kernel's trie has it: IPv4 within IPv6.
fn wire(prefix: &Prefix) -> (u32, [u8; 16]) {
    match prefix.address {
        IpAddr::V4(address) => (96 + prefix.length, address.to_ipv6_mapped().octets()),
        IpAddr::V6(address) => (prefix.length, address.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(list: &[&str]) -> Vec<Peer> {
        list.iter()
            .map(|text| Peer::try_from((*text).to_owned()).unwrap())
            .collect()
    }

    /// As the kernel does it.
    fn judge(nodes: &[Node], ip: &str, port: u16, protocol: u8) -> Option<u32> {
        let address = match ip.parse().unwrap() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let below = |bits: u32, node: &[u8; 16]| {
            mask(address.into(), bits) == mask(Ipv6Addr::from(*node).into(), bits)
        };
        let (_, _, rules) = nodes
            .iter()
            .filter(|(bits, node, _)| below(*bits, node))
            .max_by_key(|(bits, ..)| *bits)?;
        let found = rules.rules.iter().find(|rule| {
            rule.verdict != verdict::END
                && (rule.protocol == 0 || rule.protocol == protocol)
                && (rule.first_port..=rule.last_port).contains(&port)
        })?;
        (found.verdict == verdict::DENY).then_some(found.rule)
    }

    fn network(default: Unnamed, allow: &[&str], deny: &[&str]) -> Vec<Node> {
        Network {
            default,
            allow: peers(allow),
            deny: peers(deny),
            ..Network::default()
        }
        .connect_nodes()
        .unwrap()
    }

    const DENY_0: Option<u32> = Some(rule(section::NETWORK_DENY, 0));
    const BY_DEFAULT: Option<u32> = Some(rule(section::NETWORK_DEFAULT, 0));

    #[test]
    fn nothing_denied_is_nothing_to_look_up() {
        assert!(network(Unnamed::Allow, &["10.0.0.0/8"], &[]).is_empty());
    }

    #[test]
    fn the_longest_prefix_decides_and_denial_among_equals() {
        let nodes = network(
            Unnamed::Allow,
            &["udp 10.0.0.53:53", "10.1.0.0/16"],
            &["10.0.0.0/8", "10.1.0.0/16:22"],
        );
        assert_eq!(judge(&nodes, "10.0.0.53", 53, 17), None);
        assert_eq!(judge(&nodes, "10.0.0.53", 53, 6), DENY_0);
        assert_eq!(judge(&nodes, "10.0.0.53", 54, 17), DENY_0);
        assert_eq!(judge(&nodes, "10.1.2.3", 80, 6), None);
        assert_eq!(
            judge(&nodes, "10.1.2.3", 22, 6),
            Some(rule(section::NETWORK_DENY, 1))
        );
        assert_eq!(judge(&nodes, "11.0.0.1", 80, 6), None);
        assert_eq!(judge(&nodes, "2001:db8::1", 80, 6), None);
    }

    #[test]
    fn what_no_rule_names_is_as_the_default() {
        let nodes = network(
            Unnamed::Deny,
            &["*:443", "2001:db8::/32", "tcp [::1]:8000-8009"],
            &["169.254.169.254"],
        );
        assert_eq!(judge(&nodes, "192.0.2.1", 443, 6), None);
        assert_eq!(judge(&nodes, "192.0.2.1", 80, 6), BY_DEFAULT);
        assert_eq!(judge(&nodes, "169.254.169.254", 443, 6), DENY_0);
        assert_eq!(judge(&nodes, "2001:db8::7", 9, 17), None);
        assert_eq!(judge(&nodes, "2001:db9::7", 9, 17), BY_DEFAULT);
        assert_eq!(judge(&nodes, "::1", 8009, 6), None);
        assert_eq!(judge(&nodes, "::1", 8010, 6), BY_DEFAULT);
        assert_eq!(judge(&nodes, "::1", 8009, 17), BY_DEFAULT);
        // ICMP has no port: what is allowed at one is not all.
        assert_eq!(judge(&nodes, "192.0.2.1", 0, 1), BY_DEFAULT);
    }

    #[test]
    fn ipv4_is_not_below_the_networks_of_ipv6() {
        let nodes = network(Unnamed::Allow, &[], &["::/0"]);
        assert_eq!(judge(&nodes, "2001:db8::1", 80, 6), DENY_0);
        assert_eq!(judge(&nodes, "192.0.2.1", 80, 6), None);
        let nodes = network(Unnamed::Allow, &[], &["0.0.0.0/0"]);
        assert_eq!(judge(&nodes, "2001:db8::1", 80, 6), None);
        assert_eq!(judge(&nodes, "192.0.2.1", 80, 6), DENY_0);
        let nodes = network(Unnamed::Allow, &[], &["*"]);
        assert_eq!(judge(&nodes, "2001:db8::1", 80, 6), DENY_0);
        assert_eq!(judge(&nodes, "192.0.2.1", 80, 6), DENY_0);
    }

    #[test]
    fn in_quarantine_only_what_is_kept_is_left() {
        let network = Network {
            keep: peers(&["192.0.2.0/24:443"]),
            ..Network::default()
        };
        let nodes = network.keep_nodes().unwrap();
        assert_eq!(judge(&nodes, "192.0.2.9", 443, 6), None);
        let quarantine = Some(rule(section::QUARANTINE, 0));
        assert_eq!(judge(&nodes, "192.0.2.9", 80, 6), quarantine);
        assert_eq!(judge(&nodes, "::1", 443, 6), quarantine);
    }

    #[test]
    fn too_many_for_one_address() {
        let many: Vec<String> = (1..=PEER_RULES + 1).map(|n| format!("*:{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let network = Network {
            deny: peers(&many),
            ..Network::default()
        };
        let error = network.connect_nodes().unwrap_err();
        assert!(error.contains("33 rules apply to 0.0.0.0/0"), "{error}");
    }

    #[test]
    fn bad_entries_say_why() {
        for (bad, why) in [
            ("ftp 10.0.0.0/8", "`ftp` is no protocol"),
            ("icmp 10.0.0.0/8:1", "icmp has no ports"),
            ("10.0.0.0/8:9-8", "`9-8` is no port"),
            ("10.0.0.0/8:0-8", "`0-8` is no port"),
            ("10.0.0.0/8:x", "`x` is no port"),
            ("example.com", "is no IP address"),
            ("tcp 10.1.0.0/8", "did you mean `10.0.0.0/8`?"),
        ] {
            let error = Peer::try_from(bad.to_owned()).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
