//! The ports on real engines, one module each; each passes its port's contract suite.
//!
//! - [`DirectoryObjectStore`]: objects as files below a folder.
//! - [`FileImageFetcher`]: pictures from files and `data:` addresses.
//! - [`MeteredObjectStore`]: any store, with its calls counted.
//! - `amqp`: RabbitMQ.
//! - [`HttpImageFetcher`]: pictures from the web; [`S3ImageFetcher`]: from buckets;
//!   [`ImageFetchers`]: each source to the fetcher for its kind.
//! - [`HttpCallbackSender`]: sends the event of a job's end to the client's own server.
//! - [`HttpContentGate`]: asks a hook of the operator's about words and pictures.
//! - [`RedisCache`]: values, leases and limits in Redis.
//! - [`S3ObjectStore`]: objects in a bucket.
//! - [`probe_store()`]: whether a store does what the stages need.
//!
//! Each adapter has a configuration of plain data, and checks it when it is opened. Stages never see this crate; only
//! `service` joins the two.

mod address;
pub mod amqp;
mod directory_object_store;
mod file_image_fetcher;
mod http;
mod image_fetchers;
mod metered_object_store;
mod redis;
mod retry_after;
mod s3;
mod store_probe;
#[cfg(test)]
mod test_proxy;
#[cfg(test)]
mod test_request;
#[cfg(test)]
mod test_store;
#[cfg(test)]
mod test_tls;
mod tls;

pub use directory_object_store::DirectoryObjectStore;
pub use file_image_fetcher::FileImageFetcher;
pub use http::{
    AllowedNetwork, CallbackConfig, HttpCallbackSender, HttpConfig, HttpContentGate, HttpImageFetcher, SafetyConfig,
};
pub use image_fetchers::ImageFetchers;
pub use metered_object_store::MeteredObjectStore;
pub use redis::{RedisCache, RedisConfig};
pub use s3::{ChecksumCalculation, Encryption, S3Config, S3ImageFetcher, S3ObjectStore, UploadChecksum};
pub use store_probe::probe_store;
pub use tls::system_authorities;
