//! Addresses of Redis and Valkey (<https://www.iana.org/assignments/uri-schemes/prov/redis>).
//!
//! One server and no more: the client here follows neither the slots of a cluster nor the fail-over of sentinels, so an
//! address that names several is refused instead of used in part.

use ::redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo};

use crate::address::{Address, Form, Refusal};

const FORM: Form = Form {
    schemes: &["redis", "rediss", "valkey", "valkeys"],
    example: "redis://user:password@host:6379/0",
    other_ports: &[],
    is_meant,
};

/// Schemes of a socket within this machine.
const SOCKETS: [&str; 3] = ["unix:", "redis+unix:", "valkey+unix:"];

const DEFAULT_PORT: u16 = 6_379;

/// Reads an address.
pub(super) fn read(text: &str) -> Result<ConnectionInfo, Refusal> {
    if SOCKETS.iter().any(|scheme| text.starts_with(scheme)) {
        let info = text.into_connection_info();
        return info.map_err(|_| "names no socket; write it as unix:///run/redis/redis.sock?db=0".to_owned());
    }
    let address = FORM.read(text)?;
    let (database, protocol) = (database(&address)?, protocol(&address).map_err(|why| FORM.refusal(&why))?);
    let mut settings = RedisConnectionInfo::default().set_db(database).set_protocol(protocol);
    let user = address.user.filter(|user| !user.is_empty());
    // Both empty is what tools write that know no password.
    if let Some(password) = address.password.filter(|password| user.is_some() || !password.is_empty()) {
        settings = settings.set_password(password.expose());
    }
    if let Some(user) = user {
        settings = settings.set_username(user);
    }
    let server = address.servers.into_iter().next().ok_or("names no host")?;
    let (host, port) = (server.host, server.port.unwrap_or(DEFAULT_PORT));
    let place = match address.scheme.as_str() {
        "rediss" | "valkeys" => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        _ => ConnectionAddr::Tcp(host, port),
    };
    let info = place.into_connection_info().map_err(|_| "names no server")?;
    Ok(info.set_redis_settings(settings))
}

fn is_meant(address: &Address) -> Result<(), Refusal> {
    if address.user.is_some() && address.password.is_none() {
        return Err("names a user and no password; write redis://:password@host:6379/0 without a user".to_owned());
    }
    if address.servers.len() > 1 {
        return Err("names several hosts; clusters and sentinels are not supported".to_owned());
    }
    if address.fragment.is_some() {
        let tls = "certificates are always verified, with those of cache.certificates";
        return Err(format!("has a # behind the host ({tls}); write # in a password as %23"));
    }
    database(address).map(drop)
}

fn database(address: &Address) -> Result<i64, Refusal> {
    let path = address.path.as_deref().unwrap_or_default();
    let number = match path.strip_suffix('/').unwrap_or(path) {
        "" => Some(0),
        digits => digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit())),
    };
    number.ok_or_else(|| "has something other than the number of a database behind the host".to_owned())
}

fn protocol(address: &Address) -> Result<ProtocolVersion, Refusal> {
    let mut protocol = ProtocolVersion::default();
    for (name, value) in &address.options {
        protocol = match (name.as_str(), value.as_str()) {
            ("protocol", "2" | "resp2") => ProtocolVersion::RESP2,
            ("protocol", "3" | "resp3") => ProtocolVersion::RESP3,
            _ => return Err("has an option other than protocol=resp2 and protocol=resp3".to_owned()),
        };
    }
    Ok(protocol)
}

#[cfg(test)]
mod tests;
