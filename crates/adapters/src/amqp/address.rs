//! Addresses of RabbitMQ, by its own rules (<https://www.rabbitmq.com/docs/uri-spec>), and hosts of a cluster.
//!
//! Three things differ from those rules. The empty path is the virtual host `/`, as other tools write it, and not the
//! virtual host with an empty name. An address without a host is refused; it does not mean the local machine. An option
//! that is not supported is refused; it is not ignored.

use std::str::FromStr;

use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};

use crate::address::{Address, Form, Refusal, Server, decode};

const FORM: Form = Form {
    schemes: &["amqp", "amqps"],
    example: "amqp://user:password@host:5672/vhost",
    // The ports of the management API.
    other_ports: &[15_671, 15_672],
    is_meant,
};

/// The longest name of a virtual host, in bytes.
const MAX_VHOST: usize = 255;

/// Parses an address into one URI for each of its hosts; they differ only in the host.
pub(super) fn read(text: &str) -> Result<Vec<AMQPUri>, Refusal> {
    let address = FORM.read(text)?;
    let scheme = if address.scheme == "amqps" { AMQPScheme::AMQPS } else { AMQPScheme::AMQP };
    let (vhost, query) = (vhost(&address)?, query(&address).map_err(|why| FORM.refusal(&why))?);
    let userinfo = match (address.user, address.password) {
        (Some(username), Some(password)) => AMQPUserInfo { username, password: password.expose().to_owned() },
        _ => AMQPUserInfo::default(),
    };
    let uri = |server: Server| {
        let port = server.port.unwrap_or_else(|| scheme.default_port());
        let authority = AMQPAuthority { userinfo: userinfo.clone(), host: server.host, port };
        AMQPUri { scheme: scheme.clone(), authority, vhost: vhost.clone(), query: query.clone() }
    };
    Ok(address.servers.into_iter().map(uri).collect())
}

fn is_meant(address: &Address) -> Result<(), Refusal> {
    match (&address.user, &address.password) {
        (None, None) => {}
        (Some(user), Some(_)) if !user.is_empty() => {}
        (_, None) => return Err("names a user and no password".to_owned()),
        (_, Some(_)) => return Err("has a password and no user".to_owned()),
    }
    if address.fragment.is_some() {
        return Err("has a # behind the host; write # itself as %23".to_owned());
    }
    vhost(address).map(drop)
}

fn vhost(address: &Address) -> Result<String, Refusal> {
    let name = match address.path.as_deref() {
        None | Some("" | "/") => "/".to_owned(),
        Some(path) if path.ends_with('/') => {
            return Err("ends with /; write the virtual host without it, and / itself as %2f".to_owned());
        }
        Some(path) => decode(path)?,
    };
    if name.len() > MAX_VHOST {
        return Err(format!("has a virtual host of {} bytes; the limit is {MAX_VHOST}", name.len()));
    }
    Ok(name)
}

fn query(address: &Address) -> Result<AMQPQueryString, Refusal> {
    let mut query = AMQPQueryString::default();
    for (name, value) in &address.options {
        match name.as_str() {
            "heartbeat" => query.heartbeat = Some(number(name, value)?),
            "frame_max" => query.frame_max = Some(number(name, value)?),
            "channel_max" => query.channel_max = Some(number(name, value)?),
            "connection_timeout" => query.connection_timeout = Some(number(name, value)?),
            "auth_mechanism" => {
                let mechanism = value.parse();
                query.auth_mechanism = Some(mechanism.map_err(|_| "has an auth_mechanism that is not known")?);
            }
            _ => {
                let known = "heartbeat, frame_max, channel_max, connection_timeout and auth_mechanism";
                let tls = "certificates are always verified, with those of broker.certificates";
                return Err(format!("has an option other than {known} ({tls})"));
            }
        }
    }
    Ok(query)
}

fn number<T: FromStr>(name: &str, value: &str) -> Result<T, Refusal> {
    value.parse().map_err(|_| format!("has a {name} that is no number, or too large a one"))
}

#[cfg(test)]
mod tests;
