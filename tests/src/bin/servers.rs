//! Private RabbitMQ, Redis and S3 servers for trying EchoGen on one machine:
//! `cargo run --release -p echogen-tests --bin servers`.
//!
//! They listen on free ports of this machine only, keep their data in a temporary folder, and stop at Ctrl-C or
//! SIGTERM. Their addresses are printed as settings for a shell, and written to `target/servers.env` (or the file
//! named as argument).
#![expect(clippy::print_stdout, reason = "it reports to a person")]

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Parser;
use echogen_tests::system::Servers;
use tokio::signal::unix::{SignalKind, signal};

/// Starts private RabbitMQ, Redis and S3 servers until Ctrl-C, and prints how to reach them.
#[derive(Parser)]
struct Settings {
    /// File for the settings, to be read by a shell: `. FILE`
    #[arg(default_value = "target/servers.env")]
    file: PathBuf,
}

fn main() -> ExitCode {
    match run(&Settings::parse().file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(file: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        eprintln!("starting RabbitMQ, Redis and S3, which takes a few seconds");
        let servers = Servers::start().await?;
        let settings = settings(&servers);
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("make the folder {}", folder.display()))?;
        }
        std::fs::write(file, &settings).with_context(|| format!("write {}", file.display()))?;
        println!("{settings}");
        eprintln!("ready; in other terminals: . {}", file.display());
        eprintln!(
            "RabbitMQ's own pages: {} (guest, guest); Ctrl-C ends the servers",
            servers.rabbitmq.management_url()
        );
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            // Ctrl-C: stop the servers.
            interrupted = tokio::signal::ctrl_c() => interrupted?,
            // SIGTERM: stop the servers.
            _ = terminate.recv() => {}
        }
        servers.rabbitmq.stop().await;
        std::fs::remove_file(file).with_context(|| format!("remove {}", file.display()))
    })
}

/// Returns the settings of the roles and clients as shell assignments.
fn settings(servers: &Servers) -> String {
    let environment = servers.environment();
    let entries = [
        ("BROKER_URL", environment.amqp_url),
        ("CACHE_URL", environment.redis_url),
        ("STORE_URL", format!("s3://{}", environment.bucket)),
        ("STORE_ENDPOINT", environment.s3_endpoint),
        ("STORE_ACCESS_KEY_ID", environment.access_key),
        ("STORE_SECRET_ACCESS_KEY", environment.secret_key),
    ];
    entries.map(|(name, value)| format!("export ECHOGEN_{name}='{value}'")).join("\n")
}
