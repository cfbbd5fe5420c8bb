//! What a PUT to S3 costs the client: wall time, and processor time of the client's one thread, server apart.
//!
//! `cargo run --release -p echogen-adapters --example s3_cost`
#![expect(clippy::print_stdout, reason = "it prints its table")]

use std::{error::Error, fs, time::Instant};

use bytes::Bytes;
use echogen_adapters::{S3Config, S3ObjectStore, UploadChecksum};
use echogen_ports::{ObjectKey, ObjectStore};
use echogen_testkit::S3Server;
use tokio::task::JoinSet;

const CALLS: u32 = 1_000;
const AT_ONCE: u32 = 16;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    println!("object   checksum  call           wall us   client CPU us   server CPU us");
    for size in [2_000, 100_000] {
        for checksum in [UploadChecksum::Sha256, UploadChecksum::None] {
            for conditional in [false, true] {
                measure(size, checksum, conditional).await?;
            }
        }
    }
    Ok(())
}

async fn measure(size: usize, checksum: UploadChecksum, conditional: bool) -> Result<(), Box<dyn Error>> {
    let server = S3Server::start()?;
    let config = S3Config {
        endpoint: Some(server.endpoint()),
        bucket: server.bucket().to_owned(),
        access_key_id: Some(server.access_key().into()),
        secret_access_key: Some(server.secret_key().into()),
        upload_checksum: checksum,
        ..S3Config::default()
    };
    let store = S3ObjectStore::open(config).await?;
    store.exists(&ObjectKey::new("warm")?).await?;
    let (started, client, all) = (Instant::now(), thread_cpu()?, process_cpu()?);
    let mut writers = JoinSet::new();
    for writer in 0..AT_ONCE {
        let (store, body) = (store.clone(), Bytes::from(vec![writer as u8; size]));
        writers.spawn(async move {
            for number in 0..CALLS / AT_ONCE {
                let key = ObjectKey::new(format!("jobs/{writer}-{number}/image-0.png"))?;
                if conditional {
                    store.put_if_absent(&key, body.clone()).await?;
                } else {
                    store.put(&key, body.clone()).await?;
                }
            }
            Ok::<(), echogen_ports::Fault>(())
        });
    }
    writers.join_all().await.into_iter().collect::<Result<Vec<()>, _>>()?;
    let calls = f64::from(CALLS / AT_ONCE * AT_ONCE);
    let client = thread_cpu()? - client;
    let server = process_cpu()? - all - client;
    let call = if conditional { "put_if_absent" } else { "put" };
    let wall = started.elapsed().as_secs_f64();
    let each = |seconds: f64| seconds * 1e6 / calls;
    let checksum = format!("{checksum:?}");
    println!(
        "{size:<8} {checksum:<9} {call:<14} {:>7.0}   {:>13.0}   {:>13.0}",
        each(wall),
        each(client),
        each(server)
    );
    Ok(())
}

/// Processor seconds of this thread, on which the whole client runs.
fn thread_cpu() -> Result<f64, Box<dyn Error>> {
    let line = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds: u64 = line.split_whitespace().next().ok_or("schedstat is empty")?.parse()?;
    Ok(nanoseconds as f64 / 1e9)
}

/// Processor seconds of all threads.
fn process_cpu() -> Result<f64, Box<dyn Error>> {
    let mut total = 0.0;
    for task in fs::read_dir("/proc/self/task")? {
        let line = fs::read_to_string(task?.path().join("schedstat"))?;
        let nanoseconds: u64 = line.split_whitespace().next().ok_or("schedstat is empty")?.parse()?;
        total += nanoseconds as f64 / 1e9;
    }
    Ok(total)
}
