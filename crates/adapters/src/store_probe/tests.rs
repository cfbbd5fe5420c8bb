//! The probe on stores with habits of their own.

use echogen_ports::{FaultKind, MemoryObjectStore};

use super::*;
use crate::{
    DirectoryObjectStore, Encryption, S3Config, S3ObjectStore, UploadChecksum,
    test_store::{Habit, TestStore},
};

fn key() -> ObjectKey {
    ObjectKey::new("echogen-probe/sampler.json").unwrap()
}

async fn probe(config: S3Config) -> Result<(), Fault> {
    probe_store(&S3ObjectStore::open(config).await.unwrap(), &key()).await
}

#[tokio::test]
async fn a_good_store_is_good_again_and_again() {
    let (memory, folder) = (MemoryObjectStore::new(), tempfile::tempdir().unwrap());
    let folder = DirectoryObjectStore::open(folder.path()).unwrap();
    let server = TestStore::start(None).await;
    for _ in 0..3 {
        probe_store(&memory, &key()).await.unwrap();
        probe_store(&folder, &key()).await.unwrap();
        probe(server.config()).await.unwrap();
    }
    assert_eq!(server.keys(), ["/bucket/results/echogen-probe/sampler.json"], "one object, whoever probes how often");
}

#[tokio::test]
async fn every_habit_is_found_with_the_stores_own_words_and_the_setting_that_helps() {
    for (habit, permanent, parts) in [
        (
            Habit::NoBucket,
            true,
            ["The specified bucket does not exist", "create the bucket bucket or correct store.url"],
        ),
        (Habit::Deny, true, ["cannot write", "allow s3:PutObject"]),
        (Habit::ReadOnly, true, ["Access Denied", "allow s3:PutObject"]),
        (Habit::WriteOnly, true, ["cannot read", "allow s3:GetObject"]),
        (Habit::NoChecksums, true, ["A header you provided implies", "set store.upload_checksum = \"none\""]),
        (Habit::InvalidChecksums, true, ["Unsupported header 'x-amz-checksum", "store.upload_checksum"]),
        (Habit::NoConditions, true, ["cannot write", "set store.conditional_writes = false"]),
        (Habit::IgnoredConditions, true, ["ignores If-None-Match", "set store.conditional_writes = false"]),
        (Habit::NeedsEncryption, true, ["Access Denied", "store.encryption"]),
        (Habit::OtherRegion, true, ["addressed using another endpoint", "set store.region = \"eu-central-1\""]),
        (Habit::Skewed, false, ["difference between the request time", "set this machine's clock"]),
    ] {
        let server = TestStore::start(Some(habit)).await;
        let fault = probe(server.config()).await.unwrap_err();
        assert_eq!(fault.is_permanent(), permanent, "{habit:?}: {fault}");
        for part in parts {
            assert!(fault.to_string().contains(part), "{habit:?}: {part} is missing in: {fault}");
        }
    }
}

#[tokio::test]
async fn the_setting_that_an_error_names_helps() {
    for habit in [Habit::NoChecksums, Habit::InvalidChecksums] {
        let server = TestStore::start(Some(habit)).await;
        probe(S3Config { upload_checksum: UploadChecksum::None, ..server.config() }).await.unwrap();
    }
    for habit in [Habit::NoConditions, Habit::IgnoredConditions] {
        let server = TestStore::start(Some(habit)).await;
        probe(S3Config { conditional_writes: false, ..server.config() }).await.unwrap();
    }
    let server = TestStore::start(Some(Habit::NeedsEncryption)).await;
    probe(S3Config { encryption: Some(Encryption::Aes256), ..server.config() }).await.unwrap();
}

#[tokio::test]
async fn a_store_that_is_away_may_come_back() {
    let server = TestStore::start(None).await;
    let config = server.config();
    drop(server);
    let fault = probe(S3Config { max_attempts: 1, ..config }).await.unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Unavailable, "{fault}");
}
