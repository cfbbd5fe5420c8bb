//! Reads the metrics of a role from its endpoint.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::Context;

/// Timeout of one read.
const LIMIT: Duration = Duration::from_secs(10);

/// Returns a port that no program listens on at present.
pub fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Reads everything that the role with this port shows, in Prometheus's text format.
pub fn read(port: u16) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("connect to a role's endpoint")?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).context("read a role's metrics")?;
    Ok(text)
}

/// Returns the sum of the samples of `name` that have the label `label` with this value.
pub fn sum(text: &str, name: &str, label: &str, value: &str) -> f64 {
    let wanted = format!("{label}=\"{value}\"");
    let samples = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.split_once("} "));
    samples
        .filter(|(labels, _)| labels.contains(&wanted))
        .filter_map(|(_, number)| number.trim().parse::<f64>().ok())
        .sum()
}
