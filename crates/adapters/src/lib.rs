//! The ports on real engines, one module each; each passes its port's contract suite.
//!
//! - [`DirectoryObjectStore`]: objects as files below a folder.
//! - [`FileImageFetcher`]: pictures from files and `data:` addresses.
//! - `amqp` (feature `amqp`): RabbitMQ.
//!
//! The remote engines (AMQP, Redis, S3, HTTP) come as features of their own. Stages never see this crate; only the
//! binary joins the two.

#[cfg(feature = "amqp")]
pub mod amqp;
mod directory_object_store;
mod file_image_fetcher;

pub use directory_object_store::DirectoryObjectStore;
pub use file_image_fetcher::FileImageFetcher;
