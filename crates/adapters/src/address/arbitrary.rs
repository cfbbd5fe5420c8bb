//! What the property tests of every address draw from.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;

/// Names, IPv4 and IPv6 addresses, as they stand in an address and as they are connected to.
pub(crate) fn host() -> impl Strategy<Value = (String, String)> {
    let name = "[a-z]([a-z0-9_-]{0,20}[a-z])?(\\.[a-z][a-z0-9-]{0,10}[a-z]){0,3}".prop_map(|name| (name.clone(), name));
    let v4 = any::<std::net::Ipv4Addr>().prop_filter("it is one machine", |address| !address.is_unspecified());
    let v4 = v4.prop_map(|address| (address.to_string(), address.to_string()));
    let v6 = any::<std::net::Ipv6Addr>();
    let v6 = v6.prop_filter("it is one machine", |address| !address.to_canonical().is_unspecified());
    let v6 = v6.prop_map(|address| (format!("[{address}]"), address.to_string()));
    prop_oneof![name, v4, v6]
}

/// Any text as it stands in an address.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
