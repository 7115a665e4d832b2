//! Where an agent may connect to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// `destinations`: the addresses and ports that an agent may send to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Destinations {
    /// Empty: every destination.
    #[serde(deserialize_with = "super::list")]
    allow: Vec<Destination>,
}

impl Destinations {
    /// Whether any destination is forbidden.
    pub fn is_limited(&self) -> bool {
        !self.allow.is_empty()
    }

    /// Whether this destination is allowed. An IPv4 address that is written as an IPv6 one
    /// (`::ffff:192.0.2.1`) is the IPv4 address, since that is where the packets go.
    pub fn allows(&self, ip: IpAddr, port: u16) -> bool {
        let ip = ip.to_canonical();
        self.allow.is_empty() || self.allow.iter().any(|entry| entry.covers(ip, port))
    }
}

/// One entry: a network, an address or `*`, with or without a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Destination {
    /// As the policy writes it.
    text: String,
    /// `None`: every address.
    network: Option<Prefix>,
    /// `None`: every port.
    port: Option<u16>,
}

/// The addresses whose first `length` bits are those of `address`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Prefix {
    pub address: IpAddr,
    pub length: u32,
}

impl Destination {
    fn covers(&self, ip: IpAddr, port: u16) -> bool {
        self.port.is_none_or(|p| p == port)
            && self.network.is_none_or(|network| network.contains(ip))
    }
}

impl Prefix {
    fn contains(self, ip: IpAddr) -> bool {
        self.address.is_ipv4() == ip.is_ipv4() && mask(ip, self.length) == self.address
    }
}

/// The address with only its first `length` bits.
pub(super) fn mask(ip: IpAddr, length: u32) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - length.min(32)).unwrap_or(0);
            Ipv4Addr::from(u32::from(ip) & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - length.min(128)).unwrap_or(0);
            Ipv6Addr::from(u128::from(ip) & mask).into()
        }
    }
}

impl TryFrom<String> for Destination {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (network, port) = split_port(&text)?;
        let port = match port {
            None | Some("*") => None,
            Some(port) => match port.parse() {
                Ok(0) | Err(_) => return Err(format!("`{text}`: `{port}` is no port")),
                Ok(port) => Some(port),
            },
        };
        let network = match network {
            "*" => None,
            network => Some(parse_prefix(&text, network)?),
        };
        Ok(Self {
            text,
            network,
            port,
        })
    }
}

impl From<Destination> for String {
    fn from(destination: Destination) -> Self {
        destination.text
    }
}

/// Takes the port off. An IPv6 address needs brackets to have one.
pub(super) fn split_port(text: &str) -> Result<(&str, Option<&str>), String> {
    if let Some(rest) = text.strip_prefix('[') {
        let Some((network, rest)) = rest.split_once(']') else {
            return Err(format!("`{text}`: the bracket is not closed"));
        };
        return match rest.strip_prefix(':') {
            Some(port) => Ok((network, Some(port))),
            None if rest.is_empty() => Ok((network, None)),
            None => Err(format!(
                "`{text}`: after `]` comes `:` and a port, or nothing"
            )),
        };
    }
    match text.split_once(':') {
        Some((network, port)) if !port.contains(':') => Ok((network, Some(port))),
        _ => Ok((text, None)),
    }
}

pub(super) fn parse_prefix(text: &str, network: &str) -> Result<Prefix, String> {
    let (address, length) = match network.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (network, None),
    };
    let address: IpAddr = address.parse().map_err(|_| {
        format!(
            "`{text}`: `{address}` is no IP address; write an address, a network such as 10.0.0.0/8, \
             or `*`, and if need be a port: 192.0.2.7:22, [2001:db8::/32]:443, \"*:443\""
        )
    })?;
    if address.to_canonical() != address {
        let canonical = address.to_canonical();
        return Err(format!("`{text}`: write the IPv4 address, {canonical}"));
    }
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => bits,
        Some(length) => match length.parse() {
            Ok(length) if length <= bits => length,
            _ => {
                return Err(format!(
                    "`{text}`: `/{length}` is not between /0 and /{bits}"
                ));
            }
        },
    };
    let first = mask(address, length);
    if first != address {
        return Err(format!(
            "`{text}`: {address} is not the first address of its network; did you mean \
             `{first}/{length}`?"
        ));
    }
    Ok(Prefix { address, length })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(list: &[&str]) -> Destinations {
        let allow = list
            .iter()
            .map(|s| Destination::try_from((*s).to_owned()).unwrap())
            .collect();
        Destinations { allow }
    }

    fn allows(list: &[&str], ip: &str, port: u16) -> bool {
        allow(list).allows(ip.parse().unwrap(), port)
    }

    #[test]
    fn empty_allows_all_and_loopback_is_not_implied() {
        assert!(!allow(&[]).is_limited());
        assert!(allows(&[], "192.0.2.1", 22));
        assert!(allow(&["*:443"]).is_limited());
        assert!(!allows(&["10.0.0.0/8"], "127.0.0.1", 80));
        assert!(!allows(&["10.0.0.0/8"], "::1", 80));
    }

    #[test]
    fn networks_and_ports() {
        assert!(allows(&["10.0.0.0/8"], "10.255.255.255", 1));
        assert!(!allows(&["10.0.0.0/8"], "11.0.0.0", 1));
        assert!(allows(&["192.0.2.7:22"], "192.0.2.7", 22));
        assert!(!allows(&["192.0.2.7:22"], "192.0.2.7", 23));
        assert!(!allows(&["192.0.2.7:22"], "192.0.2.8", 22));
        assert!(allows(&["192.0.2.0/24:22"], "192.0.2.8", 22));
        assert!(allows(&["[2001:db8::/32]:443"], "2001:db8:ffff::1", 443));
        assert!(!allows(&["[2001:db8::/32]:443"], "2001:db8::1", 80));
        assert!(!allows(&["[2001:db8::/32]:443"], "2001:db9::1", 443));
        assert!(allows(&["[2001:db8::1]"], "2001:db8::1", 9));
        assert!(allows(&["2001:db8::1"], "2001:db8::1", 9));
        assert!(allows(&["2001:db8::/32"], "2001:db8::1", 9));
        assert!(allows(&["*:443"], "192.0.2.8", 443));
        assert!(allows(&["*:443"], "2001:db8::1", 443));
        assert!(!allows(&["*:443"], "2001:db8::1", 80));
        assert!(allows(&["*"], "2001:db8::1", 80));
        assert!(allows(&["::/0"], "2001:db8::1", 80));
        assert!(!allows(&["::/0"], "192.0.2.1", 80));
        assert!(allows(&["0.0.0.0/0"], "192.0.2.1", 80));
        assert!(allows(&["192.0.2.1", "192.0.2.3:*"], "192.0.2.3", 80));
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        assert!(allows(&["192.0.2.0/24"], "::ffff:192.0.2.1", 80));
        assert!(!allows(&["192.0.2.0/24"], "::ffff:192.0.3.1", 80));
        assert!(!allows(&["::/0"], "::ffff:192.0.2.1", 80));
    }

    #[test]
    fn bad_entries_say_why() {
        for (bad, why) in [
            ("", "`` is no IP address"),
            ("example.com", "`example.com` is no IP address"),
            ("10.0.0.0/33", "`/33` is not between /0 and /32"),
            ("10.0.0.0/", "`/` is not between /0 and /32"),
            ("10.0.0.0/-1", "`/-1` is not between /0 and /32"),
            ("2001:db8::/129", "`/129` is not between /0 and /128"),
            ("10.1.2.3/8", "did you mean `10.0.0.0/8`?"),
            ("2001:db8::1/32", "did you mean `2001:db8::/32`?"),
            ("192.0.2.7:0", "`0` is no port"),
            ("192.0.2.7:65536", "`65536` is no port"),
            ("192.0.2.7:ssh", "`ssh` is no port"),
            ("192.0.2.7:", "`` is no port"),
            ("[2001:db8::1", "the bracket is not closed"),
            (
                "[2001:db8::1]443",
                "after `]` comes `:` and a port, or nothing",
            ),
            ("::ffff:192.0.2.1", "write the IPv4 address, 192.0.2.1"),
            ("192.0.2.7 ", "is no IP address"),
        ] {
            let error = Destination::try_from(bad.to_owned()).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
