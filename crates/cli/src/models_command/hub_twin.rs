//! A fake hub with one repository on this machine: the routes and headers that fetching a file needs, including
//! ranges.

use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// One file that the fake hub serves, and how it misbehaves.
#[derive(Clone, Default)]
pub(super) struct Served {
    /// The path of its URL, such as `/owner/name/resolve/main/file`.
    pub(super) route: String,
    /// Its contents.
    pub(super) content: Vec<u8>,
    /// The checksum that its headers state; if empty, the correct one.
    pub(super) stated: String,
    /// Closes the connection after this many bytes of each response.
    pub(super) cut_after: Option<usize>,
    /// Sends nothing more after this many bytes of a response, until the client is gone.
    pub(super) stall_after: Option<usize>,
}

/// The running fake hub.
pub(super) struct HubTwin {
    pub(super) endpoint: String,
    /// The first byte of each request for contents.
    pub(super) starts: Arc<Mutex<Vec<usize>>>,
}

impl HubTwin {
    /// Starts the fake hub on a free port; its thread ends with the process.
    pub(super) fn start(served: Vec<Served>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let starts = Arc::new(Mutex::new(Vec::new()));
        let shared = starts.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (served, shared) = (served.clone(), shared.clone());
                // Clients close connections early in some tests.
                std::thread::spawn(move || drop(answer(stream, &served, &shared)));
            }
        });
        Self { endpoint, starts }
    }
}

fn answer(mut stream: TcpStream, served: &[Served], starts: &Mutex<Vec<usize>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let mut range = String::new();
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("range: bytes=") {
            range = value.to_owned();
        }
        if line.is_empty() {
            break;
        }
    }
    let route = request.split(' ').nth(1).unwrap_or_default();
    let Some(file) = served.iter().find(|file| file.route == route) else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let (first, last) = range.split_once('-').unwrap_or(("0", ""));
    let (first, length) = (first.parse::<usize>().unwrap_or(0), file.content.len());
    let end = last.parse::<usize>().map_or(length, |last| length.min(last + 1));
    if last.is_empty() {
        starts.lock().unwrap().push(first);
    }
    if first >= length {
        return stream
            .write_all(b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let body = &file.content[first..end];
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {first}-{}/{length}\r\n\
         ETag: \"{}\"\r\nX-Repo-Commit: 0123456789abcdef\r\nConnection: close\r\n\r\n",
        body.len(),
        end - 1,
        if file.stated.is_empty() { sum(&file.content) } else { file.stated.clone() },
    )?;
    if let Some(sent) = file.stall_after.filter(|sent| last.is_empty() && *sent < body.len()) {
        stream.write_all(&body[..sent])?;
        // Returns when the client closes the connection.
        return stream.read(&mut [0]).map(drop);
    }
    stream.write_all(&body[..file.cut_after.unwrap_or(body.len()).min(body.len())])
}

/// Returns the SHA-256 in hexadecimal.
pub(super) fn sum(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}
