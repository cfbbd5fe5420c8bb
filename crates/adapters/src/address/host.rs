//! One server of an address.
//!
//! The system's resolver accepts short and hexadecimal forms of IPv4 addresses (`127.1`, `0x7f000001`, `2130706433`), so a
//! mistyped address would connect to another host. A host that ends in a number must be an IPv4 address of four parts.
//! Unspecified addresses (`0.0.0.0`, `::`) are refused too, because they would connect to the local machine.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use url::Host;

use super::{Refusal, split};

/// A server of an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Server {
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
}

impl Server {
    /// Reads `host`, `host:port` or `[address]:port`.
    pub(super) fn read(text: &str) -> Result<Self, Refusal> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest.split_once(']').ok_or("has a [ without ]")?;
                let address = address.parse::<Ipv6Addr>().map_err(|_| "has no IPv6 address between [ and ]")?;
                let is_port = rest.is_empty() || rest.starts_with(':');
                if !is_port {
                    return Err("has something other than a port behind ]".to_owned());
                }
                (reachable(address.into())?, rest.strip_prefix(':'))
            }
            None if text.matches(':').count() > 1 => {
                return Err("has an IPv6 address without brackets, or two ports; write [2001:db8::1]:5672".to_owned());
            }
            None => {
                let (name, port) = split(text, ':');
                (host(name)?, port)
            }
        };
        Ok(Self { host, port: port.map(self::port).transpose()? })
    }
}

impl fmt::Display for Server {
    /// As in an address: with brackets around an IPv6 address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?
        } else {
            f.write_str(&self.host)?
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

fn port(text: &str) -> Result<u16, Refusal> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| digits && *port > 0);
    port.ok_or_else(|| "has a port that is no number from 1 to 65535".to_owned())
}

fn host(text: &str) -> Result<String, Refusal> {
    if text.is_empty() {
        return Err("names no host".to_owned());
    }
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_');
    if !text.chars().all(fits) {
        return Err("has a host with a character that no name has".to_owned());
    }
    let ascii = if text.is_ascii() {
        text.to_owned()
    } else {
        let name: Host = Host::parse(text).map_err(|_| "has a host that is no name")?;
        name.to_string()
    };
    match ascii.parse::<Ipv4Addr>() {
        Ok(address) => reachable(address.into()),
        Err(_) if ends_like_a_number(&ascii) => Err("has a host that is a number and no IPv4 address".to_owned()),
        Err(_) => Ok(ascii),
    }
}

fn ends_like_a_number(name: &str) -> bool {
    let last = name.trim_end_matches('.').rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    match last.strip_prefix("0x") {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => last.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// Refuses an unspecified address.
fn reachable(address: IpAddr) -> Result<String, Refusal> {
    if address.to_canonical().is_unspecified() {
        return Err("names the address that stands for any; write 127.0.0.1 or [::1] for this machine".to_owned());
    }
    Ok(address.to_string())
}
