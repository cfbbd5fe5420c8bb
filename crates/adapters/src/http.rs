//! Untrusted servers: pictures from the web, and callbacks to it; and the operator's content gate.
//!
//! A client chooses the address, so the destinations are restricted first of all; see [`networks`]. Deliberately absent:
//! proxies (those of the environment are ignored).

mod callback_sender;
mod client;
mod config;
mod content_gate;
mod image_fetcher;
mod networks;
mod resolver;
mod signing_key;

pub use callback_sender::HttpCallbackSender;
pub use config::{CallbackConfig, HttpConfig};
pub use content_gate::{HttpContentGate, SafetyConfig};
pub use image_fetcher::HttpImageFetcher;
pub use networks::AllowedNetwork;
