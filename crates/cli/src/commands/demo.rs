//! `echogen demo`: everything in one process with the console, and example jobs to watch.

use std::{
    io::IsTerminal,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::Context;
use base64::{Engine, prelude::BASE64_STANDARD};
use clap::{Args, ValueEnum};
use echogen_ports::Secret;
use echogen_service::{
    BundleNetworks, Exit, Failure, block_on,
    config::ServiceConfig,
    console::{print_error, print_line},
    embedded::{self, Announcement},
};
use echogen_telemetry::Telemetry;
use echogen_tenants::Key;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
};

use crate::values;

pub(crate) const DEMO_EXAMPLES: &str = "\
What happens:
  1. All roles and the gateway start in this process. It needs no server, no clone and no download.
  2. It prints the console's address and a key. Open the address and sign in with the key.
  3. Example jobs arrive, one every three seconds: drawn subjects that no network has seen in
     training, each in the scene of its prompt. Open a job to see its pictures sharpen scale by scale.
  4. In the playground, drop a picture of yours and write a prompt. The bundle `mini` knows a small
     drawn world, at 128 x 128 pixels; `echogen help generate` says how to use another one.
Ctrl-C ends it. The pictures remain in the folder, and the next start shows them again.

Examples:
  Start it, and open a browser:
    echogen demo --open
  Ten jobs a second, on another port:
    echogen demo --every 0.1 --jobs 1000 --gateway 127.0.0.1:9000
  The same without example jobs, and with a key that stays:
    echogen up --gateway 127.0.0.1:8080 --store out/";

/// The address if none is given and nobody else has it.
const ADDRESS: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 8080);

/// The folder of the store if none is given.
const FOLDER: &str = "echogen-demo";

/// Previews of each picture.
const PREVIEWS: u32 = 6;

/// Pictures of each job.
const PICTURES: u32 = 4;

/// The example jobs.
const JOBS: &str = include_str!("../../../../examples/jobs.jsonl");

/// Their subjects, each with its type and its place beside the jobs.
const SUBJECTS: [(&str, &str, &[u8]); 7] = [
    ("subjects/cactus.png", "image/png", include_bytes!("../../../../examples/subjects/cactus.png")),
    ("subjects/car.png", "image/png", include_bytes!("../../../../examples/subjects/car.png")),
    ("subjects/cat.png", "image/png", include_bytes!("../../../../examples/subjects/cat.png")),
    ("subjects/mug.png", "image/png", include_bytes!("../../../../examples/subjects/mug.png")),
    ("subjects/robot.png", "image/png", include_bytes!("../../../../examples/subjects/robot.png")),
    ("subjects/rocket.jpg", "image/jpeg", include_bytes!("../../../../examples/subjects/rocket.jpg")),
    ("subjects/teapot.png", "image/png", include_bytes!("../../../../examples/subjects/teapot.png")),
];

/// `echogen demo`.
#[derive(Args, Debug, Clone)]
pub(crate) struct DemoArguments {
    /// Example jobs to send; 0 sends none
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) jobs: u32,

    /// Seconds between them
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = values::seconds)]
    pub(crate) every: f64,

    /// Whether to open the console in a browser: by default on a terminal with a display
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Open::Auto, default_missing_value = "always",
        num_args = 0..=1, require_equals = true)]
    pub(crate) open: Open,
}

/// Whether to open a browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Open {
    /// On a terminal with a display.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Runs `echogen demo`.
pub(crate) fn run(arguments: &DemoArguments, config: &ServiceConfig, telemetry: &Telemetry) -> Result<Exit, Failure> {
    if !config.is_embedded() {
        let advice = "leave broker.url and cache.url out, or use `echogen up`";
        return Err(Failure::usage(format!("the demo runs without servers; {advice}")));
    }
    let jobs = examples()?;
    let (config, key) = settings(config.clone())?;
    block_on(async {
        let networks = BundleNetworks::open(&config)?;
        let (told, opened) = oneshot::channel();
        let announce = |announcement: &Announcement| {
            present(announcement, &key, arguments, &config);
            // Nobody waits for it if no example is to be sent.
            told.send(announcement.address).ok();
        };
        let serving = embedded::serve(&networks, &config, telemetry, announce);
        let feeding = async {
            if let Ok(address) = opened.await {
                feed(address, &key, &jobs, arguments).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            // A signal, or a failure.
            ended = serving => ended,
            // Goes on until then.
            () = feeding => Ok(Exit::Success),
        }
    })
}

/// Fills in what a demo needs and nobody has set; returns the key too.
fn settings(mut config: ServiceConfig) -> Result<(ServiceConfig, Secret), Failure> {
    let key = match &config.gateway.key {
        Some(key) if !key.is_empty() => key.clone(),
        _ => Secret::from(Key::generate().map_err(|error| Failure::refused("no key can be made", &error))?.expose()),
    };
    config.gateway.key = Some(key.clone());
    // With a file of tenants the key of the examples would be none of theirs.
    config.gateway.tenants = None;
    if config.gateway.listen.is_none() {
        let is_free = TcpListener::bind(ADDRESS).is_ok();
        config.gateway.listen = Some(if is_free { ADDRESS.into() } else { (Ipv4Addr::LOCALHOST, 0).into() });
    }
    if config.store.url.is_none() {
        config.store.url = Some(FOLDER.to_owned());
    }
    Ok((config, key))
}

fn present(opened: &Announcement, key: &Secret, arguments: &DemoArguments, config: &ServiceConfig) {
    let address = format!("http://{}/", opened.address);
    print_line(&format!("console {address}"));
    print_line(&format!("key {}", key.expose()));
    if arguments.jobs > 0 {
        print_error(format_args!("{} example jobs, one every {} s", arguments.jobs, arguments.every));
    }
    let folder = config.store.url.as_deref().unwrap_or(FOLDER);
    print_error(format_args!("pictures are kept in {folder}; Ctrl-C ends the demo"));
    let has_display = ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some());
    let may_open = std::io::stdout().is_terminal() && (has_display || cfg!(target_os = "macos"));
    if arguments.open == Open::Always || (arguments.open == Open::Auto && may_open) {
        open(&address);
    }
}

/// Opens an address in the user's browser.
fn open(address: &str) {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let mut command = Command::new(program);
    let started = command.arg(address).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    if let Err(error) = started {
        print_error(format_args!("note: no browser was opened ({program}: {error}); open the address yourself"));
    }
}

/// Returns the example jobs with their pictures in them.
fn examples() -> Result<Vec<Value>, Failure> {
    let jobs = JOBS.lines().filter(|line| !line.is_empty()).map(example).collect::<anyhow::Result<Vec<_>>>();
    jobs.map_err(|error| Failure::usage(format!("the example jobs: {error:#}")))
}

fn example(line: &str) -> anyhow::Result<Value> {
    let mut job: Value = echogen_protocol::json::read(line.as_bytes(), &echogen_protocol::json::Bounds::MESSAGE)?;
    let image = job.pointer("/subject/image").and_then(Value::as_str).context("no picture")?;
    let found = SUBJECTS.iter().find(|(name, ..)| *name == image).with_context(|| format!("no picture {image}"))?;
    let (_, kind, bytes) = found;
    job["subject"]["image"] = format!("data:{kind};base64,{}", BASE64_STANDARD.encode(bytes)).into();
    job["previews"] = PREVIEWS.into();
    if let Some(fields) = job.as_object_mut() {
        // Each time it is a job of its own.
        fields.remove("id");
    }
    Ok(job)
}

/// Sends the jobs in turn, with seeds that no earlier job had.
async fn feed(address: SocketAddr, key: &Secret, jobs: &[Value], arguments: &DemoArguments) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let pause = values::limit(Some(arguments.every)).unwrap_or(Duration::from_secs(1));
    for (number, job) in (0..arguments.jobs).zip(jobs.iter().cycle()) {
        let mut job = job.clone();
        job["seeds"] = json!({ "first": now + u64::from(number * PICTURES), "count": PICTURES });
        if let Err(error) = send(address, key, &job).await {
            print_error(format_args!("warning: an example job was not sent: {error:#}"));
        }
        tokio::time::sleep(pause).await;
    }
}

/// Posts a job as any client does.
async fn send(address: SocketAddr, key: &Secret, job: &Value) -> anyhow::Result<()> {
    let body = job.to_string();
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        key.expose(),
        body.len()
    );
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(64 * 1024).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).unwrap_or_default();
    anyhow::ensure!(status.starts_with('2'), "{}", answer.lines().next_back().unwrap_or_default());
    Ok(())
}

#[cfg(test)]
mod tests {
    use echogen_protocol::Job;

    use super::*;

    #[test]
    fn the_examples_are_jobs_that_need_no_file() {
        let jobs = examples().unwrap();
        assert!(jobs.len() >= 10);
        for job in jobs {
            let job = Job::parse(job.to_string().as_bytes()).unwrap();
            assert!(job.subject.image.0.starts_with("data:image/") && job.previews == PREVIEWS);
        }
    }

    #[test]
    fn what_is_set_stays_and_the_rest_is_filled_in() {
        let (config, key) = settings(ServiceConfig::default()).unwrap();
        assert!(Key::parse(key.expose()).is_some() && config.gateway.listen.unwrap().ip().is_loopback());
        assert_eq!(config.store.url.as_deref(), Some(FOLDER));
        let mut own = ServiceConfig::default();
        own.gateway.listen = Some("127.0.0.1:9".parse().unwrap());
        own.gateway.key = Some("eg_mine".into());
        let (config, key) = settings(own).unwrap();
        assert_eq!((config.gateway.listen.unwrap().port(), key.expose()), (9, "eg_mine"));
    }
}
