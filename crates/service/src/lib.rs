//! The service: its configuration and, joined by it, adapters, stages and networks.

pub mod config;
