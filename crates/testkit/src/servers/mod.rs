//! Private servers for tests, on free ports of this machine.
//!
//! A program that is missing is an error that says what to install; nothing is ever skipped. Starting blocks the
//! calling thread for a fraction of a second.

mod redis;
mod s3;
mod tested_s3;

pub use redis::Redis;
pub use s3::S3Server;
pub use tested_s3::TestedS3;
