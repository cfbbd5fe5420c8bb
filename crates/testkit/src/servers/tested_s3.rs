//! The S3 server that the environment names, or a private one.

use std::{
    io,
    process::id,
    time::{SystemTime, UNIX_EPOCH},
};

use super::S3Server;

/// Names the server, such as `http://127.0.0.1:9000`.
const ENDPOINT_VARIABLE: &str = "ECHOGEN_TEST_S3_ENDPOINT";

/// Names its region. Absent: [`REGION`].
const REGION_VARIABLE: &str = "ECHOGEN_TEST_S3_REGION";

/// The region that servers without regions take.
const REGION: &str = "us-east-1";

/// Give the keys of a user who may create buckets. Absent: those of the private server.
const KEY_VARIABLES: [&str; 2] = ["ECHOGEN_TEST_S3_ACCESS_KEY_ID", "ECHOGEN_TEST_S3_SECRET_ACCESS_KEY"];

/// Where tests that any S3 server passes find theirs. On a server that the environment names, they create the bucket and
/// remove it at the end.
#[derive(Debug)]
pub struct TestedS3 {
    /// Its address.
    pub endpoint: String,
    /// The region of its buckets.
    pub region: String,
    /// The bucket for one test.
    pub bucket: String,
    /// Access key of a user who may create it.
    pub access_key: String,
    /// Secret of the access key.
    pub secret_key: String,
    /// It ends with this value.
    private: Option<S3Server>,
}

impl TestedS3 {
    /// Reads the environment; starts a private server if it names none.
    pub fn find(test: &str) -> io::Result<Self> {
        let Some(endpoint) = variable(ENDPOINT_VARIABLE) else { return Self::start() };
        let [access_key, secret_key] = KEY_VARIABLES.map(variable);
        let moment = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        Ok(Self {
            endpoint,
            region: variable(REGION_VARIABLE).unwrap_or_else(|| REGION.to_owned()),
            bucket: format!("echogen-test-{test}-{}-{moment}", id()),
            access_key: access_key.unwrap_or_else(|| S3Server::ACCESS_KEY.to_owned()),
            secret_key: secret_key.unwrap_or_else(|| S3Server::SECRET_KEY.to_owned()),
            private: None,
        })
    }

    fn start() -> io::Result<Self> {
        let private = S3Server::start()?;
        Ok(Self {
            endpoint: private.endpoint(),
            region: REGION.to_owned(),
            bucket: private.bucket().to_owned(),
            access_key: private.access_key().to_owned(),
            secret_key: private.secret_key().to_owned(),
            private: Some(private),
        })
    }

    /// Whether the server is private: it has the bucket from the start, can create no other, and ends with this value.
    pub fn is_private(&self) -> bool {
        self.private.is_some()
    }
}

/// The value of a variable; an empty one counts as absent.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
