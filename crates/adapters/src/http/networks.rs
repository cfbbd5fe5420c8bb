//! Which IP addresses may be reached for a client.
//!
//! The job names the address, but this process sends the request, from inside its own network. So everything that is not
//! certainly public is refused: the local machine, private networks, the services of a cloud provider, and every form of an
//! IPv4 address that is written as an IPv6 address.

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A network that may be reached although it is not public, written as `10.0.0.0/8`, `fd00::/8`, or one address alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AllowedNetwork(IpNet);

impl AllowedNetwork {
    /// Whether the network contains the address. An IPv4 network contains no IPv6 address in any notation.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }
}

impl FromStr for AllowedNetwork {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let network = text.parse().or_else(|_| text.parse().map(|address: IpAddr| IpNet::from(address)));
        network.map(Self).map_err(|_| format!("{text:?} is no network; write 10.0.0.0/8, fd00::/8 or one address"))
    }
}

impl TryFrom<String> for AllowedNetwork {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<AllowedNetwork> for String {
    fn from(network: AllowedNetwork) -> Self {
        network.to_string()
    }
}

impl fmt::Display for AllowedNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl JsonSchema for AllowedNetwork {
    fn schema_name() -> Cow<'static, str> {
        "AllowedNetwork".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let description = "A network such as 10.0.0.0/8 or fd00::/8, or one address.";
        json_schema!({ "type": "string", "description": description })
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), bits))
}

const fn v6(first: u16, second: u16, bits: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, 0), bits))
}

/// IPv4 networks that are not public, by the registries of special addresses (IANA, RFC 6890 and its successors) and by
/// the practice of cloud providers.
const REFUSED_V4: &[(IpNet, &str)] = &[
    (v4(0, 0, 0, 0, 8), "this machine"),
    (v4(10, 0, 0, 0, 8), "a private network"),
    (v4(100, 64, 0, 0, 10), "a shared network"),
    (v4(127, 0, 0, 0, 8), "this machine"),
    (v4(168, 63, 129, 16, 32), "a cloud's own service"),
    (v4(169, 254, 0, 0, 16), "the link or a cloud's metadata"),
    (v4(172, 16, 0, 0, 12), "a private network"),
    (v4(192, 0, 0, 0, 24), "a special purpose"),
    (v4(192, 0, 2, 0, 24), "documentation"),
    (v4(192, 88, 99, 0, 24), "a relay"),
    (v4(192, 168, 0, 0, 16), "a private network"),
    (v4(198, 18, 0, 0, 15), "benchmarks"),
    (v4(198, 51, 100, 0, 24), "documentation"),
    (v4(203, 0, 113, 0, 24), "documentation"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(240, 0, 0, 0, 4), "nobody"),
];

/// Public IPv6 addresses begin with these three bits; loopback, link-local, unique-local, multicast, mapped IPv4
/// (`::ffff:0:0/96`) and NAT64 (`64:ff9b::/96`) do not.
const GLOBAL_V6: IpNet = v6(0x2000, 0, 3);

/// IPv6 networks within [`GLOBAL_V6`] that are not public.
const REFUSED_V6: &[(IpNet, &str)] = &[
    (v6(0x2001, 0, 23), "a special purpose"),
    (v6(0x2001, 0x0db8, 32), "documentation"),
    (v6(0x2002, 0, 16), "an IPv4 address in disguise"),
    (v6(0x3fff, 0, 20), "documentation"),
];

/// What the address belongs to, if it is not public.
pub(super) fn not_public(address: IpAddr) -> Option<&'static str> {
    let refused = match address {
        IpAddr::V4(_) => REFUSED_V4,
        IpAddr::V6(_) if !GLOBAL_V6.contains(&address) => return Some("no public network"),
        IpAddr::V6(_) => REFUSED_V6,
    };
    refused.iter().find(|(network, _)| network.contains(&address)).map(|(_, whose)| *whose)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_public_is_refused() {
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.100.100.200",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(not_public(address.parse().unwrap()).is_some(), "{address}");
        }
    }

    #[test]
    fn what_is_public_is_not() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "128.0.0.1",
            "168.63.129.17",
            "172.15.255.255",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.255.255",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "2a00:1450::1",
        ] {
            assert_eq!(not_public(address.parse().unwrap()), None, "{address}");
        }
    }

    #[test]
    fn networks_are_read_and_shown() {
        for text in ["10.0.0.0/8", "fd00::/8", "0.0.0.0/0", "::/0", "127.0.0.1/32"] {
            assert_eq!(text.parse::<AllowedNetwork>().unwrap().to_string(), text);
        }
        assert_eq!("127.0.0.1".parse::<AllowedNetwork>().unwrap().to_string(), "127.0.0.1/32");
        for text in ["", "10.0.0.0/33", "fd00::/129", "10.0.0/8", "10.0.0.0/-1", "10.0.0.0/", "localhost", "/8"] {
            assert!(text.parse::<AllowedNetwork>().is_err(), "{text}");
        }
        let all: AllowedNetwork = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("1.2.3.4".parse().unwrap()));
        assert!(!all.contains("::ffff:1.2.3.4".parse().unwrap()), "an IPv6 address is none of IPv4");
    }
}
