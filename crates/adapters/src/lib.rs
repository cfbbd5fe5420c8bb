//! The ports on real engines, one module each; each passes its port's contract suite.
//!
//! - [`DirectoryObjectStore`]: objects as files below a folder.
//! - [`FileImageFetcher`]: pictures from files and `data:` addresses.
//! - [`MeteredObjectStore`]: any store, with its calls counted.
//! - `amqp` (feature `amqp`): RabbitMQ.
//! - [`HttpImageFetcher`] (feature `http`): pictures from the web; [`S3ImageFetcher`] (feature `s3`): from buckets;
//!   [`ImageFetchers`]: each source to the fetcher for its kind.
//! - [`HttpCallbackSender`] (feature `http`): a job's end, told to the client's own server.
//! - [`RedisCache`] (feature `redis`): values and leases in Redis.
//! - [`S3ObjectStore`] (feature `s3`): objects in a bucket.
//!
//! The remote engines come as features of their own. Stages never see this crate; only the
//! binary joins the two.

#[cfg(feature = "amqp")]
pub mod amqp;
mod directory_object_store;
mod file_image_fetcher;
#[cfg(feature = "http")]
mod http;
mod image_fetchers;
mod metered_object_store;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "s3")]
mod s3;
#[cfg(any(feature = "redis", feature = "s3", feature = "http"))]
mod time;
#[cfg(feature = "redis")]
mod tls;

pub use directory_object_store::DirectoryObjectStore;
pub use file_image_fetcher::FileImageFetcher;
#[cfg(feature = "http")]
pub use http::{CallbackSecret, HttpCallbackSender, HttpConfig, HttpImageFetcher, Network};
pub use image_fetchers::ImageFetchers;
pub use metered_object_store::MeteredObjectStore;
#[cfg(feature = "redis")]
pub use redis::{RedisCache, RedisConfig};
#[cfg(feature = "s3")]
pub use s3::{ChecksumCalculation, S3Config, S3ImageFetcher, S3ObjectStore, UploadChecksum};
