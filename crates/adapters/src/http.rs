//! Servers of strangers: pictures from the web, and callbacks to it.
//!
//! The address comes from a stranger, so it is bounded above all where it may lead; see [`networks`]. Deliberately absent:
//! proxies (the environment's are ignored).

mod callback_sender;
mod client;
mod config;
mod image_fetcher;
mod networks;
mod resolver;
mod signing_key;

pub use callback_sender::HttpCallbackSender;
pub use config::{CallbackConfig, HttpConfig};
pub use image_fetcher::HttpImageFetcher;
pub use networks::AllowedNetwork;
